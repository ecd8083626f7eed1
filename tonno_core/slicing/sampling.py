"""Slices of a volume along oblique planes (paper, eq. 4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core import kernels
from tonno_core.slicing.content import Content, bounding_box
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.atlas import Atlas
from tonno_core.volume.grid import affine_block, affine_points, ijk_to_grid
from tonno_core.volume.volume import Matrix, Volume

# Samples of the slices that are sampled at once, in the rectangle that the content needs there: fewer slices would fit
# closer but cost more calls, more would leave the cache. 69 slices of 96 x 96 pixels, 12 of 224 x 224.
_SAMPLES = 640_000
# Largest magnitudes that float16 will do for: it holds all whole numbers to 2048, and rounds any number by 2^-11 of it
# (below 2^-14 by 2^-25, which is 2^-21 of a largest of 2^-4).
_LEAST_OF_HALF, _MOST_OF_HALF = 2.0**-4, 2.0**11

# The signature of `slicing.kernel.sample_planes`.
SamplePlanes = Callable[[torch.Tensor, npt.NDArray[np.float64], int, float], torch.Tensor]


@dataclass(frozen=True)
class SliceSource:
    """A preprocessed volume on the device, ready to be sliced.

    Attributes:
        array: ``1 Z Y X``, voxel values less ``fill``, so that the zeros outside the volume are the fill value; float16
            only with a kernel.
        ras_to_ijk: 4 x 4, from RAS mm to voxel indices.
        content: where there is more than fill; None with a kernel, which does without.
        fill: value of the space outside the volume.
        atlas: the same voxels for the CPU; None on other devices and for volumes too large for it.
        kernel: samples planes on CUDA; None where it does not run.
    """

    array: torch.Tensor
    ras_to_ijk: Matrix
    content: Content | None
    fill: float = 0.0
    atlas: Atlas | None = None
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
        """Put a volume on a device.

        Args:
            volume: its intensities normalised.
            fill: value of the space outside the volume.
            device: where to.
            dtype: of the slices.
            half: allow voxels in float16, because the encoder rounds to it anyway. They are float16 where the kernel
                runs and intensities are neither too large nor too small for it; slices stay in ``dtype``.

        Returns:
            The source of slices.
        """
        inner = bounding_box(Volume(volume.array - np.float32(fill), volume.ijk_to_ras))
        device = torch.device(device)
        module = kernels.load("slicing", device, dtype)
        kernel: SamplePlanes | None = None if module is None else module.sample_planes
        stored = torch.float16 if half and kernel is not None and half_will_do(inner.array) else dtype
        on_device = torch.as_tensor(inner.array).to(stored).to(device)[None]
        atlas = Atlas.of_volume(on_device[0]) if device.type == "cpu" and Atlas.fits(inner.array.shape) else None
        content = Content.of(inner.array, inner.ijk_to_ras) if kernel is None else None
        ras_to_ijk = np.asarray(np.linalg.inv(inner.ijk_to_ras), dtype=np.float64)
        return SliceSource(on_device, ras_to_ijk, content, fill, atlas, kernel)


def sample_slices(source: SliceSource, plan: SlicePlan, which: slice) -> torch.Tensor:
    """Interpolate trilinearly on the slices that matter of some of a plan's directions.

    Args:
        source: the volume.
        plan: the planes, and which of them are needed; all M + 2 of a direction where it does not say.
        which: range of the plan's directions.

    Returns:
        ``N V U``, one direction after the other; rows run along u, columns along v.
    """
    if source.kernel is not None:
        plane_to_ijk = source.ras_to_ijk @ plan.frame_to_ras @ plan.plane_to_frame(which)
        return source.kernel(source.array[0], plane_to_ijk[:, :3], plan.pixels, source.fill)
    assert source.content is not None  # there is one without a kernel
    whole, square = (plan.slices + 2, plan.pixels, plan.pixels), slice(0, plan.pixels)
    matrices = plan.frame_to_ras @ plan.slice_to_frame(which)
    needed = np.tile([0, plan.slices + 2], (len(matrices), 1)) if plan.needed is None else plan.needed[which]
    counts = (needed[:, 1] - needed[:, 0]).tolist()
    slices = source.array.new_full((sum(counts), *whole[1:]), source.fill)
    for stack, matrix, (first, stop) in zip(torch.split(slices, counts), matrices, needed.tolist(), strict=True):
        unit_to_ras = affine_block(matrix, whole, (slice(first, stop), square, square))
        shape = (stop - first, *whole[1:])
        runs = math.ceil(math.prod(shape) / _SAMPLES)
        # Where the slices can meet the content; the rest is fill.
        for block in source.content.blocks(unit_to_ras, shape, math.ceil(shape[0] / runs)):
            size = (block[0].stop - block[0].start, block[1].stop - block[1].start, block[2].stop - block[2].start)
            unit_to_ijk = source.ras_to_ijk @ affine_block(unit_to_ras, shape, block)
            if source.atlas is None:
                values = _grid_sample(source.array, unit_to_ijk, size)
            else:
                values = source.atlas.sample(*source.atlas.voxel_points(unit_to_ijk, size))[:, 0]
            torch.add(values, source.fill, out=stack[block])
    return slices


def _grid_sample(array: torch.Tensor, unit_to_ijk: Matrix, size: tuple[int, int, int]) -> torch.Tensor:
    """Interpolate ``1 Z Y X`` with torch's 3D grid_sample: ``T V U``."""
    _, z, y, x = array.shape
    theta = torch.as_tensor(ijk_to_grid((x, y, z)) @ unit_to_ijk, dtype=array.dtype, device=array.device)[None]
    return F.grid_sample(array[None], affine_points(theta, size), padding_mode="zeros", align_corners=True)[0, 0]


def half_will_do(array: npt.NDArray[np.float32]) -> bool:
    """Tell whether float16 holds voxels as well as an encoder in half precision can tell them apart.

    Args:
        array: ``Z Y X``, less fill.

    Returns:
        Whether the largest magnitude is within float16's good range.
    """
    largest = max(float(array.max()), -float(array.min()))
    return _LEAST_OF_HALF <= largest <= _MOST_OF_HALF
