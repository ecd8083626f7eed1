"""Training of a slice classifier from volume-level labels: BCE of random oblique slices (paper, section 3)."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Sequence
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
from tonno_core.training.course import Course, rounded
from tonno_core.training.dataset import Batch, SliceSampler
from tonno_core.training.descent import Descent
from tonno_core.training.evidence import Evidence, HeatmapFiles, heatmap, volumes_to_look_at
from tonno_core.training.history import AnyEpoch, Epoch, RegressionEpoch, write_history
from tonno_core.training.loss import training_loss
from tonno_core.training.model import (
    SliceLogits,
    initial_model,
    parameter_groups,
    set_training_mode,
    training_precision,
)
from tonno_core.training.regression import regression_loss, validate_numbers
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.validation import SLICES_EACH, validate
from tonno_core.training.voxels import room_on


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
        unit: What a standard deviation of a regressor's quantity is in its unit.
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
        unit: float = 1.0,
    ) -> None:
        self._unit = unit
        self.settings, self.folder, self.processes = settings, folder, processes
        self._progress = progress and processes.first
        torch.manual_seed(settings.seed)
        self.model = initial_model(settings)
        place(self.model, processes.device)
        device = processes.device
        self._precision = training_precision(settings.precision, device)
        groups = parameter_groups(self.model, settings)
        self.descent = Descent(self.model, groups, settings, self._precision, processes)
        self.course: Course[AnyEpoch] = Course(self.descent, folder, "slices")
        self._network = SliceLogits(self.model, settings.convention, self._precision)
        if settings.compiled:
            self._network.compile_body()
        self._shared = processes.share(self._network)
        size, seed, room = settings.slice_size, settings.seed, room_on(device)
        self._sampler = SliceSampler(train_set, size, Augmentation(), seed, device, room, balanced=not settings.target)
        # On a CPU a volume that is measured on once an epoch need not stay.
        self._val_sampler = SliceSampler(val_set, size, None, seed, device, room // 4 if device.type == "cuda" else 0)
        self._evidence: Evidence | None = None

    def run(self) -> None:
        """Train to the last step.

        Raises:
            TonnoError: If the loss is not a number, the checkpoint does not fit, or the network cannot be compiled.
            TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
        """
        self.course.resume(self.folder.load(), RegressionEpoch if self.settings.target else Epoch)
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
            total=settings.steps, initial=self.course.at.step, desc="training", unit="slice",
            unit_scale=settings.batch_size, disable=not self._progress,
        )  # fmt: skip
        self.course.run(bar, lambda epoch, stop: self._epoch(epoch, bar, stop))

    def _epoch(self, epoch: int, bar: tqdm[Any], stop: threading.Event) -> None:
        settings = self.settings
        if self._evidence is None and self.course.at.step >= settings.second_round:
            self._evidence = self._first_round(stop)
        set_training_mode(self.model)
        draw = functools.partial(
            self._sampler.draw,
            volumes=settings.volumes_per_batch,
            slices_each=settings.slices_per_volume,
            rank=self.processes.rank,
            world=self.processes.world,
            evidence=self._evidence,
        )
        self.course.steps(epoch, draw, self._step, lambda: self._show(bar), stop)
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
                        if self.course.at.step > settings.second_round:
                            raise files.missing()
                        encoder = encoder or self._encoder()
                        files.save(number, heatmap(sampler.volumes[number], encoder, settings.slice_size))
                bar.update(min(processes.world, len(numbers) - first))
                if processes.any(stop.is_set()):
                    raise self.course.interrupted()
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
        network.load_state_dict(self.descent.weights())
        encoder = Classifier(
            network, settings.classes, channels=settings.channels, device=device, convention=settings.convention
        )
        encoder.fit(settings.slice_size, self._precision)
        return encoder

    def _step(self, step: int, batch: Batch) -> torch.Tensor:
        """Take a step; return the loss of this process's slices, which nothing has waited for."""
        self.descent.begin(step)
        logits = self._shared(batch.slices)
        of_batch = regression_loss if self.settings.target else training_loss
        loss = of_batch(logits, batch.labels, self.settings.slices_per_volume, self.settings.bag)
        self.descent.follow(step, loss)
        return loss.detach()

    def _finish_epoch(self, epoch: int) -> None:
        course, settings = self.course, self.settings
        network = SliceLogits(self.descent.trained, settings.convention, self._precision)
        measured: dict[str, Any] = {
            "epoch": epoch,
            "step": course.at.step,
            "loss": round(float(np.mean(course.at.losses)), 6),
            "slices_per_second": round(course.per_second(settings.batch_size), 1),
            **course.measured(),
        }
        if settings.target:
            found = validate_numbers(network, self._val_sampler, self.processes, self._unit)
            values: dict[str, Any] = {name: rounded(value) for name, value in vars(found).items()}
            ended: AnyEpoch = RegressionEpoch(validation_loss=values.pop("loss"), **values, **measured)
        else:
            validation = validate(network, self._val_sampler, self.processes)
            ended = Epoch(
                validation_loss=rounded(validation.loss),
                slice_auc=rounded(validation.slice_auc),
                volume_auc=rounded(validation.volume_auc),
                **measured,
            )
        # Before the checkpoint: a process that is killed between them does the epoch again, and draws it again.
        if self.processes.first:
            write_history(self.folder.path, [*course.history, ended])
        course.finish(ended)

    def _show(self, bar: tqdm[Any]) -> None:
        shown = self.course.loss_shown()
        if self.course.history:
            last = self.course.history[-1]
            if isinstance(last, RegressionEpoch):
                shown |= {} if last.pearson is None else {"r": f"{last.pearson:.3f}"}
            elif last.volume_auc is not None:
                shown["volume AUC"] = f"{last.volume_auc:.3f}"
            shown["waiting"] = f"{last.wait_share:.0%}"
        bar.set_postfix(shown, refresh=False)
        bar.update()
