"""From a volume and an encoder to heatmaps: the one file that names all stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from tonno_core.encoding.bundle import Bundle
from tonno_core.encoding.encoder import Encoder, PixelSum
from tonno_core.encoding.ready import ReadyModel, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.evaluation.profile import Profile
from tonno_core.settings import (
    CAM_METHODS,
    SLICEWISE_METHODS,
    ReconstructionSettings,
    Variant,
    choices_of,
    combine,
    variant_of,
)
from tonno_core.slicing import directions as lattices
from tonno_core.slicing.frame import frame_distance, patient_axes
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.timing import Timings
from tonno_core.tomography.inversion import TargetGrid, average, invert
from tonno_core.tomography.projection import CamRequest, Projector
from tonno_core.volume.grid import ijk_to_grid, resample
from tonno_core.volume.volume import Matrix, Volume

# Directions on which the self-check compares the heatmap's own projections with the logits.
CHECKED_DIRECTIONS = 24
# A slicewise map has no more slices than this along an axis; its grid of as many nodes cubed takes 0.5 GB.
SLICEWISE_LIMIT = 512
# Slices of 96 x 96 pixels in one batch of the encoder; larger slices, fewer of them.
CPU_BATCH, GPU_BATCH = 128, 2048

Progress = Callable[[int, int], None]
Receive = Callable[[str, Volume, npt.NDArray[np.bool_]], None]
# A heatmap before its smoothing, and its grid: None for the input's own.
_Raw = tuple[torch.Tensor, TargetGrid | None]


@dataclass(frozen=True)
class Reconstruction:
    """Heatmaps on the input's grid, by name, and what is known about their making.

    variants: what each name stands for, its stage resolved; without variants of the caller's own each
    method of the settings is a name. inside: bool Z Y X, the voxels that the planes cover. profiles: the
    logit along R, A and S. score: mean of the highest tenth of all logits, the volume-level score (NaN
    without planes). explained: share of the logits' variance that the ToNNO heatmap's own plane integrals
    explain (None without ``tonno``).
    seconds: by step; ``total`` is all of it.
    """

    heatmaps: dict[str, Volume]
    variants: dict[str, Variant]
    inside: npt.NDArray[np.bool_]
    profiles: tuple[Profile, ...]
    settings: ReconstructionSettings
    class_name: str
    frame_to_ras: Matrix
    slice_size: int
    score: float
    explained: float | None
    seconds: dict[str, float]
    slices_total: int
    slices_blank: int
    device: str
    precision: str
    warnings: tuple[str, ...]


def reconstruct(
    volume: Volume,
    model: Bundle | str | ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    progress: Progress | None = None,
    receive: Receive | None = None,
) -> Reconstruction:
    """Heatmaps of a volume by a bundle's classifier, or by ``"pixel-sum"``.

    settings: None for the model's own defaults. variants: the heatmaps wanted, by names of the caller's, all
    from one pass through the network; None for one of each of the settings' methods, named by it.
    progress: called with (slices done, slices in all). receive: called with the name, heatmap and ``inside`` of
    each as it is made; none is kept then, which hundreds of variants of a large volume would need.
    Raises TonnoError for settings that the model cannot serve.
    """
    ready = model if isinstance(model, ReadyModel) else prepare_model(model, settings, device, precision)
    settings = ready.settings(settings)
    wanted = variants or {method: ready.variant(method, settings) for method in settings.methods}
    prepared = prepare_volume(
        volume,
        frame=settings.frame,
        intensity=ready.intensity,
        slice_size=ready.slice_size,
        # A slice size that was asked for means finer or coarser pixels over the foreground's ball.
        pixel_mm=ready.pixel_mm if settings.slice_size is None else None,
        radius_mm=settings.radius_mm,
    )
    run = _Run(volume, prepared, ready.encoder, settings, wanted, ready.slice_size, ready.device, batch_size, progress)
    return replace(
        run.execute(receive),
        precision=str(ready.precision).removeprefix("torch."),
        warnings=_scale_warnings(prepared, ready.slice_size, ready.pixel_mm),
    )


class _Run:
    """One reconstruction: the passes over the planes that the wanted variants need."""

    def __init__(
        self,
        volume: Volume,
        prepared: PreparedVolume,
        encoder: Encoder,
        settings: ReconstructionSettings,
        variants: Mapping[str, Variant],
        pixels: int,
        device: torch.device,
        batch_size: int | None,
        progress: Progress | None,
    ) -> None:
        self.class_index = _class_index(encoder.classes, settings.class_name)
        self.settings = settings
        self.variants = {name: _with_stage(one.canonical(), encoder) for name, one in variants.items()}
        self.volume, self.encoder, self.pixels, self.progress = volume, encoder, pixels, progress
        self.frame_to_ras = prepared.frame_to_ras
        self.source = SliceSource.from_volume(prepared.volume, fill=prepared.fill, device=device)
        standard = GPU_BATCH if device.type == "cuda" else CPU_BATCH
        self.batch_size = batch_size or max(4, round(standard * (96 / pixels) ** 2))
        self.timings = Timings()
        self.done = self.total = self.slices_total = self.slices_blank = 0
        self.logits: list[torch.Tensor] = []
        self.explained: float | None = None

    def execute(self, receive: Receive | None) -> Reconstruction:
        """Run all passes and gather the result."""
        heatmaps: dict[str, Volume] = {}
        with self.timings.measure("total"):
            found, profiles = self._passes()
            distance = frame_distance(self.volume, self.frame_to_ras)
            # The normalized frame shows all of the volume, as the paper does, though only the ball is exact.
            inside = distance <= 1.0 if self.settings.frame == "physical" else np.ones(distance.shape, dtype=bool)
            found[Variant("center")] = torch.as_tensor((1.0 - distance).astype(np.float32)), None
            for name, heatmap in self._finished(found, inside):
                if receive is None:
                    heatmaps[name] = heatmap
                else:
                    receive(name, heatmap, inside)
        return Reconstruction(
            heatmaps=heatmaps,
            variants=self.variants,
            inside=inside,
            profiles=profiles,
            settings=self.settings,
            class_name=self.encoder.classes[self.class_index],
            frame_to_ras=self.frame_to_ras,
            slice_size=self.pixels,
            score=self._score(),
            explained=self.explained,
            seconds=dict(self.timings.seconds),
            slices_total=self.slices_total,
            slices_blank=self.slices_blank,
            device=str(self.source.array.device),
            precision="",
            warnings=(),
        )

    def _passes(self) -> tuple[dict[Variant, _Raw], tuple[Profile, ...]]:
        """Heatmaps before smoothing, each of them once, and the profiles."""
        groups: dict[int, list[Variant]] = {}
        for one in dict.fromkeys(one.raw() for one in self.variants.values()):
            if one.method == "tonno" or one.method in CAM_METHODS:
                groups.setdefault(self.settings.directions_for(one.method), []).append(one)
        axes = self._plan(patient_axes(self.frame_to_ras))
        tomographic = [(self._plan(self._lattice(count)), variants) for count, variants in groups.items()]
        wanted = dict.fromkeys(one.method for one in self.variants.values())
        slicewise = [(self._slicewise_plan(method), method) for method in wanted if method in SLICEWISE_METHODS]
        plans = [axes, *(plan for plan, _ in tomographic), *(plan for plan, _ in slicewise)]
        self.total = sum(len(plan.directions) * (plan.slices + 2) for plan in plans)
        profiles = self._profiles(axes)
        found: dict[Variant, _Raw] = {}
        for plan, variants in tomographic:
            found.update(self._tomographic(plan, variants))
        for plan, method in slicewise:
            with self.timings.measure(method):
                found.update(self._slicewise(plan, method))
        return found, profiles

    # --- planes

    def _plan(self, directions: lattices.Directions, slices: int | None = None) -> SlicePlan:
        return SlicePlan(self.frame_to_ras, directions, slices or self.settings.slices, self.pixels)

    def _lattice(self, count: int) -> lattices.Directions:
        return lattices.hemisphere(count) if self.settings.lattice == "hemisphere" else lattices.sphere(count)

    def _slicewise_plan(self, method: str) -> SlicePlan:
        """Along S, or along all three axes, with slices at least as close as the scan's voxels."""
        axes = patient_axes(self.frame_to_ras)
        extent = 2.0 * np.linalg.norm(self.frame_to_ras[:3, :3], axis=0).max()
        native = math.ceil(extent / self.volume.spacing_mm.min()) + 1
        directions = axes[2:] if method == "slicewise-cam" else axes
        return self._plan(directions, min(max(self.settings.slices, native), SLICEWISE_LIMIT))

    def _grid(self, plan: SlicePlan) -> TargetGrid:
        """The input's own grid, or M^3 nodes at the offset step: a heatmap carries no finer detail."""
        # Beyond the ball nothing is shown in a physical frame; its rim is interpolated from one node more.
        radius = 1.0 + math.sqrt(3.0) * plan.step if self.settings.frame == "physical" else math.inf
        if self.settings.grid == "volume":
            z, y, x = self.volume.array.shape
            return TargetGrid((z, y, x), np.linalg.inv(self.frame_to_ras) @ self.volume.ijk_to_ras, radius)
        shape = (plan.slices, plan.slices, plan.slices)
        return TargetGrid(shape, ijk_to_grid(shape), radius)

    # --- passes

    def _projector(self, stages: tuple[int, ...], timings: Timings) -> Projector:
        request = CamRequest(self.settings.cam, stages) if stages else None
        return Projector(self.encoder, self.source, self.class_index, request, self.batch_size, timings)

    def _advanced(self, plan: SlicePlan) -> Callable[[int], None]:
        def advanced(directions: int) -> None:
            self.done += directions * (plan.slices + 2)
            if self.progress is not None:
                self.progress(self.done, self.total)

        return advanced

    def _count(self, projector: Projector) -> None:
        self.slices_total += projector.slices_total
        self.slices_blank += projector.slices_blank
        self.batch_size = projector.batch_size  # smaller, where the device's memory ran out

    def _profiles(self, plan: SlicePlan) -> tuple[Profile, ...]:
        """The logit along R, A and S: one direction each."""
        projector = self._projector((), Timings())
        with self.timings.measure("profiles"):
            logits = torch.cat([one.logits for one in projector.project(plan, advanced=self._advanced(plan))])
        self._count(projector)
        points = plan.offsets[1:-1, None, None] * plan.directions  # M 3 3: where the planes cut the axes
        ras = points @ self.frame_to_ras[:3, :3].T + self.frame_to_ras[:3, 3]
        return tuple(
            Profile(letter, ras[:, axis, axis], logits[axis, 1:-1].double().cpu().numpy())
            for axis, letter in enumerate("RAS")
        )

    def _tomographic(self, plan: SlicePlan, variants: list[Variant]) -> dict[Variant, _Raw]:
        grid = self._grid(plan)
        projector = self._projector(_stages(variants), self.timings)
        projections = projector.project(plan, advanced=self._advanced(plan))
        inversion = invert(projections, plan, grid, variants, timings=self.timings)
        self._count(projector)
        self.logits.append(inversion.logits)
        found: dict[Variant, _Raw] = {one: (values, grid) for one, values in inversion.heatmaps.items()}
        checked = next((one for one in variants if one.method == "tonno"), None)
        if checked is not None:
            shown = self._on_input_grid(*found[checked])
            found[checked] = shown, None
            with self.timings.measure("self-check"):
                self.explained = self._self_check(plan, shown, inversion.logits)
        return found

    def _slicewise(self, plan: SlicePlan, method: str) -> dict[Variant, _Raw]:
        grid = self._grid(plan)
        stages = _stages([one for one in self.variants.values() if one.method == method])
        projector = self._projector(stages, Timings())
        means = average(projector.project(plan, advanced=self._advanced(plan)), plan, grid, stages)
        self._count(projector)
        return {Variant(method, stage): (values, grid) for stage, values in means.items()}

    def _on_input_grid(self, values: torch.Tensor, grid: TargetGrid | None) -> torch.Tensor:
        if grid is None or self.settings.grid == "volume":
            return values
        with self.timings.measure("interpolation"):
            ras_to_grid = np.linalg.inv(self.frame_to_ras @ grid.ijk_to_frame)
            z, y, x = self.volume.array.shape
            return resample(values[None], ras_to_grid @ self.volume.ijk_to_ras, (z, y, x))[0]

    # --- results

    def _finished(self, found: Mapping[Variant, _Raw], inside: npt.NDArray[np.bool_]) -> Iterator[tuple[str, Volume]]:
        """Each variant by its name, smoothed if asked; zero outside the ball."""
        last: Variant | None = None
        for name, one in self.variants.items():
            if one.raw() != last:  # variants that differ in smoothing alone often follow one another
                last = one.raw()
                plain = self._on_input_grid(*found[last]).float().cpu().numpy()
            array = plain
            if one.smooth_mm > 0:
                array = ndimage.gaussian_filter(plain, (one.smooth_mm / self.volume.spacing_mm)[::-1])
            yield name, self.volume.with_array(np.where(inside, array, np.float32(0.0)))

    def _score(self) -> float:
        if not self.logits:
            return float("nan")
        values = torch.cat([one.flatten() for one in self.logits])
        return float(values.topk(max(1, len(values) // 10)).values.mean())

    def _self_check(self, plan: SlicePlan, heatmap: torch.Tensor, logits: torch.Tensor) -> float:
        """Squared correlation of R G with p over the first directions: the share of variance explained."""
        volume = self.volume.with_array(heatmap.float().cpu().numpy())
        source = SliceSource.from_volume(volume, device=heatmap.device)
        which = slice(0, min(CHECKED_DIRECTIONS, len(plan.directions)))
        coarse = replace(plan, pixels=min(plan.pixels, plan.slices))
        pair = torch.stack([PixelSum().logits(sample_slices(source, coarse, which).flatten(0, 1))[:, 0],
                            logits[which].flatten().to(heatmap)])  # fmt: skip
        if float(pair.std(dim=1).min()) == 0.0:
            return 0.0
        return float(torch.corrcoef(pair)[0, 1] ** 2)


def _class_index(classes: tuple[str, ...], name: str | None) -> int:
    if name is None:
        return 0
    if name not in classes:
        raise TonnoError(f"--class '{name}' is unknown to this model, expected one of {', '.join(classes)}")
    return classes.index(name)


def _with_stage(variant: Variant, encoder: Encoder) -> Variant:
    if "stage" not in choices_of(variant.method):
        return variant
    stage = variant.stage if variant.stage is not None else max(1, encoder.stages - 1)
    if stage > encoder.stages:
        raise TonnoError(f"--stage {stage} does not exist in this encoder, expected 1 to {encoder.stages}")
    return replace(variant, stage=stage)


def _stages(variants: list[Variant]) -> tuple[int, ...]:
    """The stages whose maps some variants need, each once, finest first."""
    return tuple(sorted({one.stage for one in variants if one.stage is not None}))


def _scale_warnings(prepared: PreparedVolume, size: int, pixel_mm: float | None) -> tuple[str, ...]:
    """Tell when the classifier sees the anatomy at another scale than in training."""
    if pixel_mm is None or prepared.radius_mm is None:
        return ()
    found = 2.0 * prepared.radius_mm / (size - 1)
    if abs(found / pixel_mm - 1.0) <= 0.25:
        return ()
    return (
        f"slices have pixels of {found:.2f} mm, the model was trained at {pixel_mm:.2f} mm; "
        "give --radius-mm or --slice-size for a similar scale",
    )
