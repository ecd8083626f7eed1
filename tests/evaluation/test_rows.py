"""Which heatmaps an evaluation compares, and whose threshold each is judged by."""

from __future__ import annotations

import math
from typing import Any

import pytest

from tests.networks import spec_of
from tonno_core.evaluation.rows import Row, describe, rows_of
from tonno_core.settings import ReconstructionSettings, Variant, combine, parse_stages

SHARED = {"slices": 12, "directions": 6}


def candidate(method: str, threshold: float, auc: float, **choices: Any) -> dict[str, Any]:
    values = {"stage": None, "filter": "second-difference", "sigma_scale": 1.0, "smooth_mm": 0.0, **choices}
    return {"class": "finding", "method": method, **values, "threshold": threshold, "noise_floor": 0.1, "auc": auc}


CALIBRATION = [
    candidate("matched-cam", 1.0, 0.6, stage=2),
    candidate("matched-cam", 2.0, 0.9, stage=2, filter="hann", sigma_scale=2.0),
    candidate("matched-cam", 3.0, 0.8, stage=3),
    candidate("slicewise-cam", 4.0, 0.5, stage=2),
    candidate("slicewise-cam", 5.0, 0.7, stage=2, smooth_mm=12.0),
    candidate("slicewise-cam", 6.0, 0.6, stage=2, smooth_mm=4.0),
    candidate("tonno", 7.0, 0.6),
]
CHOSEN = {
    "matched-cam": {
        "threshold": 2.0,
        "settings": {**SHARED, "stage": 2, "filter": "hann", "sigma_scale": 2.0, "smooth_mm": 0.0},
    },
    "slicewise-cam": {"threshold": 5.0, "settings": {"slices": 12, "stage": 2, "smooth_mm": 12.0}},
    "tonno": {"threshold": 7.0, "settings": {**SHARED, "filter": "second-difference", "smooth_mm": 0.0}},
}


def rows(
    *methods: str, stages: tuple[int, ...] = (2, 3), every: bool = False, calibrated: bool = True, **asked: Any
) -> dict[str, Row]:
    changes = {"calibration": CALIBRATION, "thresholds": CHOSEN} if calibrated else {}
    spec = spec_of(**changes, defaults=SHARED)
    settings = combine(defaults=spec.defaults, explicit={"methods": methods, **asked})
    return rows_of(
        spec.choices, settings, stages=[parse_stages(stage) for stage in stages], standard=3, all_candidates=every
    )


def test_the_models_own_choice_comes_first_then_the_best_of_each_stage() -> None:
    found = rows("matched-cam")
    assert list(found) == ["matched-cam", "matched-cam@2", "matched-cam@3"]
    assert [row.best for row in found.values()] == [True, False, False]
    assert [row.threshold for row in found.values()] == [2.0, 2.0, 3.0]
    assert found["matched-cam"].variant == Variant("matched-cam", (2,), "hann", 2.0)
    assert found["matched-cam@3"].variant == Variant("matched-cam", (3,))
    assert {row.source for row in found.values()} == {"the model's own"}


def test_at_its_own_stage_the_models_choice_stands_for_the_method_whatever_ties_there_are() -> None:
    records = [candidate("matched-cam", 1.0, 0.9, stage=2), *CALIBRATION[1:]]
    spec = spec_of(calibration=records, thresholds=CHOSEN, defaults=SHARED)
    settings = combine(defaults=spec.defaults, explicit={"methods": ("matched-cam",)})
    found = rows_of(spec.choices, settings, stages=[(2,)], standard=3, all_candidates=False)
    assert found["matched-cam@2"].variant == found["matched-cam"].variant == Variant("matched-cam", (2,), "hann", 2.0)


def test_stages_that_were_added_up_are_rows_of_the_methods_that_did() -> None:
    added = [
        candidate("matched-cam", 8.0, 0.7, stage="2+3", weights=[0.25, 0.75]),
        candidate("slicewise-cam", 9.0, 0.5, stage="2+3", weights=[0.5, 0.5]),
        candidate("slicewise-cam", 10.0, 0.6, stage="2+3", smooth_mm=4.0, weights=[0.6, 0.4]),
    ]
    spec = spec_of(calibration=[*CALIBRATION, *added], thresholds=CHOSEN, defaults=SHARED)
    methods = ("matched-cam", "slicewise-cam", "averaged-cam")
    settings = combine(defaults=spec.defaults, explicit={"methods": methods})
    found = rows_of(spec.choices, settings, stages=[(3,), (2, 3)], standard=3, all_candidates=False)
    summed = {name: (row.threshold, row.variant.weights) for name, row in found.items() if "2+3" in name}
    assert summed == {
        "matched-cam@2+3": (8.0, (0.25, 0.75)), "slicewise-cam@2+3": (9.0, (0.5, 0.5)),
        "slicewise-cam@2+3 smoothed": (10.0, (0.6, 0.4)),
    }  # fmt: skip


def test_slice_wise_maps_are_compared_raw_and_smoothed() -> None:
    found = rows("slicewise-cam", stages=(2,))
    assert list(found) == ["slicewise-cam", "slicewise-cam@2", "slicewise-cam@2 smoothed"]
    assert [row.variant.smooth_mm for row in found.values()] == [12.0, 0.0, 12.0]
    assert [row.threshold for row in found.values()] == [5.0, 4.0, 5.0]


def test_methods_without_stages_have_one_row() -> None:
    assert list(rows("tonno", "center")) == ["tonno", "center"]


def test_a_model_without_calibration_gets_otsus_thresholds_and_the_last_stage_but_one() -> None:
    found = rows("matched-cam", "slicewise-cam", calibrated=False)
    assert {row.threshold for row in found.values()} == {None}
    assert {row.source for row in found.values()} == {"otsu, as the model brings none"}
    assert found["matched-cam"].variant == Variant("matched-cam", (3,))
    assert found["slicewise-cam@2 smoothed"].variant.smooth_mm == 8.0


def test_what_was_asked_for_wins_over_the_calibration() -> None:
    """The threshold is then that of the candidate with just these choices, or Otsu's."""
    found = rows("matched-cam", filter="second-difference")
    assert found["matched-cam"].variant == Variant("matched-cam", (2,), "second-difference", 2.0)
    assert found["matched-cam"].threshold is None
    assert found["matched-cam@2"].variant == Variant("matched-cam", (2,))
    assert found["matched-cam@2"].threshold == 1.0


def test_other_numbers_of_planes_are_said() -> None:
    found = rows("matched-cam", "slicewise-cam", directions=99)
    assert found["matched-cam@3"].source == "the model's own, calibrated at other directions"
    assert found["slicewise-cam"].source == "the model's own"


def test_planes_that_were_calibrated_too_have_their_own_threshold_and_others_follow_their_trend() -> None:
    other = {"threshold": 1.5, "noise_floor": 0.1, "settings": {"slices": 9, "directions": 6}}
    chosen = {**CHOSEN, "matched-cam": {**CHOSEN["matched-cam"], "other_planes": [other]}}
    spec = spec_of(calibration=CALIBRATION, thresholds=chosen, defaults=SHARED)
    for slices, threshold, source in (
        (9, 1.5, "the model's own"),
        (
            10,
            1.5 * (2.0 / 1.5) ** (math.log(9 / 8) / math.log(11 / 8)),
            "the model's own, scaled from that for 9 slices",
        ),
    ):
        settings = combine(defaults=SHARED, explicit={"methods": ("matched-cam",), "slices": slices})
        found = rows_of(spec.choices, settings, stages=[(3,)], standard=3, all_candidates=False)
        assert found["matched-cam"].threshold == pytest.approx(threshold)
        assert found["matched-cam"].source.startswith(source)
        # Other planes were measured for the model's choice alone.
        assert found["matched-cam@3"].threshold == 3.0
        assert found["matched-cam@3"].source == "the model's own, calibrated at other slices"


def test_all_candidates_are_rows_of_their_own_if_asked() -> None:
    found = rows("matched-cam", "tonno", stages=(), every=True)
    assert set(found) == {
        "matched-cam", "tonno", "matched-cam@2 hann sigma 2 smooth 0 mm", "tonno second-difference smooth 0 mm",
        "matched-cam@2 second-difference sigma 1 smooth 0 mm", "matched-cam@3 second-difference sigma 1 smooth 0 mm",
    }  # fmt: skip
    assert found["matched-cam@2 second-difference sigma 1 smooth 0 mm"].threshold == 1.0


def test_a_name_states_what_matters_to_the_method_alone() -> None:
    assert describe(Variant("averaged-cam", (2,), smooth_mm=4.0)) == "averaged-cam@2 smooth 4 mm"
    assert describe(Variant("tonno", filter="hann")) == "tonno hann smooth 0 mm"


def test_a_second_class_has_its_own_calibration() -> None:
    spec = spec_of(classes=("finding", "other"), calibration=CALIBRATION, thresholds=CHOSEN, defaults=SHARED)
    settings = ReconstructionSettings(methods=("matched-cam",), class_name="other", **SHARED)
    found = rows_of(spec.choices, settings, stages=[(2,)], standard=3, all_candidates=True)
    assert {row.threshold for row in found.values()} == {None}
    assert list(found) == ["matched-cam", "matched-cam@2"]
