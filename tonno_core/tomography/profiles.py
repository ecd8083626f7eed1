"""The sum over directions of profiles laid across a grid's nodes: two ways to the same numbers.

`PointProfiles` interpolates at every node: the plain way, and the one for GPUs. `RowProfiles` takes whole rows of the
grid, which costs a CPU a tenth. Along a row the position in a profile is r + i a. With r = R + rho, i a = A_i + alpha_i
(R and A_i whole) and t = rho + alpha_i, a node lies on the segment m = R + A_i where t < 1, else on the next one. For
segments of values v and slopes d this is exactly

    v[m] + t d[m]  +  max(0, t - 1) k[m]  +  [t > 1] j[m]        k[m] = d[m + 1] - d[m], j[m] = v[m + 1] - v[m] - d[m]

where j, a jump, is zero but at the profile's ends. Seen as tables by R and i, v + alpha d, d, k and j are small and the
same for all rows, and a row of the result is a sum of their rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.volume.volume import Matrix

# Of coordinates in [-1, 1]: rounding must not cut off the outermost planes themselves.
ROUNDING = 1e-5
# Directions whose tables are in use at once, and numbers in a few rows: both stay in a core's cache.
_DIRECTIONS, _NUMBERS = 4, 1 << 16
# Of positions in steps, more than their rounding: a node on a sample is at its segment's end, t = 1.
_NUDGE = 1e-7

# Gives the wanted nodes in parts: flat indices P, and frame coordinates P 3.
Nodes = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


class PointProfiles:
    """At every node. size: of the whole grid."""

    def __init__(self, nodes: Nodes, size: int, like: torch.Tensor) -> None:
        self._nodes = nodes
        self._sum = torch.zeros(size, dtype=like.dtype, device=like.device)

    def add(self, profiles: torch.Tensor, normals: npt.NDArray[np.float64]) -> None:
        """Add q_l(x . n_l): profiles ``B M`` over [-1, 1], normals B 3."""
        half = (profiles.shape[1] - 1) / 2.0
        turns = torch.as_tensor(normals * half, dtype=self._sum.dtype, device=self._sum.device)
        for index, points in self._nodes():
            total = torch.zeros(len(points), dtype=self._sum.dtype, device=self._sum.device)
            for profile, normal in zip(profiles, turns, strict=True):
                total += interpolate(profile, points @ normal + half)
            self._sum[index] += total

    def total(self) -> torch.Tensor:
        """The sum at all nodes, flat."""
        return self._sum


class RowProfiles:
    """By rows of a ``Z Y X`` grid, on the CPU. ijk_to_frame: 4 x 4. wanted: bool Z Y X, None for every node."""

    def __init__(
        self, shape: tuple[int, int, int], ijk_to_frame: Matrix, wanted: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        z, y, x = shape
        self._shape, self._ijk_to_frame, self._wanted = shape, ijk_to_frame, wanted
        where = np.ones((z * y, x), dtype=bool) if wanted is None else wanted.reshape(z * y, x).numpy()
        self._rows = np.flatnonzero(where.any(axis=1))
        chosen = where[self._rows]
        # Of each row the first and the last wanted node; of all rows the columns that any of them needs.
        self._ends = np.stack([chosen.argmax(axis=1), x - 1 - chosen[:, ::-1].argmax(axis=1)])
        low, high = (int(self._ends.min()), int(self._ends.max())) if len(self._rows) else (0, -1)
        self._columns, self._middle = np.arange(low, high + 1), (low + high) / 2.0
        self._sum = torch.zeros(len(self._rows), len(self._columns), dtype=dtype)

    def add(self, profiles: torch.Tensor, normals: npt.NDArray[np.float64]) -> None:
        """Add q_l(x . n_l): profiles ``B M`` over [-1, 1], normals B 3."""
        if not self._sum.numel():
            return
        half = (profiles.shape[1] - 1) / 2.0
        steps = half * normals @ self._ijk_to_frame[:3]  # B 4: along i, j, k, and the origin
        steps[:, 3] += half
        for start in range(0, len(profiles), _DIRECTIONS):
            self._add_few(profiles[start : start + _DIRECTIONS], steps[start : start + _DIRECTIONS])

    def total(self) -> torch.Tensor:
        """The sum at all nodes, flat."""
        if self._wanted is None:
            return self._sum.flatten()
        z, y, x = self._shape
        total = torch.zeros(z * y, x, dtype=self._sum.dtype)
        if self._sum.numel():
            total[torch.as_tensor(self._rows), int(self._columns[0]) : int(self._columns[-1]) + 1] = self._sum
        return total.flatten().mul_(self._wanted.flatten())

    def _add_few(self, profiles: torch.Tensor, steps: npt.NDArray[np.float64]) -> None:
        k, j = np.divmod(self._rows, self._shape[1])
        along_i = steps[:, :1]
        # Positions of the rows' middles (B R), and of the columns from there (B X).
        middle = along_i * self._middle + steps[:, 1:2] * j + steps[:, 2:3] * k + steps[:, 3:]
        along = along_i * (self._columns - self._middle)
        whole, shift = np.floor(middle - _NUDGE), np.floor(along + _NUDGE)
        rho, alpha = (torch.as_tensor(one, dtype=self._sum.dtype) for one in (middle - whole, along - shift))
        lowest = whole.min(axis=1, keepdims=True)
        row = torch.as_tensor((whole - lowest).astype(np.int32))
        tables = _Tables(profiles, lowest + shift, int(row.max()) + 1)
        straight, past = tables.straight(row, rho, alpha), _Past(row, rho - 1.0, alpha)
        for part in _parts(len(self._sum), self._sum.shape[1]):
            target = self._sum[part]
            target += straight(part)
            for direction, table in enumerate(tables.kinks):
                target.addcmul_(past.of(direction, part).clamp_min_(0.0), past.rows(table, direction, part))
        reach = middle + along_i[None] * (self._ends[:, None] - self._middle)  # 2 B R
        margin, last = ROUNDING * (profiles.shape[1] - 1), profiles.shape[1] - 1
        self._add_jumps(tables.falls, past, reach.max(axis=0) > last, margin)
        self._add_jumps(tables.rises, past, reach.min(axis=0) < 1.0, -margin)

    def _add_jumps(self, tables: torch.Tensor, past: _Past, crossing: npt.NDArray[np.bool_], threshold: float) -> None:
        for direction, (table, which) in enumerate(zip(tables, crossing, strict=True)):
            found = torch.as_tensor(np.flatnonzero(which))
            for part in _parts(len(found), self._sum.shape[1]):
                jump = past.of(direction, found[part]).gt_(threshold).mul_(past.rows(table, direction, found[part]))
                self._sum.index_add_(0, found[part], jump)


class _Tables:
    """Of B profiles, by R and column, each ``B N X``. first: B X, the segment of each column at a table's row 0."""

    def __init__(self, profiles: torch.Tensor, first: npt.NDArray[np.float64], count: int) -> None:
        last = profiles.shape[1] - 1
        segment = torch.as_tensor(first, dtype=torch.int64)[:, None] + torch.arange(count + 1)[:, None]  # B N+1 X
        place = segment.clamp(-1, last).add_(1).flatten(1)

        def table(numbers: torch.Tensor) -> torch.Tensor:  # B last, zero beyond the profile
            return F.pad(numbers, (1, 1)).gather(1, place).reshape(segment.shape)

        values, slopes = table(profiles[:, :-1]), table(profiles.diff(dim=1))
        self.values, self.slopes = values[:, :-1], slopes[:, :-1]
        self.kinks = slopes[:, 1:] - slopes[:, :-1]
        # v[m + 1] - v[m] - d[m] is zero but before the first segment and after the last.
        self.rises = (segment[:, :-1] == -1) * profiles[:, :1, None]
        self.falls = (segment[:, :-1] == last - 1) * -profiles[:, -1:, None]

    def straight(self, row: torch.Tensor, rho: torch.Tensor, alpha: torch.Tensor) -> Callable[[slice], torch.Tensor]:
        """v + (rho + alpha) d, summed over the directions, of some rows of the grid. row, rho: B R. alpha: B X."""
        directions, count, _ = self.values.shape
        tables = torch.cat([self.values + alpha[:, None] * self.slopes, self.slopes], dim=1).flatten(0, 1)
        entry = row + 2 * count * torch.arange(directions, dtype=torch.int32)[:, None]
        index = torch.cat([entry, entry + count]).T.contiguous()  # R 2B
        weights = torch.cat([torch.ones_like(rho), rho]).T.contiguous()
        return lambda part: F.embedding_bag(index[part], tables, mode="sum", per_sample_weights=weights[part])


class _Past:
    """How far nodes are past their segment's end, t - 1. row: B R. rho: B R, less 1. alpha: B X."""

    def __init__(self, row: torch.Tensor, rho: torch.Tensor, alpha: torch.Tensor) -> None:
        self._row, self._rho, self._alpha = row, rho, alpha

    def of(self, direction: int, rows: slice | torch.Tensor) -> torch.Tensor:
        """R X of some rows of the grid."""
        return self._rho[direction, rows][:, None] + self._alpha[direction]

    def rows(self, table: torch.Tensor, direction: int, rows: slice | torch.Tensor) -> torch.Tensor:
        """A table's rows for some rows of the grid: R X."""
        return table.index_select(0, self._row[direction, rows])


def _parts(rows: int, columns: int) -> Iterator[slice]:
    height = max(1, _NUMBERS // columns)
    return (slice(start, min(start + height, rows)) for start in range(0, rows, height))


def interpolate(profile: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Linear interpolation of ``M`` values at fractional indices; zero outside 0 .. M - 1."""
    last = len(profile) - 1
    below = index.floor().clamp_(0.0, last - 1.0)
    fraction = index - below
    base = below.int()
    values = torch.addcmul(profile.index_select(0, base), profile.diff().index_select(0, base), fraction)
    margin = ROUNDING * last
    return values.mul_((index >= -margin) & (index <= last + margin))
