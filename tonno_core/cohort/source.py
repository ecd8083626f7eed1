"""Identify the volume of a result: its place, and its files as they were when they were read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# Formats with a header in one file and voxels in another of the same stem.
_DETACHED = (".nhdr", ".mhd")


def source_of(volume: Path) -> str:
    """Hash a volume's absolute path and the name, size and time of change of each of its files; none is read.

    Args:
        volume: A file, or the folder of a DICOM series, whose files are meant.

    Returns:
        64 hexadecimal digits, the same as long as nobody has written to the files.

    Raises:
        OSError: The volume is not there.
    """
    volume = volume.absolute()
    files = [(file.name, file.stat()) for file in _files(volume)]
    facts = [str(volume), *((name, stat.st_size, stat.st_mtime_ns) for name, stat in files)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _files(volume: Path) -> list[Path]:
    if volume.is_dir():
        return sorted(file for file in volume.iterdir() if file.is_file())
    if volume.suffix.lower() in _DETACHED:
        beside = (file for file in volume.parent.iterdir() if file.name.startswith(f"{volume.stem}."))
        return sorted(file for file in beside if file.is_file())
    return [volume]
