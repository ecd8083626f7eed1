"""A box in the patient to which a reconstruction is limited, and the planes that matter to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.slicing.directions import Directions
from tonno_core.volume.grid import voxel_coordinates
from tonno_core.volume.volume import Matrix, Volume

# Tolerance of coordinates: voxels on the very face of a box belong to it.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Region:
    """A box in the patient: where |x|, |y|, |z| <= 1 in its coordinates.

    Attributes:
        box_to_ras: 4 x 4.
    """

    box_to_ras: Matrix

    def contains(self, volume: Volume) -> npt.NDArray[np.bool_]:
        """Tell which voxel centres of a volume lie inside.

        Args:
            volume: whose voxels.

        Returns:
            Bool ``Z Y X``.
        """
        z, y, x = volume.array.shape
        inside = np.ones((z, y, x), dtype=bool)
        for slab, coordinates in voxel_coordinates(np.linalg.inv(self.box_to_ras) @ volume.ijk_to_ras, (z, y, x)):
            for coordinate in coordinates:
                inside[slab] &= np.abs(coordinate) <= 1.0 + _ROUNDING
        return inside

    @property
    def ball(self) -> tuple[npt.NDArray[np.float64], float]:
        """Centre (RAS mm) and radius (mm) of the ball through the box's farthest corners."""
        corners = np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) * 2.0 - 1.0
        radius = np.linalg.norm(corners @ self.box_to_ras[:3, :3].T, axis=1).max()
        return np.asarray(self.box_to_ras[:3, 3]), float(radius)

    def holds(self, other: Region) -> bool:
        """Tell whether all of another region lies inside this one.

        Args:
            other: the other region.

        Returns:
            Whether it does.
        """
        corners = np.array(list(np.ndindex(2, 2, 2)), dtype=np.float64) * 2.0 - 1.0
        to_box = np.linalg.inv(self.box_to_ras) @ other.box_to_ras
        return bool((np.abs(corners @ to_box[:3, :3].T + to_box[:3, 3]) <= 1.0 + _ROUNDING).all())

    def extents(self, frame_to_ras: Matrix, directions: Directions) -> npt.NDArray[np.float64]:
        """Compute the least and greatest x . n over the box.

        Args:
            frame_to_ras: 4 x 4.
            directions: L 3, unit normals in frame coordinates.

        Returns:
            L 2, in frame units.
        """
        box_to_frame = np.linalg.inv(frame_to_ras) @ self.box_to_ras
        middle = directions @ box_to_frame[:3, 3]
        half = np.abs(directions @ box_to_frame[:3, :3]).sum(axis=1)
        return np.stack([middle - half, middle + half], axis=1)

    def needed(
        self, frame_to_ras: Matrix, directions: Directions, offsets: npt.NDArray[np.float64], reach: float
    ) -> npt.NDArray[np.intp]:
        """Find the offsets that the box needs.

        The offsets on both sides of its ends are among them, because values are interpolated between offsets; there
        is at least one.

        Args:
            frame_to_ras: 4 x 4.
            directions: L 3, unit normals in frame coordinates.
            offsets: T, evenly spaced.
            reach: by which the box is grown, in frame units.

        Returns:
            L 2, first and one past the last of the T offsets.
        """
        step = offsets[1] - offsets[0]
        low, high = (self.extents(frame_to_ras, directions) - offsets[0]).T
        first = np.clip(np.floor((low - reach) / step), 0, len(offsets) - 1)
        last = np.clip(np.ceil((high + reach) / step), 0, len(offsets) - 1)
        return np.stack([first, last + 1], axis=1).astype(np.intp)
