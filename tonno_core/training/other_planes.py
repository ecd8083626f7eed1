"""A calibrated model's thresholds for the planes of presets too, so that no quick run has to guess.

What 95 % of the negative volumes never reach falls fast with fewer slices: vessels and noise that are finer than the
slices' spacing set it. A finding is wider, and its heatmap hardly falls. Calibrated from negatives alone, quick runs
would draw findings too large. So the threshold is the value that leaves as many voxels of a heatmap as the model's own
threshold leaves with its own planes, and never less than what the negatives ask for (docs/method.md). No mask is read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tonno_core.bundle import calibration
from tonno_core.bundle.calibration import OTHER_PLANES, planes_of, threshold_key
from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.output import Json
from tonno_core.settings import METHODS, PRESETS, ReconstructionSettings, Variant
from tonno_core.training.calibration import SHARE_OF_VOLUMES, Values, foreground_values, peak_and_floor
from tonno_core.training.look import Amounts, Case, Look, Watched, amounts, facts_of
from tonno_core.volume.volume import Volume

# Positive volumes whose heatmaps are compared.
COMPARED_VOLUMES = 8


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
    settings = dataclasses.replace(settings, class_name=choices.classes[class_index])
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

            def of_presets(volume: Volume, watched: Watched, label: int) -> list[dict[str, list[float]]]:
                values = foreground_values(volume, model, whole, _all, watched) if label else {}
                voxels = {name: int((some >= thresholds[name]).sum()) for name, some in values.items()}
                return [
                    {
                        name: _measure(some, voxels.get(name))
                        for name, some in foreground_values(volume, model, run, _all, watched).items()
                    }
                    for run in runs
                ]

            for path, label in negatives + [case for case in cases if case[1]][:COMPARED_VOLUMES]:
                takes = sum((_amounts(run) for run in [whole] * label + runs), np.zeros(3))
                found = look.measure(path, {**facts, "label": label}, takes, partial(of_presets, label=label))
                for preset, measured in zip((each for each in presets if each.run is not None), found, strict=True):
                    for name, some in measured.items():
                        preset.measured[name].add(some, label)
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
    takes = np.zeros(3)
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
    return dataclasses.replace(settings, **planes, cam_directions=None)


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


def _all(values: Values) -> Values:
    return values


def _measure(values: Values, voxels: int | None) -> list[float]:
    """Return peak and floor of a negative volume, for which ``voxels`` is None.

    Of a positive one, the value that so many voxels of the foreground reach; nothing where there is none.
    """
    if voxels is None:
        return list(peak_and_floor(values))
    return [float(np.partition(values, -voxels)[-voxels])] if 0 < voxels <= len(values) else []


def _others(method: str, record: Json, presets: Sequence[_Preset]) -> list[Json]:
    return [
        preset.measured[method].record(record, planes_of(method, preset.run.asked))
        for preset in presets
        if preset.run is not None and method in preset.measured
    ]
