"""From heatmaps to messages: arrays as files, the rest as numbers."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.decide import Run
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import ReadyModel
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.reconstruction.projected import Projected
from tonno_core.reconstruction.result import Reconstruction
from tonno_core.reporting import Preview
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume
from tonno_core.worker.files import write_array
from tonno_core.worker.job import Job

# Profiles of a result: along R, A and S, and of directions of which the nearest is within 15 degrees of any other.
_PROFILES = 64
# Planes of all profiles of all classes; their numbers are the one thing that travels in a message.
_PROFILE_PLANES = 32_768
# Enough for a histogram of 128 bins.
_OTSU_VOXELS = 2_000_000


def class_fields(projected: Projected, result: Reconstruction, run: Run, writer: ResultWriter) -> Json:
    """Return a class's fields of a ``result`` event, and write its heatmaps.

    Args:
        projected: The class's state.
        result: With its heatmaps.
        run: That they were asked for by, with the class among its targets.
        writer: Of the request's files.

    Returns:
        As docs/worker.md has them.
    """
    names = [target.name for target in run.targets]
    number = names.index(result.class_name)
    suffix = "" if number == 0 else f"-{number + 1}"
    heatmaps = {}
    for method, heatmap in result.heatmaps.items():
        variant = result.variants[method]
        directions, planned = projected.reach(variant)
        known = run.threshold(run.targets[number], method, result.ended_at)
        highest = float(heatmap.array[result.inside].max(initial=-np.inf))
        heatmaps[method] = {
            "array": writer.write(f"heatmap-{method}{suffix}.npy", heatmap.array),
            "variant": {"method": method, **variant.choices()},
            "threshold": None if known is None else known.within(highest).message(),
            "otsu": None if run.choices.kind == REGRESSOR else _otsu(heatmap, result.inside),
            "directions": directions,
            "planned": planned,
        }
    most = max(3, min(_PROFILES, _PROFILE_PLANES // len(names) // result.settings.slices))
    return {
        "heatmaps": heatmaps,
        "profiles": [_profile(each) for each in projected.plane_profiles(most)],
        "score": result.score,
        "explained": result.explained,
        **({} if result.prediction is None else {"prediction": dataclasses.asdict(result.prediction)}),
    }


@dataclass(frozen=True)
class ResultWriter:
    """Writes a request's arrays.

    Attributes:
        folder: Of the request.
        job: Whose cancel ends the writing.
    """

    folder: Path
    job: Job

    def write(self, name: str, array: npt.NDArray[np.generic]) -> str:
        """Write an array.

        Args:
            name: Of the file.
            array: Any.

        Returns:
            The file's path.
        """
        return write_array(self.folder / name, array, self.job)


def model_fields(model: ReadyModel, name: str) -> Json:
    """Return what identifies a model.

    Args:
        model: Ready on its device.
        name: Of its folder.

    Returns:
        As docs/worker.md has it.
    """
    if model.spec is None:
        return {"name": name, "encoder": None, "sha256": None, "about": {}}
    spec = model.spec
    said = {"name": name, "encoder": spec.encoder, "sha256": spec.sha256, "about": spec.about}
    if spec.quantity is not None:
        return {**said, "kind": spec.kind, "quantity": spec.quantity.record()}
    return said if spec.network is None else {**said, "kind": spec.kind, "taught_by": spec.training.get("taught_by")}


class Previews:
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


def _otsu(heatmap: Volume, inside: npt.NDArray[np.bool_]) -> float | None:
    """Otsu's threshold, of every n-th voxel along each axis where there are many: all would take a second."""
    step = max(1, round((heatmap.array.size / _OTSU_VOXELS) ** (1 / 3)))
    some = (slice(None, None, step),) * 3
    try:
        return otsu_threshold(Volume(heatmap.array[some], heatmap.ijk_to_ras), inside[some])
    except TonnoError:  # nothing to split
        return None


def _profile(profile: Profile) -> Json:
    return {
        "normal_ras": [round(value, 6) for value in profile.normal_ras.tolist()],
        "positions_mm": [round(value, 3) for value in profile.offsets_mm.tolist()],
        "logits": [round(value, 5) for value in profile.logits.tolist()],
    }
