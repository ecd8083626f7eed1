"""What one row on one case is measured by, and that a record comes back from its file as it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.records import finding, record
from tonno_core.errors import TonnoError
from tonno_core.evaluation.record import LADDER, load_record, measure, save_record
from tonno_core.output import write_text
from tonno_core.segmentation.metrics import Components, best_dice, component_scores, dice


def blobs() -> tuple[np.ndarray, np.ndarray]:
    """A heatmap of two hills of different heights and the truth, one ball that the first hill overlaps."""
    z, y, x = np.mgrid[:12, :14, :16]
    first = 4.0 * np.exp(-((z - 4) ** 2 + (y - 5) ** 2 + (x - 5) ** 2) / 8)
    second = 2.0 * np.exp(-((z - 8) ** 2 + (y - 9) ** 2 + (x - 11) ** 2) / 8)
    truth = (z - 4) ** 2 + (y - 5) ** 2 + (x - 6) ** 2 < 7
    return (first + second).astype(np.float32), truth


def test_a_row_is_measured_at_its_own_threshold_at_the_best_and_on_the_ladder() -> None:
    heatmap, truth = blobs()
    predicted, overlap = measure(heatmap, Components(truth), 1.5)
    mask = heatmap >= 1.5
    assert np.array_equal(predicted.mask, mask)
    assert overlap.dice == dice(mask, truth)
    assert (overlap.precision, overlap.recall, overlap.f1) == component_scores(mask, truth)
    assert (overlap.precision, overlap.recall) == (0.5, 1.0)  # of two hills one is on the truth
    assert (overlap.best_threshold, overlap.best_dice) == best_dice(heatmap, truth)
    assert overlap.ladder_dice == tuple(dice(heatmap >= 1.5 * factor, truth) for factor in LADDER)
    assert overlap.ladder_f1 == tuple(component_scores(heatmap >= 1.5 * factor, truth)[2] for factor in LADDER)


def test_a_component_that_is_only_grazed_counts_as_found_but_not_at_a_tenth() -> None:
    heatmap, truth = np.zeros((1, 4, 40), np.float32), np.zeros((1, 4, 40), np.bool_)
    heatmap[0, 1, :30] = 1.0
    truth[0, 1, 29:31] = True
    _, overlap = measure(heatmap, Components(truth), 0.5)
    assert (overlap.precision, overlap.recall, overlap.f1) == (1.0, 1.0, 1.0)
    assert (overlap.precision_10, overlap.recall_10, overlap.f1_10) == (0.0, 1.0, 0.0)


def test_the_ladder_has_thirds_of_octaves_from_an_eighth_to_four_and_the_threshold_itself() -> None:
    assert len(LADDER) == 16
    assert (LADDER[0], LADDER[9], LADDER[-1]) == (1 / 8, 1.0, 4.0)
    # One rounding of float64 in each power.
    assert np.diff(np.log2(LADDER)) == pytest.approx(np.full(15, 1 / 3), rel=1e-12)


def test_small_components_count_nowhere_but_in_the_best_dice() -> None:
    heatmap, truth = blobs()
    heatmap[0, 0, 0] = 9.0  # a single voxel
    predicted, overlap = measure(heatmap, Components(truth), 3.0, counted=lambda runs: runs.sizes >= 2)
    without = heatmap.copy()
    without[0, 0, 0] = 0.0
    alone = measure(without, Components(truth), 3.0, counted=lambda runs: runs.sizes >= 2)
    assert np.array_equal(predicted.mask, alone[0].mask)
    keep = {"best_dice": 0.0, "best_threshold": 0.0}
    assert dataclasses.replace(overlap, **keep) == dataclasses.replace(alone[1], **keep)
    assert overlap.best_dice < alone[1].best_dice


@pytest.mark.parametrize(("threshold", "expected"), [(99.0, 1.0), (1.0, 0.0)])
def test_an_empty_truth_is_met_by_an_empty_segmentation_alone(threshold: float, expected: float) -> None:
    heatmap, truth = blobs()
    _, overlap = measure(heatmap, Components(np.zeros_like(truth)), threshold)
    names = ("dice", "precision", "recall", "f1", "precision_10", "recall_10", "f1_10")
    assert [getattr(overlap, name) for name in names] == [expected] * 7
    assert overlap.best_dice == 1.0


def test_a_segmentation_without_voxels_misses_a_truth_that_has_some() -> None:
    heatmap, truth = blobs()
    _, overlap = measure(heatmap, Components(truth), 99.0)
    assert (overlap.dice, overlap.precision, overlap.recall, overlap.f1) == (0.0, 0.0, 0.0, 0.0)


def test_a_record_comes_back_from_its_file(tmp_path: Path) -> None:
    written = record("a", {"x": finding(0.5), "y": finding(0.25, called=None)}, warnings=("odd",))
    save_record(tmp_path / "a.json", written)
    assert load_record(tmp_path / "a.json", "f") == written
    written = record("a", {"x": finding(None)}, truth=None)
    save_record(tmp_path / "a.json", written)
    assert load_record(tmp_path / "a.json", "f") == written
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_record_of_another_evaluation_or_none_is_none(tmp_path: Path) -> None:
    save_record(tmp_path / "a.json", record("a", {"x": finding(0.5)}))
    assert load_record(tmp_path / "a.json", "g") is None
    assert load_record(tmp_path / "b.json", "f") is None


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"case": ')
    with pytest.raises(TonnoError, match=r"a\.json: not readable as a case's results .*; delete it"):
        load_record(tmp_path / "a.json", "f")


def test_a_file_that_cannot_be_replaced_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(TonnoError, match="taken: cannot be written"):
        write_text(tmp_path / "taken", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
