"""The plane of a scan that figures show."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from tonno_core.pictures.cuts import PLANES, Cut, Float, View, cut_plane, sample
from tonno_core.reproduction.source import BoolArray, Scan
from tonno_core.volume.foreground import foreground_ball, foreground_mask
from tonno_core.volume.volume import Volume

_MARGIN_MM = 6.0


def plane_of(scan: Scan, heatmap: Volume | None = None) -> Cut:
    """Choose the axial plane through the middle of the largest finding, cropped to the patient.

    Args:
        scan: The scan.
        heatmap: Whose peak in the patient is shown where the finding is not known; without it the patient's middle.

    Returns:
        The plane.
    """
    foreground = foreground_mask(scan.volume)
    if scan.truth is not None and scan.positive:
        centre = _ras(scan, _middle(scan.truth))
    elif heatmap is not None:
        peak = np.argmax(np.where(foreground, heatmap.array, -np.inf))
        centre = _ras(scan, np.array(np.unravel_index(int(peak), foreground.shape)))
    else:
        centre, _ = foreground_ball(scan.volume, foreground)
    cut = cut_plane(PLANES[0], scan.volume, centre)
    patient = np.nan_to_num(sample(foreground.astype(np.float32), scan.volume.ijk_to_ras, cut.points_ras)) >= 0.5
    margin = math.ceil(_MARGIN_MM / cut.view.pixel_mm)
    rows, columns = (_span(np.asarray(patient.any(axis=axis)), margin) for axis in (1, 0))
    return Cut(cut.plane, cut.centre_ras, View(cut.view.u[columns], cut.view.v[rows], cut.view.edges))


def _middle(truth: BoolArray) -> Float:
    """Return the voxel (k, j, i) of the largest component that is nearest to its mean."""
    labels, _ = ndimage.label(truth, structure=np.ones((3, 3, 3)))
    largest = 1 + int(np.argmax(np.bincount(labels[truth])[1:]))
    voxels = np.argwhere(labels == largest)
    return np.asarray(voxels[np.argmin(np.linalg.norm(voxels - voxels.mean(axis=0), axis=1))], dtype=np.float64)


def _ras(scan: Scan, kji: Float) -> Float:
    return np.asarray((scan.volume.ijk_to_ras @ np.append(kji[::-1], 1.0))[:3])


def _span(shown: BoolArray, margin: int) -> slice:
    """Return the range of what is shown with a margin; all of it where nothing is."""
    used = np.flatnonzero(shown)
    return slice(max(0, int(used[0]) - margin), int(used[-1]) + margin + 1) if used.size else slice(None)
