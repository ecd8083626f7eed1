"""PET and CT as one volume of two channels, from the publisher's folders to the evaluation and the segmenter."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import tonno_core as tonno
from tests.datasets.trees import STUDY, write_autopet
from tonno_core import cli
from tonno_core.bundle.own import OwnClassifier
from tonno_core.commands.train import Destination, Ending, train_bundle
from tonno_core.errors import TonnoError
from tonno_core.training.settings import TrainingSettings, complete_settings


def run(*arguments: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        cli.main([str(argument) for argument in arguments])
    return ended.value.code


@pytest.mark.parametrize(
    ("asked", "channels"),
    [
        (("--intensity", "zscore"), 1),
        (("--intensity", "zscore/zscore"), 2),
        (("--intensity", "zscore", "--channels", "3"), 3),
    ],
)
def test_a_network_has_the_channels_of_the_volumes_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: tuple[str, ...], channels: int
) -> None:
    seen: list[int] = []

    def trained(manifest: Path, destination: Destination, settings: TrainingSettings, **rest: object) -> str:
        seen.append(settings.channels)
        return ""

    def bundled(own: OwnClassifier, output: Path, *, overwrite: bool) -> None:
        seen.append(own.channels)
        raise TonnoError("seen")

    monkeypatch.setattr("tonno_core.commands.train.train_bundle", trained)
    monkeypatch.setattr("tonno_core.bundle.own.make_bundle", bundled)
    assert run("train", "scans.csv", "--output", tmp_path / "model", *asked) == 0
    assert run("bundle", "--encoder", "resnet10t", "--weights", "w.pth", "--output", tmp_path / "model", *asked) == 2
    assert seen == [channels, channels]


def test_autopet_from_its_folders_to_a_segmenter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, data, model = write_autopet(tmp_path / "data"), tmp_path / "prepared", tmp_path / "model"
    manifest = data / "manifest.csv"
    assert run("prepare", "autopet", root, "--output", data, "--quiet") == 0
    assert run("check", manifest) == 0
    intensity = json.loads((data / "dataset.json").read_text())["intensity"]
    study = data / "volumes" / "0001-SUV-CTres.nii.gz"
    assert run("reconstruct", study, "--model", "pixel-sum", "--output", model) == 2
    assert "the volume has 2 channels, and this model looks at one; extract that" in capsys.readouterr().err
    assert run("reproduce", "table1", manifest, "--output", tmp_path / "table", "--row", "lite-random") == 2
    assert "table1 compares encoders on volumes of one channel, not 2; extract one" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()
    # Without one for each channel, training does not begin.
    assert run("train", manifest, "--output", model) == 2
    told = capsys.readouterr().err
    assert (
        "SUV-CTres.nii.gz: the volume has 2 channels, the model's intensities (zscore) are for volumes of one; extract "
        "the channel that it was trained on (docs/datasets.md), or train with one for each, such as --intensity "
        "zscore/zscore" in told
    )
    assert not (tmp_path / "model-run").exists()
    settings = complete_settings(
        encoder="test_resnet", intensity=intensity, slice_size=32, steps=2, epochs=2, volumes_per_batch=2,
        slices_per_volume=2, device="cpu", precision="float32",
    )  # fmt: skip
    ending = Ending({"slices": 8, "directions": 4}, stages=(3,), presets=False)
    train_bundle(manifest, Destination(model), settings, calibration=ending, progress=False)
    bundle = tonno.load_bundle(model)
    assert (bundle.spec.channels, bundle.spec.intensity, bundle.spec.schema) == (2, intensity, 3)
    first = next(tensor for tensor in bundle.weights.values() if tensor.ndim == 4)
    assert first.shape[1] == 2 and np.isfinite(bundle.threshold("matched-cam"))
    scan, compute = data / "volumes" / "0001-SUV-CTres.nii.gz", ("--device", "cpu", "--precision", "float32")
    assert run("reconstruct", scan, "--model", model, "--output", tmp_path / "result", *compute, "--quiet") == 0
    report = json.loads((tmp_path / "result" / "report.json").read_text())
    assert report["intensity"] == intensity and report["slices"]["total"] > 0
    heatmap = tonno.read_volume(tmp_path / "result" / "heatmap-matched-cam.nii.gz")
    assert not heatmap.further and heatmap.array.shape == tonno.read_volume(scan).array.shape
    # PET alone says what to do, and nothing is written.
    capsys.readouterr()
    alone = root / "PETCT_0000000000" / f"{STUDY}0" / "SUV.nii.gz"
    assert run("reconstruct", alone, "--model", model, "--output", tmp_path / "alone", *compute) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(
        "are for volumes of 2; give one file that has these channels in this order, such as a 4D NIfTI"
    )
    assert str(alone) in said and not (tmp_path / "alone").exists()
    evaluated = ("evaluate", manifest, "--model", model, "--output", tmp_path / "evaluation", *compute, "--quiet")
    assert run(*evaluated) == 0
    assert not list((tmp_path / "evaluation").rglob("*.error"))
    assert (tmp_path / "evaluation" / "results.csv").read_text().count("matched-cam") >= 2  # both test volumes
    segmenter = tmp_path / "segmenter"
    assert run(
        "distill", manifest, "--model", model, "--output", segmenter, "--steps", 2, "--epochs", 1, "--rounds", 1,
        "--unit", "peak", "--volumes-per-batch", 2, *compute,
    ) == 0  # fmt: skip
    learned = tonno.load_bundle(segmenter).spec
    assert (learned.channels, learned.intensity, learned.schema, learned.kind) == (2, intensity, 3, "segmenter")
    answer = tonno.reconstruct(scan, segmenter, device="cpu", progress=False)
    assert np.isfinite(answer.heatmaps["segmenter"].array).all()
