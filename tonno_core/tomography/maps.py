"""The sum over directions of stacks of maps laid through a grid's nodes: two ways to the same numbers.

`PointMaps` is torch's 3D ``grid_sample`` at every node: the plain way, and the one for GPUs where no kernel runs.
`TileMaps` is for the CPU, where that handles one sample at a time and the 2D one sixteen (as in `volume.mosaic`).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.profiles import ROUNDING, Nodes

# Samples at once, over directions and nodes, that stay in a core's cache.
_SAMPLES = 1 << 17


class Maps(Protocol):
    """What lays maps through a grid."""

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""

    def total(self, channel: int) -> torch.Tensor:
        """The sum at all nodes, flat."""


class PointMaps:
    """At every node. size: of the whole grid. most: sampled points in memory at once."""

    def __init__(self, nodes: Nodes, channels: int, size: int, most: int, like: torch.Tensor) -> None:
        self._nodes, self._most = nodes, most
        self._sum = torch.zeros(channels, size, dtype=like.dtype, device=like.device)

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""
        frame_to_slice = torch.as_tensor(plan.frame_to_slice(which), dtype=maps.dtype, device=maps.device)
        # With align_corners=False cell c of h is at (2 c + 1) / h - 1. Its centre, pixel (c + 1/2) S / h - 1/2
        # of those at 2 t / (S - 1) - 1, is at that times S / (S - 1); offset m of M likewise.
        shrink = frame_to_slice.new_tensor([(n - 1.0) / n for n in (plan.pixels, plan.pixels, plan.slices)])
        for index, points in self._nodes():
            each = max(1, self._most // max(1, len(points)))
            for start in range(0, len(maps), each):
                turns = frame_to_slice[start : start + each]
                at = points @ turns.transpose(1, 2)  # B P 3: (a, b, s)
                inside = (at.abs() <= 1.0 + ROUNDING).all(dim=-1)
                at *= shrink
                values = F.grid_sample(
                    maps[start : start + each], at[:, None, None], padding_mode="border", align_corners=False
                )[:, :, 0, 0]
                self._sum[:, index] += (values * inside[:, None]).sum(dim=0)

    def total(self, channel: int) -> torch.Tensor:
        """The sum at all nodes, flat."""
        return self._sum[channel]


class TileMaps:
    """On the CPU. size: of the whole grid; only the wanted nodes have sums."""

    def __init__(self, nodes: Nodes, channels: int, size: int, like: torch.Tensor) -> None:
        self._nodes, self._size = nodes, size
        self._sums: list[torch.Tensor] = []
        self._within: list[bool] = []
        for index, points in nodes():
            self._sums.append(torch.zeros(channels, len(index), dtype=like.dtype))
            # The windows of all directions hold the unit ball.
            self._within.append(bool((points.square().sum(dim=1) <= 1.0).all()))

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""
        picture = _Picture(maps, plan.frame_to_slice(which), plan.pixels)
        each = max(1, _SAMPLES // len(maps))
        for (_, points), total, within in zip(self._nodes(), self._sums, self._within, strict=True):
            for part, target in zip(torch.split(points, each), torch.split(total, each, dim=1), strict=True):
                target += picture.sample(part, within)

    def total(self, channel: int) -> torch.Tensor:
        """The sum at all nodes, flat."""
        total = torch.zeros(self._size, dtype=self._sums[0].dtype)
        for (index, _), part in zip(self._nodes(), self._sums, strict=True):
            total[index] = part[channel]
        return total


class _Picture:
    """Maps ``B C M h w`` as the tiles of B pictures with 2 C channels: those of offset m, and those of m + 1.

    So one bilinear sample gives both, and the fraction of the offset the trilinear value. Around a tile its outermost
    cells are repeated, as between their centres and the window's edge the outermost value goes on.
    """

    def __init__(self, maps: torch.Tensor, frame_to_slice: npt.NDArray[np.float64], pixels: int) -> None:
        """frame_to_slice: B 3 3. pixels: S, that the cells tile."""
        count, channels, offsets, height, width = maps.shape
        self._channels, self._last = channels, offsets - 1.0
        self._columns = math.ceil(math.sqrt(offsets))
        rows = math.ceil(offsets / self._columns)
        bordered = F.pad(maps.flatten(0, 1), (1, 1, 1, 1), mode="replicate").unflatten(0, (count, channels))  # type: ignore[no-untyped-call]
        pair = torch.cat([bordered, torch.cat([bordered[:, :, 1:], bordered[:, :, -1:]], dim=2)], dim=1)
        pair = F.pad(pair, (0, 0, 0, 0, 0, rows * self._columns - offsets))
        tiles = pair.reshape(count, 2 * channels, rows, self._columns, height + 2, width + 2)
        self._canvas = tiles.transpose(3, 4).reshape(count, 2 * channels, rows * (height + 2), -1)
        # A tile's size in grid_sample's coordinates of the picture, whose pixels are 2 / (n - 1) apart.
        wide, high = 2.0 / (self._canvas.shape[3] - 1), 2.0 / (self._canvas.shape[2] - 1)
        self._tile = (width + 2) * wide, (height + 2) * high
        # (a, b, s) to the place in the first tile and to the offset: cell c's centre is pixel (c + 1/2) S / h - 1/2 of
        # those at 2 t / (S - 1) - 1.
        cells = (pixels - 1.0) / pixels / 2.0
        scale = np.array([cells * width * wide, cells * height * high, self._last / 2.0])
        middle = np.array([(width + 1) / 2.0 * wide - 1.0, (height + 1) / 2.0 * high - 1.0, self._last / 2.0])
        self._turns = torch.as_tensor(frame_to_slice * scale[:, None], dtype=maps.dtype).reshape(-1, 3)
        self._middle = torch.as_tensor(middle, dtype=maps.dtype)[:, None]
        self._most = torch.as_tensor(scale * (1.0 + ROUNDING), dtype=maps.dtype)[:, None]

    def sample(self, points: torch.Tensor, within: bool) -> torch.Tensor:
        """The sum over the directions at frame coordinates P 3: C P. within: all of them lie in all windows."""
        count = len(self._canvas)
        at = (self._turns @ points.T).reshape(count, 3, -1)
        inside = None if within else (at.abs() <= self._most).all(dim=1)
        at += self._middle
        offset = at[:, 2].clamp_(0.0, self._last)
        below = offset.floor()
        fraction = offset.sub_(below)
        row = below.mul(1.0 / self._columns).add_(0.5 / self._columns).floor_()
        column = below.sub_(row, alpha=self._columns)
        places = torch.empty(count, 1, len(points), 2, dtype=at.dtype)
        torch.add(at[:, 0], column, alpha=self._tile[0], out=places[:, 0, :, 0])
        torch.add(at[:, 1], row, alpha=self._tile[1], out=places[:, 0, :, 1])
        pair = F.grid_sample(self._canvas, places, align_corners=True)[:, :, 0]
        values = torch.lerp(pair[:, : self._channels], pair[:, self._channels :], fraction[:, None])
        if inside is not None:
            values *= inside[:, None]
        return values.sum(dim=0)
