"""Train from a manifest: measure and prepare the volumes, train the classifier, and describe it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tonno_core.bundle.decide import check_stages, standard_stage
from tonno_core.bundle.file import BundleSpec, schema_of
from tonno_core.bundle.kind import CLASSIFIER, REGRESSOR
from tonno_core.bundle.quantity import Quantity
from tonno_core.cohort.manifest import Case, Manifest
from tonno_core.distributed import Processes
from tonno_core.encoding.classifier import Classifier, stage_modules, try_slice
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.progress import progress_bar
from tonno_core.training.cache import Preparation, VolumeCache
from tonno_core.training.history import RegressionEpoch
from tonno_core.training.loop import Trainer
from tonno_core.training.model import initial_model, parameter_groups
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings
from tonno_core.volume.foreground import foreground_ball
from tonno_core.volume.io import read_volume

# The window of the slices holds the foreground of this share of the training volumes.
_HELD_SHARE = 0.95


@dataclass(frozen=True)
class TrainedModel:
    """Weights, and the description that a bundle needs.

    Attributes:
        spec: The description.
        weights: Tensors by name.
    """

    spec: BundleSpec
    weights: dict[str, torch.Tensor]


def check_trainable(settings: TrainingSettings, stages: Sequence[int] = ()) -> tuple[str, ...]:
    """Check what can be known before hours of training: values, device, weights, network.

    Args:
        settings: How to train.
        stages: CAM stages that the model shall use or choose among, from 1; empty for all.

    Returns:
        What is worth saying of the weights that training starts from, and of the norm.

    Raises:
        TonnoError: If this cannot be trained, or has no such stage.
    """
    settings.check()
    choose_precision(settings.precision, choose_device(settings.device))
    said: list[str] = []
    model = initial_model(settings, said)
    parameter_groups(model, settings)
    encoder = Classifier(model, settings.classes, channels=settings.channels, convention=settings.convention)
    try_slice(encoder, settings.slice_size, settings.encoder)
    if stages or settings.rounds > 1:
        for weight in encoder.model.get_classifier().parameters():
            nn.init.normal_(weight)  # in a copy: a head that starts at zero would give no map yet
        needed = tuple(stages) or (standard_stage(encoder, 0, settings.slice_size),)
        check_stages(needed, encoder, 0, settings.slice_size)
    notes = [f"weights {settings.weights}: {'; '.join(said)}"] if said else []
    if settings.norm == "group" and not any(isinstance(layer, nn.GroupNorm) for layer in model.modules()):
        notes.append(f"norm group: {settings.encoder} has no batch norm to replace; its own norms stay")
    return tuple(notes)


def train(
    manifest: Manifest, settings: TrainingSettings, folder: RunFolder, group: Processes, *, progress: bool = True
) -> TrainedModel:
    """Train on the volumes of split ``train``; those of ``val`` only measure. Masks are never opened.

    Args:
        manifest: Volumes, labels and splits.
        settings: How to train.
        folder: The open folder of the run; if it holds a checkpoint, training goes on from there.
        group: The processes that share the work.
        progress: Show bars, in the first process alone.

    Returns:
        The trained model.

    Raises:
        TonnoError: If a volume cannot be read, or the loss is not a number.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    started, shown = time.monotonic(), progress and group.first
    pixel_mm = _pixel_mm(manifest, settings, folder, group, shown)
    preparation = Preparation(settings.frame, settings.intensity, settings.slice_size, pixel_mm, settings.seed)
    cache = VolumeCache(folder.cache, preparation)
    cases = [(number, case) for number, case in enumerate(manifest.cases) if case.split in ("train", "val")]
    volumes = cache.load_all(cases, group, progress=shown)
    folder.check_scans([(case.volume, cache.scan(number)) for number, case in cases], group)
    quantity = None
    if settings.target:
        quantity = Quantity.of(settings.target, [case.number for case in manifest.split("train")])
        for number, case in cases:
            volumes[number] = dataclasses.replace(volumes[number], labels=(quantity.standardized(case.number),))
    train_set, val_set = (
        [volumes[number] for number, case in cases if case.split == split] for split in ("train", "val")
    )
    unit = 1.0 if quantity is None else quantity.sd
    trainer = Trainer(settings, train_set, val_set, folder, group, progress=progress, unit=unit)
    trainer.run()
    last = trainer.course.history[-1]
    record: Json = {
        "settings": settings.record(),
        "volumes": {split: manifest.counts(split) for split in ("train", "val")},
        "images": cache.images(cases, pixel_mm),
        "processes": group.world,
        "threads": torch.get_num_threads(),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_in_steps": round(sum(epoch.seconds for epoch in trainer.course.history), 1),
        "final_loss": round(last.loss, 4),
    }
    if isinstance(last, RegressionEpoch):
        if last.mae is not None:
            names = ("pearson", "spearman", "mae", "r2", "slope")
            record["validation"] = {name: getattr(last, name) for name in names}
    elif last.volume_auc is not None:
        record["validation"] = {"slice_auc": last.slice_auc, "volume_auc": last.volume_auc}
    kind = CLASSIFIER if quantity is None else REGRESSOR
    spec = BundleSpec(
        encoder=settings.encoder,
        channels=settings.channels,
        classes=settings.classes,
        norm=settings.norm,
        slice_size=settings.slice_size,
        pixel_mm=pixel_mm,
        intensity=settings.intensity,
        frame=settings.frame,
        training=record,
        mean=settings.convention.mean,
        std=settings.convention.std,
        stages=tuple(name for _, name in stage_modules(trainer.model)),
        schema=schema_of(kind, settings.intensity),
        kind=kind,
        quantity=quantity,
    )
    return TrainedModel(spec, trainer.descent.weights())


def _pixel_mm(
    manifest: Manifest, settings: TrainingSettings, folder: RunFolder, group: Processes, progress: bool
) -> float | None:
    """Choose the size of pixels: as asked for, or such that slices hold nearly all training volumes' foreground."""
    if settings.frame == "normalized":
        return None
    if settings.pixel_mm is not None:
        return settings.pixel_mm
    radius = folder.measured(lambda: _radius_mm(manifest.split("train"), settings.intensity, group, progress))
    return round(2.0 * radius / (settings.slice_size - 1), 3)


def _radius_mm(cases: Sequence[Case], intensity: str, group: Processes, progress: bool) -> float:
    radii = []
    for case in progress_bar(cases[group.rank :: group.world], desc="measuring", unit="volume", disable=not progress):
        volume = read_volume(case.volume, intensity=intensity)
        try:
            radii.append(foreground_ball(volume)[1])
        except TonnoError as error:
            raise TonnoError(f"{case.volume}: {error}") from error
    return float(np.quantile(group.gather(radii), _HELD_SHARE))
