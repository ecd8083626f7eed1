"""The engine inside the process: models that stay on their device, reconstructions, and what is kept of the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonno_core.encoding.bundle import SPEC_NAME, WEIGHTS_NAME, load_bundle
from tonno_core.encoding.ready import PIXEL_SUM, ReadyModel, default_settings, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.evaluation.profile import Profile
from tonno_core.reconstruction import Reconstruction, reconstruct
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.settings import choices_of, combine
from tonno_core.volume.volume import Volume
from tonno_core.worker.files import write_array
from tonno_core.worker.job import Job
from tonno_core.worker.requests import ReconstructRequest, RefineRequest


class Engine:
    """Computes; one request at a time."""

    def __init__(self) -> None:
        self._model: ReadyModel | None = None

    def reconstruct(self, request: ReconstructRequest, job: Job) -> None:
        volume = _read(request)
        bundle = PIXEL_SUM if request.model == PIXEL_SUM else load_bundle(request.model)
        spec = None if isinstance(bundle, str) else bundle.spec
        settings = combine(defaults=default_settings(spec), preset=request.preset, explicit=request.options)
        ready = prepare_model(bundle, settings, request.device, request.precision)
        job.step("reconstructing")

        def progress(done: int, total: int) -> None:
            job.check()
            job.progress(done, total)

        result = reconstruct(volume, ready, settings, progress=progress)
        job.step("finishing")
        self._answer(result, ready, request.folder, job)

    def refine(self, request: RefineRequest, job: Job) -> None:
        raise TonnoError("not yet")

    def _answer(self, result: Reconstruction, ready: ReadyModel, folder: Path, job: Job) -> None:
        heatmaps = {}
        for method, heatmap in result.heatmaps.items():
            variant = result.variants[method]
            heatmaps[method] = {
                "array": write_array(folder / f"heatmap-{method}.npy", heatmap.array, job),
                "variant": {"method": method} | {name: getattr(variant, name) for name in choices_of(method)},
                "threshold": ready.record(variant, result.class_name),
                "otsu": _otsu(heatmap, result.inside),
            }
        job.finish(
            "result",
            heatmaps=heatmaps,
            inside=write_array(folder / "inside.npy", result.inside.view(np.uint8), job),
            profiles=[_profile(one) for one in result.profiles],
            score=result.score,
            explained=result.explained,
            seconds=result.seconds,
            slices=result.slices_total,
            stopped=False,
            device=result.device,
            precision=result.precision,
            class_name=result.class_name,
            warnings=list(result.warnings),
        )


def _read(request: ReconstructRequest) -> Volume:
    try:
        array = np.load(request.array, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise TonnoError(f"the volume's file cannot be read ({error})") from error
    return Volume(np.ascontiguousarray(array, dtype=np.float32), request.ijk_to_ras)


def _otsu(heatmap: Volume, inside: npt.NDArray[np.bool_]) -> float | None:
    try:
        return otsu_threshold(heatmap, inside)
    except TonnoError:  # nothing to split
        return None


def _profile(profile: Profile) -> dict[str, Any]:
    normal = [float(letter == profile.axis) for letter in "RAS"]
    return {
        "normal_ras": normal,
        "positions_mm": profile.offsets_mm.tolist(),
        "logits": profile.logits.tolist(),
    }
