"""An output folder that receives all files of a run or none, and a file that is whole or as it was before."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tonno_core.errors import TonnoError

# A JSON object, where one is read or written; elsewhere values have types of their own.
Json = dict[str, Any]


def check_name(path: Path) -> None:
    """Raise TonnoError for a name of bytes that are not UTF-8, which ITK's libraries cannot take."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        shown = os.fspath(path).encode(errors="backslashreplace").decode()
        raise TonnoError(f"{shown}: this name is not UTF-8; rename it") from None


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Raise TonnoError if results cannot go here; asked before any work is done."""
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
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside ``path``; the file moves there if the block succeeds, else nothing changes.

    Folders above it are made. A disk that is full or read-only raises TonnoError.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise TonnoError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def output_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder beside the wanted one; its files move there if the block succeeds.

    If it fails or is interrupted, nothing is left and what was there before is untouched. With
    ``overwrite`` only files of the same name are replaced, others in the folder stay; the temporary folder is
    then inside it, where alone writing may be allowed. A disk that is full or read-only raises TonnoError.
    """
    check_output(folder, overwrite=overwrite)
    temporary: Path | None = None
    existed = folder.exists()
    made = [p for p in folder.absolute().parents if not p.exists()]
    finished = False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        home = folder if existed else folder.parent
        temporary = Path(tempfile.mkdtemp(prefix=".tonno-partial-", dir=home))
        temporary.chmod(0o755)
        yield temporary
        if existed:
            _move_files(temporary, folder)
        else:
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
    """Write JSON; the file appears whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; the file appears whole or not at all. Raises TonnoError where it cannot."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; it appears whole or not at all. Raises TonnoError where it cannot."""
    # Processes on several machines may have the same number.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise TonnoError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        partial.unlink(missing_ok=True)


def _move_files(source: Path, folder: Path) -> None:
    """Replace files of the same name, or none if a folder has the name of one."""
    files = sorted(source.iterdir())
    for file in files:
        if (folder / file.name).is_dir():
            raise TonnoError(f"`output` {folder}: {file.name} in it is a folder, expected a file; remove it")
    for file in files:
        file.replace(folder / file.name)
