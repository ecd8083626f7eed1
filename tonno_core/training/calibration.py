"""What a model brings with it for each method: the variant that tells volumes apart best, and its threshold.

From image-level labels alone; no mask is read. A variant's score for a volume is the heatmap's highest foreground
voxel: the variant is chosen by the area under the ROC curve of these peaks. What the heatmap reaches in volumes
without the finding is noise: the threshold is what most of them never reach anywhere (docs/method.md).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from tonno_core.encoding.bundle import (
    Bundle,
    BundleSpec,
    threshold_key,
)
from tonno_core.errors import TonnoError
from tonno_core.evaluation.metrics import auc
from tonno_core.reconstruction import Reconstruction, reconstruct
from tonno_core.settings import (
    SETTINGS_THAT_MATTER,
    ReconstructionSettings,
    Variant,
    choices_of,
    variant_of,
)
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# The threshold: this share of the negative scans have no voxel above it.
SHARE_OF_VOLUMES = 0.95
# The noise floor: one foreground voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999
# What is tried for a method where the settings ask for nothing; stages are all that give maps. The same
# smoothing for every method, so that none wins by a width that the others were not offered.
_SMOOTHING = {"smooth_mm": (0.0, 4.0, 8.0, 12.0)}
_FILTERS = {"filter": ("second-difference", "hann")}
LADDERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "tonno": {**_FILTERS, **_SMOOTHING},
    "averaged-cam": _SMOOTHING,
    "tomographic-cam": {**_FILTERS, **_SMOOTHING},
    "matched-cam": {**_FILTERS, "sigma_scale": (1.0, 0.5, 2.0), **_SMOOTHING},
    "slicewise-cam": _SMOOTHING,
    "slicewise-cam-3axes": _SMOOTHING,
    "center": {},
}


@dataclass(frozen=True)
class Calibration:
    """thresholds: for `BundleSpec.thresholds`, by method and class. records: for `BundleSpec.calibration`."""

    thresholds: dict[str, dict[str, Any]]
    records: list[dict[str, Any]]


@dataclass
class _Tried:
    """A variant's peaks by label, and its noise floors, one number per volume."""

    variant: Variant
    peaks: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    floors: list[float] = field(default_factory=list)

    @property
    def auc(self) -> float | None:
        """Of the peaks; None where one label is absent."""
        negative, positive = self.peaks
        if not negative or not positive:
            return None
        return auc(np.array(negative + positive), np.repeat([0, 1], [len(negative), len(positive)]))

    @property
    def separation(self) -> float:
        """Difference of the mean peaks of positives and negatives, in pooled standard deviations."""
        negative, positive = (np.array(values) for values in self.peaks)
        difference = float(positive.mean() - negative.mean())
        squares = ((negative - negative.mean()) ** 2).sum() + ((positive - positive.mean()) ** 2).sum()
        if squares == 0.0:
            return math.copysign(math.inf, difference) if difference else 0.0
        return difference / math.sqrt(squares / max(1, len(negative) + len(positive) - 2))

    def numbers(self, quantile: float) -> dict[str, float | None]:
        """What a record says of it; the threshold is that quantile of the negatives' peaks."""
        return {
            "threshold": float(np.quantile(self.peaks[0], quantile)),
            "noise_floor": float(np.mean(self.floors)),
            "auc": self.auc,
        }


def calibrate(
    bundle: Bundle,
    cases: Sequence[tuple[Path, int]],
    settings: ReconstructionSettings,
    *,
    candidates: Sequence[Variant] | None = None,
    class_index: int = 0,
    quantile: float = SHARE_OF_VOLUMES,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Calibration:
    """Choose a variant and a threshold for each method of a bundle, from volumes with labels 0 and 1 of a class.

    settings: its methods, planes and whatever is not to be chosen. candidates: what to choose from, None for
    `default_candidates`. The highest AUC wins, then the larger separation, then the first; without positive
    volumes the first of each method. Without negative volumes there is no noise to measure: nothing is returned.
    quantile: the share of the negative volumes that stay below the threshold everywhere; lower it where some of them
    are known to hold the finding after all.
    """
    settings = dataclasses.replace(settings, class_name=bundle.spec.classes[class_index])
    if all(label for _, label in cases):
        return Calibration({}, [])
    if candidates is None:
        candidates = default_candidates(bundle, settings, class_index=class_index)
    variants = {str(index): one for index, one in enumerate(candidates)}
    tried: dict[str, _Tried] = {}
    for path, label in tqdm(cases, desc="calibrating", unit="volume", disable=not progress):
        measured, result = _measure(read_volume(path), bundle, settings, variants, device, precision)
        for name, (peak, floor) in measured.items():
            one = tried.setdefault(name, _Tried(result.variants[name]))
            one.peaks[label].append(peak)
            if label == 0:
                one.floors.append(floor)
    return _chosen(list(tried.values()), bundle.spec, settings, quantile)


def default_candidates(
    bundle: Bundle, settings: ReconstructionSettings, *, class_index: int = 0, stages: Sequence[int] = ()
) -> list[Variant]:
    """For each method of the settings the model's default, then all of its ladder that the settings leave open.

    stages: to choose among (empty: all that give maps).
    """
    size = settings.slice_size or bundle.spec.slice_size
    encoder = bundle.classifier(slice_size=size)
    for stage in stages:
        if not 1 <= stage <= encoder.stages:
            raise TonnoError(f"--stage {stage} does not exist in this encoder, expected 1 to {encoder.stages}")
    ladder = {"stage": tuple(stages) or encoder.stages_with_maps(class_index, size)}
    candidates = []
    for method in settings.methods:
        default = variant_of(method, settings, defaults=bundle.spec.defaults)
        if "stage" in choices_of(method) and (
            default.stage is None or default.stage not in (stages or [default.stage])
        ):
            default = dataclasses.replace(default, stage=stages[0] if stages else max(1, encoder.stages - 1))
        ladders = {**ladder, **LADDERS[method]}
        steps = [
            ladders[name] if name in ladders and getattr(settings, name) is None else (getattr(default, name),)
            for name in choices_of(method)
        ]
        candidates.append(default)
        for chosen in product(*steps):
            candidates.append(Variant(method, **dict(zip(choices_of(method), chosen, strict=True))))
    return list(dict.fromkeys(candidates))


def _measure(
    volume: Volume,
    bundle: Bundle,
    settings: ReconstructionSettings,
    variants: dict[str, Variant],
    device: str,
    precision: str,
) -> tuple[dict[str, tuple[float, float]], Reconstruction]:
    """Each variant's peak and noise floor in a volume."""
    foreground = foreground_mask(volume)
    measured: dict[str, tuple[float, float]] = {}

    def receive(name: str, heatmap: Volume, inside: npt.NDArray[np.bool_]) -> None:
        values = heatmap.array[foreground & inside]
        measured[name] = float(values.max()), float(np.quantile(values, FLOOR_QUANTILE))

    result = reconstruct(
        volume, bundle, settings, variants=variants, device=device, precision=precision, receive=receive
    )
    return measured, result


def _chosen(tried: list[_Tried], spec: BundleSpec, settings: ReconstructionSettings, quantile: float) -> Calibration:
    thresholds: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(one.variant.method for one in tried):
        of_method = [one for one in tried if one.variant.method == method]
        best = of_method[0]
        if best.auc is not None:
            best = max(of_method, key=lambda one: (one.auc, one.separation))  # the first of equals
        own = choices_of(method)
        thresholds[threshold_key(method, settings.class_name, spec.classes)] = {
            **best.numbers(quantile),
            "volume_quantile": quantile,
            "voxel_quantile": FLOOR_QUANTILE,
            "negative_volumes": len(best.peaks[0]),
            "positive_volumes": len(best.peaks[1]),
            "settings": {
                name: getattr(best.variant if name in own else settings, name) for name in SETTINGS_THAT_MATTER[method]
            },
        }
    records = [
        {"class": settings.class_name, **dataclasses.asdict(one.variant), **one.numbers(quantile)} for one in tried
    ]
    return Calibration(thresholds, records)
