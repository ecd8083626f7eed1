"""Sums over directions of profiles at a grid's nodes: a reference, and the same numbers faster on the CPU.

`ReferenceProfiles` interpolates at every node; it runs everywhere. `RowProfiles` takes whole rows of the grid, which
costs a CPU a tenth. On CUDA there is a kernel (`tomography.kernel`).

Along a row the position in a profile is r + i a. With r = R + rho, i a = A_i + alpha_i (R and A_i whole) and
t = rho + alpha_i, a node lies on the segment m = R + A_i where t < 1, else on the next one. For segments of values v
and slopes d this is exactly

    v[m] + t d[m]  +  max(0, t - 1) k[m]  +  [t > 1] j[m]        k[m] = d[m + 1] - d[m], j[m] = v[m + 1] - v[m] - d[m]

Seen as tables by R and i, v + alpha d, d and k are small and the same for all rows, and a row of the result is a sum of
their rows. j, a jump, is zero but at the profile's ends, and is added to the few nodes there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import ROUNDING, Nodes, OfDirections

# Directions whose tables are in use at once, and numbers in a few rows: both stay in a core's cache, and are enough
# that two cores do not wait for each other after every step.
_DIRECTIONS, _NUMBERS = 8, 1 << 17
# Shift of positions in steps, more than their rounding: a node on a sample is at its segment's end, t = 1.
_NUDGE = 1e-7


class ProfileBackprojection(Protocol):
    """A sum of profiles at the nodes of a grid."""

    def __init__(self, nodes: Nodes) -> None:
        """Start with zero.

        Args:
            nodes: where to sum.
        """

    def add(self, profiles: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add q_l(x . n_l) of some directions of a plan.

        Args:
            profiles: ``B M``, values at M even offsets over [-1, 1].
            plan: the planes.
            which: range of the plan's directions, B of them.
        """

    def total(self) -> torch.Tensor:
        """Return the sum.

        Returns:
            Values at all nodes of the grid, flat; zero where none are computed.
        """


class ReferenceProfiles:
    """A `ProfileBackprojection` by interpolation at every node."""

    def __init__(self, nodes: Nodes) -> None:
        """Start with zero; see `ProfileBackprojection`."""
        self._nodes = nodes
        self._sum = nodes.like.new_zeros(math.prod(nodes.grid.shape))
        self._normals = OfDirections(lambda plan: plan.directions * ((plan.slices - 1) / 2.0), nodes.like)

    def add(self, profiles: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add q_l(x . n_l) of some directions of a plan.

        Args:
            profiles: ``B M``, values at M even offsets over [-1, 1].
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        half = (profiles.shape[1] - 1) / 2.0
        scaled = self._normals.of(plan, which)
        for index, points in self._nodes.parts():
            total = self._sum.new_zeros(len(points))
            for profile, normal in zip(profiles, scaled, strict=True):
                total += interpolate(profile, points @ normal + half)
            self._sum[index] += total

    def total(self) -> torch.Tensor:
        """Return the sum.

        Returns:
            Values at all nodes of the grid, flat.
        """
        return self._sum


class RowProfiles:
    """A `ProfileBackprojection` on the CPU, by rows of the grid."""

    def __init__(self, nodes: Nodes) -> None:
        """Start with zero; see `ProfileBackprojection`."""
        z, y, x = nodes.grid.shape
        self._grid, self._mask = nodes.grid, nodes.mask()
        mask = np.ones((z * y, x), dtype=bool) if self._mask is None else self._mask.reshape(z * y, x).numpy()
        self._rows = np.flatnonzero(mask.any(axis=1))
        # The columns that any row needs.
        needed = np.flatnonzero(mask[self._rows].any(axis=0))
        low, high = (int(needed[0]), int(needed[-1])) if len(needed) else (0, -1)
        self._columns, self._middle = np.arange(low, high + 1), (low + high) / 2.0
        # Indices of the rows' middles: 4 R (i, j, k, 1).
        k, j = np.divmod(self._rows, y)
        self._middles = np.stack([np.full(len(k), self._middle), j, k, np.ones(len(k))])
        self._sum = nodes.like.new_zeros(len(self._rows), len(self._columns))

    def add(self, profiles: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add q_l(x . n_l) of some directions of a plan.

        Args:
            profiles: ``B M``, values at M even offsets over [-1, 1].
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        if not self._sum.numel():
            return
        half = (profiles.shape[1] - 1) / 2.0
        steps = half * plan.directions[which] @ self._grid.ijk_to_frame[:3]  # B 4: along i, j, k, and the origin
        steps[:, 3] += half
        for start in range(0, len(profiles), _DIRECTIONS):
            self._add_few(profiles[start : start + _DIRECTIONS], steps[start : start + _DIRECTIONS])

    def total(self) -> torch.Tensor:
        """Return the sum.

        Returns:
            Values at all nodes of the grid, flat; zero where none are computed.
        """
        if self._mask is None:
            return self._sum.flatten()
        z, y, x = self._grid.shape
        total = self._sum.new_zeros(z * y, x)
        if self._sum.numel():
            total[torch.as_tensor(self._rows), int(self._columns[0]) : int(self._columns[-1]) + 1] = self._sum
        return total.flatten().mul_(self._mask.flatten())

    def _add_few(self, profiles: torch.Tensor, steps: npt.NDArray[np.float64]) -> None:
        """Add a few directions; steps: B 4, change of the position in a profile by voxel index, and its origin."""
        at = _Positions(steps @ self._middles, steps[:, :1] * (self._columns - self._middle))
        self._add_segments(profiles, at)
        last = profiles.shape[1] - 1
        margin = ROUNDING * last
        for direction, profile in enumerate(profiles):
            self._add_jump(at, direction, -1, float(profile[0]), -margin)
            self._add_jump(at, direction, last - 1, -float(profile[-1]), margin)

    def _add_segments(self, profiles: torch.Tensor, at: _Positions) -> None:
        """Add all but the jumps, a few rows of the grid at a time."""
        rho = torch.as_tensor(at.rho, dtype=self._sum.dtype)
        alpha = torch.as_tensor(at.alpha, dtype=self._sum.dtype)
        row, values, slopes = _tables(profiles, at)
        kinks = slopes[:, 1:] - slopes[:, :-1]
        straight = _straight(row, values, slopes[:, :-1], rho, alpha)
        # t - 1, the sum of a column and a row, as a product of matrices: faster than by broadcasting.
        left = torch.stack([rho - 1.0, torch.ones_like(rho)], dim=2)
        right = torch.stack([torch.ones_like(alpha), alpha], dim=1)
        height = max(1, _NUMBERS // self._sum.shape[1])
        parts = (torch.split(array, height, dim) for array, dim in ((self._sum, 0), (left, 1), (row, 1)))
        for number, (target, past, entries) in enumerate(zip(*parts, strict=True)):
            target += straight(slice(number * height, (number + 1) * height))
            for columns, matrix, kink, index in zip(past, right, kinks, entries, strict=True):
                target.addcmul_(torch.mm(columns, matrix).clamp_min_(0.0), kink.index_select(0, index))

    def _add_jump(self, at: _Positions, direction: int, segment: int, jump: float, threshold: float) -> None:
        """Add a jump to the nodes past the end of a segment."""
        if jump == 0.0:  # most profiles end outside of the foreground
            return
        # Rounding may have put a node of the very end before it.
        rows, columns = at.between(direction, segment + 1 - _NUDGE, segment + 2)
        past = at.rho[direction].take(rows) + at.alpha[direction].take(columns) > 1.0 + threshold
        past &= at.whole[direction].take(rows) + at.shift[direction].take(columns) == segment
        self._sum.numpy()[rows[past], columns[past]] += jump  # no node is twice in it


class _Positions:
    """Positions of the grid's rows and columns in B profiles: r = R + rho (B R), i a = A + alpha (B X)."""

    def __init__(self, middle: npt.NDArray[np.float64], along: npt.NDArray[np.float64]) -> None:
        """Split positions; middle: B R, of the rows' middles; along: B X, of the columns from there."""
        self._middle, self._along = middle, along
        # A node on a sample of the profile, but for rounding, has t = 1: it is at its segment's end.
        self.whole, self.shift = np.floor(middle - _NUDGE), np.floor(along + _NUDGE)
        self.rho, self.alpha = middle - self.whole, along - self.shift

    def between(self, direction: int, low: float, high: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """List rows and columns of the nodes from ``low`` to ``high``, and of a few beside them, each once."""
        middle, along = self._middle[direction], self._along[direction]
        count, most = len(along), np.abs(along).max()
        rows = np.flatnonzero((middle + most >= low) & (middle - most <= high))
        width, first = count, np.zeros(len(rows))
        step = float(along[1] - along[0]) if count > 1 else 0.0
        if abs(step) * (count - 4) > high - low:
            width = int(np.ceil((high - low) / abs(step))) + 3
            ends = (np.array([[low], [high]]) - middle[rows] - along[0]) / step
            first = np.floor(ends.min(axis=0)) - 1
        columns = first.astype(np.int64)[:, None] + np.arange(width)
        inside = (columns >= 0) & (columns < count)
        return np.broadcast_to(rows[:, None], columns.shape)[inside], columns[inside]


def _tables(profiles: torch.Tensor, at: _Positions) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return tables of B profiles by N rows R and X columns.

    First which of their rows belongs to a row of the grid (B R), then the values v (B N X) and slopes d (B N+1 X).
    """
    last = profiles.shape[1] - 1
    lowest = at.whole.min(axis=1, keepdims=True)
    row = torch.as_tensor((at.whole - lowest).astype(np.int32))
    first = torch.as_tensor((lowest + at.shift).astype(np.int64))
    segment = first[:, None] + torch.arange(int(row.max()) + 2)[:, None]  # B N+1 X
    place = segment.clamp_(-1, last).add_(1).flatten(1)

    def table(numbers: torch.Tensor) -> torch.Tensor:  # B last, zero beyond the profile
        return F.pad(numbers, (1, 1)).gather(1, place).reshape(segment.shape)

    return row, table(profiles[:, :-1])[:, :-1], table(profiles.diff(dim=1))


def _straight(
    row: torch.Tensor, values: torch.Tensor, slopes: torch.Tensor, rho: torch.Tensor, alpha: torch.Tensor
) -> Callable[[slice], torch.Tensor]:
    """Return what gives v + (rho + alpha) d of some rows, summed over the directions. rho: B R. alpha: B X."""
    directions, count, _ = values.shape
    tables = torch.cat([values + alpha[:, None] * slopes, slopes], dim=1).flatten(0, 1)
    entry = row + 2 * count * torch.arange(directions, dtype=torch.int32)[:, None]
    index = torch.cat([entry, entry + count]).T.contiguous()  # R 2B
    weights = torch.cat([torch.ones_like(rho), rho]).T.contiguous()
    return lambda rows: F.embedding_bag(index[rows], tables, mode="sum", per_sample_weights=weights[rows])


def interpolate(profile: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Interpolate linearly; zero outside 0 .. M - 1.

    Args:
        profile: M values.
        index: P fractional indices.

    Returns:
        P values.
    """
    last = len(profile) - 1
    below = index.floor().clamp_(0.0, last - 1.0)
    fraction = index - below
    base = below.int()
    values = torch.addcmul(profile.index_select(0, base), profile.diff().index_select(0, base), fraction)
    margin = ROUNDING * last
    return values.mul_((index >= -margin) & (index <= last + margin))
