"""The grid on which a segmenter sees volumes: along the volume's own axes, in the order R A S, of one spacing.

Training and use both come through here, so a network sees in use what it saw in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.slicing.preparation import normalise_channels
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.grid import Array, multiply_axes
from tonno_core.volume.header import anatomical_axes
from tonno_core.volume.intensity import check_channels, windows_of
from tonno_core.volume.smoothing import gaussian_matrix
from tonno_core.volume.volume import Matrix, Volume

# Voxels of a working grid: 1 GB of float32. A head at 0.3 mm has half as many.
_MOST_VOXELS = 2**28
# A voxel of the working grid that reaches beyond the volume by less than this share of itself is not made.
_SLIVER = 1e-6


@dataclass(frozen=True)
class WorkingGrid:
    """The working grid of one volume: an affine of the volume's, with other steps.

    Both have the same centre, so a mirrored volume has the mirrored grid.

    Attributes:
        to_ijk: 4 x 4, from the working grid's voxel (x, y, z, 1) to the volume's (i, j, k, 1).
        shape: Z Y X.
        volume_shape: Z Y X of the volume.
    """

    to_ijk: Matrix
    shape: tuple[int, int, int]
    volume_shape: tuple[int, int, int]

    @property
    def axes(self) -> tuple[int, int, int]:
        """Numbers of the working grid's axes along the volume's i, j, k."""
        i, j, k = np.abs(self.to_ijk[:3, :3]).argmax(axis=1)
        return int(i), int(j), int(k)

    def take(self, array: torch.Tensor) -> torch.Tensor:
        """Resample images of the volume's grid to the working grid.

        Trilinear; where the working grid is coarser, after a Gaussian of sqrt(r^2 - 1) / 2 of the volume's voxels,
        r = its step in these, as slices of a volume are smoothed. Beyond the centres of the outermost voxels their
        values go on.

        Args:
            array: ``C Z Y X`` of the volume: an image, a heatmap, or a mask as numbers from 0 to 1.

        Returns:
            ``C Z Y X`` of the working grid.
        """
        matrices = []
        for source, target in enumerate(self.axes):
            count, step = self.volume_shape[2 - source], float(self.to_ijk[source, target])
            at = step * np.arange(self.shape[2 - target]) + self.to_ijk[source, 3]
            sigma = math.sqrt(max(step**2 - 1.0, 0.0)) / 2.0
            matrices.append(_weights(at, count) @ gaussian_matrix(count, sigma))
        return multiply_axes(array, _like(matrices, array), self.axes)

    def give_back(self, array: torch.Tensor) -> torch.Tensor:
        """Interpolate images of the working grid trilinearly at the volume's voxels.

        Args:
            array: ``C Z Y X`` of the working grid.

        Returns:
            ``C Z Y X`` of the volume.
        """
        own, matrices = self.axes, []
        axes = own.index(0), own.index(1), own.index(2)
        for target, source in enumerate(axes):
            step, first = self.to_ijk[source, target], self.to_ijk[source, 3]
            at = (np.arange(self.volume_shape[2 - source]) - first) / step
            matrices.append(_weights(at, self.shape[2 - target]))
        return multiply_axes(array, _like(matrices, array), axes)


def working_grid(volume: Volume, spacing_mm: tuple[float, float, float]) -> WorkingGrid:
    """Lay a volume's working grid.

    Args:
        volume: Any; an oblique one is not turned.
        spacing_mm: Along the axes nearest to R, A and S.

    Returns:
        The grid, which covers the volume.

    Raises:
        TonnoError: It would have more voxels than any machine's memory holds.
    """
    size, spacing = volume.size_ijk, volume.spacing_mm
    to_ijk, shape = np.zeros((4, 4)), [0, 0, 0]
    to_ijk[3, 3] = 1.0
    for target, source in enumerate(anatomical_axes(volume.ijk_to_ras)):
        step = spacing_mm[target] / float(spacing[source])  # in the volume's voxels
        count = max(1, math.ceil(size[source] / step - _SLIVER))
        forward = volume.ijk_to_ras[target, source] >= 0.0
        to_ijk[source, target] = step if forward else -step
        to_ijk[source, 3] = (size[source] - 1) / 2.0 - to_ijk[source, target] * (count - 1) / 2.0
        shape[2 - target] = count
    if math.prod(shape) > _MOST_VOXELS:
        extent = " x ".join(f"{n * mm:.0f}" for n, mm in zip(size, spacing, strict=True))
        raise TonnoError(
            f"the volume covers {extent} mm, {math.prod(shape):,} voxels of the "
            f"{' x '.join(f'{mm:g}' for mm in spacing_mm)} mm that the segmenter works on, expected at most "
            f"{_MOST_VOXELS:,}; check the volume's spacing, or crop it"
        )
    z, y, x = shape
    k, j, i = volume.array.shape
    return WorkingGrid(to_ijk, (z, y, x), (k, j, i))


@dataclass(frozen=True)
class WorkingImage:
    """A volume as a segmenter sees it.

    Attributes:
        array: ``C Z Y X`` float32 on the working grid: intensities normalised, of all channels or a channel for each
            window.
        fill: Value of the space outside it; 0 of several channels, each of which is less its own.
        grid: The working grid.
        foreground: Of the volume, bool ``Z Y X`` on its own grid.
    """

    array: torch.Tensor
    fill: float
    grid: WorkingGrid
    foreground: npt.NDArray[np.bool_]


def prepare_image(volume: Volume, network: SegmenterNetwork, intensity: str) -> WorkingImage:
    """Normalise a volume's intensities as for slices, and resample it to the working grid.

    Args:
        volume: The scan.
        network: Whose spacing counts.
        intensity: How intensities are normalised, see `volume.intensity.by_channel`.

    Returns:
        What the network sees.

    Raises:
        TonnoError: The volume is too large, has other channels, or no contrast to normalise.
    """
    check_channels(len(volume.channels), intensity)
    grid = working_grid(volume, network.spacing_mm)
    foreground = foreground_mask(volume)
    normalised, fills = normalise_channels(volume, foreground, intensity)
    if volume.further:
        less = (array - np.float32(fill) for array, fill in zip(normalised.channels, fills, strict=True))
        return WorkingImage(grid.take(torch.as_tensor(np.stack(list(less)))), 0.0, grid, foreground)
    image = grid.take(torch.as_tensor(normalised.array)[None])
    windows = windows_of(intensity)
    if windows:
        image = torch.cat([((image - low) / (high - low)).clamp_(0, 1) for low, high in windows])
    return WorkingImage(image, fills[0], grid, foreground)


def _weights(at: Array, count: int) -> Array:
    """Compute what each sample counts by linear interpolation at places; beyond the ends the last one goes on."""
    inside = np.clip(at, 0.0, count - 1.0)
    return np.asarray(np.maximum(0.0, 1.0 - np.abs(inside[:, None] - np.arange(count))))


def _like(matrices: list[Array], array: torch.Tensor) -> list[torch.Tensor]:
    return [torch.as_tensor(each, dtype=array.dtype).to(array.device) for each in matrices]
