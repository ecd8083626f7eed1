"""Files of tensors and plain values as torch writes them. Reading such a file runs no code from it."""

from __future__ import annotations

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
        mapped: Leave the tensors on the disk until they are looked at.

    Returns:
        Tensors and plain values by name.

    Raises:
        TonnoError: If the file is cut off, damaged, or not of this kind.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes make torch's unpickler raise nearly any kind
        raise TonnoError(f"{path}: damaged or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise TonnoError(f"{path}: holds a {type(values).__name__}, expected a dictionary")
    return values
