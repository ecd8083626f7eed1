"""Output that appears whole or not at all: a folder of files, or one file."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from tonno_core.errors import TonnoError, reason_of

# A JSON object, where one is read or written; elsewhere values have types of their own.
Json = dict[str, Any]
# How the names of temporary folders begin. A process that is killed leaves them, and the next one that writes to the
# same place removes them.
PARTIAL = ".tonno-partial-"

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows, where they stay
    fcntl = None


def check_name(path: Path) -> None:
    """Check that ITK's libraries can take a name.

    Args:
        path: A file or folder.

    Raises:
        TonnoError: Its bytes are not UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        shown = os.fspath(path).encode(errors="backslashreplace").decode()
        raise TonnoError(f"{shown}: this name is not UTF-8; rename it") from None


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Check that results can be written to a folder, before any work is done.

    Args:
        folder: The folder; it need not exist.
        overwrite: Whether it may exist.

    Raises:
        TonnoError: They cannot.
    """
    check_name(folder)
    if folder.is_symlink() and not folder.exists():
        raise TonnoError(f"`output` {folder}: is a link to nothing; choose another name")
    if folder.exists() and not folder.is_dir():
        raise TonnoError(f"`output` {folder}: is a file, expected the name of a folder")
    if folder.exists() and not overwrite:
        raise TonnoError(f"`output` {folder}: exists already; choose another name or give `overwrite`")
    parent = next(p for p in [folder, *folder.absolute().parents] if p.exists())
    if not parent.is_dir():
        raise TonnoError(f"`output` {folder}: {parent} is a file, expected a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TonnoError(f"`output` {folder}: {parent} is not writable; choose another place")


def holds_files(folder: Path) -> bool:
    """Tell whether something is in a folder.

    Args:
        folder: The folder, which is there.

    Returns:
        False where it holds hidden files alone, which are no results: such as what another process is writing, or left
        when it was killed.
    """
    return any(not file.name.startswith(".") for file in folder.iterdir())


@contextmanager
def atomic_file(path: Path, *, make_folders: bool = False) -> Iterator[Path]:
    """Write a file that appears whole or not at all.

    Args:
        path: The file. One that is there stays as it was until the block has succeeded.
        make_folders: Whether to make the folders above it.

    Yields:
        Where to write: a file of the same name in a temporary folder beside it, in which other files may be
        written meanwhile.

    Raises:
        TonnoError: The disk is full, read-only or the like.
    """
    try:
        if make_folders:
            path.parent.mkdir(parents=True, exist_ok=True)
        # A folder, so that the name keeps its ending, which says the format.
        with partial_folder(path.parent) as folder:
            partial = folder / path.name
            yield partial
            partial.replace(path)
    except OSError as error:
        raise TonnoError(f"{path}: cannot be written ({reason_of(error)})") from error


@contextmanager
def output_folder(folder: Path, *, overwrite: bool, last: str = "") -> Iterator[Path]:
    """Write a folder whose files appear all together or not at all.

    If the block fails or is interrupted, nothing is left and what was there before is untouched.

    Args:
        folder: The folder; it and those above it are made.
        overwrite: Whether it may exist. Only files of the same name are replaced then, one after another; those of
            folders within it likewise.
        last: The file that says that the others are there, which is replaced last: the process may be killed meanwhile.

    Yields:
        A temporary folder to write to, which nobody else may open: beside the folder, or within it if that exists,
        where alone writing may be allowed.

    Raises:
        TonnoError: `check_output` refuses the folder, or the disk is full, read-only or the like.
    """
    check_output(folder, overwrite=overwrite)
    temporary = Path()
    existed = folder.exists()
    made = [p for p in folder.absolute().parents if not p.exists()]
    finished = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with partial_folder(folder if existed else folder.parent) as temporary:
            yield temporary
            there = folder.exists()
            if there and not overwrite:
                raise TonnoError(
                    f"`output` {folder}: another process wrote it meanwhile; choose another name or give `overwrite`"
                )
            if there:
                _move_files(temporary, folder, last)
            else:
                temporary.chmod(_mode_of_folders(temporary))
                temporary.rename(folder)
            finished = True
    except OSError as error:
        raise TonnoError(f"`output` {folder}: cannot be written ({reason_of(error)})") from error
    except TonnoError as error:  # the name of a file that could not be written, where the user knows it
        raise TonnoError(str(error).replace(f"{temporary}{os.sep}", f"{folder}{os.sep}")) from error
    finally:
        if not finished:
            for parent in made:  # innermost first; those that are empty were made for this run alone
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()


@contextmanager
def partial_folder(home: Path) -> Iterator[Path]:
    """Make a temporary folder, and remove it afterwards unless it was renamed.

    Args:
        home: Where, on the file system that what is written is for. Those that killed processes left there go.

    Yields:
        The folder.

    Raises:
        OSError: The disk is full, read-only or the like.
    """
    _remove_abandoned_once(os.fspath(home))
    folder, lock = _locked_folder(home)
    try:
        yield folder
    finally:
        for _ in range(2):  # a disk may refuse once, and what is left here would be moved with the folder around it
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_abandoned(home: Path, *, below: bool = False) -> None:
    """Remove the temporary folders that processes of this machine left in a folder when they were killed.

    Those of other machines stay: nobody here can tell whether somebody there still writes to them. So do all on
    Windows.

    Args:
        home: The folder; it need not exist.
        below: Look into its folders, too.
    """
    if fcntl is None:
        return
    with suppress(OSError), os.scandir(home) as entries:
        for entry in entries:
            if entry.name.startswith(_prefix()):
                with suppress(OSError), _locked(Path(entry.path)):
                    shutil.rmtree(entry.path, ignore_errors=True)
            elif below and entry.is_dir(follow_symlinks=False):
                remove_abandoned(Path(entry.path))


# Enough for the folders that a command writes to, in turn; of a million cases each has one of its own.
@lru_cache(maxsize=64)
def _remove_abandoned_once(home: str) -> None:
    remove_abandoned(Path(home))


@lru_cache(maxsize=1)
def _prefix() -> str:
    """Return how names of this machine's temporary folders begin: a lock says nothing of processes elsewhere."""
    return f"{PARTIAL}{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"


def _locked_folder(home: Path) -> tuple[Path, int | None]:
    """Make a temporary folder; the system gives its lock back when this process ends, however that happens."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_prefix(), dir=home))
        try:
            return folder, _lock(folder)
        except (FileNotFoundError, BlockingIOError):  # another process took it for abandoned: it was not locked yet
            continue
        except BaseException:
            with suppress(OSError):
                folder.rmdir()
            raise


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that nobody uses; raises OSError where somebody does."""
    lock = _lock(folder)
    if lock is None:
        raise BlockingIOError
    try:
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock a folder; None where the system or the file system has no locks.

    Raises FileNotFoundError where it is gone, BlockingIOError where it is locked.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(folder.stat(), os.fstat(descriptor)):
            raise FileNotFoundError
    except (FileNotFoundError, BlockingIOError):
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def write_json(path: Path, content: Any) -> None:
    """Write JSON that appears whole or not at all.

    Args:
        path: The file, in a folder that exists.
        content: What `json` can write; NaN and infinite numbers are a ValueError.

    Raises:
        TonnoError: The file cannot be written.
    """
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text that appears whole or not at all.

    Args:
        path: The file, in a folder that exists.
        text: Its content; line ends stay as they are.

    Raises:
        TonnoError: The file cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes that appear whole or not at all.

    Args:
        path: The file, in a folder that exists.
        content: The bytes.

    Raises:
        TonnoError: The file cannot be written.
    """
    with atomic_file(path) as partial:
        partial.write_bytes(content)


def _mode_of_folders(folder: Path) -> int:
    """Return the rights that this user's new folders have; to ask for the umask, one would have to change it."""
    probe = Path(tempfile.mkdtemp(dir=folder), "probe")
    probe.mkdir()
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    probe.parent.rmdir()
    return mode


def _move_files(source: Path, folder: Path, last: str) -> None:
    """Replace files of the same name, or none if a folder has the name of one."""
    names = [file.relative_to(source) for file in source.rglob("*") if not file.is_dir()]
    names.sort(key=lambda name: (str(name) == last, name))
    for name in names:
        if (folder / name).is_dir():
            raise TonnoError(f"`output` {folder}: {name} in it is a folder, expected a file; remove it")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).replace(folder / name)
