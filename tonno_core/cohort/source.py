"""Which file a result is of: a volume at its place, as it was when it was read."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

# Formats with a header in one file and voxels in another of the same stem.
_DETACHED = (".nhdr", ".mhd")


def source_of(volume: Path) -> str:
    """Hash a volume's absolute path and the name, size and time of change of each of its files; none is read.

    Equal for the same files, as long as nobody has written to them. A folder's files are those of its DICOM series.
    Raises OSError where the volume is not there.
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
