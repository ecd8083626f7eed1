"""Triton kernels for sums of profiles and maps: all directions of a batch, every node read and written once.

For CUDA, where Triton is (not on Windows); imported only there. Tests run the kernels in Triton's interpreter, against
the references, and compile them for a GPU; those marked ``cuda`` run them on one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import ROUNDING, Nodes, OfDirections, TargetGrid

# Nodes of a program: fewer where eight values per node are gathered, which takes registers.
_BLOCK, _MAPS_BLOCK = 1024, 256


# The compiler makes code for each kind of number and address: 1, a multiple of 16, others. Only the nodes gain by it,
# as neighbours are read together; all batches of all runs, the last of fewer directions included, share the rest.
@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["profiles", "steps", "directions", "offsets", "y", "x"]
)
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
    """Add to total: sum over l of q_l(steps_l . (i, j, k, 1)). profiles: L M. steps: L 4, to positions in a profile."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    there = index < nodes
    i = (index % x).to(tl.float32)
    j = ((index // x) % y).to(tl.float32)
    k = (index // (x * y)).to(tl.float32)
    value = tl.load(total + index, mask=there, other=0.0)
    for direction in range(directions):
        step = steps + direction * 4
        at = tl.load(step) * i + tl.load(step + 1) * j + tl.load(step + 2) * k + tl.load(step + 3)
        below = tl.minimum(tl.maximum(tl.floor(at), 0.0), offsets - 2.0)
        place = profiles + direction * offsets + below.to(tl.int32)
        low = tl.load(place, mask=there, other=0.0)
        high = tl.load(place + 1, mask=there, other=0.0)
        inside = (at >= -margin) & (at <= offsets - 1 + margin)
        value += tl.where(inside, low + (high - low) * (at - below), 0.0)
    tl.store(total + index, value, mask=there)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["maps", "rotations", "directions", "offsets", "height", "width", "y", "x"]
)
def _add_maps(
    total: tl.tensor,
    mask: tl.tensor,
    maps: tl.tensor,
    rotations: tl.tensor,
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
    """Add to total[c]: sum over l of maps[l, c] at (a, b, s) = rotations_l (i, j, k, 1).

    mask: uint8, 0 where nothing is added. maps: L C M h w. rotations: L 3 4, scaled to the voxels' steps.
    cells_wide, cells_high, steps: cells and offsets per unit of a, b and s, whose middle is at 0. Outside of -most to
    most a map is zero.
    """
    channel, channels = tl.program_id(1), tl.num_programs(1)
    index = tl.program_id(0) * block + tl.arange(0, block)
    there = tl.load(mask + index, mask=index < nodes, other=0) != 0
    i = (index % x).to(tl.float32)
    j = ((index // x) % y).to(tl.float32)
    k = (index // (x * y)).to(tl.float32)
    place = total + channel.to(tl.int64) * nodes + index
    value = tl.load(place, mask=there, other=0.0)
    for direction in range(directions):
        row_a = rotations + direction * 12
        row_b, row_s = row_a + 4, row_a + 8
        a = tl.load(row_a) * i + tl.load(row_a + 1) * j + tl.load(row_a + 2) * k + tl.load(row_a + 3)
        b = tl.load(row_b) * i + tl.load(row_b + 1) * j + tl.load(row_b + 2) * k + tl.load(row_b + 3)
        s = tl.load(row_s) * i + tl.load(row_s + 1) * j + tl.load(row_s + 2) * k + tl.load(row_s + 3)
        inside = there & (tl.abs(a) <= most) & (tl.abs(b) <= most) & (tl.abs(s) <= most)
        # Between the outermost centre and the window's edge the outermost value goes on.
        column = tl.minimum(tl.maximum(a * cells_wide + (width - 1) * 0.5, 0.0), width - 1.0)
        row = tl.minimum(tl.maximum(b * cells_high + (height - 1) * 0.5, 0.0), height - 1.0)
        offset = tl.minimum(tl.maximum(s * steps + (offsets - 1) * 0.5, 0.0), offsets - 1.0)
        first_column, first_row, first_offset = tl.floor(column), tl.floor(row), tl.floor(offset)
        stack = maps + (direction * channels + channel).to(tl.int64) * offsets * height * width
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
    """A `tomography.profiles.ProfileBackprojection` on CUDA, in float32."""

    def __init__(self, nodes: Nodes) -> None:
        """Start with zero; see `tomography.profiles.ProfileBackprojection`."""
        self._grid, self._mask = nodes.grid, nodes.mask()
        self._sum = torch.zeros(nodes.grid.shape, dtype=torch.float32, device=nodes.like.device)
        self._steps = OfDirections(self._steps_of, self._sum)

    def add(self, profiles: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add q_l(x . n_l) of some directions of a plan.

        Args:
            profiles: ``B M``, values at M even offsets over [-1, 1].
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        count, offsets = profiles.shape
        steps = self._steps.of(plan, which)
        _, y, x = self._grid.shape
        nodes = self._sum.numel()
        with torch.cuda.device_of(self._sum):  # type: ignore[no-untyped-call]
            _add_profiles[(triton.cdiv(nodes, _BLOCK),)](
                self._sum, profiles.float().contiguous(), steps, count, offsets, nodes, y, x,
                ROUNDING * (offsets - 1), block=_BLOCK, enable_fp_fusion=True,
            )  # fmt: skip

    def _steps_of(self, plan: SlicePlan) -> npt.NDArray[np.float64]:
        """Return the changes of positions in a profile by voxel index, and their origin: L 4."""
        half = (plan.slices - 1) / 2.0
        steps: npt.NDArray[np.float64] = half * plan.directions @ self._grid.ijk_to_frame[:3]
        steps[:, 3] += half
        return steps

    def total(self) -> torch.Tensor:
        """Return the sum.

        Returns:
            Values at all nodes of the grid, flat; zero where none are computed.
        """
        return (self._sum if self._mask is None else self._sum * self._mask).flatten()


class KernelMaps:
    """A `tomography.maps.MapBackprojection` on CUDA, in float32."""

    def __init__(self, nodes: Nodes, channels: int) -> None:
        """Start with zero; see `tomography.maps.MapBackprojection`."""
        self._grid = nodes.grid
        shape, device, mask = nodes.grid.shape, nodes.like.device, nodes.mask()
        self._sum = torch.zeros(channels, math.prod(shape), dtype=torch.float32, device=device)
        to_frame = nodes.grid.ijk_to_frame[:3]
        self._rotations = OfDirections(lambda plan: plan.frame_to_slice(slice(None)) @ to_frame, self._sum)
        every = torch.ones(shape, dtype=torch.bool, device=device) if mask is None else mask
        self._mask = every.flatten().view(torch.uint8)

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add the maps of some directions of a plan, whose slices they tile.

        Args:
            maps: ``B C M h w``.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        count, channels, offsets, height, width = maps.shape
        rotations = self._rotations.of(plan, which)
        _, y, x = self._grid.shape
        nodes = self._sum.shape[1]
        # The share of the window between the outermost pixels' centres, per unit of a and b.
        window = (plan.pixels - 1) / plan.pixels / 2.0
        with torch.cuda.device_of(self._sum):  # type: ignore[no-untyped-call]
            _add_maps[(triton.cdiv(nodes, _MAPS_BLOCK), channels)](
                self._sum, self._mask, maps.float().contiguous(), rotations, count, offsets, height, width,
                nodes, y, x, window * height, window * width, (offsets - 1) / 2.0, 1.0 + ROUNDING,
                block=_MAPS_BLOCK, enable_fp_fusion=True,
            )  # fmt: skip

    def total(self, channel: int) -> torch.Tensor:
        """Return the sum of a channel.

        Args:
            channel: from 0.

        Returns:
            Values at all nodes of the grid, flat; zero where none are computed.
        """
        return self._sum[channel]


def works(device: torch.device) -> bool:
    """Test both kernels on 16 nodes whose sums are known: by the code of all grids of 16 n nodes.

    Args:
        device: where they are to run.

    Returns:
        Whether the numbers are right.
    """
    plan, every = SlicePlan(np.eye(4), np.array([[1.0, 0.0, 0.0]]), 3, 2), slice(0, 1)
    ramp = torch.tensor([1.0, 3.0, 5.0], device=device)
    nodes = Nodes(TargetGrid((4, 2, 2), np.diag([1.0, 1.0, 0.25, 1.0])), ramp)
    profiles = KernelProfiles(nodes)
    profiles.add(ramp[None], plan, every)
    maps = KernelMaps(nodes, 2)
    maps.add(torch.stack([-ramp, ramp])[None, :, :, None, None], plan, every)
    right = ramp[1:].repeat(8)  # at the middle and the end along x; y and z are 0 to 1, within the window
    return torch.allclose(profiles.total(), right) and torch.allclose(maps.total(1), right)
