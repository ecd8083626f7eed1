"""The engine inside the process: reconstructions with a model that stays, and what is kept of the last."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.control import Control, Preview
from tonno_core.encoding.ready import ReadyModel
from tonno_core.errors import TonnoError
from tonno_core.reconstruction.projected import Projected
from tonno_core.reconstruction.result import PlaneProfile, Reconstruction
from tonno_core.reconstruction.run import project, resolve
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.slicing.region import Region
from tonno_core.timing import Timings
from tonno_core.volume.volume import Matrix, Volume
from tonno_core.worker.failures import NotKept
from tonno_core.worker.files import write_array
from tonno_core.worker.job import Job
from tonno_core.worker.models import Models
from tonno_core.worker.requests import ReconstructRequest, RefineRequest

# Profiles of a result: along R, A and S, and of directions of which the nearest is within 15 degrees of any other.
_PROFILES = 64
# Planes of all profiles together; their numbers are the one thing that travels in a message.
_PROFILE_PLANES = 32_768
# Enough for a histogram of 128 bins.
_OTSU_VOXELS = 2_000_000
# What a refinement may change, as far as it was kept.
_REFINABLE = ("methods", "stage", "filter", "sigma_scale", "smooth_mm")


class Engine:
    """Computes; one request at a time."""

    def __init__(self) -> None:
        self._models = Models()
        self._kept: Projected | None = None
        self._name, self._zoom = "", False

    def reconstruct(self, request: ReconstructRequest, job: Job) -> None:
        """Answer ``result``, after ``preview`` events where they are wanted."""
        self._kept, self._name = None, Path(request.model).name
        _free()
        timings = Timings()
        with timings.measure("loading"):
            volume = _read(request)
            ready, settings = self._models.get(request, job.check)
        job.step("reconstructing")
        previews = _Previews(request.folder, job) if request.preview else None
        control = Control(job.progress, job.check, lambda: job.stopped, previews)
        region = _region(request.ras_to_box)
        with timings.measure("total"):
            projected = project(
                volume, ready, settings, region=region, zoom=request.zoom, control=control, timings=timings, keep=True
            )
            job.step("finishing")
            wanted = resolve(None, settings, ready)
            made = {name: one for name, one in wanted.items() if projected.gives(one)}
            missing = tuple(f"ended before {name} could be made" for name in wanted if name not in made)
            result = projected.finish(made, settings, timings, check=job.check)
        self._kept, self._zoom = projected, request.zoom
        self._answer(result, timings, missing, request.folder, job)

    def refine(self, request: RefineRequest, job: Job) -> None:
        """Answer ``result`` from the last projections. Raises NotKept where they do not hold what is asked."""
        kept = self._kept
        if kept is None:
            raise NotKept("no reconstruction is kept; the engine was started anew, or the last run was cancelled")
        settings = _refined(kept, request.options)
        region = self._kept_region(kept, request)
        wanted = resolve(None, settings, kept.ready)
        for name, one in wanted.items():
            if not kept.gives(one):
                raise NotKept(f"{name} with these settings cannot be made from what was kept of the last run")
        job.step("finishing")
        timings = Timings()
        with timings.measure("total"):
            result = kept.finish(wanted, settings, timings, region=region, check=job.check)
        self._answer(result, timings, (), request.folder, job)

    def _kept_region(self, kept: Projected, request: RefineRequest) -> Region | None:
        """The region of a refinement. A zoomed run is of its own region alone: another one has other planes."""
        if request.zoom not in (None, self._zoom):
            raise NotKept(f"the last run was made {'with' if self._zoom else 'without'} zoom")
        region, own = _region(request.ras_to_box), kept.planes.region
        if region is not None and not kept.covers(region):
            raise NotKept("the region reaches beyond that of the last run")
        if region is not None and own is not None and self._zoom and not region.holds(own):
            raise NotKept("the region is another than the one that the last run zoomed into")
        return region

    def _answer(
        self, result: Reconstruction, timings: Timings, warnings: tuple[str, ...], folder: Path, job: Job
    ) -> None:
        assert self._kept is not None
        ready = self._kept.ready
        heatmaps = {
            method: {
                "array": write_array(folder / f"heatmap-{method}.npy", heatmap.array, job),
                "variant": {"method": method, **result.variants[method].choices()},
                "threshold": _threshold(ready, result, method, self._zoom),
                "otsu": _otsu(heatmap, result.inside),
            }
            for method, heatmap in result.heatmaps.items()
        }
        job.finish(
            "result",
            heatmaps=heatmaps,
            inside=write_array(folder / "inside.npy", result.inside.view(np.uint8), job),
            profiles=[_profile(one) for one in self._kept.plane_profiles(_profiles(result))],
            score=result.score,
            explained=result.explained,
            seconds=dict(timings.seconds),
            slices=result.slices_total,
            directions=result.directions,
            stopped=result.stopped or job.stopped,
            zoom=self._zoom,
            device=result.device,
            precision=result.precision,
            class_name=result.class_name,
            warnings=[*result.warnings, *warnings],
            settings=dataclasses.asdict(result.settings),
            model=_model(ready, self._name),
        )


class _Previews:
    """Writes each preview, and removes the one before the last: a client that is late still finds the last but one."""

    def __init__(self, folder: Path, job: Job) -> None:
        self._folder, self._job = folder, job
        self._count = 0

    def __call__(self, preview: Preview) -> None:
        self._count += 1
        paths = {
            method: write_array(self._path(self._count, method), heatmap.array, self._job)
            for method, heatmap in preview.heatmaps.items()
        }
        for method in preview.heatmaps:
            with suppress(OSError):
                self._path(self._count - 2, method).unlink()
        inside = self._folder / "inside.npy"
        if self._count == 1:
            write_array(inside, preview.inside.view(np.uint8), self._job)
        self._job.emit(
            "preview", heatmaps=paths, inside=str(inside), directions=preview.directions, of=preview.of
        )  # fmt: skip

    def _path(self, count: int, method: str) -> Path:
        return self._folder / f"preview-{count}-{method}.npy"


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


def _refined(kept: Projected, options: dict[str, Any]) -> ReconstructionSettings:
    """The last settings with what may be changed; raises NotKept for anything else that differs."""
    before = dataclasses.asdict(kept.planes.settings)
    made = before | {"slice_size": kept.ready.slice_size, "class_name": kept.class_name}
    for name, value in options.items():
        if name not in _REFINABLE and value not in (before[name], made[name]):
            raise NotKept(f"another {name.replace('_', ' ')} needs a new run")
    return combine(defaults={}, explicit={**before, **options})


def _region(ras_to_box: Matrix | None) -> Region | None:
    return None if ras_to_box is None else Region(np.asarray(np.linalg.inv(ras_to_box), dtype=np.float64))


def _free() -> None:
    """Give back what the device's allocator holds of the last run, also of one that failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _otsu(heatmap: Volume, inside: npt.NDArray[np.bool_]) -> float | None:
    """Otsu's threshold, of every n-th voxel along each axis where there are many: all would take a second."""
    step = max(1, round((heatmap.array.size / _OTSU_VOXELS) ** (1 / 3)))
    some = (slice(None, None, step),) * 3
    try:
        return otsu_threshold(Volume(heatmap.array[some], heatmap.ijk_to_ras), inside[some])
    except TonnoError:  # nothing to split
        return None


def _profiles(result: Reconstruction) -> int:
    return max(3, min(_PROFILES, _PROFILE_PLANES // result.settings.slices))


def _profile(profile: PlaneProfile) -> dict[str, Any]:
    return {
        "normal_ras": [round(one, 6) for one in profile.normal_ras.tolist()],
        "positions_mm": [round(one, 3) for one in profile.positions_mm.tolist()],
        "logits": [round(one, 5) for one in profile.logits.tolist()],
    }


def _threshold(ready: ReadyModel, result: Reconstruction, method: str, zoom: bool) -> dict[str, Any] | None:
    known = ready.threshold(result.variants[method], result.backprojected, zoom=zoom)
    return None if known is None else known.message()


def _model(ready: ReadyModel, name: str) -> dict[str, Any]:
    if ready.spec is None:
        return {"name": name, "encoder": None, "sha256": None, "about": {}}
    return {"name": name, "encoder": ready.spec.encoder, "sha256": ready.spec.sha256, "about": ready.spec.about}
