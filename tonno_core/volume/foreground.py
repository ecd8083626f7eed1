"""Where the patient is: a mask, and the ball that planes have to cover."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from tonno_core.errors import TonnoError
from tonno_core.volume.intensity import LOWEST_HU, NOISY_AIR_HU, every_nth, find_padding
from tonno_core.volume.volume import FloatArray, Volume

_SAMPLES = 500_000


def foreground_mask(volume: Volume) -> npt.NDArray[np.bool_]:
    """Find the voxels above Otsu's threshold on the square roots of the intensities, clipped to 1..99 %.

    The root keeps the threshold between air and tissue, where a few very bright voxels (tumour, contrast, PET
    uptake) would draw it into the tissue.

    Args:
        volume: the scan.

    Returns:
        Bool ``Z Y X``.
    """
    voxels = every_nth(volume.array)
    padding = find_padding(volume.array)
    scanned = voxels if padding is None else voxels[voxels != padding]
    low, high = (float(value) for value in np.percentile(voxels, [1, 99]))
    if scanned.size and low < LOWEST_HU < high and np.percentile(scanned, 1) > NOISY_AIR_HU:
        low = LOWEST_HU
    if low == high:
        return volume.array > low
    return volume.array > low + _otsu(np.sqrt(np.clip(voxels, low, high) - low)) ** 2


def foreground_ball(volume: Volume, mask: npt.NDArray[np.bool_] | None = None) -> tuple[npt.NDArray[np.float64], float]:
    """Find the ball around the foreground's bounding box along the RAS axes.

    99.9 % of the foreground's voxels lie inside: a few stray voxels neither move nor inflate the ball.

    Args:
        volume: the scan.
        mask: its foreground, where that is known.

    Returns:
        Centre in RAS mm (3), and radius in mm.

    Raises:
        TonnoError: there is no foreground.
    """
    indices = np.flatnonzero(foreground_mask(volume) if mask is None else mask)
    if indices.size == 0:
        raise TonnoError("no foreground found in the volume; expected a body brighter than its background")
    if indices.size > _SAMPLES:
        indices = np.random.default_rng(0).choice(indices, _SAMPLES)
    kji = np.stack(np.unravel_index(indices, volume.array.shape))
    points = volume.ijk_to_ras[:3, :3] @ kji[::-1] + volume.ijk_to_ras[:3, 3:]  # xyz x voxels
    centre = np.percentile(points, [0.1, 99.9], axis=1).mean(axis=0)
    distances = np.linalg.norm(points - centre[:, np.newaxis], axis=0)
    half_diagonal = np.linalg.norm(volume.spacing_mm) / 2
    return centre, float(np.percentile(distances, 99.9) + half_diagonal)


def _otsu(values: FloatArray) -> float:
    """Compute Otsu's threshold."""
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(256)
    otsu.Execute(sitk.GetImageFromArray(values[np.newaxis]))
    return float(otsu.GetThreshold())
