"""`tonno train`: manifest in, bundle out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tonno_core.encoding.bundle import Bundle, BundleSpec, check_can_write, save_bundle
from tonno_core.encoding.classifier import Classifier, create_model, try_slice
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.errors import TonnoError
from tonno_core.settings import combine, model_defaults
from tonno_core.training.calibration import calibrate
from tonno_core.training.loop import TrainingSettings, train
from tonno_core.training.manifest import read_manifest
from tonno_core.volume.intensity import parse_intensity

# What a new model does by default, and what its thresholds are calibrated for.
DEFAULT_METHODS = ("matched-cam", "tonno", "averaged-cam", "tomographic-cam", "slicewise-cam")


def train_bundle(
    manifest: Path,
    output: Path,
    *,
    stage: int | None = None,
    about: Mapping[str, str] | None = None,
    half: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any],
    progress: bool = True,
) -> str:
    """Train, calibrate the thresholds on the negative validation volumes, write the bundle; returns a summary.

    options: `TrainingSettings` by name; ``norm`` None means frozen batch norm for pretrained weights and
    batch norm otherwise.
    """
    check_can_write(output, overwrite=overwrite)
    chosen = dict(options)
    chosen["norm"] = chosen.get("norm") or ("batch" if chosen.get("weights", "none") == "none" else "frozen-batch")
    settings = TrainingSettings(**chosen)
    _check(settings, stage)
    cases = read_manifest(manifest)
    model = train(cases, settings, progress=progress)
    defaults = model_defaults(stage=stage, frame=settings.frame)
    spec = dataclasses.replace(model.spec, defaults=defaults, about=dict(about or {}))
    validation = [(case.volume, case.label) for case in cases if case.split == "val"]
    calibrated = combine(defaults=defaults, explicit={"methods": DEFAULT_METHODS, "stage": stage})
    bundle = Bundle(spec, model.weights, output)
    # Before the calibration, so that nothing which happens there loses the training.
    save_bundle(output, spec, model.weights, half=half, overwrite=overwrite)
    found = calibrate(
        bundle, validation, calibrated, device=settings.device, precision=settings.precision, progress=progress
    )
    calibrated_spec = dataclasses.replace(spec, thresholds=found.thresholds, calibration=found.records)
    saved = save_bundle(output, calibrated_spec, model.weights, half=half, overwrite=True)
    return _summary(saved, output)


def _check(settings: TrainingSettings, stage: int | None) -> None:
    """What can be known before hours of training."""
    parse_intensity(settings.intensity)
    choose_precision(settings.precision, choose_device(settings.device))
    if settings.pixel_mm is not None and not 0 < settings.pixel_mm < 100:
        raise TonnoError(f"--pixel-mm is {settings.pixel_mm}, expected millimetres between 0 and 100")
    if not 0 < settings.learning_rate < 10:
        raise TonnoError(f"--learning-rate is {settings.learning_rate}, expected a number between 0 and 10")
    model = create_model(
        settings.encoder, channels=settings.channels, classes=1, norm="batch", slice_size=settings.slice_size
    )
    encoder = Classifier(model, (settings.class_name,), channels=settings.channels)
    try_slice(encoder, settings.slice_size, settings.encoder)
    if stage is not None and stage > encoder.stages:
        raise TonnoError(f"--stage {stage} does not exist in this encoder, expected 1 to {encoder.stages}")


def _summary(spec: BundleSpec, output: Path) -> str:
    record = spec.training
    lines = [f"loss at the end {record['final_loss']}, {record['seconds']:.0f} s"]
    if "validation" in record:
        lines.append(
            f"validation AUC: slices {record['validation']['slice_auc']}, volumes {record['validation']['volume_auc']}"
        )
    if spec.thresholds:
        lines += [f"threshold {m}: {t['threshold']:.4g}" for m, t in spec.thresholds.items()]
    else:
        lines.append("no negative volume in split val: no threshold calibrated, --threshold auto will be Otsu's")
    lines.append(f"written to {output}")
    return "\n".join(lines)
