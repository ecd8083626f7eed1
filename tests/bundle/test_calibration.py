"""Which threshold a model brings for which planes, and what it says about it."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from tonno_core.bundle.calibration import (
    ModelThreshold,
    is_threshold,
    planes_of,
    planes_text,
    settings_that_matter,
    threshold_for,
    threshold_key,
)
from tonno_core.commands.demo import MODEL
from tonno_core.settings import METHODS, PRESETS, ReconstructionSettings, Variant, combine

SETTINGS = {
    "slices": 64, "directions": 256, "lattice": "hemisphere", "frame": "physical", "cam": "layercam", "stage": 2,
    "filter": "second-difference", "sigma_scale": 1.0, "smooth_mm": 0.0,
}  # fmt: skip
FAST = {"threshold": 6.0, "noise_floor": 0.5, "settings": {**PRESETS["fast"], "lattice": "hemisphere"}}
RECORD = {"threshold": 8.0, "noise_floor": 1.0, "negative_volumes": 12, "settings": SETTINGS, "other_planes": [FAST]}
ALONE = {name: value for name, value in RECORD.items() if name != "other_planes"}
THRESHOLDS = {"matched-cam": RECORD, "tonno": ALONE}


def look(method: str = "matched-cam", thresholds: Any = THRESHOLDS, **settings: Any) -> ModelThreshold:
    zoom, variant, tried = (settings.pop(name, None) for name in ("zoom", "variant", "tried"))
    found = threshold_for(
        thresholds, method, combine(defaults={}, explicit=settings), variant=variant, tried=tried, zoom=bool(zoom)
    )
    assert found is not None
    return found


def test_planes_that_were_calibrated_have_their_own_threshold() -> None:
    own, fast = look(), look(**PRESETS["fast"])
    assert (own.value, own.noise_floor, own.source, own.note) == (8.0, 1.0, "calibrated", "")
    assert (fast.value, fast.noise_floor, fast.source, fast.note) == (6.0, 0.5, "calibrated", "")
    assert own.planes == own.calibrated_planes == planes_of("matched-cam", ReconstructionSettings())
    assert (fast.planes["slices"], fast.planes["directions"]) == (48, 96)
    assert own.origin == fast.origin == "the model's own"


# From M = 48 to 64 the threshold rises by 4 / 3: this power of M - 1.
POWER = math.log(4 / 3) / math.log(63 / 47)


@pytest.mark.parametrize(
    ("slices", "near", "expected"),
    [
        (56, (64, 256), 8.0 * (55 / 63) ** POWER),
        (40, (48, 96), 8.0 * (39 / 63) ** POWER),
        (72, (64, 256), 8.0 * (71 / 63) ** POWER),
        # No farther beyond the two than twice their distance.
        (5, (48, 96), 6.0 * (3 / 4) ** 2),
        (1000, (64, 256), 8.0 * (4 / 3) ** 2),
    ],
)
def test_other_numbers_of_slices_follow_the_trend_of_two_calibrations(
    slices: int, near: tuple[int, int], expected: float
) -> None:
    found = look(slices=slices, directions=200)
    assert found.value == pytest.approx(expected)
    assert found.source == "scaled"
    assert (found.calibrated_planes["slices"], found.calibrated_planes["directions"]) == near
    assert found.note == (
        f"The model's threshold was calibrated for {near[0]} slices in each of {near[1]} directions; the heatmap has "
        f"{slices} slices in each of 200 directions: it was scaled to these."
    )
    assert found.origin == f"the model's own, scaled from that for {near[0]} slices in each of {near[1]} directions"


def test_the_noise_floor_follows_its_own_trend() -> None:
    power = math.log(2) / math.log(63 / 47)
    assert look(slices=56).noise_floor == pytest.approx(1.0 * (55 / 63) ** power)
    unknown = {name: value for name, value in FAST.items() if name != "noise_floor"}
    found = look(thresholds={"matched-cam": {**RECORD, "other_planes": [unknown]}}, slices=56)
    assert (found.source, found.noise_floor) == ("scaled", None)


@pytest.mark.parametrize(
    ("method", "settings", "changed"),
    [
        ("tonno", {"slices": 48}, ("slices",)),  # calibrated for one set of planes alone
        ("matched-cam", {"directions": 100}, ("directions",)),  # which thresholds do not follow
        ("matched-cam", {"lattice": "sphere"}, ("lattice",)),
        ("matched-cam", {"lattice": "sphere", "slices": 56}, ("slices", "lattice")),
        ("matched-cam", {"frame": "normalized"}, ("frame",)),
        ("matched-cam", {"slice_size": 160}, ("slice_size",)),
        ("matched-cam", {"cam": "gradcam"}, ("cam",)),
        ("matched-cam", {"stage": 3, "smooth_mm": 2.0}, ("stage", "smooth_mm")),
    ],
)
def test_whatever_else_differs_is_said_and_not_scaled(
    method: str, settings: dict[str, Any], changed: tuple[str, ...]
) -> None:
    found = look(method, **settings)
    assert (found.value, found.noise_floor, found.source) == (8.0, 1.0, "unscaled")
    assert set(found.changed) == set(changed)
    assert found.origin == f"the model's own, calibrated at other {', '.join(found.changed)}"
    assert found.note.endswith("look, and tune it.")
    assert all(name.replace("_", " ") in found.note for name in changed)


def test_the_nearest_planes_are_those_that_count() -> None:
    assert look(slices=48, directions=100).value == look(slices=48, directions=96).value == 6.0
    assert look(slices=48, directions=100, cam="gradcam").value == 6.0
    assert look(slices=64, directions=90).value == 8.0


@pytest.mark.parametrize(
    ("then", "now"), [("layercam", "gradcam++"), ("scorecam", "layercam"), ("gradcam++", "gradcam")]
)
def test_a_threshold_in_another_unit_is_none(then: str, now: str) -> None:
    record = {**ALONE, "settings": {**SETTINGS, "cam": then}}
    asked = combine(defaults={}, explicit={"cam": now})
    assert threshold_for({"matched-cam": record}, "matched-cam", asked) is None
    assert look(thresholds={"matched-cam": record, "tonno": ALONE}, cam=then, directions=256).source == "calibrated"
    assert look("tonno", cam=now).source == "calibrated"  # which has no maps


def test_scorecam_is_calibrated_for_the_directions_that_it_takes() -> None:
    settings = combine(defaults={}, explicit={"cam": "scorecam"})
    variant = Variant("matched-cam", (2,))
    record = {"threshold": 3.0, "settings": settings_that_matter(variant, settings)}
    assert record["settings"]["directions"] == 32
    found = look(thresholds={"matched-cam": record}, cam="scorecam", variant=variant)
    assert (found.value, found.source) == (3.0, "calibrated")


def test_a_zoomed_run_has_no_calibration() -> None:
    found = look(zoom=True, **PRESETS["fast"])
    assert (found.value, found.source, found.changed) == (6.0, "unscaled", ("scale",))
    assert "for the whole volume, not for a finer region" in found.note


def test_each_method_looks_at_what_matters_to_it() -> None:
    record = {"threshold": 1.0, "settings": {"slices": 64, "stage": 2}}
    thresholds = {"slicewise-cam": record, "center": {"threshold": 0.5, "settings": {"frame": "physical"}}}
    assert look("slicewise-cam", thresholds, directions=3, lattice="sphere").source == "calibrated"
    assert look("slicewise-cam", thresholds, slices=48).note == (
        "The model's threshold was calibrated for 64 slices; the heatmap has 48 slices: look, and tune it."
    )
    assert look("center", thresholds, slices=3, slice_size=8).source == "calibrated"
    # The number of directions of the CAM methods where it is another.
    assert look(directions=999, cam_directions=256).source == "calibrated"
    assert look("tonno", directions=256, cam_directions=999).source == "calibrated"


def test_each_class_has_its_own() -> None:
    thresholds = {"tonno": {"threshold": 1.0}, "tonno/b": {"threshold": 2.0, "other_planes": []}}
    values = [
        threshold_for(thresholds, "tonno", ReconstructionSettings(class_name=name), classes=("a", "b", "c"))
        for name in (None, "a", "b", "c")
    ]
    assert [found and found.value for found in values] == [1.0, 1.0, 2.0, None]
    assert threshold_key("tonno", "", ("a",)) == "tonno"
    assert threshold_for({}, "tonno", ReconstructionSettings()) is None


def test_a_variant_that_was_tried_has_its_threshold_and_the_chosen_planes_are_not_its() -> None:
    tried = {"stage": 3, "filter": "hann", "sigma_scale": 1.0, "smooth_mm": 0.0, "threshold": 5.0, "noise_floor": 0.3}
    variant = Variant("matched-cam", (3,), "hann")
    found = look(variant=variant, tried=tried)
    assert (found.value, found.source, found.record["threshold"]) == (5.0, "calibrated", 5.0)
    found = look(variant=variant, tried=tried, slices=48, directions=96)
    assert (found.value, found.source, found.changed) == (5.0, "unscaled", ("slices", "directions"))
    # The chosen one was tried as well.
    chosen = {name: SETTINGS[name] for name in ("stage", "filter", "sigma_scale", "smooth_mm")}
    found = look(variant=Variant("matched-cam", (2,)), tried={**chosen, "threshold": 8.0}, slices=48, directions=96)
    assert (found.value, found.source) == (6.0, "calibrated")


def test_a_stage_that_is_not_known_yet_is_no_difference() -> None:
    record = {**RECORD, "settings": {**SETTINGS, "stage": 3}}
    found = look(thresholds={"matched-cam": record}, variant=Variant("matched-cam"))
    assert found.source == "calibrated"


def test_a_message_is_the_record_with_what_holds_here() -> None:
    message = json.loads(json.dumps(look(**PRESETS["fast"]).message(), allow_nan=False))
    assert (message["threshold"], message["noise_floor"], message["negative_volumes"]) == (6.0, 0.5, 12)
    assert (message["source"], message["note"], message["changed"]) == ("calibrated", "", [])
    assert message["planes"] == message["calibrated_planes"] == {
        "slices": 48, "directions": 96, "lattice": "hemisphere", "frame": "physical",
    }  # fmt: skip
    assert "other_planes" not in message


def test_what_is_no_record_is_told() -> None:
    assert is_threshold(RECORD)
    assert is_threshold({"threshold": 1})
    for other in (None, {}, [{}], [{"threshold": math.nan}], [{"threshold": 1.0, "other_planes": []}], [3]):
        assert not is_threshold({**RECORD, "other_planes": other})
    for settings in ({"slices": "many"}, {"slices": 1}, {"directions": 0}, {"slices": 2.5}, [], {"slices": True}):
        assert not is_threshold({"threshold": 1.0, "settings": settings})
    assert not is_threshold({"threshold": True})


def test_planes_in_words() -> None:
    assert planes_text({"slices": 64, "directions": 256}) == "64 slices in each of 256 directions"


@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_the_shipped_model_is_calibrated_for_the_presets_that_it_is_used_with(preset: str) -> None:
    model = json.loads((MODEL / "model.json").read_text(encoding="utf-8"))
    settings = combine(defaults=model["defaults"], preset=preset, explicit={"methods": METHODS})
    for method in model["thresholds"]:
        found = threshold_for(model["thresholds"], method, settings, classes=model["classes"])
        assert found is not None
        assert found.source == "calibrated", method
        assert found.noise_floor is not None
        assert 0 < found.noise_floor < found.value


def test_it_needs_neither_torch_nor_anything_large() -> None:
    code = "import sys, tonno_core.bundle.calibration\n"
    code += "print(*({'torch', 'numpy', 'scipy', 'SimpleITK'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_settings_are_not_changed() -> None:
    settings = ReconstructionSettings(slices=48)
    before = dataclasses.asdict(settings)
    threshold_for(THRESHOLDS, "matched-cam", settings)
    assert dataclasses.asdict(settings) == before


def test_what_is_said_of_a_calibration_for_other_planes_is_of_these_planes() -> None:
    other = {**RECORD["other_planes"][0], "negatives_threshold": 4.5, "negative_volumes": 7}
    record = {**RECORD, "negatives_threshold": 5.5, "negative_volumes": 12, "other_planes": [other]}
    said = look(thresholds={"matched-cam": record}, **PRESETS["fast"]).message()
    assert (said["source"], said["negatives_threshold"], said["negative_volumes"]) == ("calibrated", 4.5, 7)
    assert said["settings"] == {**SETTINGS, **other["settings"]}
    assert "other_planes" not in said


def test_a_calibration_that_states_no_slices_is_no_step_of_a_trend() -> None:
    silent = {name: value for name, value in SETTINGS.items() if name != "slices"}
    record = {**ALONE, "settings": silent, "other_planes": [FAST, {"threshold": 5.0, "settings": {"slices": 32}}]}
    found = look(thresholds={"matched-cam": record}, slices=40, directions=96)
    assert (found.value, found.source) == (8.0, "unscaled")
    assert "calibrated for unstated slices in each of 256 directions" in found.note


def test_a_trend_beyond_floats_is_not_followed() -> None:
    other = {"threshold": 1e-300, "settings": {"slices": 63}}
    record = {**ALONE, "threshold": 1e300, "settings": SETTINGS, "other_planes": [other]}
    found = look(thresholds={"matched-cam": record}, slices=66)
    assert (found.value, found.source) == (1e300, "unscaled")


@pytest.mark.parametrize(
    "changes",
    [{"noise_floor": "low"}, {"noise_floor": math.nan}, {"threshold": 10**400}, {"settings": {"slices": 10**400}}],
)
def test_what_is_no_number_is_no_calibration(changes: dict[str, Any]) -> None:
    assert is_threshold(ALONE) and is_threshold(ALONE | {"noise_floor": None})
    assert not is_threshold(ALONE | changes)
