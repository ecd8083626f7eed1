"""The threshold of a segmenter's logits, from volumes without the finding: no mask is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.output import Json
from tonno_core.segmentation.connected import runs_of

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
        largest_mm3: Of the largest part at which the finding is likelier than not, 0 where there is none.
        floor: What one voxel in a thousand reaches.
        peak: The highest logit.
    """

    label: int
    largest_mm3: float
    floor: float
    peak: float


def answered(logits: npt.NDArray[np.float32], label: int, voxel_mm3: float) -> Answered:
    """Measure an answer.

    Args:
        logits: Z Y X.
        label: Of the volume.
        voxel_mm3: Of the grid.

    Returns:
        What is kept.
    """
    runs = runs_of(logits >= 0)
    largest = float(runs.sizes.max()) * voxel_mm3 if runs.count else 0.0
    return Answered(label, largest, float(np.quantile(logits, FLOOR_QUANTILE)), float(logits.max()))


def threshold_record(answers: Sequence[Answered]) -> Json | None:
    """Choose a threshold, and the smallest part that counts.

    A segmenter's logit saturates: where it is wrong it is as high as where it is right, so what volumes without the
    finding reach at most says nothing. The threshold is that which the network was trained for, 0, where the finding is
    as likely as not; and what tells wrong parts from right ones is their size. A part counts that is larger than the
    largest one in most volumes without the finding, unless these are as large as findings are.

    Args:
        answers: To the volumes of split ``val``.

    Returns:
        A record for the model's description; None without volumes that lack the finding.
    """
    negatives = [each for each in answers if not each.label]
    positives = [each for each in answers if each.label]
    if not negatives:
        return None
    smallest = float(np.quantile([each.largest_mm3 for each in negatives], SHARE_OF_VOLUMES))
    found = [each.largest_mm3 for each in positives if each.largest_mm3 > 0]
    if found:
        smallest = min(smallest, _MOST_OF_A_FINDING * float(np.median(found)))
    return {
        "threshold": 0.0,
        "noise_floor": float(np.mean([each.floor for each in negatives])),
        "min_volume_mm3": round(smallest, 3),
        "volume_quantile": SHARE_OF_VOLUMES,
        "voxel_quantile": FLOOR_QUANTILE,
        "negative_volumes": len(negatives),
        "positive_volumes": len(positives),
        "settings": {"smooth_mm": 0.0},
    }
