"""Where in a volume there is something to sample, so that samples known to be fill can be skipped exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.volume.volume import Matrix, Volume

Block = tuple[slice, slice, slice]

# Error of sample indices, in samples.
_ROUNDING = 1e-6


def bounding_box(volume: Volume) -> Volume:
    """Crop a volume to its non-zero voxels.

    Args:
        volume: zero outside.

    Returns:
        The cropped volume, with at least two voxels along each axis.
    """
    content = volume.array != 0
    ranges = []
    for axis in range(3):
        planes = np.flatnonzero(content.any(axis=tuple({0, 1, 2} - {axis})))
        first = min(int(planes[0]), content.shape[axis] - 2) if len(planes) else 0
        ranges.append(slice(first, max(int(planes[-1]) + 1, first + 2) if len(planes) else 2))
    k, j, i = ranges
    shift = np.eye(4)
    shift[:3, 3] = i.start, j.start, k.start
    return Volume(np.ascontiguousarray(volume.array[k, j, i]), volume.ijk_to_ras @ shift)


@dataclass(frozen=True)
class Content:
    """A convex body that holds every voxel that is not fill, and a voxel around (the trilinear reach).

    Attributes:
        corners_ras: P 3, in RAS mm.
        edges: E 2, pairs of corners.
    """

    corners_ras: npt.NDArray[np.float64]
    edges: npt.NDArray[np.intp]

    @staticmethod
    def of(array: npt.NDArray[np.float32], ijk_to_ras: Matrix) -> Content:
        """Build the convex hull of the non-zero voxels, grown by a voxel.

        Args:
            array: ``Z Y X``.
            ijk_to_ras: 4 x 4.

        Returns:
            The hull; without corners where all voxels are zero.
        """
        from scipy.spatial import ConvexHull

        ijk = _row_ends(array != 0)
        if not len(ijk):
            return Content(np.zeros((0, 3)), np.zeros((0, 2), dtype=np.intp))
        # Rounded outward to every third voxel: a hull of a few hundred corners is quick to cut.
        below, above = np.floor((ijk - 1.0) / 3.0) * 3.0, np.ceil((ijk + 1.0) / 3.0) * 3.0
        sides = np.stack([below, above])  # 2 R 3
        boxes = np.stack([sides[[a, b, c], :, [0, 1, 2]].T for a, b, c in np.ndindex(2, 2, 2)])
        hull = ConvexHull(np.unique(boxes.reshape(-1, 3), axis=0))
        corners = hull.points[hull.vertices]
        number = np.zeros(len(hull.points), dtype=np.intp)
        number[hull.vertices] = np.arange(len(hull.vertices))
        edges = np.sort(number[hull.simplices[:, [[0, 1], [1, 2], [2, 0]]]].reshape(-1, 2), axis=1)
        return Content(corners @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3], np.unique(edges, axis=0))

    def blocks(self, unit_to_ras: Matrix, shape: tuple[int, int, int], height: int) -> list[Block]:
        """List parts of a block of slices that together hold every sample within the body.

        Args:
            unit_to_ras: 4 x 4, from (x, y, z, 1) in [-1, 1]^3 over the block to RAS mm.
            shape: T V U of the block.
            height: offsets are cut into runs of so many slices.

        Returns:
            For each run that the body meets, its offsets and the rectangle of rows and columns that the body needs.
        """
        if not len(self.corners_ras):
            return []
        ras_to_unit = np.linalg.inv(unit_to_ras)
        half = (np.array(shape[::-1]) - 1.0) / 2.0
        # Corners in sample indices (column, row, offset).
        corners = (self.corners_ras @ ras_to_unit[:3, :3].T + ras_to_unit[:3, 3] + 1.0) * half
        starts = np.arange(0, shape[0], height)
        stops = np.minimum(starts + height, shape[0])
        low, high = self._extents(corners, starts.astype(np.float64), stops - 1.0)
        blocks = []
        for start, stop, lower, upper in zip(starts, stops, low, high, strict=True):
            if not np.isfinite(lower).all():
                continue  # the body does not reach these offsets
            # A cut at the run's own first or last slice may be off by rounding and must not lose that slice.
            first = np.maximum(np.ceil(lower - _ROUNDING), (0, 0, int(start))).astype(int)
            last = np.minimum(np.floor(upper + _ROUNDING), (shape[2] - 1, shape[1] - 1, int(stop) - 1)).astype(int)
            if (first <= last).all():
                columns, rows, offsets = (slice(a, b + 1) for a, b in zip(first.tolist(), last.tolist(), strict=True))
                blocks.append((offsets, rows, columns))
        return blocks

    def _extents(
        self, corners: npt.NDArray[np.float64], bottom: npt.NDArray[np.float64], top: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Compute bounds (K 3 each) of the body between K pairs of planes z = bottom and z = top; infinite if empty.

        Extremes of a convex body cut by planes are at its corners or where the planes cut its edges.
        """
        z = corners[:, 2]
        between = (z >= bottom[:, None]) & (z <= top[:, None])  # K P
        start, span = corners[self.edges[:, 0]], np.diff(corners[self.edges], axis=1)[:, 0]
        planes = np.stack([bottom, top])[:, :, None]  # 2 K 1
        with np.errstate(divide="ignore", invalid="ignore"):
            along = (planes - start[:, 2]) / span[:, 2]  # 2 K E
        crossing = (along >= 0.0) & (along <= 1.0)
        cuts = start + np.where(crossing, along, 0.0)[..., None] * span  # 2 K E 3
        low, high = (
            reduce(
                reduce.reduce(np.where(between[..., None], corners, empty), axis=1),
                reduce.reduce(np.where(crossing[..., None], cuts, empty), axis=(0, 2)),
            )
            for reduce, empty in ((np.minimum, np.inf), (np.maximum, -np.inf))
        )
        return low, high


def _row_ends(content: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """List (i, j, k) of the first and last voxel of each row (along X) with content: R 3."""
    rows = np.argwhere(content.any(axis=2))
    voxels = content[rows[:, 0], rows[:, 1]]
    first, last = voxels.argmax(axis=1), voxels.shape[1] - 1 - voxels[:, ::-1].argmax(axis=1)
    return np.column_stack([np.concatenate([first, last]), np.tile(rows[:, ::-1], (2, 1))]).astype(np.float64)
