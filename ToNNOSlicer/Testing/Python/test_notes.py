"""Reasons for caution under a result: of its threshold, of what the segment takes, of a run that was stopped."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from ToNNOSlicerLib.notes import notesOf

CALIBRATED = {"threshold": 6.0}
# Ten bins of width 1; half of the voxels lie from 4 on.
HISTOGRAM = {"low": 0.0, "high": 10.0, "counts": [20, 10, 10, 10, 10, 10, 10, 10, 5, 5]}


def notes(at: float, minPeak: float = -math.inf, **record) -> tuple[str, ...]:
    """The notes of a written segment at a threshold; its heatmap is calibrated unless the record says otherwise."""
    record = {"threshold": CALIBRATED, "histogram": HISTOGRAM} | record
    result = SimpleNamespace(record=record, threshold=at, segment=object(), isEdited=False, minPeak=minPeak)
    return notesOf(result)


def test_a_calibrated_threshold_needs_no_note() -> None:
    assert notes(6.0) == ()
    assert notes(6.0, threshold={**CALIBRATED, "note": "scaled"}) == ("scaled",)


def test_weak_parts_that_are_left_out_are_said() -> None:
    (said,) = notes(6.0, minPeak=8.5)
    assert said.startswith("Parts that reach 8.5 nowhere are left out")
    assert notes(9.0, minPeak=8.5) == ()  # the threshold leaves out more


def test_a_threshold_that_the_model_has_not_is_said() -> None:
    for calibration in (None, {}, {"noise_floor": 7.0}):
        (said,) = notes(6.0, threshold=calibration)
        assert said.startswith("The model has no threshold for this method")


def test_the_noise_floor_is_said_from_below_it_on_and_not_in_a_region() -> None:
    floor = {"threshold": 6.0, "noise_floor": 5.5}
    assert notes(5.5, threshold=floor) == ()
    assert notes(5.4, threshold=floor) == (
        "The threshold is below the noise floor (5.5): scans without the finding reach it too.",
    )
    (said,) = notes(5.4, threshold=floor, zoom=True)
    assert said.startswith("The model's threshold was calibrated for the whole volume")


@pytest.mark.parametrize(("threshold", "share"), [(6.0, None), (4.0, None), (3.0, "60%"), (2.0, "70%"), (0.0, "100%")])
def test_a_segment_of_more_than_half_is_no_finding(threshold: float, share: str | None) -> None:
    expected = () if share is None else (
        f"The segment takes {share} of what was looked at: that is no finding. Raise the threshold.",
    )  # fmt: skip
    assert notes(threshold) == expected
    assert notes(threshold, model={"name": "pixel-sum"}) == ()  # an image may be anything


def test_a_segmenters_logits_below_0_are_like_any_other() -> None:
    logits = {"method": "segmenter", "histogram": HISTOGRAM | {"low": -8.0, "high": 2.0}}
    known = {"threshold": -3.5, "noise_floor": -2.0, "min_peak": -1.0}
    (said,) = notes(-3.5, minPeak=-1.0, threshold=known, **logits)
    assert said.startswith("Parts that reach -1 nowhere are left out")
    (said,) = notes(-5.0, threshold=known, **logits)
    assert said.startswith("The segment takes 60% of what was looked at")


def test_what_stopped_and_what_the_engine_said_are_noted_once() -> None:
    said = notes(6.0, stopped=True, directions=38, planned=96, warnings=["one", "two", "one"])
    assert said == ("The run was stopped at 38 of 96 directions. Click Apply to go on to the end.", "one", "two")
