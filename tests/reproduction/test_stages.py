"""Dice at many thresholds, against masks that are compared one by one; the best threshold of several scans."""

import numpy as np
import pytest

from tonno_core.evaluation.bootstrap import Bootstrap
from tonno_core.reproduction import fig5
from tonno_core.reproduction.source import Arrays, Scan
from tonno_core.reproduction.stages import METHODS, THRESHOLDS, TONNO, _Kept, dice_curve, heatmap_name
from tonno_core.segmentation.metrics import dice
from tonno_core.volume.volume import Volume

SHAPE = (9, 10, 11)


def kept(seed: int, *, scale: float = 1.0) -> tuple[np.ndarray, np.ndarray, Arrays]:
    rng = np.random.default_rng(seed)
    truth = np.zeros(SHAPE, dtype=bool)
    truth[3:6, 3:7, 3:8] = True
    heatmap = (scale * (rng.random(SHAPE) + truth)).astype(np.float32)
    image = Volume(np.ones(SHAPE, dtype=np.float32) + truth, np.diag([2.0, 2.0, 2.0, 1.0]))
    holder = _Kept(Scan("scan", image, 1, truth))
    holder.receive("matched-cam@1", image.with_array(heatmap), np.ones(SHAPE, dtype=bool))
    return heatmap, truth, holder.arrays


def test_the_curve_is_the_dice_of_each_threshold() -> None:
    heatmap, truth, made = kept(0)
    curve = dice_curve(made["matched-cam@1 counts"], int(made["true voxels"]))
    for index in range(0, len(THRESHOLDS), 7):
        assert curve[index] == pytest.approx(dice(heatmap >= THRESHOLDS[index], truth), abs=1e-12)  # whole numbers


def test_the_plane_passes_through_the_finding_and_shows_image_and_truth() -> None:
    heatmap, _, made = kept(1)
    assert made["truth"].max() == 1.0
    assert made["image"].shape == made["matched-cam@1"].shape == (made["v"].size, made["u"].size)
    # The axial plane nearest to the middle of voxels 3 to 5; the picture's left is the patient's right.
    assert np.nanmax(made["matched-cam@1"]) == pytest.approx(heatmap[4].max(), rel=1e-6)


def test_one_threshold_serves_all_scans() -> None:
    _, _, one = kept(2)
    _, _, other = kept(3, scale=1.3)
    point = fig5.measure([one, other], "matched-cam", 1, Bootstrap(["a", "b"], seed=0))
    curves = [dice_curve(each["matched-cam@1 counts"], int(each["true voxels"])) for each in (one, other)]
    best = np.mean(curves, axis=0).max()
    assert point.mean == pytest.approx(best)
    assert (point.dice <= point.best).all() and point.low is not None and point.low <= point.mean <= point.high


def points(averaged: list[float], matched: list[float]) -> list[fig5.Point]:
    values = {"averaged-cam": averaged, "matched-cam": matched}
    none = np.zeros(1)
    return [
        fig5.Point(method, stage, 1.0, none, none, values.get(method, [0.0] * 3)[stage - 1], None, None)
        for method in METHODS
        for stage in (1, 2, 3)
    ] + [fig5.Point(TONNO, 0, 1.0, none, none, 0.5, None, None)]


def test_the_claims_are_about_the_first_and_the_last_stage() -> None:
    falling = fig5._claims(points([0.6, 0.5, 0.2], [0.6, 0.6, 0.5]), (1, 2, 3))
    rising = fig5._claims(points([0.2, 0.5, 0.6], [0.6, 0.6, 0.5]), (1, 2, 3))
    assert [claim.holds for claim in falling] == [True, True]
    assert [claim.holds for claim in rising] == [False, False]
    assert "0.600, 0.500, 0.200" in falling[0].text


def test_tonno_has_no_stage() -> None:
    assert heatmap_name(TONNO, 3) == "tonno" and heatmap_name("matched-cam", 3) == "matched-cam@3"
