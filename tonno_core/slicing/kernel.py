"""Slices in one Triton kernel: a slice is an affine, and no coordinate is ever in memory.

For CUDA, where Triton is (not on Windows); imported only there. Tests run it in Triton's interpreter, against
``grid_sample`` in float64, and compile it for a GPU; those marked ``cuda`` run it on one. On an H100 it is faster than
``grid_sample``, and takes 2 % of a reconstruction's time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

# Rows and columns of a slice that a program samples: near each other, so that they share voxels.
_ROWS, _COLUMNS = 16, 32


# The compiler makes code for each kind of number and address: 1, a multiple of 16, others. Only the width gains by it,
# as neighbours in a row are written together; all volumes share the rest.
@triton.jit  # type: ignore[untyped-decorator]
def sample(
    volume: tl.tensor,
    affine: tl.tensor,
    row: tl.tensor,
    column: tl.tensor,
    there: tl.tensor,
    z: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> tl.tensor:
    """Interpolate a part of a plane. volume: z y x, zero around. affine: 3 3, (column, row, 1) to voxel (i, j, k)."""
    across = column.to(tl.float32) - (width - 1) * 0.5
    down = row.to(tl.float32) - (height - 1) * 0.5
    i = tl.load(affine) * across + tl.load(affine + 1) * down + tl.load(affine + 2)
    j = tl.load(affine + 3) * across + tl.load(affine + 4) * down + tl.load(affine + 5)
    k = tl.load(affine + 6) * across + tl.load(affine + 7) * down + tl.load(affine + 8)
    # The voxel before, along each axis.
    first_i, first_j, first_k = tl.floor(i).to(tl.int32), tl.floor(j).to(tl.int32), tl.floor(k).to(tl.int32)
    part_i, part_j, part_k = i - tl.floor(i), j - tl.floor(j), k - tl.floor(k)
    value = tl.zeros([rows, columns], dtype=tl.float32)
    for corner in tl.static_range(8):
        next_i, next_j, next_k = corner % 2, (corner // 2) % 2, corner // 4
        # 1 - part at the voxel before, part at the next.
        weight = (1 - next_i) + (2 * next_i - 1) * part_i
        weight *= (1 - next_j) + (2 * next_j - 1) * part_j
        weight *= (1 - next_k) + (2 * next_k - 1) * part_k
        at_i, at_j, at_k = first_i + next_i, first_j + next_j, first_k + next_k
        inside = (at_i >= 0) & (at_i < x) & (at_j >= 0) & (at_j < y) & (at_k >= 0) & (at_k < z)
        place = (at_k.to(tl.int64) * y + at_j) * x + at_i
        value += weight * tl.load(volume + place, mask=there & inside, other=0.0).to(tl.float32)
    return value


@triton.jit(do_not_specialize=["affines", "z", "y", "x", "height"])  # type: ignore[untyped-decorator]
def _sample_planes(
    planes: tl.tensor,
    volume: tl.tensor,
    affines: tl.tensor,
    fill: tl.tensor,
    z: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
) -> None:
    """Write planes N height width. volume: z y x, zero around. affines: N 3 3, (column, row, 1) to voxel (i, j, k)."""
    number = tl.program_id(0)
    row = tl.program_id(1) * rows + tl.arange(0, rows)[:, None]
    column = tl.program_id(2) * columns + tl.arange(0, columns)[None, :]
    there = (row < height) & (column < width)
    value = sample(volume, affines + number * 9, row, column, there, z, y, x, height, width, rows, columns)
    tl.store(planes + (number.to(tl.int64) * height + row) * width + column, value + fill, mask=there)


def sample_planes(volume: torch.Tensor, plane_to_ijk: torch.Tensor, pixels: int, fill: float = 0.0) -> torch.Tensor:
    """Interpolate trilinearly on N squares of S x S pixels.

    Coordinates and weights are float32, whatever the volume is.

    Args:
        volume: ``Z Y X`` in float16 or float32, less ``fill``; zeros around it.
        plane_to_ijk: N 3 3 in float32 on the volume's device, from (column, row, 1), in pixels from the middle of the
            square, to voxel indices.
        pixels: S.
        fill: added to the values.

    Returns:
        Values ``N S S`` in float32, on the volume's device.
    """
    z, y, x = volume.shape
    planes = torch.empty(len(plane_to_ijk), pixels, pixels, dtype=torch.float32, device=volume.device)
    grid = (len(planes), triton.cdiv(pixels, _ROWS), triton.cdiv(pixels, _COLUMNS))
    with torch.cuda.device_of(volume):  # type: ignore[no-untyped-call]
        _sample_planes[grid](
            planes, volume, plane_to_ijk, fill, z, y, x, pixels, pixels,
            rows=_ROWS, columns=_COLUMNS, enable_fp_fusion=True,
        )  # fmt: skip
    return planes


def works(device: torch.device) -> bool:
    """Test the kernel on a ramp, in float32 and in float16: the code that slices of 16 n pixels are sampled by.

    Args:
        device: where it is to run.

    Returns:
        Whether the numbers are right.
    """
    ramp = torch.arange(64.0, device=device).reshape(2, 2, 16)  # i + 16 j + 32 k
    # Columns half a voxel apart along i, at j = 0.5, k = 0.25 of the volume, and one plane outside it.
    first = torch.tensor([[0.5, 0.0, 7.5], [0.0, 0.0, 0.5], [0.0, 0.0, 0.25]], device=device)
    outside = first + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]], device=device)
    expected = 0.5 * torch.arange(16.0, device=device) + 3.75 + 8.0 + 8.0 - 1.0
    for volume in (ramp, ramp.half()):
        inner, outer = sample_planes(volume, torch.stack([first, outside]), 16, fill=-1.0)
        if not (torch.allclose(inner, expected.expand(16, 16)) and bool((outer == -1.0).all())):
            return False
    return True
