"""Which planes a reconstruction looks at, and on which grid it puts them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.settings import SLICEWISE_METHODS, FilterKind, ReconstructionSettings, Variant
from tonno_core.slicing import directions as lattices
from tonno_core.slicing.frame import closeness, patient_axes, within_ball
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.region import Region
from tonno_core.tomography.grid import TargetGrid
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Matrix, Volume

# A slicewise map has no more slices than this along an axis; its grid of as many nodes cubed takes 0.5 GB.
SLICEWISE_LIMIT = 512
# Offsets beyond a region's ends that a filter is given there. What its longer taps would add was at most 1.5e-4 of a
# heatmap's peak, with logits and maps of random weights, that jump from plane to plane.
FILTER_REACH: dict[FilterKind, int] = {"second-difference": 1, "hann": 6, "gaussian": 8}
NOTHING_INSIDE = "the region holds no voxel of what is looked at; move it onto the patient"
# A Gaussian's kernel ends there (scipy's default).
_SIGMAS = 4.0


def zoomed_ball(
    region: Region, settings: ReconstructionSettings, variants: Sequence[Variant], volume: Volume
) -> tuple[npt.NDArray[np.float64], float]:
    """Centre (RAS mm) and radius (mm) of a ball into which all offsets go, so that all of a region can be right in it.

    Beyond the region lie as many offsets as the filter and the grid's nodes reach, and what smoothing reaches. Raises
    TonnoError where these leave no offsets for the region itself.
    """
    centre, half_diagonal = region.ball
    step = 2.0 / (settings.slices - 1)
    left = 1.0 - (filter_offsets(variants) + math.sqrt(3.0)) * step
    if left < 0.25:
        raise TonnoError(f"`slices` is {settings.slices}, too few for `zoom` by this filter; expected more of them")
    return centre, (half_diagonal + math.sqrt(3.0) * smoothing_reach_mm(variants, volume)) / left


def filter_offsets(variants: Sequence[Variant]) -> int:
    """Offsets beyond a region's ends that the filters of some variants need."""
    return max([FILTER_REACH["second-difference"], *(FILTER_REACH[one.filter] for one in variants)])


def smoothing_reach_mm(variants: Sequence[Variant], volume: Volume) -> float:
    """How far the widest smoothing of some variants reaches; its kernel is rounded to whole voxels."""
    widest = max((one.smooth_mm for one in variants), default=0.0)
    return _SIGMAS * widest + (float(volume.spacing_mm.max()) if widest > 0 else 0.0)


@dataclass(frozen=True)
class Planes:
    """The geometry of one reconstruction.

    frame_to_ras: 4 x 4. pixels: S. region: where alone heatmaps are wanted, None for everywhere. variants: those
    wanted; their filters and smoothing say how far beyond the region planes matter. zoom: whether all offsets and
    pixels were put into the region.
    """

    volume: Volume
    settings: ReconstructionSettings
    frame_to_ras: Matrix
    pixels: int
    region: Region | None
    variants: tuple[Variant, ...]
    zoom: bool = False

    @property
    def filters(self) -> tuple[FilterKind, ...]:
        """The filters for which enough planes are looked at."""
        if self.region is None:
            return tuple(FILTER_REACH)
        return tuple(kind for kind, offsets in FILTER_REACH.items() if offsets <= filter_offsets(self.variants))

    @property
    def smooth_mm(self) -> float:
        """The widest smoothing for which enough planes are looked at."""
        return math.inf if self.region is None else max(one.smooth_mm for one in self.variants)

    def closeness(self) -> npt.NDArray[np.float32]:
        """1 less each voxel's distance from the frame's centre, in frame units: Z Y X."""
        return closeness(self.volume, self.frame_to_ras)

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """The voxels that the planes cover and that are wanted: Z Y X. Raises TonnoError where there is none."""
        # The normalized frame shows all of the volume, as the paper does, though only the ball is exact.
        physical = self.settings.frame == "physical"
        shape = self.volume.array.shape
        inside = within_ball(self.volume, self.frame_to_ras) if physical else np.ones(shape, dtype=bool)
        if self.region is not None:
            inside &= self.region.contains(self.volume)
            if not inside.any():
                raise TonnoError(NOTHING_INSIDE)
        return inside

    def axes(self) -> SlicePlan:
        """All planes along R, A and S."""
        return SlicePlan(self.frame_to_ras, patient_axes(self.frame_to_ras), self.settings.slices, self.pixels)

    def tomographic(self, count: int) -> SlicePlan:
        """Directions over the sphere, in progressive order: every prefix of them is evenly spread."""
        if self.settings.lattice == "hemisphere":
            directions = lattices.hemisphere(count)
        else:
            directions = lattices.sphere(count)
            directions = directions[lattices.farthest_first(directions)]
        return self._limited(directions, self.settings.slices)

    def slicewise(self, method: str) -> SlicePlan:
        """Along S, or along all three axes, with slices at least as close as the scan's voxels."""
        assert method in SLICEWISE_METHODS
        axes = patient_axes(self.frame_to_ras)
        extent = 2.0 * np.linalg.norm(self.frame_to_ras[:3, :3], axis=0).max()
        native = math.ceil(extent / self.volume.spacing_mm.min()) + 1
        directions = axes[2:] if method == "slicewise-cam" else axes
        return self._limited(directions, min(max(self.settings.slices, native), SLICEWISE_LIMIT))

    def grid(self, plan: SlicePlan) -> TargetGrid:
        """The input's own grid, or M^3 nodes at the offset step: a heatmap carries no finer detail."""
        # Beyond the ball nothing is shown in a physical frame; its rim is interpolated from one node more.
        radius = 1.0 + math.sqrt(3.0) * plan.step if self.settings.frame == "physical" else math.inf
        box = None if self.region is None else self._frame_to_box(plan)
        if self.settings.grid == "volume":
            z, y, x = self.volume.array.shape
            return TargetGrid((z, y, x), np.linalg.inv(self.frame_to_ras) @ self.volume.ijk_to_ras, radius, box)
        shape = (plan.slices, plan.slices, plan.slices)
        return TargetGrid(shape, ijk_to_grid(shape), radius, box)

    # --- a region

    def _limited(self, directions: lattices.Directions, slices: int) -> SlicePlan:
        plan = SlicePlan(self.frame_to_ras, directions, slices, self.pixels)
        if self.region is None:
            return plan
        reach = filter_offsets(self.variants) * plan.step + self._node_reach(plan)
        needed = self.region.needed(self.frame_to_ras, directions, plan.offsets, reach)
        return SlicePlan(self.frame_to_ras, directions, slices, self.pixels, needed)

    def _node_reach(self, plan: SlicePlan) -> float:
        """How far beyond the region the grid's nodes must be right, in frame units (the finest axis' millimetres)."""
        millimetre = 1.0 / float(np.linalg.norm(self.frame_to_ras[:3, :3], axis=0).min())
        # Interpolation takes the nodes of a cell.
        return math.sqrt(3.0) * (plan.step + smoothing_reach_mm(self.variants, self.volume) * millimetre)

    def _frame_to_box(self, plan: SlicePlan) -> Matrix:
        """To coordinates in which the box, grown on all sides by the nodes' reach, is [-1, 1]^3."""
        assert self.region is not None
        box_to_frame = np.linalg.inv(self.frame_to_ras) @ self.region.box_to_ras
        # Along box axis i, x changes by |row i of the inverse| per unit of length at most.
        per_unit = np.linalg.norm(np.linalg.inv(box_to_frame)[:3, :3], axis=1)
        grown = np.diag(np.append(1.0 / (1.0 + per_unit * self._node_reach(plan)), 1.0))
        return np.asarray(grown @ np.linalg.inv(box_to_frame))
