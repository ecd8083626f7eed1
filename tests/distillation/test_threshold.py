"""The threshold of a segmenter: agreement with pseudo-masks chooses it, and sizes tell wrong parts from right ones."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.threshold import LADDER, Answered, answered, threshold_record

COUNT = len(LADDER)


def part(label: int, mm3: float, agreement: tuple[float, ...] = ()) -> Answered:
    """An answer whose largest part is as large at all thresholds."""
    return Answered(label, (mm3,) * COUNT, agreement, -5.0)


def best_at(threshold: float, others: float = 0.2) -> tuple[float, ...]:
    return tuple(0.7 if each == threshold else others for each in LADDER)


def test_an_answer_is_measured_in_millimeters_and_against_what_is_known() -> None:
    logits = np.full((10, 10, 10), -4.0, dtype=np.float32)
    logits[1:3, 1:3, 1:3] = 2.0
    logits[6:9, 6:9, 6:9] = 0.7
    logits[9, 9, 9] = 0.2  # touches the larger by a corner
    levels = np.full(logits.shape, BACKGROUND, dtype=np.uint8)
    levels[6:9, 6:9, 6:9] = FINDING
    levels[9, 9, 9] = UNKNOWN
    made = answered(logits, levels, 1, voxel_mm3=2.5)
    expected = {0.0: 28, 0.5: 27, 1.0: 8}
    for threshold, voxels in expected.items():
        assert made.largest_mm3[LADDER.index(threshold)] == voxels * 2.5
    assert made.agreement[LADDER.index(0.0)] == 2 * 27 / (27 + 8 + 27)
    assert made.agreement[LADDER.index(1.0)] == 0.0
    assert made.floor == pytest.approx(np.quantile(logits, 0.999))
    none = answered(np.full((2, 2, 2), -9.0, dtype=np.float32), np.ones((2, 2, 2), dtype=np.uint8), 0, 1.0)
    assert (none.largest_mm3, none.agreement) == ((0.0,) * COUNT, ())


def test_the_threshold_agrees_best_with_the_pseudo_masks() -> None:
    record = threshold_record([part(1, 9.0, best_at(-2.0)), part(1, 9.0, best_at(-2.0)), part(1, 9.0, best_at(0.5))])
    assert record["threshold"] == -2.0
    assert record["agreement"] == pytest.approx((0.7 + 0.7 + 0.2) / 3, abs=1e-4)
    assert threshold_record([part(1, 9.0, (0.5,) * COUNT)])["threshold"] == 0.0
    assert threshold_record([part(1, 9.0), part(0, 1.0)])["threshold"] == 0.0


def test_most_volumes_without_the_finding_show_none() -> None:
    sizes = np.arange(20.0)
    record = threshold_record([*(part(0, size) for size in sizes), part(1, 1000.0)])
    assert record["min_volume_mm3"] == pytest.approx(np.quantile(sizes, 0.95), abs=1e-3)
    assert (record["negative_volumes"], record["positive_volumes"]) == (20, 1)
    assert (sizes > record["min_volume_mm3"]).sum() == 1  # a twentieth


def test_sizes_are_those_at_the_threshold_that_is_chosen() -> None:
    sizes = tuple(100.0 - 10.0 * index for index in range(COUNT))
    record = threshold_record([Answered(0, sizes, (), -5.0), part(1, 1000.0, best_at(-2.0))])
    assert record["min_volume_mm3"] == sizes[LADDER.index(-2.0)]


def test_what_is_as_large_as_findings_is_not_dropped() -> None:
    record = threshold_record([part(0, 500.0), part(1, 400.0), part(1, 600.0), part(1, 0.0)])
    assert record["min_volume_mm3"] == 0.25 * 500.0  # of those in which something was found


def test_without_negatives_every_part_counts() -> None:
    record = threshold_record([part(1, 5.0)])
    assert (record["threshold"], record["min_volume_mm3"], record["negative_volumes"]) == (0.0, 0.0, 0)
    assert record["agreement"] is None
    assert "noise_floor" not in record
