"""What a file's header says about its volume."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import numpy.typing as npt

from tonno_core.volume.orientation import coincide, placement
from tonno_core.volume.volume import Forms, Matrix, Volume


@dataclass(frozen=True)
class Header:
    """The grid of a volume, and the type of its stored voxels.

    Attributes:
        size_ijk: numbers of voxels along i, j, k.
        ijk_to_ras: 4 x 4, from the centre of voxel (i, j, k, 1) to RAS mm.
        voxels: ITK's name of the type.
        forms: qform and sform of a NIfTI file.
        concerns: what a reader of the results should know of the file.
        channels: number of values of each voxel.
    """

    size_ijk: tuple[int, int, int]
    ijk_to_ras: Matrix
    voxels: str
    forms: Forms | None = None
    concerns: tuple[str, ...] = ()
    channels: int = 1

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighbouring voxels along i, j, k in mm."""
        return np.asarray(np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0), dtype=np.float64)

    @property
    def axes_ras(self) -> tuple[int, int, int]:
        """Which of i, j, k (0, 1, 2) runs nearest to the patient's R, A and S: a permutation."""
        return anatomical_axes(self.ijk_to_ras)

    @property
    def orientation(self) -> str:
        """Directions of i, j, k in the letters of nibabel's ``aff2axcodes``, such as ``LPS``."""
        letters = [""] * 3
        for row, axis in enumerate(self.axes_ras):
            letters[axis] = ("LR", "PA", "IS")[row][int(self.ijk_to_ras[row, axis] > 0)]
        return "".join(letters)


def anatomical_axes(ijk_to_ras: Matrix) -> tuple[int, int, int]:
    """Find which of a grid's axes runs nearest to the patient's R, A and S, whichever way.

    Args:
        ijk_to_ras: 4 x 4.

    Returns:
        Numbers of axes (0, 1, 2 for i, j, k), a permutation.
    """
    cosines = np.abs(ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0))
    r, a, s = max(permutations(range(3)), key=lambda axes: float(cosines[range(3), axes].sum()))
    return r, a, s


def same_grid(first: Header | Volume, second: Header | Volume) -> bool:
    """Tell whether the voxels of two volumes coincide: their sizes agree, and their corners to a tenth of a voxel.

    ITK and nibabel choose differently between qform and sform: it is enough that one of them sees one grid.

    Args:
        first: of a volume.
        second: of another.

    Returns:
        Whether they coincide.
    """
    if first.size_ijk != second.size_ijk:
        return False
    return any(
        coincide(a, b, first.size_ijk)
        for a, b in ((first.ijk_to_ras, second.ijk_to_ras), (_by_nibabel(first), _by_nibabel(second)))
    )


def _by_nibabel(volume: Header | Volume) -> Matrix:
    """Return the affine by which nibabel sees a volume."""
    return volume.ijk_to_ras if volume.forms is None else placement(volume.forms, volume.size_ijk).nibabel
