"""Means with intervals by a bootstrap over patients, who may have several volumes each. Free of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

RESAMPLES = 2000
COVERAGE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval.

    Attributes:
        value: Its value for all cases.
        low: Lower end of the 95 % interval; None for a single patient.
        high: Upper end of it.
        cases: Number of volumes.
        patients: Number of their patients.
    """

    value: float
    low: float | None
    high: float | None
    cases: int
    patients: int


class Bootstrap:
    """Resamples the patients of some cases; all statistics see the same resamples.

    A resample draws as many patients as there are, with replacement; a patient brings all of its cases. The
    interval runs from the 2.5 to the 97.5 % quantile of the statistic over the resamples (B. Efron, Ann. Stat.
    7(1), 1979, 1-26). Resamples in which the statistic does not exist (AUC without negatives) are left out.

    Args:
        patients: The patient of each case.
        seed: Seed of the resamples.
    """

    def __init__(self, patients: Sequence[str], *, seed: int) -> None:
        _, index = np.unique(np.array(patients, dtype=object).astype(str), return_inverse=True)
        self.cases, self.patients = index.size, int(index.max()) + 1 if index.size else 0
        rng = np.random.default_rng(seed)
        shares = [1 / self.patients] * self.patients if self.patients else [1.0]
        counts = rng.multinomial(self.patients, shares, RESAMPLES)
        # One row per resample, the first the sample itself: how often each case is in it.
        self.weights = np.vstack([np.ones(self.cases), counts[:, index]]).astype(np.float64)

    def mean(self, values: npt.ArrayLike) -> Estimate | None:
        """Estimate a mean.

        Args:
            values: A value for each case.

        Returns:
            The mean over the cases; None without cases.
        """
        return self._estimate(self._means(np.asarray(values, dtype=np.float64)))

    def difference(self, values: npt.ArrayLike, others: npt.ArrayLike) -> Estimate | None:
        """Estimate by how much one mean is above another of the same cases.

        Args:
            values: A value for each case.
            others: What is compared with, a value for each case.

        Returns:
            The mean of the differences, case by case; None without cases.
        """
        return self.mean(np.asarray(values, dtype=np.float64) - np.asarray(others, dtype=np.float64))

    def auc(self, scores: npt.ArrayLike, labels: npt.ArrayLike) -> Estimate | None:
        """Estimate the area under the ROC curve (`metrics.auc`).

        Args:
            scores: A score for each case.
            labels: A label for each; not zero is positive.

        Returns:
            The area; None where one of the labels is absent.
        """
        values, positive = np.asarray(scores, dtype=np.float64), np.asarray(labels) != 0
        if values.size == 0 or positive.all() or not positive.any():
            return None
        difference = values[positive][:, np.newaxis] - values[~positive]
        wins = (difference > 0) + 0.5 * (difference == 0)
        of_positives, of_negatives = self.weights[:, positive], self.weights[:, ~positive]
        total = of_positives.sum(axis=1) * of_negatives.sum(axis=1)
        return self._estimate(_divide(np.einsum("rp,pn,rn->r", of_positives, wins, of_negatives, optimize=True), total))

    def balanced_accuracy(self, called: npt.ArrayLike, labels: npt.ArrayLike) -> Estimate | None:
        """Estimate the mean of sensitivity and specificity.

        Args:
            called: Whether each case is called positive.
            labels: A label for each; not zero is positive.

        Returns:
            The balanced accuracy; None where one of the labels is absent.
        """
        accuracies = self._accuracies(called, labels)
        return None if accuracies is None else self._estimate(accuracies)

    def accuracy_difference(
        self, called: npt.ArrayLike, others: npt.ArrayLike, labels: npt.ArrayLike
    ) -> Estimate | None:
        """Estimate by how much one balanced accuracy is above another of the same cases.

        Args:
            called: Whether each case is called positive.
            others: What is compared with: whether each case is called positive there.
            labels: A label for each; not zero is positive.

        Returns:
            The difference; None where one of the labels is absent.
        """
        one, other = self._accuracies(called, labels), self._accuracies(others, labels)
        return None if one is None or other is None else self._estimate(one - other)

    def _accuracies(self, called: npt.ArrayLike, labels: npt.ArrayLike) -> Float | None:
        """Compute the balanced accuracy of each resample; None where one of the labels is absent."""
        says, positive = np.asarray(called) != 0, np.asarray(labels) != 0
        if says.size == 0 or positive.all() or not positive.any():
            return None
        sensitivity = _divide(self.weights @ (says & positive), self.weights @ positive)
        specificity = _divide(self.weights @ (~says & ~positive), self.weights @ ~positive)
        return (sensitivity + specificity) / 2

    def _means(self, values: Float) -> Float:
        return _divide(self.weights @ values, self.weights.sum(axis=1))

    def _estimate(self, statistics: Float) -> Estimate | None:
        if not self.cases:
            return None
        resampled = statistics[1:][np.isfinite(statistics[1:])]
        tail = (1 - COVERAGE) / 2
        low = high = None
        if self.patients > 1 and resampled.size:
            low, high = (float(value) for value in np.quantile(resampled, (tail, 1 - tail)))
        return Estimate(float(statistics[0]), low, high, self.cases, self.patients)


def _divide(numerator: Float, denominator: Float) -> Float:
    """Divide; NaN where the denominator is 0."""
    quotients = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotients, where=denominator != 0)
    return quotients
