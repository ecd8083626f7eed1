"""One round of the training of a segmenter, from its start or its checkpoint to its last step."""

from __future__ import annotations

import functools
import threading
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
from tonno_core.distillation.validation import validate
from tonno_core.distillation.volumes import WorkingVolume
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.progress import progress_bar
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import build_network, start_at
from tonno_core.training.course import Course, rounded
from tonno_core.training.descent import Descent, Weights
from tonno_core.training.model import training_precision
from tonno_core.training.run_folder import RunFolder

# Norm at which a step's gradient is cut off. The robust loss and the Dice both lose their gradient where the answer is
# sure, also where it is wrong: one long step to an empty answer would be the last.
_LONGEST_GRADIENT = 1.0
# Planes of a level at which the weights of a 3 x 3 x 3 convolution get gradients in bfloat16 from memory that nobody
# wrote (torch 2.14.1 on a CPU with AVX512_BF16: right in float32, with 1 or 3 planes, and in the answer).
# Values up to 1e34 pass for gradients, as their norm is cut off.
_UNSOUND_PLANES = 2


@dataclass(frozen=True)
class Work:
    """What the parts of a distillation share.

    Attributes:
        settings: How to train.
        network: The network's description.
        intensity: How intensities are normalized.
        folder: The open folder of the run.
        group: The processes that share the work.
        progress: Show bars; in the first process alone.
    """

    settings: DistillationSettings
    network: SegmenterNetwork
    intensity: str
    folder: RunFolder
    group: Processes
    progress: bool


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
        network: The description of the run's; None before the first checkpoint.
    """

    round: int = 1
    history: tuple[Epoch, ...] = ()
    weights: Weights = field(default_factory=dict)
    network: SegmenterNetwork | None = None


def network_precision(settings: DistillationSettings, network: SegmenterNetwork, device: torch.device) -> torch.dtype:
    """Choose to which precision the network's layers may be reduced while it learns.

    Args:
        settings: Whose ``precision`` is asked for.
        network: The description.
        device: Where it learns.

    Returns:
        What is asked for, but float32 on a CPU where a level has `_UNSOUND_PLANES` along Z.
    """
    planes = {network.window_zyx[0] >> level for level in range(len(network.blocks))}
    if device.type == "cpu" and _UNSOUND_PLANES in planes:
        return torch.float32
    return training_precision(settings.precision, device, dense=True)


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
        work: What the parts of a distillation share.
        lessons: By split: ``train`` to learn from, ``val`` to measure on.
        before: What the rounds before left.
    """

    def __init__(self, work: Work, lessons: dict[str, Lessons], before: Before) -> None:
        settings, network, folder, processes = work.settings, work.network, work.folder, work.group
        self.settings, self.folder, self.processes, self._before = settings, folder, processes, before
        self._window, self._val, self._progress = network.window_zyx, lessons["val"], work.progress
        train, device = lessons["train"], processes.device
        torch.manual_seed(settings.seed)
        self.model = build_network(network, len(settings.classes), len(train.volumes[0].array))
        start_at(self.model, settings.prior)
        self.model.to(device)
        self._precision = network_precision(settings, network, device)
        self.descent = Descent(self.model, self.model.parameters(), settings, self._precision, processes)
        self._part = "" if settings.rounds == 1 else f"round {before.round} of {settings.rounds}"
        self.course: Course[Epoch] = Course(
            self.descent, folder, "patches", self._part, before.history,
            {"round": before.round, "before": before.weights, "network": network.record()},
        )  # fmt: skip
        self._shared = processes.share(SegmenterLogits(self.model, self._precision))
        r, a, s = network.spacing_mm
        self._sampler = PatchSampler(
            train.volumes, train.masks, self._window, settings, (s, a, r), device, before.round
        )  # fmt: skip

    @property
    def trained(self) -> nn.Module:
        """Return the network with the moving average of the weights where there is one, else with the last weights."""
        return SegmenterLogits(self.descent.trained, self._precision).eval()

    def run(self) -> None:
        """Train to the last step.

        Raises:
            TonnoError: If the loss is not a number, or the checkpoint does not fit.
            TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
        """
        state = self.folder.load()
        if state is not None and state.get("round") == self._before.round:  # else the round before ended with it
            self.course.resume(state, Epoch)
        bar = progress_bar(
            total=self.settings.steps, initial=self.course.at.step,
            desc=f"training, {self._part}" if self._part else "training", unit="patch",
            unit_scale=self.settings.volumes_per_batch, disable=not self._progress,
        )  # fmt: skip
        self.course.run(bar, lambda epoch, stop: self._epoch(epoch, bar, stop))

    def _epoch(self, epoch: int, bar: tqdm[Any], stop: threading.Event) -> None:
        self.model.train()
        draw = functools.partial(self._sampler.draw, rank=self.processes.rank, world=self.processes.world)
        self.course.steps(epoch, draw, self._step, lambda: self._show(bar), stop)
        self._finish_epoch(epoch)

    def _step(self, step: int, batch: Patches) -> torch.Tensor:
        """Take a step; return the loss of this process's patches and its parts, which nothing has waited for."""
        self.descent.begin(step)
        logits, robustness = self._shared(batch.images), self.settings.robustness_at(step)
        parts = losses_of(logits, batch.levels, batch.labels, self.settings, robustness, self._whole)
        loss = parts.total(self.settings)
        self.descent.follow(step, loss, _LONGEST_GRADIENT)
        return torch.stack([loss, parts.voxels, parts.dice, parts.volumes]).detach()

    def _whole(self, sums: torch.Tensor) -> torch.Tensor:
        """Add up sums over the processes; gradients are this process's share, of which the processes take the mean."""
        if self.processes.world == 1:
            return sums
        whole = self.processes.sum(sums.detach().clone())
        return whole + self.processes.world * (sums - sums.detach())

    def _finish_epoch(self, epoch: int) -> None:
        course, settings = self.course, self.settings
        validation = validate(
            self.trained, self._val.volumes, self._val.masks, self._window, settings, self.processes
        )  # fmt: skip
        loss, voxels, dice, volumes = (round(float(value), 6) for value in np.mean(course.at.losses, axis=0))
        ended = Epoch(
            round=self._before.round,
            epoch=epoch,
            step=course.at.step,
            loss=loss,
            voxel_loss=voxels,
            dice_loss=dice,
            volume_loss=volumes,
            validation_loss=rounded(validation.loss),
            agreement=rounded(validation.agreement),
            volume_auc=rounded(validation.volume_auc),
            patches_per_second=round(course.per_second(settings.volumes_per_batch), 2),
            **course.measured(),
        )
        # Before the checkpoint: a process that is killed between them does the epoch again, and draws it again.
        if self.processes.first:
            write_history(self.folder.path, [*course.history, ended], settings.steps)
        course.finish(ended)

    def _show(self, bar: tqdm[Any]) -> None:
        shown, history = self.course.loss_shown(), self.course.history[len(self._before.history) :]
        if history and history[-1].agreement is not None:
            shown["agreement"] = f"{history[-1].agreement:.3f}"
        bar.set_postfix(shown, refresh=False)
        bar.update()


def before_of(folder: RunFolder) -> Before:
    """Read which round a run is in, and what the rounds before left.

    Args:
        folder: Of the run.

    Returns:
        For the first round where there is no checkpoint.

    Raises:
        TonnoError: If the checkpoint does not fit.
    """
    state = folder.load()
    if state is None:
        return Before()
    try:
        number = int(state["round"])
        history = [Epoch(**epoch) for epoch in state["history"]]
        before = tuple(epoch for epoch in history if epoch.round < number)
        known = state.get("network")  # not in an earlier build's
        network = None if known is None else SegmenterNetwork.of_record(known)
        return Before(number, before, dict(state["before"]), network)
    except (KeyError, TypeError, ValueError, TonnoError) as error:
        raise folder.misfit(error) from error
