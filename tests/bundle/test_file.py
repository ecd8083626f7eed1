"""Bundles: a round trip, and each way in which one can be wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.networks import random_network, spec_of, write_random_bundle
from tonno_core.bundle import file as bundle_module
from tonno_core.bundle.file import BundleSpec, check_can_write, load_bundle, save_bundle, save_description
from tonno_core.bundle.own import OwnClassifier, assumptions, make_bundle
from tonno_core.errors import TonnoError
from tonno_core.settings import ReconstructionSettings, Variant, model_defaults


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle of a random resnet10t."""
    return write_random_bundle(tmp_path / "model")


def refused(folder: Path) -> str:
    with pytest.raises(TonnoError) as caught:
        load_bundle(folder)
    message = str(caught.value)
    assert message.startswith(str(folder))
    assert "\n" not in message
    return message


def edit(folder: Path, **changes: object) -> None:
    """Change keys of a bundle's model.json."""
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


# -------------------- round trip


def test_round_trip(tmp_path: Path) -> None:
    model = random_network("resnet10t", classes=2)
    record = {"threshold": 0.25, "settings": {"slices": 12}}
    spec = spec_of(
        classes=("a", "b"), pixel_mm=2.5, intensity="window:-100:300", thresholds={"tonno": record},
        training={"seed": 1}, about={"finding": "Läsion"},
    )  # fmt: skip
    written = save_bundle(tmp_path / "deep" / "model", spec, model.state_dict())
    found = load_bundle(tmp_path / "deep" / "model")
    assert len(written.sha256) == 64
    # JSON knows no tuples: the methods of the defaults come back as a list.
    assert json.loads(json.dumps(dataclasses.asdict(found.spec))) == json.loads(json.dumps(dataclasses.asdict(written)))
    assert dataclasses.replace(written, sha256="") == spec
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in model.state_dict().items())
    slices = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(slices[:, None])
    assert torch.allclose(found.classifier().logits(slices), expected, rtol=1e-4, atol=1e-5)  # float32, folded norms
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["model"]  # nothing temporary beside it
    assert sorted(content(tmp_path / "deep" / "model")) == ["model.json", "model.safetensors"]


def test_half_precision_is_half_the_size_and_keeps_the_statistics(tmp_path: Path) -> None:
    model = random_network("resnet10t")
    model.bn1.running_var.fill_(1e7)  # type: ignore[union-attr, operator]
    save_bundle(tmp_path / "whole", spec_of(), model.state_dict())
    save_bundle(tmp_path / "half", spec_of(), model.state_dict(), half=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.52 * sizes[0]
    found = load_bundle(tmp_path / "half")
    assert all(tensor.dtype == torch.float32 for tensor in found.weights.values())
    for name, tensor in model.state_dict().items():
        # float16 keeps 11 bits of normal numbers, and steps of 6e-8 of those below 6e-5; 1e7 is beyond its 65504.
        assert torch.allclose(found.weights[name], tensor.float(), rtol=2**-11, atol=6e-8), name
    assert found.weights["bn1.running_var"][0] == 1e7


def test_weights_that_share_memory_are_written(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    save_bundle(tmp_path / "model", spec_of(), {"a": shared, "b": shared, "c": shared.reshape(2, 2).T})
    assert load_file(tmp_path / "model" / "model.safetensors")["c"].tolist() == [[0.0, 2.0], [1.0, 3.0]]


def test_other_slice_sizes_run_where_the_model_takes_any(folder: Path) -> None:
    assert load_bundle(folder).classifier(slice_size=48).logits(torch.zeros(1, 48, 48)).shape == (1, 1)


def test_a_slice_size_that_the_weights_do_not_fit_names_the_tensor(tmp_path: Path) -> None:
    model = random_network("vit_tiny_patch16_224", size=32)
    save_bundle(tmp_path / "model", spec_of("vit_tiny_patch16_224"), model.state_dict())
    with pytest.raises(TonnoError, match=r"pos_embed has shape \(1, 5, 192\), .* expects \(1, 10, 192\); .*slice size"):
        load_bundle(tmp_path / "model").classifier(slice_size=48)


# -------------------- what the calibration chose


CHOICE = {"stage": 1, "filter": "hann", "sigma_scale": 0.5, "smooth_mm": 4.0}
CHOSEN = {"threshold": 0.5, "settings": {**CHOICE, "slices": 9}}


def test_a_methods_calibrated_choices_go_before_the_models_defaults() -> None:
    spec = spec_of(thresholds={"matched-cam": CHOSEN}, defaults=model_defaults(stage=3, smooth_mm=2.0))
    assert spec.choices.variant("matched-cam") == Variant("matched-cam", (1,), "hann", 0.5, 4.0)
    assert spec.choices.variant("averaged-cam") == Variant("averaged-cam", (3,), smooth_mm=2.0)
    asked = ReconstructionSettings(stages=(2,), smooth_mm=0.0)
    assert spec.choices.variant("matched-cam", asked) == Variant("matched-cam", (2,), "hann", 0.5)


def test_each_class_has_its_own_calibration() -> None:
    other = {"threshold": 0.25, "settings": {"stage": 4}}
    spec = spec_of(classes=("a", "b", "c"), thresholds={"averaged-cam": CHOSEN, "averaged-cam/b": other})
    assert spec.choices.record("averaged-cam") == spec.choices.record("averaged-cam", "a") == CHOSEN
    assert spec.choices.record("averaged-cam", "b") == other
    assert spec.choices.record("averaged-cam", "c") is None
    stages = [
        spec.choices.variant("averaged-cam", ReconstructionSettings(class_name=name)).stages
        for name in (None, "b", "c")
    ]
    assert stages == [(1,), (4,), ()]


def test_the_threshold_of_a_variant_is_its_own_where_it_was_tried() -> None:
    tried = [
        {"class": name, "threshold": value, **Variant("averaged-cam", (stage,), smooth_mm=4.0).record()}
        for name, stage, value in (("a", 1, 0.5), ("a", 2, 0.75), ("b", 2, 9.0))
    ]
    spec = spec_of(classes=("a", "b"), thresholds={"averaged-cam": CHOSEN}, calibration=tried)
    # A filter means nothing to Averaged CAM.
    assert spec.choices.tried_variants().get(Variant("averaged-cam", (2,), "hann", smooth_mm=4.0)) == tried[1]
    assert spec.choices.tried_variants("b").get(Variant("averaged-cam", (2,), smooth_mm=4.0)) == tried[2]
    assert spec.choices.tried_variants().get(Variant("averaged-cam", (2,))) is None
    settings = ReconstructionSettings(slices=9)
    own, near = (
        spec.choices.threshold(Variant("averaged-cam", (2,), smooth_mm=width), settings) for width in (4.0, 5.0)
    )
    assert own is not None
    assert near is not None
    assert (own.value, own.source, own.record["settings"]["stage"]) == (0.75, "calibrated", 2)
    assert (near.value, near.source, near.changed) == (0.5, "unscaled", ("stage", "smooth_mm"))
    assert spec.choices.threshold(Variant("tonno"), settings) is None
    other = spec.choices.threshold(
        Variant("averaged-cam", (2,), smooth_mm=4.0), dataclasses.replace(settings, class_name="b")
    )
    assert other is None  # nothing was chosen for it


def test_the_models_own_slice_size_is_no_other_when_it_is_asked_for() -> None:
    spec = spec_of(thresholds={"averaged-cam": CHOSEN})
    variant = Variant("averaged-cam", (1,), smooth_mm=4.0)
    found = [
        spec.choices.threshold(variant, ReconstructionSettings(slices=9, slice_size=size)) for size in (None, 32, 48)
    ]
    assert [one and one.source for one in found] == ["calibrated", "calibrated", "unscaled"]


def test_added_stages_weigh_as_in_the_most_similar_variant_that_was_tried() -> None:
    tried = [
        Variant("matched-cam", (1, 2), kind, smooth_mm=width, weights=weights)
        for kind, width, weights in (
            ("second-difference", 0.0, (0.1, 0.9)),
            ("hann", 0.0, (0.2, 0.8)),
            ("hann", 4.0, (0.3, 0.7)),
        )
    ]
    records = [{"class": "a", "threshold": 0.5, **json.loads(json.dumps(one.record()))} for one in tried]
    chosen = {"threshold": 0.5, "settings": {"stage": "1+2", "filter": "hann", "sigma_scale": 1.0, "smooth_mm": 4.0}}
    spec = spec_of(classes=("a", "b"), thresholds={"matched-cam": chosen, "matched-cam/b": chosen}, calibration=records)
    assert spec.choices.variant("matched-cam") == tried[2]
    assert spec.choices.tried_variants().get(tried[2]) == records[2]
    asked = ReconstructionSettings(filter="second-difference", smooth_mm=5.0)
    assert spec.choices.variant("matched-cam", asked).weights == (0.1, 0.9)
    assert spec.choices.variant("matched-cam", ReconstructionSettings(stages=(2,))) == Variant(
        "matched-cam", (2,), "hann", 1.0, 4.0
    )
    # Never added up: of another method, other stages, another class.
    assert spec.choices.variant("averaged-cam", ReconstructionSettings(stages=(1, 2))).weights == ()
    assert spec.choices.variant("matched-cam", ReconstructionSettings(stages=(2, 3))).weights == ()
    assert spec.choices.variant("matched-cam", ReconstructionSettings(class_name="b")).weights == ()


def test_thresholds_for_other_planes_come_back_as_they_were_written(tmp_path: Path) -> None:
    other = {"threshold": 0.25, "noise_floor": 0.125, "settings": {"slices": 48, "directions": 96}}
    record = {"threshold": 0.5, "settings": {"slices": 12, "directions": 6}, "other_planes": [other]}
    spec = spec_of(thresholds={"tonno": record})
    save_bundle(tmp_path / "model", spec, random_network("resnet10t").state_dict())
    found = load_bundle(tmp_path / "model").spec
    assert found.thresholds == {"tonno": record}
    assert found.schema == 1
    # What an earlier version reads, which knows nothing of other planes, is the threshold for the model's own.
    assert found.thresholds["tonno"]["threshold"] == 0.5
    values = [
        found.choices.threshold(Variant("tonno"), ReconstructionSettings(slices=slices, directions=directions))
        for slices, directions in ((12, 6), (48, 96))
    ]
    assert [one and one.value for one in values] == [0.5, 0.25]


# -------------------- wrong bundles


def test_missing_folder_and_files(tmp_path: Path, folder: Path) -> None:
    assert "no such model folder, expected one with model.json and model.safetensors" in refused(tmp_path / "absent")
    said = f"is a file, expected a model's folder, with model.json and model.safetensors: give {folder}"
    assert said in refused(folder / "model.json")
    (tmp_path / "scan.nii.gz").touch()
    assert refused(tmp_path / "scan.nii.gz").endswith("with model.json and model.safetensors")
    assert "no such model folder" in refused(folder / ("x" * 300))
    (folder / "model.safetensors").unlink()
    assert "model.safetensors: missing; the bundle is incomplete" in refused(folder)
    (folder / "model.json").unlink()
    assert "model.json: missing; expected a bundle made by `tonno train` or `tonno bundle`" in refused(folder)


def test_changed_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "SHA-256 is" in refused(folder)
    assert "copy the bundle again" in refused(folder)
    path.write_bytes(whole[:1000])
    assert "SHA-256 is" in refused(folder)


def test_weights_that_cannot_be_read_even_though_the_hash_agrees(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not tensors")
    edit(folder, sha256=bundle_module._sha256(folder / "model.safetensors"))
    assert "model.safetensors: not a readable safetensors file" in refused(folder)


def test_foreign_weights(folder: Path) -> None:
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    edit(folder, sha256=bundle_module._sha256(folder / "model.safetensors"))
    with pytest.raises(TonnoError, match=r"model.safetensors: weights are of another model: .*\(first a\)"):
        load_bundle(folder).classifier()


@pytest.mark.parametrize("text", ["", "{", "\x00\x01", "[1, 2]", "3"])
def test_json_that_is_none_or_no_object(text: str, folder: Path) -> None:
    (folder / "model.json").write_text(text)
    message = refused(folder)
    assert "model.json: not readable as JSON" in message or "expected an object" in message
    (folder / "model.json").write_bytes(b"\xff\xfe\x00")
    assert "model.json: not readable as JSON" in refused(folder)


def test_a_schema_of_the_future(folder: Path) -> None:
    edit(folder, schema=4)
    assert "schema 4 was made by a newer version of tonno, this version reads schema 1 to 3" in refused(folder)
    path = folder / "model.json"
    data = json.loads(path.read_text())
    del data["schema"]
    path.write_text(json.dumps(data))
    assert "schema None is unknown" in refused(folder)


OPTIONAL = (
    "schema", "calibration", "white", "mean", "std", "activation", "neighbor_mm", "stages", "layers", "arguments",
    "kind", "network", "quantity",  # of a segmenter, and of a regressor
)  # fmt: skip
KEYS = [field.name for field in dataclasses.fields(BundleSpec) if field.name not in OPTIONAL]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_that_is_missing_is_named(key: str, folder: Path) -> None:
    path = folder / "model.json"
    data = json.loads(path.read_text())
    del data[key]
    path.write_text(json.dumps(data))
    assert f"model.json: key '{key}' is missing, expected" in refused(folder)


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("encoder", [3, None]),
        ("channels", [0, 1.5, "1", True]),
        ("classes", [[], "a", [1], ["a", "a"]]),
        ("norm", ["layer", 1]),
        ("slice_size", [7, 96.0, None]),
        ("pixel_mm", [0, -1, "2", math.nan, math.inf, True]),
        ("intensity", ["log", "window:3:1", 1]),
        ("frame", ["cube", None]),
        ("defaults", [[], None]),
        ("thresholds", [[], {"tonno": 0.5}, {"tonno": {}}, {"tonno": {"threshold": "high"}},
                        {"tonno": {"threshold": math.nan}}, {"tonno": {"threshold": 1, "settings": []}},
                        {"tonno": {"threshold": 1, "other_planes": [{"settings": {"slices": 48}}]}}]),
        ("calibration", [{}, [3], [{"method": "tonno"}], [{"threshold": math.inf}]]),
        ("training", ["yes"]),
        ("about", [3]),
        ("sha256", [None]),
    ],
)  # fmt: skip
def test_each_key_of_a_wrong_type_or_value_is_named(key: str, values: list[object], folder: Path) -> None:
    for value in values:
        edit(folder, **{key: value})
        assert f"model.json: key '{key}' is {value!r}, expected" in refused(folder)


def test_a_bundle_of_an_earlier_version_has_no_calibration_and_loads(folder: Path) -> None:
    path = folder / "model.json"
    data = json.loads(path.read_text())
    del data["calibration"]
    path.write_text(json.dumps(data))
    assert load_bundle(folder).spec.calibration == []


def test_choices_of_a_method_are_checked_when_the_bundle_is_read(folder: Path) -> None:
    edit(folder, thresholds={"averaged-cam/b": {"threshold": 1.0, "settings": {"stage": 0, "sigma_scale": "unused"}}})
    message = "key 'thresholds', averaged-cam/b: stage is 0, expected a whole number from 1"
    assert message in refused(folder)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"slices": 1}, "slices is 1, expected a whole number from 2 to 1024"),
        ({"slices": "many"}, "slices is many, expected a whole number"),
        ({"directions": 2.5}, "directions is 2.5, expected a whole number"),
        ({"methods": ["tonno", "magic"]}, "methods is magic, expected one of tonno"),
        ({"methods": "tonno"}, "methods is tonno, expected a list of names"),
        ({"filter": "boxcar"}, "filter is boxcar, expected one of second-difference"),
        ({"magic": 1}, "the model's default 'magic' is unknown; it needs a newer version"),
    ],
)
def test_defaults_are_checked_when_the_bundle_is_read(defaults: dict[str, Any], message: str, folder: Path) -> None:
    edit(folder, defaults=defaults)
    assert f"model.json: key 'defaults': {message}" in refused(folder)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"method": "averaged-cam", "stage": "2+1"}, "stage is 2+1, expected"),
        ({"method": "averaged-cam", "stage": "1+2", "weights": [1.0]}, "weights is (1.0,), expected"),
        ({"method": "averaged-cam", "stage": "1+2", "weights": 3}, "'int' object is not iterable"),
    ],
)
def test_what_a_calibration_tried_is_checked_when_the_bundle_is_read(
    record: dict[str, Any], message: str, folder: Path
) -> None:
    edit(folder, calibration=[{"method": "of a later version", "threshold": 1.0}, {"threshold": 1.0, **record}])
    assert f"key 'calibration', record 2: {message}" in refused(folder)


def test_an_encoder_that_timm_does_not_have(folder: Path) -> None:
    edit(folder, encoder="resnet10x")
    with pytest.raises(TonnoError, match=r"model\.json: encoder 'resnet10x' is not a timm model"):
        load_bundle(folder).classifier()


def test_keys_of_later_versions_are_ignored(folder: Path) -> None:
    edit(folder, colour="red")
    assert load_bundle(folder).spec.encoder == "resnet10t"


# -------------------- writing


def test_a_new_description_leaves_the_weights_file_as_it_is(tmp_path: Path) -> None:
    save_bundle(tmp_path / "model", spec_of(), random_network("resnet10t").state_dict(), half=True)
    bundle = load_bundle(tmp_path / "model")
    spec = dataclasses.replace(bundle.spec, about={"finding": "other"})
    save_description(tmp_path / "new", spec, bundle)
    assert content(tmp_path / "new")["model.safetensors"] == content(tmp_path / "model")["model.safetensors"]
    assert load_bundle(tmp_path / "new").spec == spec
    with pytest.raises(TonnoError, match="exists already"):
        save_description(tmp_path / "new", spec, bundle)
    save_description(tmp_path / "model", spec, bundle, overwrite=True)  # in place
    assert load_bundle(tmp_path / "model").spec == spec


def test_an_existing_bundle_is_replaced_only_on_request(folder: Path) -> None:
    before = content(folder)
    (folder / "notes.txt").write_text("mine")
    model = random_network("resnet10t", seed=1)
    with pytest.raises(TonnoError, match=r"`output` .*model: exists already; choose another name or give `overwrite`"):
        save_bundle(folder, spec_of(), model.state_dict())
    assert content(folder) == {**before, "notes.txt": b"mine"}
    save_bundle(folder, spec_of(), model.state_dict(), overwrite=True)
    assert torch.equal(load_bundle(folder).weights["fc.weight"], model.state_dict()["fc.weight"])
    assert (folder / "notes.txt").read_text() == "mine"
    assert sorted(content(folder)) == ["model.json", "model.safetensors", "notes.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(overwrite: bool, tmp_path: Path) -> None:
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_bytes(b"cat")
    with pytest.raises(TonnoError, match=r"`output` .*photos: (exists already|is a folder of something else)"):
        save_bundle(other, spec_of(), {"a": torch.ones(1)}, overwrite=overwrite)
    assert content(other) == {"a.jpg": b"cat"}


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / ".tonno-partial-x").mkdir()  # of a process that was killed as it began
    save_bundle(tmp_path, spec_of(), {"a": torch.ones(1)}, overwrite=True)
    (tmp_path / ".tonno-partial-x").rmdir()
    assert sorted(content(tmp_path)) == ["model.json", "model.safetensors"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    for place in (tmp_path / "model", tmp_path / "model" / "deeper"):
        with pytest.raises(TonnoError, match="is a file, expected"):
            check_can_write(place, overwrite=True)
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    "failure", [KeyboardInterrupt(), OSError(28, "No space left on device"), bundle_module.SafetensorError("disk full")]
)
def test_a_write_that_fails_or_is_interrupted_leaves_what_was_there(
    failure: BaseException, exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "model"
    if exists:
        write_random_bundle(folder)
    before = content(folder) if exists else {}

    def fail(tensors: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half of it")
        raise failure

    monkeypatch.setattr(bundle_module, "save_file", fail)
    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else TonnoError
    with pytest.raises(expected) as caught:
        save_bundle(folder, spec_of(), {"a": torch.ones(1)}, overwrite=True)
    if expected is TonnoError:
        assert str(folder) in str(caught.value)
        assert "partial" not in str(caught.value)
    if exists:
        assert content(folder) == before
        assert [path.name for path in folder.parent.iterdir()] == ["model"]
    else:
        assert list(tmp_path.iterdir()) == []


# -------------------- tonno bundle


def make(folder: Path, **changes: Any) -> BundleSpec:
    options: dict[str, Any] = {
        "encoder": "resnet10t", "weights": "none", "slice_size": 32, "channels": 1, "classes": ("finding",),
        "norm": "batch", "intensity": "none", "seed": 0, "about": {},
    }  # fmt: skip
    overwrite = changes.pop("overwrite", False)
    return make_bundle(OwnClassifier(**{**options, **changes}), folder, overwrite=overwrite)


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    hashes = [make(tmp_path / str(i), seed=seed).sha256 for i, seed in enumerate((0, 0, 1))]
    assert hashes[0] == hashes[1] != hashes[2]
    assert load_bundle(tmp_path / "0").spec.training == {"weights": "random, seed 0"}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_classifier_of_ones_own(suffix: str, tmp_path: Path) -> None:
    model = random_network("resnet10t", channels=3, classes=2)
    weights = tmp_path / f"mine{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict()}, weights)
    else:
        save_file(model.state_dict(), weights)
    make(tmp_path / "b", weights=str(weights), channels=3, classes=("healthy", "ill"), intensity="zscore")
    bundle = load_bundle(tmp_path / "b")
    taken = {"taken": ["those under 'state_dict'"]} if suffix == ".pth" else {}
    assert bundle.spec.training == {"weights": f"mine{suffix}", **taken}  # the file's name, not where it lay
    slices = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(slices[:, None].expand(-1, 3, -1, -1))
    encoder = bundle.classifier()
    assert encoder.classes == ("healthy", "ill")
    assert torch.allclose(encoder.logits(slices), expected, rtol=1e-4, atol=1e-5)  # float32, folded norms


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet10x"}, "'resnet10x' is not a timm model; did you mean resnet10t"),
        ({"encoder": "vit_tiny_patch16_224", "slice_size": 8}, "cannot .* slices of 8"),
        ({"encoder": "inception_v3"}, "inception_v3 cannot take slices of 32 x 32 pixels"),
        ({"weights": "absent.pth"}, "absent.pth: no such file"),
        ({"classes": ("a", "a")}, "`classes` 'a,a': expected different names"),
        ({"classes": ("",)}, "`classes` '': expected different names"),
        ({"intensity": "log"}, "`intensity` 'log': expected none, zscore or window:LO:HI"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=message):
        make(tmp_path / "b", **changes)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_classes_are_named(tmp_path: Path) -> None:
    torch.save(random_network("resnet10t", classes=1000).state_dict(), tmp_path / "w.pth")
    with pytest.raises(TonnoError, match=r"`weights` .*w\.pth: tensor fc.weight has shape \(1000, 512\).*classes"):
        make(tmp_path / "b", weights=str(tmp_path / "w.pth"))


# -------------------- what is assumed of a classifier


def test_what_is_said_of_a_classifier_is_kept_and_used(tmp_path: Path) -> None:
    model = random_network("resnet10t", channels=3, classes=2)
    save_file(model.state_dict(), tmp_path / "mine.safetensors")
    own = OwnClassifier(
        "resnet10t", str(tmp_path / "mine.safetensors"), 32, 3, ("normal", "lesion"), intensity="window:-50:150",
        white=255, mean="timm", pixel_mm=1.5, activation="softmax",
    )  # fmt: skip
    spec = make_bundle(own, tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert dataclasses.replace(bundle.spec, defaults=spec.defaults) == spec  # whose tuples are lists in JSON
    spec = bundle.spec
    assert (spec.pixel_mm, spec.white, spec.activation) == (1.5, 255, "softmax")
    assert spec.mean == pytest.approx((0.485 * 255, 0.456 * 255, 0.406 * 255))
    slices = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    fed = (slices[:, None] - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        expected = torch.logit(model(fed).double().softmax(1))
    # float32 keeps 1e-7; ten layers in another order keep 1e-5.
    torch.testing.assert_close(bundle.classifier().logits(slices).double(), expected, rtol=1e-4, atol=1e-4)
    said = dict(assumptions(spec))
    assert said["pixels"] == "32 x 32, of 1.5 mm"
    assert said["intensities"] == "-50 to 150 become 0 to 255, cut off beyond; 0 outside of the scan"
    assert said["mean and std"] == "less 123.675, 116.28, 103.53 and divided by 58.395, 57.12, 57.375"
    assert "normal, lesion" in said["outputs"] and "softmax" in said["outputs"]


def test_a_model_that_needs_no_optional_key_has_none(folder: Path) -> None:
    assert (
        not {"white", "mean", "std", "activation", "neighbor_mm", "layers", "arguments"}
        & json.loads((folder / "model.json").read_text()).keys()
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "softmax"}, "`activation` softmax: one class has no others"),
        ({"mean": "timm"}, "`mean` timm: needs intensities from 0 to 1, `intensity` none gives others"),
        ({"white": 255, "intensity": "zscore"}, "`white` 255: needs intensities from 0 to 1"),
        ({"mean": "timm", "std": "1", "intensity": "window:0:1"}, "one is timm"),
        # of bytes, where a window goes to 1: the network would see a constant, -2.1; and the other way round
        ({"mean": "123.7", "std": "58.4", "intensity": "window:0:80"}, "`mean` 123.7 and `std` 58.4: cannot be those"),
        ({"std": "58.4", "intensity": "window:0:80"}, "give `white` 255 if the classifier was fed 0 to 255"),
        ({"mean": "-100", "std": "200", "intensity": "window:-500:300", "white": 255}, "`mean` -100 and `std` 200"),
        ({"mean": ".5", "std": ".2", "intensity": "window:0:80", "white": 255}, "give `white` 1 if the classifier was"),
        ({"mean": ".5", "intensity": "window:0:80", "white": 255}, "`mean` .5: cannot be those of intensities"),
        ({"std": "0"}, "`std` '0': expected timm, a number above 0"),
        ({"intensity": "window:0:1,0:2"}, "2 windows for `channels` 1"),
        ({"pixel_mm": 0.0}, "`pixel_mm` is 0.0, expected millimeters"),
        ({"neighbor_mm": 0.0, "channels": 3}, "`neighbor_mm` is 0.0, expected millimeters"),
        ({"neighbor_mm": 2.0}, "neighbouring slices into the channels; this classifier has one channel"),
    ],
)
def test_what_cannot_be_meant_of_a_classifier_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(TonnoError) as caught:
        make_bundle(OwnClassifier("resnet10t", "none", 32, **changes), tmp_path / "model")
    assert message in str(caught.value)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("white", "mean", "std"),
    [(1, "0.5", "1"), (1, "0", "0.3"), (255, "128", None), (255, "0.9", "5"), (255, None, "255")],
)
def test_mean_and_std_that_suit_a_window(white: int, mean: str | None, std: str | None, tmp_path: Path) -> None:
    own = OwnClassifier("resnet10t", "none", 32, intensity="window:0:80", white=white, mean=mean, std=std)
    assert make_bundle(own, tmp_path / "model").white == white


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("white", 2), ("mean", [1, 2]), ("mean", "1"), ("mean", ["a"]), ("std", [0]), ("std", [float("nan")]),
        ("activation", "softmax"), ("activation", "relu"), ("layers", ["a", "a"]), ("layers", [1]), ("arguments", [1]),
    ],
)  # fmt: skip
def test_an_optional_key_that_is_wrong_is_named(key: str, value: object, folder: Path) -> None:
    edit(folder, **{key: value})
    assert f"model.json: key '{key}' is {value!r}, expected" in refused(folder)
