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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import torch

from tonno_core.settings import FilterKind, Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.timing import Timings
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.tomography.filtering import second_derivative
from tonno_core.tomography.projection import Projections
from tonno_core.volume.volume import Matrix


@dataclass(frozen=True)
class TargetGrid:
    """Where to backproject.

    shape: Z Y X. ijk_to_frame: 4 x 4, its voxel indices to frame coordinates. radius: nodes farther from
    the frame's centre are not wanted.
    """

    shape: tuple[int, int, int]
    ijk_to_frame: Matrix
    radius: float = math.inf

    def backprojector(self, like: torch.Tensor) -> Backprojector:
        """An empty sum on this grid, on the device and in the precision of ``like``."""
        return Backprojector(self.shape, self.ijk_to_frame, like.device, like.dtype, self.radius)


@dataclass(frozen=True)
class Inversion:
    """heatmaps: ``Z Y X`` on the target grid, by variant. logits: ``L T``, the projections themselves."""

    heatmaps: dict[Variant, torch.Tensor]
    logits: torch.Tensor


def invert(
    projections: Iterable[Projections],
    plan: SlicePlan,
    grid: TargetGrid,
    variants: Collection[Variant],
    *,
    timings: Timings | None = None,
) -> Inversion:
    """Heatmaps of variants of the four methods from the projections of all directions of a plan, not smoothed.

    The CAM methods need projections with the maps of their stages. Memory does not grow with the number of
    directions (but for the logits).
    """
    timings = timings or Timings()
    of_values = {one.filter: _ValueSum(one.filter, plan, grid) for one in variants if one.method == "tonno"}
    of_maps = {
        stage: _MapSum([one for one in variants if one.method != "tonno" and one.stage == stage], plan, grid)
        for stage in dict.fromkeys(one.stage for one in variants if one.method != "tonno")
    }
    logits: list[torch.Tensor] = []
    for batch in projections:
        logits.append(batch.logits)
        for values in of_values.values():
            values.add(batch, timings)
        for stage, maps in of_maps.items():
            if stage not in batch.maps:
                raise ValueError(f"{', '.join(one.method for one in maps.variants)} need projections with maps")
            maps.add(batch.maps[stage], batch.which, timings)
    heatmaps: dict[Variant, torch.Tensor] = {}
    for one in variants:
        if one.method == "tonno":
            heatmaps[one] = of_values[one.filter].heatmap()
        else:
            heatmaps[one] = of_maps[one.stage].heatmap(one)
    return Inversion(heatmaps, torch.cat(logits))


def average(
    projections: Iterable[Projections], plan: SlicePlan, grid: TargetGrid, stages: Collection[int]
) -> dict[int, torch.Tensor]:
    """``Z Y X`` by stage: the plain mean of the maps over a plan's directions (slice-wise CAM)."""
    targets: dict[int, Backprojector] = {}
    for batch in projections:
        for stage in stages:
            if stage not in batch.maps:
                raise ValueError("slice-wise CAM needs projections with maps")
            maps = batch.maps[stage]
            if stage not in targets:
                targets[stage] = grid.backprojector(maps)
            targets[stage].add_maps(maps[:, None, 1:-1], plan, batch.which)
    if not targets:
        raise ValueError("no projections")
    return {stage: target.map_mean[0] for stage, target in targets.items()}


def cell_pitch(plan: SlicePlan, cells: int) -> float:
    """w in frame units: a cell covers S / h pixels of 2 / (S - 1)."""
    return plan.pixels / cells * 2.0 / (plan.pixels - 1)


class _ValueSum:
    """The backprojection of the logits' second derivative by one filter."""

    def __init__(self, kind: FilterKind, plan: SlicePlan, grid: TargetGrid) -> None:
        self._kind, self._plan, self._grid = kind, plan, grid
        self._sum: Backprojector | None = None

    def add(self, batch: Projections, timings: Timings) -> None:
        with timings.measure("filter"):
            profiles = batch.logits @ _second_derivative(self._kind, self._plan, batch.logits).T
        with timings.measure("backprojection: values"):
            self._sum = self._sum or self._grid.backprojector(batch.logits)
            self._sum.add_profiles(profiles, self._plan.directions[batch.which])

    def heatmap(self) -> torch.Tensor:
        if self._sum is None:
            raise ValueError("no projections")
        side = 2.0 * self._plan.pixels / (self._plan.pixels - 1)  # of the slice whose mean the encoder returns
        per_frame_unit = 1.0 / self._plan.step  # offsets per unit of s, squared in the second derivative
        return self._sum.profile_mean * (-((side * per_frame_unit) ** 2) / (2.0 * math.pi))


class _MapSum:
    """The backprojections of one stage's maps: one for each variant, or for each term that they share if fewer.

    Averaged CAM A, and Tomographic CAM T of each filter, are the terms; Matched CAM is A + sigma^2 T.
    """

    def __init__(self, variants: Sequence[Variant], plan: SlicePlan, grid: TargetGrid) -> None:
        self.variants = variants
        self._plan, self._grid = plan, grid
        self._sum: Backprojector | None = None
        self._channels = self._weights = torch.empty(0)

    def add(self, maps: torch.Tensor, which: slice, timings: Timings) -> None:
        with timings.measure("filter"):
            if self._sum is None:
                self._channels, self._weights = _channels(self.variants, self._plan, maps)
            channels = torch.einsum("cmt,bthw->bcmhw", self._channels, maps)
        with timings.measure("backprojection: maps"):
            self._sum = self._sum or self._grid.backprojector(maps)
            self._sum.add_maps(channels, self._plan, which)

    def heatmap(self, variant: Variant) -> torch.Tensor:
        if self._sum is None:
            raise ValueError("no projections")
        weights = self._weights[self.variants.index(variant)]
        return (weights[:, None, None, None] * self._sum.map_mean).sum(dim=0)


def _channels(variants: Sequence[Variant], plan: SlicePlan, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is done to a stage's maps along the offsets, C M T, and the variants as sums of these channels, V C."""
    terms: dict[str, torch.Tensor] = {}
    if any(one.method != "tomographic-cam" for one in variants):
        terms["averaged"] = torch.eye(plan.slices + 2, dtype=maps.dtype, device=maps.device)[1:-1]
    for one in variants:
        if one.method != "averaged-cam":
            terms[one.filter] = _second_derivative(one.filter, plan, maps) * -(plan.step**-2)
    half_cell = cell_pitch(plan, maps.shape[-1]) / 2.0
    weights = torch.zeros(len(variants), len(terms), dtype=maps.dtype, device=maps.device)
    for row, one in zip(weights, variants, strict=True):
        for column, term in enumerate(terms):
            if term == "averaged":
                row[column] = float(one.method != "tomographic-cam")
            elif term == one.filter and one.method != "averaged-cam":
                row[column] = 1.0 if one.method == "tomographic-cam" else (one.sigma_scale * half_cell) ** 2
    channels = torch.stack(list(terms.values()))
    if len(terms) < len(variants):
        return channels, weights
    return torch.einsum("vc,cmt->vmt", weights, channels), torch.eye(len(variants)).to(maps)


def _second_derivative(kind: FilterKind, plan: SlicePlan, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(second_derivative(kind, plan.slices), dtype=like.dtype, device=like.device)
