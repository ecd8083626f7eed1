"""The frame: the coordinates in which planes are laid, [-1, 1]^3 around what is to be sliced."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import numpy.typing as npt

from tonno_core.volume.grid import voxel_coordinates
from tonno_core.volume.volume import Matrix, Volume


def physical_frame(centre_ras: npt.ArrayLike, radius_mm: float) -> Matrix:
    """Lay an isotropic frame: its unit ball is a ball in the patient, its axes run along R, A, S.

    It depends on the patient alone, not on the voxel grid, so that anisotropic, oblique and left-handed
    scans of one patient are sliced alike.

    Args:
        centre_ras: 3, in mm.
        radius_mm: of the ball.

    Returns:
        frame_to_ras, 4 x 4.

    Raises:
        ValueError: the radius is not positive.
    """
    if not radius_mm > 0:
        raise ValueError(f"radius_mm is {radius_mm}, expected a positive number")
    matrix = np.diag([radius_mm, radius_mm, radius_mm, 1.0])
    matrix[:3, 3] = centre_ras
    return matrix


def normalized_frame(volume: Volume) -> Matrix:
    """Lay the paper's frame [-1, 1]^3: coordinates (i', j', k') run along the array axes Z, Y, X.

    The centres of the first and last voxel of an axis are at -1 and 1 (eq. 4), so an anisotropic volume
    is stretched to a cube.

    Args:
        volume: whose grid it follows.

    Returns:
        frame_to_ras, 4 x 4.
    """
    half = (np.asarray(volume.array.shape, dtype=np.float64) - 1.0) / 2.0  # along Z, Y, X
    frame_to_ijk = np.zeros((4, 4))
    frame_to_ijk[[2, 1, 0], [0, 1, 2]] = half
    frame_to_ijk[[2, 1, 0], 3] = half
    frame_to_ijk[3, 3] = 1.0
    return volume.ijk_to_ras @ frame_to_ijk


def patient_axes(frame_to_ras: Matrix) -> npt.NDArray[np.float64]:
    """Find the frame's unit axes that are nearest to the patient's R, A and S.

    Args:
        frame_to_ras: 4 x 4.

    Returns:
        3 3, in frame coordinates; the rows point to R, A and S.
    """
    axes = frame_to_ras[:3, :3] / np.linalg.norm(frame_to_ras[:3, :3], axis=0)  # columns
    best = max(permutations(range(3)), key=lambda order: np.abs(axes[[0, 1, 2], order]).sum())
    vectors = np.zeros((3, 3))
    vectors[[0, 1, 2], best] = np.where(axes[[0, 1, 2], best] < 0, -1.0, 1.0)
    return vectors


def within_ball(volume: Volume, frame_to_ras: Matrix) -> npt.NDArray[np.bool_]:
    """Tell which voxels lie in the frame's unit ball.

    Args:
        volume: whose voxels.
        frame_to_ras: 4 x 4.

    Returns:
        Bool ``Z Y X``.
    """
    inside = np.empty(volume.array.shape, dtype=bool)
    for slab, distance in _distances(volume, frame_to_ras):
        inside[slab] = distance <= 1.0
    return inside


def closeness(volume: Volume, frame_to_ras: Matrix) -> npt.NDArray[np.float32]:
    """Compute how near voxels are to the frame's centre.

    Args:
        volume: whose voxels.
        frame_to_ras: 4 x 4.

    Returns:
        ``Z Y X``, 1 less the distance in frame units.
    """
    close = np.empty(volume.array.shape, dtype=np.float32)
    for slab, distance in _distances(volume, frame_to_ras):
        close[slab] = 1.0 - distance
    return close


def _distances(volume: Volume, frame_to_ras: Matrix) -> Iterator[tuple[slice, npt.NDArray[np.float64]]]:
    """Compute distances from the frame's centre, by slabs of Z planes."""
    z, y, x = volume.array.shape
    for slab, coordinates in voxel_coordinates(np.linalg.inv(frame_to_ras) @ volume.ijk_to_ras, (z, y, x)):
        squared = np.zeros((slab.stop - slab.start, y, x))
        for coordinate in coordinates:
            squared += coordinate**2
        yield slab, np.sqrt(squared)
