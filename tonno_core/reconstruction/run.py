"""The passes over the planes that the wanted heatmaps need."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from tonno_core.control import Control
from tonno_core.distributed import ALONE, Processes
from tonno_core.encoding.bundle import Bundle
from tonno_core.encoding.encoder import Encoder
from tonno_core.encoding.ready import ReadyModel, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.planes import Planes, zoomed_ball
from tonno_core.reconstruction.projected import Projected, Receive
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reconstruction.shared import join, share_of
from tonno_core.settings import (
    CAM_METHODS,
    SLICEWISE_METHODS,
    ReconstructionSettings,
    Variant,
    choices_of,
    stages_of,
)
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.slicing.region import Region
from tonno_core.slicing.sampling import SliceSource
from tonno_core.timing import Timings
from tonno_core.tomography.inversion import Inverter, average
from tonno_core.tomography.projection import CamRequest, Projector
from tonno_core.volume.volume import Volume

# Slices of 96 x 96 pixels in one batch of the encoder; larger slices, fewer of them. On a GPU the most: 2048 have work
# for each of its units many times over, and its free memory may hold fewer (`encoding.memory`).
CPU_BATCH, GPU_BATCH = 128, 2048
# The first preview is of so many directions, at least, and of this share of all.
_FIRST_PREVIEW, _PREVIEW_SHARE = 4, 1 / 32
# Of the time so far, what previews may take.
_PREVIEW_TIME = 0.2
# Terms of the maps' sums that are kept for refinements, up to so many numbers (1 GB).
_KEPT_NUMBERS = 1 << 28


class _Stopped(Exception):
    """The caller wants what is there."""


def reconstruct(
    volume: Volume,
    model: Bundle | str | ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    region: Region | None = None,
    zoom: bool = False,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    control: Control | None = None,
    receive: Receive | None = None,
    processes: Processes = ALONE,
) -> Reconstruction:
    """Heatmaps of a volume by a bundle's classifier, or by ``"pixel-sum"``.

    settings: None for the model's own defaults. variants: the heatmaps wanted, by names of the caller's, all
    from one pass through the network; None for one of each of the settings' methods, named by it. region: where alone
    they are wanted; fewer planes are looked at, and only its voxels are ``inside``.
    progress: called with (slices done, slices in all). control: in its place, to look into the run or end it.
    receive: called with the name, heatmap and ``inside`` of each as it is made; none is kept then, which hundreds of
    variants of a large volume would need. processes: that share the directions and all call this; the heatmaps are
    the first one's.
    Raises TonnoError for settings that the model cannot serve.
    """
    timings = Timings()
    ready = model if isinstance(model, ReadyModel) else prepare_model(model, settings, device, precision)
    control = control or (Control() if progress is None else Control(progress=progress))
    with timings.measure("total"):
        projected = project(
            volume, ready, settings, variants=variants, region=region, zoom=zoom, batch_size=batch_size,
            control=control, timings=timings, processes=processes,
        )  # fmt: skip
        planes = projected.planes
        wanted = resolve(variants, planes.settings, ready) if processes.first else {}
        result = projected.finish(wanted, planes.settings, timings, receive=receive)
    return replace(result, seconds=dict(timings.seconds))


def project(
    volume: Volume,
    ready: ReadyModel,
    settings: ReconstructionSettings | None = None,
    *,
    variants: Mapping[str, Variant] | None = None,
    region: Region | None = None,
    zoom: bool = False,
    batch_size: int | None = None,
    control: Control | None = None,
    timings: Timings | None = None,
    keep: bool = False,
    processes: Processes = ALONE,
) -> Projected:
    """Show the encoder all planes that the wanted heatmaps need; the first half of `reconstruct`.

    control: ends it, or looks into it, while it runs. keep: also gather what other filters and sigmas need.
    processes: that share the directions and all call this; what is put together is the first one's. Several can be
    cancelled, but neither looked into nor stopped early.
    """
    settings = ready.settings(settings)
    wanted = resolve(variants, settings, ready)
    centre_ras, radius_mm = None, settings.radius_mm
    if zoom:
        centre_ras, radius_mm = zoomed_ball(check_zoom(region, settings), settings, tuple(wanted.values()), volume)
    prepared = prepare_volume(
        volume,
        frame=settings.frame,
        intensity=ready.intensity,
        slice_size=ready.slice_size,
        # A slice size that was asked for means finer or coarser pixels over the foreground's ball.
        pixel_mm=ready.pixel_mm if settings.slice_size is None else None,
        radius_mm=radius_mm,
        centre_ras=centre_ras,
    )
    planes = Planes(volume, settings, prepared.frame_to_ras, ready.slice_size, region, tuple(wanted.values()))
    classes = ready.encoder.classes
    projected = Projected(planes, ready, classes[_class_index(classes, settings.class_name)])
    projected.warnings = _scale_warnings(prepared, ready.slice_size, ready.pixel_mm, zoom)
    half = ready.precision.itemsize == 2  # float16 or bfloat16: the encoder rounds its slices likewise
    source = SliceSource.from_volume(prepared.volume, fill=prepared.fill, device=ready.device, half=half)
    run = _Run(projected, source, wanted, batch_size, control or Control(), timings or Timings(), keep, processes)
    run.execute()
    return projected


def check_zoom(region: Region | None, settings: ReconstructionSettings) -> Region:
    """The region to zoom into. Raises TonnoError where there is none, or the ball is determined otherwise."""
    if region is None:
        raise TonnoError("`zoom` needs a region to zoom into; give `region`")
    if settings.frame != "physical":
        raise TonnoError(f"`zoom` has no meaning with `frame` {settings.frame}; leave one of them out")
    if settings.radius_mm is not None:
        raise TonnoError("`zoom` and `radius_mm` both determine the ball; leave one of them out")
    return region


def resolve(
    variants: Mapping[str, Variant] | None, settings: ReconstructionSettings, ready: ReadyModel
) -> dict[str, Variant]:
    """The variants by name (None: one of each of the settings' methods), each with its stage, and canonical."""
    wanted = variants or {method: ready.variant(method, settings) for method in settings.methods}
    return {name: _with_stage(one.canonical(), ready.encoder) for name, one in wanted.items()}


class _Run:
    """One pass after the other, into a `Projected`."""

    def __init__(
        self,
        projected: Projected,
        source: SliceSource,
        variants: Mapping[str, Variant],
        batch_size: int | None,
        control: Control,
        timings: Timings,
        keep: bool,
        processes: Processes,
    ) -> None:
        self.projected, self.source, self.variants = projected, source, variants
        self.control, self.timings, self.keep, self.processes = control, timings, keep, processes
        self.planes, self.encoder = projected.planes, projected.ready.encoder
        self.class_index = self.encoder.classes.index(projected.class_name)
        standard = GPU_BATCH if projected.ready.device.type == "cuda" else CPU_BATCH
        self.fit = batch_size is None
        self.batch_size = batch_size or max(4, round(standard * (96 / self.planes.pixels) ** 2))
        self.done = self.total = 0
        self.previews = _Previews(every=self.control.every_preview)

    def execute(self) -> None:
        """Run all passes. Those of a few directions are the first process's alone."""
        settings = self.planes.settings
        groups: dict[int, list[Variant]] = {}
        for one in _parts(self.variants.values()):
            if one.method == "tonno" or one.method in CAM_METHODS:
                groups.setdefault(settings.directions_for(one.method), []).append(one)
        axes = self.planes.axes()
        tomographic = [(self.planes.tomographic(count), variants) for count, variants in groups.items()]
        wanted = dict.fromkeys(one.method for one in self.variants.values())
        slicewise = [(self.planes.slicewise(method), method) for method in wanted if method in SLICEWISE_METHODS]
        plans = [share_of(plan, self.processes) for plan, _ in tomographic]
        if self.processes.first:
            plans += [axes, *(plan for plan, _ in slicewise)]
        self.total = sum(int(plan.counts.sum()) for plan in plans)
        if self.processes.first:
            self._axes(axes)
        for plan, variants in tomographic:
            self._tomographic(plan, variants)
        if self.processes.first:
            for plan, method in slicewise:
                with self.timings.measure(method):
                    self._slicewise(plan, method)
        self._join(tomographic)

    # --- passes

    def _axes(self, plan: SlicePlan) -> None:
        """The logit along R, A and S: one direction each."""
        projector = self._projector((), Timings(), self.control.check)
        inverter = Inverter(plan, self.planes.grid(plan), ())
        with self.timings.measure("profiles"):
            for batch in projector.project(plan, advanced=self._advanced(plan)):
                inverter.add(batch, Timings())
        self._count(projector)
        self.projected.axes = plan, inverter.logits

    def _tomographic(self, whole: SlicePlan, variants: list[Variant]) -> None:
        plan = share_of(whole, self.processes)
        grid = self.planes.grid(plan)
        z, y, x = grid.shape
        filters = self.planes.filters
        keep = self.keep and (1 + len(filters)) * z * y * x <= _KEPT_NUMBERS
        inverter = Inverter(plan, grid, variants, filters=filters if keep else ())

        def check() -> None:
            self.control.check()
            if self.control.stopped() and self.projected.directions > 0:
                raise _Stopped

        projector = self._projector(_stages(variants), self.timings, check)
        self.projected.inverters.append(inverter)
        self.previews.begin(len(plan.directions))
        try:
            for batch in projector.project(plan, advanced=self._advanced(plan)):
                inverter.add(batch, self.timings)
                if self.control.preview is not None and self.previews.due(inverter.directions):
                    with self.previews.measured(), self.timings.measure("previews"):
                        shown = self.projected.preview(self.variants, len(plan.directions), self.timings, check)
                        self.control.preview(shown)
        except _Stopped:
            self.projected.stopped = True
        self._count(projector)

    def _slicewise(self, plan: SlicePlan, method: str) -> None:
        grid = self.planes.grid(plan)
        stages = _stages(_parts(one for one in self.variants.values() if one.method == method))
        projector = self._projector(stages, Timings(), self.control.check)
        means = average(projector.project(plan, advanced=self._advanced(plan)), plan, grid, stages)
        self._count(projector)
        self.projected.slicewise.update({Variant(method, stage): (values, grid) for stage, values in means.items()})

    def _join(self, tomographic: list[tuple[SlicePlan, list[Variant]]]) -> None:
        """Put the processes' shares together in the first one."""
        if self.processes.world == 1:
            return
        own = [one for one in self.projected.inverters if isinstance(one, Inverter)]
        with self.timings.measure("other processes"):
            joined = [
                join(inverter, plan, variants, self.processes)
                for inverter, (plan, variants) in zip(own, tomographic, strict=True)
            ]
            counts = self.processes.gather([(self.projected.slices_total, self.projected.slices_blank)])
        self.projected.inverters = [one for one in joined if one is not None]
        self.projected.slices_total, self.projected.slices_blank = (sum(column) for column in zip(*counts, strict=True))

    def _projector(self, stages: tuple[int, ...], timings: Timings, check: Callable[[], None]) -> Projector:
        request = CamRequest(self.planes.settings.cam, stages) if stages else None
        batch = self.batch_size, timings, check, self.fit
        return Projector(self.encoder, self.source, self.class_index, request, *batch)

    def _advanced(self, plan: SlicePlan) -> Callable[[int], None]:
        position = 0

        def advanced(directions: int) -> None:
            nonlocal position
            self.done += int(plan.counts[position : position + directions].sum())
            position += directions
            self.control.progress(self.done, self.total)

        return advanced

    def _count(self, projector: Projector) -> None:
        self.projected.slices_total += projector.slices_total
        self.projected.slices_blank += projector.slices_blank
        self.batch_size = projector.batch_size  # smaller, where the device has memory for fewer


class _Previews:
    """When the next preview is due. every: also where previews have cost too much."""

    def __init__(self, *, every: bool = False) -> None:
        self._every = every
        self._started = time.perf_counter()
        self._spent = 0.0
        self._next = self._all = 0

    def begin(self, directions: int) -> None:
        """A plan of so many directions begins."""
        self._all = directions
        self._next = max(_FIRST_PREVIEW, round(directions * _PREVIEW_SHARE))

    def due(self, done: int) -> bool:
        """Whether to show the first ``done``; no longer when all are done, or where previews have cost too much."""
        if done < self._next or done >= self._all:
            return False
        if not self._every and self._spent > _PREVIEW_TIME * (time.perf_counter() - self._started):
            return False
        self._next = 2 * done
        return True

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around the making of a preview."""
        start = time.perf_counter()
        yield
        self._spent += time.perf_counter() - start


def _class_index(classes: tuple[str, ...], name: str | None) -> int:
    if name is None:
        return 0
    if name not in classes:
        raise TonnoError(f"`class_name` '{name}' is unknown to this model, expected one of {', '.join(classes)}")
    return classes.index(name)


def _with_stage(variant: Variant, encoder: Encoder) -> Variant:
    if "stage" not in choices_of(variant.method):
        return variant
    stage = variant.stage if variant.stage is not None else max(1, encoder.stages - 1)
    for each in stages_of(stage):
        if each > encoder.stages:
            raise TonnoError(f"`stage` {stage} does not exist in this encoder, expected 1 to {encoder.stages}")
    if isinstance(stage, str) and not variant.weights:
        raise TonnoError(
            f"`stage` {stage}: how much each of these counts in {variant.method} is not known; give one stage, or "
            "those that the model's calibration added up (`tonno calibrate` tries neighbors)"
        )
    return replace(variant, stage=stage)


def _parts(variants: Iterable[Variant]) -> list[Variant]:
    """The raw variants of single stages of which some are made, each once."""
    return list(dict.fromkeys(part for one in variants for part in one.raw().parts()))


def _stages(variants: list[Variant]) -> tuple[int, ...]:
    """The stages whose maps some variants of single stages need, each once, finest first."""
    return tuple(sorted({stage for one in variants for stage in stages_of(one.stage)}))


def _scale_warnings(prepared: PreparedVolume, size: int, pixel_mm: float | None, zoom: bool) -> tuple[str, ...]:
    """Tell when the classifier sees the anatomy at another scale than in training."""
    if pixel_mm is None or prepared.radius_mm is None:
        return ()
    found = 2.0 * prepared.radius_mm / (size - 1)
    if abs(found / pixel_mm - 1.0) <= 0.25:
        return ()
    advice = "`radius_mm` or `slice_size` for a similar scale"
    if zoom:
        advice = f"`slice_size` {max(8, round(2.0 * prepared.radius_mm / pixel_mm) + 1)} for that scale"
    return (f"slices have pixels of {found:.2f} mm, the model was trained at {pixel_mm:.2f} mm; give {advice}",)
