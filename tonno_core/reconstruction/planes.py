"""Which planes a reconstruction looks at, and on which grid it puts them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.decide import Run
from tonno_core.errors import TonnoError
from tonno_core.settings import SLICEWISE_METHODS, FilterKind, Variant
from tonno_core.slicing import directions as lattices
from tonno_core.slicing.frame import closeness, patient_axes, within_ball
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.filtering import FILTER_REACH
from tonno_core.tomography.grid import TargetGrid
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Matrix, Volume

# A slicewise map has no more slices than this along an axis; its grid of as many nodes cubed takes 0.5 GB.
SLICEWISE_LIMIT = 512
NOTHING_INSIDE = "the region holds no voxel of what is looked at; move it onto the patient"
# A Gaussian's kernel ends there (scipy's default).
_SIGMAS = 4.0


def zoomed_ball(volume: Volume, run: Run) -> tuple[npt.NDArray[np.float64], float]:
    """Return a ball into which all offsets go, so that all of a region can be right in it.

    Beyond the region lie as many offsets as the filter and the grid's nodes reach, and what smoothing reaches.

    Args:
        volume: The scan.
        run: With the region to zoom into.

    Returns:
        Center (RAS mm) and radius (mm).

    Raises:
        TonnoError: These leave no offsets for the region itself.
    """
    assert run.region is not None
    centre, half_diagonal = run.region.ball
    step = 2.0 / (run.asked.slices - 1)
    left = 1.0 - (filter_offsets(run.variants) + math.sqrt(3.0)) * step
    if left < 0.25:
        raise TonnoError(f"`slices` is {run.asked.slices}, too few for `zoom` by this filter; expected more of them")
    return centre, (half_diagonal + math.sqrt(3.0) * smoothing_reach_mm(run.variants, volume)) / left


def filter_offsets(variants: Sequence[Variant]) -> int:
    """Return the offsets beyond a region's ends that the filters of some variants need.

    Args:
        variants: Any.

    Returns:
        Their number.
    """
    return max([FILTER_REACH["second-difference"], *(FILTER_REACH[variant.filter] for variant in variants)])


def smoothing_reach_mm(variants: Sequence[Variant], volume: Volume) -> float:
    """Return how far the widest smoothing of some variants reaches; its kernel is rounded to whole voxels.

    Args:
        variants: Any.
        volume: The scan.

    Returns:
        Millimeters.
    """
    widest = max((variant.smooth_mm for variant in variants), default=0.0)
    return _SIGMAS * widest + (float(volume.spacing_mm.max()) if widest > 0 else 0.0)


@dataclass(frozen=True)
class Planes:
    """The geometry of one reconstruction.

    Attributes:
        volume: The scan.
        run: What is wanted; the filters and smoothing of its variants say how far beyond a region planes matter.
        frame_to_ras: 4 x 4.
    """

    volume: Volume
    run: Run
    frame_to_ras: Matrix

    @property
    def filters(self) -> tuple[FilterKind, ...]:
        """The filters for which enough planes are looked at."""
        if self.run.region is None:
            return tuple(FILTER_REACH)
        most = filter_offsets(self.run.variants)
        return tuple(kind for kind, offsets in FILTER_REACH.items() if offsets <= most)

    @property
    def smooth_mm(self) -> float:
        """The widest smoothing for which enough planes are looked at."""
        if self.run.region is None:
            return math.inf
        return max(variant.smooth_mm for variant in self.run.variants)

    @property
    def shifts(self) -> tuple[float, ...]:
        """How far each channel's slice lies along the normal, in frame units; empty where all get the same slice."""
        frame_unit_mm = float(np.linalg.norm(self.frame_to_ras[:3, 0]))  # the frame is a ball
        return tuple(mm / frame_unit_mm for mm in self.run.shifts_mm)

    def closeness(self) -> npt.NDArray[np.float32]:
        """Return how close each voxel is to the frame's center.

        Returns:
            1 less its distance in frame units: Z Y X.
        """
        return closeness(self.volume, self.frame_to_ras)

    @cached_property
    def inside(self) -> npt.NDArray[np.bool_]:
        """The voxels that the planes cover and that are wanted: bool Z Y X.

        Raises:
            TonnoError: There is none.
        """
        # The normalized frame shows all of the volume, as the paper does, though only the ball is exact.
        physical = self.run.asked.frame == "physical"
        shape = self.volume.array.shape
        inside = within_ball(self.volume, self.frame_to_ras) if physical else np.ones(shape, dtype=bool)
        if self.run.region is not None:
            inside &= self.run.region.contains(self.volume)
            if not inside.any():
                raise TonnoError(NOTHING_INSIDE)
        return inside

    def axes(self) -> SlicePlan:
        """Return all planes along R, A and S.

        Returns:
            Three directions.
        """
        return SlicePlan(self.frame_to_ras, patient_axes(self.frame_to_ras), self.run.asked.slices, self.run.pixels)

    def tomographic(self, count: int) -> SlicePlan:
        """Return directions over the sphere, in progressive order: every prefix of them is evenly spread.

        Args:
            count: L.

        Returns:
            Their planes; in a region only those that matter to it.
        """
        if self.run.asked.lattice == "hemisphere":
            directions = lattices.hemisphere(count)
        else:
            directions = lattices.sphere(count)
            directions = directions[lattices.farthest_first(directions)]
        return self._limited(directions, self.run.asked.slices)

    def slicewise(self, method: str) -> SlicePlan:
        """Return planes along S, or along all three axes, at least as close as the scan's voxels.

        Args:
            method: One of `SLICEWISE_METHODS`.

        Returns:
            Their planes.
        """
        assert method in SLICEWISE_METHODS
        axes = patient_axes(self.frame_to_ras)
        extent = 2.0 * np.linalg.norm(self.frame_to_ras[:3, :3], axis=0).max()
        native = math.ceil(extent / self.volume.spacing_mm.min()) + 1
        directions = axes[2:] if method == "slicewise-cam" else axes
        return self._limited(directions, min(max(self.run.asked.slices, native), SLICEWISE_LIMIT))

    def grid(self, plan: SlicePlan) -> TargetGrid:
        """Return the grid to backproject on.

        Args:
            plan: The planes.

        Returns:
            The input's own, or M^3 nodes at the offset step: a heatmap carries no finer detail.
        """
        # Beyond the ball nothing is shown in a physical frame; its rim is interpolated from one node more.
        radius = 1.0 + math.sqrt(3.0) * plan.step if self.run.asked.frame == "physical" else math.inf
        box = None if self.run.region is None else self._frame_to_box(plan)
        if self.run.asked.grid == "volume":
            z, y, x = self.volume.array.shape
            return TargetGrid((z, y, x), np.linalg.inv(self.frame_to_ras) @ self.volume.ijk_to_ras, radius, box)
        shape = (plan.slices, plan.slices, plan.slices)
        return TargetGrid(shape, ijk_to_grid(shape), radius, box)

    # --- a region

    def _limited(self, directions: lattices.Directions, slices: int) -> SlicePlan:
        plan = SlicePlan(self.frame_to_ras, directions, slices, self.run.pixels)
        if self.run.region is None:
            return plan
        reach = filter_offsets(self.run.variants) * plan.step + self._node_reach(plan)
        needed = self.run.region.needed(self.frame_to_ras, directions, plan.offsets, reach)
        return SlicePlan(self.frame_to_ras, directions, slices, self.run.pixels, needed)

    def _node_reach(self, plan: SlicePlan) -> float:
        """Return how far beyond the region the grid's nodes must be right, in frame units of the finest axis."""
        millimetre = 1.0 / float(np.linalg.norm(self.frame_to_ras[:3, :3], axis=0).min())
        # Interpolation takes the nodes of a cell.
        return math.sqrt(3.0) * (plan.step + smoothing_reach_mm(self.run.variants, self.volume) * millimetre)

    def _frame_to_box(self, plan: SlicePlan) -> Matrix:
        """Return the matrix to coordinates in which the box, grown by the nodes' reach, is [-1, 1]^3."""
        assert self.run.region is not None
        box_to_frame = np.linalg.inv(self.frame_to_ras) @ self.run.region.box_to_ras
        # Along box axis i, x changes by |row i of the inverse| per unit of length at most.
        per_unit = np.linalg.norm(np.linalg.inv(box_to_frame)[:3, :3], axis=1)
        grown = np.diag(np.append(1.0 / (1.0 + per_unit * self._node_reach(plan)), 1.0))
        return np.asarray(grown @ np.linalg.inv(box_to_frame))
