"""`tonno bench`: where the time of a reconstruction goes, and how it compares, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tonno_core.benchmark.comparison import Balls, compare_with_plain, compare_with_pyepri
from tonno_core.benchmark.machine import describe
from tonno_core.benchmark.measure import measure
from tonno_core.benchmark.report import Report
from tonno_core.bundle.file import Bundle, BundleSpec, load_bundle
from tonno_core.bundle.ready import Compiled, ReadyModel, prepare_model
from tonno_core.encoding.classifier import create_model
from tonno_core.errors import TonnoError
from tonno_core.output import Json, check_output, output_folder
from tonno_core.settings import SEGMENTER, ReconstructionSettings
from tonno_core.volume.intensity import by_channel
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume


@dataclass(frozen=True)
class Benchmark:
    """What is measured, and how.

    Attributes:
        volume: File or folder of a scan; None for a head like the demo's.
        model: Folder of a bundle; None for the demo's. The name of a timm model stands for random weights: the time
            does not depend on them, but the logits are then so small that bfloat16 shows.
        slice_size: Pixels along the side of a slice; None for the model's own.
        device: Where to run.
        precision: Precision of the encoder.
        compiled: Compile the encoder by `torch.compile`.
        repeats: How often everything is measured, in turn.
        compare: Measure plain ToNNO and PyEPRI's inversion too.
    """

    volume: Path | None = None
    model: str | None = None
    slice_size: int | None = None
    device: str = "auto"
    precision: str = "auto"
    compiled: Compiled = False
    repeats: int = 3
    compare: bool = False


def bench(
    benchmark: Benchmark, *, options: Json, preset: str | None, output: Path | None = None, overwrite: bool = False
) -> str:
    """Measure a reconstruction on this machine.

    Args:
        benchmark: What is measured, and how.
        options: Settings of the reconstruction by name; None where not asked for.
        preset: Name of a preset, or None.
        output: Folder for ``bench.json`` and ``bench.png``, or None.
        overwrite: Replace these where they are there.

    Returns:
        Tables for the terminal.
    """
    if output is not None:
        check_output(output, overwrite=overwrite)
    size = benchmark.slice_size
    bundle = _bundle(benchmark.model, size)
    if bundle.spec.kind == SEGMENTER:
        raise TonnoError(
            f"`model` {benchmark.model}: is a segmenter, and what is measured are the steps of a reconstruction; "
            "`tonno reconstruct` says how long a segmenter takes"
        )
    several = len(by_channel(bundle.spec.intensity)) > 1
    if several and benchmark.volume is None:
        raise TonnoError(f"`model` {benchmark.model}: is for volumes of several channels; give `volume`, one of these")
    if several and benchmark.compare:
        raise TonnoError("`compare` is with plain code for volumes of one channel; leave it out for this model")
    settings = bundle.spec.choices.settings({**options, "slice_size": size}, preset)
    volume = _demo_head() if benchmark.volume is None else read_volume(benchmark.volume)
    ready = prepare_model(bundle, settings, benchmark.device, benchmark.precision, compiled=benchmark.compiled)
    comparisons = []
    if benchmark.compare:
        comparisons = [compare_with_plain(volume, bundle, ready, settings), compare_with_pyepri(Balls())]

    def compare() -> None:
        for comparison in comparisons:
            comparison.repeat()

    repeated = measure(volume, bundle, ready, settings, repeats=benchmark.repeats, compare=compare)
    report = Report(describe(ready.device), _task(volume, bundle.spec, ready, settings), repeated, comparisons)
    if output is not None:
        with output_folder(output, overwrite=overwrite) as folder:
            report.write(folder)
    return report.text()


def _bundle(model: str | None, slice_size: int | None) -> Bundle:
    from tonno_core.commands.demo import MODEL

    if model is None or Path(model).is_dir():
        return load_bundle(model or MODEL)
    return _random_bundle(model, slice_size or 96)


def _random_bundle(encoder: str, slice_size: int) -> Bundle:
    """Make a timm model of one channel with random weights."""
    torch.manual_seed(0)
    network = create_model(encoder, channels=1, classes=1, norm="frozen-batch", slice_size=slice_size)
    spec = BundleSpec(encoder, 1, ("finding",), "frozen-batch", slice_size, None, "zscore", "physical")
    weights = {name: tensor.float() for name, tensor in network.state_dict().items()}
    return Bundle(spec, weights, Path("random weights"))


def _demo_head() -> Volume:
    from tonno_core.demo.phantom import make_phantom

    return make_phantom(seed=1, lesions=3).image


def _task(volume: Volume, spec: BundleSpec, ready: ReadyModel, settings: ReconstructionSettings) -> Json:
    precision = str(ready.precision).removeprefix("torch.")
    return {
        "encoder": f"{spec.encoder}, {ready.slice_size} px, {spec.channels} channels",
        "precision": f"{precision}, {getattr(ready.encoder, 'layout', '')}",
        "methods": ", ".join(settings.methods),
        "slices": settings.slices,
        "directions": settings.directions,
        "grid": settings.grid,
        "volume": " x ".join(str(n) for n in volume.size_ijk),
    }
