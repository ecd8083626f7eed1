"""Intervals against theory and against resamples that are drawn and counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.evaluation.bootstrap import RESAMPLES, Bootstrap
from tonno_core.segmentation.metrics import auc


def test_the_mean_is_that_of_the_cases_and_its_interval_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    estimate = Bootstrap([f"p{n}" for n in range(400)], seed=0).mean(values)
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    assert estimate.value == pytest.approx(values.mean(), rel=1e-12)
    # The central limit theorem's half width; 2000 resamples know a 2.5 % quantile to about 0.04 of a deviation.
    error = values.std() / np.sqrt(400)
    assert estimate.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert estimate.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)
    assert (estimate.cases, estimate.patients) == (400, 400)


def test_cases_of_one_patient_are_drawn_together() -> None:
    """Ten copies of each patient's case tell nothing new: the interval stays as wide."""
    values = np.random.default_rng(2).normal(size=50)
    once = Bootstrap([str(n) for n in range(50)], seed=0).mean(values)
    copies = Bootstrap([str(n) for n in range(50) for _ in range(10)], seed=0).mean(np.repeat(values, 10))
    assert once is not None
    assert copies is not None
    assert (copies.cases, copies.patients) == (500, 50)
    # The same draws of patients; sums in another order.
    assert (copies.value, copies.low, copies.high) == pytest.approx((once.value, once.low, once.high), rel=1e-9)


def test_auc_and_balanced_accuracy_are_those_of_each_resample() -> None:
    rng = np.random.default_rng(3)
    labels = np.array([0, 1, 0, 1, 1, 0, 1, 0, 0, 1])
    scores = np.round(rng.normal(size=10) + labels, 1)  # rounded: ties
    called = scores >= 0.5
    patients = ["a", "a", "b", "c", "d", "d", "e", "f", "g", "h"]
    sample = Bootstrap(patients, seed=0)
    by_hand, accuracies = [], []
    for weights in sample.weights:
        drawn = np.repeat(np.arange(10), weights.astype(int))
        of, says = labels[drawn], called[drawn]
        if 0 < of.sum() < of.size:
            by_hand.append(auc(scores[drawn], of))
            accuracies.append((says[of == 1].mean() + (~says[of == 0]).mean()) / 2)
    assert len(by_hand) > 0.9 * RESAMPLES
    of_sample = sample.auc(scores, labels), sample.balanced_accuracy(called, labels)
    for estimate, values in zip(of_sample, (by_hand, accuracies), strict=True):
        assert estimate is not None
        expected = (values[0], *np.quantile(values[1:], (0.025, 0.975)))
        # Weighted sums here, ranks there: equal up to float64 rounding.
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx(expected, rel=1e-9)


def test_the_seed_decides_and_rows_share_the_resamples() -> None:
    values = np.random.default_rng(4).normal(size=30)
    patients = [str(n) for n in range(30)]
    assert Bootstrap(patients, seed=7).mean(values) == Bootstrap(patients, seed=7).mean(values)
    assert Bootstrap(patients, seed=7).mean(values) != Bootstrap(patients, seed=8).mean(values)
    sample = Bootstrap(patients, seed=7)
    first, higher = sample.mean(values), sample.mean(values + 1.0)
    assert first is not None
    assert first.low is not None
    assert higher is not None
    assert higher.low == pytest.approx(first.low + 1.0, rel=1e-12)


def test_differences_are_paired() -> None:
    """What two rows have in common cancels: the interval is that of the differences alone, far narrower."""
    rng = np.random.default_rng(5)
    common, gain = rng.normal(size=200), rng.normal(0.1, 0.05, 200)
    sample = Bootstrap([str(n) for n in range(200)], seed=0)
    found = sample.difference(common + gain, common)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    error = gain.std() / np.sqrt(200)
    assert found.value == pytest.approx(gain.mean(), rel=1e-9)
    # As for the mean: the central limit theorem, and what 2000 resamples know of a quantile.
    assert found.low == pytest.approx(gain.mean() - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(gain.mean() + 1.96 * error, abs=0.2 * error)
    assert found.high - found.low < common.std() / np.sqrt(200)  # an unpaired one would be 3.9 times that wide


def test_balanced_accuracies_differ_resample_by_resample() -> None:
    labels, one, other = np.array([1, 1, 0, 0, 1, 0]), np.array([1, 1, 0, 0, 1, 1]), np.array([1, 0, 0, 1, 1, 1])
    sample = Bootstrap(list("abcdef"), seed=0)
    found = sample.accuracy_difference(one, other, labels)
    assert found is not None
    by_hand = []
    for weights in sample.weights:
        drawn = np.repeat(np.arange(6), weights.astype(int))
        of = labels[drawn] == 1
        if of.any() and not of.all():
            a, b = ((each[drawn][of].mean() + (1 - each[drawn][~of]).mean()) / 2 for each in (one, other))
            by_hand.append(a - b)
    assert (found.value, found.low, found.high) == pytest.approx(
        (by_hand[0], *np.quantile(by_hand[1:], (0.025, 0.975)))
    )
    assert sample.accuracy_difference(one, one, labels) is not None
    assert sample.accuracy_difference(one, other, np.ones(6)) is None


def test_one_patient_has_no_interval_and_one_class_no_auc() -> None:
    mean = Bootstrap(["a", "a"], seed=0).mean([1.0, 3.0])
    assert mean is not None
    assert (mean.value, mean.low, mean.high, mean.patients) == (2.0, None, None, 1)
    sample = Bootstrap(["a", "b"], seed=0)
    assert sample.auc([1.0, 2.0], [1, 1]) is None
    assert sample.balanced_accuracy([1, 0], [0, 0]) is None
    assert Bootstrap([], seed=0).mean([]) is None
    assert Bootstrap([], seed=0).auc([], []) is None
