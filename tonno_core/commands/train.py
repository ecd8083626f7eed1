"""`tonno train`: manifest in, bundle out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from tonno_core.bundle.file import Bundle, BundleSpec, check_can_write, save_bundle
from tonno_core.cohort.manifest import Case, Manifest, read_manifest, require_trainable, write_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.commands.calibrate import calibrate_bundle, summary_of
from tonno_core.distributed import Processes, processes, world_size
from tonno_core.encoding.classifier import Classifier, try_slice
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.errors import TonnoError
from tonno_core.settings import model_defaults
from tonno_core.training.cache import Preparation, TrainingVolume, VolumeCache
from tonno_core.training.calibration import Look, Search
from tonno_core.training.history import Epoch
from tonno_core.training.loop import Trainer
from tonno_core.training.model import initial_model, parameter_groups
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings, check_shares
from tonno_core.volume.appearance import record_of_images
from tonno_core.volume.foreground import foreground_ball
from tonno_core.volume.io import read_volume

# Of the learning rate, from a stage of a pretrained network to the one before it.
PRETRAINED_STAGE_DECAY = 0.7


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """Weights with the description that a bundle needs."""

    spec: BundleSpec
    weights: dict[str, torch.Tensor]


def train_bundle(
    manifest_path: Path,
    output: Path,
    *,
    run: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    class_name: str = "finding",
    stage: int | None = None,
    calibration: Mapping[str, Any] | None = None,
    about: Mapping[str, str] | None = None,
    half: bool = False,
    options: Mapping[str, Any],
    progress: bool = True,
) -> str:
    """Train, write the bundle, calibrate it on the validation volumes; returns a summary ("" but on the first process).

    run: folder of the run (beside ``output``, ``-run`` appended). options: `TrainingSettings` by name; ``norm`` None
    means frozen batch norm for pretrained weights and batch norm otherwise, ``stage_decay`` None 0.7 or 1. calibration:
    settings of the reconstructions that the thresholds are for. Under torchrun all processes call this.
    """
    place = run or output.with_name(f"{output.name}-run")
    if resume and overwrite:
        raise TonnoError("`resume` and `overwrite`: expected one of them, to go on or to begin again")
    if place.resolve().is_relative_to(output.resolve()):
        raise TonnoError(f"`run` {place}: lies in `output` {output}, which holds the model alone; choose another place")
    check_can_write(output, overwrite=overwrite or resume)
    manifest = read_manifest(manifest_path, class_name=class_name)
    settings = _settings(options, manifest.classes)
    check_shares(world_size(), settings.volumes_per_batch, settings.norm)
    _check(settings, stage)
    defaults = model_defaults(stage=stage, frame=settings.frame, **(calibration or {}))
    divided = manifest if manifest.has_split else split_patients(manifest, seed=settings.seed)
    require_trainable(divided)
    folder = RunFolder(place, settings, divided)
    folder.check(resume=resume, overwrite=overwrite)
    with processes(settings.device) as group:
        if group.first:
            folder.open(overwrite=overwrite)
            if not manifest.has_split:
                write_manifest(folder.split, divided)
        group.wait()
        model = train(divided, settings, folder, group, progress=progress)
    if not group.first:
        return ""
    spec = dataclasses.replace(model.spec, defaults=defaults, about=dict(about or {}))
    bundle = Bundle(spec, model.weights, output)
    # Before the calibration, so that nothing which happens there loses the training.
    save_bundle(output, spec, model.weights, half=half, overwrite=overwrite or resume)
    look = Look(settings.device, settings.precision, progress)
    spec = calibrate_bundle(bundle, divided, {"stage": stage, **(calibration or {})}, Search(), look)
    save_bundle(output, spec, model.weights, half=half, overwrite=True)
    folder.finish()
    return _summary(spec, output, folder, split_made=not manifest.has_split)


def train(
    manifest: Manifest, settings: TrainingSettings, folder: RunFolder, group: Processes, *, progress: bool = True
) -> TrainedModel:
    """Train on the volumes of split ``train``; those of ``val`` only measure. Masks are never opened.

    The folder must be open. Raises TonnoError for unreadable volumes or a loss that is not a number,
    TrainingInterrupted for Ctrl-C.
    """
    started = time.monotonic()
    pixel_mm = _pixel_mm(manifest, settings, folder, group, progress)
    preparation = Preparation(settings.frame, settings.intensity, settings.slice_size, pixel_mm, settings.seed)
    cache = VolumeCache(folder.cache, preparation)
    volumes = _load(manifest.cases, cache, group, progress)
    trainer = Trainer(settings, volumes["train"], volumes["val"], folder, group, progress=progress)
    trainer.run()
    spec = BundleSpec(
        encoder=settings.encoder,
        channels=settings.channels,
        classes=settings.classes,
        norm=settings.norm,
        slice_size=settings.slice_size,
        pixel_mm=pixel_mm if settings.frame == "physical" else None,
        intensity=settings.intensity,
        frame=settings.frame,
        training={
            "settings": settings.record(),
            "volumes": {split: _counts(manifest, split) for split in ("train", "val")},
            "images": _images(manifest, cache, settings.intensity, pixel_mm),
            "processes": group.world,
            "threads": torch.get_num_threads(),
            "seconds": round(time.monotonic() - started, 1),
            "seconds_in_steps": round(sum(epoch.seconds for epoch in trainer.history), 1),
            **_record(trainer.history),
        },
    )
    return TrainedModel(spec, trainer.weights())


def _settings(options: Mapping[str, Any], classes: tuple[str, ...]) -> TrainingSettings:
    chosen = dict(options)
    pretrained = chosen.get("weights", "none") != "none"
    chosen["norm"] = chosen.get("norm") or ("frozen-batch" if pretrained else "batch")
    if chosen.get("stage_decay") is None:
        chosen["stage_decay"] = PRETRAINED_STAGE_DECAY if pretrained else 1.0
    return TrainingSettings(**chosen, classes=classes)


def _check(settings: TrainingSettings, stage: int | None) -> None:
    """What can be known before hours of training."""
    settings.check()
    choose_precision(settings.precision, choose_device(settings.device))
    model = initial_model(settings)
    parameter_groups(model, settings)
    encoder = Classifier(model, settings.classes, channels=settings.channels)
    try_slice(encoder, settings.slice_size, settings.encoder)
    if stage is not None and stage > encoder.stages:
        raise TonnoError(f"`stage` {stage} does not exist in this encoder, expected 1 to {encoder.stages}")


def _pixel_mm(
    manifest: Manifest, settings: TrainingSettings, folder: RunFolder, group: Processes, progress: bool
) -> float | None:
    """Millimetres, as asked for or such that the window holds the foreground of 95 % of the training volumes."""
    if settings.frame == "normalized":
        return None
    if settings.pixel_mm is not None:
        return settings.pixel_mm
    radius = folder.measured(lambda: _radius_mm(manifest, group, progress))
    return round(2.0 * radius / (settings.slice_size - 1), 3)


def _radius_mm(manifest: Manifest, group: Processes, progress: bool) -> float:
    cases = manifest.split("train")
    mine = cases[group.rank :: group.world]
    radii = []
    for case in tqdm(mine, desc="measuring", unit="volume", disable=not (progress and group.first)):
        volume = read_volume(case.volume)
        try:
            radii.append(foreground_ball(volume)[1])
        except TonnoError as error:
            raise TonnoError(f"{case.volume}: {error}") from error
    return float(np.quantile(group.gather(radii), 0.95))


def _load(
    cases: Sequence[Case], cache: VolumeCache, group: Processes, progress: bool
) -> dict[str, list[TrainingVolume]]:
    """The volumes of train and of val, prepared by the processes together and mapped by each."""
    wanted = [(number, case) for number, case in enumerate(cases) if case.split in ("train", "val")]
    mine = wanted[group.rank :: group.world]
    for number, case in tqdm(mine, desc="preparing", unit="volume", disable=not (progress and group.first)):
        cache.prepare(case, number)
    group.wait()
    volumes: dict[str, list[TrainingVolume]] = {"train": [], "val": []}
    for number, case in wanted:
        volumes[case.split].append(cache.load(case, number))
    return volumes


def _images(manifest: Manifest, cache: VolumeCache, intensity: str, pixel_mm: float | None) -> dict[str, Any]:
    """What the volumes of split train look like."""
    numbers = [number for number, case in enumerate(manifest.cases) if case.split == "train"]
    seen = [one for one in map(cache.appearance, numbers) if one is not None]
    return record_of_images(seen, intensity, pixel_mm) if seen else {}


def _counts(manifest: Manifest, split: str) -> dict[str, dict[str, int]]:
    labels = np.array([case.labels for case in manifest.split(split)]).reshape(-1, len(manifest.classes))
    return {
        name: {"positive": int(column.sum()), "negative": int((1 - column).sum())}
        for name, column in zip(manifest.classes, labels.T, strict=True)
    }


def _record(history: Sequence[Epoch]) -> dict[str, Any]:
    last = history[-1]
    record: dict[str, Any] = {"final_loss": round(last.loss, 4)}
    if last.volume_auc is not None:
        record["validation"] = {"slice_auc": last.slice_auc, "volume_auc": last.volume_auc}
    return record


def _summary(spec: BundleSpec, output: Path, folder: RunFolder, *, split_made: bool) -> str:
    record = spec.training
    lines = [f"loss at the end {record['final_loss']}, {record['seconds']:.0f} s"]
    if "validation" in record:
        lines.append(
            f"validation AUC: slices {record['validation']['slice_auc']}, volumes {record['validation']['volume_auc']}"
        )
    lines += summary_of(spec)
    if split_made:
        lines.append(f"the manifest gives no split: one by patient was made, {folder.split}")
    lines.append(f"curves and metrics in {folder.path}")
    lines.append(f"written to {output}")
    return "\n".join(lines)
