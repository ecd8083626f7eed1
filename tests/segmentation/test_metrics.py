"""Scores that can be counted on the fingers, and the same numbers from scikit-learn and by brute force."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tonno_core.segmentation.metrics import (
    Components,
    Scores,
    auc,
    best_dice,
    component_scores,
    dice,
    dice_of,
    match,
    max_iou,
    score,
)


def line(text: str) -> npt.NDArray[np.bool_]:
    """A 1 x 1 x N mask drawn as text: '.' is background."""
    return np.array([[[letter != "." for letter in text]]])


EMPTY, FULL = line("...."), line(".##.")


def test_dice_counts_the_common_voxels_twice() -> None:
    assert dice(line("##.."), line(".##.")) == 2 * 1 / (2 + 2)
    assert dice(line("#..."), line("####")) == 2 * 1 / (1 + 4)
    assert dice(FULL, FULL) == 1.0
    assert dice(line("#..."), line("...#")) == 0.0


def test_dice_is_the_f1_of_the_voxels() -> None:
    from sklearn.metrics import f1_score  # two seconds, in each process that only collects the tests

    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 6, 7, 8)) > 0.6
    # One quotient of integers on either side.
    assert dice(prediction, truth) == pytest.approx(f1_score(truth.ravel(), prediction.ravel()), rel=1e-12)


def test_any_nonzero_voxel_is_inside() -> None:
    assert dice(np.array([[[0, 255]]], np.uint8), np.array([[[0.0, 1.0]]], np.float32)) == 1.0


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"), [(EMPTY, EMPTY, 1.0), (EMPTY, FULL, 0.0), (FULL, EMPTY, 0.0)]
)
def test_empty_masks(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], expected: float) -> None:
    assert score(prediction, truth) == Scores(expected, expected, expected, expected)


def test_components_count_once_however_large() -> None:
    prediction = line("##.#...#..")
    truth_____ = line(".####....#")
    precision, recall, f1 = component_scores(prediction, truth_____)
    assert precision == 2 / 3  # the third predicted component meets no true one
    assert recall == 1 / 2  # of two true ones the large one is met, by two predictions
    assert f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2), rel=1e-12)  # order of the product


def test_masks_that_only_miss_each_other_score_zero() -> None:
    assert component_scores(line("##...."), line("...##.")) == (0.0, 0.0, 0.0)


def test_min_overlap_is_a_share_of_each_components_own_voxels() -> None:
    prediction = line("####......")
    truth_____ = line("...#######")[..., :10]
    # One voxel in common: a quarter of the prediction, a seventh of the truth.
    assert component_scores(prediction, truth_____, 0.0)[:2] == (1.0, 1.0)
    assert component_scores(prediction, truth_____, 1 / 7)[:2] == (1.0, 1.0)
    assert component_scores(prediction, truth_____, 0.2)[:2] == (1.0, 0.0)
    assert component_scores(prediction, truth_____, 0.25)[:2] == (1.0, 0.0)
    assert component_scores(prediction, truth_____, 0.26) == (0.0, 0.0, 0.0)


def test_two_true_lesions_under_one_prediction_are_both_found() -> None:
    assert component_scores(line("#######"), line(".#...#.")) == (1.0, 1.0, 1.0)


def test_voxels_that_share_only_a_corner_are_one_component() -> None:
    truth = np.zeros((2, 2, 2), dtype=np.bool_)
    truth[0, 0, 0] = truth[1, 1, 1] = True
    prediction = np.zeros_like(truth)
    prediction[0, 0, 0] = True
    assert component_scores(prediction, truth)[1] == 1.0


def test_components_that_are_found_once_give_the_same_scores() -> None:
    rng = np.random.default_rng(1)
    masks = [Components(rng.random((6, 7, 8)) > level) for level in (0.7, 0.9, 0.97, 1.0)]
    for mask in masks:
        for other in masks:
            assert dice_of(mask, other) == dice(mask.mask, other.mask)
            for share in (0.0, 0.1, 0.5):
                assert match(mask, other, share) == component_scores(mask.mask, other.mask, share)


def test_components_that_are_too_small_do_not_belong_to_the_mask() -> None:
    mask = line("###.#.##..#")
    kept = Components(mask, lambda runs: runs.sizes >= 2)
    assert np.array_equal(kept.mask, line("###...##..."))
    assert sorted(kept.sizes) == [2, 3]
    assert match(kept, Components(line("......#####"))) == (1 / 2, 1.0, 2 / 3)
    assert mask.sum() == 7  # what was given is not changed
    assert Components(mask, lambda runs: runs.sizes >= 9).sizes.size == 0


def boxes(*corners: tuple[int, int, int], side: int = 4) -> Components:
    """Cubes whose first voxels are given, in a volume of 20^3 voxels."""
    mask = np.zeros((20, 20, 20), dtype=np.bool_)
    for z, y, x in corners:
        mask[z : z + side, y : y + side, x : x + side] = True
    return Components(mask)


def test_max_iou_is_that_of_the_best_box() -> None:
    true = boxes((2, 2, 2))
    assert max_iou(true, true) == 1.0
    # Half of the cube is common: 32 voxels of 64 + 64 - 32.
    assert max_iou(boxes((2, 2, 4)), true) == pytest.approx(1 / 3)
    assert max_iou(boxes((2, 2, 4), (12, 12, 12)), true) == pytest.approx(1 / 3)  # others do not matter
    assert max_iou(boxes((12, 12, 12)), true) == 0.0
    # One of two true boxes is met exactly, the other not at all.
    assert max_iou(true, boxes((2, 2, 2), (12, 12, 12))) == 0.5


def test_max_iou_looks_at_boxes_and_not_at_what_fills_them() -> None:
    ring = boxes((2, 2, 2), side=6).mask
    ring[3:7, 3:7, 3:7] = False
    assert max_iou(Components(ring), boxes((2, 2, 2), side=6)) == 1.0


@pytest.mark.parametrize(("one", "other", "expected"), [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0)])
def test_max_iou_of_empty_masks(one: bool, other: bool, expected: float) -> None:
    full, empty = boxes((2, 2, 2)), boxes()
    assert max_iou(full if one else empty, full if other else empty) == expected


def test_max_iou_agrees_with_scipys_labels_and_boxes() -> None:
    rng = np.random.default_rng(0)
    masks = [ndimage.gaussian_filter(rng.normal(size=(14, 15, 16)), 1.5) > 0.1 for _ in range(2)]
    found = [ndimage.find_objects(ndimage.label(mask, np.ones((3, 3, 3)))[0]) for mask in masks]
    best = []
    for true in found[1]:
        scores = []
        for each in found[0]:
            inside = np.zeros((2, 14, 15, 16), dtype=np.bool_)
            inside[0][each], inside[1][true] = True, True
            scores.append(inside.all(axis=0).sum() / inside.any(axis=0).sum())
        best.append(max(scores))
    assert len(best) > 3
    assert max_iou(Components(masks[0]), Components(masks[1])) == pytest.approx(np.mean(best), rel=1e-12)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, np.nan])
def test_min_overlap_is_a_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match="min_overlap"):
        component_scores(FULL, FULL, fraction)


def test_best_dice_of_four_voxels() -> None:
    """Thresholds 4, 3, 2, 1 give Dice 2/3, 2/4, 4/5, 4/6."""
    heatmap = np.array([[[1.0, 2.0, 3.0, 4.0]]], np.float32)
    assert best_dice(heatmap, line(".#.#")) == (2.0, 4 / 5)


def test_best_dice_takes_equal_values_together() -> None:
    """The two voxels of value 1 cannot be parted, though parting them would give 1."""
    heatmap = np.array([[[1.0, 1.0, 0.0, 0.0]]], np.float32)
    assert best_dice(heatmap, line("#...")) == (1.0, 2 / 3)


def test_of_equally_good_thresholds_the_highest() -> None:
    """Thresholds 3, 2, 1: 2 * 1 / (1 + 2), 2 * 1 / (2 + 2), 2 * 2 / (4 + 2)."""
    heatmap = np.array([[[3.0, 2.0, 2.0, 1.0]]], np.float32)
    assert best_dice(heatmap, line("#..#")) == (3.0, 2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_best_dice_is_the_best_of_all_thresholds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random((4, 5, 6)) < 0.2
    heatmap = (np.round(rng.standard_normal(truth.shape), 1) + truth).astype(np.float32)  # rounded: ties
    threshold, highest = best_dice(heatmap, truth)
    assert highest == max(dice(heatmap >= value, truth) for value in np.unique(heatmap))
    assert highest == dice(heatmap >= threshold, truth)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_best_dice_of_an_empty_truth_predicts_nothing(dtype: type[np.floating]) -> None:
    heatmap = np.array([[[1.0, 2.0, 3.0, 4.0]]], dtype)
    threshold, highest = best_dice(heatmap, EMPTY)
    assert highest == 1.0
    assert np.isfinite(threshold)
    assert not (heatmap >= threshold).any()


def test_auc_is_the_share_of_pairs_in_the_right_order() -> None:
    """Positives 3 and 1 against negatives 2 and 1: right, right, wrong, tie."""
    assert auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([1, 1, 0, 0])) == (1 + 1 + 0 + 0.5) / 4
    assert auc(np.array([1.0, 2.0]), np.array([0, 1])) == 1.0
    assert auc(np.array([1.0, 2.0]), np.array([1, 0])) == 0.0
    assert auc(np.ones(5), np.array([0, 1, 0, 1, 1])) == 0.5


def test_auc_agrees_with_scikit_learn_on_volumes_with_ties() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.random((5, 6, 7)) < 0.3
    scores = np.round(rng.standard_normal(labels.shape) + labels, 1)
    # scikit-learn sums trapezoids, this counts ranks: equal up to float64 rounding.
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels.ravel(), scores.ravel()), rel=1e-12)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_auc_of_one_class_is_not_defined(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="not defined"):
        auc(np.array([1.0, 2.0, 3.0]), np.array(labels))


def test_nan_is_refused_where_values_are_ranked() -> None:
    values = np.array([1.0, np.nan, 2.0])
    labels = np.array([0, 1, 1])
    with pytest.raises(ValueError, match="NaN"):
        auc(values, labels)
    with pytest.raises(ValueError, match="NaN"):
        best_dice(values, labels)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="shapes"):
        dice(np.ones((1, 1, 2)), np.ones((1, 2, 1)))


def test_each_common_voxel_counts_for_its_own_component() -> None:
    # Of the first component 2 of 2 voxels are common, of the second none of 6: one of two reaches a half.
    prediction, truth = Components(line("##..######")), Components(line("##........"))
    assert match(prediction, truth, 0.5) == (0.5, 1.0, pytest.approx(2 / 3, rel=1e-15))


def test_all_voxels_of_a_component_can_be_asked_for() -> None:
    prediction, truth = Components(line("##..##")), Components(line("###..#"))
    assert match(prediction, truth, 1.0) == (0.5, 0.5, 0.5)  # .. of ## all, of ## one; of ### two, of # one


def test_a_box_at_the_first_voxel_is_one_voxel_large() -> None:
    corner, whole = np.zeros((2, 2, 2, 2), np.bool_)
    corner[0, 0, 0], whole[...] = True, True
    assert max_iou(Components(corner), Components(whole)) == 1 / 8


def test_voxels_that_no_plane_covers_are_missed_by_every_threshold() -> None:
    # Two of four true voxels are covered, and the threshold 3 has both: 2 * 2 / (2 + 4).
    heatmap, truth = np.array([[[3.0, 3.0, 0.0, 0.0, 1.0]]], np.float32), line("####.")
    assert best_dice(heatmap, truth, line("##..#")) == (3.0, pytest.approx(2 / 3, rel=1e-15))
