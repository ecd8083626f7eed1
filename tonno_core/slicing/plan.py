"""The planes of a reconstruction: its geometry in one object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.slicing.directions import Directions, plane_basis
from tonno_core.volume.volume import Matrix


@dataclass(frozen=True)
class SlicePlan:
    """Planes {x : x . n = s} of L directions and T = M + 2 offsets, each a square of S x S pixels.

    Attributes:
        frame_to_ras: 4 x 4.
        directions: L 3, unit normals in frame coordinates.
        slices: M, for the offsets s_m = 2 m / (M - 1) - 1 of m = -1 .. M (one more at each end for the second
            derivative).
        pixels: S, with centres at 2 t / (S - 1) - 1 along u and v.
        needed: L 2, first and one past the last offset that matters of each direction; None: all T.
        shift: by which all planes are moved along their normals, in frame units.
    """

    frame_to_ras: Matrix
    directions: Directions
    slices: int
    pixels: int
    needed: npt.NDArray[np.intp] | None = None
    shift: float = 0.0

    @property
    def limits(self) -> npt.NDArray[np.intp]:
        """First and one past the last offset that matters of each direction: L 2."""
        if self.needed is None:
            return np.tile(np.array([0, self.slices + 2], dtype=np.intp), (len(self.directions), 1))
        return self.needed

    @property
    def counts(self) -> npt.NDArray[np.intp]:
        """Number of planes that matter of each direction: L."""
        return np.asarray(self.limits[:, 1] - self.limits[:, 0])

    @property
    def step(self) -> float:
        """Distance of neighbouring offsets in frame units."""
        return 2.0 / (self.slices - 1)

    @property
    def offsets(self) -> npt.NDArray[np.float64]:
        """s_m of m = -1 .. M, length M + 2."""
        return np.asarray(np.arange(-1, self.slices + 1) * self.step - 1.0, dtype=np.float64)

    def slice_to_frame(self, which: slice) -> npt.NDArray[np.float64]:
        """Place some directions' stacks of slices.

        One affine of 12 numbers places all M + 2 slices of a direction (`volume.grid.affine_points`).

        Args:
            which: range of the directions, B of them.

        Returns:
            B 4 4, from (column, row, offset, 1) to frame coordinates. Each of the three runs over [-1, 1] from the
            stack's first sample to its last.
        """
        basis = plane_basis(self.directions[which])
        matrix = np.zeros((len(basis), 4, 4))
        matrix[:, :3, 3] = basis[:, :, 2] * self.shift
        basis[:, :, 2] *= 1.0 + self.step
        matrix[:, :3, :3] = basis
        matrix[:, 3, 3] = 1.0
        return matrix

    def frame_to_slice(self, which: slice) -> npt.NDArray[np.float64]:
        """Return the rotations into some directions' own coordinates.

        Args:
            which: range of the directions, B of them.

        Returns:
            B 3 3, from frame coordinates to (a, b, s) along u, v and n.
        """
        return np.swapaxes(plane_basis(self.directions[which]), 1, 2)
