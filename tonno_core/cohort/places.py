"""Files that a table names, as they are called on this machine."""

from __future__ import annotations

import difflib
import errno
import os
import re
import unicodedata
from contextlib import suppress
from pathlib import Path

from tonno_core.errors import TonnoError

LIST_ENDINGS = (".csv", ".tsv")
# Names of a folder's content that a message lists.
_SHOWN = 6
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def locate(folder: Path, name: str) -> Path:
    r"""Find a file that a table names: as it stands, with ``\`` for ``/``, or in another Unicode form of its letters.

    A Mac writes é as two signs, others as one; a table and the names of files often come from different machines.

    Args:
        folder: Where relative names begin.
        name: Of a file or folder.

    Returns:
        Its absolute path; as it stands in the table, where there is no such file.
    """
    literal = (folder / name).absolute()
    if os.path.lexists(literal):
        return literal
    for text in dict.fromkeys((name, name.replace("\\", "/"))):
        place: Path | None = Path(folder / Path(text).anchor).absolute()
        for part in Path(text).parts[1 if Path(text).anchor else 0 :]:
            place = None if place is None else _child(place, part)
        if place is not None:
            return place
    return literal


def relative_below(path: Path, folder: Path) -> str:
    """Write a path for a table in a folder: relative to the folder where it lies below, however either is spelled.

    Args:
        path: Of a file or folder; a link itself is not followed.
        folder: The table's, absolute.

    Returns:
        The text, with ``/``; the path as it is where it lies elsewhere.
    """
    if not path.is_relative_to(folder):
        place, home = path.parent.resolve() / path.name, folder.resolve()
        return place.relative_to(home).as_posix() if place.is_relative_to(home) else str(path)
    return path.relative_to(folder).as_posix()


def is_there(path: Path) -> bool:
    """Tell whether there is a file or folder that a table names.

    Args:
        path: Its place.

    Returns:
        False also for what no file can be called.

    Raises:
        TonnoError: The system does not let us look.
    """
    try:
        return path.exists()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # as of a table whose text stands in the wrong column
            return False
        raise TonnoError(f"{path}: cannot be looked at ({error.strerror})") from error


def missing(folder: Path, name: str) -> str:
    """Say why a file that a table names may not be found.

    Args:
        folder: Where relative names begin.
        name: Of the file.

    Returns:
        The end of a message, in brackets.
    """
    if os.name != "nt" and _DRIVE.match(name):
        return "(a path of Windows; write it relative to the manifest)"
    path = folder / name.replace("\\", "/")
    names = [other.name for other in _entries(path.parent)]
    close = [other for other in names if other.casefold() == path.name.casefold()]
    close = close or difflib.get_close_matches(path.name, names, n=1, cutoff=0.9)
    return f"(did you mean {close[0]!r}?)" if close else "(paths are relative to the manifest)"


def held_by(folder: Path) -> str:
    """Say what a folder holds, for a message about one that was given in place of something else.

    Args:
        folder: Which.

    Returns:
        A clause with its first names, such as "it holds a.nii.gz, b.nii.gz and 3 more".
    """
    names = [entry.name for entry in _entries(folder) if not entry.name.startswith(".")]
    shown, more = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
    return "it holds nothing" if not names else f"it holds {shown}" + (f" and {more} more" if more > 0 else "")


def tables_in(folder: Path) -> list[Path]:
    """List the tables of a folder, one of which may be meant where the folder was given.

    Args:
        folder: Which.

    Returns:
        Its CSV and TSV files, by name.
    """
    return [entry for entry in _entries(folder) if entry.suffix.lower() in LIST_ENDINGS]


def _child(folder: Path, name: str) -> Path | None:
    """Find an entry of a folder whose name is the same text in any Unicode form."""
    if name == ".." or os.path.lexists(folder / name):
        return folder / name
    wanted = unicodedata.normalize("NFC", name)
    same = (entry for entry in _entries(folder) if unicodedata.normalize("NFC", entry.name) == wanted)
    return next(same, None)


def _entries(folder: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(folder.iterdir())
    return []
