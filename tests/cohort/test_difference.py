"""In what two runs differ, in words."""

from __future__ import annotations

from typing import Any

import pytest

from tonno_core.cohort.difference import differences

MODEL = {"encoder": "resnet10t", "sha256": "a1", "about": {"finding": "lesion"}}
RUN: dict[str, Any] = {
    "tonno": "0.1.0", "model": MODEL, "settings": {"methods": ["tonno"], "slices": 12, "smooth_mm": None},
    "compiled": False, "region": None, "manifest": {"cases": 3, "sha256": "b"},
    "heatmaps": {"tonno": {"smooth_mm": 4.0, "threshold": 0.25}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"manifest": {"cases": 9, "sha256": "c"}, "run": "x", "cases": {"0001-a": "/a"}}, ""),
        ({"tonno": "0.2.0"}, "tonno's version was 0.1.0, now 0.2.0"),
        ({"model": {**MODEL, "sha256": "a2"}}, "the model's weights are others"),
        ({"model": {**MODEL, "encoder": "vit", "sha256": "c"}}, "the model's network was resnet10t, now vit"),
        ({"model": "pixel-sum"}, "the model was resnet10t, now pixel-sum"),
        ({"model": {**MODEL, "about": {}}}, "what the model says of its finding was lesion, now not given"),
        ({"compiled": True}, "`compiled` was off, now on"),
        ({"settings": {"methods": ["tonno", "center"], "slices": 12, "smooth_mm": 4.0}},
         "`methods` was tonno, now tonno, center; `smooth_mm` was not given, now 4.0"),
        ({"region": {"box_to_ras": []}}, "the `region` was not given, now given"),
        ({"heatmaps": {"tonno": {"smooth_mm": 4.0, "threshold": None}}},
         "the model's threshold for tonno was 0.25, now not given"),
        ({"heatmaps": {}}, "heatmaps tonno is only in that one"),
    ],
)  # fmt: skip
def test_a_difference_is_said_in_words(changes: dict[str, Any], said: str) -> None:
    assert differences(RUN, {**RUN, **changes}) == said


def test_the_first_three_are_said_and_what_earlier_builds_did_not_note_is_none() -> None:
    other = {**RUN, "tonno": "2", "compiled": True, "settings": {"methods": [], "slices": 1, "smooth_mm": 1.0}}
    assert differences(RUN, other).endswith("; `slices` was 12, now 1; and 2 more")
    assert differences({name: value for name, value in RUN.items() if name != "heatmaps"}, RUN) == ""
