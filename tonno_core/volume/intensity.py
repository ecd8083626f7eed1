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
    """How intensities are normalized.

    Attributes:
        kind: Of the normalization.
        low: Of the window, or of the lowest of several, in the volume's own units.
        high: Of the window, or of the highest of several.
        windows: By channel of the encoder's input its share of ``low`` to ``high``; empty for one window.
    """

    kind: Literal["none", "image", "zscore", "window"]
    low: float = 0.0
    high: float = 1.0
    windows: tuple[tuple[float, float], ...] = ()


def parse_intensity(spec: str) -> Intensity:
    """Read how intensities are normalised.

    Args:
        spec: ``none``, ``zscore`` or ``window:LO:HI`` with LO < HI in the volume's own units; for an encoder of several
            channels also a window for each, ``window:LO:HI,LO:HI,...``.

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
    wrong = TonnoError(
        f"`intensity` {spec!r}: expected none, zscore or window:LO:HI with LO < HI, as window:-100:300, "
        "or a window for each channel, as window:0:80,-20:180,-800:2000"
    )
    kind, _, rest = spec.partition(":")
    try:
        bounds = [tuple(float(text) for text in window.split(":")) for window in rest.split(",")]
    except ValueError:
        raise wrong from None
    good = all(len(pair) == 2 and all(map(math.isfinite, pair)) and pair[0] < pair[1] for pair in bounds)
    if kind != "window" or not good:
        raise wrong
    low, high = min(pair[0] for pair in bounds), max(pair[1] for pair in bounds)
    shares = tuple(((pair[0] - low) / (high - low), (pair[1] - low) / (high - low)) for pair in bounds)
    return Intensity("window", low, high, shares if len(bounds) > 1 else ())


def normalise(array: FloatArray, mask: npt.NDArray[np.bool_], spec: str) -> tuple[FloatArray, float]:
    """Normalise voxels.

    - ``none``: the array itself; 0 outside the volume, following the paper.
    - ``image``: the array itself; 0 outside, or, where some are negative, the background's median: air goes on as air.
    - ``zscore``: mean 0 and standard deviation 1 over the foreground; the minimum outside.
    - ``window:LO:HI``: LO..HI to 0..1, clipped; 0 outside. Of several windows, from the lowest to the highest bound.

    Args:
        array: ``Z Y X``.
        mask: ``Z Y X``, the foreground.
        spec: one of these.

    Returns:
        Voxels ``Z Y X``, and the value of the space outside of the volume.

    Raises:
        TonnoError: a bad ``spec``, or a foreground without contrast to divide by.
    """
    kind, low, high, _ = parse_intensity(spec)
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
