"""One round of the training of a segmenter, from its start or its checkpoint to its last step."""

from __future__ import annotations

import dataclasses
import functools
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from tonno_core.distillation.history import Epoch, write_history
from tonno_core.distillation.loss import losses_of
from tonno_core.distillation.patches import Patches, PatchSampler, PseudoMask
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.validation import Validation, validate
from tonno_core.distillation.volumes import WorkingVolume
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError, first_line
from tonno_core.output import Json
from tonno_core.progress import progress_bar
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import build_network, start_at
from tonno_core.training.dataset import prefetch
from tonno_core.training.model import training_precision
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.steps import MovingAverage, TrainingInterrupted, schedule, stop_requests

Weights = dict[str, torch.Tensor]
# Norm at which a step's gradient is cut off. The robust loss and the Dice both lose their gradient where the answer is
# sure, also where it is wrong: one long step to an empty answer would be the last.
_LONGEST_GRADIENT = 1.0
# Steps between two looks at a device's losses, for which the host waits. On a CPU they are known when a step is done.
_LOOK_EVERY = 20


@dataclass(frozen=True)
class Lessons:
    """What a round learns from, or is measured on.

    Attributes:
        volumes: On their working grids.
        masks: Their pseudo-masks.
    """

    volumes: Sequence[WorkingVolume]
    masks: Sequence[PseudoMask]


@dataclass(frozen=True)
class Before:
    """What the rounds before left.

    Attributes:
        round: Number of the round that follows, from 1.
        history: Their epochs.
        weights: Of the last one's network; none before the first round.
    """

    round: int = 1
    history: tuple[Epoch, ...] = ()
    weights: Weights = field(default_factory=dict)


@dataclass
class _Position:
    """How far a round came: steps, epochs, and of the current epoch its losses, and its seconds of work and waiting."""

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    losses: list[list[float]] = field(default_factory=list)
    busy: float = 0.0
    waited: float = 0.0


class SegmenterLogits(nn.Module):
    """Maps patches to logits at reduced precision under autocast; its last layer stays in float32.

    Args:
        model: The network.
        precision: Of what is reduced.
    """

    def __init__(self, model: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.model, self._precision = model, precision

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Answer patches.

        Args:
            patches: B C Z Y X.

        Returns:
            Logits: B K Z Y X.
        """
        reduced = self._precision != torch.float32
        with torch.autocast(patches.device.type, dtype=self._precision, enabled=reduced):
            logits: torch.Tensor = self.model(patches)
        return logits


class Trainer:
    """A round over prepared volumes.

    The same seed, device, precision and number of threads give the same weights, also when the round is
    interrupted and goes on.

    Args:
        settings: How to train.
        network: The network's description.
        lessons: By split: ``train`` to learn from, ``val`` to measure on.
        before: What the rounds before left.
        folder: The open folder of the run.
        processes: The processes that share the batches.
        progress: Show a bar, in the first process alone.
    """

    def __init__(
        self,
        settings: DistillationSettings,
        network: SegmenterNetwork,
        lessons: dict[str, Lessons],
        before: Before,
        folder: RunFolder,
        processes: Processes,
        *,
        progress: bool,
    ) -> None:
        self.settings, self.folder, self.processes, self._before = settings, folder, processes, before
        self._window, self._val = network.window_zyx, lessons["val"]
        self._progress = progress and processes.first
        train, device = lessons["train"], processes.device
        torch.manual_seed(settings.seed)
        self.model = build_network(network, len(settings.classes), len(train.volumes[0].array))
        start_at(self.model, settings.prior)
        self.model.to(device)
        fused = True if device.type == "cuda" else None  # one launch for many weights
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=fused)
        self._average = MovingAverage(self.model, settings.ema) if settings.ema else None
        self._precision = training_precision(settings.precision, device, dense=True)
        # Gradients in float16 would vanish; scaled they do not. bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision == torch.float16)
        self._network = SegmenterLogits(self.model, self._precision)
        self._shared = processes.share(self._network)
        r, a, s = network.spacing_mm
        self._sampler = PatchSampler(
            train.volumes, train.masks, self._window, settings, (s, a, r), device, before.round
        )  # fmt: skip
        self._look_every = 1 if device.type == "cpu" else _LOOK_EVERY
        self._unseen: list[tuple[tuple[str, ...], torch.Tensor]] = []  # names of volumes and the losses, by step
        self._at = _Position(history=list(before.history))

    @property
    def history(self) -> Sequence[Epoch]:
        """Return the epochs so far, of all rounds."""
        return self._at.history

    @property
    def trained(self) -> nn.Module:
        """Return the network with the moving average of the weights where there is one, else with the last weights."""
        model = self.model if self._average is None else self._average.module
        return SegmenterLogits(model, self._precision).eval()

    def weights(self) -> Weights:
        """Return the moving average of the weights where there is one, else the last weights.

        Returns:
            Tensors by name.
        """
        model = self.model if self._average is None else self._average.module
        state: Weights = model.state_dict()
        return state

    def run(self) -> None:
        """Train to the last step.

        Raises:
            TonnoError: If the loss is not a number, or the checkpoint does not fit.
            TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
        """
        self._resume()
        settings = self.settings
        name = "training" if settings.rounds == 1 else f"training, round {self._before.round} of {settings.rounds}"
        bar = progress_bar(
            total=settings.steps, initial=self._at.step, desc=name, unit="patch", disable=not self._progress,
            unit_scale=settings.volumes_per_batch,
        )  # fmt: skip
        done = len(self._at.history) - len(self._before.history)
        with bar, stop_requests() as stop:
            for epoch in range(done + 1, settings.epochs + 1):
                self._epoch(epoch, bar, stop)
            if stop.is_set():  # during the last validation
                raise self._interrupted()

    # --- one epoch

    def _epoch(self, epoch: int, bar: tqdm[Any], stop: threading.Event) -> None:
        at, end = self._at, self.settings.epoch_end(epoch)
        self.model.train()
        draw = functools.partial(self._sampler.draw, rank=self.processes.rank, world=self.processes.world)
        started = waiting = time.monotonic()
        for step, batch in prefetch(draw, range(at.step, end), ahead=self.processes.device.type != "cpu"):
            at.waited += time.monotonic() - waiting
            self._unseen.append((batch.names, self._step(step, batch)))
            at.step = step + 1
            stopping = self.processes.any(stop.is_set())
            if stopping or at.step == end or len(self._unseen) >= self._look_every:
                self._look()
            self._show(bar)
            waiting = time.monotonic()
            if stopping:
                at.busy += waiting - started
                self._save()
                raise self._interrupted()
        at.busy += time.monotonic() - started
        self._finish_epoch(epoch)

    def _interrupted(self) -> TrainingInterrupted:
        rounds = f" of round {self._before.round} of {self.settings.rounds}" if self.settings.rounds > 1 else ""
        return TrainingInterrupted(
            f"interrupted after step {self._at.step} of {self.settings.steps}{rounds}; {self.folder.checkpoint} holds "
            "it, the same command with `resume` goes on"
        )

    def _step(self, step: int, batch: Patches) -> torch.Tensor:
        """Take a step; return the loss of this process's patches and its parts, which nothing has waited for."""
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        # Networks that drop units do so by torch's own generator.
        torch.manual_seed(settings.seed + step * self.processes.world + self.processes.rank)
        logits, robustness = self._shared(batch.images), settings.robustness_at(step)
        parts = losses_of(logits, batch.levels, batch.labels, settings, robustness, self._whole)
        loss = parts.total(settings)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), _LONGEST_GRADIENT)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(step)
        return torch.stack([loss, parts.voxels, parts.dice, parts.volumes]).detach()

    def _whole(self, sums: torch.Tensor) -> torch.Tensor:
        """Add up sums over the processes; gradients are this process's share, of which the processes take the mean."""
        if self.processes.world == 1:
            return sums
        whole = self.processes.sum(sums.detach().clone())
        return whole + self.processes.world * (sums - sums.detach())

    def _look(self) -> None:
        """Read the losses since the last look, over all processes' patches; no checkpoint is written in between.

        Raises TonnoError for one that is no number.
        """
        first, unseen, self._unseen = self._at.step - len(self._unseen), self._unseen, []
        losses = self.processes.mean(torch.stack([loss for _, loss in unseen])).tolist()
        for step, ((names, _), loss) in enumerate(zip(unseen, losses, strict=True), start=first):
            if not math.isfinite(loss[0]):
                raise TonnoError(
                    f"the loss is {loss[0]} at step {step}, on patches of {', '.join(names)}; "
                    "lower `learning_rate`, or look at these volumes"
                )
            self._at.losses.append(loss)

    def _finish_epoch(self, epoch: int) -> None:
        at, settings = self._at, self.settings
        validation = self._validate()
        patches = len(at.losses) * settings.volumes_per_batch
        loss, voxels, dice, volumes = (round(float(value), 6) for value in np.mean(at.losses, axis=0))
        at.history.append(Epoch(
            round=self._before.round,
            epoch=epoch,
            step=at.step,
            loss=loss,
            voxel_loss=voxels,
            dice_loss=dice,
            volume_loss=volumes,
            learning_rate=settings.learning_rate * schedule(at.step - 1, settings.steps, settings.warmup),
            validation_loss=_rounded(validation.loss),
            agreement=_rounded(validation.agreement),
            volume_auc=_rounded(validation.volume_auc),
            patches_per_second=round(patches / at.busy, 2) if at.busy else 0.0,
            wait_share=round(at.waited / at.busy, 4) if at.busy else 0.0,
            seconds=round(at.busy, 1),
        ))  # fmt: skip
        at.losses, at.busy, at.waited = [], 0.0, 0.0
        self._save()
        if self.processes.first:
            write_history(self.folder.path, at.history, settings.steps)

    def _validate(self) -> Validation:
        return validate(
            self.trained, self._val.volumes, self._val.masks, self._window, self.settings, self.processes
        )  # fmt: skip

    def _show(self, bar: tqdm[Any]) -> None:
        at = self._at
        shown = {"loss": f"{np.mean([loss[0] for loss in at.losses[-50:]]):.3f}"} if at.losses else {}
        if len(at.history) > len(self._before.history) and at.history[-1].agreement is not None:
            shown["agreement"] = f"{at.history[-1].agreement:.3f}"
        bar.set_postfix(shown, refresh=False)
        bar.update()

    # --- checkpoints

    def _save(self) -> None:
        if not self.processes.first:
            return
        at = self._at
        self.folder.save({
            "state_dict": self.weights(),  # what a model of this checkpoint gets
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "round": self._before.round,
            "before": self._before.weights,
            "step": at.step,
            "history": [dataclasses.asdict(epoch) for epoch in at.history],
            "losses": at.losses,
            "busy": at.busy,
            "waited": at.waited,
        })  # fmt: skip

    def _resume(self) -> None:
        state = self.folder.load()
        if state is None or state.get("round") != self._before.round:  # the round before ended with it
            return
        try:
            self.model.load_state_dict(state["model"])
            if self._average is not None:
                self._average.module.load_state_dict(state["state_dict"])
            for group in state["optimizer"]["param_groups"]:
                group["fused"] = self._optimizer.defaults["fused"]  # the run may have begun on another device
            self._optimizer.load_state_dict(state["optimizer"])
            if state["scaler"]:
                self._scaler.load_state_dict(state["scaler"])
            history = [Epoch(**epoch) for epoch in state["history"]]
            self._at = _Position(state["step"], history, list(state["losses"]), state["busy"], state["waited"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise does_not_fit(self.folder, error) from error


def before_of(folder: RunFolder) -> Before:
    """Read which round a run is in, and what the rounds before left.

    Args:
        folder: Of the run.

    Returns:
        For the first round where there is no checkpoint.

    Raises:
        TonnoError: If the checkpoint does not fit.
    """
    state: Json | None = folder.load()
    if state is None:
        return Before()
    try:
        number = int(state["round"])
        history = [Epoch(**epoch) for epoch in state["history"]]
        return Before(number, tuple(epoch for epoch in history if epoch.round < number), dict(state["before"]))
    except (KeyError, TypeError, ValueError) as error:
        raise does_not_fit(folder, error) from error


def does_not_fit(folder: RunFolder, error: Exception) -> TonnoError:
    """Make the error of a checkpoint that does not fit its run.

    Args:
        folder: Of the run.
        error: What reading it raised.

    Returns:
        The error.
    """
    return TonnoError(
        f"{folder.checkpoint}: does not fit this run ({first_line(error)}); "
        "give `overwrite` to begin again, or choose another `run`"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
