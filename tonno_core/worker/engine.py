"""The engine inside the process: reconstructions with a model that stays, and what is kept of the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tonno_core.bundle.classes import first_choice
from tonno_core.bundle.decide import Run, Target, decide
from tonno_core.bundle.ready import ReadyModel
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.reconstruction import Reconstruction, project, resume
from tonno_core.reconstruction.projected import Projected
from tonno_core.reporting import Cancelled, Reporter
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.slicing.region import Region
from tonno_core.volume.volume import Matrix, Volume
from tonno_core.worker.answer import Previews, ResultWriter, class_fields, model_fields
from tonno_core.worker.failures import NotKept, StoppedEarly
from tonno_core.worker.files import read_array
from tonno_core.worker.job import Job
from tonno_core.worker.models import Models
from tonno_core.worker.requests import ReconstructRequest, RefineRequest

# What a refinement may change, as far as it was kept.
_REFINABLE = ("methods", "stage", "filter", "sigma_scale", "smooth_mm")
# Classes of one run: the sums of each are in memory, and its profiles in the message of the result.
_MOST_CLASSES = 32


@dataclass(frozen=True)
class _Kept:
    """A reconstruction.

    Attributes:
        number: Its request's id.
        request: What was asked.
        model: That it was made by.
        run: What was decided.
        classes: Their states, in the order of the run's targets.
    """

    number: int
    request: ReconstructRequest
    model: ReadyModel
    run: Run
    classes: list[Projected]


class Engine:
    """Computes; one request at a time."""

    def __init__(self) -> None:
        self._models = Models()
        self._kept: _Kept | None = None

    def reconstruct(self, request: ReconstructRequest, job: Job) -> None:
        """Answer ``result``, after ``preview`` events where they are wanted.

        Args:
            request: What to make.
            job: Reports, and may be cancelled.
        """
        self._kept = None
        _free()
        reporter = _reporter(request, job)
        with reporter.timings.measure("loading"):
            volume = _read(request)
            model, settings = self._models.get(request, job.check)
        job.step("reconstructing")
        classes = _classes(request, model)
        run = decide(settings, model, classes=classes, region=_region(request.ras_to_box), zoom=request.zoom)
        with reporter.timings.measure("total"), _whole_or_cancelled(job):
            projected = project(volume, model.encoder, run, reporter, keep=True)
        kept = _Kept(job.identifier, request, model, run, projected)
        if _answer(kept, run, None, reporter, ResultWriter(request.folder, job)):
            self._kept = kept  # a client that has no answer does not think of this run as the last one

    def refine(self, request: RefineRequest, job: Job) -> None:
        """Answer ``result`` from the last projections.

        Args:
            request: What to make of them.
            job: Reports, and may be cancelled.

        Raises:
            NotKept: They do not hold what is asked.
            StoppedEarly: They are of a run that was stopped.
        """
        kept = self._last(request)
        first = kept.classes[0]
        if first.stopped:
            raise StoppedEarly(first.directions, first.planned)
        run, region = _refined(kept, request)
        _answer(kept, run, region, _reporter(request, job), ResultWriter(request.folder, job))

    def resume(self, request: RefineRequest, job: Job) -> None:
        """Go on with the last reconstruction where it was stopped, and answer ``result``.

        As `refine` where it is whole. Once this is cancelled, the reconstruction stays as far as it came.

        Args:
            request: What to make of it.
            job: Reports, and may be cancelled.

        Raises:
            NotKept: It will not hold what is asked.
        """
        kept = self._last(request)
        run, region = _refined(kept, request)
        reporter = _reporter(request, job)
        job.step("reconstructing", *kept.classes[0].planes_done)
        try:
            with reporter.timings.measure("total"):
                resume(kept.classes, reporter, shown=run.targets[0].variants)
        except Cancelled:
            raise
        except BaseException:  # some sums may hold a batch that others lack
            self._kept = None
            raise
        _answer(kept, run, region, reporter, ResultWriter(request.folder, job))

    def _last(self, request: RefineRequest) -> _Kept:
        if self._kept is None:
            raise NotKept("no reconstruction is kept: the engine is new, or the last run failed or was cancelled")
        if request.run not in (None, self._kept.number):
            raise NotKept("another reconstruction is kept than the one that is meant")
        return self._kept


@contextmanager
def _whole_or_cancelled(job: Job) -> Iterator[None]:
    """Let a stop of what gives all or nothing, as a segmenter, be answered as a cancel."""
    try:
        yield
    except Cancelled:
        job.cancel()
        raise


def _answer(kept: _Kept, run: Run, region: Region | None, reporter: Reporter, writer: ResultWriter) -> bool:
    """Make and write the heatmaps of all classes and send ``result``. Returns whether it was sent."""
    writer.job.step("finishing")
    by_class: dict[str, Json] = {}
    for each, target in zip(kept.classes, run.targets, strict=True):
        with reporter.timings.measure("total"):
            made = {name: variant for name, variant in target.variants.items() if each.gives(variant)}
            result = each.finish(made, _settings(kept, run, target), reporter, region=region)
        by_class[target.name] = class_fields(each, result, run, writer)
    missing = [f"ended before {name} could be made" for name in run.asked.methods if name not in result.heatmaps]
    more = {} if kept.request.classes is None else {"classes": by_class}
    first = run.targets[0]
    return writer.job.finish(
        "result",
        run=kept.number,
        inside=writer.write("inside.npy", result.inside.view(np.uint8)),
        seconds=dict(reporter.timings.seconds),
        **_run_fields(result),
        warnings=[*result.warnings, *missing],
        zoom=kept.request.zoom,
        class_name=first.name,
        settings=_settings(kept, run, first).record(),
        model=model_fields(kept.model, Path(kept.request.model).name),
        **by_class[first.name],
        **more,
    )


def _settings(kept: _Kept, run: Run, target: Target) -> ReconstructionSettings:
    """Return a class's settings, with its name where classes were asked for by name."""
    return run.asked if kept.request.classes is None else dataclasses.replace(run.asked, class_name=target.name)


def _run_fields(result: Reconstruction) -> Json:
    """What is the same for all classes of a run."""
    return {
        "slices": result.slices_total,
        **({"network_passes": result.passes} if result.passes else {}),
        "directions": result.directions,
        "planned": result.planned,
        "stopped": result.stopped,
        "device": result.device,
        "precision": result.precision,
    }


def _classes(request: ReconstructRequest, model: ReadyModel) -> tuple[str, ...]:
    """The names asked for, none where it is the settings' class. Raises TonnoError where they are too many.

    A client that names none gets the first class of a finding: the answer says which.
    """
    if request.classes is None:
        return () if request.options.get("class_name") else (first_choice(model.encoder.classes),)
    names = model.encoder.classes if request.classes == "all" else request.classes
    if len(names) > _MOST_CLASSES:
        raise TonnoError(f"{len(names)} classes in one run, expected at most {_MOST_CLASSES}; name those that matter")
    return names


def _reporter(request: ReconstructRequest | RefineRequest, job: Job) -> Reporter:
    previews = Previews(request.folder, job) if request.preview else None
    return Reporter(job.progress, job.check, lambda: job.stopped, previews)


def _refined(kept: _Kept, request: RefineRequest) -> tuple[Run, Region | None]:
    """Return the run and the region of a refinement. Raises NotKept for what the run cannot give at its end."""
    names = [target.name for target in kept.run.targets]
    settings, region = _changed(kept, request.options), _kept_region(kept, request)
    run = decide(settings, kept.model, classes=names)
    run = dataclasses.replace(run, region=kept.run.region, zoom=kept.run.zoom)
    for each, target in zip(kept.classes, run.targets, strict=True):
        for name, variant in target.variants.items():
            if not each.gives(variant, at_its_end=True):
                raise NotKept(f"{name} with these settings cannot be made from what was kept of the last run")
    return run, region


def _kept_region(kept: _Kept, request: RefineRequest) -> Region | None:
    """Return the region of a refinement. A zoomed run is of its own region alone: another one has other planes."""
    zoom, whole = kept.run.zoom, kept.run.region
    if request.zoom not in (None, zoom):
        raise NotKept(f"the last run was made {'with' if zoom else 'without'} zoom")
    region = _region(request.ras_to_box)
    if region is not None and not kept.classes[0].covers(region):
        raise NotKept("the region reaches beyond that of the last run")
    if region is not None and whole is not None and zoom and not region.holds(whole):
        raise NotKept("the region is another than the one that the last run zoomed into")
    return region


def _changed(kept: _Kept, options: Json) -> ReconstructionSettings:
    """Return the last settings with what may be changed; raises NotKept for anything else that differs."""
    before = kept.run.asked.record()
    made = before | {"slice_size": kept.run.pixels, "class_name": kept.run.targets[0].name}
    for name, value in options.items():
        if name not in _REFINABLE and value not in (before[name], made[name]):
            raise NotKept(f"another {name.replace('_', ' ')} needs a new run")
    return combine(defaults={}, explicit={**before, **options})


def _read(request: ReconstructRequest) -> Volume:
    try:
        array = read_array(request.array)
    except (OSError, ValueError) as error:
        raise TonnoError(f"the volume's file cannot be read ({type(error).__name__})") from error
    if array.ndim != 3 or min(array.shape) < 2 or array.dtype.kind not in "fiu":
        raise TonnoError(f"the volume is an array {array.shape} of {array.dtype}, expected three axes of numbers")
    if not np.isfinite(array).all():
        raise TonnoError("the volume has voxels that are NaN or infinite; replace them first")
    return Volume(np.ascontiguousarray(array, dtype=np.float32), request.ijk_to_ras)


def _region(ras_to_box: Matrix | None) -> Region | None:
    return None if ras_to_box is None else Region(np.asarray(np.linalg.inv(ras_to_box), dtype=np.float64))


def _free() -> None:
    """Give back what the device's allocator holds of the last run, also of one that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
