"""Measuring: whole reconstructions by stage, and the bare encoder, in alternation so that all see the same machine."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import TypeVar

import torch

from tonno_core.benchmark.machine import Energy, EventTimings, peak_mb, read_energy, reset_peak
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.device import choose_precision
from tonno_core.encoding.fusion import batched, convolutions, fuse, library_for, slices_at_once
from tonno_core.encoding.normalization import fold_batch_norm
from tonno_core.encoding.weights import load_exactly
from tonno_core.output import Json
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.reconstruction.passes import CPU_BATCH, GPU_BATCH
from tonno_core.reporting import Preview, Reporter, Timings
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Volume

# Before torch's timer: it looks for a compiler, and warns where there is no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer, timer  # noqa: E402

Result = TypeVar("Result")

# What the table shows in this order, and the names of the steps of a run that belong to it.
STAGES: dict[str, tuple[str, ...]] = {
    "slicing": ("slicing",),
    "encoder": ("encoder",),
    "filter": ("filter",),
    "backprojection": ("backprojection: values", "backprojection: maps"),
    "interpolation": ("interpolation",),
    "profiles along R, A, S": ("profiles",),
    "self-check": ("self-check",),
}
REST = "rest (reading intensities, foreground, geometry)"
# Directions of the run that warms up.
_WARM_UP = 4


@dataclass(frozen=True)
class Spread:
    """A number that was measured several times.

    Attributes:
        values: In the order of the repeats.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """Return the median."""
        return statistics.median(self.values)

    def __truediv__(self, other: Spread) -> Spread:
        """Divide repeat by repeat."""
        return Spread(tuple(a / b for a, b in zip(self.values, other.values, strict=True)))

    def __mul__(self, factor: float) -> Spread:
        """Multiply all repeats by a number."""
        return Spread(tuple(factor * value for value in self.values))

    def text(self, digits: int = 3) -> str:
        """Format the median, and the smallest and largest in brackets.

        Args:
            digits: Significant digits; whole numbers keep all of theirs.

        Returns:
            Text such as ``2 (1 to 3)``.
        """
        low, high = (_rounded(value, digits) for value in (min(self.values), max(self.values)))
        return f"{_rounded(self.median, digits)} ({low} to {high})"

    def as_json(self) -> Json:
        """Return median, range and all values for ``bench.json``.

        Returns:
            JSON object.
        """
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "values": list(self.values)}


def _rounded(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def timed(action: Callable[[], Result]) -> tuple[float, Result]:
    """Run something long once, by torch's clock, which waits for the device.

    Args:
        action: What to run.

    Returns:
        Seconds, and what the action returned.
    """
    start = timer()
    result = action()
    return timer() - start, result


@dataclass(frozen=True)
class WholeRun:
    """A reconstruction and how long its steps took.

    Attributes:
        result: What was reconstructed.
        seconds: By step; ``total`` is all of it.
    """

    result: Reconstruction
    seconds: dict[str, float]

    @property
    def sent(self) -> int:
        """Return the number of slices that the encoder saw."""
        return self.result.slices_total - self.result.slices_blank

    @property
    def rate(self) -> float:
        """Return the slices that the encoder saw per second of the whole."""
        return self.sent / self.seconds["total"]

    @property
    def encoder_rate(self) -> float:
        """Return the slices per second while the encoder ran."""
        axes = 3 * (self.result.settings.slices + 2)  # these are counted with the profiles
        share = self.sent / self.result.slices_total
        return (self.result.slices_total - axes) * share / self.seconds["encoder"]

    def stages(self) -> dict[str, float]:
        """Add up the steps of each stage.

        Returns:
            Seconds by stage. Their sum is the total, or more on CUDA, where slicing goes on beside the encoder.
        """
        stages = {stage: sum(self.seconds.get(step, 0.0) for step in steps) for stage, steps in STAGES.items()}
        return {**stages, REST: max(0.0, self.seconds["total"] - sum(stages.values()))}


def run_whole(volume: Volume, ready: ReadyModel, settings: ReconstructionSettings) -> WholeRun:
    """Reconstruct once, as `reconstruct` does it.

    Args:
        volume: What is looked at.
        ready: The model.
        settings: How it is looked at.

    Returns:
        The reconstruction and its times.
    """
    timings = EventTimings() if ready.device.type == "cuda" else Timings()
    total, result = timed(lambda: _reconstruct(volume, ready, settings, Reporter(timings=timings)))
    if isinstance(timings, EventTimings):
        timings.finish()
    return WholeRun(replace(result, seconds={}), {**timings.seconds, "total": total})


def _reconstruct(
    volume: Volume, ready: ReadyModel, settings: ReconstructionSettings, reporter: Reporter
) -> Reconstruction:
    return execute(volume, ready.encoder, decide(settings, ready, classes=ready.encoder.classes[:1]), reporter)


@dataclass(frozen=True)
class PreviewedRun:
    """The previews of a run.

    Attributes:
        first: Seconds until the first preview; None where there was none.
        directions: How many directions that preview was made of.
        share: Share of the run's time that all previews took.
    """

    first: float | None
    directions: int
    share: float


def run_previewed(volume: Volume, ready: ReadyModel, settings: ReconstructionSettings) -> PreviewedRun:
    """Reconstruct once with previews, as the module of 3D Slicer does.

    Args:
        volume: What is looked at.
        ready: The model.
        settings: How it is looked at.

    Returns:
        When the first preview came, and what previews cost.
    """
    shown: list[tuple[float, int]] = []
    timings, start = Timings(), timer()

    def show(preview: Preview) -> None:
        shown.append((timer() - start, preview.directions))

    total, _ = timed(lambda: _reconstruct(volume, ready, settings, Reporter(timings=timings, preview=show)))
    first, directions = shown[0] if shown else (None, 0)
    return PreviewedRun(first, directions, timings.seconds.get("previews", 0.0) / total)


def plain_network(bundle: Bundle, slice_size: int) -> torch.nn.Module:
    """Make the classifier of a bundle as timm has it, in float32 on the CPU.

    Args:
        bundle: The model.
        slice_size: Pixels along the side of a slice.

    Returns:
        Network in evaluation mode.
    """
    spec = bundle.spec
    network: torch.nn.Module = create_model(
        spec.encoder, channels=spec.channels, classes=len(spec.classes), norm=spec.norm, slice_size=slice_size
    )
    load_exactly(network, bundle.weights, "the model")
    return network.eval()


def bare_encoders(bundle: Bundle, slice_size: int, device: torch.device, batch: int) -> dict[str, Callable[[], float]]:
    """Make the plain forward pass, batch norm folded, in each precision of a device.

    Channels last and not; then with fused operations, on a CPU as many slices at once as its cache holds; then compiled
    as well, on a GPU where Triton works, in the precision that is its own.

    Args:
        bundle: The model.
        slice_size: Pixels along the side of a slice.
        device: Where to run.
        batch: Slices at once.

    Returns:
        By name, a function that measures the forward pass and returns slices per second.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch, bundle.spec.channels, slice_size, slice_size, generator=generator)
    precisions = [torch.float32, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    encoders: dict[str, Callable[[], float]] = {}
    for precision, last in product(precisions, (False, True)):
        network = plain_network(bundle, slice_size)
        fold_batch_norm(network)
        memory_format = torch.channels_last if last else torch.contiguous_format
        model = network.to(device, precision).to(memory_format=memory_format)
        slices = noise.to(device, precision).to(memory_format=memory_format)
        name = f"{str(precision).removeprefix('torch.')}{', channels last' if last else ''}"
        encoders[name] = partial(_rate, model, [slices])
        if not last:
            continue
        fused, parts = _fused(model, slices)
        if fused is not model:
            encoders[f"{name}, fused"] = partial(_rate, fused, parts)
        if device.type == "cuda" and precision == choose_precision("auto", device):
            with suppress(Exception), torch.inference_mode():  # of the compiler, or of a network that cannot be traced
                compiled = torch.compile(fused)
                compiled(slices)
                encoders[f"{name}, fused and compiled"] = partial(_rate, compiled, parts)
    return encoders


def _fused(model: torch.nn.Module, slices: torch.Tensor) -> tuple[torch.nn.Module, Sequence[torch.Tensor]]:
    """Fuse a network's operations, if these exist here, and split a batch as they run fastest."""
    shapes = convolutions(model, lambda: model.forward_features(slices[:1]))  # type: ignore[operator]
    parts = [slices]
    if slices.device.type == "cpu":
        parts = list(slices.chunk(math.ceil(len(slices) / slices_at_once(shapes, torch.float32.itemsize))))
    fused = fuse(model, batched(shapes, len(parts[0])), library_for(slices.device, slices.dtype), slices.dtype)
    try:
        with torch.inference_mode():
            fused(slices[:1])
    except RuntimeError:  # this processor lacks an operation
        return model, parts
    return fused, parts


def _rate(model: Callable[[torch.Tensor], object], parts: Sequence[torch.Tensor]) -> float:
    given = {"model": model, "parts": parts}
    clock = Timer("for part in parts: model(part)", globals=given, num_threads=torch.get_num_threads())
    with torch.inference_mode():
        return sum(map(len, parts)) / clock.blocked_autorange(min_run_time=1.5).median


@dataclass(frozen=True)
class Repeat:
    """What was measured in one repeat.

    Attributes:
        bare: Slices per second of each bare encoder.
        whole: The reconstruction.
        previewed: The same with previews.
        energy: What the reconstruction used.
        memory_mb: Peak memory so far; None where it cannot be read.
    """

    bare: dict[str, float]
    whole: WholeRun
    previewed: PreviewedRun
    energy: Energy
    memory_mb: float | None


def measure(
    volume: Volume,
    bundle: Bundle,
    ready: ReadyModel,
    settings: ReconstructionSettings,
    *,
    repeats: int,
    compare: Callable[[], None] = lambda: None,
) -> list[Repeat]:
    """Measure bare encoders, the whole reconstruction, and previews, in turn.

    Args:
        volume: What is looked at.
        bundle: The model.
        ready: The same on its device.
        settings: How it is looked at.
        repeats: How often, after a short run that warms up.
        compare: Measures something else at the end of each repeat.

    Returns:
        The repeats.
    """
    device = ready.device
    run_whole(volume, ready, replace(settings, directions=_WARM_UP, cam_directions=_WARM_UP))
    reset_peak(device)
    # On a GPU a quarter of the most: about what a batch may take of its memory (`encoding.memory`).
    standard = GPU_BATCH // 4 if device.type == "cuda" else CPU_BATCH
    batch = max(4, round(standard * (96 / ready.slice_size) ** 2))
    encoders = bare_encoders(bundle, ready.slice_size, device, batch)
    measured = []
    for _ in range(repeats):
        bare = {name: rate() for name, rate in encoders.items()}
        before = read_energy(device)
        whole = run_whole(volume, ready, settings)
        energy = read_energy(device).since(before)
        measured.append(Repeat(bare, whole, run_previewed(volume, ready, settings), energy, peak_mb(device)))
        compare()
    return measured
