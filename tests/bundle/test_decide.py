"""What is asked and what a model brings become a complete run, or are refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks import spec_of
from tonno_core import ReconstructionSettings, TonnoError, Volume
from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.reconstruction import execute
from tonno_core.settings import METHODS, Variant, choices_of
from tonno_core.slicing.region import Region

BOX = Region(np.diag([20.0, 20.0, 20.0, 1.0]))
PLANES = {"slices": 64, "directions": 256}
RECORD = {
    "threshold": 2.0,
    "settings": {**PLANES, "smooth_mm": 3.0},
    "other_planes": [{"threshold": 1.0, "settings": {"slices": 32, "directions": 256}}],
}


def ready(stages: int = 4, with_maps: tuple[int, ...] | None = None, **changes: Any) -> ReadyModel:
    spec = spec_of(classes=("a", "none"), slice_size=32, **changes)
    usable = tuple(range(1, stages + 1)) if with_maps is None else with_maps
    encoder: Any = SimpleNamespace(classes=spec.classes, stages=stages, stages_with_maps=lambda *_: usable)
    return ReadyModel(encoder, spec, 32, torch.device("cpu"), torch.float32)


def test_every_choice_of_every_method_is_made() -> None:
    run = decide(ReconstructionSettings(methods=METHODS), ready())
    (target,) = run.targets
    assert (target.name, target.output, run.pixels) == ("a", 0, 32)
    for method, variant in target.variants.items():
        assert variant.method == method
        assert all(getattr(variant, name) not in (None, ()) for name in choices_of(method))
        assert variant.stages == ((3,) if "stages" in choices_of(method) else ())  # the last but one of four


def test_a_network_of_one_stage_has_that() -> None:
    (target,) = decide(ReconstructionSettings(methods=("averaged-cam",)), ready(stages=1)).targets
    assert target.variants["averaged-cam"].stages == (1,)


@pytest.mark.parametrize(("with_maps", "expected"), [((1, 2, 3), 3), ((1,), 1), ((1, 2), 2), ((4,), 4)])
def test_the_standard_stage_is_one_that_gives_maps(with_maps: tuple[int, ...], expected: int) -> None:
    (target,) = decide(ReconstructionSettings(methods=("averaged-cam",)), ready(4, with_maps)).targets
    assert target.variants["averaged-cam"].stages == (expected,)


@pytest.mark.parametrize(
    ("with_maps", "message"),
    [
        ((1, 2, 3), "`stage` 4: the logit of class 'a' does not depend .* choose a `stage` from 1 to 3$"),
        ((1, 3), "`stage` 4: .* choose a `stage` of 1, 3$"),
        ((2,), "`stage` 4: .* choose a `stage` of 2$"),
        ((), "`stage` 4: the logit of class 'a' does not depend on any stage's .* or `method` tonno, which needs no"),
    ],
)
def test_a_stage_without_maps_is_refused_with_those_that_have_some(with_maps: tuple[int, ...], message: str) -> None:
    asked = ReconstructionSettings(methods=("averaged-cam",), stages=(4,))
    with pytest.raises(TonnoError, match=message):
        decide(asked, ready(4, with_maps))
    decide(replace(asked, methods=("tonno",)), ready(4, with_maps))  # which needs none


def test_what_is_asked_goes_before_what_the_model_chose() -> None:
    model = ready(thresholds={"tonno": RECORD})
    for asked, expected in ((None, 3.0), (5.0, 5.0), (0.0, 0.0)):
        settings = ReconstructionSettings(methods=("tonno",), smooth_mm=asked)
        assert decide(settings, model).targets[0].variants["tonno"].smooth_mm == expected


def test_each_class_has_its_output_once() -> None:
    run = decide(ReconstructionSettings(methods=("tonno",)), ready(), classes=("none", "a", "none"))
    assert [(target.name, target.output) for target in run.targets] == [("none", 1), ("a", 0)]


def test_a_run_of_several_classes_is_not_taken_for_that_of_the_first() -> None:
    volume = Volume(np.zeros((8, 8, 8), np.float32), np.eye(4))
    run = decide(ReconstructionSettings(methods=("tonno",)), ready(), classes=("a", "none"))
    with pytest.raises(ValueError):
        execute(volume, ready().encoder, run)


@pytest.mark.parametrize(
    ("changes", "directions", "zoom", "value", "source"),
    [
        (PLANES, None, False, 2.0, "calibrated"),
        ({**PLANES, "slices": 32}, None, False, 1.0, "calibrated"),
        (PLANES, 64, False, 2.0, "unscaled"),
        (PLANES, None, True, 2.0, "unscaled"),
    ],
)
def test_a_threshold_is_that_of_the_planes_that_were_looked_at(
    changes: dict[str, int], directions: int | None, zoom: bool, value: float, source: str
) -> None:
    model = ready(thresholds={"tonno": RECORD})
    settings = ReconstructionSettings(methods=("tonno",), **changes)  # type: ignore[arg-type]
    run = decide(settings, model, region=BOX if zoom else None, zoom=zoom)
    known = run.threshold(run.targets[0], "tonno", directions)
    assert known is not None
    assert (known.value, known.source) == (value, source)
    assert run.threshold(replace(run.targets[0], name="none"), "tonno") is None  # which nobody calibrated


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"class_name": "c"}, {}, "`class_name` 'c' is unknown to this model, expected one of a, none"),
        ({"slice_size": 48}, {}, "`slice_size` is 48, the model was made ready for 32"),
        ({"methods": ("averaged-cam",), "stages": (5,)}, {}, "`stage` 5 does not exist in this encoder, expected 1 to"),
        ({"methods": ("averaged-cam",), "stages": (2, 3)}, {}, r"`stage` 2\+3: how much each of these counts"),
        ({}, {"zoom": True}, "`zoom` needs a region to zoom into"),
        ({"frame": "normalized"}, {"zoom": True, "region": BOX}, "`zoom` has no meaning with `frame` normalized"),
        ({"radius_mm": 60.0}, {"zoom": True, "region": BOX}, "`zoom` and `radius_mm` both determine the ball"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(TonnoError, match=message):
        decide(ReconstructionSettings(**settings), ready(), **more)


def test_variants_of_the_callers_own_are_completed_and_kept_under_their_names() -> None:
    wanted = {"x": Variant("averaged-cam"), "y": Variant("averaged-cam", (1,))}
    run = decide(None, ready(), variants=wanted)
    assert [variant.stages for variant in run.targets[0].variants.values()] == [(3,), (1,)]
    assert decide(None, prepare_model("pixel-sum", None, "cpu")).targets[0].variants == {"tonno": Variant("tonno")}
