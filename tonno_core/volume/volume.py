"""A 3D image and its place in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

# Of a volume that is read: more are mostly points in time, or features.
MOST_CHANNELS = 16


@dataclass(frozen=True)
class Forms:
    """What a NIfTI header states of the place of its voxels, which its readers choose from differently.

    Attributes:
        qform_code: 0 where the qform counts for nothing.
        sform_code: 0 where the sform counts for nothing.
        units: NIfTI's code of the units of length and time.
        pixdim: handedness of the qform (-1 or 1), and spacing along i, j, k.
        quaternion: b, c, d of the qform.
        offset: of the qform.
        sform: its three rows of four, in order.
    """

    qform_code: int
    sform_code: int
    units: int
    pixdim: tuple[float, ...]
    quaternion: tuple[float, ...]
    offset: tuple[float, ...]
    sform: tuple[float, ...]


@dataclass(frozen=True)
class Volume:
    """An image on a regular grid: of one channel, or of several, as PET and CT.

    Attributes:
        array: ``Z Y X`` float32; voxel (i, j, k) is ``array[k, j, i]``. Of several channels the first one's, which also
            says where the patient is, and which pictures show.
        ijk_to_ras: 4 x 4 float64, from the centre of voxel (i, j, k, 1) to RAS mm.
        forms: qform and sform of the NIfTI file that it was read from or shares the grid with; `write_volume` carries
            them on.
        concerns: what a reader of the results should know of the file.
        further: the other channels' arrays; none of an image of one channel.
    """

    array: FloatArray
    ijk_to_ras: Matrix
    forms: Forms | None = None
    concerns: tuple[str, ...] = ()
    further: tuple[FloatArray, ...] = ()

    def __repr__(self) -> str:
        size, spacing = (" x ".join(f"{n:g}" for n in numbers) for numbers in (self.size_ijk, self.spacing_mm.round(3)))
        channels = f", {len(self.channels)} channels" if self.further else ""
        return f"Volume({size} voxels of {spacing} mm{channels})"

    @property
    def channels(self) -> tuple[FloatArray, ...]:
        """The arrays of all channels, ``Z Y X`` each."""
        return self.array, *self.further

    @property
    def spacing_mm(self) -> npt.NDArray[np.float64]:
        """Distance between neighbouring voxels along i, j, k in mm."""
        return np.asarray(np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0), dtype=np.float64)

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel in mm³."""
        return float(abs(np.linalg.det(self.ijk_to_ras[:3, :3])))

    @property
    def size_ijk(self) -> tuple[int, int, int]:
        """Number of voxels along i, j, k (the array's shape reversed)."""
        z, y, x = self.array.shape
        return x, y, z

    def with_array(self, array: npt.NDArray[np.generic]) -> Volume:
        """Return other voxel values on the same grid.

        Args:
            array: ``Z Y X``, converted to float32.

        Returns:
            The new volume, of one channel.

        Raises:
            ValueError: the array has another shape.
        """
        if array.shape != self.array.shape:
            raise ValueError(f"array of shape {array.shape} on a grid of shape {self.array.shape}")
        return Volume(np.ascontiguousarray(array, dtype=np.float32), self.ijk_to_ras, self.forms)

    def with_channels(self, arrays: Sequence[FloatArray]) -> Volume:
        """Return other voxel values on the same grid, of any number of channels.

        Args:
            arrays: ``Z Y X`` of each channel, converted to float32.

        Returns:
            The new volume.

        Raises:
            ValueError: an array has another shape.
        """
        first, *others = (self.with_array(array) for array in arrays)
        return replace(first, further=tuple(other.array for other in others))
