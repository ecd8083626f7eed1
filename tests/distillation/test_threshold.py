"""The threshold of a segmenter: parts are told apart by their size, as its logits saturate."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.distillation.threshold import Answered, answered, threshold_record


def part(label: int, mm3: float) -> Answered:
    return Answered(label, mm3, -5.0, 4.0)


def test_an_answer_is_measured_in_millimeters() -> None:
    logits = np.full((10, 10, 10), -3.0, dtype=np.float32)
    logits[1:3, 1:3, 1:3] = 2.0
    logits[6:9, 6:9, 6:9] = 1.0
    logits[9, 9, 9] = 0.5  # touches the larger by a corner
    made = answered(logits, 1, voxel_mm3=2.5)
    assert made.largest_mm3 == 28 * 2.5
    assert made.peak == 2.0
    assert made.floor == pytest.approx(np.quantile(logits, 0.999))
    assert answered(np.full((2, 2, 2), -1.0, dtype=np.float32), 0, 1.0).largest_mm3 == 0.0


def test_most_volumes_without_the_finding_show_none() -> None:
    sizes = np.arange(20.0)
    record = threshold_record([*(part(0, size) for size in sizes), part(1, 1000.0)])
    assert record is not None
    assert record["threshold"] == 0.0
    assert record["min_volume_mm3"] == pytest.approx(np.quantile(sizes, 0.95), abs=1e-3)
    assert (record["negative_volumes"], record["positive_volumes"]) == (20, 1)
    assert (sizes > record["min_volume_mm3"]).sum() == 1  # a twentieth


def test_what_is_as_large_as_findings_is_not_dropped() -> None:
    record = threshold_record([part(0, 500.0), part(1, 400.0), part(1, 600.0), part(1, 0.0)])
    assert record is not None
    assert record["min_volume_mm3"] == 0.25 * 500.0  # of those in which something was found


def test_without_negatives_there_is_no_threshold() -> None:
    assert threshold_record([part(1, 5.0)]) is None
