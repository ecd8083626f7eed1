"""What a file says of its volume before any voxel is read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from tonno_core.volume.volume import Matrix


@dataclass(frozen=True)
class Header:
    """The grid of a volume (as in `Volume`) and the kind of its voxels as they are stored."""

    size_ijk: tuple[int, int, int]
    ijk_to_ras: Matrix
    voxels: str

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighbouring voxels along i, j, k in mm."""
        return np.asarray(np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0), dtype=np.float64)

    @property
    def axes_ras(self) -> tuple[int, int, int]:
        """Which of i, j, k (0, 1, 2) runs nearest to the patient's R, A and S; each runs along one."""
        cosines = np.abs(self.ijk_to_ras[:3, :3] / self.spacing_mm)
        r, a, s = max(permutations(range(3)), key=lambda axes: float(cosines[range(3), axes].sum()))
        return r, a, s

    @property
    def orientation(self) -> str:
        """Where i, j, k go to, as ``LPS``: the letters of nibabel's ``aff2axcodes``."""
        letters = [""] * 3
        for row, axis in enumerate(self.axes_ras):
            letters[axis] = ("LR", "PA", "IS")[row][int(self.ijk_to_ras[row, axis] > 0)]
        return "".join(letters)


def same_grid(one: Header, other: Header) -> bool:
    """Whether voxels coincide: the same size, and no corner farther away than a tenth of the smallest spacing.

    Formats round an affine (NIfTI to float32, DICOM to 16 characters); that moves a voxel far less.
    """
    if one.size_ijk != other.size_ijk:
        return False
    corners = np.array([[*ijk, 1] for ijk in product(*((0, n - 1) for n in one.size_ijk))])
    moved = corners @ (one.ijk_to_ras - other.ijk_to_ras).T
    return float(np.linalg.norm(moved, axis=1).max()) < 0.1 * float(one.spacing_mm.min())
