"""`tonno calibrate` and the end of `tonno train`: a bundle gets its choices and thresholds from split ``val``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tonno_core.bundle.calibration import OTHER_PLANES, planes_text
from tonno_core.bundle.file import Bundle, BundleSpec, check_can_write, load_bundle, save_description
from tonno_core.cohort.manifest import Manifest, read_manifest
from tonno_core.errors import TonnoError
from tonno_core.settings import METHODS, ReconstructionSettings, choices_of, combine
from tonno_core.training.calibration import SHARE_OF_VOLUMES, calibrate
from tonno_core.training.other_planes import measure_other_planes
from tonno_core.volume.appearance import appearance, record_of_images
from tonno_core.volume.io import read_volume


def recalibrate(
    model: Path,
    manifest_path: Path,
    output: Path,
    *,
    options: Mapping[str, Any],
    stages: Sequence[int] = (),
    quantile: float = SHARE_OF_VOLUMES,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> str:
    """`tonno calibrate`: a model with the choices and thresholds of a manifest's split ``val``; a summary.

    options: settings of the reconstructions by name; the planes become the model's defaults. stages: to choose
    among (empty: all). quantile: as `calibrate`'s.
    """
    bundle = load_bundle(model)
    check_can_write(output, overwrite=overwrite)
    manifest = read_manifest(manifest_path, class_name=bundle.spec.classes[0])
    _require_classes(manifest, bundle.spec)
    spec = calibrate_bundle(
        bundle,
        manifest,
        options=options,
        stages=stages,
        quantile=quantile,
        device=device,
        precision=precision,
        progress=progress,
    )
    planes = {name: value for name, value in options.items() if name in spec.defaults and value is not None}
    planes.pop("methods", None)
    spec = dataclasses.replace(spec, defaults={**spec.defaults, **planes})
    save_description(output, spec, bundle, overwrite=overwrite)
    return "\n".join([*summary_of(spec), f"written to {output}"])


def complete(
    model: Path,
    manifest_path: Path,
    output: Path,
    *,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> str:
    """`tonno calibrate --complete`: what an earlier version of tonno did not measure; a summary.

    That is thresholds for the planes of presets, from the manifest's split ``val``, and what the images of its split
    ``train`` look like. The model's choices and its own thresholds stay as they are.
    """
    bundle = load_bundle(model)
    check_can_write(output, overwrite=overwrite)
    manifest = read_manifest(manifest_path, class_name=bundle.spec.classes[0])
    _require_classes(manifest, bundle.spec)
    if not bundle.spec.thresholds:
        raise TonnoError(f"{model}: has no thresholds to complete; a whole calibration finds them")
    settings = combine(defaults=bundle.spec.defaults, explicit={})
    thresholds = _with_other_planes(bundle, manifest, settings, device, precision, progress)
    training = {**bundle.spec.training, "images": _images(manifest, bundle.spec, progress)}
    spec = dataclasses.replace(bundle.spec, thresholds=thresholds, training=training)
    save_description(output, spec, bundle, overwrite=overwrite)
    return "\n".join([*summary_of(spec), f"written to {output}"])


def _images(manifest: Manifest, spec: BundleSpec, progress: bool) -> dict[str, Any]:
    """What the manifest's training images look like, for ``training``; as the model has it where there are none."""
    cases = tqdm(manifest.split("train"), desc="looking at images", unit="volume", disable=not progress)
    volumes = (read_volume(case.volume) for case in cases)
    seen = [appearance(volume.array, volume.ijk_to_ras, spec.intensity) for volume in volumes]
    images = [one for one in seen if one is not None]
    return record_of_images(images, spec.intensity, spec.pixel_mm) if images else spec.training.get("images", {})


def _require_classes(manifest: Manifest, spec: BundleSpec) -> None:
    if manifest.classes != spec.classes:
        raise TonnoError(
            f"{manifest.path}: labels are of {', '.join(manifest.classes)}, the model tells {', '.join(spec.classes)}; "
            "name the label columns label:NAME like the model's classes"
        )
    if not any(case.labels[0] == 0 for case in manifest.split("val")):
        raise TonnoError(f"{manifest.path}: no volume with label 0 has split val; a threshold comes from those")


def calibrate_bundle(
    bundle: Bundle,
    manifest: Manifest,
    *,
    options: Mapping[str, Any] | None = None,
    stages: Sequence[int] = (),
    quantile: float = SHARE_OF_VOLUMES,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> BundleSpec:
    """The bundle's description with choices and thresholds for each class, from the manifest's split ``val``.

    options: of the reconstructions (all methods by default); what they state is not chosen.
    """
    asked = {name: value for name, value in (options or {}).items() if value is not None}
    settings = combine(defaults=bundle.spec.defaults, explicit={"methods": METHODS, **asked})
    cases = manifest.split("val")
    thresholds: dict[str, dict[str, Any]] = {}
    records: list[dict[str, Any]] = []
    for index in range(len(bundle.spec.classes)):
        labelled = [(case.volume, case.labels[index]) for case in cases]
        found = calibrate(
            bundle,
            labelled,
            settings,
            stages=stages,
            class_index=index,
            quantile=quantile,
            device=device,
            precision=precision,
            progress=progress,
        )
        thresholds |= found.thresholds
        records += found.records
    spec = dataclasses.replace(bundle.spec, thresholds=thresholds, calibration=records)
    calibrated = dataclasses.replace(bundle, spec=spec)
    thresholds = _with_other_planes(calibrated, manifest, settings, device, precision, progress)
    return dataclasses.replace(spec, thresholds=thresholds)


def _with_other_planes(
    bundle: Bundle,
    manifest: Manifest,
    settings: ReconstructionSettings,
    device: str,
    precision: str,
    progress: bool,
) -> dict[str, dict[str, Any]]:
    """The bundle's thresholds, with those for the planes of presets."""
    thresholds = dict(bundle.spec.thresholds)
    for index in range(len(bundle.spec.classes)):
        cases = [(case.volume, case.labels[index]) for case in manifest.split("val")]
        thresholds |= measure_other_planes(
            bundle, cases, settings, class_index=index, device=device, precision=precision, progress=progress
        )
    return thresholds


def summary_of(spec: BundleSpec) -> list[str]:
    """For a person: each method's threshold, AUC and choices."""
    lines = []
    for key, record in spec.thresholds.items():
        own = {name: record["settings"][name] for name in choices_of(key.partition("/")[0])}
        chosen = ", ".join(f"{name} {value}" for name, value in own.items())
        area = record.get("auc")
        volumes = "no AUC" if area is None else f"AUC {area:.3f}"
        lines.append(f"{key}: threshold {record['threshold']:.4g}, {volumes}; {chosen}")
        for other in record.get(OTHER_PLANES, ()):
            lines.append(f"  {planes_text(other['settings'])}: threshold {other['threshold']:.4g}")
    return lines or ["no negative volume in split val: nothing calibrated, `threshold` auto will be Otsu's"]
