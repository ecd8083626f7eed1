"""Files of tensors and plain values as torch writes them. Nothing in one runs when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tonno_core.errors import TonnoError, first_line
from tonno_core.output import atomic_file


def save_tensors(path: Path, values: dict[str, Any]) -> None:
    """Write a file, whole or not at all. Raises TonnoError where the disk is full or read-only."""
    with atomic_file(path, make_folders=True) as partial, partial.open("wb") as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # as which torch reports what the disk refused
            raise OSError(first_line(error)) from error


def load_tensors(path: Path, *, mapped: bool = False) -> dict[str, Any]:
    """Read such a file; ``mapped`` leaves its tensors on the disk until they are looked at.

    Raises TonnoError for a file that is cut off, damaged, or not of this kind.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # damaged bytes make torch's unpickler raise nearly any kind
        raise TonnoError(f"{path}: damaged or not a file of tensors ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise TonnoError(f"{path}: holds a {type(values).__name__}, expected a dictionary")
    return values
