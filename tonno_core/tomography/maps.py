"""Sums over directions of stacks of maps at a grid's nodes: a reference, and the same numbers faster on the CPU.

`ReferenceMaps` is torch's 3D ``grid_sample`` at every node; it runs everywhere. `AtlasMaps` is for the CPU, where
the 2D ``grid_sample`` is many times as fast (`volume.atlas`). On CUDA there is a kernel (`tomography.kernel`).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import POINTS, ROUNDING, Nodes, OfDirections
from tonno_core.volume.atlas import Atlas

# Samples at once, over directions and nodes, that stay in a core's cache.
_SAMPLES = 1 << 17


class MapBackprojection(Protocol):
    """A sum of maps at the nodes of a grid, one per channel."""

    def __init__(self, nodes: Nodes, channels: int) -> None:
        """Start with zero.

        Args:
            nodes: where to sum.
            channels: C, number of sums.
        """

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add the maps of some directions of a plan, whose slices they tile.

        Args:
            maps: ``B C M h w``.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """

    def total(self, channel: int) -> torch.Tensor:
        """Return the sum of a channel.

        Args:
            channel: from 0.

        Returns:
            Values at all nodes of the grid, flat; zero where none are computed.
        """


class ReferenceMaps:
    """A `MapBackprojection` by interpolation at every node."""

    def __init__(self, nodes: Nodes, channels: int) -> None:
        """Start with zero; see `MapBackprojection`."""
        self._nodes = nodes
        self._sum = nodes.like.new_zeros(channels, math.prod(nodes.grid.shape))
        # With align_corners=False cell c of h is at (2 c + 1) / h - 1. Its centre, pixel (c + 1/2) S / h - 1/2
        # of those at 2 t / (S - 1) - 1, is at that times S / (S - 1); offset m of M likewise.
        self._shrink = OfDirections(
            lambda plan: np.array([(n - 1.0) / n for n in (plan.pixels, plan.pixels, plan.slices)]), nodes.like
        )
        self._turns = OfDirections(lambda plan: plan.frame_to_slice(slice(None)), nodes.like)

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add the maps of some directions of a plan.

        Args:
            maps: ``B C M h w``.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        frame_to_slice, shrink = self._turns.of(plan, which), self._shrink.of(plan, slice(None))
        for index, points in self._nodes.parts():
            each = max(1, POINTS // max(1, len(points)))
            for start in range(0, len(maps), each):
                rotations = frame_to_slice[start : start + each]
                at = points @ rotations.transpose(1, 2)  # B P 3: (a, b, s)
                inside = (at.abs() <= 1.0 + ROUNDING).all(dim=-1)
                at *= shrink
                values = F.grid_sample(
                    maps[start : start + each], at[:, None, None], padding_mode="border", align_corners=False
                )[:, :, 0, 0]
                self._sum[:, index] += (values * inside[:, None]).sum(dim=0)

    def total(self, channel: int) -> torch.Tensor:
        """Return the sum of a channel.

        Args:
            channel: from 0.

        Returns:
            Values at all nodes of the grid, flat.
        """
        return self._sum[channel]


class AtlasMaps:
    """A `MapBackprojection` on the CPU, which samples an atlas of each direction's offsets."""

    def __init__(self, nodes: Nodes, channels: int) -> None:
        """Start with zero; see `MapBackprojection`."""
        self._nodes = nodes
        self._sums: list[torch.Tensor] = []
        self._within: list[bool] = []
        for index, points in nodes.parts():
            self._sums.append(nodes.like.new_zeros(channels, len(index)))
            # The windows of all directions hold the unit ball.
            self._within.append(bool((points.square().sum(dim=1) <= 1.0).all()))

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add the maps of some directions of a plan.

        Args:
            maps: ``B C M h w``.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        count, channels, offsets, height, width = maps.shape
        # Around a tile its outermost cells are repeated: between their centres and the window's edge the outermost
        # value goes on.
        atlas = Atlas(F.pad(maps.flatten(0, 1), (1, 1, 1, 1), mode="replicate").unflatten(0, (count, channels)))  # type: ignore[no-untyped-call]
        last = offsets - 1.0
        # (a, b, s) to a column, a row and an offset: cell c's centre is pixel (c + 1/2) S / h - 1/2 of those at
        # 2 t / (S - 1) - 1.
        cells = (plan.pixels - 1.0) / plan.pixels / 2.0
        scale = atlas.scale * [cells * width, cells * height, last / 2.0]
        origin = atlas.scale * [(width + 1) / 2.0, (height + 1) / 2.0, last / 2.0] + atlas.origin
        rotations = torch.as_tensor(plan.frame_to_slice(which) * scale[:, None], dtype=maps.dtype).reshape(-1, 3)
        middle = torch.as_tensor(origin, dtype=maps.dtype)[:, None]
        most = torch.as_tensor(scale * (1.0 + ROUNDING), dtype=maps.dtype)[:, None]
        each = max(1, _SAMPLES // count)
        for (_, points), total, within in zip(self._nodes.parts(), self._sums, self._within, strict=True):
            for part, target in zip(torch.split(points, each), torch.split(total, each, dim=1), strict=True):
                at = (rotations @ part.T).reshape(-1, 3, len(part))
                inside = None if within else (at.abs() <= most).all(dim=1)
                across, down, offset = at.add_(middle)[:, :, None].unbind(1)
                values = atlas.sample(across, down, offset.clamp_(0.0, last))[:, :, 0]
                target += (values if inside is None else values.mul_(inside[:, None])).sum(dim=0)

    def total(self, channel: int) -> torch.Tensor:
        """Return the sum of a channel.

        Args:
            channel: from 0.

        Returns:
            Values at all nodes of the grid, flat.
        """
        total = self._nodes.like.new_zeros(math.prod(self._nodes.grid.shape))
        for (index, _), part in zip(self._nodes.parts(), self._sums, strict=True):
            total[index] = part[channel]
        return total
