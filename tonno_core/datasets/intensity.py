"""Choose how intensities are shown to a classifier, from statistics of the training split alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tonno_core.volume.intensity import every_nth, find_padding, of_channels
from tonno_core.volume.volume import FloatArray, Volume

# Shares of the voxels, in percent: what lies beyond is clipped.
LOWEST, HIGHEST = 0.5, 99.5
# A hundredth of a CT's voxels and more are air, at -1000 Hounsfield units; no other modality reaches so low.
_AIR_HU = -500.0


@dataclass(frozen=True)
class Statistics:
    """Intensities of a channel of a volume.

    Attributes:
        low: 0.5th percentile of the voxels, padding aside.
        median: Of the same.
        high: 99.5th percentile.
    """

    low: float
    median: float
    high: float


def statistics_of(volume: Volume) -> tuple[Statistics, ...]:
    """Measure the intensities of a volume.

    Args:
        volume: The scan.

    Returns:
        The statistics of each channel, of about half a million of its voxels.
    """
    return tuple(map(_statistics, volume.channels))


def _statistics(array: FloatArray) -> Statistics:
    voxels = every_nth(array)
    padding = find_padding(array)
    scanned = voxels if padding is None else voxels[voxels != padding]
    low, median, high = (float(value) for value in np.percentile(scanned, (LOWEST, 50, HIGHEST)))
    return Statistics(low, median, high)


def choose_intensities(training: Sequence[Sequence[Statistics]], *, has_units: bool) -> tuple[str, str]:
    """Choose the normalization of each channel, as if it were alone.

    Args:
        training: Of the training split's volumes, at least one; as many of each as it has channels.
        has_units: See `choose_intensity`.

    Returns:
        See `by_channel`, and the reason in a line.
    """
    chosen, reasons = zip(
        *(choose_intensity(channel, has_units=has_units) for channel in zip(*training, strict=True)), strict=True
    )
    return of_channels(chosen), "; ".join(dict.fromkeys(reasons))


def choose_intensity(training: Sequence[Statistics], *, has_units: bool) -> tuple[str, str]:
    """Choose the normalization.

    Where intensities are amounts (Hounsfield units, SUV), a window from the median of the training volumes' lowest
    values to that of their highest; elsewhere, as in MRI, each volume by its own mean and deviation.

    Args:
        training: Of a channel of the training split's volumes, at least one.
        has_units: Whether intensities are known to be amounts; CT is told by its air without.

    Returns:
        See `parse_intensity`, and the reason in a line.
    """
    low, high = (float(np.median([getattr(one, name) for one in training])) for name in ("low", "high"))
    counted = f"{len(training)} training volume{'s' if len(training) > 1 else ''}"
    if has_units or low < _AIR_HU:
        bounds = f"{LOWEST:g} to {HIGHEST:g} % of the voxels of a volume, medians over {counted}"
        return f"window:{_rounded(low)}:{_rounded(high)}", bounds
    return "zscore", f"intensities have no unit (0.5th percentile {low:.4g}, no air of CT): each volume its own scale"


def _rounded(value: float) -> str:
    """Write four digits, more than a window needs."""
    return f"{float(f'{value:.4g}'):g}"
