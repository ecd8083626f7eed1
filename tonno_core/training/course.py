"""The course of a training: steps and epochs, looks at the losses, checkpoints, and the end that is asked for."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.training.dataset import prefetch
from tonno_core.training.descent import Descent
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.steps import TrainingInterrupted, stop_requests

# Steps between two looks at a device's losses, for which the host waits. On a CPU they are known when a step is done.
_LOOK_EVERY = 20


class _Batch(Protocol):
    @property
    def names(self) -> tuple[str, ...]: ...


Drawn = TypeVar("Drawn", bound=_Batch)
# Measurements of an epoch, a dataclass.
Epoch = TypeVar("Epoch")


@dataclass
class Position(Generic[Epoch]):
    """How far a training is.

    Attributes:
        step: Steps done.
        history: Epochs done.
        losses: By step of the current epoch, the loss, or a list of it and its parts.
        busy: Seconds of the current epoch.
        waited: How many of these the batches were waited for.
    """

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    losses: list[Any] = field(default_factory=list)
    busy: float = 0.0
    waited: float = 0.0


class Course(Generic[Epoch]):
    """A training from its start or its checkpoint to its last step.

    Args:
        descent: Of the network.
        folder: The open folder of the run.
        inputs: What a batch is made of, in the plural.
        part: Which part of the run this is, such as "round 1 of 2"; empty where it is the whole.
        before: Epochs of the parts before.
        beside: What else a checkpoint holds.
    """

    def __init__(
        self,
        descent: Descent,
        folder: RunFolder,
        inputs: str,
        part: str = "",
        before: Sequence[Epoch] = (),
        beside: Json | None = None,
    ) -> None:
        self.at = Position(history=list(before))
        self._descent, self._folder, self._inputs, self._part = descent, folder, inputs, part
        self._before, self._beside = len(before), beside or {}
        self._look_every = 1 if descent.processes.device.type == "cpu" else _LOOK_EVERY
        self._unseen: list[tuple[tuple[str, ...], torch.Tensor]] = []  # names of volumes and the losses, by step

    @property
    def history(self) -> Sequence[Epoch]:
        """Return the epochs so far, also of the parts before."""
        return self.at.history

    def run(self, bar: tqdm[Any], epoch: Callable[[int, threading.Event], None]) -> None:
        """Run the epochs that are left.

        Args:
            bar: Is closed at the end.
            epoch: Runs an epoch by its number, from 1, by `steps` and `finish`.

        Raises:
            TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
        """
        with bar, stop_requests() as stop:
            for number in range(len(self.at.history) - self._before + 1, self._descent.settings.epochs + 1):
                epoch(number, stop)
            if stop.is_set():  # during the last validation
                raise self.interrupted()

    def steps(
        self,
        epoch: int,
        draw: Callable[[int], Drawn],
        take: Callable[[int, Drawn], torch.Tensor],
        show: Callable[[], None],
        stop: threading.Event,
    ) -> None:
        """Take the steps of an epoch that are left.

        Args:
            epoch: Its number, from 1.
            draw: Draws the batch of a step.
            take: Takes a step; returns the loss, or the loss and its parts, which nothing has waited for.
            show: Is called after each step.
            stop: Asks for an end.

        Raises:
            TonnoError: If the loss is not a number.
            TrainingInterrupted: If an end was asked for; the checkpoint holds the last step.
        """
        at, processes = self.at, self._descent.processes
        end = self._descent.settings.epoch_end(epoch)
        started = waiting = time.monotonic()
        for step, batch in prefetch(draw, range(at.step, end), ahead=processes.device.type != "cpu"):
            at.waited += time.monotonic() - waiting
            self._unseen.append((batch.names, take(step, batch)))
            at.step = step + 1
            stopping = processes.any(stop.is_set())
            if stopping or at.step == end or len(self._unseen) >= self._look_every:
                self._look()
            show()
            waiting = time.monotonic()
            if stopping:
                at.busy += waiting - started
                self._save()
                raise self.interrupted()
        at.busy += time.monotonic() - started

    def _look(self) -> None:
        """Read the losses since the last look, over all processes' inputs; no checkpoint is written in between.

        Raises TonnoError for one that is no number.
        """
        first, unseen, self._unseen = self.at.step - len(self._unseen), self._unseen, []
        losses = self._descent.processes.mean(torch.stack([loss for _, loss in unseen])).tolist()
        for step, ((names, _), loss) in enumerate(zip(unseen, losses, strict=True), start=first):
            if not math.isfinite(_whole(loss)):
                raise TonnoError(
                    f"the loss is {_whole(loss)} at step {step}, on {self._inputs} of {', '.join(names)}; "
                    "lower `learning_rate`, try `precision` float32, or look at these volumes; another setting needs "
                    "`overwrite`, which keeps what was prepared"
                )
            self.at.losses.append(loss)

    def loss_shown(self) -> dict[str, str]:
        """Return the loss of the last steps for a bar.

        Returns:
            The text by its name; nothing at the start of an epoch.
        """
        recent = [_whole(loss) for loss in self.at.losses[-50:]]
        return {"loss": f"{np.mean(recent):.3f}"} if recent else {}

    def per_second(self, batch: int) -> float:
        """Compute the speed of the current epoch.

        Args:
            batch: How many inputs a batch has.

        Returns:
            Inputs per second.
        """
        return len(self.at.losses) * batch / self.at.busy if self.at.busy else 0.0

    def measured(self) -> dict[str, float]:
        """Return what is measured of any epoch, the current one.

        Returns:
            ``learning_rate`` of its last step, ``wait_share`` and ``seconds``.
        """
        at = self.at
        return {
            "learning_rate": self._descent.rate(at.step - 1),
            "wait_share": round(at.waited / at.busy, 4) if at.busy else 0.0,
            "seconds": round(at.busy, 1),
        }

    def finish(self, epoch: Epoch) -> None:
        """End the current epoch with a checkpoint.

        Args:
            epoch: Its measurements.
        """
        at = self.at
        at.history.append(epoch)
        at.losses, at.busy, at.waited = [], 0.0, 0.0
        self._save()

    def interrupted(self) -> TrainingInterrupted:
        """Make the error of a training that was asked to end.

        Returns:
            The error.
        """
        part = f" of {self._part}" if self._part else ""
        return TrainingInterrupted(
            f"interrupted after step {self.at.step} of {self._descent.settings.steps}{part}; "
            f"{self._folder.checkpoint} holds it, the same command with `resume` goes on"
        )

    def _save(self) -> None:
        if not self._descent.processes.first:
            return
        at = self.at
        self._folder.save({
            **self._descent.state(),
            **self._beside,
            "step": at.step,
            "history": [dict(vars(epoch)) for epoch in at.history],
            "losses": at.losses,
            "busy": at.busy,
            "waited": at.waited,
        })  # fmt: skip

    def resume(self, state: Json | None, epoch: Callable[..., Epoch]) -> None:
        """Go on from a checkpoint.

        Args:
            state: What it holds; None where there is none.
            epoch: Makes the measurements of an epoch from their values by name.

        Raises:
            TonnoError: If it does not fit this run.
        """
        if state is None:
            return
        try:
            self._descent.load(state)
            history = [epoch(**each) for each in state["history"]]
            self.at = Position(state["step"], history, list(state["losses"]), state["busy"], state["waited"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise self._folder.misfit(error) from error


def _whole(loss: Any) -> float:
    """Return the loss, without its parts."""
    return float(loss[0] if isinstance(loss, list) else loss)


def rounded(value: float | None) -> float | None:
    """Round a measurement for a table.

    Args:
        value: The measurement, where there is one.

    Returns:
        To four digits after the point.
    """
    return None if value is None else round(value, 4)
