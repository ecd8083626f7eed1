"""The sum over directions of stacks of maps laid through a grid's nodes, at every node by itself."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.profiles import ROUNDING, Nodes


class Maps(Protocol):
    """What lays maps through a grid."""

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""

    def total(self) -> torch.Tensor:
        """The sums at all nodes: C, flat."""


class PointMaps:
    """By torch's ``grid_sample``. size: of the whole grid. most: sampled points in memory at once."""

    def __init__(self, nodes: Nodes, channels: int, size: int, most: int, like: torch.Tensor) -> None:
        self._nodes, self._most = nodes, most
        self._sum = torch.zeros(channels, size, dtype=like.dtype, device=like.device)

    def add(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile."""
        frame_to_slice = torch.as_tensor(plan.frame_to_slice(which), dtype=maps.dtype, device=maps.device)
        # With align_corners=False cell c of h is at (2 c + 1) / h - 1. Its centre, pixel (c + 1/2) S / h - 1/2
        # of those at 2 t / (S - 1) - 1, is at that times S / (S - 1); offset m of M likewise.
        shrink = torch.tensor([(n - 1.0) / n for n in (plan.pixels, plan.pixels, plan.slices)])
        for index, points in self._nodes():
            each = max(1, self._most // max(1, len(points)))
            for start in range(0, len(maps), each):
                turns = frame_to_slice[start : start + each]
                at = points @ turns.transpose(1, 2)  # B P 3: (a, b, s)
                inside = (at.abs() <= 1.0 + ROUNDING).all(dim=-1)
                at *= shrink.to(at)
                values = F.grid_sample(
                    maps[start : start + each], at[:, None, None], padding_mode="border", align_corners=False
                )[:, :, 0, 0]
                self._sum[:, index] += (values * inside[:, None]).sum(dim=0)

    def total(self) -> torch.Tensor:
        """The sums at all nodes: C, flat."""
        return self._sum
