"""A calibrated model's thresholds for the planes of presets too, so that no quick run has to guess.

What 95 % of the negative volumes never reach falls fast with fewer slices: vessels and noise that are finer than the
slices' spacing set it. A finding is wider, and its heatmap hardly falls. Calibrated from negatives alone, quick runs
would draw findings too large. So the threshold is the value that leaves as many voxels of a heatmap as the model's own
threshold leaves with its own planes, and never less than what the negatives ask for; no mask is read.
See docs/calibration.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tonno_core.bundle import calibration
from tonno_core.bundle.calibration import OTHER_PLANES, planes_of, threshold_key
from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.output import Json
from tonno_core.reconstruction.foreground import Foreground
from tonno_core.reconstruction.planes import Planes
from tonno_core.reconstruction.run import ReadyScan
from tonno_core.settings import METHODS, PRESETS, SLICEWISE_METHODS, ReconstructionSettings, Variant
from tonno_core.training.calibration import COMPARED_VOLUMES, SHARE_OF_VOLUMES, foreground_of, peaks_and_floors
from tonno_core.training.look import NOTHING, Amounts, Case, Job, Look, Watched, amounts, facts_of


@dataclass
class _Measured:
    """A method's peaks and noise floors of negative volumes, and the thresholds that suit positive ones."""

    peaks: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)

    def add(self, measured: Sequence[float], label: int) -> None:
        """Take in a volume.

        Args:
            measured: By `_measure`.
            label: The volume's.
        """
        if label:
            self.equal.extend(measured)
        else:
            peak, floor = measured
            self.peaks.append(peak)
            self.floors.append(floor)

    def record(self, chosen: Json, planes: Json) -> Json:
        """Return what `OTHER_PLANES` of the method's record gets.

        Args:
            chosen: The method's record.
            planes: By their names in files.

        Returns:
            A record.
        """
        negatives = float(np.quantile(self.peaks, chosen.get("volume_quantile", SHARE_OF_VOLUMES)))
        equal = float(np.median(self.equal)) if self.equal else float(chosen["threshold"])
        return {
            "threshold": max(negatives, equal),
            "noise_floor": float(np.mean(self.floors)),
            "negatives_threshold": negatives,
            "negative_volumes": len(self.peaks),
            "positive_volumes": len(self.equal),
            "settings": dict(planes),
        }


@dataclass
class _Preset:
    """Planes, and what is made with them; None where the model's planes are the preset's."""

    run: Run | None
    measured: dict[str, _Measured]


def measure_other_planes(
    bundle: Bundle, cases: Sequence[Case], settings: ReconstructionSettings, look: Look, *, class_index: int = 0
) -> dict[str, Json]:
    """Measure a calibrated model's thresholds for the planes of `CALIBRATED_PRESETS`; nothing is chosen anew.

    Args:
        bundle: The model.
        cases: Files with labels 0 and 1 of the class; all negative ones and some positive ones are looked at.
        settings: With the planes that the model is calibrated for.
        look: Where to compute.
        class_index: Of the class.

    Returns:
        The class's records of `BundleSpec.thresholds` by their keys, each with those for other planes.
    """
    choices = bundle.spec.choices
    settings = replace(settings, class_name=choices.classes[class_index])
    records = {method: record for method in METHODS if (record := choices.record(method, settings.class_name))}
    negatives = [case for case in cases if not case[1]]
    others: dict[str, Json] = {}
    if records and negatives:
        model = prepare_model(bundle, settings, look.device, look.precision)
        presets = [_preset(model, settings, records, name) for name in calibration.CALIBRATED_PRESETS]
        variants = {name: variant for preset in presets for name, variant in _variants(preset).items()}
        if variants:
            whole = decide(settings, model, variants=variants)
            thresholds = {name: records[name]["threshold"] for name in variants}
            runs = [preset.run for preset in presets if preset.run is not None]
            facts = {**facts_of(model, whole, *runs), "thresholds": thresholds}

            jobs = []
            for path, label in negatives + [case for case in cases if case[1]][:COMPARED_VOLUMES]:
                takes = sum((_amounts(run) for run in [whole] * label + runs), NOTHING.copy())

                def read(path: Path = path) -> _Read:
                    held = look.held.take(path, model, whole)
                    return look.read(path, whole), held

                def measure(read: _Read, watched: Watched, label: int = label) -> list[dict[str, list[float]]]:
                    return _of_presets(read, model, whole, runs, watched, thresholds if label else None)

                jobs.append(Job(path, {**facts, "label": label}, takes, read, measure))
            for job, found in zip(jobs, look.measure(jobs), strict=True):
                for preset, measured in zip((each for each in presets if each.run is not None), found, strict=True):
                    for name, some in measured.items():
                        preset.measured[name].add(some, job.facts["label"])
            others = {method: {OTHER_PLANES: _others(method, records[method], presets)} for method in variants}
    return {
        threshold_key(method, settings.class_name, choices.classes): {**record, **others.get(method, {})}
        for method, record in records.items()
    }


def expected_amounts(cases: Sequence[Case], settings: ReconstructionSettings) -> Amounts:
    """Estimate what `measure_other_planes` takes, before the thresholds are known.

    Args:
        cases: As there.
        settings: As there.

    Returns:
        From `amounts`.
    """
    negatives = [case for case in cases if not case[1]]
    takes = NOTHING.copy()
    if not negatives:
        return takes
    positives = min(COMPARED_VOLUMES, len(cases) - len(negatives))
    changed: set[str] = set()
    for name in calibration.CALIBRATED_PRESETS:
        other = _with_planes(settings, name)
        methods = [each for each in settings.methods if planes_of(each, other) != planes_of(each, settings)]
        changed.update(methods)
        takes += (len(negatives) + positives) * amounts(other, methods, len(methods)) * bool(methods)
    return takes + positives * amounts(settings, sorted(changed), len(changed)) * bool(changed)


def _with_planes(settings: ReconstructionSettings, preset: str) -> ReconstructionSettings:
    planes = {choice: PRESETS[preset][choice] for choice in ("slices", "directions")}
    return replace(settings, **planes, cam_directions=None)


def _preset(model: ReadyModel, settings: ReconstructionSettings, records: Mapping[str, Json], name: str) -> _Preset:
    """Decide on the methods whose planes are others with a preset, of those calibrated for the settings' planes."""
    other, variants = _with_planes(settings, name), {}
    for method, record in records.items():
        before, then = planes_of(method, settings), record.get("settings", {})
        same = all(then.get(choice, value) == value for choice, value in before.items())
        if planes_of(method, other) != before and same:
            variants[method] = model.choices.variant(method, settings)
    run = decide(other, model, variants=variants) if variants else None
    return _Preset(run, {method: _Measured() for method in variants})


def _variants(preset: _Preset) -> Mapping[str, Variant]:
    return {} if preset.run is None else preset.run.targets[0].variants


def _amounts(run: Run) -> Amounts:
    variants = run.targets[0].variants
    return amounts(run.asked, [variant.method for variant in variants.values()], len(variants))


# A scan, and what is left of its heatmaps with the model's own planes.
_Read = tuple[ReadyScan, Foreground | None]


def _of_presets(
    read: _Read,
    model: ReadyModel,
    whole: Run,
    runs: Sequence[Run],
    watched: Watched,
    thresholds: Mapping[str, float] | None,
) -> list[dict[str, list[float]]]:
    """Measure a volume with the planes of presets: by preset and method what `_Measured.add` takes.

    Of a negative one, for which there are no thresholds, peak and floor. Of a positive one, the value that as many
    voxels of the foreground reach as reach the threshold with the model's own planes; nothing where none does.
    """
    scan, held = read
    made: list[Foreground] = []
    voxels: dict[str, int] = {}
    if thresholds is not None:
        variants = whole.targets[0].variants
        known = held is not None and all(map(held.projected.gives, variants.values()))
        made.append(held if held is not None and known else foreground_of(scan, model, whole, watched))
        voxels = _voxels(made[0], variants, thresholds, watched)
    return [_of_preset(scan, model, run, watched, made, voxels if thresholds is not None else None) for run in runs]


def _voxels(
    foreground: Foreground, variants: Mapping[str, Variant], thresholds: Mapping[str, float], watched: Watched
) -> dict[str, int]:
    """Count the voxels that reach a threshold."""

    def count(name: str, values: torch.Tensor) -> torch.Tensor:
        watched.heatmaps()
        return (values >= thresholds[name]).sum()

    return {name: int(number) for name, number in foreground.measure(variants, count).items()}


def _of_preset(
    scan: ReadyScan,
    model: ReadyModel,
    run: Run,
    watched: Watched,
    made: list[Foreground],
    voxels: Mapping[str, int] | None,
) -> dict[str, list[float]]:
    """Measure a volume with the planes of one preset; slicewise heatmaps whose planes are the same are there by now."""
    variants = run.targets[0].variants
    same = {name: each for name, each in variants.items() if made and _has_planes(made[0], each, run)}
    rest = {name: each for name, each in variants.items() if name not in same}
    sources = [(made[0], same)] if same else []
    if rest:
        wanted = replace(run, targets=(replace(run.targets[0], variants=rest),))
        made.append(foreground_of(scan, model, wanted, watched))
        sources.append((made[-1], rest))
    found: dict[str, list[float]] = {}
    for foreground, some in sources:
        if voxels is None:
            found |= {name: list(each) for name, each in peaks_and_floors(foreground, some, watched).items()}
        else:
            found |= _reached(foreground, some, voxels, watched)
    return {name: found[name] for name in variants}


def _reached(
    foreground: Foreground, variants: Mapping[str, Variant], voxels: Mapping[str, int], watched: Watched
) -> dict[str, list[float]]:
    """Return the value that so many voxels reach, nothing where that is none."""
    asked = {name: each for name, each in variants.items() if 0 < voxels[name] <= foreground.count}

    def value(name: str, values: torch.Tensor) -> torch.Tensor:
        watched.heatmaps()
        return values.kthvalue(len(values) - voxels[name] + 1).values

    found = foreground.measure(asked, value)
    return {name: [float(found[name])] if name in asked else [] for name in variants}


def _has_planes(foreground: Foreground, variant: Variant, run: Run) -> bool:
    """Return whether a variant is made of axes' planes that are the same in another run."""
    projected = foreground.projected
    if variant.method not in SLICEWISE_METHODS or not projected.gives(variant):
        return False
    other = Planes(projected.planes.volume, run, projected.planes.frame_to_ras)
    return other.slicewise(variant.method).slices == projected.planes.slicewise(variant.method).slices


def _others(method: str, record: Json, presets: Sequence[_Preset]) -> list[Json]:
    return [
        preset.measured[method].record(record, planes_of(method, preset.run.asked))
        for preset in presets
        if preset.run is not None and method in preset.measured
    ]
