"""Where in a volume there is something to sample, so that samples known to be fill can be skipped exactly."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.slicing.directions import plane_basis
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.volume import Volume

# Error of sample indices, in samples; that of rectangles, which are computed in float32.
_ROUNDING, _COARSE = 1e-6, 1e-3
# Slopes of the planes that bound the hull beside each slice's edges.
_SLOPES = np.array([-2.5, -1.0, -0.4, 0.0, 0.4, 1.0, 2.5])
# Numbers in memory at once.
_NUMBERS = 1 << 22
# Points that need no hull.
_FEW = 64


def bounding_box(volume: Volume, fills: Sequence[float] = (0.0,)) -> Volume:
    """Crop a volume to the voxels that are not fill, and take that off.

    Args:
        volume: fill outside.
        fills: its value, by channel.

    Returns:
        The cropped volume, with at least two voxels along each axis, zero where it was fill. It may share the
        volume's memory.
    """
    content = volume.array != np.float32(fills[0])
    for array, fill in zip(volume.further, fills[1:], strict=True):
        content |= array != np.float32(fill)
    ranges = []
    for axis in range(3):
        planes = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        first = min(int(planes[0]), content.shape[axis] - 2) if len(planes) else 0
        ranges.append(slice(first, max(int(planes[-1]) + 1, first + 2) if len(planes) else 2))
    k, j, i = ranges
    shift = np.eye(4)
    shift[:3, 3] = i.start, j.start, k.start
    inner, *further = (
        array[k, j, i] - np.float32(fill) if fill else np.require(array[k, j, i], requirements=["C", "W"])
        for array, fill in zip(volume.channels, fills, strict=True)
    )
    return Volume(inner, volume.ijk_to_ras @ shift, further=tuple(further))


@dataclass(frozen=True)
class Content:
    """The convex hull of all voxels that are not fill, each with its trilinear reach of a voxel on all sides.

    Attributes:
        corners_ras: P 3, centres of the voxels that span it, in RAS mm.
        steps_ras: 3 3, the steps along i, j, k in its columns, in RAS mm.
    """

    corners_ras: npt.NDArray[np.float64]
    steps_ras: npt.NDArray[np.float64]

    @staticmethod
    def of(volume: Volume) -> Content:
        """Build the hull of the voxels that are not zero in all channels.

        Args:
            volume: zero outside.

        Returns:
            The hull; without corners where all voxels are zero.
        """
        from scipy.spatial import ConvexHull, QhullError

        ijk_to_ras, content = volume.ijk_to_ras, volume.array != 0
        for array in volume.further:
            content |= array != 0
        ijk = _row_ends(content)
        if len(ijk) > _FEW:
            with suppress(QhullError):  # all in one plane
                ijk = ijk[ConvexHull(ijk).vertices]
        return Content(ijk @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3], ijk_to_ras[:3, :3])

    def shown(self, plan: SlicePlan, shifts: Sequence[float] = (0.0,)) -> npt.NDArray[np.intp]:
        """Find the slices that can show more than fill; of each direction, those between two of them can as well.

        Args:
            plan: the planes.
            shifts: by which they are moved along their normals, in frame units; a slice counts if one of them does.

        Returns:
            L 2, first and one past the last such offset of each direction; equal where there is none.
        """
        if not len(self.corners_ras):
            return np.zeros((len(plan.directions), 2), dtype=np.intp)
        far = self._support(plan, plan.directions) - (plan.shift + min(shifts))
        near = -self._support(plan, -plan.directions) - (plan.shift + max(shifts))
        # Offset number m + 1 is at s_m.
        first, last = ((end + 1.0) / plan.step + 1.0 for end in (near, far))
        ends = np.stack([np.ceil(first - _ROUNDING), np.floor(last + _ROUNDING) + 1.0], axis=1)
        ends = np.clip(ends, 0, plan.slices + 2)
        ends[:, 1] = ends.max(axis=1)
        return np.asarray(ends, dtype=np.intp)

    def windows(self, plan: SlicePlan) -> npt.NDArray[np.intp]:
        """Bound what the slices can show by rectangles.

        The hull lies below the planes a = h(t) - t s, for any slope t, where h(t) is the greatest a + t s in it.

        Args:
            plan: the planes.

        Returns:
            L T 2 2, first and one past the last column, then row, that can be more than fill in each slice that
            `shown` tells; others may have any.
        """
        offsets = plan.offsets + plan.shift
        windows = np.zeros((len(plan.directions), len(offsets), 2, 2), dtype=np.intp)
        if not len(self.corners_ras):
            return windows
        bases = plane_basis(plan.directions)
        each = max(1, _NUMBERS // (4 * len(_SLOPES) * len(self.corners_ras)))
        for start in range(0, len(bases), each):
            u, v, n = (bases[start : start + each, None, None, :, axis] for axis in range(3))
            sides = np.concatenate([-u, u, -v, v], axis=1) + _SLOPES[:, None] * n  # B 4 slopes 3
            reach = self._support(plan, sides.reshape(-1, 3), np.float32).reshape(*sides.shape[:3], 1)
            ends = (reach - _SLOPES[:, None] * offsets).min(axis=2)  # B 4 T
            low, high = -ends[:, 0::2], ends[:, 1::2]
            first, last = ((end + 1.0) * ((plan.pixels - 1) / 2.0) for end in (low, high))
            pair = np.stack([np.ceil(first - _COARSE), np.floor(last + _COARSE) + 1.0], axis=-1)
            windows[start : start + each] = np.clip(pair, 0, plan.pixels).transpose(0, 2, 1, 3)
        return windows

    def _support(
        self, plan: SlicePlan, along: npt.NDArray[np.float64], dtype: npt.DTypeLike = np.float64
    ) -> npt.NDArray[np.float64]:
        """Compute how far the body reaches along some vectors of the frame: N. along: N 3."""
        ras_to_frame = np.linalg.inv(plan.frame_to_ras)
        corners = (self.corners_ras @ ras_to_frame[:3, :3].T + ras_to_frame[:3, 3]).astype(dtype).T
        each = max(1, _NUMBERS // corners.shape[1])
        starts = range(0, len(along), each)
        reach = np.concatenate([(along[i : i + each].astype(dtype) @ corners).max(axis=1) for i in starts])
        of_voxel = np.abs(along @ ras_to_frame[:3, :3] @ self.steps_ras).sum(axis=1)
        return np.asarray(reach + of_voxel, dtype=np.float64)


def _row_ends(content: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """List (i, j, k) of the first and last voxel of each row (along X) with content: R 3."""
    rows = np.argwhere(content.any(axis=2))
    voxels = content[rows[:, 0], rows[:, 1]]
    first, last = voxels.argmax(axis=1), voxels.shape[1] - 1 - voxels[:, ::-1].argmax(axis=1)
    return np.column_stack([np.concatenate([first, last]), np.tile(rows[:, ::-1], (2, 1))]).astype(np.float64)
