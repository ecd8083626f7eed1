"""The threshold of a segmenter's logits, and the smallest part that counts. No mask is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import MIN_VOLUME
from tonno_core.distillation.pseudo_mask import FINDING, UNKNOWN
from tonno_core.output import Json
from tonno_core.segmentation.connected import runs_of

# Thresholds to choose from; 0, where the finding is as likely as not, if nothing tells them apart.
LADDER = (-3.0, -2.5, -2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0)
# The noise floor: one voxel in a thousand of a negative scan reaches it.
FLOOR_QUANTILE = 0.999
# This share of the volumes without the finding shall show none.
SHARE_OF_VOLUMES = 0.95
# A part is never dropped that is larger than this share of what volumes with the finding show.
_MOST_OF_A_FINDING = 0.25


@dataclass(frozen=True)
class Answered:
    """What is kept of the answer to a volume.

    Attributes:
        label: 0 or 1.
        largest_mm3: By threshold of the ladder, of the largest part, 0 where there is none.
        agreement: By threshold the Dice with the pseudo-mask, among its known voxels; empty where that has no finding.
        floor: What one voxel in a thousand reaches.
    """

    label: int
    largest_mm3: tuple[float, ...]
    agreement: tuple[float, ...]
    floor: float


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
    return Answered(label, tuple(largest), tuple(agreement), floor)


def threshold_record(answers: Sequence[Answered]) -> Json:
    """Choose a threshold, and the smallest part that counts.

    A segmenter's logit saturates: where it is wrong it is as high as where it is right, so what volumes without the
    finding reach at most says nothing. The threshold is that of the ladder at which the answers to volumes with the
    finding agree best with their pseudo-masks; and what tells wrong parts from right ones is their size. A part counts
    that is larger than the largest one in most volumes without the finding, unless these are as large as findings are.

    Args:
        answers: To the volumes of split ``val``.

    Returns:
        A record for the model's description; without volumes that lack the finding every part counts.
    """
    negatives = [each for each in answers if not each.label]
    positives = [each for each in answers if each.label]
    agreements = [each.agreement for each in positives if each.agreement]
    means = np.mean(agreements, axis=0) if agreements else np.zeros(len(LADDER))
    best = np.flatnonzero(means == means.max())
    chosen = int(min(best, key=lambda index: abs(LADDER[index])))
    smallest = float(np.quantile([each.largest_mm3[chosen] for each in negatives] or [0.0], SHARE_OF_VOLUMES))
    found = [each.largest_mm3[chosen] for each in positives if each.largest_mm3[chosen] > 0]
    if found:
        smallest = min(smallest, _MOST_OF_A_FINDING * float(np.median(found)))
    return {
        "threshold": LADDER[chosen],
        **({"noise_floor": float(np.mean([each.floor for each in negatives]))} if negatives else {}),
        MIN_VOLUME: round(smallest, 3),
        "agreement": round(float(means[chosen]), 4) if agreements else None,
        "volume_quantile": SHARE_OF_VOLUMES,
        "voxel_quantile": FLOOR_QUANTILE,
        "negative_volumes": len(negatives),
        "positive_volumes": len(positives),
        "settings": {"smooth_mm": 0.0},
    }
