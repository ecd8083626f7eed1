"""`tonno train`: a manifest in, a bundle with its own thresholds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.training.toy import toy_scan, write_toy_set
from tonno_core.encoding.bundle import load_bundle
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import ReconstructionSettings
from tonno_core.training import command
from tonno_core.training.command import DEFAULT_METHODS, train_bundle

OPTIONS = {
    "encoder": "test_resnet", "slice_size": 32, "steps": 40, "volumes_per_batch": 4, "slices_per_volume": 4,
    "device": "cpu", "precision": "float32",
}  # fmt: skip


def run(manifest: Path, output: Path, **changes: Any) -> str:
    options = {**OPTIONS, **changes.pop("options", {})}
    return train_bundle(manifest, output, options=options, progress=False, **changes)


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate with a few planes: what is tested is where the numbers go."""
    original = command.model_defaults
    monkeypatch.setattr(command, "model_defaults", lambda **changes: original(slices=10, directions=6, **changes))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


@pytest.mark.usefixtures("coarse")
def test_a_bundle_that_finds_the_lesion(manifest: Path, tmp_path: Path) -> None:
    # A window keeps the head's brightness as it is, so that only the lesion itself tells the labels apart.
    options = {"intensity": "window:0:300", "steps": 80}
    summary = run(manifest, tmp_path / "model", stage=2, about={"finding": "bright"}, half=True, options=options)
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.about == {"finding": "bright"}
    assert bundle.spec.defaults["stage"] == 2
    assert bundle.spec.defaults["methods"] in (["matched-cam"], ("matched-cam",))
    assert set(bundle.spec.thresholds) == set(DEFAULT_METHODS)
    # The stage that was asked for holds for all methods; the rest was chosen among some candidates.
    assert {record["stage"] for record in bundle.spec.calibration} == {2, None}
    assert {record["method"] for record in bundle.spec.calibration} == set(DEFAULT_METHODS)
    assert bundle.spec.thresholds["matched-cam"]["auc"] == 1.0
    assert bundle.spec.training["validation"]["volume_auc"] == 1.0
    assert "volumes 1.0" in summary
    assert f"threshold matched-cam: {bundle.spec.thresholds['matched-cam']['threshold']:.4g}" in summary
    assert str(tmp_path / "model") in summary

    settings = ReconstructionSettings(methods=("averaged-cam",), slices=16, directions=24, stage=2)
    lesion = toy_scan(7, 1)  # a head that it never saw
    array = reconstruct(lesion, bundle, settings, device="cpu", precision="float32").heatmaps["averaged-cam"].array
    inside, around = lesion.array > 200, (lesion.array > 50) & (lesion.array < 200)
    assert array[inside].mean() > 1.5 * array[around].mean()


@pytest.mark.usefixtures("coarse")
def test_without_negative_validation_scans_there_is_a_bundle_without_thresholds(tmp_path: Path) -> None:
    summary = run(write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "model", options={"steps": 1})
    assert load_bundle(tmp_path / "model").spec.thresholds == {}
    assert "no threshold calibrated, --threshold auto will be Otsu's" in summary


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 9}, "--stage 9 does not exist in this encoder, expected 1 to 4"),
        ({"options": {"encoder": "resnet10x"}}, "'resnet10x' is not a timm model"),
        ({"options": {"encoder": "inception_v3"}}, "inception_v3 cannot take slices of 32 x 32 pixels"),
        ({"options": {"intensity": "log"}}, "--intensity 'log'"),
        ({"options": {"pixel_mm": -1.0}}, "--pixel-mm is -1.0, expected millimetres between 0 and 100"),
        ({"options": {"learning_rate": float("nan")}}, "--learning-rate is nan, expected a number between 0 and 10"),
        ({"options": {"device": "tpu"}}, "--device 'tpu' is unknown"),
        ({"options": {"precision": "int8"}}, "--precision 'int8' is unknown"),
    ],
)
def test_bad_options_are_said_before_the_manifest_is_opened(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TonnoError, match=message):
        run(tmp_path / "no-manifest.csv", tmp_path / "model", **changes)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_said_before_training(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TonnoError, match="--output"):
            run(manifest, tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(("weights", "norm"), [("none", "batch"), ("start.pth", "frozen-batch")])
def test_pretrained_weights_freeze_the_batch_norm_unless_told_otherwise(
    weights: str, norm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(cases: object, settings: command.TrainingSettings, *, progress: bool) -> None:
        assert settings.norm == norm
        raise Stop

    monkeypatch.setattr(command, "train", stop)
    with pytest.raises(Stop):
        run(write_toy_set(tmp_path / "toy"), tmp_path / "model", options={"weights": weights, "norm": None})
