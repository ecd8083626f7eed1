"""`tonno distill`: a manifest and a classifier in, a segmenter out."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tonno_core.bundle.calibration import ABOVE_HALF_PEAK, MIN_PEAK, MIN_VOLUME
from tonno_core.bundle.file import Bundle, load_bundle, save_bundle, segmenter_spec
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.ready import PIXEL_SUM
from tonno_core.cohort.manifest import (
    Manifest,
    further_columns,
    read_for_model,
    require_trainable,
    require_volumes,
    write_manifest,
)
from tonno_core.cohort.split import split_patients
from tonno_core.commands.train import Destination
from tonno_core.distillation.distill import Segmenter, distill, interruptible
from tonno_core.distillation.settings import DistillationSettings, check_shares
from tonno_core.distillation.teacher import Teacher, record_of
from tonno_core.distributed import processes, world_size
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.segmenter.with_monai import require_monai
from tonno_core.training.run_folder import RunFolder
from tonno_core.words import count_of, findings_of

# Dice with the pseudo-masks of val, at the best threshold, below which a segmenter has not learned them.
_ASTRAY = 0.1


@dataclass(frozen=True)
class _Recorded:
    """What a run folder has to agree with: the settings, and the classifier with its heatmaps."""

    settings: DistillationSettings
    bundle: Bundle

    def record(self) -> Json:
        """Return both for a JSON file."""
        taught = record_of(self.bundle, self.settings)
        planes: Json = taught["planes"]
        thresholds = {  # by which heatmaps are trusted, and may be measured
            name: known["threshold"]
            for name, known in self.bundle.spec.thresholds.items()
            if name.partition("/")[0] in self.settings.methods
        }
        heatmaps = {"heatmaps": taught["heatmaps"], "thresholds": thresholds}
        return {**self.settings.record(), "model": taught["sha256"], **heatmaps, **planes}


def distill_bundle(
    manifest_path: Path,
    model: str,
    destination: Destination,
    settings: DistillationSettings,
    *,
    about: Mapping[str, str] | None = None,
    progress: bool = True,
) -> str:
    """Train a segmenter and write it. Under torchrun all processes call this.

    Args:
        manifest_path: CSV file of volumes and labels.
        model: Folder of the classifier that teaches.
        destination: Where to write.
        settings: How to train; the model tells the classes.
        about: What the model shall tell a person, beside what the classifier tells.
        progress: Show bars.

    Returns:
        Summary for a person; empty but on the first process.

    Raises:
        TonnoError: If anything that was asked for, or a volume, cannot be used.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    require_monai()
    destination.check()
    overwrite = destination.overwrite
    bundle = _teacher(model, destination)
    manifest, divided = _manifests(manifest_path, bundle)
    settings = dataclasses.replace(settings, classes=divided.classes)
    settings.check()
    check_shares(world_size(), settings.volumes_per_batch)
    choose_precision(settings.precision, choose_device(settings.device))
    Teacher(bundle, settings, "cpu")  # whether it can make these heatmaps
    folder = RunFolder(destination.run_folder, _Recorded(settings, bundle), divided)
    folder.check(resume=destination.resume, overwrite=overwrite)
    with interruptible(folder), processes(settings.device) as group:
        if group.first:
            folder.open(overwrite=overwrite)
            write_manifest(folder.split, divided, further_columns(divided))
            for note in manifest.notes:
                tqdm.write(f"{manifest_path}: {note}", file=sys.stderr)
        group.wait()
        made = distill(divided, bundle, settings, folder, group, progress=progress)
    if not group.first:
        return ""
    spec = segmenter_spec(
        made.network,
        settings.classes,
        bundle.spec.intensity,
        thresholds=made.thresholds,
        training=made.training,
        about={**bundle.spec.about, **(about or {})},
    )
    save_bundle(
        destination.output, spec, made.weights, half=destination.half, overwrite=overwrite or destination.resume
    )
    folder.finish()
    return _summary(made, destination.output, folder, split_made=not manifest.has_split)


def settings_of(options: Mapping[str, Any]) -> DistillationSettings:
    """Make settings of what is asked for on the command line.

    Args:
        options: By name: ``stage``, ``slices``, ``directions`` and ``preset`` are of the heatmaps, ``spacing_mm`` and
            ``patch`` texts such as "1,1,3"; None for what is not asked for.

    Returns:
        The settings.

    Raises:
        TonnoError: A text is not three numbers.
    """
    asked: Json = {name: value for name, value in options.items() if value is not None and value != ()}
    planes: Json = {name: asked.pop(name) for name in ("stage", "slices", "directions", "preset") if name in asked}
    for name, kind in (("spacing_mm", float), ("patch", int)):
        if name in asked:
            asked[name] = _three(name, asked[name], kind)
    if "mirrored" in asked:
        asked["mirrored"] = (
            ""
            if asked["mirrored"].lower() == "none"
            else "".join(letter for letter in asked["mirrored"].upper() if letter not in ", ")
        )
    return DistillationSettings(planes=planes, **asked)


def _three(name: str, text: str, kind: Callable[[str], float]) -> tuple[float, ...]:
    """Read numbers along R, A and S; a single one stands for all."""
    words = text.split(",")
    try:
        numbers = [kind(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3):
        raise TonnoError(f"`{name}` '{text}': expected one number, or three along R, A and S, as 1,1,3")
    return tuple(numbers) * (3 // len(numbers))


def _teacher(model: str, destination: Destination) -> Bundle:
    """Load the classifier; raises TonnoError for what cannot teach."""
    if model == PIXEL_SUM:
        raise TonnoError(f"`model` {PIXEL_SUM}: has learned nothing; expected the folder of a classifier")
    bundle = load_bundle(model)
    if bundle.spec.kind == REGRESSOR:
        raise TonnoError(
            f"`model` {model}: is a regressor, whose heatmaps tell how much, not what is a finding; expected the "
            "classifier whose heatmaps shall teach one"
        )
    if bundle.spec.kind != "classifier":
        raise TonnoError(
            f"`model` {model}: is a segmenter already; expected the classifier whose heatmaps shall teach one"
        )
    for name, folder in (("output", destination.output), ("run", destination.run_folder)):
        if folder.resolve() == bundle.path.resolve():
            raise TonnoError(f"`{name}` {folder}: is the classifier's folder; choose another name")
    return bundle


def _manifests(path: Path, bundle: Bundle) -> tuple[Manifest, Manifest]:
    """Read a manifest with labels of the model's findings, as it is and with a split."""
    manifest = read_for_model(path, bundle.spec.classes, absent=True)
    findings = findings_of(bundle.spec.classes)
    columns = [manifest.classes.index(name) for name in findings]
    cases = tuple(
        dataclasses.replace(
            case,
            labels=tuple(case.labels[index] for index in columns),
            masks=tuple(case.masks[index] for index in columns),
            mask_values=tuple(case.mask_values[index] for index in columns) if case.mask_values else (),
        )
        for case in manifest.cases
    )
    manifest = dataclasses.replace(manifest, classes=findings, cases=cases)
    divided = manifest if manifest.has_split else _split_again(manifest, bundle)
    require_trainable(divided)
    require_volumes([case for case in divided.cases if case.split in ("train", "val")], path)
    return manifest, divided


def _split_again(manifest: Manifest, bundle: Bundle) -> Manifest:
    """Split a manifest as the classifier's training did; raises TonnoError where that was of other volumes."""
    training = bundle.spec.training
    seed, counts = training.get("settings", {}).get("seed"), training.get("volumes")
    advice = "give split.csv in the folder of the classifier's run (usually MODEL-run), or a column split"
    if not isinstance(seed, int) or not isinstance(counts, dict):
        raise TonnoError(
            f"{manifest.path}: gives no split, and {bundle.path} does not tell how it was trained; {advice}"
        )
    divided = split_patients(manifest, seed=seed)
    for split in ("train", "val"):
        found = divided.counts(split)
        if any(counts.get(split, {}).get(name) != count for name, count in found.items()):
            raise TonnoError(
                f"{manifest.path}: gives no split, and is not the list that {bundle.path} was trained on: its volumes "
                f"of {split} would be others, some of which it has learned; {advice}"
            )
    return divided


def _summary(made: Segmenter, output: Path, folder: RunFolder, *, split_made: bool) -> str:
    """Return what a person should know of a segmenter."""
    record = made.training
    spacing = " x ".join(f"{mm:g}" for mm in made.network.spacing_mm)
    lines = [
        f"loss at the end {record['final_loss']}, {record['seconds']:.0f} s; voxels of {spacing} mm",
    ]
    if "validation" in record:
        agreement, area = record["validation"]["agreement"], record["validation"]["volume_auc"]
        known = "unknown, as the heatmaps of val show no finding" if agreement is None else agreement
        lines.append(
            f"validation: Dice with the pseudo-masks {known}, volume AUC {'unknown' if area is None else area}; "
            "no mask was looked at, `tonno evaluate` measures with masks"
        )
    for name, shown in record["shown"].items():
        positive = record["volumes"]["train"][name]["positive"]
        if shown < positive:
            lines.append(
                f"{name}: learned from {shown} of {count_of(positive, 'volume')} with it; the heatmaps of the others "
                "stay below the model's thresholds, or show nothing"
            )
    for key, threshold in made.thresholds.items():
        count = threshold["negative_volumes"]
        by_size = f"from {threshold[MIN_VOLUME]:g} mm3"
        parts = f"with a logit from {threshold[MIN_PEAK]:g} on" if MIN_PEAK in threshold else by_size
        value = f"{threshold['threshold']:.4g}"
        if ABOVE_HALF_PEAK in threshold:
            value = f"half of a volume's highest logit {threshold[ABOVE_HALF_PEAK]:+.4g}"
        lines.append(
            f"{key}: threshold {value}, parts {parts} "
            f"({count_of(count, 'volume') if count else 'no volume'} of val without the finding)"
        )
        if (agreement := threshold.get("agreement")) is not None and agreement < _ASTRAY:
            lines.append(
                f"{key}: warning: it marks hardly any of what the heatmaps' pseudo-masks mark (Dice {agreement:.2g}): "
                "the training ended empty or astray; try a lower `learning_rate`, more `steps`, or other heatmaps "
                "(`method`)"
            )
    if split_made:
        lines.append(f"the manifest gives no split: that of the classifier's training was made again, {folder.split}")
    lines.append(f"curves, metrics and the heatmaps in {folder.path}")
    lines.append(f"written to {output}")
    return "\n".join(lines)
