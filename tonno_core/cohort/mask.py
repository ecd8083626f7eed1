"""Which voxels of a mask are the finding: all that are not zero, or those with values that the manifest names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import FloatArray

# Which values of a mask mean the finding: these; any but zero, where there are none; not stated: None.
Values = tuple[int, ...] | None
ANY = "any"
_VALUES = re.compile(r"\d{1,9}(?:\.0+)?(?:\+\d{1,9}(?:\.0+)?)*")
_SHOWN = 8


def parse_values(text: str) -> Values:
    """Read which values mean the finding.

    Args:
        text: Such as "2", "1+4", or "any"; "" where nothing is stated.

    Returns:
        The values.

    Raises:
        ValueError: It is something else, or a value is 0, which is the background.
    """
    if not text or text.lower() == ANY:
        return () if text else None
    if not _VALUES.fullmatch(text):
        raise ValueError(f"{text!r} is no value of a mask, expected a whole number, several as 1+4, or {ANY}")
    values = tuple(int(float(part)) for part in text.split("+"))
    if 0 in values:
        raise ValueError(f"{text!r}: 0 is the background of a mask, expected values of the finding, or {ANY}")
    return values


def values_text(values: Values) -> str:
    """Write what `parse_values` reads back.

    Args:
        values: Which values mean the finding.

    Returns:
        The text.
    """
    return "" if values is None else "+".join(map(str, values)) or ANY


def values_in(mask: FloatArray) -> dict[int, int]:
    """Count the values of a mask.

    Args:
        mask: Whole numbers, Z Y X.

    Returns:
        How many voxels have each value but zero, by value.
    """
    found = mask[mask != 0]
    if not found.size or bool((found == found[0]).all()):  # nearly always: no need to sort millions of voxels
        return {int(found[0]): found.size} if found.size else {}
    values, counts = np.unique(found, return_counts=True)
    return {int(value): int(count) for value, count in zip(values, counts, strict=True)}


def finding_in(mask: FloatArray, values: Values, path: Path) -> npt.NDArray[np.bool_]:
    """Find the voxels of a mask that are the finding.

    Args:
        mask: Whole numbers, Z Y X.
        values: Which of them mean the finding.
        path: The mask's file, for the message.

    Returns:
        Z Y X.

    Raises:
        TonnoError: The mask has several values, and nothing states which are meant.
    """
    if values is None:
        found = values_in(mask)
        if len(found) > 1:
            raise TonnoError(f"{path}: {several_values(found)}")
    return np.isin(mask, values) if values else np.asarray(mask != 0)


def several_values(found: dict[int, int]) -> str:
    """Say that a mask has several values, and how to choose.

    Args:
        found: Voxels by value.

    Returns:
        The end of a message.
    """
    listed = _listed(f"{value} ({count} voxels)" for value, count in found.items())
    first, *_, last = sorted(found)
    return (
        f"holds the values {listed}; which mean the finding? In the manifest, write FILE#{last} for {last} alone, "
        f"FILE#{first}+{last} for both, FILE#{ANY} for all that are not 0, or the same in a column mask_label"
    )


def _listed(texts: Iterable[str]) -> str:
    """Join texts, of which only the first few are shown."""
    texts = list(texts)
    more = [f"{len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return ", ".join([*texts[:_SHOWN], *more])
