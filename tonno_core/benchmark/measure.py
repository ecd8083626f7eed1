"""Measuring: whole reconstructions by stage, and the bare encoder, in alternation so that all see the same machine."""

from __future__ import annotations

import logging
import statistics
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from tonno_core.benchmark.machine import EventTimings
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.normalization import fold_batch_norm
from tonno_core.encoding.weights import load_exactly
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.reporting import Reporter, Timings
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Volume

# Before torch's timer: it looks for a compiler, and warns where there is no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer, timer  # noqa: E402

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


@dataclass(frozen=True)
class Spread:
    """Of the repeats."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def text(self, digits: int = 3) -> str:
        """Median, and the smallest and largest."""
        low, high = (_rounded(one, digits) for one in (min(self.values), max(self.values)))
        return f"{_rounded(self.median, digits)} ({low} to {high})"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {"median": self.median, "min": min(self.values), "max": max(self.values), "values": list(self.values)}


def _rounded(value: float, digits: int) -> str:
    return f"{value:.{digits}g}" if abs(value) < 10 ** (digits - 1) else f"{value:.0f}"


def seconds(action: Callable[[], Any]) -> float:
    """Of one run of something long, without the two that `Timer` adds; torch's clock waits for the device."""
    return timeit.Timer(action, timer=timer).timeit(1)


@dataclass(frozen=True)
class WholeRun:
    """A reconstruction and how long its steps took, ``total`` being all of it. The heatmap by method is in result."""

    result: Reconstruction
    seconds: dict[str, float]

    @property
    def sent(self) -> int:
        """Slices that the encoder saw."""
        return self.result.slices_total - self.result.slices_blank

    @property
    def rate(self) -> float:
        """Slices that the encoder saw per second of the whole."""
        return self.sent / self.seconds["total"]

    @property
    def encoder_rate(self) -> float:
        """Slices per second while the encoder ran."""
        axes = 3 * (self.result.settings.slices + 2)  # these are counted with the profiles
        share = self.sent / self.result.slices_total
        return (self.result.slices_total - axes) * share / self.seconds["encoder"]

    def stages(self) -> dict[str, float]:
        """Seconds by stage; they add up to the total, or to more on CUDA, where slicing goes on beside the encoder."""
        found = {stage: sum(self.seconds.get(step, 0.0) for step in steps) for stage, steps in STAGES.items()}
        return {**found, REST: max(0.0, self.seconds["total"] - sum(found.values()))}


def run_whole(volume: Volume, ready: ReadyModel, settings: ReconstructionSettings) -> WholeRun:
    """One reconstruction, as `reconstruct` does it."""
    timings = EventTimings() if ready.device.type == "cuda" else Timings()
    found: list[Reconstruction] = []

    def action() -> None:
        found.append(execute(volume, ready.encoder, decide(settings, ready), Reporter(timings=timings)))

    total = seconds(action)
    if isinstance(timings, EventTimings):
        timings.finish()
    return WholeRun(replace(found[0], seconds={}), {**timings.seconds, "total": total})


@dataclass(frozen=True)
class PreviewedRun:
    """A run with previews. first: seconds until the first, by so many directions; None where there was none.

    share: of the time, what all previews took.
    """

    first: float | None
    directions: int
    share: float


def run_previewed(volume: Volume, ready: ReadyModel, settings: ReconstructionSettings) -> PreviewedRun:
    """One reconstruction that is looked into, as 3D Slicer's module does."""
    shown: list[tuple[float, int]] = []
    start = timer()
    reporter = Reporter(preview=lambda preview: shown.append((timer() - start, preview.directions)))
    execute(volume, ready.encoder, decide(settings, ready), reporter)
    total = timer() - start
    first, directions = shown[0] if shown else (None, 0)
    return PreviewedRun(first, directions, reporter.timings.seconds.get("previews", 0.0) / total)


@dataclass(frozen=True)
class BareEncoder:
    """The plain forward pass, batch norm folded, in one precision and layout."""

    model: torch.nn.Module
    slices: torch.Tensor
    name: str

    def rate(self) -> float:
        """Slices per second."""
        clock = Timer(
            "model(slices)",
            globals={"model": self.model, "slices": self.slices},
            num_threads=torch.get_num_threads(),
        )
        with torch.inference_mode():
            return len(self.slices) / clock.blocked_autorange(min_run_time=1.5).median


def bare_encoders(bundle: Bundle, size: int, device: torch.device, batch: int) -> list[BareEncoder]:
    """All precisions that a device computes in, channels last or not."""
    spec = bundle.spec
    precisions = [torch.float32, torch.bfloat16, *([torch.float16] if device.type == "cuda" else [])]
    found = []
    for precision, last in product(precisions, (False, True)):
        model = create_model(
            spec.encoder, channels=spec.channels, classes=len(spec.classes), norm=spec.norm, slice_size=size
        )
        load_exactly(model, bundle.weights, "the model")
        model.eval()
        fold_batch_norm(model)
        layout = torch.channels_last if last else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)
        slices = torch.randn(batch, spec.channels, size, size, generator=generator)
        found.append(
            BareEncoder(
                model.to(device, precision).to(memory_format=layout),
                slices.to(device, precision).to(memory_format=layout),
                f"{str(precision).removeprefix('torch.')}{', channels last' if last else ''}",
            )
        )
    return found
