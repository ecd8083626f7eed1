"""What a file is by its first bytes, and why it could not be read."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PART = 65536
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
# A detached header names the file that holds the voxels.
_DATA_FILE = {
    ".mhd": re.compile(rb"^ElementDataFile *= *(.+?)\s*$", re.MULTILINE),
    ".nhdr": re.compile(rb"^data ?file *: *(.+?)\s*$", re.MULTILINE | re.IGNORECASE),
}


def packing(head: bytes) -> str | None:
    """Tell what has packed a file.

    Args:
        head: its first bytes.

    Returns:
        The program's name; None where it is not packed.
    """
    return next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)


def data_file(path: Path) -> Path | None:
    """Find the one file in which a volume's voxels are.

    Args:
        path: the volume's file, which may be a header that names another.

    Returns:
        The file, whether it is there or not; None where the header names none or a pattern of several.

    Raises:
        OSError: the header cannot be read.
    """
    pattern = _DATA_FILE.get(path.suffix.lower())
    if pattern is None:
        return path
    with path.open("rb") as stream:
        match = pattern.search(stream.read(_PART))
    if match is None or re.match(rb"LIST\b|.*%", match[1]):
        return None
    return path if match[1].upper() == b"LOCAL" else path.parent / os.fsdecode(match[1])


def why_unreadable(path: Path) -> str:
    """Say why ITK could not read a file, and what helps."""
    return "it is truncated, damaged or in another format: export or copy it again"
