"""Projections to heatmaps: filter along the normal, backproject, combine.

    tonno            -1 / (2 pi) (2 S / (S - 1))^2 mean_n d2p/ds2         p: the logits
    averaged-cam     mean_n p                                             p: the maps
    tomographic-cam  -mean_n d2p/ds2
    matched-cam      mean_n [p - sigma^2 d2p/ds2]

with s in frame units; derivations in docs/method.md. One pass through the network serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch

from tonno_core.settings import FilterKind
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
    """heatmaps: ``Z Y X`` on the target grid, by method. logits: ``L T``, the projections themselves."""

    heatmaps: dict[str, torch.Tensor]
    logits: torch.Tensor


def invert(
    projections: Iterable[Projections],
    plan: SlicePlan,
    grid: TargetGrid,
    methods: Collection[str],
    *,
    filter_kind: FilterKind = "second-difference",
    sigma_scale: float = 1.0,
    timings: Timings | None = None,
) -> Inversion:
    """Heatmaps of some of the four methods from the projections of all directions of a plan.

    The CAM methods need projections with maps. sigma_scale: factor on sigma = w / 2, w the pitch of the
    maps' cells in frame units. Memory does not grow with the number of directions (but for the logits).
    """
    timings = timings or Timings()
    cams = [method for method in methods if method != "tonno"]
    profile_grid: Backprojector | None = None
    map_grid: Backprojector | None = None
    logits: list[torch.Tensor] = []
    combine: torch.Tensor | None = None
    for batch in projections:
        logits.append(batch.logits)
        derivative = _second_derivative(filter_kind, plan, batch.logits)
        if "tonno" in methods:
            with timings.measure("filter"):
                profiles = batch.logits @ derivative.T
            with timings.measure("backprojection: values"):
                profile_grid = profile_grid or grid.backprojector(batch.logits)
                profile_grid.add_profiles(profiles, plan.directions[batch.which])
        if cams:
            if batch.maps is None:
                raise ValueError(f"{', '.join(cams)} need projections with maps")
            with timings.measure("filter"):
                if combine is None:
                    combine = _channels(cams, plan, batch.maps, derivative, sigma_scale)
                channels = torch.einsum("cmt,bthw->bcmhw", combine, batch.maps)
            with timings.measure("backprojection: maps"):
                map_grid = map_grid or grid.backprojector(batch.maps)
                map_grid.add_maps(channels, plan, batch.which)
    heatmaps: dict[str, torch.Tensor] = {}
    per_frame_unit = 1.0 / plan.step  # offsets per unit of s, squared in the second derivative
    if profile_grid is not None:
        side = 2.0 * plan.pixels / (plan.pixels - 1)  # of the slice whose mean the encoder returns
        heatmaps["tonno"] = profile_grid.profile_mean * (-((side * per_frame_unit) ** 2) / (2.0 * math.pi))
    if map_grid is not None:
        heatmaps.update(zip(cams, map_grid.map_mean, strict=True))
    return Inversion(heatmaps, torch.cat(logits))


def average(projections: Iterable[Projections], plan: SlicePlan, grid: TargetGrid) -> torch.Tensor:
    """``Z Y X``: the plain mean of the maps over a plan's directions (slice-wise CAM on one or three axes)."""
    target: Backprojector | None = None
    for batch in projections:
        if batch.maps is None:
            raise ValueError("slice-wise CAM needs projections with maps")
        target = target or grid.backprojector(batch.maps)
        target.add_maps(batch.maps[:, None, 1:-1], plan, batch.which)
    if target is None:
        raise ValueError("no projections")
    return target.map_mean[0]


def cell_pitch(plan: SlicePlan, cells: int) -> float:
    """w in frame units: a cell covers S / h pixels of 2 / (S - 1)."""
    return plan.pixels / cells * 2.0 / (plan.pixels - 1)


def _channels(
    cams: Collection[str], plan: SlicePlan, maps: torch.Tensor, derivative: torch.Tensor, sigma_scale: float
) -> torch.Tensor:
    """What each CAM method does to a map along the offsets, as a matrix: C M T."""
    identity = torch.eye(plan.slices + 2, dtype=maps.dtype, device=maps.device)[1:-1]
    tomographic = derivative * -(plan.step**-2)
    sigma = sigma_scale * cell_pitch(plan, maps.shape[-1]) / 2.0
    along_offsets = {
        "averaged-cam": identity,
        "tomographic-cam": tomographic,
        "matched-cam": identity + sigma**2 * tomographic,
    }
    return torch.stack([along_offsets[method] for method in cams])


def _second_derivative(kind: FilterKind, plan: SlicePlan, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(second_derivative(kind, plan.slices), dtype=like.dtype, device=like.device)
