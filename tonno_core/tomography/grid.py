"""The grid on which heatmaps are reconstructed, and its nodes as tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.grid import affine_points, affine_slab, slabs
from tonno_core.volume.volume import Matrix

# Coordinates in [-1, 1] may exceed it by so much: rounding must not cut off the outermost planes themselves.
ROUNDING = 1e-5
# Sampled points in memory at once, over directions and nodes: 4 M are 48 MB of coordinates.
POINTS = 4_000_000


@dataclass(frozen=True)
class TargetGrid:
    """A grid to backproject on, and the part of it that is computed.

    Attributes:
        shape: Z Y X, numbers of nodes.
        ijk_to_frame: 4 x 4, from voxel indices (i, j, k, 1) to frame coordinates.
        radius: nodes farther from the frame's centre, in frame units, stay zero.
        frame_to_box: 4 x 4, nodes outside [-1, 1]^3 of the box stay zero; None: there is no box.
    """

    shape: tuple[int, int, int]
    ijk_to_frame: Matrix
    radius: float = math.inf
    frame_to_box: Matrix | None = None

    @property
    def limited(self) -> bool:
        """Whether some nodes may stay zero."""
        return not math.isinf(self.radius) or self.frame_to_box is not None


class Nodes:
    """The nodes of a grid at which sums are computed, on a device in a precision.

    Attributes:
        grid: the grid.
        like: an empty tensor on the device and of the type in which sums are kept.
    """

    def __init__(self, grid: TargetGrid, like: torch.Tensor) -> None:
        """Prepare the nodes.

        Args:
            grid: the grid.
            like: any tensor on the device and of the type in which sums are kept.
        """
        self.grid, self.like = grid, like.new_empty(0)
        self._slabs = list(slabs(grid.shape, POINTS))
        # The nodes of a grid that fits in one slab are computed once.
        self._cached = [self._nodes(self._slabs[0])] if len(self._slabs) == 1 else None

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Give the nodes in parts that fit in memory.

        Yields:
            Flat indices P in the grid, and frame coordinates P 3.
        """
        return iter(self._cached) if self._cached is not None else map(self._nodes, self._slabs)

    def mask(self) -> torch.Tensor | None:
        """Tell at which nodes sums are computed.

        Returns:
            Bool ``Z Y X``, None for all of them.
        """
        if not self.grid.limited:
            return None
        mask = torch.zeros(math.prod(self.grid.shape), dtype=torch.bool, device=self.like.device)
        for index, _ in self.parts():
            mask[index] = True
        return mask.reshape(self.grid.shape)

    def _nodes(self, slab: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute flat indices P and frame coordinates P 3 of a slab's nodes within the radius and the box."""
        grid, like = self.grid, self.like
        _, y, x = grid.shape
        matrix = affine_slab(grid.ijk_to_frame, grid.shape, slab)
        theta = torch.as_tensor(matrix, dtype=like.dtype, device=like.device)[None]
        points = affine_points(theta, (slab.stop - slab.start, y, x)).reshape(-1, 3)
        index = torch.arange(slab.start * y * x, slab.stop * y * x, device=like.device)
        if not grid.limited:
            return index, points
        near = (points * points).sum(dim=1) <= grid.radius**2
        if grid.frame_to_box is not None:
            to_box = torch.as_tensor(grid.frame_to_box, dtype=like.dtype, device=like.device)
            near &= ((points @ to_box[:3, :3].T + to_box[:3, 3]).abs() <= 1.0 + ROUNDING).all(dim=1)
        return index[near], points[near]


class OfDirections:
    """Numbers of each of a plan's directions on a device: all of them are computed and copied there once."""

    def __init__(self, compute: Callable[[SlicePlan], npt.NDArray[np.float64]], like: torch.Tensor) -> None:
        """Say what they are.

        Args:
            compute: returns ``L ...`` for a plan.
            like: a tensor of the same type on the same device.
        """
        self._compute, self._like = compute, like
        self._plan: SlicePlan | None = None

    def of(self, plan: SlicePlan, which: slice) -> torch.Tensor:
        """Return those of some directions.

        Args:
            plan: the planes; mostly the same as the last time.
            which: range of its directions, B of them.

        Returns:
            ``B ...``.
        """
        if plan is not self._plan:
            self._numbers = torch.as_tensor(self._compute(plan), dtype=self._like.dtype).to(self._like.device)
            self._plan = plan
        return self._numbers[which]
