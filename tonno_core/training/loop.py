"""Training of a slice classifier from volume-level labels: BCE of random oblique slices (paper, section 3)."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tonno_core.distributed import Processes
from tonno_core.encoding.classifier import Classifier, create_model, place
from tonno_core.errors import TonnoError, first_line
from tonno_core.progress import progress_bar
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.dataset import Batch, SliceSampler, prefetch
from tonno_core.training.evidence import Evidence, HeatmapFiles, heatmap, volumes_to_look_at
from tonno_core.training.history import Epoch, write_history
from tonno_core.training.loss import training_loss
from tonno_core.training.model import (
    SliceLogits,
    initial_model,
    parameter_groups,
    set_training_mode,
    training_precision,
)
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.steps import MovingAverage, TrainingInterrupted, schedule, stop_requests
from tonno_core.training.validation import SLICES_EACH, Validation, validate
from tonno_core.training.voxels import room_on

# Steps between two looks at a device's losses, for which the host waits. On a CPU they are known when a step is done.
_LOOK_EVERY = 20


@dataclass
class _Position:
    """How far a run came: steps, epochs, and of the current epoch its losses and the seconds it was busy and waited."""

    step: int = 0
    history: list[Epoch] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    busy: float = 0.0
    waited: float = 0.0


class Trainer:
    """A run over prepared volumes, from its start or its checkpoint to its last step.

    The same seed, device, precision and number of threads give the same weights, also when the run is
    interrupted and goes on.

    Args:
        settings: How to train.
        train_set: Volumes to learn from.
        val_set: Volumes to measure on; none for no validation.
        folder: The open folder of the run.
        processes: The processes that share the batches.
        progress: Show a bar, in the first process alone.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        train_set: Sequence[TrainingVolume],
        val_set: Sequence[TrainingVolume],
        folder: RunFolder,
        processes: Processes,
        *,
        progress: bool,
    ) -> None:
        self.settings, self.folder, self.processes = settings, folder, processes
        self._progress = progress and processes.first
        torch.manual_seed(settings.seed)
        self.model = initial_model(settings)
        place(self.model, processes.device)
        groups = parameter_groups(self.model, settings)
        device = processes.device
        # On a GPU one launch for many weights; on a CPU the bits of earlier builds, whose runs may go on.
        fused = True if device.type == "cuda" else None
        self._optimizer = torch.optim.Adam(groups, lr=settings.learning_rate, fused=fused)
        self._average = MovingAverage(self.model, settings.ema) if settings.ema else None
        self._precision = training_precision(settings.precision, device)
        # Gradients in float16 would vanish; scaled they do not. bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._precision == torch.float16)
        self._network = SliceLogits(self.model, settings.convention, self._precision)
        if settings.compiled:
            self._network.compile_body()
        self._shared = processes.share(self._network)
        size, seed, room = settings.slice_size, settings.seed, room_on(device)
        self._sampler = SliceSampler(train_set, size, Augmentation(), seed, device, room)
        # On a CPU a volume that is measured on once an epoch need not stay.
        self._val_sampler = SliceSampler(val_set, size, None, seed, device, room // 4 if device.type == "cuda" else 0)
        self._look_every = 1 if device.type == "cpu" else _LOOK_EVERY
        self._unseen: list[tuple[tuple[str, ...], torch.Tensor]] = []  # names of volumes and the loss, by step
        self._at = _Position()
        self._evidence: Evidence | None = None

    @property
    def history(self) -> Sequence[Epoch]:
        """Return the epochs so far."""
        return self._at.history

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the moving average of the weights where there is one, else the last weights.

        Returns:
            Tensors by name.
        """
        model = self.model if self._average is None else self._average.module
        state: dict[str, torch.Tensor] = model.state_dict()
        return state

    def run(self) -> None:
        """Train to the last step.

        Raises:
            TonnoError: If the loss is not a number, the checkpoint does not fit, or the network cannot be compiled.
            TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
        """
        self._resume()
        try:
            self._train()
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            raise TonnoError(
                f"`compiled`: torch.compile does not work for this network here ({first_line(error)}); leave it out"
            ) from error

    def _train(self) -> None:
        settings = self.settings
        bar = progress_bar(
            total=settings.steps, initial=self._at.step, desc="training", unit="slice", unit_scale=settings.batch_size,
            disable=not self._progress,
        )  # fmt: skip
        with bar, stop_requests() as stop:
            for epoch in range(len(self._at.history) + 1, settings.epochs + 1):
                if self._evidence is None and self._at.step >= settings.second_round:
                    self._evidence = self._first_round(stop)
                self._epoch(epoch, bar, stop)
            if stop.is_set():  # during the last validation
                raise self._interrupted()

    # --- one epoch

    def _epoch(self, epoch: int, bar: tqdm[Any], stop: threading.Event) -> None:
        at, end = self._at, self.settings.epoch_end(epoch)
        set_training_mode(self.model)
        draw = functools.partial(
            self._sampler.draw,
            volumes=self.settings.volumes_per_batch,
            slices_each=self.settings.slices_per_volume,
            rank=self.processes.rank,
            world=self.processes.world,
            evidence=self._evidence,
        )
        device = self.processes.device
        started = waiting = time.monotonic()
        for step, batch in prefetch(draw, range(at.step, end), ahead=device.type != "cpu"):
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

    def _first_round(self, stop: threading.Event) -> Evidence:
        """Make the first round's heatmaps, each process its share, but for those that are there; compare them."""
        settings, processes, sampler = self.settings, self.processes, self._sampler
        labels = np.array([volume.labels for volume in sampler.volumes])
        numbers = volumes_to_look_at(labels)
        files = HeatmapFiles(self.folder.heatmaps, settings.second_round)
        encoder: Classifier | None = None
        # In the place of the training's bar, which stands still meanwhile.
        shown = progress_bar(total=len(numbers), desc="heatmaps", unit="volume", position=0, disable=not self._progress)
        with shown as bar:
            for first in range(0, len(numbers), processes.world):
                for number in numbers[first : first + processes.world][processes.rank : processes.rank + 1]:
                    if not files.holds(number):
                        if self._at.step > settings.second_round:
                            raise files.missing()
                        encoder = encoder or self._encoder()
                        files.save(number, heatmap(sampler.volumes[number], encoder, settings.slice_size))
                bar.update(min(processes.world, len(numbers) - first))
                if processes.any(stop.is_set()):
                    raise self._interrupted()
        processes.wait()
        heatmaps = {number: files.load(number, processes.device) for number in numbers}
        # Far from the steps of training, whose seeds count from 0.
        seeds = [(settings.seed, 2**32 - 1 - number, 2) for number in numbers]
        planes = dict(zip(numbers, sampler.planes(numbers, seeds, SLICES_EACH), strict=True))
        evidence = Evidence.of_heatmaps(heatmaps, labels, planes)
        if self._progress:
            kept = evidence.kept(numbers, np.stack([planes[number] for number in numbers])).mean(dim=1).cpu().numpy()
            share = kept[labels[numbers] == 1].mean()
            tqdm.write(f"second round: slices of a finding's volumes keep {share:.0%} of its label", file=sys.stderr)
        return evidence

    def _encoder(self) -> Classifier:
        """Return the classifier that a bundle of this moment would hold, ready for heatmaps."""
        settings, device = self.settings, self.processes.device
        network = create_model(
            settings.encoder, channels=settings.channels, classes=len(settings.classes), norm=settings.norm,
            slice_size=settings.slice_size,
        )  # fmt: skip
        network.load_state_dict(self.weights())
        encoder = Classifier(
            network, settings.classes, channels=settings.channels, device=device, convention=settings.convention
        )
        encoder.fit(settings.slice_size, self._precision)
        return encoder

    def _interrupted(self) -> TrainingInterrupted:
        return TrainingInterrupted(
            f"interrupted after step {self._at.step} of {self.settings.steps}; {self.folder.checkpoint} holds it, "
            "the same command with `resume` goes on"
        )

    def _step(self, step: int, batch: Batch) -> torch.Tensor:
        """Take a step; return the loss of this process's slices, which nothing has waited for."""
        settings = self.settings
        rate = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["share"]
        # Networks that drop units do so by torch's own generator.
        torch.manual_seed(settings.seed + step * self.processes.world + self.processes.rank)
        logits = self._shared(batch.slices)
        loss = training_loss(logits, batch.labels, settings.slices_per_volume, settings.bag)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(step)
        return loss.detach()

    def _look(self) -> None:
        """Read the losses since the last look, over all processes' slices; raises TonnoError for one that is no number.

        No checkpoint is written in between.
        """
        first, unseen, self._unseen = self._at.step - len(self._unseen), self._unseen, []
        losses = self.processes.mean(torch.stack([loss for _, loss in unseen])).tolist()
        for step, ((names, _), loss) in enumerate(zip(unseen, losses, strict=True), start=first):
            if not math.isfinite(loss):
                raise TonnoError(
                    f"the loss is {loss} at step {step}, on slices of {', '.join(names)}; "
                    "lower `learning_rate`, or look at these volumes"
                )
            self._at.losses.append(loss)

    def _finish_epoch(self, epoch: int) -> None:
        at, settings = self._at, self.settings
        validation = self._validate()
        slices = len(at.losses) * settings.batch_size
        at.history.append(Epoch(
            epoch=epoch,
            step=at.step,
            loss=round(float(np.mean(at.losses)), 6),
            learning_rate=settings.learning_rate * schedule(at.step - 1, settings.steps, settings.warmup),
            validation_loss=_rounded(validation.loss),
            slice_auc=_rounded(validation.slice_auc),
            volume_auc=_rounded(validation.volume_auc),
            slices_per_second=round(slices / at.busy, 1) if at.busy else 0.0,
            wait_share=round(at.waited / at.busy, 4) if at.busy else 0.0,
            seconds=round(at.busy, 1),
        ))  # fmt: skip
        at.losses, at.busy, at.waited = [], 0.0, 0.0
        self._save()
        if self.processes.first:
            write_history(self.folder.path, at.history)

    def _validate(self) -> Validation:
        network = self._network
        if self._average is not None:
            network = SliceLogits(self._average.module, self.settings.convention, self._precision)
        return validate(network, self._val_sampler, self.processes)

    def _show(self, bar: tqdm[Any]) -> None:
        at = self._at
        shown = {"loss": f"{np.mean(at.losses[-50:]):.3f}"} if at.losses else {}
        if at.history and at.history[-1].volume_auc is not None:
            shown["volume AUC"] = f"{at.history[-1].volume_auc:.3f}"
        if at.history:
            shown["waiting"] = f"{at.history[-1].wait_share:.0%}"
        bar.set_postfix(shown, refresh=False)
        bar.update()

    # --- checkpoints

    def _save(self) -> None:
        if not self.processes.first:
            return
        at = self._at
        self.folder.save({
            "state_dict": self.weights(),  # what a bundle of this checkpoint gets
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": at.step,
            "history": [dataclasses.asdict(epoch) for epoch in at.history],
            "losses": at.losses,
            "busy": at.busy,
            "waited": at.waited,
        })  # fmt: skip

    def _resume(self) -> None:
        state = self.folder.load()
        if state is None:
            return
        try:
            self.model.load_state_dict(state["model"])
            if self._average is not None:
                self._average.module.load_state_dict(state["state_dict"])
            for group in state["optimizer"]["param_groups"]:
                group["fused"] = self._optimizer.defaults[
                    "fused"
                ]  # as suits this device, where the run may not have begun
            self._optimizer.load_state_dict(state["optimizer"])
            if state.get("scaler"):  # none in an earlier build's, nor where nothing is scaled
                self._scaler.load_state_dict(state["scaler"])
            history = [Epoch(**epoch) for epoch in state["history"]]
            self._at = _Position(state["step"], history, list(state["losses"]), state["busy"], state["waited"])
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise TonnoError(
                f"{self.folder.checkpoint}: does not fit this run ({first_line(error)}); "
                "give `overwrite` to begin again, or choose another `run`"
            ) from error


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
