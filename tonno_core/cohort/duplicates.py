"""Volumes whose files hold the same bytes."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tonno_core.progress import progress_bar
from tonno_core.volume.signature import data_files

_PART = 65536


def find_duplicates(volumes: Sequence[Path], *, progress: bool = True) -> list[list[int]]:
    """Find volumes whose voxels' files are identical.

    A DICOM folder is compared file by file whatever the names. Only files of equal size are opened, first in
    their middle, and read completely where that is equal as well. Files that cannot be read are left out.

    Args:
        volumes: Files or DICOM folders.
        progress: Whether to show progress bars.

    Returns:
        Groups of two or more indices, in order.
    """
    files = [_files(volume) for volume in volumes]
    groups = [[index for index, paths in enumerate(files) if paths]]
    kinds: tuple[Callable[[Path], Hashable], ...] = (_size, _middle_hash, _hash)
    for kind in kinds:
        suspects = sum(len(group) for group in groups)
        with progress_bar(desc="comparing", unit="volume", total=suspects, disable=not progress, delay=1) as bar:
            groups = [part for group in groups for part in _split(group, files, kind, bar)]
    return groups


def _split(
    group: Sequence[int], files: Sequence[Sequence[Path]], kind: Callable[[Path], Hashable], bar: tqdm[Any]
) -> Iterable[list[int]]:
    """Split a group into parts of two or more that ``kind`` cannot tell apart."""
    parts: dict[Hashable, list[int]] = defaultdict(list)
    for index in group:
        bar.update()
        try:
            key = tuple(sorted((kind(file) for file in files[index]), key=str))
        except OSError:
            continue
        parts[key].append(index)
    return [part for part in parts.values() if len(part) > 1]


def _files(volume: Path) -> list[Path]:
    """List the files that hold a volume's voxels; none where that is not known or they cannot be read."""
    try:
        if volume.is_dir():
            return [file for file in volume.iterdir() if file.is_file()]
        # A detached header is the same for all scans of a protocol; the voxels are in the files it names.
        files = data_files(volume)
        return files if all(file.is_file() for file in files) else []
    except OSError:
        return []


def _size(file: Path) -> int:
    return file.stat().st_size


def _middle_hash(file: Path) -> str:
    """Hash the middle, since many scans begin and end with the same air."""
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _PART) // 2)
        return hashlib.sha256(stream.read(_PART)).hexdigest()


def _hash(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()
