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
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from tonno_core.bundle import calibration
from tonno_core.bundle.calibration import OTHER_PLANES, planes_of, threshold_key
from tonno_core.bundle.file import Bundle, BundleSpec
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import METHODS, PRESETS, ReconstructionSettings, Variant
from tonno_core.training.calibration import FLOOR_QUANTILE, SHARE_OF_VOLUMES
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# Positive volumes whose heatmaps are compared.
COMPARED_VOLUMES = 8

Values = npt.NDArray[np.float32]


@dataclass
class _Measured:
    """Of a method: peaks and noise floors of negative volumes, and the thresholds that suit positive ones."""

    peaks: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)
    equal: list[float] = field(default_factory=list)

    def add(self, values: Values, voxels: int | None) -> None:
        """A volume's foreground. voxels: how many shall reach the threshold; None for a negative volume."""
        if voxels is None:
            self.peaks.append(float(values.max()))
            self.floors.append(float(np.quantile(values, FLOOR_QUANTILE)))
        elif 0 < voxels <= len(values):
            self.equal.append(float(np.partition(values, -voxels)[-voxels]))

    def record(self, chosen: Mapping[str, Any], planes: Mapping[str, Any]) -> dict[str, Any]:
        """For `OTHER_PLANES` of the method's record."""
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
    """Planes, and what is made with them by method."""

    settings: ReconstructionSettings
    variants: dict[str, Variant]
    measured: dict[str, _Measured]


def measure_other_planes(
    bundle: Bundle,
    cases: Sequence[tuple[Path, int]],
    settings: ReconstructionSettings,
    *,
    class_index: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Measure a calibrated model's thresholds for the planes of `CALIBRATED_PRESETS`; nothing is chosen anew.

    Args:
        cases: volumes with labels 0 and 1 of the class; all negative ones and some positive ones are looked at.
        settings: with the planes that the model is calibrated for.

    Returns:
        The class's records of `BundleSpec.thresholds` by their keys, each with those for other planes.
    """
    spec = bundle.spec
    settings = dataclasses.replace(settings, class_name=spec.classes[class_index])
    records = {method: record for method in METHODS if (record := spec.record(method, settings.class_name))}
    presets = [_preset(spec, settings, records, name) for name in calibration.CALIBRATED_PRESETS]
    variants = {method: variant for preset in presets for method, variant in preset.variants.items()}
    negatives = [case for case in cases if not case[1]]
    others: dict[str, dict[str, Any]] = {}
    if variants and negatives:
        ready = prepare_model(bundle, settings, device, precision)
        looked_at = negatives + [case for case in cases if case[1]][:COMPARED_VOLUMES]
        for path, label in tqdm(looked_at, desc="calibrating presets", unit="volume", disable=not progress):
            volume = read_volume(path)
            own = _values(volume, ready, settings, variants) if label else {}
            voxels = {method: int((values >= records[method]["threshold"]).sum()) for method, values in own.items()}
            for preset in presets:
                for method, values in _values(volume, ready, preset.settings, preset.variants).items():
                    preset.measured[method].add(values, voxels.get(method))
        others = {method: {OTHER_PLANES: _others(method, records[method], presets)} for method in variants}
    return {
        threshold_key(method, settings.class_name, spec.classes): {**record, **others.get(method, {})}
        for method, record in records.items()
    }


def _preset(
    spec: BundleSpec, settings: ReconstructionSettings, records: Mapping[str, Mapping[str, Any]], name: str
) -> _Preset:
    """The methods whose planes are others with a preset, among those that are calibrated for the settings' planes."""
    planes = {choice: PRESETS[name][choice] for choice in ("slices", "directions")}
    other = dataclasses.replace(settings, **planes, cam_directions=None)
    variants = {}
    for method, record in records.items():
        own, then = planes_of(method, settings), record.get("settings", {})
        if planes_of(method, other) != own and all(then.get(choice, value) == value for choice, value in own.items()):
            variants[method] = spec.variant(method, settings)
    return _Preset(other, variants, {method: _Measured() for method in variants})


def _values(
    volume: Volume, ready: ReadyModel, settings: ReconstructionSettings, variants: Mapping[str, Variant]
) -> dict[str, Values]:
    """The heatmaps' foreground voxels."""
    foreground = foreground_mask(volume)
    values: dict[str, Values] = {}

    def receive(name: str, heatmap: Volume, inside: npt.NDArray[np.bool_]) -> None:
        values[name] = heatmap.array[foreground & inside]

    if variants:
        reconstruct(volume, ready, settings, variants=variants, receive=receive)
    return values


def _others(method: str, record: Mapping[str, Any], presets: Sequence[_Preset]) -> list[dict[str, Any]]:
    return [
        preset.measured[method].record(record, planes_of(method, preset.settings))
        for preset in presets
        if method in preset.measured
    ]
