"""How much of a training's time is its network's: the loop against forward, backward and step on ready tensors.

    python -m benchmarks.training [--encoder tf_efficientnet_lite0 resnet10t] [--device auto] [--slices 64] [--compile]

Both alternate on one network. On a CPU seconds are the processor's, on a GPU the clock's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from tabulate import tabulate

from tonno_core.distributed import Processes
from tonno_core.encoding.device import choose_device
from tonno_core.training import course, loop
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.settings import TrainingSettings, complete_settings

# A brain of 1 mm as training prepares it for slices of 96 pixels: every second voxel.
SHAPE = (91, 109, 91)
VOLUMES = 16


@dataclass(frozen=True)
class Figures:
    """What one network's training takes; medians over repeats, with their range.

    Attributes:
        loop: Slices a second of the training loop.
        bare: Slices a second of forward, backward and step on ready tensors.
        ratio: The first over the second, and its range.
        parts: Seconds per step of parts of the loop; empty on a GPU, where they overlap.
        step: Seconds per step of the loop.
    """

    loop: float
    bare: float
    ratio: tuple[float, float, float]
    parts: dict[str, float]
    step: float


def noise_volumes() -> list[TrainingVolume]:
    """Make volumes of noise, half of them with the finding.

    Returns:
        The volumes.
    """
    volumes = []
    frame_to_ijk = np.diag([*(np.array(SHAPE[::-1]) / 2.0), 1.0])
    frame_to_ijk[:3, 3] = (np.array(SHAPE[::-1]) - 1.0) / 2.0
    for number in range(VOLUMES):
        rng = np.random.default_rng(number)
        array = torch.as_tensor(rng.normal(size=SHAPE)).to(torch.float16)
        foreground = rng.uniform(-0.7, 0.7, (2048, 3))
        volumes.append(TrainingVolume(array, 0.0, frame_to_ijk, foreground, (number % 2,), str(number)))
    return volumes


def measure(settings: TrainingSettings, *, steps: int, repeats: int) -> Figures:
    """Measure the training of a network.

    Args:
        settings: How it is trained; the number of steps is of no importance.
        steps: Steps of each measurement, after as many to warm up.
        repeats: Measurements.

    Returns:
        The figures.
    """
    device = choose_device(settings.device)
    settings = replace(settings, steps=2 * steps, epochs=2)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    whole, bare = [], []
    for _ in range(repeats):
        trainer = _trained(settings, device, clock)
        whole.append(trainer.course.history[-1].slices_per_second)
        bare.append(settings.batch_size / _bare_step(trainer, settings, device, steps, clock))
    ratios = sorted(one / other for one, other in zip(whole, bare, strict=True))
    parts = _parts(trainer, settings, clock) if device.type == "cpu" else {}
    rate = statistics.median(whole)
    ratio = (statistics.median(ratios), ratios[0], ratios[-1])
    return Figures(rate, statistics.median(bare), ratio, parts, settings.batch_size / rate)


def _trained(settings: TrainingSettings, device: torch.device, clock: Callable[[], float]) -> loop.Trainer:
    """Train for two epochs without a validation; the first warms up."""
    with tempfile.TemporaryDirectory() as path, mock.patch.object(course, "time", SimpleNamespace(monotonic=clock)):
        folder: Any = SimpleNamespace(path=Path(path), load=lambda: None, save=lambda state: None)
        trainer = loop.Trainer(settings, noise_volumes(), [], folder, Processes(0, 1, device), progress=False)
        trainer.run()
    return trainer


def _bare_step(
    trainer: loop.Trainer, settings: TrainingSettings, device: torch.device, steps: int, clock: Callable[[], float]
) -> float:
    """Measure seconds of forward, backward and the optimizer's step."""
    size = settings.slice_size
    slices = torch.randn(settings.batch_size, size, size, device=device)
    labels = torch.ones(settings.batch_size, 1, device=device)
    loop.set_training_mode(trainer.model)
    for timed in (False, True):
        _wait(device)
        start = clock()
        for _ in range(steps if timed else 2):
            loss = F.binary_cross_entropy_with_logits(trainer._shared(slices), labels)
            trainer.descent.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            trainer.descent.optimizer.step()
        _wait(device)
    return (clock() - start) / steps


def _parts(trainer: loop.Trainer, settings: TrainingSettings, clock: Callable[[], float]) -> dict[str, float]:
    """Measure seconds per step of the parts beside forward and backward, each alone."""
    volumes, each = settings.volumes_per_batch, settings.slices_per_volume
    drawn = _seconds(lambda: trainer._sampler.draw(1, volumes, each), clock)
    plain = replace(trainer._sampler, augmentation=None)
    plain.draw(1, volumes, each)
    cut = _seconds(lambda: plain.draw(1, volumes, each), clock)
    parts = {"drawing": cut, "augmentation": drawn - cut, "optimizer": _seconds(trainer.descent.optimizer.step, clock)}
    average = trainer.descent.average
    return parts if average is None else parts | {"average": _seconds(lambda: average.update(9), clock)}


def _seconds(action: Callable[[], object], clock: Callable[[], float], repeats: int = 9) -> float:
    times = []
    for _ in range(repeats):
        start = clock()
        action()
        times.append(clock() - start)
    return statistics.median(times)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rows(encoder: str, figures: Figures, batch: int) -> list[object]:
    """Format a network's figures.

    Args:
        encoder: Its name.
        figures: Its figures.
        batch: Slices a step.

    Returns:
        Cells of the table.
    """
    median, low, high = figures.ratio
    share = sum(figures.parts.values()) / figures.step if figures.parts else math.nan
    parts = ", ".join(f"{name} {value / figures.step:.1%}" for name, value in figures.parts.items())
    rates = [round(figures.loop), round(figures.bare), f"{median:.3f} ({low:.3f} to {high:.3f})"]
    return [encoder, batch, *rates, f"{share:.1%}" if figures.parts else "", parts]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", nargs="+", default=["tf_efficientnet_lite0", "resnet10t"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--slices", type=int, nargs="+", help="slices a step, 8 of each volume; the device's default")
    parser.add_argument("--ema", type=float, default=0.995)
    parser.add_argument("--freeze", type=int, default=0)
    parser.add_argument("--compile", dest="compiled", action="store_true")
    parser.add_argument("--steps", type=int, help="of each measurement: 60 on CUDA, else 6")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    steps = options.steps or (60 if choose_device(options.device).type == "cuda" else 6)
    table = []
    for encoder in options.encoder:
        for slices in options.slices or [None]:
            settings = complete_settings(
                encoder=encoder, device=options.device, precision=options.precision, slice_size=options.size,
                ema=options.ema, freeze=options.freeze, compiled=options.compiled,
                volumes_per_batch=None if slices is None else slices // 8,
            )  # fmt: skip
            figures = measure(settings, steps=steps, repeats=options.repeats)
            table.append(rows(encoder, figures, settings.batch_size))
    headers = ["encoder", "slices a step", "loop, slices/s", "bare, slices/s", "loop / bare", "beside", "of it"]
    print(tabulate(table, headers=headers, tablefmt="github"))


if __name__ == "__main__":
    main()
