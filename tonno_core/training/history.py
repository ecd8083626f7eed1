"""Measurements of a training run by epoch: ``metrics.csv`` and ``curves.png``."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.output import Json, atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    Curve = Callable[[Axes, str, str, str], None]


@dataclass(frozen=True)
class Epoch:
    """Measurements of an epoch.

    Attributes:
        epoch: Its number, from 1.
        step: Steps done at its end.
        loss: Mean over its training batches.
        learning_rate: Learning rate of its last step.
        validation_loss: As in `Validation`.
        slice_auc: As in `Validation`.
        volume_auc: As in `Validation`.
        slices_per_second: Speed of training.
        wait_share: Share of the time in which the device waited for slices.
        seconds: Duration, without the validation.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    validation_loss: float | None
    slice_auc: float | None
    volume_auc: float | None
    slices_per_second: float
    wait_share: float
    seconds: float


@dataclass(frozen=True)
class RegressionEpoch:
    """Measurements of an epoch of a regressor.

    Attributes:
        epoch: Its number, from 1.
        step: Steps done at its end.
        loss: Mean over its training batches.
        learning_rate: Learning rate of its last step.
        validation_loss: As in `Agreement`.
        pearson: As in `Agreement`.
        spearman: As in `Agreement`.
        mae: As in `Agreement`.
        r2: As in `Agreement`.
        slope: As in `Agreement`.
        slices_per_second: Speed of training.
        wait_share: Share of the time in which the device waited for slices.
        seconds: Duration, without the validation.
    """

    epoch: int
    step: int
    loss: float
    learning_rate: float
    validation_loss: float | None
    pearson: float | None
    spearman: float | None
    mae: float | None
    r2: float | None
    slope: float | None
    slices_per_second: float
    wait_share: float
    seconds: float


AnyEpoch = Epoch | RegressionEpoch


def write_history(folder: Path, history: Sequence[AnyEpoch]) -> None:
    """Write ``metrics.csv`` and ``curves.png``, each whole or not at all.

    Args:
        folder: Folder of the run.
        history: All epochs so far.
    """
    write_metrics(folder, [dataclasses.asdict(epoch) for epoch in history])
    with atomic_file(folder / "curves.png") as partial:
        _draw(partial, history)


def write_metrics(folder: Path, rows: Sequence[Json]) -> None:
    """Write ``metrics.csv``, whole or not at all.

    Args:
        folder: Folder of the run.
        rows: Measurements by name, of one epoch or more, all with the same names.
    """
    metrics = folder / "metrics.csv"
    with atomic_file(metrics, make_folders=True) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _draw(path: Path, history: Sequence[AnyEpoch]) -> None:
    of_classes = [epoch for epoch in history if isinstance(epoch, Epoch)]
    with curves(path, [epoch.step for epoch in history], history) as (losses, aucs, curve):
        if len(of_classes) < len(history):
            losses.axhline(1.0, color="0.6", linewidth=0.8, linestyle="--")  # of the mean of all volumes
            losses.set_ylabel("squared error, in SD")
            curve(aucs, "pearson", "Pearson's r", "#8f5902")
            curve(aucs, "spearman", "Spearman's rho", "#4e9a06")
            curve(aucs, "r2", "R²", "#75507b")
            aucs.axhline(0.0, color="0.6", linewidth=0.8, linestyle="--")
            aucs.set(ylabel="validation, mean of random slices", ylim=(-0.55, 1.05))
            return
        losses.axhline(np.log(2), color="0.6", linewidth=0.8, linestyle="--")
        losses.set_ylabel("cross-entropy of slices")
        where: Any = ("axes fraction", "data")
        losses.annotate("guessing ", (1, np.log(2)), xycoords=where, ha="right", va="top", color="0.4")
        curve(aucs, "slice_auc", "slice AUC", "#8f5902")
        curve(aucs, "volume_auc", "volume AUC", "#4e9a06")
        aucs.axhline(0.5, color="0.6", linewidth=0.8, linestyle="--")
        aucs.set(ylabel="validation, random slices", ylim=(0.0 if _below_half(of_classes) else 0.45, 1.02))


@contextmanager
def curves(path: Path, steps: Sequence[int], history: Sequence[Any]) -> Iterator[tuple[Axes, Axes, Curve]]:
    """Draw what any training measures over its steps: the loss, a panel that the caller fills, the learning rate.

    Args:
        path: The PNG file.
        steps: At the ends of the epochs.
        history: Their measurements, ``loss``, ``validation_loss``, ``learning_rate`` and others.

    Yields:
        The panel of losses, the empty panel, and what draws a measurement into a panel, where it is known, by its name,
        its label and its colour.
    """
    from matplotlib.figure import Figure

    def curve(axes: Axes, name: str, label: str, colour: str) -> None:
        values = [getattr(epoch, name) for epoch in history]
        known = [(step, value) for step, value in zip(steps, values, strict=True) if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), label=label, color=colour, marker="o", markersize=3, linewidth=1.5)

    figure = Figure(figsize=(9, 7.5), layout="constrained")
    losses, between, rates = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    curve(losses, "loss", "training, with augmentation", "#3465a4")
    curve(losses, "validation_loss", "validation", "#cc5500")
    yield losses, between, curve
    curve(rates, "learning_rate", "", "0.3")
    rates.set(ylabel="learning rate", xlabel="step", ylim=(0, None))
    for axes in (losses, between):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
    figure.savefig(path, format="png", dpi=110)


def _below_half(history: Sequence[Epoch]) -> bool:
    return any(auc is not None and auc < 0.45 for epoch in history for auc in (epoch.slice_auc, epoch.volume_auc))
