"""What is received of a heatmap, before any network has a say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tonno_core.evaluation.case import Setup, Task, _Judge, read_truth
from tonno_core.evaluation.rows import Row
from tonno_core.settings import Variant
from tonno_core.volume.volume import Volume

SHAPE = (12, 14, 16)


def scene() -> tuple[Volume, np.ndarray]:
    """A box on a dark ground, and where the planes are: not in the last six columns."""
    array = np.zeros(SHAPE, np.float32)
    array[2:-2, 2:-2, 2:-2] = 100.0
    inside = np.ones(SHAPE, np.bool_)
    inside[..., 10:] = False
    return Volume(array, np.diag([2.0, 2.0, 2.0, 1.0])), inside


def judge(volume: Volume, truth: np.ndarray | None, *, min_volume_mm3: float = 0.0, **rows: Row) -> _Judge:
    return _Judge(volume, truth, Setup(cast(Any, None), cast(Any, None), rows, tuple(rows), min_volume_mm3, "f"))


def test_the_peak_is_that_of_the_foreground_inside_of_the_planes() -> None:
    volume, inside = scene()
    heatmap = np.zeros(SHAPE, np.float32)
    heatmap[0, 0, 0], heatmap[6, 6, 12], heatmap[6, 6, 6] = 9.0, 8.0, 3.0  # air, beyond the planes, both
    for threshold, called in ((3.0, True), (3.1, False)):
        made = judge(volume, None, tonno=Row(Variant("tonno"), True, threshold, "given"))
        made.receive("tonno", volume.with_array(heatmap), inside)
        assert (made.findings["tonno"].peak, made.findings["tonno"].called) == (3.0, called)


def test_rows_of_one_variant_are_judged_from_one_heatmap() -> None:
    volume, inside = scene()
    heatmap = np.zeros(SHAPE, np.float32)
    heatmap[6, 6, 4:8] = 2.0
    heatmap[3, 3, 3] = 4.0
    rows = {
        "a": Row(Variant("tonno"), True, 1.0, "given"), "b": Row(Variant("tonno"), False, 3.0, "given"),
        "c": Row(Variant("tonno", filter="hann"), False, 1.0, "given"),
    }  # fmt: skip
    made = judge(volume, heatmap > 3, min_volume_mm3=16.0, **rows)
    made.receive("a", volume.with_array(heatmap), inside)
    assert set(made.findings) == {"a", "b"}
    # Voxels of 8 mm3: the single one is below two of them, though it alone is the truth.
    assert made.findings["a"].components == 1
    assert made.findings["a"].volume_ml == pytest.approx(4 * 8 / 1000)
    assert (made.findings["b"].components, made.findings["b"].called) == (0, True)
    assert made.findings["b"].overlap is not None
    assert (made.findings["b"].overlap.dice, made.findings["b"].overlap.best_dice) == (0.0, 1.0)


def test_a_constant_heatmap_has_no_threshold_and_nothing_is_found() -> None:
    volume, inside = scene()
    made = judge(volume, None, center=Row(Variant("center"), True, None, "otsu, as the model brings none"))
    made.receive("center", volume.with_array(np.zeros(SHAPE)), inside)
    found = made.findings["center"]
    assert (found.threshold_source, found.components, found.called) == ("none: the heatmap is constant", 0, None)


@pytest.mark.parametrize("label", [0, 1])
def test_without_a_mask_the_truth_of_a_negative_is_empty_that_of_a_positive_unknown(label: int) -> None:
    truth = read_truth(Task("a", Path("a.nii"), label, None, "p"), scene()[0])
    assert (truth is None) if label else (truth is not None and truth.shape == SHAPE and not truth.any())
