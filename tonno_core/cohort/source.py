"""Identify the volume of a result: its place, its files as they were when they were read, and their bytes."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

from tonno_core.volume.signature import data_files, is_dicom

_PART = 1 << 20


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


def content_of(volume: Path) -> str:
    """Hash the bytes of a volume's files, wherever they lie and whenever they were written.

    Args:
        volume: A file, or the folder of a DICOM series, where hidden files without DICOM do not count.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: A file cannot be read.
    """
    files = [file for file in _files(volume) if not (volume.is_dir() and _is_of_a_desktop(file))]
    whole = hashlib.sha256()
    for file in files:
        part = hashlib.sha256()
        with file.open("rb") as stream:
            while block := stream.read(_PART):
                part.update(block)
        name = file.name if len(files) > 1 else ""  # a header names its data file
        whole.update(json.dumps([name, part.hexdigest()]).encode())
    return whole.hexdigest()


def newest(volume: Path) -> float:
    """Return when a file, or the newest of a volume's, was written last.

    Args:
        volume: A file, or the folder of a DICOM series.

    Returns:
        Seconds, as `os.stat` has them.

    Raises:
        OSError: The volume is not there.
    """
    return max((file.stat().st_mtime for file in _files(volume)), default=0.0)


def _is_of_a_desktop(file: Path) -> bool:
    """Tell what macOS and others put beside the files of a folder that is looked into."""
    return file.name.startswith(".") and not is_dicom(file)


def _files(volume: Path) -> list[Path]:
    if volume.is_dir():
        return sorted(file for file in volume.iterdir() if file.is_file())
    if volume.exists() and not volume.is_file():
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", str(volume))
    return sorted({volume, *(file for file in data_files(volume) if file.is_file())})
