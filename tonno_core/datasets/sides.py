"""Cut a volume at the middle of the patient, into the left and the right half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.volume.foreground import foreground_ball
from tonno_core.volume.header import Header
from tonno_core.volume.volume import Volume

SIDES = ("left", "right")


@dataclass(frozen=True)
class Cut:
    """A plane of voxels between the halves of a patient.

    Attributes:
        axis: Of the array Z Y X, the one that runs nearest to the patient's left and right.
        index: First voxel along it that belongs to the upper half; the lower half ends before.
        upper: Side of the upper half, "left" or "right".
    """

    axis: int
    index: int
    upper: str

    def slices(self, side: str) -> tuple[slice, ...]:
        """Select the voxels of a side.

        Args:
            side: "left" or "right", of the patient.

        Returns:
            Slices of an array Z Y X.
        """
        part = slice(self.index, None) if side == self.upper else slice(0, self.index)
        return tuple(part if axis == self.axis else slice(None) for axis in range(3))

    def half(self, volume: Volume, side: str) -> Volume:
        """Cut out a side; each voxel keeps its place in the patient, and nothing is mirrored.

        Args:
            volume: On the grid that was cut.
            side: "left" or "right".

        Returns:
            The half.
        """
        part = self.slices(side)
        start = np.array([part[2 - axis].start or 0 for axis in range(3)], dtype=np.float64)
        ijk_to_ras = volume.ijk_to_ras.copy()
        ijk_to_ras[:3, 3] += volume.ijk_to_ras[:3, :3] @ start
        first, *further = (np.ascontiguousarray(array[part]) for array in volume.channels)
        return Volume(first, ijk_to_ras, concerns=volume.concerns, further=tuple(further))

    def sides_of(self, mask: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        """Name the sides that a mask reaches into, the one with more voxels first.

        Args:
            mask: Z Y X.

        Returns:
            None, one or both.
        """
        counts = {side: int(np.count_nonzero(mask[self.slices(side)])) for side in SIDES}
        return tuple(side for side in sorted(SIDES, key=lambda side: -counts[side]) if counts[side])


def cut_at_middle(volume: Volume) -> Cut:
    """Find the middle of the patient: that of the foreground's extent from left to right.

    Args:
        volume: The scan; an oblique one is cut along the axis that runs nearest to left and right.

    Returns:
        The cut, which leaves a voxel or more on either side.

    Raises:
        TonnoError: The volume has no foreground.
    """
    i_of_r = Header(volume.size_ijk, volume.ijk_to_ras, "").axes_ras[0]
    centre_ras, _ = foreground_ball(volume)
    centre = np.linalg.solve(volume.ijk_to_ras, np.append(centre_ras, 1.0))[i_of_r]
    # The voxel whose centre lies beyond the middle begins the upper half; one in the very middle goes with it.
    index = int(np.clip(np.ceil(centre - 1e-6), 1, volume.size_ijk[i_of_r] - 1))
    rises = volume.ijk_to_ras[0, i_of_r] > 0  # towards the patient's right
    return Cut(2 - i_of_r, index, "right" if rises else "left")


def box_of(mask: npt.NDArray[np.bool_], ijk_to_ras: npt.NDArray[np.float64]) -> str:
    """Write the box around a mask's voxels, faces included, as two corners in RAS mm.

    Args:
        mask: Z Y X, not empty.
        ijk_to_ras: 4 x 4.

    Returns:
        ``R,A,S:R,A,S``, as a region of a reconstruction is written.
    """
    kji = np.argwhere(mask)
    low, high = kji.min(axis=0)[::-1] - 0.5, kji.max(axis=0)[::-1] + 0.5
    corners = np.array([[(low, high)[(n >> axis) & 1][axis] for axis in range(3)] for n in range(8)])
    points = corners @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]
    return ":".join(",".join(f"{mm:.3f}" for mm in corner) for corner in (points.min(axis=0), points.max(axis=0)))
