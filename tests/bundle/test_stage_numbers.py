"""Models of versions that numbered stages otherwise: asked to be calibrated anew, where they name a stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.bundle.test_file import edit
from tests.networks import write_random_bundle
from tests.training.toy import write_toy_set
from tonno_core.bundle import calibration
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.own import OwnClassifier, make_bundle
from tonno_core.commands.calibrate import complete, recalibrate
from tonno_core.encoding.classifier import create_model, earlier_stages, stage_modules
from tonno_core.errors import TonnoError
from tonno_core.training.calibration import Search
from tonno_core.training.look import Look

STORED = Path(__file__).parent.parent / "stored" / "models" / "ghostnet" / "model.json"
NOW = ("blocks.1", "blocks.3", "blocks.5", "blocks.7")
THEN = ["conv_stem", *NOW]
QUIETLY = Look("cpu", "float32", progress=False)


@pytest.fixture
def ghostnet(tmp_path: Path) -> Path:
    """A model that commit 350c810 described, by `tonno calibrate --stage 2 --stage 3`; its stage 1 was the stem."""
    folder = tmp_path / "ghostnet"
    make_bundle(OwnClassifier("ghostnet_050", "none", 32, intensity="zscore"), folder)
    digest = load_bundle(folder).spec.sha256
    shutil.copy(STORED, folder / "model.json")
    edit(folder, sha256=digest)
    return folder


def test_a_model_that_names_stages_of_other_numbers_is_refused_with_what_to_do(ghostnet: Path) -> None:
    bundle = load_bundle(ghostnet)  # its description can be read
    with pytest.raises(TonnoError) as caught:
        bundle.classifier()
    assert str(caught.value) == (
        f"{ghostnet / 'model.json'}: stage 2 of ghostnet_050 was blocks.1 to the version that wrote this model, and is "
        "blocks.3 now; its choices and thresholds are of other maps than this version makes, and `tonno calibrate` "
        "finds new ones"
    )
    # Wherever it names one.
    empty = {"thresholds": {}, "calibration": []}
    edit(ghostnet, **empty, defaults={**bundle.spec.defaults, "stage": 5})
    with pytest.raises(TonnoError, match=r"stage 5 of ghostnet_050 was blocks.7 .* and does not exist now"):
        load_bundle(ghostnet).classifier()
    edit(ghostnet, calibration=bundle.spec.calibration[-1:], defaults=bundle.spec.defaults)
    with pytest.raises(TonnoError, match=r"stage 2 of ghostnet_050 was blocks\.1"):
        load_bundle(ghostnet).classifier()
    edit(ghostnet, **empty)  # such as `tonno bundle` writes
    assert load_bundle(ghostnet).classifier().stages == 4
    edit(ghostnet, thresholds={"tonno": {"threshold": 1.0, "settings": {"filter": "hann"}}})
    load_bundle(ghostnet).classifier()


def test_a_new_calibration_makes_it_a_model_of_this_version(
    ghostnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ())
    manifest, old = write_toy_set(tmp_path / "toy", train=0, val=2), load_bundle(ghostnet)
    edit(ghostnet, defaults={**old.spec.defaults, "stage": 2})
    options = {"methods": ("matched-cam",), "smooth_mm": 0.0, "filter": "hann", "sigma_scale": 1.0}
    with pytest.raises(TonnoError, match=r"was blocks.1 to the version"):
        complete(ghostnet, manifest, tmp_path / "whole", QUIETLY)  # which would keep its choices
    recalibrate(ghostnet, manifest, tmp_path / "new", options, Search(stages=(2,)), QUIETLY)
    spec = load_bundle(tmp_path / "new").spec
    assert (spec.stages, spec.defaults["stage"]) == (NOW, None)
    assert [record["stage"] for record in spec.calibration] == [2]
    load_bundle(tmp_path / "new").classifier()


def test_new_models_name_their_stages_and_are_held_to_them(tmp_path: Path) -> None:
    make_bundle(OwnClassifier("ghostnet_050", "none", 32), tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.stages == NOW
    assert bundle.spec.more_than_default() == {}  # is no other model for a cohort that goes on
    edit(tmp_path / "model", defaults={**bundle.spec.defaults, "stage": 2})
    load_bundle(tmp_path / "model").classifier()
    edit(tmp_path / "model", stages=THEN)  # as if a later version dropped another one
    with pytest.raises(TonnoError, match=r"stage 2 of ghostnet_050 was blocks.1 .* is blocks.3 now"):
        load_bundle(tmp_path / "model").classifier()
    edit(tmp_path / "model", stages=[1])
    with pytest.raises(TonnoError, match=r"key 'stages' is \[1\], expected a list of names of modules"):
        load_bundle(tmp_path / "model")


def test_other_models_of_earlier_versions_are_what_they_were(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model")
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.stages == ()
    assert "stages" not in json.loads((tmp_path / "model/model.json").read_text())
    edit(tmp_path / "model", defaults={**bundle.spec.defaults, "stage": 2})
    bundle = load_bundle(tmp_path / "model")
    bundle.classifier()
    ready = bundle.to_calibrate()
    assert ready.spec.defaults == bundle.spec.defaults
    assert ready.spec.stages == ("layer1", "layer2", "layer3", "layer4")


# One of each family whose numbers changed, by how many, and some whose numbers did not.
CHANGED = {
    "ghostnet_050": 1, "repghostnet_050": 1, "dpn48b": 1, "dla34": 2, "legacy_seresnet18": 1, "inception_v3": 2,
    "nasnetalarge": 2, "pnasnet5large": 2, "mobilenetv5_base": 1, "resnet10t": 0, "tf_efficientnet_lite0": 0,
    "vit_tiny_patch16_224": 0, "convnext_atto": 0, "densenet121": 0, "hrnet_w18_small": 0, "test_mambaout": 0,
}  # fmt: skip


@pytest.mark.parametrize(("name", "dropped"), CHANGED.items())
def test_the_families_whose_numbers_changed(name: str, dropped: int) -> None:
    with torch.device("meta"):
        model = create_model(name, channels=3, classes=1, norm="batch", slice_size=224)
    now = [module for _, module in stage_modules(model)]
    assert earlier_stages(model)[dropped:] == now
    assert len(earlier_stages(model)) == len(now) + dropped
