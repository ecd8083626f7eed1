"""The choices of a reconstruction: where each comes from, and which are refused."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tonno_core.errors import TonnoError
from tonno_core.settings import (
    ALL_METHODS,
    CAM_METHODS,
    METHODS,
    PRESETS,
    SETTINGS_THAT_MATTER,
    ReconstructionSettings,
    Variant,
    combine,
    model_defaults,
    parse_stages,
    variant_of,
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slices": 1}, "`slices` is 1, expected a whole number from 2 to 1024"),
        ({"slices": 2.0}, "`slices` is 2.0, expected a whole number"),
        ({"slices": True}, "`slices` is True, expected a whole number"),
        ({"slices": None}, "`slices` is None, expected a whole number"),
        ({"directions": 0}, "`directions` is 0, expected a whole number from 1"),
        ({"cam_directions": 0}, "`cam_directions` is 0, expected a whole number from 1"),
        (
            {"stages": (0,)},
            "`stages` is (0,), expected a tuple of whole numbers from 1 to 1000, finest first, like (3, 4)",
        ),
        ({"stages": (4, 3)}, "`stages` is (4, 3), expected"),
        ({"stages": (3, 1001)}, "`stages` is (3, 1001), expected"),
        ({"stages": 3}, "`stages` is 3, expected"),
        ({"stages": (3.0,)}, "`stages` is (3.0,), expected"),
        ({"stages": (True,)}, "`stages` is (True,), expected"),
        ({"stages": [3]}, "`stages` is [3], expected"),
        ({"slice_size": 7}, "`slice_size` is 7, expected a whole number from 8"),
        ({"sigma_scale": -0.1}, "`sigma_scale` is -0.1, expected a number from 0"),
        ({"sigma_scale": math.nan}, "`sigma_scale` is nan, expected a number"),
        ({"smooth_mm": math.inf}, "`smooth_mm` is inf, expected a number"),
        ({"smooth_mm": "much"}, "`smooth_mm` is much, expected a number"),
        ({"radius_mm": 0}, "`radius_mm` is 0, expected a number from 0.01"),
        ({"radius_mm": 1e9}, "`radius_mm` is 1000000000.0, expected a number"),
        ({"methods": ()}, "`methods` is empty, expected at least one"),
        ({"methods": ("tonno", "magic")}, "`methods` is magic, expected one of tonno, averaged-cam"),
        ({"cam": "eigencam"}, "`cam` is eigencam, expected one of layercam, gradcam, gradcam++, scorecam"),
        ({"lattice": "cube"}, "`lattice` is cube, expected one of hemisphere, sphere"),
        ({"filter": "ramp"}, "`filter` is ramp, expected one of second-difference, hann, gaussian"),
        ({"frame": "voxel"}, "`frame` is voxel, expected one of physical, normalized"),
        ({"grid": "fine"}, "`grid` is fine, expected one of band-limited, volume"),
        ({"frame": "normalized", "radius_mm": 50.0}, "`radius_mm` has no meaning with `frame` normalized"),
    ],
)
def test_what_cannot_be_is_named_by_its_argument(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TonnoError) as caught:
        ReconstructionSettings(**changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "stage", [0, "2", "4+3", "3+3", "3+", "03+4", "3+1001", 2.0, True, (3, 4), "much", "", "9" * 5000]
)
def test_stages_are_read_as_files_have_them_or_refused(stage: object) -> None:
    with pytest.raises(TonnoError, match=r"`stage` is .*, expected a whole number from 1 to 1000, or some to add up"):
        parse_stages(stage)
    assert (parse_stages(None), parse_stages(3), parse_stages("3+4")) == ((), (3,), (3, 4))


def test_the_ends_of_the_ranges_and_numpys_numbers_are_taken() -> None:
    ReconstructionSettings(slices=2, directions=1, stages=(1,), slice_size=8, sigma_scale=0, smooth_mm=0)
    ReconstructionSettings(slices=np.int64(8), smooth_mm=np.float32(1.5))  # type: ignore[arg-type]


def test_what_was_asked_for_goes_before_the_preset_and_that_before_the_model() -> None:
    model = {"slices": 10, "directions": 20, "lattice": "sphere", "cam": "gradcam"}
    found = combine(defaults=model, preset="fast", explicit={"slices": 5, "cam": None})
    assert (found.slices, found.directions, found.lattice, found.cam) == (5, 96, "sphere", "gradcam")


def test_nothing_asked_for_gives_the_defaults() -> None:
    assert combine(defaults={}, explicit={}) == ReconstructionSettings()
    # What a new bundle states as its defaults is what holds without it, and JSON can hold it.
    assert combine(defaults=model_defaults(), explicit={}) == ReconstructionSettings()
    for method in METHODS:
        made = variant_of(method, ReconstructionSettings(), defaults=model_defaults())
        assert made == variant_of(method, ReconstructionSettings()) == Variant(method)


def test_a_methods_own_choices_come_from_what_was_asked_then_its_calibration_then_the_model() -> None:
    model = model_defaults(stage=2, smooth_mm=3.0)
    settings = combine(defaults=model, preset="fast", explicit={"sigma_scale": 2.0, "stage": None})
    assert (settings.stages, settings.sigma_scale, settings.filter, settings.smooth_mm) == ((), 2.0, None, None)
    calibrated = {"stage": 4, "sigma_scale": 0.5, "filter": "hann", "slices": 7}
    made = variant_of("matched-cam", settings, calibrated=calibrated, defaults=model)
    assert made == Variant("matched-cam", stages=(4,), filter="hann", sigma_scale=2.0, smooth_mm=3.0)
    # A smoothing of 0 is an answer, not the lack of one.
    assert variant_of("tonno", settings, calibrated={"smooth_mm": 0.0}, defaults=model).smooth_mm == 0.0
    # What a method does not use stays at its standard.
    assert variant_of("center", settings, calibrated=calibrated, defaults=model) == Variant("center", smooth_mm=3.0)


def test_the_papers_preset_leaves_no_choice_of_the_model_but_the_stage() -> None:
    settings = combine(defaults={}, preset="paper", explicit={})
    made = variant_of("tomographic-cam", settings, calibrated={"stage": 1, "filter": "hann", "smooth_mm": 4.0})
    assert made == Variant("tomographic-cam", stages=(1,))


def test_a_variant_is_checked_as_the_settings_are() -> None:
    for changes, message in (
        ({"method": "magic"}, "`method` is magic, expected one of tonno"),
        ({"stages": (0,)}, r"`stages` is \(0,\), expected a tuple of whole numbers"),
        ({"filter": "ramp"}, "`filter` is ramp, expected one of second-difference"),
        ({"smooth_mm": math.nan}, "`smooth_mm` is nan, expected a number"),
        ({"stages": (1, 2), "weights": [0.5]}, r"`weights` is \(0.5,\), expected a positive number for each"),
        ({"stages": (1, 2), "weights": [0.5, 0.0]}, "`weights` is"),
        ({"stages": (1, 2), "weights": [0.5, math.inf]}, "`weights` is"),
        ({"stages": (1, 2), "weights": "ab"}, "`weights` is"),
    ):
        with pytest.raises(TonnoError, match=message):
            Variant(**{"method": "matched-cam", **changes})  # type: ignore[arg-type]


def test_a_sum_of_stages_is_made_of_its_parts() -> None:
    one = Variant("averaged-cam", (2, 3, 11), "hann", smooth_mm=4.0, weights=(0.5, 0.25, 0.25))
    assert one.record()["stage"] == "2+3+11"
    weights = {2: 0.5, 3: 0.25, 11: 0.25}
    assert one.parts() == {Variant("averaged-cam", (k,), smooth_mm=4.0): weight for k, weight in weights.items()}
    assert one.raw() == Variant("averaged-cam", (2, 3, 11), weights=(0.5, 0.25, 0.25))
    assert one.raw().parts() == {Variant("averaged-cam", (stage,)): weight for stage, weight in weights.items()}
    assert Variant("matched-cam", (2,), smooth_mm=4.0).parts() == {Variant("matched-cam", (2,), smooth_mm=4.0): 1.0}
    # To ToNNO no stage means anything, and so no weight.
    assert Variant("tonno", (2, 3), weights=(0.5, 0.5)) == Variant("tonno")
    # As JSON has it.
    assert Variant.of_record(json.loads(json.dumps(one.record()))) == one


def test_variants_of_equal_heatmaps_are_equal_whatever_they_were_made_with() -> None:
    everything = {"stages": (2,), "filter": "hann", "sigma_scale": 3.0, "smooth_mm": 4.0}
    used = {
        "tonno": {"filter", "smooth_mm"}, "averaged-cam": {"stages", "smooth_mm"},
        "tomographic-cam": {"stages", "filter", "smooth_mm"}, "matched-cam": set(everything),
        "slicewise-cam": {"stages", "smooth_mm"}, "slicewise-cam-3axes": {"stages", "smooth_mm"},
        "center": {"smooth_mm"},
    }  # fmt: skip
    for method in METHODS:
        found = Variant(method, **everything)  # type: ignore[arg-type]
        assert found == Variant(method, **{name: everything[name] for name in used[method]})  # type: ignore[arg-type]
        assert Variant(method, smooth_mm=4.0).raw() == Variant(method)


def test_the_papers_preset() -> None:
    found = combine(defaults={"frame": "physical"}, preset="paper", explicit={"methods": METHODS})
    assert (found.slices, found.slice_size, found.lattice, found.filter, found.frame, found.grid) == (
        100, 224, "sphere", "second-difference", "normalized", "volume",
    )  # fmt: skip
    assert {method: found.directions_for(method) for method in ("tonno", *CAM_METHODS)} == {
        "tonno": 2000, "averaged-cam": 1000, "tomographic-cam": 1000, "matched-cam": 1000,
    }  # fmt: skip


def test_directions_that_were_asked_for_hold_for_all_methods() -> None:
    found = combine(defaults={}, preset="paper", explicit={"directions": 7})
    assert {found.directions_for(method) for method in METHODS} == {7}


def test_a_method_named_twice_runs_once_in_the_order_of_naming() -> None:
    assert combine(defaults={}, explicit={"methods": ["tonno", "center", "tonno"]}).methods == ("tonno", "center")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(TonnoError, match=r"`preset` 'fats' is unknown, expected one of fast, balanced, paper"):
        combine(defaults={}, preset="fats", explicit={})
    with pytest.raises(TonnoError, match=r"the model's default 'magic' is unknown; it needs a newer version"):
        combine(defaults={"magic": 1}, explicit={})


def test_every_preset_and_every_method_is_complete() -> None:
    for preset in PRESETS:
        combine(defaults={}, preset=preset, explicit={})
    assert set(SETTINGS_THAT_MATTER) == set(ALL_METHODS)
    for names in SETTINGS_THAT_MATTER.values():
        assert set(names) <= set(ReconstructionSettings().record())


def test_settings_need_no_torch() -> None:
    code = "import sys, tonno_core.settings; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_single_name_for_methods_is_said_and_not_taken_apart() -> None:
    with pytest.raises(TonnoError, match=r"`methods` is tonno, expected a tuple of names, as \('tonno',\)"):
        ReconstructionSettings(methods="tonno")  # type: ignore[arg-type]


# --- ScoreCAM's directions


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({}, (256, 32)),  # a sample, as every direction costs hundreds of passes through the network
        ({"directions": 20}, (20, 20)),
        ({"directions": 100}, (100, 100)),  # what is asked for holds
        ({"cam_directions": 48}, (256, 48)),
        ({"directions": 100, "cam_directions": 8}, (100, 8)),
    ],
)
def test_scorecam_takes_a_sample_of_directions_unless_asked_for_more(
    asked: dict[str, int], expected: tuple[int, int]
) -> None:
    found = combine(defaults={}, explicit={"cam": "scorecam", **asked})
    assert (found.directions_for("tonno"), found.directions_for("averaged-cam")) == expected
    assert found.record()["cam_directions"] == expected[1]  # reports and Slicer's panel read it there
    assert combine(defaults={}, explicit={"cam": "gradcam++"}).directions_for("matched-cam") == 256
    assert ReconstructionSettings(cam="scorecam", directions=500).directions_for("matched-cam") == 32
    assert combine(defaults={}, preset="paper", explicit={"cam": "scorecam"}).directions_for("matched-cam") == 1000
