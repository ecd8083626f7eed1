"""The engine inside the process: reconstructions with a model that stays, and what is kept of the last."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tonno_core.bundle.ready import ReadyModel
from tonno_core.control import Cancelled, Control
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import Reconstruction, project, resume
from tonno_core.reconstruction.projected import Projected
from tonno_core.reconstruction.run import resolve
from tonno_core.settings import ReconstructionSettings, Variant, combine
from tonno_core.slicing.region import Region
from tonno_core.timing import Timings
from tonno_core.volume.volume import Matrix, Volume
from tonno_core.worker.answer import Previews, class_fields, model_fields
from tonno_core.worker.failures import NotKept, StoppedEarly
from tonno_core.worker.files import write_array
from tonno_core.worker.job import Job
from tonno_core.worker.models import Models
from tonno_core.worker.requests import ReconstructRequest, RefineRequest

# What a refinement may change, as far as it was kept.
_REFINABLE = ("methods", "stage", "filter", "sigma_scale", "smooth_mm")
# Classes of one run: the sums of each are in memory, and its profiles in the message of the result.
_MOST_CLASSES = 32


@dataclass(frozen=True)
class _Kept:
    """A reconstruction. run: its request's id. classes: their states, in the order asked for."""

    run: int
    request: ReconstructRequest
    classes: list[Projected]

    @property
    def first(self) -> Projected:
        """The class of which previews are, and most of a result's fields."""
        return self.classes[0]

    def settings_of(self, each: Projected, settings: ReconstructionSettings) -> ReconstructionSettings:
        """Settings with a class's name, where classes were asked for by name."""
        return settings if self.request.classes is None else dataclasses.replace(settings, class_name=each.class_name)

    def variants_of(self, each: Projected, settings: ReconstructionSettings) -> dict[str, Variant]:
        """What settings make for a class, by method."""
        return resolve(None, self.settings_of(each, settings), each.ready)


class Engine:
    """Computes; one request at a time."""

    def __init__(self) -> None:
        self._models = Models()
        self._kept: _Kept | None = None

    def reconstruct(self, request: ReconstructRequest, job: Job) -> None:
        """Answer ``result``, after ``preview`` events where they are wanted."""
        self._kept = None
        _free()
        timings = Timings()
        with timings.measure("loading"):
            volume = _read(request)
            ready, settings = self._models.get(request, job.check)
        job.step("reconstructing")
        with timings.measure("total"):
            classes = project(
                volume,
                ready,
                settings,
                classes=_classes(request, ready),
                region=_region(request.ras_to_box),
                zoom=request.zoom,
                control=_control(request, job),
                timings=timings,
                keep=True,
            )
        kept = _Kept(job.identifier, request, classes)
        if _answer(kept, settings, None, timings, request.folder, job):
            self._kept = kept  # a client that has no answer does not think of this run as the last one

    def refine(self, request: RefineRequest, job: Job) -> None:
        """Answer ``result`` from the last projections. Raises NotKept where they do not hold what is asked."""
        kept = self._last(request)
        if kept.first.stopped:
            raise StoppedEarly(kept.first.directions, kept.first.planned)
        settings, region = _asked_of(kept, request)
        _answer(kept, settings, region, Timings(), request.folder, job)

    def resume(self, request: RefineRequest, job: Job) -> None:
        """Go on with the last reconstruction where it was stopped, and answer ``result``.

        As `refine` where it is whole. Raises NotKept where it will not hold what is asked. Once this is cancelled, the
        reconstruction stays as far as it came.
        """
        kept = self._last(request)
        settings, region = _asked_of(kept, request)
        timings = Timings()
        job.step("reconstructing", *kept.first.planes_done)
        try:
            with timings.measure("total"):
                shown = kept.variants_of(kept.first, settings)
                resume(kept.classes, shown=shown, control=_control(request, job), timings=timings)
        except Cancelled:
            raise
        except BaseException:  # some sums may hold a batch that others lack
            self._kept = None
            raise
        _answer(kept, settings, region, timings, request.folder, job)

    def _last(self, request: RefineRequest) -> _Kept:
        if self._kept is None:
            raise NotKept("no reconstruction is kept: the engine is new, or the last run failed or was cancelled")
        if request.run not in (None, self._kept.run):
            raise NotKept("another reconstruction is kept than the one that is meant")
        return self._kept


def _answer(
    kept: _Kept, settings: ReconstructionSettings, region: Region | None, timings: Timings, folder: Path, job: Job
) -> bool:
    """Make and write the heatmaps of all classes and send ``result``. Returns whether it was sent."""
    job.step("finishing")
    by_class: dict[str, dict[str, Any]] = {}
    for number, each in enumerate(kept.classes, 1):
        with timings.measure("total"):
            made = {name: variant for name, variant in kept.variants_of(each, settings).items() if each.gives(variant)}
            result = each.finish(made, kept.settings_of(each, settings), timings, region=region, check=job.check)
        by_class[each.class_name] = class_fields(each, result, folder, job, number=number, of=len(kept.classes))
    missing = [f"ended before {name} could be made" for name in settings.methods if name not in result.heatmaps]
    more = {} if kept.request.classes is None else {"classes": by_class}
    return job.finish(
        "result",
        run=kept.run,
        inside=write_array(folder / "inside.npy", result.inside.view(np.uint8), job),
        seconds=dict(timings.seconds),
        **_run_fields(result),
        warnings=[*result.warnings, *missing],
        zoom=kept.request.zoom,
        class_name=kept.first.class_name,
        settings=dataclasses.asdict(kept.settings_of(kept.first, settings)),
        model=model_fields(kept.first.ready, Path(kept.request.model).name),
        **by_class[kept.first.class_name],
        **more,
    )


def _run_fields(result: Reconstruction) -> dict[str, Any]:
    """What is the same for all classes of a run."""
    return {
        "slices": result.slices_total,
        "directions": result.directions,
        "planned": result.planned,
        "stopped": result.stopped,
        "device": result.device,
        "precision": result.precision,
    }


def _classes(request: ReconstructRequest, ready: ReadyModel) -> tuple[str, ...]:
    """The names asked for, none where it is the settings' class. Raises TonnoError where they are too many."""
    if request.classes is None:
        return ()
    names = ready.encoder.classes if request.classes == "all" else request.classes
    if len(names) > _MOST_CLASSES:
        raise TonnoError(f"{len(names)} classes in one run, expected at most {_MOST_CLASSES}; name those that matter")
    return names


def _control(request: ReconstructRequest | RefineRequest, job: Job) -> Control:
    previews = Previews(request.folder, job) if request.preview else None
    return Control(job.progress, job.check, lambda: job.stopped, previews)


def _asked_of(kept: _Kept, request: RefineRequest) -> tuple[ReconstructionSettings, Region | None]:
    """The settings and the region of a refinement. Raises NotKept for what the run cannot give at its end."""
    settings = _refined(kept.first, request.options)
    region = _kept_region(kept.first, request)
    for each in kept.classes:
        for name, variant in kept.variants_of(each, settings).items():
            if not each.gives(variant, at_its_end=True):
                raise NotKept(f"{name} with these settings cannot be made from what was kept of the last run")
    return settings, region


def _kept_region(kept: Projected, request: RefineRequest) -> Region | None:
    """The region of a refinement. A zoomed run is of its own region alone: another one has other planes."""
    zoom = kept.planes.zoom
    if request.zoom not in (None, zoom):
        raise NotKept(f"the last run was made {'with' if zoom else 'without'} zoom")
    region, whole = _region(request.ras_to_box), kept.planes.region
    if region is not None and not kept.covers(region):
        raise NotKept("the region reaches beyond that of the last run")
    if region is not None and whole is not None and zoom and not region.holds(whole):
        raise NotKept("the region is another than the one that the last run zoomed into")
    return region


def _refined(kept: Projected, options: dict[str, Any]) -> ReconstructionSettings:
    """The last settings with what may be changed; raises NotKept for anything else that differs."""
    before = dataclasses.asdict(kept.planes.settings)
    made = before | {"slice_size": kept.ready.slice_size, "class_name": kept.class_name}
    for name, value in options.items():
        if name not in _REFINABLE and value not in (before[name], made[name]):
            raise NotKept(f"another {name.replace('_', ' ')} needs a new run")
    return combine(defaults={}, explicit={**before, **options})


def _read(request: ReconstructRequest) -> Volume:
    try:
        array = np.load(request.array, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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
