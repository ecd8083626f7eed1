"""Projections to heatmaps: filter along the normal, backproject, combine.

    tonno            -1 / (2 pi) (2 S / (S - 1))^2 mean_n d2p/ds2         p: the logits
    averaged-cam     mean_n p                                             p: the maps
    tomographic-cam  -mean_n d2p/ds2
    matched-cam      mean_n [p - sigma^2 d2p/ds2]

with s in frame units; derivations in docs/method.md. One pass through the network serves all of them, and all
stages, filters and sigmas.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from tonno_core.reporting import Timings
from tonno_core.settings import CAM_METHODS, FilterKind, Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.tomography.filtering import second_derivative
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.projection import Projections


@dataclass(frozen=True)
class Inversion:
    """What inversion gives.

    Attributes:
        heatmaps: ``Z Y X`` on the target grid, by variant.
        logits: ``L T``, the projections themselves.
    """

    heatmaps: dict[Variant, torch.Tensor]
    logits: torch.Tensor


class Inverter:
    """Takes in the projections of a plan, and gives the heatmaps of all directions so far at any time.

    Memory does not grow with the number of directions but for the logits.
    """

    def __init__(
        self,
        plan: SlicePlan,
        grid: TargetGrid,
        variants: Collection[Variant],
        *,
        filters: Collection[FilterKind] = (),
        halves: bool = False,
    ) -> None:
        """Prepare the sums.

        Args:
            plan: Whose projections are taken in.
            grid: Where to backproject.
            variants: Of the four methods, each of a single stage.
            filters: Others for which heatmaps may be asked later, at the cost of a channel each.
            halves: Also keep what `half` needs, at the cost of a copy of the maps' sums.
        """
        self.plan, self.grid, self.variants = plan, grid, tuple(variants)
        self.directions = 0
        self._middle = len(plan.directions) // 2 if halves else 0
        self._logits: list[torch.Tensor] = []
        kinds = dict.fromkeys(variant.filter for variant in variants if variant.method == "tonno")
        self._of_values = {kind: _ValueSum(kind, plan, grid) for kind in kinds}
        by_stage: dict[int, list[Variant]] = {}
        for variant in variants:
            if variant.method != "tonno":
                (stage,) = variant.stages
                by_stage.setdefault(stage, []).append(variant)
        self._of_maps = {stage: _MapSum(some, plan, grid, filters) for stage, some in by_stage.items()}
        self._first_values: dict[FilterKind, torch.Tensor] = {}

    @property
    def logits(self) -> torch.Tensor:
        """``L T`` of the directions so far."""
        return torch.cat(self._logits)

    def add(self, batch: Projections, timings: Timings) -> None:
        """Take in the next directions.

        On a GPU the host goes on before it is done.

        Args:
            batch: With the maps of the CAM methods' stages.
            timings: Of the steps.

        Raises:
            ValueError: Maps are missing.
        """
        for part in _parted(batch, self._middle):
            self._logits.append(part.logits)
            for values in self._of_values.values():
                values.add(part.logits, part.which, timings)
            for stage, maps in self._of_maps.items():
                if stage not in part.maps:
                    raise ValueError(f"{', '.join(each.method for each in maps.variants)} need projections with maps")
                maps.add(part.maps[stage], part.which, timings)
                if part.which.stop == self._middle:
                    maps.keep_half()
            self.directions = part.which.stop

    def gives(self, variant: Variant) -> bool:
        """Return whether `heatmap(variant)` can be computed from the projections added so far.

        Args:
            variant: Of a single stage, not smoothed.

        Returns:
            True where it can.
        """
        if variant.method == "tonno":
            return True
        maps = self._of_maps.get(variant.stages[0]) if variant.method in CAM_METHODS else None
        return maps is not None and maps.gives(variant)

    def terms(self, variant: Variant) -> dict[Variant, float]:
        """Return the heatmaps that are kept, of which a variant is a weighted sum.

        Args:
            variant: That `gives`.

        Returns:
            Weights by variant: Averaged and Tomographic CAM for Matched CAM, where these are kept, else itself.
        """
        return {variant: 1.0} if variant.method == "tonno" else self._of_maps[variant.stages[0]].terms(variant)

    def heatmap(self, variant: Variant, timings: Timings | None = None) -> torch.Tensor:
        """Compute a heatmap of the directions so far. ToNNO by a filter that was not asked for is backprojected now.

        Args:
            variant: That `gives`.
            timings: Of the steps.

        Returns:
            ``Z Y X`` on the target grid, not smoothed.

        Raises:
            ValueError: Nothing was taken in.
        """
        if not self._logits:
            raise ValueError("no projections")
        if variant.method != "tonno":
            return self._of_maps[variant.stages[0]].heatmap(variant)
        if variant.filter not in self._of_values:
            values = _ValueSum(variant.filter, self.plan, self.grid)
            values.add(self.logits, slice(0, self.directions), timings or Timings())
            self._of_values[variant.filter] = values
        return self._of_values[variant.filter].heatmap()

    def half(self, variant: Variant, second: bool, timings: Timings | None = None) -> torch.Tensor:
        """Compute a heatmap of one half of the directions, all of which were taken in.

        The first half of directions in progressive order is evenly spread, and so is what it leaves.

        Args:
            variant: That `gives`.
            second: Of the directions from the middle on, rather than those before.
            timings: Of the steps.

        Returns:
            ``Z Y X`` on the target grid, not smoothed; the mean of both, weighted by their directions, is `heatmap`.

        Raises:
            ValueError: Nothing was kept for it, or not all directions were taken in.
        """
        directions = len(self.plan.directions)
        if not 0 < self._middle < self.directions == directions:
            raise ValueError("no halves of all directions")
        first = self._first_half(variant, timings or Timings())
        if not second:
            return first
        whole = self.heatmap(variant, timings)
        return (whole * directions - first * self._middle) / (directions - self._middle)

    def _first_half(self, variant: Variant, timings: Timings) -> torch.Tensor:
        if variant.method != "tonno":
            return self._of_maps[variant.stages[0]].heatmap(variant, half=True)
        if variant.filter not in self._first_values:
            values = _ValueSum(variant.filter, self.plan, self.grid)
            values.add(self.logits[: self._middle], slice(0, self._middle), timings)
            self._first_values[variant.filter] = values.heatmap()
        return self._first_values[variant.filter]


def _parted(batch: Projections, middle: int) -> Iterator[Projections]:
    """Yield a batch, in two where it reaches over the middle of the directions."""
    start, stop = batch.which.start, batch.which.stop
    if not start < middle < stop:
        yield batch
        return
    for which in (slice(start, middle), slice(middle, stop)):
        rows = slice(which.start - start, which.stop - start)
        yield Projections(which, batch.logits[rows], {stage: maps[rows] for stage, maps in batch.maps.items()})


def invert(
    projections: Iterable[Projections],
    plan: SlicePlan,
    grid: TargetGrid,
    variants: Collection[Variant],
    *,
    timings: Timings | None = None,
) -> Inversion:
    """Invert the projections of all directions of a plan.

    Args:
        projections: With the maps of the CAM methods' stages.
        plan: Their planes.
        grid: Where to backproject.
        variants: Of the four methods, each of a single stage.
        timings: Of the steps.

    Returns:
        The heatmaps, not smoothed.
    """
    inverter = Inverter(plan, grid, variants)
    for batch in projections:
        inverter.add(batch, timings or Timings())
    return Inversion({variant: inverter.heatmap(variant) for variant in variants}, inverter.logits)


def average(
    projections: Iterable[Projections], plan: SlicePlan, grid: TargetGrid, stages: Collection[int]
) -> dict[int, torch.Tensor]:
    """Average the maps over a plan's directions: slice-wise CAM.

    Args:
        projections: With maps of the stages.
        plan: Their planes.
        grid: Where to backproject.
        stages: From 1, the finest.

    Returns:
        ``Z Y X`` by stage.

    Raises:
        ValueError: There are no projections, or no maps.
    """
    targets: dict[int, Backprojector] = {}
    for batch in projections:
        for stage in stages:
            if stage not in batch.maps:
                raise ValueError("slice-wise CAM needs projections with maps")
            maps = batch.maps[stage]
            if stage not in targets:
                targets[stage] = Backprojector(grid, maps)
            targets[stage].add_maps(maps[:, None, 1:-1], plan, batch.which)
    if not targets:
        raise ValueError("no projections")
    return {stage: target.channel_mean(0) for stage, target in targets.items()}


def cell_pitch(plan: SlicePlan, cells: int) -> float:
    """Return the pitch w of a map's cells: a cell covers S / h pixels of 2 / (S - 1).

    Args:
        plan: With S pixels.
        cells: h, along a side of the map.

    Returns:
        In frame units.
    """
    return plan.pixels / cells * 2.0 / (plan.pixels - 1)


class _ValueSum:
    """Running backprojection of the logits' second derivative by a filter."""

    def __init__(self, kind: FilterKind, plan: SlicePlan, grid: TargetGrid) -> None:
        self._kind, self._plan, self._grid = kind, plan, grid
        self._sum: Backprojector | None = None
        self._matrix = torch.empty(0)

    def add(self, logits: torch.Tensor, which: slice, timings: Timings) -> None:
        with timings.measure("filter"):
            if self._sum is None:  # once: a copy to a GPU waits for all that was asked of it
                self._matrix = _second_derivative(self._kind, self._plan, logits).T
            profiles = logits @ self._matrix
        with timings.measure("backprojection: values"):
            self._sum = self._sum or Backprojector(self._grid, logits)
            self._sum.add_profiles(profiles, self._plan, which)

    def heatmap(self) -> torch.Tensor:
        if self._sum is None:
            raise ValueError("no projections")
        side = 2.0 * self._plan.pixels / (self._plan.pixels - 1)  # of the slice whose mean the encoder returns
        per_frame_unit = 1.0 / self._plan.step  # offsets per unit of s, squared in the second derivative
        return self._sum.profile_mean.mul_(-((side * per_frame_unit) ** 2) / (2.0 * math.pi))


class _MapSum:
    """Running backprojections of one CAM stage.

    There is a channel per variant, or per shared term (A, T of each filter) where that takes fewer channels: Averaged
    CAM A, and Tomographic CAM T of each filter, are the terms; Matched CAM is A + sigma^2 T. With ``filters`` all terms
    are kept, so that every variant of these filters, whatever its sigma, can be computed.
    """

    def __init__(
        self, variants: Sequence[Variant], plan: SlicePlan, grid: TargetGrid, filters: Collection[FilterKind]
    ) -> None:
        self.variants = variants
        self._plan, self._grid = plan, grid
        self._terms = _terms(variants, filters)
        self._merged = not filters and len(self._terms) >= len(variants)
        self._sum: Backprojector | None = None
        self._first: torch.Tensor | None = None
        self._channels = torch.empty(0)
        self._half_cell = 0.0

    def add(self, maps: torch.Tensor, which: slice, timings: Timings) -> None:
        with timings.measure("filter"):
            if self._sum is None:
                self._half_cell = cell_pitch(self._plan, maps.shape[-1]) / 2.0
                self._channels = self._matrices(maps)
            values = torch.matmul(self._channels.flatten(0, 1), maps.flatten(2))
            channels = values.view(len(maps), *self._channels.shape[:2], *maps.shape[2:])
        with timings.measure("backprojection: maps"):
            self._sum = self._sum or Backprojector(self._grid, maps)
            self._sum.add_maps(channels, self._plan, which)

    def gives(self, variant: Variant) -> bool:
        return variant in self.variants or (not self._merged and set(self._weights(variant)) <= set(self._terms))

    def keep_half(self) -> None:
        """Keep the means of the directions so far, which are half of them."""
        if self._sum is not None:
            self._first = self._sum.map_mean

    def heatmap(self, variant: Variant, *, half: bool = False) -> torch.Tensor:
        if self._sum is None or (half and self._first is None):
            raise ValueError("no projections")
        if self._merged:
            return self._mean(self.variants.index(variant), half)
        means = {term: self._mean(self._terms.index(term), half) for term in self._weights(variant)}
        first, *others = (weight * means[term] for term, weight in self._weights(variant).items())
        return sum(others, start=first)

    def _mean(self, channel: int, half: bool) -> torch.Tensor:
        assert self._sum is not None
        return self._first[channel] if half and self._first is not None else self._sum.channel_mean(channel)

    def terms(self, variant: Variant) -> dict[Variant, float]:
        if self._merged:
            return {variant: 1.0}
        averaged = Variant("averaged-cam", variant.stages)
        return {
            averaged if term is None else Variant("tomographic-cam", variant.stages, term): weight
            for term, weight in self._weights(variant).items()
        }

    def _matrices(self, like: torch.Tensor) -> torch.Tensor:
        """Return what is done to the maps along the offsets: C M T, by term or by variant."""
        matrices = [self._matrix(term, like) for term in self._terms]
        if not self._merged:
            return torch.stack(matrices)
        index = {term: number for number, term in enumerate(self._terms)}
        weights = torch.zeros(len(self.variants), len(matrices)).to(like)
        for row, variant in zip(weights, self.variants, strict=True):
            for term, weight in self._weights(variant).items():
                row[index[term]] = weight
        return torch.einsum("vc,cmt->vmt", weights, torch.stack(matrices))

    def _matrix(self, term: _Term, like: torch.Tensor) -> torch.Tensor:
        if term is None:
            return torch.eye(self._plan.slices + 2, dtype=like.dtype, device=like.device)[1:-1]
        return _second_derivative(term, self._plan, like) * -(self._plan.step**-2)

    def _weights(self, variant: Variant) -> dict[_Term, float]:
        """Return a variant as a weighted sum of terms."""
        if variant.method == "averaged-cam":
            return {None: 1.0}
        if variant.method == "tomographic-cam":
            return {variant.filter: 1.0}
        return {None: 1.0, variant.filter: (variant.sigma_scale * self._half_cell) ** 2}


# Averaged CAM is None, Tomographic CAM its filter.
_Term = FilterKind | None


def _terms(variants: Sequence[Variant], filters: Collection[FilterKind]) -> list[_Term]:
    averaged: list[_Term] = [None] if filters or any(each.method != "tomographic-cam" for each in variants) else []
    derived = [variant.filter for variant in variants if variant.method != "averaged-cam"]
    return [*averaged, *dict.fromkeys([*derived, *filters])]


def _second_derivative(kind: FilterKind, plan: SlicePlan, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(second_derivative(kind, plan.slices), dtype=like.dtype, device=like.device)
