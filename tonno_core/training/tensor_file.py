"""Files of tensors and plain values as torch writes them. Reading such a file runs no code from it."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tonno_core.errors import TonnoError, first_line
from tonno_core.output import Json, atomic_file


def save_tensors(path: Path, values: Json) -> None:
    """Write tensors and plain values, whole or not at all.

    Args:
        path: The file.
        values: Tensors and plain values by name.

    Raises:
        TonnoError: If the disk is full or read-only.
    """
    with atomic_file(path, make_folders=True) as partial, partial.open("wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # as which torch reports what the disk refused
            raise OSError(first_line(error)) from error


def load_tensors(path: Path, *, mapped: bool = False) -> Json:
    """Read tensors and plain values.

    Args:
        path: The file.
        mapped: Leave the tensors on the disk until they are looked at. Whether each byte is as it was written is
            checked only without.

    Returns:
        Tensors and plain values by name.

    Raises:
        TonnoError: If the file is cut off, damaged, or not of this kind.
    """
    try:
        if not mapped:
            _check_sums(path)
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes make torch's unpickler raise nearly any kind
        raise TonnoError(f"{path}: damaged or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise TonnoError(f"{path}: holds a {type(values).__name__}, expected a dictionary")
    return values


def _check_sums(path: Path) -> None:
    """Raise BadZipFile where a part has another checksum than it was written with: torch compares none."""
    with zipfile.ZipFile(path) as archive:
        # What has attributes may pass for a folder, of which torch reads nothing; it writes none.
        odd = next((entry.filename for entry in archive.infolist() if entry.external_attr), None)
        damaged = odd or archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(damaged)


class TensorFiles:
    """A folder with a file of tensors for each volume of a manifest, ``NUMBER.pt``, and what it was made of.

    Args:
        folder: The folder, which need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Return the file of a volume.

        Args:
            number: Its place in the manifest.

        Returns:
            The path.
        """
        return self.folder / f"{number:05d}.pt"

    def is_current(self, number: int, key: str, needed: Sequence[str] = ()) -> bool:
        """Tell whether a volume's file is there, whole, and made of just this.

        Args:
            number: The volume's place in the manifest.
            key: What it would be made of now.
            needed: Names that files of earlier versions may lack.

        Returns:
            Whether it need not be made again.
        """
        if not self.path(number).is_file():
            return False
        try:
            content = load_tensors(self.path(number))
        except TonnoError:
            return False
        return bool(content.get("key") == key) and all(name in content for name in needed)

    def save(self, number: int, key: str, values: Json) -> None:
        """Write the file of a volume, whole or not at all.

        Args:
            number: The volume's place in the manifest.
            key: What it is made of.
            values: Tensors and plain values by name.

        Raises:
            TonnoError: If the disk is full or read-only.
        """
        save_tensors(self.path(number), {"key": key, **values})

    def load(self, number: int) -> Json:
        """Read the file of a volume; its tensors are mapped from the disk, and torch keeps no file open for that.

        Args:
            number: The volume's place in the manifest.

        Returns:
            Tensors and plain values by name.

        Raises:
            TonnoError: If the file is missing, cut off, or damaged.
        """
        return load_tensors(self.path(number), mapped=True)


def identity(path: Path) -> list[tuple[int, int]]:
    """List sizes and times of a file, or of a DICOM folder's files.

    Args:
        path: The file or folder.

    Returns:
        Bytes, and nanoseconds of the last change.
    """
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)]
