"""When a run is ended because its segmentation no longer changes."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.segmentation.stability import LEAST_DIRECTIONS, STABLE_DICE, Check, Stability

EMPTY = np.zeros((1, 1, 100), np.uint8)


def first(count: int) -> np.ndarray:
    """A mask of the first voxels."""
    mask = EMPTY.copy()
    mask[..., :count] = 1
    return mask


def test_a_mask_that_stays_ends_the_run_and_one_that_changes_does_not() -> None:
    stability = Stability()
    for directions, count, reached in ((32, 40, False), (64, 50, False), (128, 53, False), (256, 52, True)):
        stability.add(directions, {"tonno": first(count)})
        assert stability.reached is reached, directions
    # 2 * 40 / 90, 2 * 50 / 103, 2 * 52 / 105 by hand; the bar is 0.98.
    assert [check.dice["tonno"] for check in stability.checks] == pytest.approx([0.8889, 0.9709, 0.9905], abs=5e-5)


def test_the_bar_is_met_from_098_on() -> None:
    for count, stable in ((48, True), (47, False)):
        stability = Stability()
        stability.add(64, {"tonno": first(49)})
        stability.add(128, {"tonno": first(count)})
        # 96 / 97 = 0.9897 and 94 / 96 = 0.9792
        assert stability.reached is stable


def test_every_method_must_stay() -> None:
    stability = Stability()
    stability.add(64, {"tonno": first(50), "matched-cam": first(50)})
    stability.add(128, {"tonno": first(50), "matched-cam": first(30)})
    assert not stability.reached
    stability.add(256, {"tonno": first(50), "matched-cam": first(30)})
    assert stability.reached


def test_two_empty_masks_are_equal_and_one_is_like_no_other() -> None:
    stability = Stability()
    stability.add(32, {"tonno": EMPTY})
    stability.add(64, {"tonno": first(1)})
    assert stability.checks[-1].dice["tonno"] == 0.0
    stability.add(128, {"tonno": EMPTY})
    assert stability.checks[-1].dice["tonno"] == 0.0
    assert not stability.reached
    stability.add(256, {"tonno": EMPTY})
    assert stability.checks[-1].dice["tonno"] == 1.0
    assert stability.reached


def test_few_directions_prove_nothing() -> None:
    stability = Stability()
    for directions in (4, 8, 16):
        stability.add(directions, {"tonno": EMPTY})
        assert not stability.reached
    stability.add(LEAST_DIRECTIONS, {"tonno": EMPTY})
    assert stability.reached


def test_only_twice_as_many_directions_are_compared() -> None:
    stability = Stability()
    stability.add(40, {"tonno": first(50)})
    stability.add(79, {"tonno": first(50)})
    assert stability.checks == []
    stability.add(80, {"tonno": first(50)})
    assert [(check.half, check.directions) for check in stability.checks] == [(40, 80)]
    assert stability.reached


def test_the_bars_themselves_are_enough() -> None:
    assert (LEAST_DIRECTIONS, STABLE_DICE) == (32, 0.98)  # as the documents have them
    assert Check(32, 16, {"tonno": 0.98}).stable
    assert not Check(31, 15, {"tonno": 0.98}).stable
    assert not Check(32, 16, {}).stable  # nothing was compared
