"""How well a mask or a heatmap agrees with the truth: voxels (Dice, AUC) and lesions (precision, recall, F1).

One rule for empty masks everywhere: nothing to find and nothing predicted is a perfect answer (1); where only
one of the two masks is empty every score is 0. Arrays of different shapes are a ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Scores:
    """Voxel-wise Dice, and precision, recall and F1 over lesions (see `component_scores`)."""

    dice: float
    precision: float
    recall: float
    f1: float


def score(prediction: Array, truth: Array) -> Scores:
    """All scores of one mask against the truth; nonzero voxels are the masks (Z Y X, equal shapes)."""
    return Scores(dice(prediction, truth), *component_scores(prediction, truth))


def dice(prediction: Array, truth: Array) -> float:
    """2 |P and T| / (|P| + |T|) over the nonzero voxels of two arrays of one shape; 1 where both are empty.

    L. R. Dice, Ecology 26(3), 1945, 297-302.
    """
    predicted, true = _masks(prediction, truth)
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    return 2 * int(np.count_nonzero(predicted & true)) / total if total else 1.0


def component_scores(prediction: Array, truth: Array, min_overlap: float = 0.0) -> tuple[float, float, float]:
    """Precision, recall and F1 over 26-connected components.

    precision: share of the predicted components that lie on the truth, recall: share of the true components
    that lie on the prediction, F1 = 2 P R / (P + R), 0 where P + R = 0. A component lies on the other mask
    when it has at least one voxel in common with it, at least the fraction `min_overlap` (0..1) of its own.
    Both masks empty: 1, 1, 1. Only one of them empty: 0, 0, 0.
    """
    if not 0.0 <= min_overlap <= 1.0:
        raise ValueError(f"min_overlap of {min_overlap}, expected 0..1")
    predicted, true = _masks(prediction, truth)
    if not predicted.any() or not true.any():
        both_empty = float(not predicted.any() and not true.any())
        return both_empty, both_empty, both_empty
    precision = _share_on(predicted, true, min_overlap)
    recall = _share_on(true, predicted, min_overlap)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def best_dice(heatmap: npt.NDArray[np.floating], truth: Array) -> tuple[float, float]:
    """The threshold t whose mask heatmap >= t has the highest Dice, and that Dice: exact, of all thresholds.

    It uses the truth: an upper bound (an oracle), never a result. Of equally good thresholds the highest.
    An empty truth is met by a threshold just above the heatmap's maximum, with Dice 1.
    """
    true = _masks(heatmap, truth)[1]
    if np.isnan(heatmap).any():
        raise ValueError("the heatmap holds NaN, which no threshold orders")
    if not true.any():
        top = heatmap.max()
        return float(np.nextafter(top, np.inf, dtype=heatmap.dtype)), 1.0
    # Only values of true voxels can be best: between two of them a lower threshold adds false voxels alone.
    lesion, rest = np.sort(heatmap[true]), np.sort(heatmap[~true])
    true_positives = lesion.size - np.searchsorted(lesion, lesion)
    false_positives = rest.size - np.searchsorted(rest, lesion)
    scores = 2 * true_positives / (true_positives + false_positives + lesion.size)
    best = lesion.size - 1 - int(np.argmax(scores[::-1]))
    return float(lesion[best]), float(scores[best])


def auc(scores: npt.NDArray[np.floating], labels: Array) -> float:
    """Area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Mann-Whitney: AUC = (sum of the positives' ranks - n_pos (n_pos + 1) / 2) / (n_pos n_neg), ties share the
    mean of their ranks. scores and labels (nonzero: positive) have one shape.
    Raises ValueError where one class is absent or a score is NaN.
    """
    from scipy.stats import rankdata

    positive = _masks(scores, labels)[1]
    if np.isnan(scores).any():
        raise ValueError("the scores hold NaN, which has no rank")
    n_positive = int(np.count_nonzero(positive))
    n_negative = positive.size - n_positive
    if not n_positive or not n_negative:
        raise ValueError(f"AUC of {n_positive} positives and {n_negative} negatives is not defined")
    ranks = rankdata(scores).reshape(positive.shape)
    wins = float(ranks[positive].sum()) - n_positive * (n_positive + 1) / 2
    return wins / (n_positive * n_negative)


def _masks(first: Array, second: Array) -> tuple[BoolArray, BoolArray]:
    if first.shape != second.shape:
        raise ValueError(f"arrays of shapes {first.shape} and {second.shape}, expected one shape")
    return first.astype(np.bool_), second.astype(np.bool_)


def _share_on(mask: BoolArray, other: BoolArray, min_overlap: float) -> float:
    """Share of the mask's components that lie on the other mask."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3,) * mask.ndim))
    size = np.bincount(labels[mask], minlength=count + 1)[1:]
    common = np.bincount(labels[mask & other], minlength=count + 1)[1:]
    return float(np.mean((common > 0) & (common / size >= min_overlap)))
