"""The threshold of a segmenter's logits, and the parts that count. No mask is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import LEAST_TO_CHOOSE, MIN_PEAK, MIN_VOLUME
from tonno_core.distillation.pseudo_mask import FINDING, UNKNOWN
from tonno_core.output import Json
from tonno_core.segmentation.connected import runs_of

# Thresholds to choose from; 0, where the finding is as likely as not, if nothing tells them apart. The robust loss asks
# for no probability: where a finding ends its logits are far below 0.
LADDER = tuple(0.5 * step for step in range(-16, 3))
# The noise floor: one voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999
# This share of the volumes without the finding shall show none.
SHARE_OF_VOLUMES = 0.95
# A part is never dropped that is larger than this share of what volumes with the finding show.
_MOST_OF_A_FINDING = 0.25
# A part is dropped where the volume has the finding by less than this chance, as many having it as not: missing one is
# as bad as showing four too many.
CHANCE = 0.2


@dataclass(frozen=True)
class Answered:
    """What is kept of the answer to a volume.

    Attributes:
        label: 0 or 1.
        largest_mm3: By threshold of the ladder, of the largest part, 0 where there is none.
        agreement: By threshold the Dice with the pseudo-mask, among its known voxels; empty where that has no finding.
        floor: What one voxel in a thousand reaches.
        peak: The highest logit.
    """

    label: int
    largest_mm3: tuple[float, ...]
    agreement: tuple[float, ...]
    floor: float
    peak: float = 0.0


def answered(logits: npt.NDArray[np.float32], levels: npt.NDArray[np.uint8], label: int, voxel_mm3: float) -> Answered:
    """Measure an answer.

    Args:
        logits: Z Y X.
        levels: The pseudo-mask, Z Y X.
        label: Of the volume.
        voxel_mm3: Of the grid.

    Returns:
        What is kept.
    """
    largest, agreement = [], []
    known, finding = levels != UNKNOWN, levels == FINDING
    for threshold in LADDER:
        found = logits >= threshold
        runs = runs_of(found)
        largest.append(float(runs.sizes.max()) * voxel_mm3 if runs.count else 0.0)
        if finding.any():
            both = np.count_nonzero(found & known) + np.count_nonzero(finding)
            agreement.append(2.0 * np.count_nonzero(found & finding) / both)
    floor = float(np.quantile(logits, FLOOR_QUANTILE))
    return Answered(label, tuple(largest), tuple(agreement), floor, float(logits.max()))


def peak_level(peaks: Sequence[float], labels: Sequence[int]) -> float | None:
    """Find the highest logit from which on a volume has the finding by a chance of `CHANCE`.

    The chance is the logistic function of the highest logit, fitted to the volumes' labels, each label counting as
    much as the other, with the square of the slope as a penalty: where these logits tell volumes apart badly, hardly
    any is too low.

    Args:
        peaks: Of the volumes.
        labels: 0 or 1 of each.

    Returns:
        The logit; None where there are too few volumes of a kind, or higher ones have the finding more rarely.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, log_expit

    x, positive = np.asarray(peaks, dtype=np.float64), np.asarray(labels) > 0
    if min(np.count_nonzero(positive), np.count_nonzero(~positive)) < LEAST_TO_CHOOSE:
        return None
    weights = positive.size / 2.0 / np.where(positive, np.count_nonzero(positive), np.count_nonzero(~positive))
    sign = np.where(positive, 1.0, -1.0)

    def loss(line: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        z = sign * (line[0] * x + line[1])
        pull = -weights * sign * expit(-z)
        value = -(weights * log_expit(z)).sum() + 0.5 * line[0] ** 2
        return float(value), np.array([(pull * x).sum() + line[0], pull.sum()])

    slope, offset = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return float((np.log(CHANCE / (1 - CHANCE)) - offset) / slope) if slope > 0 else None


def threshold_record(answers: Sequence[Answered], learned: Sequence[Answered] = ()) -> Json:
    """Choose a threshold, and the parts that count.

    The threshold is that of the ladder at which the answers to volumes with the finding agree best with their
    pseudo-masks; it is low, and shows much that is none. A part counts whose highest logit reaches a level that the
    labels of the volumes give, see `peak_level`. The highest logits of volumes without the finding alone give none: a
    segmenter's logit saturates, and where it is wrong it can be as high as where it is right.

    Where there is no such level, or none above the threshold, a part counts that is larger than the largest one in
    most volumes without the finding, unless these are as large as findings are.

    Args:
        answers: To the volumes of split ``val``.
        learned: To those of split ``train``, of which label and highest logit are taken.

    Returns:
        A record for the model's description; without volumes that lack the finding every part counts.
    """
    negatives = [each for each in answers if not each.label]
    positives = [each for each in answers if each.label]
    agreements = [each.agreement for each in positives if each.agreement]
    means = np.mean(agreements, axis=0) if agreements else np.zeros(len(LADDER))
    best = np.flatnonzero(means == means.max())
    chosen = int(min(best, key=lambda index: abs(LADDER[index])))
    threshold, peaked = LADDER[chosen], (*answers, *learned)
    # All that lies below the threshold is alike: no part.
    level = peak_level([max(each.peak, threshold) for each in peaked], [each.label for each in peaked])
    if level is not None and level <= threshold:
        level = None
    smallest = float(np.quantile([each.largest_mm3[chosen] for each in negatives] or [0.0], SHARE_OF_VOLUMES))
    found = [each.largest_mm3[chosen] for each in positives if each.largest_mm3[chosen] > 0]
    if found:
        smallest = min(smallest, _MOST_OF_A_FINDING * float(np.median(found)))
    if level is not None:
        smallest = 0.0
    return {
        "threshold": threshold,
        **({"noise_floor": float(np.mean([each.floor for each in negatives]))} if negatives else {}),
        MIN_VOLUME: round(smallest, 3),
        **({} if level is None else {MIN_PEAK: round(level, 3), "peaks": len(peaked), "chance": CHANCE}),
        "agreement": round(float(means[chosen]), 4) if agreements else None,
        "volume_quantile": SHARE_OF_VOLUMES,
        "voxel_quantile": FLOOR_QUANTILE,
        "negative_volumes": len(negatives),
        "positive_volumes": len(positives),
        "settings": {"smooth_mm": 0.0},
    }
