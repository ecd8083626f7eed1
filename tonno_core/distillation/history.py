"""Measurements of a distillation by epoch: ``metrics.csv`` and ``curves.png``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tonno_core.output import atomic_file
from tonno_core.training.history import curves, write_metrics


@dataclass(frozen=True)
class Epoch:
    """Measurements of an epoch.

    Attributes:
        round: Number of its round, from 1.
        epoch: Its number in the round, from 1.
        step: Steps of the round that are done at its end.
        loss: Mean over its training batches.
        voxel_loss: Its robust cross-entropy, without its weight.
        dice_loss: Its Dice, likewise.
        volume_loss: Its image-level term, likewise.
        learning_rate: Learning rate of its last step.
        validation_loss: As in `Validation`.
        agreement: As in `Validation`.
        volume_auc: As in `Validation`.
        patches_per_second: Speed of training.
        wait_share: Share of the time in which the device waited for patches.
        seconds: Duration, without the validation.
    """

    round: int
    epoch: int
    step: int
    loss: float
    voxel_loss: float
    dice_loss: float
    volume_loss: float
    learning_rate: float
    validation_loss: float | None
    agreement: float | None
    volume_auc: float | None
    patches_per_second: float
    wait_share: float
    seconds: float


def write_history(folder: Path, history: Sequence[Epoch], steps: int) -> None:
    """Write ``metrics.csv`` and ``curves.png``, each whole or not at all.

    Args:
        folder: Folder of the run.
        history: All epochs so far, of all rounds.
        steps: Of a round.
    """
    write_metrics(folder, [dataclasses.asdict(epoch) for epoch in history])
    with atomic_file(folder / "curves.png") as partial:
        _draw(partial, history, steps)


def _draw(path: Path, history: Sequence[Epoch], round_steps: int) -> None:
    steps = [(epoch.round - 1) * round_steps + epoch.step for epoch in history]
    with curves(path, steps, history) as (losses, shares, curve):
        losses.set(ylabel="loss", ylim=(0, None))
        curve(shares, "agreement", "Dice with the pseudo-masks", "#8f5902")
        curve(shares, "volume_auc", "volume AUC", "#4e9a06")
        shares.set(ylabel="validation", ylim=(-0.02, 1.02))
        for axes in (losses, shares):
            for number in range(1, history[-1].round):
                axes.axvline(number * round_steps, color="0.6", linewidth=0.8, linestyle="--")
