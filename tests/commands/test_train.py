"""`tonno train`: a manifest in, a run folder and a bundle out."""

from __future__ import annotations

import csv
import shutil
import signal
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import OPTIONS, same_weights, toy_scan, write_rows, write_toy_set
from tonno_core import cli
from tonno_core.bundle.file import load_bundle
from tonno_core.cohort.manifest import further_columns, read_for_model, read_manifest
from tonno_core.commands import train as command
from tonno_core.commands.train import Destination, Ending, train_bundle
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import reconstruct
from tonno_core.settings import ReconstructionSettings
from tonno_core.training import cache, loop
from tonno_core.training import settings as settings_module
from tonno_core.training import train as training
from tonno_core.training.settings import TrainingSettings, complete_settings
from tonno_core.training.steps import TrainingInterrupted

pytestmark = pytest.mark.usefixtures("no_curves")


def run(manifest: Path, output: Path, **changes: Any) -> str:
    settings = complete_settings(**{**OPTIONS, **changes.pop("options", {})})
    places = {field.name: changes.pop(field.name) for field in fields(Destination) if field.name in changes}
    return train_bundle(manifest, Destination(output, **places), settings, progress=False, **changes)


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without a calibration, which has tests of its own and takes the longest."""
    monkeypatch.setattr(command, "calibrate_bundle", lambda bundle, *rest: bundle.spec)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A volume that is read fails the test."""
    for module in (cache, training):
        monkeypatch.setattr(module, "read_volume", lambda path, **how: pytest.fail("a volume was read"))


# -------------------- what comes out


def test_a_bundle_that_finds_the_lesion(manifest: Path, tmp_path: Path) -> None:
    # A window keeps the head's brightness as it is, so that only the lesion itself tells the labels apart.
    options = {"intensity": "window:0:300", "steps": 80}
    summary = run(
        manifest, tmp_path / "model", about={"finding": "bright"}, half=True, options=options,
        calibration=Ending({"stage": 2, "slices": 10, "directions": 6}),
    )  # fmt: skip
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.about == {"finding": "bright"}
    assert (bundle.spec.defaults["stage"], bundle.spec.defaults["directions"]) == (2, 6)
    assert "matched-cam" in bundle.spec.thresholds
    assert bundle.spec.training["validation"]["volume_auc"] == 1.0
    assert "volume AUC 1.0" in summary
    assert f"matched-cam: threshold {bundle.spec.thresholds['matched-cam']['threshold']:.4g}" in summary
    assert summary.endswith(f"curves and metrics in {tmp_path / 'model-run'}\nwritten to {tmp_path / 'model'}")
    names = sorted(path.name for path in (tmp_path / "model-run").iterdir())
    assert names == [
        "checkpoint.pt",
        "curves.png",
        "measured.json",
        "metrics.csv",
        "run.json",
        "scans.json",
        "split.csv",
    ]  # no volumes

    settings = ReconstructionSettings(methods=("averaged-cam",), slices=16, directions=24, stages=(2,))
    lesion = toy_scan(7, 1)  # a head that it never saw
    array = reconstruct(lesion, bundle, settings, device="cpu", precision="float32").heatmaps["averaged-cam"].array
    inside, around = lesion.array > 200, (lesion.array > 50) & (lesion.array < 200)
    assert array[inside].mean() > 1.5 * array[around].mean()


def test_without_negative_validation_scans_there_is_a_bundle_without_thresholds(tmp_path: Path) -> None:
    summary = run(write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "model", options={"steps": 3})
    assert load_bundle(tmp_path / "model").spec.thresholds == {}
    assert "nothing calibrated, `threshold` auto will be Otsu's" in summary


def test_a_model_that_is_not_calibrated_says_so_and_by_what_it_is(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "toy", "volume,label,patient", [f"{i % 2},p{i}" for i in range(8)])
    ending = Ending({"stage": 2, "slices": 6, "directions": 4}, calibrate=False)
    summary = run(manifest, tmp_path / "model", options={"steps": 3}, calibration=ending)
    spec = load_bundle(tmp_path / "model").spec
    assert (spec.thresholds, spec.calibration, spec.defaults["stage"]) == ({}, [], 2)
    split = tmp_path / "model-run" / "split.csv"
    assert (
        "not calibrated: the model has no thresholds, `threshold` auto will be Otsu's; `tonno calibrate` finds some"
        in summary
    )
    assert f"finds some, of {tmp_path / 'model'} and {split}\n" in summary
    read_for_model(split, spec.classes)


@pytest.mark.usefixtures("uncalibrated")
def test_a_split_that_the_manifest_gives_is_recorded_as_well(tmp_path: Path) -> None:
    """So that what takes the run's list need not know whose split it is."""
    manifest = write_toy_set(tmp_path / "toy", train=2, val=2)
    head, *lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"Age,{head},note", *(f"6{n},{line},'a; b'" for n, line in enumerate(lines))]))
    summary = run(manifest, tmp_path / "model", options={"steps": 3})
    recorded = tmp_path / "model-run" / "split.csv"
    assert read_manifest(recorded).cases == read_manifest(manifest).cases
    written = further_columns(read_manifest(recorded))  # the user's own
    assert written == {"age": ["60", "61", "62", "63"], "note": ["'a; b'"] * 4}
    assert "gives no split" not in summary


@pytest.mark.usefixtures("uncalibrated")
def test_a_split_by_patient_is_made_and_recorded_where_none_is_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # Each patient has a scan with and one without; the last one is spelled in two ways.
    rows = [f"{i % 2},{'P' if i == 23 else 'p'}{i // 2}" for i in range(24)]
    manifest = write_rows(tmp_path / "toy", "volume,label,patient", rows)
    summary = run(manifest, tmp_path / "model", options={"steps": 3})
    recorded = tmp_path / "model-run" / "split.csv"
    assert f"the manifest gives no split: one by patient was made, {recorded}" in summary
    assert (
        f"{manifest}: patients 'p11' (line 24) and 'P11' (line 25) differ in spelling alone" in capfd.readouterr().err
    )
    split = read_manifest(recorded)
    assert [case.volume for case in split.cases] == [case.volume for case in read_manifest(manifest).cases]
    assert {name: len(split.split(name)) for name in ("train", "val", "test")} == {"train": 16, "val": 4, "test": 4}
    for case, other in zip(split.cases[::2], split.cases[1::2], strict=True):
        assert (case.patient.lower(), case.split) == (other.patient.lower(), other.split)
    counts = load_bundle(tmp_path / "model").spec.training["volumes"]
    assert counts["train"] == {"finding": {"positive": 8, "negative": 8}}
    # The recorded split trains to the same: it is the same run.
    text = recorded.read_text()
    run(recorded, tmp_path / "again", options={"steps": 3})
    assert same_weights(load_bundle(tmp_path / "again").weights, load_bundle(tmp_path / "model").weights)
    assert recorded.read_text() == text


@pytest.mark.usefixtures("uncalibrated")
@pytest.mark.parametrize(
    ("header", "rows", "classes"),
    [
        ("volume,label,split", ["cyst", "none", "tumour", "healthy"], ("cyst", "tumour")),
        ("volume,label:tumour,label:cyst,split", ["1,0", "0,1", "0,0", "1,1"], ("tumour", "cyst")),
    ],
)
def test_several_classes_become_outputs_by_name(
    header: str, rows: list[str], classes: tuple[str, ...], tmp_path: Path
) -> None:
    manifest = write_rows(tmp_path / "toy", header, [f"{row},train" for row in rows], bright=None)
    run(manifest, tmp_path / "model", options={"steps": 3})
    bundle = load_bundle(tmp_path / "model")
    assert bundle.spec.classes == classes
    assert bundle.weights["fc.weight"].shape[0] == 2
    assert bundle.classifier().classes == classes


@pytest.mark.usefixtures("uncalibrated")
def test_a_class_of_zeros_and_ones_has_the_name_that_was_given(manifest: Path, tmp_path: Path) -> None:
    run(manifest, tmp_path / "model", class_name="lesion", options={"steps": 3})
    assert load_bundle(tmp_path / "model").spec.classes == ("lesion",)


# -------------------- going on and beginning again


@pytest.mark.usefixtures("uncalibrated")
def test_an_interrupted_run_goes_on_by_resume_alone(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "whole")
    with monkeypatch.context() as patch:
        original = loop.Trainer._step

        def interrupted(self: loop.Trainer, step: int, *arguments: Any) -> Any:
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            return original(self, step, *arguments)

        patch.setattr(loop.Trainer, "_step", interrupted)
        with pytest.raises(TrainingInterrupted):
            run(manifest, tmp_path / "model", resume=True)  # there is nothing yet to resume
    assert not (tmp_path / "model").exists()
    with pytest.raises(TonnoError, match="holds the checkpoint of such a run; give `resume` to go on"):
        run(manifest, tmp_path / "model")
    with pytest.raises(TonnoError, match=r"is of another run, with seed 0, now 1; choose another `run`"):
        run(manifest, tmp_path / "model", resume=True, options={"seed": 1})
    run(manifest, tmp_path / "model", resume=True)
    assert same_weights(load_bundle(tmp_path / "model").weights, load_bundle(tmp_path / "whole").weights)


@pytest.mark.usefixtures("uncalibrated")
def test_a_run_goes_on_with_copied_scans_but_not_with_others(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(manifest, tmp_path / "model")
    monkeypatch.setattr(loop.Trainer, "_step", lambda *arguments: pytest.fail("a step was taken"))
    moved = tmp_path / "moved"
    for place in ("toy", "model", "model-run"):
        shutil.copytree(
            manifest.parent if place == "toy" else tmp_path / place, moved / place, copy_function=shutil.copy
        )
    run(moved / "toy" / "manifest.csv", moved / "model", resume=True)
    scans = moved / "toy"
    for name in ("0.nii.gz", "2.nii.gz"):
        shutil.copy(scans / "1.nii.gz", scans / name)
    told = rf"{scans / '0.nii.gz'} \(and 1 more\): is another scan than the one that the checkpoint in `run` "
    with pytest.raises(TonnoError, match=told):
        run(scans / "manifest.csv", moved / "model", resume=True)
    (moved / "model-run" / "scans.json").unlink()  # as an earlier build leaves it: nobody can tell
    run(scans / "manifest.csv", moved / "model", resume=True)


@pytest.mark.usefixtures("uncalibrated")
def test_a_failing_calibration_loses_no_training(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise TonnoError("no calibration")

    with monkeypatch.context() as patch:
        patch.setattr(command, "calibrate_bundle", failing)
        with pytest.raises(TonnoError, match=r"no calibration; the model is written to .*model, without thresholds; "):
            run(manifest, tmp_path / "model")
    before = load_bundle(tmp_path / "model").weights
    monkeypatch.setattr(loop.Trainer, "_step", lambda *arguments: pytest.fail("a step was taken"))
    run(manifest, tmp_path / "model", resume=True)
    assert same_weights(load_bundle(tmp_path / "model").weights, before)


@pytest.mark.usefixtures("uncalibrated")
def test_overwriting_begins_again(manifest: Path, tmp_path: Path) -> None:
    run(manifest, tmp_path / "model")
    with pytest.raises(TonnoError, match="exists already; choose another name or give `overwrite`"):
        run(manifest, tmp_path / "model")
    run(manifest, tmp_path / "model", overwrite=True, options={"steps": 3})
    assert load_bundle(tmp_path / "model").spec.training["settings"]["steps"] == 3
    with (tmp_path / "model-run" / "metrics.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3"]


# -------------------- what cannot be done is said


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"calibration": Ending({"stage": 9})}, "`stage` 9 does not exist in this encoder, expected 1 to 4"),
        ({"calibration": Ending(stages=(2, 9))}, "`calibrate_stages` 2\\+9 does not exist in this encoder"),
        ({"calibration": Ending(stages=(2,), calibrate=False)}, "`calibrate_stages` and `no_calibrate`: expected one"),
        ({"calibration": Ending({"stage": 3}, (2,))}, "`stage` and `calibrate_stages`: expected one of them"),
        ({"options": {"encoder": "resnet10x"}}, "'resnet10x' is not a timm model"),
        ({"options": {"encoder": "inception_v3"}}, "inception_v3 cannot take slices of 32 x 32 pixels"),
        ({"options": {"intensity": "log"}}, "`intensity` 'log'"),
        ({"options": {"learning_rate": float("nan")}}, "`learning_rate` is nan, expected a number between 0 and 10"),
        ({"options": {"device": "tpu"}}, "`device` 'tpu' is unknown"),
        ({"options": {"precision": "int8"}}, "`precision` 'int8' is unknown"),
        ({"options": {"weights": "absent.pth"}}, r"absent\.pth: no such file"),
        ({"options": {"freeze": 6}}, "`freeze` 6: test_resnet has 6 stages with its last layer"),
        ({"resume": True, "overwrite": True}, "`resume` and `overwrite`: expected one of them"),
    ],
)
def test_what_needs_no_volume_is_said_before_any_is_read(
    changes: dict[str, Any], message: str, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(TonnoError, match=message):
        run(manifest, tmp_path / "model", **changes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_read")
def test_an_output_or_a_run_that_is_something_else_is_said_before_training(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(TonnoError, match="`output`"):
            run(manifest, tmp_path / "mine", overwrite=overwrite)
        with pytest.raises(TonnoError, match=r"`run` .*mine: is a folder of something else \(no run.json\)"):
            run(manifest, tmp_path / "model", run=tmp_path / "mine", overwrite=overwrite)
    for place in (tmp_path / "model", tmp_path / "model" / "run"):
        with pytest.raises(TonnoError, match=r"lies in `output` .*model, which holds the model alone"):
            run(manifest, tmp_path / "model", run=place)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", "notes.txt"]


@pytest.mark.usefixtures("nothing_is_read")
def test_a_set_that_cannot_be_learned_from_is_said(tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "toy", "volume,label,split", ["0,train", "0,train", "1,val"])
    with pytest.raises(TonnoError, match="no volume in split train has label 1 of class 'finding'"):
        run(manifest, tmp_path / "model")


def test_a_run_below_a_file_is_said(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(TonnoError, match=r"file/run/run\.json: cannot be written \("):
        run(manifest, tmp_path / "model", run=tmp_path / "file" / "run")


# -------------------- the batch


def test_a_run_goes_on_with_its_own_batch_on_whichever_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[TrainingSettings] = []
    monkeypatch.setattr(command, "train_bundle", lambda manifest, destination, settings, **rest: taken.append(settings))
    monkeypatch.setattr(settings_module, "choose_device", lambda name: torch.device("cuda"))
    folder = tmp_path / "model-run"
    folder.mkdir()
    (folder / "run.json").write_text('{"settings": {"volumes_per_batch": 6, "slices_per_volume": 8}}')
    tonno = ["train", "manifest.csv", "--output", str(tmp_path / "model")]
    for options in ([], ["--resume"], ["--slices-per-volume", "4"], ["--volumes-per-batch", "2", "--resume"]):
        cli.cli.main([*tonno, *options], standalone_mode=False)
    assert [settings.volumes_per_batch for settings in taken] == [32, 6, 8, 2]
    (folder / "run.json").write_text("damaged")  # which is said when the run is looked at
    cli.cli.main([*tonno, "--resume"], standalone_mode=False)
    assert taken[-1].volumes_per_batch == 32
