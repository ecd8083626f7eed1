"""Encoder outputs for one class of all planes of a volume, and the heatmaps computed from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from tonno_core.bundle.decide import Target
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.encoding.encoder import Encoder
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.planes import NOTHING_INSIDE, Planes
from tonno_core.reconstruction.result import Prediction, Reconstruction
from tonno_core.reconstruction.shared import Gathered
from tonno_core.reporting import Preview, Reporter, Timings
from tonno_core.segmenter.segmenter import Segmenter
from tonno_core.settings import SEGMENTER, SLICEWISE_METHODS, ReconstructionSettings, Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.profile import Profile
from tonno_core.slicing.region import Region
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter
from tonno_core.volume.grid import multiply_axes, parallel_axes
from tonno_core.volume.smoothing import Block, Interpolation, gaussian_matrix
from tonno_core.volume.volume import Matrix, Volume

# Directions on which the self-check compares the heatmap's own projections with the logits.
CHECKED_DIRECTIONS = 24

# What a segmenter's logit reaches in so much of a volume is the volume's score: no single voxel decides.
SCORED_MM3 = 100.0

# Their heatmaps are the same where a constant is added to the volume.
BLIND_TO_CONSTANTS = ("tomographic-cam", "center")

Receive = Callable[[str, Volume, npt.NDArray[np.bool_]], None]
# Values before the smoothing, and their grid, None for the input's.
_Raw = tuple[torch.Tensor, TargetGrid | None]


@dataclass
class Projected:
    """A class's state of a reconstruction whose planes are looked at; `show_planes` makes it grow.

    Heatmaps come from it without another pass through the network, also with other filters, sigmas and smoothing than
    were first asked for; `gives` says which.

    Attributes:
        planes: The geometry, and the run.
        encoder: Answers slices; a segmenter, the volume.
        target: The class, and its variants that were first asked for.
        inverters: One for each number of directions, from the start; their own `directions` are those looked at.
        axes: The plan along R, A and S, and its logits 3 T.
        slicewise: Means of maps, and their grids.
        slices_total: Slices that were looked at.
        slices_blank: Those of them that showed nothing.
        passes: Of slices through the network, masked ones too, for ScoreCAM's maps; 0 for other maps.
        warnings: For whoever reads the result.
        taken_off: What was taken off the volume before it was sliced.
        answer: A segmenter's logits, ``Z Y X`` on the input's grid.
        windows: That it answered.
        foreground: Points P 3 of the scan's foreground in the frame, between whose ends a regressor's answers count;
            None of other models, and where there is nothing to see.
    """

    planes: Planes
    encoder: Encoder | Segmenter
    target: Target
    inverters: list[Inverter | Gathered]
    axes: tuple[SlicePlan, torch.Tensor] | None = None
    slicewise: dict[Variant, tuple[torch.Tensor, TargetGrid]] = field(default_factory=dict)
    slices_total: int = 0
    slices_blank: int = 0
    passes: int = 0
    warnings: tuple[str, ...] = ()
    taken_off: float = 0.0
    answer: torch.Tensor | None = None
    windows: int = 0
    foreground: npt.NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        self.inside = self.planes.inside

    # --- how far it is

    @property
    def begun(self) -> bool:
        """Whether any directions have been backprojected."""
        return any(each.directions > 0 for each in self.inverters)

    @property
    def left(self) -> list[Inverter]:
        """The inverters of which directions have not been looked at, in the order of their passes."""
        return [each for each in self.inverters if isinstance(each, Inverter) and each.directions < _planned(each)]

    @property
    def slicewise_left(self) -> list[str]:
        """The slicewise methods whose planes have not been looked at."""
        done = {variant.method for variant in self.slicewise}
        return [method for method in self._slicewise_methods if method not in done]

    @property
    def stopped(self) -> bool:
        """Whether fewer directions have been looked at than a whole run has."""
        return bool(self.left)

    @property
    def directions(self) -> int:
        """How many have been backprojected: of the pass under way; of the longest one when all are done."""
        return self._current.directions if self.inverters else 0

    @property
    def planned(self) -> int:
        """How many there are of these in a whole run."""
        return _planned(self._current) if self.inverters else 0

    @property
    def planes_done(self) -> tuple[int, int]:
        """How many planes have been looked at, and how many there are in all."""
        plans = [(self.planes.axes(), self.axes is not None)] if self.planes.run.profiles else []
        plans += [(self.planes.slicewise(name), name not in self.slicewise_left) for name in self._slicewise_methods]
        counts = [(plan.counts, len(plan.directions) * done) for plan, done in plans]
        counts += [(each.plan.counts, each.directions) for each in self.inverters]
        return sum(int(some[:done].sum()) for some, done in counts), sum(int(some.sum()) for some, _ in counts)

    @property
    def _current(self) -> Inverter | Gathered:
        return self.left[0] if self.left else max(self.inverters, key=_planned)

    @property
    def _slicewise_methods(self) -> list[str]:
        methods = dict.fromkeys(variant.method for variant in self.target.variants.values())
        return [method for method in methods if method in SLICEWISE_METHODS]

    # --- what it gives

    def gives(self, variant: Variant, *, at_its_end: bool = False) -> bool:
        """Return whether `finish` can make a variant.

        Args:
            variant: Its stages given.
            at_its_end: When no directions are left, rather than now.

        Returns:
            True where it can.
        """
        if variant.smooth_mm > self.planes.smooth_mm:
            return False
        return all(
            part.method == "center"
            or part in self.slicewise
            or (part.method == SEGMENTER and self.answer is not None)
            or self._inverter(part, at_its_end) is not None
            for part in variant.raw().parts()
        )

    def reach(self, variant: Variant) -> tuple[int, int]:
        """Return how many directions a variant is made of.

        Args:
            variant: That it gives.

        Returns:
            Their number so far, and in a whole run; 0, 0 without any.
        """
        inverter = self._inverter(next(iter(variant.raw().parts())))  # a method's stages share their directions
        if inverter is None:
            return 0, 0
        return inverter.directions, self.planes.run.asked.directions_for(variant.method)

    def covers(self, region: Region) -> bool:
        """Return whether `finish` can be limited to a region.

        Args:
            region: A box.

        Returns:
            True where its planes were looked at.
        """
        return self.planes.run.region is None or self.planes.run.region.holds(region)

    # --- heatmaps

    def finish(
        self,
        variants: Mapping[str, Variant],
        asked: ReconstructionSettings,
        reporter: Reporter,
        *,
        region: Region | None = None,
        receive: Receive | None = None,
    ) -> Reconstruction:
        """Make heatmaps of variants that it `gives`.

        Args:
            variants: By name.
            asked: The settings that they are from, for the result.
            reporter: Its check may raise Cancelled between heatmaps.
            region: A part of what was looked at, None for all of it.
            receive: See `reconstruct`.

        Returns:
            The result; its ``seconds`` are empty.

        Raises:
            TonnoError: The region holds no voxel of what was looked at.
        """
        inside = self._inside_of(region)
        covered = torch.as_tensor(inside).to(self.planes.run.device)
        timings = reporter.timings
        heatmaps: dict[str, Volume] = {}
        explained: float | None = None
        for name, variant, raw, array in self._arrays(variants, timings):
            reporter.check()
            if variant.method == "tonno" and explained is None:
                plain = self._on_input_grid(*raw, timings) if variant.smooth_mm > 0 else array
                explained = self._self_check(variant, plain.cpu().numpy(), timings)
            heatmap = self._shown(variant, array, covered)
            if receive is None:
                heatmaps[name] = heatmap
            else:
                receive(name, heatmap, inside)
        run, prediction = self.planes.run, self._prediction()
        return Reconstruction(
            heatmaps=heatmaps,
            variants=dict(variants),
            inside=inside,
            profiles=self._profiles(),
            settings=asked,
            class_name=self.target.name,
            frame_to_ras=self.planes.frame_to_ras,
            slice_size=run.pixels,
            score=self._score(prediction),
            explained=explained,
            seconds={},
            slices_total=self.slices_total,
            slices_blank=self.slices_blank,
            passes=self.passes,
            device=str(run.device),
            precision=str(run.precision).removeprefix("torch."),
            layout=getattr(self.encoder, "layout", ""),
            warnings=(*self.warnings, *self._blank_warning()),
            windows=self.windows,
            directions=self.directions,
            planned=self.planned,
            stopped=self.stopped,
            prediction=prediction,
            unit=self.target.name if run.choices.kind == REGRESSOR else "logit",
        )

    def terms(self, variant: Variant) -> dict[Variant, float]:
        """Return the raw heatmaps that are kept, of which a variant is a weighted sum before its smoothing.

        Args:
            variant: That it gives.

        Returns:
            Weights by variant.
        """
        total: dict[Variant, float] = {}
        for part, weight in variant.raw().parts().items():
            whole = part.method in ("center", SEGMENTER) or part in self.slicewise
            inverter = None if whole else self._inverter(part)
            for term, share in ({part: 1.0} if inverter is None else inverter.terms(part)).items():
                total[term] = total.get(term, 0.0) + weight * share
        return total

    def term(self, variant: Variant) -> tuple[torch.Tensor, TargetGrid | None]:
        """Return the values of a raw heatmap that is kept.

        Args:
            variant: From `terms`.

        Returns:
            ``Z Y X`` on the device, and their grid, None for the input's.
        """
        return self._part(variant, Timings())

    def halves(self, variant: Variant) -> tuple[torch.Tensor, TargetGrid | None]:
        """Return the values of a raw heatmap by either half of the directions, of a run that has `Run.halves`.

        Args:
            variant: From `terms`.

        Returns:
            ``2 Z Y X`` on the device, twice the same where the heatmap is not made of directions over the sphere; and
            their grid, None for the input's.
        """
        inverter = None if variant.method == "center" or variant in self.slicewise else self._inverter(variant)
        if isinstance(inverter, Inverter):
            return torch.stack([inverter.half(variant, second) for second in (False, True)]), inverter.grid
        values, grid = self.term(variant)
        return values.expand(2, *values.shape), grid

    def evidence(self, variant: Variant) -> tuple[torch.Tensor, TargetGrid] | None:
        """Return ToNNO's heatmap, not smoothed, by either half of the directions that a variant is made of.

        Args:
            variant: That it gives; one that is not made of directions over the sphere takes any others'.

        Returns:
            As `halves`; None where there are no such directions.
        """
        own = self._inverter(next(iter(variant.raw().parts())))
        inverter = next((each for each in (own, *self.inverters) if isinstance(each, Inverter)), None)
        if inverter is None:
            return None
        tonno = Variant("tonno")
        return torch.stack([inverter.half(tonno, second) for second in (False, True)]), inverter.grid

    def interpolation(
        self, grid: TargetGrid | None, smooths_mm: Sequence[float], like: torch.Tensor, block: Block | None = None
    ) -> Interpolation:
        """Prepare to bring values of a grid to the input's voxels, smoothed.

        Args:
            grid: Theirs, None for the input's.
            smooths_mm: Standard deviations that will be asked for.
            like: Any tensor on their device.
            block: Of the input's voxels, None for all.

        Returns:
            To be called with the values and one of the standard deviations.
        """
        z, y, x = self.planes.volume.array.shape
        shape = (z, y, x) if grid is None else grid.shape
        sigmas = {smooth_mm: self._sigma(smooth_mm) for smooth_mm in smooths_mm}
        return Interpolation(self._input_to_grid(grid), shape, (z, y, x), like, sigmas, block)

    def preview(self, variants: Mapping[str, Variant], reporter: Reporter) -> Preview:
        """Make heatmaps of those variants that it gives by now, smoothed on the nodes' grid: quick but for the rim.

        Args:
            variants: By name.
            reporter: Its check may raise between heatmaps.

        Returns:
            The preview.
        """
        timings = reporter.timings
        heatmaps = {}
        for name, variant in variants.items():
            if not self.gives(variant):
                continue
            reporter.check()
            values, grid = self._raw(variant, timings)
            if grid is not None and variant.smooth_mm > 0:
                nodes_mm = np.linalg.norm((self.planes.frame_to_ras @ grid.ijk_to_frame)[:3, :3], axis=0)
                sigmas = variant.smooth_mm / nodes_mm
                smoothing = [gaussian_matrix(n, each) for n, each in zip(grid.shape[::-1], sigmas, strict=True)]
                values = multiply_axes(values[None], [torch.as_tensor(each).to(values) for each in smoothing])[0]
            array = self._on_input_grid(values, grid, timings)
            heatmaps[name] = self._shown(variant, array, torch.as_tensor(self.inside).to(array.device))
        return Preview(heatmaps, self.inside, self.directions, self.planned)

    def _shown(self, variant: Variant, values: torch.Tensor, inside: torch.Tensor) -> Volume:
        """Return a heatmap that is 0 outside and, by a hair, nowhere else (`binarize.covered` relies on it)."""
        added = 0.0 if variant.method in BLIND_TO_CONSTANTS else self.taken_off
        shown = torch.zeros_like(values)
        for part, some, within in zip(shown, values, inside.to(values.device), strict=True):  # planes spare memory
            torch.where(within, some + added, part, out=part)
            part.masked_fill_(within & (part == 0.0), float(np.finfo(np.float32).tiny))
        return self.planes.volume.with_array(shown.cpu().numpy())

    def _blank_warning(self) -> tuple[str, ...]:
        """Return a warning where the classifier saw nothing at all."""
        if self.slices_blank < self.slices_total or not self.slices_total:
            return ()
        return (
            f"every slice was blank: the model's intensities ({self.planes.run.intensity}) leave nothing of this "
            "volume; is it the kind of image that the model was trained on?",
        )

    def _arrays(
        self, variants: Mapping[str, Variant], timings: Timings
    ) -> Iterator[tuple[str, Variant, _Raw, torch.Tensor]]:
        """Yield each variant by its name, what it is made of, and its values on the input's grid."""
        last: Variant | None = None
        plain: torch.Tensor | None = None
        for name, variant in variants.items():
            if variant.raw() != last:  # variants that differ in smoothing alone often follow one another
                last, plain = variant.raw(), None
                raw = self._raw(last, timings)
            if variant.smooth_mm > 0 and self._smooths_on_its_way(raw[1]):
                yield name, variant, raw, self._on_input_grid(*raw, timings, variant.smooth_mm)
                continue
            if plain is None:
                plain = self._on_input_grid(*raw, timings)
            array = plain
            if variant.smooth_mm > 0:
                array = torch.as_tensor(ndimage.gaussian_filter(plain.numpy(), self._sigma(variant.smooth_mm)))
            yield name, variant, raw, array

    def _raw(self, variant: Variant, timings: Timings) -> _Raw:
        """Return values before the smoothing and their grid, None for the input's; stages are added up on the grid."""
        (first, weight), *others = variant.raw().parts().items()
        total, grid = self._part(first, timings)
        if others:
            total = total * weight
        for part, weight in others:
            total += weight * self._part(part, timings)[0]  # a method's stages share their grid
        return total, grid

    def _part(self, variant: Variant, timings: Timings) -> _Raw:
        """Return the values of a raw variant of a single stage, and their grid."""
        if variant.method == "center":
            return torch.as_tensor(self.planes.closeness()), None
        if variant in self.slicewise:
            return self.slicewise[variant]
        if variant.method == SEGMENTER and self.answer is not None:
            return self.answer, None
        inverter = self._inverter(variant)
        if inverter is None:
            raise ValueError(f"{variant} was not projected")
        return inverter.heatmap(variant, timings), inverter.grid

    def _inverter(self, variant: Variant, at_its_end: bool = False) -> Inverter | Gathered | None:
        """Return the inverter with the method's own number of directions, or any that can give the variant."""
        if variant.filter not in self.planes.filters:
            return None
        able = [each for each in self.inverters if (at_its_end or each.directions > 0) and each.gives(variant)]
        count = self.planes.run.asked.directions_for(variant.method)
        return next((each for each in able if _planned(each) == count), able[0] if able else None)

    def _on_input_grid(
        self, values: torch.Tensor, grid: TargetGrid | None, timings: Timings, smooth_mm: float = 0.0
    ) -> torch.Tensor:
        with timings.measure("interpolation"):
            values = values.float()
            if smooth_mm > 0 or not self._is_inputs(grid):
                values = self.interpolation(grid, (smooth_mm,), values)(values[None], smooth_mm)[0]
            return values

    def _smooths_on_its_way(self, grid: TargetGrid | None) -> bool:
        """Return whether the way to the input's grid smooths as well: for nothing, or on a device; else SciPy does."""
        if self.planes.run.device.type != "cpu":
            return True
        return not self._is_inputs(grid) and parallel_axes(self._input_to_grid(grid)) is not None

    def _is_inputs(self, grid: TargetGrid | None) -> bool:
        return grid is None or self.planes.run.asked.grid == "volume"

    def _input_to_grid(self, grid: TargetGrid | None) -> Matrix:
        if grid is None or self._is_inputs(grid):
            return np.eye(4)
        return np.asarray(np.linalg.inv(self.planes.frame_to_ras @ grid.ijk_to_frame) @ self.planes.volume.ijk_to_ras)

    def _sigma(self, smooth_mm: float) -> tuple[float, float, float]:
        """Return a standard deviation in the input's voxels along Z, Y, X."""
        x, y, z = (smooth_mm / self.planes.volume.spacing_mm).tolist()
        return z, y, x

    def _inside_of(self, region: Region | None) -> npt.NDArray[np.bool_]:
        if region is None:
            return self.inside
        if not self.covers(region):
            raise ValueError("the region reaches beyond the planes that were looked at")
        inside = self.inside & region.contains(self.planes.volume)
        if not inside.any():
            raise TonnoError(NOTHING_INSIDE)
        return inside

    # --- logits

    def plane_profiles(self, most: int) -> list[Profile]:
        """Return the logits along R, A and S, then along the first other directions.

        Args:
            most: How many in all.

        Returns:
            Their profiles.
        """
        plans = [] if self.axes is None else [self.axes]
        plans += [(each.plan, each.logits) for each in self.inverters[:1] if each.directions > 0]
        return [
            _plane_profile(plan, row, logits[row] + self.taken_off)
            for plan, logits in plans
            for row in range(len(logits))
        ][:most]

    def _profiles(self) -> tuple[Profile, ...]:
        if self.axes is None:
            return ()
        plan, logits = self.axes
        points = plan.offsets[1:-1, None, None] * plan.directions  # M 3 3: where the planes cut the axes
        ras = points @ plan.frame_to_ras[:3, :3].T + plan.frame_to_ras[:3, 3]
        return tuple(
            Profile(letter, ras[:, axis, axis], (logits[axis, 1:-1].cpu().double() + self.taken_off).numpy())
            for axis, letter in enumerate("RAS")
        )

    def _prediction(self) -> Prediction | None:
        """Return a regressor's answer: as in training, over the slices between the foreground's ends."""
        begun = [each for each in self.inverters if each.directions > 0]
        if self.foreground is None or not begun:
            return None
        plan, logits = begun[0].plan, begun[0].logits.double().cpu().numpy()
        along = self.foreground @ plan.directions[: len(logits)].T
        low, high = along.min(axis=0)[:, None], along.max(axis=0)[:, None]
        within = (low <= plan.offsets) & (plan.offsets <= high)
        counts = within.sum(axis=1)
        means = (logits * within).sum(axis=1)[counts > 0] / counts[counts > 0]
        value = None if plan.needed is not None or not len(means) else float(means.mean())
        # The integral of the heatmap over a plane is the slice's answer times the area of its pixels; the sum over
        # planes one step apart, divided by their extent, is their mean.
        area = (2.0 * plan.pixels / (plan.pixels - 1)) ** 2
        frame_mm3 = abs(float(np.linalg.det(plan.frame_to_ras[:3, :3])))
        per_mm3 = float((1.0 / np.maximum(high - low, plan.step)).mean()) / area / frame_mm3
        return Prediction(self.target.name, value, per_mm3)

    def _score(self, prediction: Prediction | None) -> float:
        if self.planes.run.choices.kind == REGRESSOR:
            return float("nan") if prediction is None or prediction.value is None else prediction.value
        if self.answer is not None:
            looked_at = self.answer[torch.as_tensor(self.inside, device=self.answer.device)]
            voxels = math.ceil(SCORED_MM3 / self.planes.volume.voxel_mm3)
            return float(looked_at.topk(min(voxels, len(looked_at))).values[-1])
        logits = [_needed(each.plan, each.logits) for each in self.inverters if each.directions > 0]
        if not logits:
            return float("nan")
        values = torch.cat(logits)
        return float(values.topk(max(1, len(values) // 10)).values.mean()) + self.taken_off

    def _self_check(self, variant: Variant, heatmap: npt.NDArray[np.float32], timings: Timings) -> float | None:
        """Return the squared correlation of R G with p over the first directions: the share of variance explained."""
        inverter = self._inverter(variant.raw())
        # Integrals over planes need all of the heatmap; and who ended the run does not want to wait.
        if inverter is None or self.planes.run.region is not None or self.stopped:
            return None
        with timings.measure("self-check"):
            shown = self.planes.volume.with_array(heatmap)
            source = SliceSource.from_volume(shown, device=self.planes.run.device, blank=True)
            which = slice(0, min(CHECKED_DIRECTIONS, inverter.directions))
            coarse = replace(inverter.plan, pixels=min(inverter.plan.pixels, inverter.plan.slices), needed=None)
            means = sample_slices(source, coarse, which).mean(dim=(1, 2))
            pair = (
                torch.stack([means, inverter.logits[which].flatten().to(means)]).cpu().double()
            )  # squares of large means
            if float(pair.std(dim=1).min()) == 0.0:
                return 0.0
            return float(torch.corrcoef(pair)[0, 1] ** 2)


def _planned(inverter: Inverter | Gathered) -> int:
    return len(inverter.plan.directions)


def _needed(plan: SlicePlan, logits: torch.Tensor) -> torch.Tensor:
    """Return the logits of the planes that were looked at, of the first directions of a plan."""
    if plan.needed is None:
        return logits.flatten()
    first, stop = plan.needed[: len(logits)].T[:, :, None]
    offsets = np.arange(logits.shape[1])
    return logits[torch.as_tensor((first <= offsets) & (offsets < stop), device=logits.device)]


def _plane_profile(plan: SlicePlan, direction: int, logits: torch.Tensor) -> Profile:
    """Return a direction's logits by place.

    A plane x . n = s of the frame is in RAS x . N = (s + n . t) / |A^-T n|, with ras_to_frame = [A^-1, -t].
    """
    first, stop = (0, plan.slices + 2) if plan.needed is None else plan.needed[direction]
    ras_to_frame = np.linalg.inv(plan.frame_to_ras)
    gradient = plan.directions[direction] @ ras_to_frame[:3, :3]
    length = float(np.linalg.norm(gradient))
    # The two offsets beyond the ends serve the second derivative alone.
    shown = slice(max(int(first), 1), min(int(stop), plan.slices + 1))
    positions = (plan.offsets[shown] - plan.directions[direction] @ ras_to_frame[:3, 3]) / length
    return Profile("", positions, logits[shown].cpu().double().numpy(), gradient / length)
