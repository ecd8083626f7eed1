"""Images of one grid at the voxels of another, smoothed there by a Gaussian: three small matrix products each.

Both interpolation and smoothing are linear and separable. Where the axes of the grids are parallel, one matrix along
each axis does the two at once, so that smoothing costs nothing; elsewhere the smoothing has matrices of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.volume.grid import Array, linear_weights, multiply_axes, parallel_axes, resample
from tonno_core.volume.volume import Matrix

# A Gaussian's kernel ends there (scipy's default).
SIGMAS = 4.0
# Ranges of indices along Z, Y, X.
Block = tuple[slice, slice, slice]


def gaussian_matrix(count: int, sigma: float) -> Array:
    """Compute what `scipy.ndimage.gaussian_filter` does along an axis, whose ends it reflects.

    Args:
        count: samples along the axis.
        sigma: standard deviation in samples; 0 leaves them as they are.

    Returns:
        Outputs x samples.
    """
    if sigma <= 0.0:
        return np.eye(count)
    reach = int(SIGMAS * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    taps = np.exp(-0.5 / sigma**2 * offsets.astype(np.float64) ** 2)
    taps /= taps.sum()
    sample = (np.arange(count)[:, None] + offsets) % (2 * count)  # (d c b a | a b c d | d c b a)
    matrix = np.zeros((count, count))
    np.add.at(matrix, (np.arange(count)[:, None], np.minimum(sample, 2 * count - 1 - sample)), taps)
    return matrix


class Interpolation:
    """Interpolates images of one grid trilinearly at the voxels of another, and smooths them there.

    The numbers are those of `grid.resample` and then `scipy.ndimage.gaussian_filter` over all of the target, to
    rounding, also where only a block of it is computed.
    """

    def __init__(
        self,
        ijk_to_source: Matrix,
        source_zyx: Sequence[int],
        target_zyx: tuple[int, int, int],
        like: torch.Tensor,
        smoothings: Mapping[float, tuple[float, float, float]],
        block: Block | None = None,
    ) -> None:
        """Compute the matrices, and copy them to the device at once.

        Args:
            ijk_to_source: 4 x 4, from the target's voxel indices to the source's.
            source_zyx: Z Y X of the source.
            target_zyx: Z Y X of the target.
            like: any tensor on the device and of the type in which to compute.
            smoothings: standard deviations along Z, Y, X in the target's voxels, by keys of the caller's.
            block: of the target, None for all of it.
        """
        z, y, x = (slice(0, count) for count in target_zyx)
        block = (z, y, x) if block is None else block
        self._axes = parallel_axes(ijk_to_source)
        wanted = {
            key: [
                gaussian_matrix(count, each)[part] for count, each, part in zip(target_zyx, sigma, block, strict=True)
            ]
            for key, sigma in smoothings.items()
        }
        if self._axes is None:
            # The voxels that the block's smoothing reaches; only there is interpolated.
            stacks = [np.concatenate([matrices[axis] for matrices in wanted.values()]) for axis in range(3)]
            reached = [_span(np.asarray(np.any(stack, axis=0))) for stack in stacks]
            self._shape = [part.stop - part.start for part in reached]
            first = np.eye(4)
            first[:3, 3] = [part.start for part in reached[::-1]]
            self._ijk_to_source = ijk_to_source @ first
            whole = reached == list(block)
            wanted = {
                key: [matrix[:, part] for matrix, part in zip(matrices, reached, strict=True)][::-1]
                if any(smoothings[key]) or not whole
                else []
                for key, matrices in wanted.items()
            }
        else:
            weights = linear_weights(ijk_to_source, source_zyx, target_zyx, self._axes)
            wanted = {
                key: [matrices[2 - target] @ each for each, target in zip(weights, self._axes, strict=True)]
                for key, matrices in wanted.items()
            }
        listed = [matrix for matrices in wanted.values() for matrix in matrices]
        flat = np.concatenate([np.zeros(0), *(each.ravel() for each in listed)])
        there = torch.as_tensor(flat, dtype=like.dtype).to(like.device)
        parts = iter(torch.split(there, [each.size for each in listed]))
        self._matrices = {key: [next(parts).reshape(m.shape) for m in matrices] for key, matrices in wanted.items()}

    def __call__(self, array: torch.Tensor, key: float) -> torch.Tensor:
        """Interpolate and smooth images.

        Args:
            array: ``C Z Y X`` of the source.
            key: of the smoothing.

        Returns:
            ``C Z Y X`` of the block.
        """
        if self._axes is not None:
            return multiply_axes(array, self._matrices[key], self._axes)
        z, y, x = self._shape
        values = resample(array, self._ijk_to_source, (z, y, x))
        return multiply_axes(values, self._matrices[key]) if self._matrices[key] else values


def _span(used: npt.NDArray[np.bool_]) -> slice:
    """Return the range from the first to the last that is used."""
    places = np.flatnonzero(used)
    return slice(int(places[0]), int(places[-1]) + 1)
