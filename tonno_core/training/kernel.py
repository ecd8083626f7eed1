"""A batch's random slices in two Triton launches: cut from many volumes at once, then blurred, scaled and made noisy.

For CUDA, where Triton is (not on Windows); imported only there. Tests run it in Triton's interpreter against the plain
way, and compile it for a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from tonno_core.slicing.kernel import sample
from tonno_core.training.augmentation import BLUR_REACH, gaussian_blur
from tonno_core.training.voxels import on_device

# Rows and columns of a slice that a program makes: near each other, so that they share voxels.
_ROWS, _COLUMNS = 16, 32


@triton.jit  # type: ignore[untyped-decorator]
def _cut(
    slices: tl.tensor,
    affines: tl.tensor,
    places: tl.tensor,
    pixels: tl.tensor,
    each: tl.tensor,
    voxel: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Write slices N S S. affines: N 10, (column, row, 1) to voxel (i, j, k), and fill. places: address, z, y, x."""
    number = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    column = tl.program_id(2) * columns + tl.arange(0, columns)[None, :]
    there = (row < pixels) & (column < pixels)
    affine = affines + number * 10
    place = places + (number // each) * 5
    z, y, x = tl.load(place + 1).to(tl.int32), tl.load(place + 2).to(tl.int32), tl.load(place + 3).to(tl.int32)
    volume = tl.load(place).to(tl.pointer_type(voxel))
    value = sample(volume, affine, row, column, there, z, y, x, pixels, pixels, rows, columns)
    tl.store(slices + (number.to(tl.int64) * pixels + row) * pixels + column, value + tl.load(affine + 9), mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _change(
    changed: tl.tensor,
    slices: tl.tensor,
    changes: tl.tensor,
    places: tl.tensor,
    pixels: tl.tensor,
    each: tl.tensor,
    reach: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Write changed N S S. changes: N 4, gain, offset, noise and blur. places: the fifth is the noise's seed."""
    number = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    column = tl.program_id(2) * columns + tl.arange(0, columns)[None, :]
    change = changes + number * 4
    # A vanishing sigma leaves the slice as it is.
    sigma = tl.maximum(tl.load(change + 3), 1e-3)
    slice_ = slices + number.to(tl.int64) * pixels * pixels
    value = tl.zeros([rows, columns], dtype=tl.float32)
    weights = 0.0
    for down in range(2 * reach + 1):
        step = (down - reach) / sigma
        weight = tl.exp(-0.5 * step * step)
        weights += weight
        # The edge is repeated beyond it.
        at_row = tl.minimum(tl.maximum(row + down - reach, 0), pixels - 1)
        along = tl.zeros([rows, columns], dtype=tl.float32)
        for across in tl.static_range(2 * reach + 1):
            step = (across - reach) / sigma
            at_column = tl.minimum(tl.maximum(column + across - reach, 0), pixels - 1)
            along += tl.exp(-0.5 * step * step) * tl.load(slice_ + at_row * pixels + at_column)
        value += weight * along
    value = value / (weights * weights)
    seed = tl.load(places + (number // each) * 5 + 4)
    pixel = (number % each) * pixels * pixels + row * pixels + column
    value = value * tl.load(change) + tl.load(change + 1) + tl.randn(seed, pixel) * tl.load(change + 2)
    there = (row < pixels) & (column < pixels)
    tl.store(changed + number.to(tl.int64) * pixels * pixels + row * pixels + column, value, mask=there)


def random_slices(
    volumes: Sequence[torch.Tensor],
    plane_to_ijk: npt.NDArray[np.float64],
    fills: Sequence[float],
    pixels: int,
    changes: npt.NDArray[np.float64] | None = None,
    seeds: Sequence[int] = (),
) -> torch.Tensor:
    """Interpolate K slices of each of V volumes trilinearly, and change their intensities. The host waits for nothing.

    Args:
        volumes: V of Z Y X, less fill, all float16 or all float32, on one device; zeros around them.
        plane_to_ijk: V K 3 3, from (column, row, 1), in pixels from the middle of the slice, to voxel indices.
        fills: Added to the values of each volume's slices.
        pixels: S.
        changes: V K 4, as `Augmentation.changes` draws them; None for none.
        seeds: Of each volume's white noise, V; none without changes.

    Returns:
        Slices V K S S, float32, on the volumes' device.
    """
    device, (count, each) = volumes[0].device, plane_to_ijk.shape[:2]
    volumes = [volume.contiguous() for volume in volumes]
    affines = np.empty((count, each, 10), dtype=np.float32)
    affines[..., :9] = plane_to_ijk.reshape(count, each, 9)
    affines[..., 9] = np.asarray(fills)[:, None]
    places = np.zeros((count, 5), dtype=np.int64)
    places[:, 0] = [volume.data_ptr() for volume in volumes]
    places[:, 1:4] = [volume.shape for volume in volumes]
    places[: len(seeds), 4] = seeds
    tables = [on_device(affines, device), on_device(places, device)]
    slices = torch.empty(count, each, pixels, pixels, device=device)
    voxel = tl.float16 if volumes[0].dtype == torch.float16 else tl.float32
    grid = (count * each, triton.cdiv(pixels, _ROWS), triton.cdiv(pixels, _COLUMNS))
    with torch.cuda.device_of(slices):  # type: ignore[no-untyped-call]
        _cut[grid](
            slices, *tables, pixels, each, voxel=voxel, rows=_ROWS, columns=_COLUMNS,
            enable_fp_fusion=True,
        )  # fmt: skip
        if changes is None:
            return slices
        changed, table = torch.empty_like(slices), on_device(changes.astype(np.float32), device)
        _change[grid](
            changed, slices, table, tables[1], pixels, each, reach=BLUR_REACH, rows=_ROWS, columns=_COLUMNS
        )  # fmt: skip
    return changed


def works(device: torch.device) -> bool:
    """Test the kernels on two ramps of different sizes, in float32 and in float16.

    Args:
        device: Where they are to run.

    Returns:
        Whether the numbers are right.
    """
    ramps = [torch.arange(8.0, device=device).reshape(2, 2, 2), torch.arange(12.0, device=device).reshape(3, 2, 2)]
    # Three pixels along i, half a voxel from the next, at j = 0.5, k = 0.25 of each volume: i + 2 j + 4 k.
    plane = np.array([[0.5, 0.0, 0.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.25]])
    planes, changes = np.tile(plane, (2, 1, 1, 1)), np.zeros((2, 1, 4))
    changes[..., 0], changes[..., 1], changes[..., 3] = 2.0, 1.0, 0.5
    row = torch.tensor([2.0, 2.5, 3.0]).expand(3, 3)
    # On the CPU: convolutions of a GPU may round their input (TF32).
    blurred = gaussian_blur(row[None], torch.tensor([0.5]))[0].to(device)
    row = row.to(device)
    for volumes in (ramps, [ramp.half() for ramp in ramps]):
        cut = random_slices(volumes, planes, (-1.0, 3.0), 3)[:, 0]
        changed = random_slices(volumes, planes, (0.0, 0.0), 3, changes, (1, 2))[:, 0]
        if not torch.allclose(cut, torch.stack([row - 1.0, row + 3.0])):
            return False
        if not torch.allclose(changed, (2.0 * blurred + 1.0).expand(2, 3, 3), rtol=1e-4):
            return False
    return True
