"""Slices of a volume along oblique planes (paper, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core import kernels
from tonno_core.slicing.content import Content, bounding_box
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.grid import affine_block, affine_points, ijk_to_grid
from tonno_core.volume.mosaic import Mosaic
from tonno_core.volume.volume import Matrix, Volume

# Samples of the slices that are sampled at once, in the rectangle that the content needs there: fewer slices would fit
# closer but cost more calls, more would leave the cache. 69 slices of 96 x 96 pixels, 12 of 224 x 224.
_SAMPLES = 640_000
# Largest magnitudes that float16 will do for: it holds all whole numbers to 2048, and rounds any number by 2^-11 of it
# (below 2^-14 by 2^-25, which is 2^-21 of a largest of 2^-4).
_LEAST_OF_HALF, _MOST_OF_HALF = 2.0**-4, 2.0**11

# `slicing.kernel.sample_planes`.
SamplePlanes = Callable[[torch.Tensor, npt.NDArray[np.float64], int, float], torch.Tensor]


@dataclass(frozen=True)
class SliceSource:
    """A preprocessed volume on the device, ready to be sliced.

    array: 1 Z Y X, voxel values less ``fill``, so that the zeros outside the volume are the fill value.
    ras_to_ijk: 4 x 4 from RAS mm to its voxel indices. kernel: for CUDA, where it runs; only with it may the array
    be float16. Without it, content: where there is more than fill; mosaic: the same voxels for the CPU, where they fit.
    """

    array: torch.Tensor
    ras_to_ijk: Matrix
    content: Content | None
    fill: float = 0.0
    mosaic: Mosaic | None = None
    kernel: SamplePlanes | None = None

    @staticmethod
    def from_volume(
        volume: Volume,
        *,
        fill: float = 0.0,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        half: bool = False,
    ) -> SliceSource:
        """Put a volume (already intensity-normalised) on the device.

        half: its voxels may be float16, as the encoder rounds what it sees likewise. They are where the kernel runs
        and the intensities are neither too large nor too small for that; slices are sampled in ``dtype`` all the same.
        """
        inner = bounding_box(Volume(volume.array - np.float32(fill), volume.ijk_to_ras))
        device = torch.device(device)
        kernel = _kernel(device, dtype)
        stored = torch.float16 if half and kernel is not None and half_will_do(inner.array) else dtype
        on_device = torch.as_tensor(inner.array).to(stored).to(device)[None]
        mosaic = Mosaic(on_device[0]) if device.type == "cpu" and Mosaic.fits(inner.array.shape) else None
        content = Content.of(inner.array, inner.ijk_to_ras) if kernel is None else None
        ras_to_ijk = np.asarray(np.linalg.inv(inner.ijk_to_ras), dtype=np.float64)
        return SliceSource(on_device, ras_to_ijk, content, fill, mosaic, kernel)

    def sample(self, unit_to_ras: Matrix, shape: tuple[int, int, int], out: torch.Tensor | None = None) -> torch.Tensor:
        """Trilinear values on one affine block of slices.

        unit_to_ras: 4 x 4, from (x, y, z, 1) in [-1, 1]^3 over a ``T V U`` block to RAS mm.
        Returns T V U. Only samples that can meet the content are computed; the others are fill.
        """
        if self.content is None:
            raise ValueError("this source is for the kernel")
        values = torch.empty(shape, dtype=self.array.dtype, device=self.array.device) if out is None else out
        values.fill_(self.fill)
        runs = math.ceil(math.prod(shape) / _SAMPLES)
        for block in self.content.blocks(unit_to_ras, shape, math.ceil(shape[0] / runs)):
            size = (block[0].stop - block[0].start, block[1].stop - block[1].start, block[2].stop - block[2].start)
            unit_to_ijk = self.ras_to_ijk @ affine_block(unit_to_ras, shape, block)
            sample = self._grid_sample if self.mosaic is None else self.mosaic.sample
            torch.add(sample(unit_to_ijk, size), self.fill, out=values[block])
        return values

    def _grid_sample(self, unit_to_ijk: Matrix, size: tuple[int, int, int]) -> torch.Tensor:
        _, z, y, x = self.array.shape
        matrix = ijk_to_grid((x, y, z)) @ unit_to_ijk
        theta = torch.as_tensor(matrix, dtype=self.array.dtype, device=self.array.device)[None]
        points = affine_points(theta, size)
        return F.grid_sample(self.array[None], points, padding_mode="zeros", align_corners=True)[0, 0]


def sample_slices(source: SliceSource, plan: SlicePlan, which: slice) -> torch.Tensor:
    """All M + 2 slices of some of a plan's directions: B T V U, rows along u, columns along v."""
    shape = (plan.slices + 2, plan.pixels, plan.pixels)
    if source.kernel is not None:
        return _launch(source, source.kernel, replace(plan, needed=None), which).reshape(-1, *shape)
    matrices = plan.frame_to_ras @ plan.slice_to_frame(which)
    slices = torch.empty(len(matrices), *shape, dtype=source.array.dtype, device=source.array.device)
    for one, matrix in zip(slices, matrices, strict=True):
        source.sample(matrix, shape, out=one)
    return slices


def sample_needed(source: SliceSource, plan: SlicePlan, which: slice) -> torch.Tensor:
    """Only the slices that matter of some of a plan's directions, one direction after the other: N V U."""
    if plan.needed is None:
        return sample_slices(source, plan, which).flatten(0, 1)
    if source.kernel is not None:
        return _launch(source, source.kernel, plan, which)
    matrices = plan.frame_to_ras @ plan.slice_to_frame(which)
    counts = plan.counts[which].tolist()
    whole = (plan.slices + 2, plan.pixels, plan.pixels)
    square = slice(0, plan.pixels)
    slices = torch.empty(sum(counts), *whole[1:], dtype=source.array.dtype, device=source.array.device)
    for part, matrix, (first, stop) in zip(
        torch.split(slices, counts), matrices, plan.needed[which].tolist(), strict=True
    ):
        block = (slice(first, stop), square, square)
        source.sample(affine_block(matrix, whole, block), (stop - first, *whole[1:]), out=part)
    return slices


def half_will_do(array: npt.NDArray[np.float32]) -> bool:
    """Whether float16 holds voxels (less fill) as well as an encoder in half precision could tell them apart."""
    largest = max(float(array.max()), -float(array.min()))
    return _LEAST_OF_HALF <= largest <= _MOST_OF_HALF


def _launch(source: SliceSource, kernel: SamplePlanes, plan: SlicePlan, which: slice) -> torch.Tensor:
    """The slices that matter of some directions, all at once: N V U."""
    plane_to_ijk = source.ras_to_ijk @ plan.frame_to_ras @ plan.plane_to_frame(which)
    return kernel(source.array[0], plane_to_ijk[:, :3], plan.pixels, source.fill)


def _kernel(device: torch.device, dtype: torch.dtype) -> SamplePlanes | None:
    """`slicing.kernel.sample_planes`, where it runs."""
    if device.type != "cuda" or dtype != torch.float32:
        return None
    found = kernels.proven("tonno_core.slicing.kernel", device)
    return None if found is None else found.sample_planes
