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
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from tonno_core.bundle.calibration import threshold_key
from tonno_core.bundle.file import Bundle, BundleSpec
from tonno_core.reconstruction import Reconstruction, reconstruct
from tonno_core.segmentation.metrics import auc
from tonno_core.settings import (
    SETTINGS_THAT_MATTER,
    ReconstructionSettings,
    Variant,
    choices_of,
)
from tonno_core.training.candidates import add_stages, default_candidates, neighbouring_stages
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

# The threshold: this share of the negative scans have no voxel above it.
SHARE_OF_VOLUMES = 0.95
# The noise floor: one foreground voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999
# So many negative volumes say how much each stage counts where stages are added up, before all volumes are looked at.
WEIGHING_VOLUMES = 8


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
    def auc_error(self) -> float:
        """Its standard error (J. A. Hanley, B. J. McNeil, Radiology 143(1), 1982, 29-36)."""
        area, negative, positive = self.auc or 0.0, len(self.peaks[0]), len(self.peaks[1])
        of_positives = (positive - 1) * (area / (2.0 - area) - area**2)
        of_negatives = (negative - 1) * (2.0 * area**2 / (1.0 + area) - area**2)
        return math.sqrt((area * (1.0 - area) + of_positives + of_negatives) / (positive * negative))

    @property
    def separation(self) -> float:
        """Difference of the mean peaks of positives and negatives, in pooled standard deviations."""
        negative, positive = (np.array(values) for values in self.peaks)
        difference = float(positive.mean() - negative.mean())
        squares = ((negative - negative.mean()) ** 2).sum() + ((positive - positive.mean()) ** 2).sum()
        if squares == 0.0:
            return math.copysign(math.inf, difference) if difference else 0.0
        return difference / math.sqrt(squares / max(1, len(negative) + len(positive) - 2))

    @property
    def floor(self) -> float:
        """The mean of the noise floors."""
        return float(np.mean(self.floors))

    def numbers(self, quantile: float) -> dict[str, float | None]:
        """What a record says of it; the threshold is that quantile of the negatives' peaks."""
        return {
            "threshold": float(np.quantile(self.peaks[0], quantile)),
            "noise_floor": self.floor,
            "auc": self.auc,
        }


def calibrate(
    bundle: Bundle,
    cases: Sequence[tuple[Path, int]],
    settings: ReconstructionSettings,
    *,
    candidates: Sequence[Variant] | None = None,
    stages: Sequence[int] = (),
    class_index: int = 0,
    quantile: float = SHARE_OF_VOLUMES,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Calibration:
    """Choose a variant and a threshold for each method of a bundle, from volumes with labels 0 and 1 of a class.

    settings: its methods, planes and whatever is not to be chosen. candidates: what to choose from, None for
    `default_candidates` of some stages (none: of all), and their neighbouring stages added up. Of single stages the
    highest AUC wins, then the larger separation, then the first; a sum of that stage and a neighbour goes before it
    where its AUC is not clearly lower. Without positive volumes it is the first of each method; without negative
    volumes there is no noise to measure: nothing is returned. quantile: the share of the negative volumes that stay
    below the threshold everywhere; lower it where some of them are known to hold the finding after all.
    """
    settings = dataclasses.replace(settings, class_name=bundle.spec.classes[class_index])
    if all(label for _, label in cases):
        return Calibration({}, [])
    look = partial(_try, bundle, settings, device=device, precision=precision, progress=progress)
    if candidates is None:
        candidates = default_candidates(bundle, settings, class_index=class_index, stages=stages)
        if pairs := neighbouring_stages(candidates):
            negatives = [case for case in cases if not case[1]][:WEIGHING_VOLUMES]
            weighed = look(negatives, list(dict.fromkeys(chain.from_iterable(pairs))), "weighing stages")
            floors = {one.variant: one.floor for one in weighed}
            noisy = [pair for pair in pairs if min(floors[one] for one in pair) > 0]
            candidates += [add_stages(pair, (floors[pair[0]], floors[pair[1]])) for pair in noisy]
    return _chosen(look(cases, candidates, "calibrating"), bundle.spec, settings, quantile)


def _try(
    bundle: Bundle,
    settings: ReconstructionSettings,
    cases: Sequence[tuple[Path, int]],
    candidates: Sequence[Variant],
    description: str,
    *,
    device: str,
    precision: str,
    progress: bool,
) -> list[_Tried]:
    """The candidates' peaks and floors in all cases."""
    variants = {str(index): one for index, one in enumerate(candidates)}
    tried: dict[str, _Tried] = {}
    for path, label in tqdm(cases, desc=description, unit="volume", disable=not progress):
        measured, result = _measure(read_volume(path), bundle, settings, variants, device, precision)
        for name, (peak, floor) in measured.items():
            one = tried.setdefault(name, _Tried(result.variants[name]))
            one.peaks[label].append(peak)
            if label == 0:
                one.floors.append(floor)
    return list(tried.values())


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


def _best(tried: list[_Tried]) -> _Tried:
    """Of one method's: by AUC and separation the best of a single stage, or that stage and its neighbour added up.

    A few dozen volumes cannot tell which stage is right. Where the sum, else made alike, is not clearly worse (by more
    than a standard error of the AUC), it is taken: it was measured to cost less than a stage that is wrong.
    """
    if tried[0].auc is None:
        return tried[0]

    def merit(one: _Tried) -> tuple[float, float]:
        return one.auc or 0.0, one.separation

    single = max([one for one in tried if not one.variant.weights] or tried, key=merit)  # the first of equals
    least = merit(single)[0] - single.auc_error
    added = [one for one in tried if one.variant.weights and single.variant in one.variant.parts()]
    sums = [one for one in added if merit(one)[0] >= least]
    return max(sums, key=merit, default=single)


def _chosen(tried: list[_Tried], spec: BundleSpec, settings: ReconstructionSettings, quantile: float) -> Calibration:
    thresholds: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(one.variant.method for one in tried):
        best = _best([one for one in tried if one.variant.method == method])
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
