"""`tonno bench`: where the time of a reconstruction goes, and how it compares, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tonno_core.benchmark import machine, references
from tonno_core.benchmark.measure import (
    PreviewedRun,
    Spread,
    WholeRun,
    bare_encoders,
    run_previewed,
    run_whole,
    seconds,
)
from tonno_core.benchmark.plain import plain_tonno
from tonno_core.benchmark.report import Comparison, Report, write
from tonno_core.bundle.file import Bundle, BundleSpec, load_bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.encoding.classifier import create_model
from tonno_core.output import check_output, output_folder
from tonno_core.reconstruction.passes import CPU_BATCH, GPU_BATCH
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# Directions of the run that warms up.
_WARM_UP = 4


def bench(
    volume: Path | None,
    *,
    model: str | None,
    slice_size: int | None,
    options: Mapping[str, Any],
    preset: str | None,
    device: str,
    precision: str,
    repeats: int,
    compare: bool,
    compiled: bool,
    output: Path | None,
    overwrite: bool,
) -> str:
    """Measure, write ``bench.json`` and ``bench.png`` where an output is given, and return the tables.

    volume: None for a head like the demo's. model: a bundle's folder, None for the demo's, or the name of a timm model,
    with random weights: the time does not depend on them, but the logits are then so small that bfloat16 shows.
    compare: also with the plain reference and PyEPRI.
    """
    if output is not None:
        check_output(output, overwrite=overwrite)
    plain = plain_tonno if compare else None
    bundle = _bundle(model, slice_size)
    settings = combine(defaults=bundle.spec.defaults, preset=preset, explicit={**options, "slice_size": slice_size})
    image = _demo_head() if volume is None else read_volume(volume)
    ready = prepare_model(bundle, settings, device, precision, compiled=compiled)
    report = _measure(image, bundle, ready, settings, repeats, plain)
    if output is not None:
        with output_folder(output, overwrite=overwrite) as folder:
            write(report, folder)
    return report.text()


def _bundle(model: str | None, slice_size: int | None) -> Bundle:
    from tonno_core.commands.demo import MODEL

    if model is None or Path(model).is_dir():
        return load_bundle(model or MODEL)
    return random_bundle(model, slice_size or 96)


def random_bundle(encoder: str, slice_size: int) -> Bundle:
    """A timm model of one channel with random weights."""
    torch.manual_seed(0)
    network = create_model(encoder, channels=1, classes=1, norm="frozen-batch", slice_size=slice_size)
    spec = BundleSpec(encoder, 1, ("finding",), "frozen-batch", slice_size, None, "zscore", "physical")
    return Bundle(spec, {name: one.float() for name, one in network.state_dict().items()}, Path("random weights"))


def _demo_head() -> Volume:
    from tonno_core.demo.phantom import make_phantom

    return make_phantom(seed=1, lesions=3).image


def _measure(
    image: Volume,
    bundle: Bundle,
    ready: ReadyModel,
    settings: ReconstructionSettings,
    repeats: int,
    plain: Callable[..., Any] | None,
) -> Report:
    few = combine(defaults={}, explicit={**_as_options(settings), "directions": _WARM_UP, "cam_directions": _WARM_UP})
    run_whole(image, ready, few)
    machine.forget_peak(ready.device)
    standard = GPU_BATCH if ready.device.type == "cuda" else CPU_BATCH
    batch = max(4, round(standard * (96 / ready.slice_size) ** 2))
    bare = bare_encoders(bundle, ready.slice_size, ready.device, batch)
    rates: dict[str, list[float]] = {one.name: [] for one in bare}
    runs: list[WholeRun] = []
    previewed: list[PreviewedRun] = []
    energy = machine.Energy(None, machine.NOT_READABLE)
    memory: float | None = None
    comparisons = _Comparisons(image, bundle, ready, settings, plain) if plain is not None else None
    for _ in range(repeats):
        for one in bare:
            rates[one.name].append(one.rate())
        with energy.measured(ready.device):
            runs.append(run_whole(image, ready, settings))
        previewed.append(run_previewed(image, ready, settings))
        memory = machine.peak_mb(ready.device) if memory is None else memory
        if comparisons is not None:
            comparisons.repeat()
    if energy.joules is not None:
        energy.joules /= repeats
    return Report(
        machine=machine.describe(ready.device),
        task=_task(image, ready, settings),
        runs=runs,
        previewed=previewed,
        bare={name: Spread(tuple(values)) for name, values in rates.items()},
        memory_mb=memory,
        energy=energy,
        comparisons=[] if comparisons is None else comparisons.results(),
    )


class _Comparisons:
    """Of the engine with the plain reference (ToNNO at every voxel), and of its inversion with PyEPRI's."""

    def __init__(
        self,
        image: Volume,
        bundle: Bundle,
        ready: ReadyModel,
        settings: ReconstructionSettings,
        plain: Callable[..., Any],
    ) -> None:
        explicit = {"methods": ("tonno",), "grid": "volume", "smooth_mm": 0.0, "filter": "second-difference"}
        self._settings = combine(defaults={}, explicit={**_as_options(settings), **explicit})
        self._image, self._ready = image, ready
        self._plain = plain(image, bundle, self._settings, ready.device)
        self._task = references.InversionTask()
        self._own = references.own_inversion(self._task)
        self._theirs = references.pyepri_inversion(self._task)
        self._seconds: dict[str, list[float]] = {name: [] for name in ("plain", "engine", "pyepri", "own")}
        self._agreement: dict[str, dict[str, float]] = {}

    def repeat(self) -> None:
        """One turn of each."""
        found: list[Any] = []
        self._seconds["plain"].append(seconds(lambda: found.append(self._plain.heatmap().cpu().numpy())))
        run = run_whole(self._image, self._ready, self._settings)
        self._seconds["engine"].append(run.seconds["total"])
        self._seconds["pyepri"].append(seconds(lambda: found.append(self._theirs())))
        self._seconds["own"].append(seconds(lambda: found.append(self._own())))
        if not self._agreement:
            inside = run.result.inside
            heatmap = run.result.heatmaps["tonno"].array
            correlation = float(np.corrcoef(found[0][inside], heatmap[inside])[0, 1])
            self._agreement["plain"] = {"heatmap correlation": correlation}
            self._agreement["pyepri"] = _inversion_agreement(self._task, found[1], found[2])

    def results(self) -> list[Comparison]:
        """Both."""
        spread = {name: Spread(tuple(values)) for name, values in self._seconds.items()}
        settings, task = self._settings, self._task
        what = (
            "one grid_sample per direction, float32, nothing folded or skipped, every voxel; ToNNO with grid volume, "
            f"M = {settings.slices}, L = {settings.directions}, {self._ready.slice_size} px, "
            f"engine in {_precision(self._ready)}"
        )
        inversion = (
            f"eprfbp3d (NumPy) at every node; {task.side}^3 nodes, L = {task.directions}, M = {task.slices}, float32 "
            "on the CPU, the engine at the nodes in the ball"
        )
        return [
            Comparison("plain reference", what, spread["plain"], spread["engine"], self._agreement["plain"]),
            Comparison("PyEPRI's inversion", inversion, spread["pyepri"], spread["own"], self._agreement["pyepri"]),
        ]


def _inversion_agreement(task: references.InversionTask, theirs: Any, own: Any) -> dict[str, float]:
    z, y, x = np.meshgrid(task.axis, task.axis, task.axis, indexing="ij")
    ball = x**2 + y**2 + z**2 <= 1.0
    truth = task.truth()
    peak = float(truth.max())
    return {
        "largest difference over the peak": float(np.abs(own - theirs)[ball].max()) / peak,
        "of the engine from the truth": float(np.abs(own - truth)[ball].max()) / peak,
        "of PyEPRI from the truth": float(np.abs(theirs - truth)[ball].max()) / peak,
    }


def _task(image: Volume, ready: ReadyModel, settings: ReconstructionSettings) -> dict[str, Any]:
    assert ready.spec is not None
    return {
        "encoder": f"{ready.spec.encoder}, {ready.slice_size} px, {ready.spec.channels} channels",
        "precision": f"{_precision(ready)}, {getattr(ready.encoder, 'layout', '')}",
        "methods": ", ".join(settings.methods),
        "slices": settings.slices,
        "directions": settings.directions,
        "grid": settings.grid,
        "volume": " x ".join(str(n) for n in image.size_ijk),
    }


def _precision(ready: ReadyModel) -> str:
    return str(ready.precision).removeprefix("torch.")


def _as_options(settings: ReconstructionSettings) -> dict[str, Any]:
    return {name: value for name, value in settings.record().items() if value is not None}
