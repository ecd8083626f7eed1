"""Normalisation of voxel intensities to the numbers that an encoder sees."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import FloatArray

# How ``pixel-sum`` takes a volume. No model has it: a classifier sees outside of a volume what it saw in training.
IMAGE = "image"
_SAMPLES = 500_000


class Intensity(NamedTuple):
    """How intensities are normalized; ``low`` and ``high`` bound the window (in the volume's own units)."""

    kind: Literal["none", "image", "zscore", "window"]
    low: float = 0.0
    high: float = 1.0


def parse_intensity(spec: str) -> Intensity:
    """Read how intensities are normalised.

    Args:
        spec: ``none``, ``zscore`` or ``window:LO:HI`` with LO < HI in the volume's own units.

    Returns:
        The kind, and the window's bounds.

    Raises:
        TonnoError: it is anything else.
    """
    if spec == "none":
        return Intensity("none")
    if spec == IMAGE:
        return Intensity("image")
    if spec == "zscore":
        return Intensity("zscore")
    wrong = f"`intensity` {spec!r}: expected none, zscore or window:LO:HI with LO < HI, as window:-100:300"
    match spec.split(":"):
        case ["window", low_text, high_text]:
            try:
                low, high = float(low_text), float(high_text)
            except ValueError:
                raise TonnoError(wrong) from None
            if math.isfinite(low) and math.isfinite(high) and low < high:
                return Intensity("window", low, high)
    raise TonnoError(wrong)


def normalise(array: FloatArray, mask: npt.NDArray[np.bool_], spec: str) -> tuple[FloatArray, float]:
    """Normalise voxels.

    - ``none``: the array itself; 0 outside the volume, following the paper.
    - ``image``: the array itself; 0 outside, or, where some are negative, the background's median: air goes on as air.
    - ``zscore``: mean 0 and standard deviation 1 over the foreground; the minimum outside.
    - ``window:LO:HI``: LO..HI to 0..1, clipped; 0 outside.

    Args:
        array: ``Z Y X``.
        mask: ``Z Y X``, the foreground.
        spec: one of these.

    Returns:
        Voxels ``Z Y X``, and the value of the space outside of the volume.

    Raises:
        TonnoError: a bad ``spec``, or a foreground without contrast to divide by.
    """
    kind, low, high = parse_intensity(spec)
    if kind == "none":
        return array, 0.0
    if kind == "image":
        background = array[~mask]
        if not background.size or array.min() >= 0:
            return array, 0.0
        return array, float(np.median(background[:: background.size // _SAMPLES | 1]))
    if kind == "window":
        scaled = (array - np.float32(low)) / np.float32(high - low)
        return np.clip(scaled, 0, 1, out=scaled), 0.0
    foreground = array[mask].astype(np.float64)
    std = float(foreground.std()) if foreground.size else 0.0
    if std == 0:
        raise TonnoError(
            f"`intensity` zscore: the {foreground.size} foreground voxels have no contrast; "
            "expected different values: use `intensity` none or window:LO:HI"
        )
    scaled = (array - np.float32(foreground.mean())) / np.float32(std)
    return scaled, float(scaled.min())
