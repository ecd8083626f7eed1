"""What a model brings with it for each method: the variant that tells best where the finding is, and its threshold.

From image-level labels alone; no mask is read. What the heatmap reaches in volumes without the finding is noise: the
threshold is what most of them never reach anywhere. The variant is chosen by how well what its threshold marks in
volumes with the finding, by half of the directions, agrees with the evidence of the other half (`training.agreement`);
where there are no directions over the sphere, by the area under the ROC curve of the heatmaps' peaks. See
docs/calibration.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tonno_core.bundle.calibration import LEAST_TO_CHOOSE, settings_that_matter, threshold_key
from tonno_core.bundle.decide import Run, decide
from tonno_core.bundle.file import Bundle, BundleSpec
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.output import Json
from tonno_core.reconstruction import project
from tonno_core.reconstruction.foreground import Foreground, order_statistics, quantile_between
from tonno_core.reconstruction.run import ReadyScan
from tonno_core.segmentation.metrics import auc
from tonno_core.settings import ReconstructionSettings, Variant
from tonno_core.training.agreement import Agreement, best_threshold, measure_agreement
from tonno_core.training.candidates import add_stages, default_candidates, neighbouring_stages
from tonno_core.training.look import Amounts, Case, Job, Look, Watched, amounts, facts_of
from tonno_core.volume.foreground import foreground_mask

# The threshold: this share of the negative scans have no voxel above it.
SHARE_OF_VOLUMES = 0.95
# The noise floor: one foreground voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999
# Of an interval of an AUC, which holds 95 %.
DEVIATIONS = 1.96
# Pairs of a positive and a negative volume that are left out in turn, at most.
LEFT_OUT = 200
# How agreement is measured; what was measured otherwise is measured anew.
AGREEMENT = 1
# So many negative volumes say how much each stage counts where stages are added up, before all volumes are looked at.
WEIGHING_VOLUMES = 8
# Positive volumes whose heatmaps with other planes are compared with these.
COMPARED_VOLUMES = 8


@dataclass(frozen=True)
class Calibration:
    """What a model's description gets.

    Attributes:
        thresholds: For `BundleSpec.thresholds`, by method and class.
        records: For `BundleSpec.calibration`.
    """

    thresholds: dict[str, Json]
    records: list[Json]


@dataclass
class _Tried:
    """A variant's peaks by label, its noise floors, and its agreement in positive volumes, each one per volume."""

    variant: Variant
    peaks: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    floors: list[float] = field(default_factory=list)
    agreements: list[Agreement] = field(default_factory=list)

    @property
    def auc(self) -> float | None:
        """Area under the ROC curve of the peaks; None where a label is absent."""
        negative, positive = self.peaks
        if not negative or not positive:
            return None
        return auc(np.array(negative + positive), np.repeat([0, 1], [len(negative), len(positive)]))

    @property
    def auc_error(self) -> float:
        """Its standard error."""
        return auc_error(self.auc or 0.0, len(self.peaks[0]), len(self.peaks[1]))

    def without(self, negative: int, positive: int) -> _Tried:
        """Return the same without one volume of each label."""
        kept = [values[:out] + values[out + 1 :] for values, out in zip(self.peaks, (negative, positive), strict=True)]
        agreements = self.agreements[:positive] + self.agreements[positive + 1 :]
        return _Tried(self.variant, (kept[0], kept[1]), self.floors, agreements)

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

    def threshold(self, quantile: float) -> float:
        """Return what that share of the negative volumes never reach."""
        return float(np.quantile(self.peaks[0], quantile))

    def agreement(self, quantile: float) -> float | None:
        """Return the mean agreement of what the threshold marks in positive volumes; None where it was not measured."""
        if not self.agreements or len(self.agreements) < len(self.peaks[1]):
            return None
        threshold = self.threshold(quantile)
        return float(np.mean([each.at(threshold) for each in self.agreements]))

    def numbers(self, quantile: float) -> dict[str, float | None]:
        """What a record says of it; the threshold is that quantile of the negatives' peaks."""
        numbers = {"threshold": self.threshold(quantile), "noise_floor": self.floor, "auc": self.auc}
        agreement = self.agreement(quantile)
        return numbers if agreement is None else numbers | {"agreement": agreement}


@dataclass(frozen=True)
class Search:
    """What is chosen from.

    Attributes:
        candidates: Variants; None for `default_candidates` of the stages, and their neighboring stages added up.
        stages: To choose among; empty for all that give maps.
        quantile: Share of the negative volumes that stay below the threshold everywhere; lower it where some of them
            are known to hold the finding after all.
        presets: Measure thresholds for the planes of presets as well, which takes most of the time.
    """

    candidates: Sequence[Variant] | None = None
    stages: Sequence[int] = ()
    quantile: float = SHARE_OF_VOLUMES
    presets: bool = True


def calibrate(
    bundle: Bundle,
    cases: Sequence[Case],
    settings: ReconstructionSettings,
    search: Search,
    look: Look,
    *,
    class_index: int = 0,
) -> Calibration:
    """Choose a variant and a threshold for each method of a bundle, from volumes with labels of a class.

    The highest agreement wins, then the first. Where none can be measured, of single stages the highest AUC wins, then
    the larger separation, then the first; a sum of that stage and a neighbor goes before it where its AUC is not
    clearly lower. With fewer than `LEAST_TO_CHOOSE` volumes of a label it is the first of each method, its default;
    without negative volumes there is no noise to measure, and nothing is returned.

    Args:
        bundle: The model.
        cases: Files with labels 0 and 1 of the class.
        settings: Methods, planes and whatever is not to be chosen.
        search: What is chosen from.
        look: Where to compute.
        class_index: Of the class.

    Returns:
        The choices.
    """
    settings = replace(settings, class_name=bundle.spec.classes[class_index])
    if all(label for _, label in cases):
        return Calibration({}, [])
    model = prepare_model(bundle, settings, look.device, look.precision)
    candidates, pairs = search.candidates, []
    if candidates is None:
        candidates = default_candidates(bundle, settings, class_index=class_index, stages=search.stages)
        pairs = neighbouring_stages(candidates)
    look.pace.expect(len(cases) * _amounts(settings, [*candidates, *(pair[0] for pair in pairs)]))
    trial = _Trial(model, settings, cases, look)
    if not pairs:
        return _chosen(trial.tried(candidates), bundle.spec, settings, search.quantile)
    negatives = [index for index, (_, label) in enumerate(cases) if not label][:WEIGHING_VOLUMES]
    weighed = {each.variant: each for each in trial.tried(candidates, negatives)}
    noisy = [pair for pair in pairs if min(weighed[variant].floor for variant in pair) > 0]
    added = [add_stages(pair, (weighed[pair[0]].floor, weighed[pair[1]].floor)) for pair in noisy]
    return _chosen(trial.tried([*candidates, *added]), bundle.spec, settings, search.quantile)


def _amounts(settings: ReconstructionSettings, variants: Sequence[Variant]) -> Amounts:
    return amounts(settings, [variant.method for variant in variants], len(variants))


class _Trial:
    """Tries variants in volumes: each volume is projected once, also where some variants follow from others' floors."""

    def __init__(self, model: ReadyModel, settings: ReconstructionSettings, cases: Sequence[Case], look: Look) -> None:
        self._model, self._settings, self._cases, self._look = model, settings, cases, look
        self._compared = [number for number, (_, label) in enumerate(cases) if label][:COMPARED_VOLUMES]
        self._found: dict[int, dict[str, list[float]]] = {}

    def tried(self, variants: Sequence[Variant], some: Sequence[int] = ()) -> list[_Tried]:
        """Return what variants reach, those of an earlier call first, in some of the cases by number, or in all."""
        model, look = self._model, self._look
        named = {str(index): variant for index, variant in enumerate(variants)}
        jobs, numbers, run = [], [], decide(self._settings, model, variants=named)
        for number in some or range(len(self._cases)):
            path, label = self._cases[number]
            found = self._found.setdefault(number, {})
            left = {name: variant for name, variant in run.targets[0].variants.items() if name not in found}
            if left:
                wanted = replace(run, targets=(replace(run.targets[0], variants=left),), halves=bool(label))
                keep = bool(some) or number in self._compared
                jobs.append(self._job(path, wanted, again=bool(found), keep=keep))
                numbers.append(number)
        for number, measured in zip(numbers, look.measure(jobs), strict=True):
            self._found[number].update(measured)
        tried = {name: _Tried(variant) for name, variant in run.targets[0].variants.items()}
        for number in sorted(self._found):
            label = self._cases[number][1]
            for name, each in tried.items():
                peak, *more = self._found[number][name]
                each.peaks[label].append(peak)
                if label == 0:
                    each.floors.extend(more)
                elif more:
                    each.agreements.append(Agreement.of_numbers(more))
        return list(tried.values())

    def _job(self, path: Path, run: Run, *, again: bool, keep: bool) -> Job:
        """Return a volume to measure; its state is kept for another time."""
        look, model, variants = self._look, self._model, run.targets[0].variants
        takes = _amounts(self._settings, list(variants.values()))
        takes = np.array([0.0, 0.0, len(variants), 0.0]) if again else takes

        def read() -> ReadyScan | Foreground:
            held = look.held.take(path, model, run) if again else None
            return look.read(path, run) if held is None else held

        def measure(scan: ReadyScan | Foreground, watched: Watched) -> Mapping[str, tuple[float, ...]]:
            foreground = scan if isinstance(scan, Foreground) else foreground_of(scan, model, run, watched)
            measured = peaks_and_agreements if run.halves else peaks_and_floors
            found = measured(foreground, variants, watched)
            if keep:
                look.held.keep(path, model, run, foreground)
            return found

        facts = facts_of(model, run) | ({"agreement": AGREEMENT} if run.halves else {})
        return Job(path, facts, takes, read, measure)


def foreground_of(scan: ReadyScan, model: ReadyModel, run: Run, watched: Watched) -> Foreground:
    """Show the encoder a volume's planes, but for those of the logits' profiles.

    Args:
        scan: The volume.
        model: On its device.
        run: What is made.
        watched: Is told how far it is.

    Returns:
        The heatmaps' values at the volume's foreground.
    """
    run = replace(run, profiles=False)
    slices = _amounts(run.asked, run.variants)[1]
    (projected,) = project(scan.volume, model.encoder, run, watched.reporter(slices))
    foreground = scan.prepared.foreground
    return Foreground(projected, foreground_mask(scan.volume) if foreground is None else foreground)


def peaks_and_floors(
    foreground: Foreground, variants: Mapping[str, Variant], watched: Watched
) -> dict[str, tuple[float, float]]:
    """Measure what heatmaps reach in a volume.

    Args:
        foreground: Of the volume.
        variants: By name.
        watched: Is told how far it is.

    Returns:
        By name the highest value, and what one voxel in a thousand reaches.
    """

    def measure(name: str, values: torch.Tensor) -> torch.Tensor:
        watched.heatmaps()
        return order_statistics(values, FLOOR_QUANTILE)

    found = foreground.measure(variants, measure)
    watched.heatmaps(0)
    return {
        name: (float(peak), quantile_between(float(low), float(high), FLOOR_QUANTILE, foreground.count))
        for name, (peak, low, high) in found.items()
    }


def peaks_and_agreements(
    foreground: Foreground, variants: Mapping[str, Variant], watched: Watched
) -> dict[str, tuple[float, ...]]:
    """Measure what heatmaps reach in a volume with the finding, and how well their halves agree.

    Args:
        foreground: Of the volume, of a run with halves.
        variants: By name.
        watched: Is told how far it is.

    Returns:
        By name the highest value, then what `Agreement.of_numbers` reads; nothing then where no directions over the
        sphere were looked at.
    """

    def measure(name: str, halves: torch.Tensor) -> torch.Tensor:
        watched.heatmaps()
        variant = variants[name]
        whole = foreground.whole(halves, variant)
        evidence = foreground.evidence(variant)
        peak = whole.max()[None]
        if evidence is None:
            return peak
        return torch.cat([peak, measure_agreement(whole, halves, evidence.to(whole.device))])

    found = foreground.measure(variants, measure, halves=True)
    watched.heatmaps(0)
    return {name: tuple(numbers.tolist()) for name, numbers in found.items()}


def auc_error(area: float, negative: int, positive: int) -> float:
    """Compute the standard error of an AUC (J. A. Hanley, B. J. McNeil, Radiology 143(1), 1982, 29-36).

    Args:
        area: The AUC.
        negative: Number of negative volumes.
        positive: Number of positive ones.

    Returns:
        The error; 0 for areas of 0 and 1.
    """
    of_positives = (positive - 1) * (area / (2.0 - area) - area**2)
    of_negatives = (negative - 1) * (2.0 * area**2 / (1.0 + area) - area**2)
    return math.sqrt(max(0.0, area * (1.0 - area) + of_positives + of_negatives) / (positive * negative))


def auc_interval(area: float, negative: int, positive: int) -> tuple[float, float]:
    """Return the areas from which an observed one is no more than `DEVIATIONS` of their own standard errors away.

    So an area of 1 from few volumes has a width (R. G. Newcombe, Stat. Med. 25(4), 2006, 559-573, method 5 in its plain
    form).

    Args:
        area: The AUC observed.
        negative: Number of negative volumes.
        positive: Number of positive ones.

    Returns:
        The ends.
    """
    true = np.linspace(0.0, 1.0, 2001)
    errors = np.array([auc_error(each, negative, positive) for each in true.tolist()])
    held = true[np.abs(true - area) <= DEVIATIONS * errors + 1e-9]
    return float(min(held.min(initial=area), area)), float(max(held.max(initial=area), area))


def nested_auc(tried: list[_Tried], quantile: float = SHARE_OF_VOLUMES) -> float | None:
    """Estimate the AUC of a method whose variant is chosen: of volumes that the choice did not see.

    A positive and a negative volume are left out in turn, the others choose, and the two are compared by that variant.
    The AUC of the variant that all chose is the highest of many, which flatters.

    Args:
        tried: The method's variants.
        quantile: Share of the negative volumes that stay below the threshold.

    Returns:
        The share of pairs in the right order, ties counting half; None where a label has fewer than two volumes.
    """
    negatives, positives = (len(values) for values in tried[0].peaks)
    if min(negatives, positives) < 2:
        return None
    pairs = list(np.ndindex(negatives, positives))
    if len(pairs) > LEFT_OUT:
        pairs = [pairs[index] for index in np.random.default_rng(0).choice(len(pairs), LEFT_OUT, replace=False)]
    wins = 0.0
    for negative, positive in pairs:
        best = _best([candidate.without(negative, positive) for candidate in tried], quantile).variant
        chosen = next(candidate for candidate in tried if candidate.variant == best)
        low, high = chosen.peaks[0][negative], chosen.peaks[1][positive]
        wins += (high > low) + 0.5 * (high == low)
    return float(wins / len(pairs))


def _best(tried: list[_Tried], quantile: float = SHARE_OF_VOLUMES) -> _Tried:
    """Return a method's best by agreement; without it, by AUC."""
    agreements = [candidate.agreement(quantile) for candidate in tried]
    known = [each for each in agreements if each is not None]
    if tried[0].auc is None or len(known) < len(tried):
        return _best_by_auc(tried)
    return tried[int(np.argmax(known))]  # the first of equals


def _best_by_auc(tried: list[_Tried]) -> _Tried:
    """Return a method's best of a single stage by AUC and separation, or that stage and its neighbor added up.

    A few dozen volumes cannot tell which stage is right. Where the sum, else made alike, is not clearly worse (by more
    than a standard error of the AUC), it is taken: it was measured to cost less than a stage that is wrong.
    """
    if tried[0].auc is None:
        return tried[0]

    def merit(candidate: _Tried) -> tuple[float, float]:
        return candidate.auc or 0.0, candidate.separation

    singles = [candidate for candidate in tried if not candidate.variant.weights]
    single = max(singles or tried, key=merit)  # the first of equals
    least = merit(single)[0] - single.auc_error
    sums = [each for each in tried if each.variant.weights and single.variant in each.variant.parts()]
    return max([each for each in sums if merit(each)[0] >= least], key=merit, default=single)


def _chosen(tried: list[_Tried], spec: BundleSpec, settings: ReconstructionSettings, quantile: float) -> Calibration:
    thresholds: dict[str, Json] = {}
    for method in dict.fromkeys(candidate.variant.method for candidate in tried):
        of_method = [candidate for candidate in tried if candidate.variant.method == method]
        choosing = len(of_method) > 1 and min(map(len, of_method[0].peaks)) >= LEAST_TO_CHOOSE
        best = _best(of_method, quantile) if choosing else of_method[0]
        thresholds[threshold_key(method, settings.class_name, spec.classes)] = {
            **best.numbers(quantile),
            "volume_quantile": quantile,
            "voxel_quantile": FLOOR_QUANTILE,
            "negative_volumes": len(best.peaks[0]),
            "positive_volumes": len(best.peaks[1]),
            "settings": settings_that_matter(best.variant, settings),
            **({} if best.agreement(quantile) is None else {"agreement_threshold": best_threshold(best.agreements)}),
            **_honest(best, of_method if choosing else [], quantile),
        }
    records = [
        {"class": settings.class_name, **candidate.variant.record(), **candidate.numbers(quantile)}
        for candidate in tried
    ]
    return Calibration(thresholds, records)


def _honest(best: _Tried, chosen_from: list[_Tried], quantile: float) -> Json:
    """Return what a record says of the choice; ``nested_auc`` is of volumes that it did not see, with an interval."""
    area = nested_auc(chosen_from, quantile) if chosen_from else best.auc
    record: Json = {"chosen_from": max(1, len(chosen_from)), "nested_auc": area}
    if chosen_from:
        record["chosen_by"] = "auc" if best.agreement(quantile) is None else "agreement"
    if area is not None:
        record["nested_auc_interval"] = list(auc_interval(area, len(best.peaks[0]), len(best.peaks[1])))
    return record
