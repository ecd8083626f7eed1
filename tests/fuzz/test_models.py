"""Models from elsewhere: descriptions, weights, programs and checkpoints of which anything may be wrong."""

from __future__ import annotations

import dataclasses
import io
import json
import warnings
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.encoding.test_program import Small, export
from tests.fuzz.strategies import attempt, cases, damaged, mutated
from tests.networks import spec_of
from tonno_core.bundle.file import Bundle, build_encoder, load_bundle, save_bundle, segmenter_spec
from tonno_core.bundle.own import OwnClassifier, assumptions, describe
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.program import Program, read_program
from tonno_core.encoding.sources import read_source
from tonno_core.encoding.weights import read_weights
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.settings import ALL_METHODS, ReconstructionSettings, Variant
from tonno_core.training.tensor_file import load_tensors, save_tensors

STATE = torch.arange(6.0).reshape(2, 3)
TRIED = {"class": "a", "threshold": 0.5, **Variant("matched-cam", (1, 2), "hann", 0.5, 4.0, (0.4, 0.6)).record()}
CHOICE = {"stage": "1+2", "filter": "hann", "sigma_scale": 0.5, "smooth_mm": 4.0, "slices": 12, "directions": 6}
THRESHOLD = {
    "threshold": 0.5, "noise_floor": 0.1, "settings": CHOICE, "min_volume_mm3": 8.0,
    "other_planes": [{"threshold": 0.25, "noise_floor": 0.05, "settings": {**CHOICE, "slices": 48, "directions": 96}}],
}  # fmt: skip


@pytest.fixture(scope="module")
def models(folder: Path) -> list[Path]:
    """A classifier with all that a description may have, a regressor, and a segmenter; their weights are none."""
    full = spec_of(
        classes=("a", "b"), channels=3, pixel_mm=2.5, intensity="window:0:80,-20:180,-800:2000", white=255,
        mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 3.0), activation="softmax", thresholds={"matched-cam": THRESHOLD},
        calibration=[json.loads(json.dumps(TRIED))], stages=("layer1", "layer2"), arguments={"global_pool": "max"},
        training={"seed": 1, "weights": "w.pth"}, about={"finding": "x"},
    )  # fmt: skip
    network = SegmenterNetwork((2.0, 2.0, 2.0), (16, 16, 16))
    thresholds = {"segmenter": {"threshold": 0.3, "min_volume_mm3": 10.0, "min_peak": 1.0, "above_half_peak": 0.1}}
    segmenter = segmenter_spec(network, ("a",), "zscore", thresholds=thresholds)
    plain = spec_of(classes=("ml",))
    for name, spec in (("classifier", full), ("segmenter", segmenter), ("plain", plain)):
        save_bundle(folder / name, spec, {"w": STATE})
    path = folder / "plain" / "model.json"
    quantity = {"schema": 2, "kind": "regressor", "quantity": {"name": "ml", "mean": 1.0, "sd": 2.0}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantity))
    return [folder / name for name in ("classifier", "segmenter", "plain")]


def use(bundle: Bundle) -> None:
    """All that reads a description, but for building its network."""
    choices, spec = bundle.spec.choices, bundle.spec
    repr(bundle), spec.convention, spec.shifts_mm, spec.more_than_default(), assumptions(spec)
    settings = choices.settings({})
    for method in ALL_METHODS:
        attempt(partial(bundle.threshold, method))
        for asked in (settings, ReconstructionSettings(slices=48), dataclasses.replace(settings, directions=7)):
            variant = choices.variant(method, asked)
            known = choices.threshold(variant, asked)
            if known is not None:
                json.dumps(known.within(2.0).message(), allow_nan=False)
                assert known.origin and known.min_volume_mm3 >= 0


@cases(110)
@given(st.integers(0, 2), st.data())
def test_any_description_is_understood_or_refused(models: list[Path], which: int, data: st.DataObject) -> None:
    path = models[which] / "model.json"
    right = path.read_text()
    try:
        path.write_text(json.dumps(data.draw(mutated(json.loads(right)))))
        bundle = attempt(lambda: load_bundle(models[which]))
        if bundle is not None:
            attempt(lambda: use(bundle))
    finally:
        path.write_text(right)


@cases(10)
@given(st.data())
def test_any_network_is_built_or_refused(folder: Path, data: st.DataObject) -> None:
    arguments: Any = data.draw(
        st.dictionaries(
            st.sampled_from(["global_pool", "drop_rate", "layers", "channels", "cardinality", "base_width", "act_layer",
                             "checkpoint_path", "pretrained", "pretrained_cfg", "stem_width", "block_args", "zoom"]),
            st.sampled_from([0, -1, 8, 10**9, "max", "relu", "x", None, True, [1, 1, 1, 1], [10**6], {"a": 1}, 1e300]),
            max_size=2,
        )
    )  # fmt: skip
    channels, size = data.draw(st.sampled_from([1, 3, 1024])), data.draw(st.sampled_from([8, 32, 33]))
    spec = spec_of("test_resnet", channels=channels, slice_size=size)

    def build() -> None:
        made = create_model(
            spec.encoder, channels=channels, classes=1, norm="batch", slice_size=size, arguments=arguments
        )
        build_encoder(made, spec)

    attempt(build)


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, bytes]:
    """Right files of weights."""
    files = {}
    save_file({"a.weight": STATE, "a.bias": STATE[0].clone()}, folder / "w.safetensors")
    torch.save({"state_dict": {"a.weight": STATE}, "epoch": 3, "x": np.float64(2)}, folder / "w.pth")
    torch.save({"a.weight": STATE}, folder / "old.pth", _use_new_zipfile_serialization=False)
    save_tensors(folder / "w.pt", {"key": "k", "voxels": STATE})
    for name in ("w.safetensors", "w.pth", "old.pth", "w.pt"):
        files[name] = (folder / name).read_bytes()
    return files


@cases(50)
@given(st.sampled_from(["w.safetensors", "w.pth", "old.pth", "w.pt"]), st.data())
def test_any_weights_are_read_or_refused(
    folder: Path, weights: dict[str, bytes], name: str, data: st.DataObject
) -> None:
    path = folder / f"damaged-{name}"
    path.write_bytes(data.draw(damaged(weights[name])))
    attempt(lambda: read_weights(path))
    own = attempt(lambda: load_tensors(path))
    assert own is None or name != "w.pt" or (torch.equal(own["voxels"], STATE) and own["key"] == "k")
    attempt(lambda: load_tensors(path, mapped=True))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A right exported program."""
    place = tmp_path_factory.mktemp("program") / "small.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.export, about itself
        export(Small().eval(), place, size=32)
    return place.read_bytes()


@cases(40)
@given(st.data())
def test_any_program_is_read_or_refused(folder: Path, program: bytes, data: st.DataObject) -> None:
    path = folder / "damaged.pt2"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(program)))
    else:
        part = data.draw(st.sampled_from(["model.json", "model_weights_config.json", "model_constants_config.json"]))
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(program)) as source, zipfile.ZipFile(packed, "w") as target:
            for each in source.namelist():
                held = source.read(each)
                if each.endswith(f"/{part}"):
                    held = json.dumps(data.draw(mutated(json.loads(held)))).encode()
                target.writestr(each, held)
        path.write_bytes(packed.getvalue())
    attempt(lambda: read_program(path, ["body"]))


@cases(40)
@given(st.data())
def test_any_program_of_a_model_is_built_or_refused(folder: Path, program: bytes, data: st.DataObject) -> None:
    (folder / "right.pt2").write_bytes(program)
    text, tensors = read_program(folder / "right.pt2", ["body"])
    changed = json.dumps(data.draw(mutated(json.loads(text))))
    attempt(lambda: Program(changed, tensors))


@cases(20)
@given(st.data())
def test_any_source_is_read_or_refused(folder: Path, data: st.DataObject) -> None:
    right = {
        "architecture": "test_resnet", "num_classes": 2, "label_names": ["a", "b"],
        "model_args": {"global_pool": "max"},
        "pretrained_cfg": {"input_size": [3, 160, 160], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "labels": None},
    }  # fmt: skip
    place = folder / "source"
    place.mkdir(exist_ok=True)
    (place / "model.safetensors").write_bytes(b"")
    (place / "config.json").write_text(json.dumps(data.draw(mutated(right))))
    source = attempt(lambda: read_source(f"local-dir:{place}"))
    if source is not None:
        attempt(lambda: describe(OwnClassifier(source.architecture, slice_size=source.slice_size)))


@cases(20)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "channels": st.integers(-1, 4) | st.just(10**9),
            "classes": st.lists(st.text(max_size=3), max_size=3).map(tuple),
            "intensity": st.sampled_from(["none", "zscore", "window:0:1", "window:0:1,2:3", "window:nan:1", ""]),
            "white": st.sampled_from([1, 255]),
            "mean": st.sampled_from([None, "timm", "0.5", "0.5,0.5,0.5", "nan", "", "x", "1e400"]),
            "std": st.sampled_from([None, "timm", "0.5", "0", "-1", "0.1,0.2,0.3", "inf"]),
            "pixel_mm": st.none() | st.floats(),
            "neighbor_mm": st.none() | st.floats(),
            "activation": st.sampled_from(["sigmoid", "softmax"]),
            "slice_size": st.integers(-1, 64) | st.just(10**9),
        },
    )
)
def test_what_is_said_of_a_classifier_is_understood_or_refused(folder: Path, said: dict[str, Any]) -> None:
    spec = attempt(lambda: describe(OwnClassifier("resnet10t", weights="none", **{"slice_size": 32, **said})))
    if spec is not None:  # what is written is read
        saved = save_bundle(folder / "said", spec, {"w": STATE}, overwrite=True)
        assert load_bundle(folder / "said").spec.classes == saved.classes
