"""Bundles of segmenters: a round trip, each way in which one can be wrong, and what has no meaning for them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.bundle.test_file import refused
from tests.mirrors import NETWORK, mirror_network, random_segmenter, write_mirror
from tests.networks import write_random_bundle
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import load_bundle, save_bundle, save_description, segmenter_spec
from tonno_core.bundle.kind import teaching
from tonno_core.bundle.ready import PIXEL_SUM, load_model, prepare_model
from tonno_core.errors import TonnoError
from tonno_core.settings import ReconstructionSettings, Variant

RECORD = {"threshold": -1.5, "settings": {"smooth_mm": 2.0}, "min_volume_mm3": 50.0, "min_peak": 0.0}


def edit(folder: Path, **changes: object) -> None:
    """Change keys of a bundle's model.json; None removes one."""
    path = folder / "model.json"
    data = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))


def test_round_trip(tmp_path: Path) -> None:
    model = random_segmenter(classes=2)
    training = {"taught_by": "heatmaps", "teacher": {"sha256": "ab"}}
    spec = segmenter_spec(
        NETWORK, ("a", "b"), "window:-100:300", thresholds={"segmenter": RECORD, "segmenter/b": RECORD},
        training=training, about={"finding": "Läsion"},
    )  # fmt: skip
    written = save_bundle(tmp_path / "model", spec, model.state_dict())
    found = load_bundle(tmp_path / "model")
    assert found.spec == written == dataclasses.replace(spec, sha256=written.sha256)
    data = json.loads((tmp_path / "model" / "model.json").read_text(encoding="utf-8"))
    assert data["schema"] == 2
    assert data["kind"] == "segmenter"
    assert not {"encoder", "slice_size", "pixel_mm", "norm", "frame", "stages"} & data.keys()  # of slices
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found.weights[name], tensor, rtol=0, atol=0)
    windows = torch.randn(1, 1, *NETWORK.window_zyx)
    with torch.inference_mode():
        torch.testing.assert_close(found.segmenter()._model(windows), model(windows), rtol=0, atol=0)
    assert found.threshold("segmenter") == -1.5
    assert "trained from labels by heatmaps, no mask" in repr(found)
    save_description(tmp_path / "again", found.spec, found)
    assert load_bundle(tmp_path / "again").spec == found.spec


def test_a_classifiers_description_is_as_it_was(tmp_path: Path) -> None:
    data = json.loads((write_random_bundle(tmp_path / "model") / "model.json").read_text())
    assert data["schema"] == 1
    assert not {"kind", "network"} & data.keys()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": 4}, "schema 4 was made by a newer version of tonno, this version reads schema 1 to 3"),
        ({"schema": "2"}, "schema '2' is unknown"),
        ({"schema": True}, "schema True is unknown"),
        ({"kind": "detector"}, "key 'kind' is 'detector', expected segmenter"),
        ({"kind": None}, "key 'kind' is None"),
        ({"network": None}, "'network' is expected to be an object"),
        ({"network": {**NETWORK.record(), "filters": 10**6}}, "'network': 'filters' is 1000000"),
        ({"network": {**NETWORK.record(), "depth": 3}}, "'network': 'depth' is unknown; it needs a newer version"),
        ({"classes": []}, "key 'classes'"),
        ({"classes": "finding"}, "key 'classes'"),
        ({"intensity": "minmax"}, "key 'intensity' is 'minmax'"),
        ({"thresholds": {"segmenter": {"threshold": None}}}, "key 'thresholds'"),
        ({"thresholds": {"segmenter": {"threshold": 0, "min_volume_mm3": -1}}}, "key 'thresholds'"),
        ({"thresholds": {"segmenter": {"threshold": 0, "min_peak": "high"}}}, "key 'thresholds'"),
        ({"thresholds": {"segmenter": {"threshold": 0, "min_peak": None}}}, "key 'thresholds'"),
        ({"thresholds": {"segmenter": {"threshold": 0, "above_half_peak": "low"}}}, "key 'thresholds'"),
        ({"thresholds": {"segmenter": {"threshold": 0, "settings": {"smooth_mm": -1}}}}, "'thresholds', segmenter"),
        ({"training": []}, "key 'training'"),
        ({"sha256": None}, "key 'sha256' is missing"),
    ],
)
def test_what_is_wrong_is_said(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = write_mirror(tmp_path / "model")
    edit(folder, **changes)
    assert said in refused(folder)


def test_weights_of_another_network(tmp_path: Path) -> None:
    folder = write_mirror(tmp_path / "model")
    edit(folder, network={**NETWORK.record(), "blocks": [1, 1, 1]})
    bundle = load_bundle(folder)
    with pytest.raises(TonnoError, match="weights are of another model"):
        bundle.segmenter()


def test_each_kind_is_what_it_is(tmp_path: Path) -> None:
    segmenter, classifier = write_mirror(tmp_path / "segmenter"), write_random_bundle(tmp_path / "classifier")
    with pytest.raises(TonnoError, match="segmenter: is a segmenter, expected a model of the kind classifier"):
        load_bundle(segmenter).classifier()
    with pytest.raises(TonnoError, match="expected a model of the kind classifier"):
        load_bundle(segmenter).to_calibrate()
    with pytest.raises(TonnoError, match="classifier: is a classifier, expected a model of the kind segmenter"):
        load_bundle(classifier).segmenter()


@pytest.mark.parametrize("name", ["slices", "directions", "stage", "filter", "frame", "slice_size", "grid", "cam"])
def test_a_setting_of_planes_has_no_meaning(name: str, tmp_path: Path) -> None:
    choices = load_bundle(write_mirror(tmp_path / "model")).spec.choices
    with pytest.raises(TonnoError, match=f"`{name}` has no meaning for a segmenter"):
        choices.settings({name: 3, "smooth_mm": 1.0})
    with pytest.raises(TonnoError, match="`preset` has no meaning for a segmenter"):
        choices.settings({}, "fast")
    assert choices.settings({name: None, "smooth_mm": 1.0}).methods == ("segmenter",)


def test_methods_of_the_other_kind(tmp_path: Path) -> None:
    choices = load_bundle(write_mirror(tmp_path / "segmenter")).spec.choices
    with pytest.raises(TonnoError, match="`methods` tonno: the model is a segmenter, whose only method is segmenter"):
        choices.settings({"methods": ("tonno",)})
    bundle = load_bundle(write_random_bundle(tmp_path / "classifier"))
    asked = ReconstructionSettings(methods=("segmenter",))
    for model in (bundle, load_model(PIXEL_SUM)):
        with pytest.raises(TonnoError, match="`methods` segmenter: the model is a classifier of slices"):
            decide(asked, prepare_model(model, asked, "cpu"))
    ready = prepare_model(load_bundle(tmp_path / "segmenter"), None, "cpu")
    with pytest.raises(TonnoError, match="`methods` matched-cam: the model is a segmenter"):
        decide(ReconstructionSettings(), ready)
    with pytest.raises(TonnoError, match="`zoom` has no meaning for a segmenter"):
        decide(None, ready, zoom=True)


def test_its_threshold_and_smallest_component(tmp_path: Path) -> None:
    classes = ("a", "b")
    folder = write_mirror(tmp_path / "model", classes=classes, thresholds={"segmenter": RECORD})
    choices = load_bundle(folder).spec.choices
    settings = choices.settings()
    assert choices.variant("segmenter", settings) == Variant("segmenter", smooth_mm=2.0)
    known = choices.threshold(choices.variant("segmenter", settings), settings)
    assert known is not None
    assert (known.value, known.min_volume_mm3, known.min_peak, known.origin) == (-1.5, 50.0, 0.0, "the model's own")
    other = choices.threshold(Variant("segmenter", smooth_mm=4.0), settings)
    assert other is not None
    assert "another smooth mm" in other.note
    # Without one, a segmenter's logit has a natural threshold.
    without = choices.threshold(Variant("segmenter"), choices.settings({"class_name": "b"}))
    assert without is not None
    assert (without.value, without.min_volume_mm3, without.min_peak) == (0.0, 0.0, None)
    assert without.origin == "probability one half, as the model brings none"
    assert without.message()["note"].startswith("The model brings no threshold")


def test_what_it_was_taught_by() -> None:
    assert teaching({"taught_by": "masks"}) == "trained on masks"
    assert teaching({"taught_by": "a friend"}) == teaching({}) == ""


def test_the_mirror_answers_its_input() -> None:
    windows = torch.randn(2, 1, *NETWORK.window_zyx) * 3 + 5
    with torch.inference_mode():
        answer = mirror_network()(windows)
    expected = (windows - windows.mean(dim=(2, 3, 4), keepdim=True)) / windows.std(dim=(2, 3, 4), keepdim=True)
    torch.testing.assert_close(answer, expected, rtol=1e-4, atol=1e-4)  # its norm's epsilon of 1e-5 on a variance of 9
