"""`PointProfiles` and `PointMaps` in a Triton kernel each: all directions of a batch, every node read and written once.

For CUDA, where Triton is (not on Windows); imported only there. Never run on a GPU yet: tests run them in Triton's
interpreter, against the plain ways, and compile them for a GPU.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.profiles import ROUNDING
from tonno_core.volume.volume import Matrix

# Nodes of a program: fewer where eight values per node are gathered, which takes registers.
_BLOCK, _MAPS_BLOCK = 1024, 256


@triton.jit  # type: ignore[untyped-decorator]
def _add_profiles(
    total: tl.tensor,
    profiles: tl.tensor,
    steps: tl.tensor,
    directions: tl.tensor,
    offsets: tl.tensor,
    nodes: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    margin: tl.tensor,
    block: tl.constexpr,
) -> None:
    """total += sum over l of q_l(steps_l . (i, j, k, 1)). profiles: L M. steps: L 4, to positions in a profile."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    there = index < nodes
    i = (index % x).to(tl.float32)
    j = ((index // x) % y).to(tl.float32)
    k = (index // (x * y)).to(tl.float32)
    value = tl.load(total + index, mask=there, other=0.0)
    for one in range(directions):
        step = steps + one * 4
        at = tl.load(step) * i + tl.load(step + 1) * j + tl.load(step + 2) * k + tl.load(step + 3)
        below = tl.minimum(tl.maximum(tl.floor(at), 0.0), offsets - 2.0)
        place = profiles + one * offsets + below.to(tl.int32)
        low = tl.load(place, mask=there, other=0.0)
        high = tl.load(place + 1, mask=there, other=0.0)
        inside = (at >= -margin) & (at <= offsets - 1 + margin)
        value += tl.where(inside, low + (high - low) * (at - below), 0.0)
    tl.store(total + index, value, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def _add_maps(
    total: tl.tensor,
    wanted: tl.tensor,
    maps: tl.tensor,
    turns: tl.tensor,
    directions: tl.tensor,
    offsets: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    nodes: tl.tensor,
    y: tl.tensor,
    x: tl.tensor,
    cells_high: tl.tensor,
    cells_wide: tl.tensor,
    steps: tl.tensor,
    most: tl.tensor,
    block: tl.constexpr,
) -> None:
    """total[c] += sum over l of maps[l, c] at (a, b, s) = turns_l (i, j, k, 1). maps: L C M h w. turns: L 3 4.

    cells_wide, cells_high, steps: cells and offsets per unit of a, b and s, whose middle is at 0. Outside of -most to
    most a map is zero.
    """
    channel, channels = tl.program_id(1), tl.num_programs(1)
    index = tl.program_id(0) * block + tl.arange(0, block)
    there = tl.load(wanted + index, mask=index < nodes, other=0) != 0
    i = (index % x).to(tl.float32)
    j = ((index // x) % y).to(tl.float32)
    k = (index // (x * y)).to(tl.float32)
    place = total + channel.to(tl.int64) * nodes + index
    value = tl.load(place, mask=there, other=0.0)
    for one in range(directions):
        turn = turns + one * 12
        a = tl.load(turn) * i + tl.load(turn + 1) * j + tl.load(turn + 2) * k + tl.load(turn + 3)
        b = tl.load(turn + 4) * i + tl.load(turn + 5) * j + tl.load(turn + 6) * k + tl.load(turn + 7)
        s = tl.load(turn + 8) * i + tl.load(turn + 9) * j + tl.load(turn + 10) * k + tl.load(turn + 11)
        inside = there & (tl.abs(a) <= most) & (tl.abs(b) <= most) & (tl.abs(s) <= most)
        # Between the outermost centre and the window's edge the outermost value goes on.
        column = tl.minimum(tl.maximum(a * cells_wide + (width - 1) * 0.5, 0.0), width - 1.0)
        row = tl.minimum(tl.maximum(b * cells_high + (height - 1) * 0.5, 0.0), height - 1.0)
        offset = tl.minimum(tl.maximum(s * steps + (offsets - 1) * 0.5, 0.0), offsets - 1.0)
        first_column, first_row, first_offset = tl.floor(column), tl.floor(row), tl.floor(offset)
        stack = maps + (one * channels + channel).to(tl.int64) * offsets * height * width
        sample = tl.zeros([block], dtype=tl.float32)
        for corner in tl.static_range(8):
            next_column, next_row, next_offset = corner % 2, (corner // 2) % 2, corner // 4
            # 1 - part at the cell before, part at the next; behind the last one there is none, and no part of it.
            weight = (1 - next_column) + (2 * next_column - 1) * (column - first_column)
            weight *= (1 - next_row) + (2 * next_row - 1) * (row - first_row)
            weight *= (1 - next_offset) + (2 * next_offset - 1) * (offset - first_offset)
            at_column = tl.minimum(first_column + next_column, width - 1.0)
            at_row = tl.minimum(first_row + next_row, height - 1.0)
            at_offset = tl.minimum(first_offset + next_offset, offsets - 1.0)
            cell = (at_offset.to(tl.int32) * height + at_row.to(tl.int32)) * width + at_column.to(tl.int32)
            sample += weight * tl.load(stack + cell, mask=inside, other=0.0)
        value += sample
    tl.store(place, value, mask=there)


class KernelProfiles:
    """As `RowProfiles`, on the device of ``like``, in float32. wanted: bool Z Y X, None for every node."""

    def __init__(
        self, shape: tuple[int, int, int], ijk_to_frame: Matrix, wanted: torch.Tensor | None, like: torch.Tensor
    ) -> None:
        self._shape, self._ijk_to_frame, self._wanted = shape, ijk_to_frame, wanted
        self._sum = torch.zeros(shape, dtype=torch.float32, device=like.device)

    def add(self, profiles: torch.Tensor, normals: npt.NDArray[np.float64]) -> None:
        """Add q_l(x . n_l): profiles ``B M`` over [-1, 1], normals B 3."""
        count, offsets = profiles.shape
        half = (offsets - 1) / 2.0
        steps = half * normals @ self._ijk_to_frame[:3]
        steps[:, 3] += half
        _, y, x = self._shape
        nodes = self._sum.numel()
        on_device = torch.as_tensor(steps, dtype=torch.float32).contiguous().to(self._sum.device)
        with torch.cuda.device_of(self._sum):  # type: ignore[no-untyped-call]
            _add_profiles[(triton.cdiv(nodes, _BLOCK),)](
                self._sum, profiles.float().contiguous(), on_device, count, offsets, nodes, y, x,
                ROUNDING * (offsets - 1), block=_BLOCK, enable_fp_fusion=True,
            )  # fmt: skip

    def total(self) -> torch.Tensor:
        """The sum at all nodes, flat."""
        return (self._sum if self._wanted is None else self._sum * self._wanted).flatten()


class KernelMaps:
    """As `PointMaps`, on the device of ``like``, in float32. wanted: bool Z Y X, None for every node."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        ijk_to_frame: Matrix,
        wanted: torch.Tensor | None,
        channels: int,
        like: torch.Tensor,
    ) -> None:
        self._shape, self._ijk_to_frame = shape, ijk_to_frame
        self._sum = torch.zeros(channels, math.prod(shape), dtype=torch.float32, device=like.device)
        every = torch.ones(shape, dtype=torch.bool, device=like.device)
        self._wanted = (every if wanted is None else wanted.to(every)).flatten().view(torch.uint8)

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""
        count, channels, offsets, height, width = maps.shape
        turns = plan.frame_to_slice(which) @ self._ijk_to_frame[:3]
        on_device = torch.as_tensor(turns, dtype=torch.float32).contiguous().to(self._sum.device)
        _, y, x = self._shape
        nodes = self._sum.shape[1]
        window = (plan.pixels - 1) / plan.pixels / 2.0  # of the window between the outermost pixels' centres, per unit
        with torch.cuda.device_of(self._sum):  # type: ignore[no-untyped-call]
            _add_maps[(triton.cdiv(nodes, _MAPS_BLOCK), channels)](
                self._sum, self._wanted, maps.float().contiguous(), on_device, count, offsets, height, width,
                nodes, y, x, window * height, window * width, (offsets - 1) / 2.0, 1.0 + ROUNDING,
                block=_MAPS_BLOCK, enable_fp_fusion=True,
            )  # fmt: skip

    def total(self, channel: int) -> torch.Tensor:
        """The sum at all nodes, flat."""
        return self._sum[channel]


def works(device: torch.device) -> bool:
    """Whether both kernels give on this device what they should."""
    like, normal, shape = torch.empty(0, device=device), np.array([[1.0, 0.0, 0.0]]), (2, 2, 2)
    ramp = torch.tensor([1.0, 3.0, 5.0], device=device)
    profiles = KernelProfiles(shape, np.eye(4), None, like)
    profiles.add(ramp[None], normal)
    maps = KernelMaps(shape, np.eye(4), None, 2, like)
    maps.add(torch.stack([-ramp, ramp])[None, :, :, None, None], SlicePlan(np.eye(4), normal, 3, 2), slice(0, 1))
    right = ramp[1:].repeat(4)  # at the middle and the end along x; y and z are 0 or 1, within the window
    return torch.allclose(profiles.total(), right) and torch.allclose(maps.total(1), right)
