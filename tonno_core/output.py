"""Output that appears whole or not at all: a folder of files, or one file."""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tonno_core.errors import TonnoError

# A JSON object, where one is read or written; elsewhere values have types of their own.
Json = dict[str, Any]
# How the names of temporary folders begin. A process that is killed leaves them.
PARTIAL = ".tonno-partial-"


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
        # A folder, so that the name keeps its ending, which says the format; no other machine has the same.
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent, ignore_cleanup_errors=True) as folder:
            partial = Path(folder, path.name)
            yield partial
            partial.replace(path)
    except OSError as error:
        raise TonnoError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def output_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Write a folder whose files appear all together or not at all.

    If the block fails or is interrupted, nothing is left and what was there before is untouched.

    Args:
        folder: The folder; it and those above it are made.
        overwrite: Whether it may exist. Only files of the same name are replaced then.

    Yields:
        A temporary folder to write to, which nobody else may open: beside the folder, or within it if that exists,
        where alone writing may be allowed.

    Raises:
        TonnoError: `check_output` refuses the folder, or the disk is full, read-only or the like.
    """
    check_output(folder, overwrite=overwrite)
    temporary: Path | None = None
    existed = folder.exists()
    made = [p for p in folder.absolute().parents if not p.exists()]
    finished = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        home = folder if existed else folder.parent
        temporary = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=home))
        yield temporary
        if existed:
            _move_files(temporary, folder)
        else:
            temporary.chmod(_mode_of_folders(temporary))
            temporary.rename(folder)
        finished = True
    except OSError as error:
        raise TonnoError(f"`output` {folder}: cannot be written ({error.strerror or error})") from error
    except TonnoError as error:  # the name of a file that could not be written, where the user knows it
        raise TonnoError(str(error).replace(f"{temporary}{os.sep}", f"{folder}{os.sep}")) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        if not finished:
            for parent in made:  # innermost first; those that are empty were made for this run alone
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()


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


def _move_files(source: Path, folder: Path) -> None:
    """Replace files of the same name, or none if a folder has the name of one."""
    files = sorted(source.iterdir())
    for file in files:
        if (folder / file.name).is_dir():
            raise TonnoError(f"`output` {folder}: {file.name} in it is a folder, expected a file; remove it")
    for file in files:
        file.replace(folder / file.name)
