"""Measure how well a mask or a heatmap agrees with the truth: voxels (Dice, AUC), lesions (precision, recall, F1).

Empty masks everywhere: nothing to find and nothing predicted is a perfect answer (1); where only one of the two
masks is empty, every score is 0. Arrays of different shapes are a ValueError.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tonno_core.segmentation.connected import IntArray, Runs, runs_of

BoolArray = npt.NDArray[np.bool_]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Scores:
    """Scores of a mask.

    Attributes:
        dice: Dice over voxels.
        precision: Precision over lesions (see `component_scores`).
        recall: Recall over lesions.
        f1: F1 over lesions.
    """

    dice: float
    precision: float
    recall: float
    f1: float


def score(prediction: Array, truth: Array) -> Scores:
    """Compute all scores of a mask against the truth.

    Args:
        prediction: Z Y X; not zero is inside.
        truth: Likewise, of the same shape.

    Returns:
        The scores.
    """
    return Scores(dice(prediction, truth), *component_scores(prediction, truth))


def dice(prediction: Array, truth: Array) -> float:
    """Compute Dice = 2 |P and T| / (|P| + |T|) (L. R. Dice, Ecology 26(3), 1945, 297-302).

    Args:
        prediction: P, of any shape; not zero is inside.
        truth: T, of the same shape.

    Returns:
        0 to 1; 1 where both are empty.
    """
    predicted, true = _masks(prediction, truth)
    total = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true))
    return 2 * int(np.count_nonzero(predicted & true)) / total if total else 1.0


def component_scores(prediction: Array, truth: Array, min_overlap: float = 0.0) -> tuple[float, float, float]:
    """Compute precision, recall and F1 over 26-connected components.

    Precision is the share of the predicted components that lie on the truth, recall the share of the true components
    that lie on the prediction, F1 = 2 P R / (P + R), or 0 where P + R = 0. A component lies on the other mask if they
    have a voxel in common and at least the fraction `min_overlap` of the component's voxels.

    Args:
        prediction: Z Y X; not zero is inside.
        truth: Likewise, of the same shape.
        min_overlap: 0 to 1.

    Returns:
        Precision, recall and F1: 1, 1, 1 where both masks are empty, 0, 0, 0 where only one of them is.
    """
    predicted, true = _masks(prediction, truth)
    return match(Components(predicted), Components(true), min_overlap)


class Components:
    """Holds the 26-connected components of a mask, found once for many comparisons.

    Args:
        mask: Z Y X; not zero is inside.
        counted: Tells by component whether it belongs to the mask; None for all.
    """

    def __init__(self, mask: Array, counted: Callable[[Runs], BoolArray] | None = None) -> None:
        self.mask = mask.astype(np.bool_)  # a copy
        self.runs = runs_of(self.mask)
        keep = None if counted is None else counted(self.runs)
        if keep is not None and not keep.all():
            self.mask.reshape(-1)[self.runs.voxels(~keep[self.runs.component])] = False
            self.runs, _ = self.runs.only(np.flatnonzero(keep))
        self.sizes = self.runs.sizes

    @cached_property
    def boxes(self) -> tuple[IntArray, IntArray]:
        """First and last index along Z, Y and X of the box around each component, N 3 each."""
        z, y, x = np.unravel_index(self.runs.first, self.mask.shape)
        first = np.full((self.sizes.size, 3), max(self.mask.shape))
        last = np.full((self.sizes.size, 3), -1)
        np.minimum.at(first, self.runs.component, np.stack([z, y, x], axis=1))
        np.maximum.at(last, self.runs.component, np.stack([z, y, x + self.runs.length - 1], axis=1))
        return first, last

    @cached_property
    def voxels(self) -> IntArray:
        """Flat indices of the mask's voxels."""
        return self.runs.voxels()

    @property
    def count(self) -> int:
        """Number of the mask's voxels."""
        return int(self.sizes.sum())

    def common(self, other: Components) -> IntArray:
        """Find the voxels that two masks have in common. Its time goes with the smaller mask.

        Args:
            other: A mask on the same grid.

        Returns:
            Flat indices.
        """
        small, large = sorted((self, other), key=lambda each: each.count)
        shared: IntArray = small.voxels[large.mask.reshape(-1)[small.voxels]]
        return shared

    def share_on(self, common: IntArray, min_overlap: float) -> float:
        """Compute the share of the components that lie on another mask (see `component_scores`).

        Args:
            common: From `common` with the other mask.
            min_overlap: 0 to 1.

        Returns:
            0 to 1.
        """
        run = np.searchsorted(self.runs.first, common, side="right") - 1
        counts = np.bincount(self.runs.component[run], minlength=self.sizes.size)
        return float(np.mean((counts > 0) & (counts / self.sizes >= min_overlap)))


def dice_of(predicted: Components, true: Components) -> float:
    """Compute `dice` of masks whose components were found before.

    Args:
        predicted: The predicted mask.
        true: The true mask on the same grid.

    Returns:
        0 to 1; 1 where both are empty.
    """
    total = predicted.count + true.count
    return 2 * predicted.common(true).size / total if total else 1.0


def match(predicted: Components, true: Components, min_overlap: float = 0.0) -> tuple[float, float, float]:
    """Compute `component_scores` of components that were found before.

    Args:
        predicted: The predicted mask.
        true: The true mask on the same grid.
        min_overlap: 0 to 1.

    Returns:
        Precision, recall and F1.

    Raises:
        ValueError: Another `min_overlap`.
    """
    if not 0.0 <= min_overlap <= 1.0:
        raise ValueError(f"min_overlap of {min_overlap}, expected 0..1")
    if not predicted.sizes.size or not true.sizes.size:
        both_empty = float(predicted.sizes.size == true.sizes.size)
        return both_empty, both_empty, both_empty
    common = predicted.common(true)
    precision, recall = predicted.share_on(common, min_overlap), true.share_on(common, min_overlap)
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total else 0.0


def max_iou(predicted: Components, true: Components) -> float:
    """Compute MaxIoU: how well a box around a predicted component can meet the box around a true one.

    It is the highest intersection over union of the box around a true component with the box around any predicted
    component; the mean over true components, of which a mask that is a filled box has one. Boxes lie along the array's
    axes.

    Args:
        predicted: The predicted mask.
        true: The true mask on the same grid.

    Returns:
        0 to 1; 1 where both masks are empty, 0 where only one of them is.
    """
    if not predicted.sizes.size or not true.sizes.size:
        return float(predicted.sizes.size == true.sizes.size)
    first, last = predicted.boxes
    volumes = np.prod(last - first + 1, axis=1)
    best = []
    for low, high in zip(*true.boxes, strict=True):
        common = np.prod(np.maximum(np.minimum(last, high) - np.maximum(first, low) + 1, 0), axis=1)
        best.append(float(np.max(common / (volumes + np.prod(high - low + 1) - common))))
    return float(np.mean(best))


def best_dice(heatmap: npt.NDArray[np.floating], truth: Array, covered: BoolArray | None = None) -> tuple[float, float]:
    """Find the threshold t whose mask heatmap >= t has the highest Dice, exactly, among all thresholds.

    It uses the truth: an upper bound (an oracle), never a result. An empty truth is met by a threshold just above the
    heatmap's maximum, with Dice 1; so is one of which nothing is covered, with Dice 0.

    Args:
        heatmap: Values without NaN.
        truth: The true mask, of the same shape; not zero is inside.
        covered: Where alone the mask can be; None for everywhere.

    Returns:
        The threshold, the highest of equally good ones, and its Dice.

    Raises:
        ValueError: The heatmap holds NaN.
    """
    true = _masks(heatmap, truth)[1]
    if np.isnan(heatmap).any():
        raise ValueError("the heatmap holds NaN, which no threshold orders")
    inside = np.ones_like(true) if covered is None else covered
    reachable = true & inside
    if not reachable.any():
        top = heatmap.max()
        return float(np.nextafter(top, np.inf, dtype=heatmap.dtype)), float(not true.any())
    missed = int(np.count_nonzero(true)) - int(np.count_nonzero(reachable))
    # Only values of true voxels can be best: between two of them a lower threshold adds false voxels alone.
    lesion, rest = np.sort(heatmap[reachable]), np.sort(heatmap[inside & ~true])
    true_positives = lesion.size - np.searchsorted(lesion, lesion)
    false_positives = rest.size - np.searchsorted(rest, lesion)
    scores = 2 * true_positives / (true_positives + false_positives + lesion.size + missed)
    best = lesion.size - 1 - int(np.argmax(scores[::-1]))
    return float(lesion[best]), float(scores[best])


def auc(scores: npt.NDArray[np.floating], labels: Array) -> float:
    """Compute the area under the ROC curve: the chance that a positive outscores a negative, ties counting half.

    Mann-Whitney: AUC = (sum of the positives' ranks - n_pos (n_pos + 1) / 2) / (n_pos n_neg), where ties share the
    mean of their ranks.

    Args:
        scores: Numbers without NaN.
        labels: Of the same shape; not zero is positive.

    Returns:
        0 to 1.

    Raises:
        ValueError: A class is absent, or a score is NaN.
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
