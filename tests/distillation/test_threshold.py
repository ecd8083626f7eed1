"""The threshold of a segmenter: pseudo-masks choose it, and peaks or sizes tell wrong parts from right ones."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tonno_core.bundle.calibration import is_threshold
from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.threshold import (
    ABOVE_HALF,
    CHANCE,
    LADDER,
    Answered,
    answered,
    peak_level,
    threshold_record,
)

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
    assert made.peak == 2.0
    assert made.floor == pytest.approx(np.quantile(logits, 0.999))
    none = answered(np.full((2, 2, 2), -9.0, dtype=np.float32), np.ones((2, 2, 2), dtype=np.uint8), 0, 1.0)
    assert (none.largest_mm3, none.agreement) == ((0.0,) * COUNT, ())


def test_the_threshold_agrees_best_with_the_pseudo_masks() -> None:
    record = threshold_record([part(1, 9.0, best_at(-2.0)), part(1, 9.0, best_at(-2.0)), part(1, 9.0, best_at(0.5))])
    assert record["threshold"] == -2.0
    assert record["agreement"] == pytest.approx((0.7 + 0.7 + 0.2) / 3, abs=1e-4)
    assert threshold_record([part(1, 9.0, (0.5,) * COUNT)])["threshold"] == 0.0
    # Networks that the robust loss taught end their findings at logits of -4 to -6.
    assert threshold_record([part(1, 9.0, best_at(-5.5))])["threshold"] == -5.5
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


def peaked(label: int, peak: float, mm3: float = 100.0) -> Answered:
    """An answer that agrees best at -3, of one part."""
    return Answered(label, (mm3,) * COUNT, best_at(-3.0) if label else (), -5.0, peak)


def test_the_level_is_that_of_the_logistic_function() -> None:
    """Ten volumes of each label at +-a: by symmetry the chance is 1 / (1 + exp(-s x)), s = 20 a / (1 + exp(s a))."""
    a = 2.0
    level = peak_level([a] * 10 + [-a] * 10, [1] * 10 + [0] * 10)
    assert level is not None
    slope = np.log(CHANCE / (1 - CHANCE)) / level
    assert slope == pytest.approx(20 * a / (1 + np.exp(slope * a)), rel=1e-4)  # BFGS ends at a gradient of 1e-5
    assert level < 0  # missing one counts more
    moved = peak_level([a + 3] * 10 + [3 - a] * 10, [1] * 10 + [0] * 10)
    assert moved == pytest.approx(level + 3, abs=1e-4)
    # A label that there is more of counts no more.
    assert peak_level([a] * 50 + [-a] * 50, [1] * 50 + [0] * 50) == pytest.approx(
        peak_level([a] * 80 + [-a] * 20, [1] * 80 + [0] * 20), abs=0.05
    )  # up to half of what the penalty does


def test_peaks_that_tell_nothing_drop_hardly_anything() -> None:
    assert peak_level([1.0] * 12, [0, 1] * 6) is None
    assert peak_level([*range(12)], [1] * 6 + [0] * 6) is None  # the wrong way round
    assert peak_level([-1.0] * 4 + [1.0] * 20, [0] * 4 + [1] * 20) is None  # too few without the finding
    noise = np.random.default_rng(0).normal(size=40)
    level = peak_level(noise.tolist(), [0, 1] * 20)
    assert level is None or (noise < level).mean() < 0.1


def test_parts_of_too_low_a_peak_do_not_count() -> None:
    rng = np.random.default_rng(3)
    val = [peaked(1, peak) for peak in rng.normal(4, 1.5, 12)] + [peaked(0, peak) for peak in rng.normal(-1, 1.5, 12)]
    record = threshold_record(val)
    assert record["threshold"] == -3.0
    assert -1.0 < record["min_peak"] < 3.0
    assert (record["min_volume_mm3"], record["peaks"], record["chance"]) == (0.0, 24, CHANCE)
    assert is_threshold(record)
    # The volumes that it has learned from count too, by label and peak alone.
    learned = [Answered(label, (1e9,) * COUNT, (1.0,) * COUNT, 9.0, 8.0 * label - 2.0) for label in (0, 1) * 20]
    both = threshold_record(val, learned)
    assert both["peaks"] == 64
    assert both["min_peak"] != record["min_peak"]
    same = ("threshold", "agreement", "noise_floor", "negative_volumes", "positive_volumes", "min_volume_mm3")
    assert {name: both[name] for name in same} == {name: record[name] for name in same}


def test_a_volumes_own_threshold_is_taken_where_it_agrees_better() -> None:
    val = [peaked(1, peak) for peak in (4.0, 4.5, 5.0, 5.5, 6.0)] + [peaked(0, peak) for peak in (-2.0, -1.5, -1.0)]
    val += [peaked(0, peak) for peak in (-0.5, -0.7)]
    at = tuple(0.9 if each == -7.5 else 0.1 for each in ABOVE_HALF)

    def made(by_half: tuple[float, ...]) -> dict[str, object]:
        return threshold_record([replace(each, by_half=by_half if each.label else ()) for each in val])

    record = made(at)
    assert record["above_half_peak"] == -7.5
    assert (record["own_agreement"], record["threshold"]) == (0.9, -3.0)
    assert is_threshold(record)
    assert "above_half_peak" not in made(tuple(0.6 for _ in at))  # the agreement of one for all is 0.7
    # Of too few volumes none is taken, nor where nothing says which volumes show the finding at all.
    assert "above_half_peak" not in threshold_record([replace(each, by_half=at) for each in val[:4] + val[5:]])
    flat = [replace(each, peak=2.0, by_half=at if each.label else ()) for each in val]
    assert "above_half_peak" not in threshold_record(flat)


def test_the_agreement_at_half_way_is_that_of_these_thresholds() -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(-4, 3, (6, 7, 8)).astype(np.float32)
    levels = rng.choice(np.array([UNKNOWN, BACKGROUND, FINDING], dtype=np.uint8), logits.shape)
    made = answered(logits, levels, 1, 1.0)
    for above, agreement in zip(ABOVE_HALF, made.by_half, strict=True):
        found = logits >= logits.max() / 2 + above
        both = (found & (levels != UNKNOWN)).sum() + (levels == FINDING).sum()
        assert agreement == pytest.approx(2 * (found & (levels == FINDING)).sum() / both)


def test_volumes_that_show_nothing_are_alike() -> None:
    """Of a volume all of whose voxels lie below the threshold it does not matter how far."""
    some = [peaked(1, 4.0)] * 6 + [peaked(0, 0.0)] * 3
    near, far = (threshold_record([*some, *([peaked(0, peak, 0.0)] * 3)]) for peak in (-3.5, -80.0))
    assert near == far
    assert "min_peak" in near


def test_where_no_peak_is_too_low_sizes_tell() -> None:
    answers = [peaked(label, 2.0, 300.0 * label + 50.0) for label in (0, 1) * 8]
    record = threshold_record(answers)
    assert "min_peak" not in record
    assert record["min_volume_mm3"] == 50.0
