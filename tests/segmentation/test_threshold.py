"""Where a heatmap's threshold comes from, and when a mask is said to be no finding: every case on a line of voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.segmentation.threshold import (
    MOST,
    NO_FINDINGS,
    find_threshold,
    parse_threshold,
    segment,
    threshold_warning,
    unsegmented,
)
from tonno_core.volume.volume import Volume

KNOWN = ModelThreshold(2.5, None, "calibrated", {}, {}, record={"threshold": 2.5})


def row(*values: float) -> Volume:
    """A volume of one line of voxels along i, 1 mm apart."""
    return Volume(np.array([[values]], np.float32), np.eye(4))


def first(count: int, of: int = 8) -> np.ndarray:
    """The first voxels of a line."""
    return (np.arange(of) < count).reshape(1, 1, of)


def test_words_have_no_number_and_other_words_are_refused() -> None:
    assert [parse_threshold(text) for text in ("auto", "otsu", "-1.5")] == [None, None, -1.5]
    for text, said in (("high", "a number"), ("nan", "a finite number"), ("inf", "a finite number")):
        with pytest.raises(TonnoError, match=f"expected auto, otsu or {said}"):
            parse_threshold(text)


def test_a_threshold_is_what_is_given_else_the_models_else_otsus() -> None:
    heatmap, inside = row(0, 0, 1, 1, 5, 5, 900, -900), first(6)
    otsu = otsu_threshold(heatmap, inside)
    assert 1 < otsu <= 5  # of what is inside alone
    assert find_threshold(heatmap, inside, "0.25", KNOWN) == (0.25, "given")
    assert find_threshold(heatmap, inside, "auto", KNOWN) == (2.5, "the model's own")
    assert find_threshold(heatmap, inside, "otsu", KNOWN) == (otsu, "otsu")
    assert find_threshold(heatmap, inside, "otsu", None) == (otsu, "otsu")
    assert find_threshold(heatmap, inside, "auto", None) == (otsu, "otsu, as the model brings none for this method")


def test_where_nothing_is_inside_the_models_threshold_stays() -> None:
    heatmap = row(1.0, 2.0)
    assert find_threshold(heatmap, first(0, of=2), "auto", KNOWN)[0] == 2.5
    half = ModelThreshold(2.5, None, "calibrated", {}, {}, record={"threshold": 2.5, "above_half_peak": 0.5})
    assert find_threshold(heatmap, first(0, of=2), "auto", half)[0] == -math.inf  # above the half of no peak
    assert find_threshold(heatmap, first(2, of=2), "auto", half)[0] == 1.5


def test_of_a_constant_heatmap_the_threshold_is_the_next_number_above_it() -> None:
    value, source = find_threshold(row(3.0, 3.0, 7.0), first(2, of=3), "otsu", None)
    assert (value, source) == (float(np.nextafter(np.float32(3), np.float32(4))), "none: the heatmap is constant")


def test_a_regressors_heatmap_is_not_segmented_and_keeps_all_components() -> None:
    made = unsegmented(row(1.0, 2.0))
    assert (made.threshold, made.source) == (float(np.nextafter(np.float32(2), np.float32(3))), NO_FINDINGS)
    assert (made.mask.any(), made.components, made.warning) == (False, [], None)
    assert (made.min_volume_mm3, made.min_peak) == (0.0, -math.inf)


def test_without_parts_those_of_the_model_count() -> None:
    known = ModelThreshold(0.5, None, "calibrated", {}, {}, record={"min_volume_mm3": 2.0, "min_peak": 0.75})
    made = segment("tonno", row(1, 0, 0.6, 0.6, 0, 1, 1, 0, 0, 0, 0), first(11, of=11), known)
    assert made.mask.ravel().tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]  # one is small, one is weak
    assert (made.min_volume_mm3, made.min_peak) == (2.0, 0.75)
    assert made.warning is None


@pytest.mark.parametrize(
    ("threshold", "voxels", "odds", "said"),
    [
        (0.5, 0, False, None),
        (-1.0, 0, False, None),  # an empty mask is one of no finding
        (0.5, 4, False, None),  # half of them, just MOST
        (0.5, 5, False, "tonno: the threshold is too low, and 62 % of what was looked at is segmented"),
        (0.0, 1, False, "tonno: the threshold 0 is not above 0, and 12 % of what was looked at is segmented"),
        (-1.0, 5, False, "tonno: the threshold -1 is not above 0, and 62 % of what was looked at is segmented"),
        (-1.0, 4, True, None),  # logits below 0 are chances, too
        (-1.0, 5, True, "tonno: the threshold is too low, and 62 % of the volume is segmented"),
        (2.0, 5, True, "tonno: the threshold is too low, and 62 % of the volume is segmented"),
    ],
)
def test_a_mask_of_most_or_of_what_is_no_evidence_is_said(
    threshold: float, voxels: int, odds: bool, said: str | None
) -> None:
    assert MOST == 0.5
    text = threshold_warning("tonno", first(voxels, of=10), first(8, of=10), threshold, odds=odds)
    assert text is None if said is None else (text is not None and text.startswith(said))


@pytest.mark.parametrize("inside", [0, 1])
def test_shares_of_a_voxel_or_none_are_whole(inside: int) -> None:
    text = threshold_warning("tonno", first(1), first(inside), 0.5)
    assert text is not None
    assert "100 %" in text


def test_unless_told_otherwise_a_threshold_below_0_is_warned_of() -> None:
    heatmap, inside = row(-2, -2, -2, -2, -2, -2, -2, 1), first(8)
    assert threshold_warning("tonno", first(1), inside, -1.0) is not None
    assert segment("tonno", heatmap, inside, None, threshold="-1").warning is not None
    assert segment("tonno", heatmap, inside, None, threshold="-1", odds=True).warning is None
