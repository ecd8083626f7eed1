"""`tonno distill`: a manifest and a classifier in, a run folder and a segmenter out."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tests.commands.within import Command
from tests.distillation.toy import SETTINGS, untrained
from tests.mirrors import write_mirror
from tests.processes import two_processes
from tests.training.toy import environment, same_weights, write_rows, write_toy_set
from tonno_core import cli
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.cohort.manifest import read_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.commands import distill as distill_command
from tonno_core.distillation import loop, volumes
from tonno_core.distillation.distill import Segmenter
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.teacher import Teacher
from tonno_core.errors import TonnoError
from tonno_core.segmenter import with_monai
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.signals import ending_signals
from tonno_core.training import cache
from tonno_core.training.run_folder import RunFolder
from tonno_core.volume.io import read_volume

OPTIONS = [
    "--slices", "6", "--directions", "4", "--method", "averaged-cam", "--spacing-mm", "8", "--patch", "8",
    "--steps", "4", "--epochs", "2", "--device", "cpu", "--precision", "float32",
]  # fmt: skip
pytestmark = pytest.mark.usefixtures("kept_signals")


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A manifest, and the folder of a classifier."""
    folder = tmp_path_factory.mktemp("distill")
    return write_toy_set(folder / "toy", val=4), untrained(folder).path


@pytest.fixture
def tonno(
    capfd: pytest.CaptureFixture[str], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Command:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    return Command(capfd)


def asked(places: tuple[Path, Path], output: Path, *more: object) -> list[object]:
    return ["distill", places[0], "--model", places[1], "--output", output, *OPTIONS, *more]


# -------------------- what comes out


def test_a_segmenter_that_answers_a_volume(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    status, out, err = tonno(*asked(places, tmp_path / "model", "--about", "modality=MR"))
    assert status == 0, err
    assert "no mask was looked at" in out
    assert out.endswith(f"written to {tmp_path / 'model'}\n")
    bundle = load_bundle(tmp_path / "model")
    assert (bundle.spec.kind, bundle.spec.classes, bundle.spec.about) == ("segmenter", ("finding",), {"modality": "MR"})
    assert bundle.spec.training["taught_by"] == "heatmaps"
    assert bundle.spec.thresholds["segmenter"]["negative_volumes"] == 2
    volume = read_volume(places[0].parent / "5.nii.gz")
    logits = bundle.segmenter().answer(volume)
    assert logits.shape == (1, *volume.array.shape)
    run = tmp_path / "model-run"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoint.pt", "curves.png", "metrics.csv", "run.json", "scans.json", "split.csv", "teacher"
    ]  # fmt: skip
    assert len(list((run / "teacher").iterdir())) == 4  # of the volumes with the finding
    imread(run / "curves.png")
    with (run / "metrics.csv").open(newline="") as file:
        assert [(row["round"], row["step"]) for row in csv.DictReader(file)] == [("1", "2"), ("1", "4")]
    told = (run / "run.json").read_text()
    assert str(places[0].parent) not in told
    assert json.loads(told)["settings"]["model"] == load_bundle(places[1]).spec.sha256


def test_overwriting_takes_the_heatmaps_that_are_there(
    places: tuple[Path, Path], tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tonno(*asked(places, tmp_path / "model"))[0] == 0
    monkeypatch.setattr(Teacher, "look", lambda *arguments: pytest.fail("a volume was looked at"))
    assert tonno(*asked(places, tmp_path / "model", "--seed", 1, "--overwrite"))[0] == 0


def test_a_run_may_be_complete_and_asked_for_again(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    assert tonno(*asked(places, tmp_path / "model"))[0] == 0
    first = load_bundle(tmp_path / "model").weights
    assert tonno(*asked(places, tmp_path / "model", "--resume"))[0] == 0
    assert same_weights(load_bundle(tmp_path / "model").weights, first)


def test_a_complete_run_asked_for_again_notices_a_scan_that_was_replaced(
    places: tuple[Path, Path], tonno: Command, tmp_path: Path
) -> None:
    folder = shutil.copytree(places[0].parent, tmp_path / "toy")
    own = (folder / "manifest.csv", places[1])
    assert tonno(*asked(own, tmp_path / "model"))[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    shutil.copy(folder / "7.nii.gz", folder / "1.nii.gz")
    status, out, err = tonno(*asked(own, tmp_path / "model", "--resume"))
    assert (status, out) == (2, "")
    assert err.splitlines()[-1] == (
        f"tonno: {folder / '1.nii.gz'}: is another scan than the one that the checkpoint in "
        f"--run {tmp_path / 'model-run'} learned from; put that one back, "
        "choose another --run, or give --overwrite to begin again"
    )
    assert before == {path: path.read_bytes() for path in (tmp_path / "model").iterdir()}


def test_a_manifest_without_split_gets_that_of_the_classifiers_training(
    places: tuple[Path, Path], tonno: Command, tmp_path: Path
) -> None:
    rows = [f"{index % 2},p{index}" for index in range(10)]
    manifest = write_rows(tmp_path / "toy", "volume,label,patient", rows)
    message = tonno.refused(*asked((manifest, places[1]), tmp_path / "model"))
    assert message == (
        f"{manifest}: gives no split, and {places[1]} does not tell how it was trained; give split.csv in the folder "
        "of the classifier's run (usually MODEL-run), or a column split"
    )
    bundle = load_bundle(places[1])
    divided = split_patients(read_manifest(manifest), seed=7)
    counts = {split: divided.counts(split) for split in ("train", "val")}
    training = {"settings": {"seed": 7}, "volumes": counts}
    from dataclasses import replace

    save_bundle(tmp_path / "trained", replace(bundle.spec, training=training), bundle.weights)
    status, out, err = tonno(*asked((manifest, tmp_path / "trained"), tmp_path / "model"))
    assert status == 0, err
    assert "that of the classifier's training was made again" in out
    made = read_manifest(tmp_path / "model-run" / "split.csv")
    assert [case.split for case in made.cases] == [case.split for case in divided.cases]
    other = write_rows(tmp_path / "other", "volume,label,patient", rows[:8])
    message = tonno.refused(*asked((other, tmp_path / "trained"), tmp_path / "second"))
    assert "gives no split, and is not the list that" in message


def test_several_findings_and_a_class_that_says_there_is_none(tonno: Command, tmp_path: Path) -> None:
    rows = [f"{i % 2},{i // 2 % 2},{'train' if i < 4 else 'val'}" for i in range(8)]
    manifest = write_rows(tmp_path / "toy", "volume,label:lesion,label:bleeding,split", rows)
    model = untrained(tmp_path, ("normal", "lesion", "bleeding")).path
    status, _, err = tonno(*asked((manifest, model), tmp_path / "model"))
    assert status == 0, err
    spec = load_bundle(tmp_path / "model").spec
    assert spec.classes == ("lesion", "bleeding")
    assert set(spec.thresholds) == {"segmenter", "segmenter/bleeding"}


# -------------------- refusals, before any work


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "read_volume", lambda path, **how: pytest.fail("a volume was read"))


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "pixel-sum"], "--model pixel-sum: has learned nothing; expected the folder of a classifier"),
        (["--resume", "--overwrite"], "--resume and --overwrite: expected one of them, to go on or to begin again"),
        (["--method", "nothing"], "--method is nothing, expected one of tonno, "),
        (["--stage", "9"], "--stage 9 does not exist in this encoder, expected 1 to "),
        (["--finding", "0.1"], "--finding is 0.1, expected a number not below that of --background, 0.2; both above 0"),
        (["--volumes-per-batch", "3"], "--volumes-per-batch is 3, expected an even number: half without a finding"),
        (["--spacing-mm", "1,2"], "--spacing-mm '1,2': expected one number, or three along R, A and S, as 1,1,3"),
        (["--patch", "a"], "--patch 'a': expected one number, or three along R, A and S, as 1,1,3"),
        (["--patch", "7"], "--patch is (7, 7, 7), expected three multiples of 8 up to 512, along R, A and S"),
        (["--spacing-mm", "nan"], "--spacing-mm is (nan, nan, nan), expected three numbers from 0.05 to 50"),
        (["--unit", "threshold"], "--unit threshold: "),
        (["--precision", "float64"], "--precision "),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(
    more: list[str], message: str, places: tuple[Path, Path], tonno: Command, tmp_path: Path
) -> None:
    assert tonno.refused(*asked(places, tmp_path / "model", *more)).startswith(message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_is_read")
def test_a_segmenter_cannot_teach(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    write_mirror(tmp_path / "mirror")
    message = tonno.refused(*asked((places[0], tmp_path / "mirror"), tmp_path / "model"))
    assert message == (
        f"--model {tmp_path / 'mirror'}: is a segmenter already; expected the classifier whose heatmaps shall teach one"
    )


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ["0,train", "0,train"],
            "no volume in split train has label 1 of class 'finding', all 2 have 0; training needs",
        ),
        (
            ["1,train", "1,train", "0,val"],
            "no volume in split train has label 0 of class 'finding', all 2 have 1; train",
        ),
        (["1,val", "0,test"], "volumes in split train: 0; training needs two or more"),
    ],
)
def test_labels_that_teach_nothing_are_refused(
    labels: list[str], message: str, places: tuple[Path, Path], tonno: Command, tmp_path: Path
) -> None:
    manifest = write_rows(tmp_path / "toy", "volume,label,split", labels)
    assert message in tonno.refused(*asked((manifest, places[1]), tmp_path / "model"))


@pytest.mark.usefixtures("nothing_is_read")
def test_labels_of_other_findings_are_refused(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    manifest = write_rows(tmp_path / "toy", "volume,label:bleeding,split", ["1,train", "0,train"])
    message = tonno.refused(*asked((manifest, places[1]), tmp_path / "model"))
    assert "labels are of bleeding, the model tells finding: none are of 'finding'" in message


@pytest.mark.usefixtures("nothing_is_read")
def test_without_monai_its_installation_is_named(
    places: tuple[Path, Path], tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_monai, "find_spec", lambda name: None)
    message = tonno.refused(*asked(places, tmp_path / "model"))
    assert "pip install 'monai>=1.4'" in message
    assert list(tmp_path.iterdir()) == []


def test_places_that_hold_something_else_are_refused(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    assert tonno(*asked(places, tmp_path / "model"))[0] == 0
    assert "exists already" in tonno.refused(*asked(places, tmp_path / "model"))
    (tmp_path / "model-run").rename(tmp_path / "other-run")
    message = tonno.refused(*asked(places, tmp_path / "other"))
    assert "holds the checkpoint of such a run; give --resume to go on, or --overwrite to begin again" in message
    message = tonno.refused(*asked(places, tmp_path / "other", "--seed", 3, "--resume"))
    assert "is of another run, with seed 0, now 3" in message
    shutil.copytree(places[1], tmp_path / "classifier")
    message = tonno.refused(*asked((places[0], tmp_path / "classifier"), tmp_path / "classifier", "--overwrite"))
    assert message == f"--output {tmp_path / 'classifier'}: is the classifier's folder; choose another name"


def test_a_volume_that_cannot_be_read_is_named_before_any_heatmap(
    places: tuple[Path, Path], tonno: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_toy_set(tmp_path / "toy")
    (manifest.parent / "4.nii.gz").write_bytes(b"hello")
    monkeypatch.setattr(Teacher, "look", lambda *arguments: pytest.fail("a volume was looked at"))
    status, _, err = tonno(*asked((manifest, places[1]), tmp_path / "model"))
    assert status == 2
    assert err.splitlines()[-1].startswith(f"tonno: {manifest.parent / '4.nii.gz'}: ")
    assert not (tmp_path / "model").exists()


# -------------------- interrupted, out of disk, several processes


@pytest.fixture(scope="module")
def whole(places: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "model"
    before = {number: signal.getsignal(number) for number in ending_signals()}
    with pytest.raises(SystemExit) as done:
        cli.main([str(each) for each in asked(places, output)])
    for number, handler in before.items():
        signal.signal(number, handler)
    assert done.value.code == 0
    return output


@pytest.mark.parametrize("where", ["preparing", "looking", "training"])
def test_ctrl_c_keeps_what_is_done_and_the_same_command_goes_on_to_the_same_bits(
    where: str,
    places: tuple[Path, Path],
    whole: Path,
    tonno: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, name = {
        "preparing": (volumes, "prepare_image"), "looking": (Teacher, "look"), "training": (loop.Trainer, "_step"),
    }[where]  # fmt: skip
    original, count = getattr(owner, name), [0]

    def interrupted(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        status, _, err = tonno(*asked(places, tmp_path / "model"))
    run = tmp_path / "model-run"
    told = f"interrupted; {run} holds what is done, the same command goes on"
    if where == "training":
        told = (
            f"interrupted after step 3 of 4; {run / 'checkpoint.pt'} holds it, the same command with --resume goes on"
        )
    assert (status, err.splitlines()[-1]) == (130, f"tonno: {told}")
    assert not (tmp_path / "model").exists()
    more = ["--resume"] if where == "training" else []
    assert tonno(*asked(places, tmp_path / "model", *more))[0] == 0
    assert same_weights(load_bundle(tmp_path / "model").weights, load_bundle(whole).weights)
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_sigterm_ends_a_process_of_its_own(places: tuple[Path, Path], tmp_path: Path) -> None:
    run = tmp_path / "model-run"
    options = [str(each) for each in asked(places, tmp_path / "model", "--steps", 4000, "--epochs", 2000)]
    with subprocess.Popen(
        [sys.executable, "-m", "tonno_core", *options], env=environment(), stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        deadline = time.monotonic() + 100
        while not (run / "checkpoint.pt").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1].endswith("holds it, the same command with --resume goes on")
    assert "Traceback" not in said


def test_a_full_disk_is_said_in_one_line(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        status, _, err = tonno(*asked(places, tmp_path / "model"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, old)
    assert status == 2
    assert "cannot be written" in err.splitlines()[-1]
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if "partial" in name]
    assert not (tmp_path / "model").exists()


def test_a_teacher_that_was_calibrated_anew_makes_another_run(tmp_path: Path) -> None:
    bundle, manifest = untrained(tmp_path), read_manifest(write_toy_set(tmp_path / "toy"))

    def run(**thresholds: float) -> RunFolder:
        known = {name: {"threshold": value} for name, value in thresholds.items()}
        taught = dataclasses.replace(bundle, spec=dataclasses.replace(bundle.spec, thresholds=known))
        return RunFolder(tmp_path / "run", distill_command._Recorded(SETTINGS, taught), manifest)

    run(tonno=1.0).open()
    run(tonno=1.0, center=0.5).check(resume=True)  # no heatmap of which is learned from
    with pytest.raises(
        TonnoError, match=r"is of another run, with thresholds \{'tonno': 1\.0\}, now \{'tonno': 2\.0\}"
    ):
        run(tonno=2.0).check(resume=True)


def test_two_processes_are_one_run(places: tuple[Path, Path], tonno: Command, tmp_path: Path) -> None:
    more = ["--learning-rate", "1e-4", "--volumes-per-batch", "4"]
    done = two_processes(*(str(each) for each in asked(places, tmp_path / "two", *more)), TRAINS="1")
    assert done.returncode == 0, done.stderr
    assert "child ended with 0" in done.stdout
    assert done.stdout.count("written to") == 1  # by the first process alone
    assert tonno(*asked(places, tmp_path / "one", *more))[0] == 0
    two, one = load_bundle(tmp_path / "two"), load_bundle(tmp_path / "one")
    assert two.spec.training["processes"] == 2
    for name, tensor in one.weights.items():
        # Adam turns the rounding of a gradient near zero into a step of the learning rate at most.
        assert torch.allclose(two.weights[name], tensor, rtol=0, atol=4 * 1e-4), name
    tables = []
    for run in ("two-run", "one-run"):
        with (tmp_path / run / "metrics.csv").open(newline="") as file:
            names = ("loss", "voxel_loss", "dice_loss", "volume_loss")
            tables.append([[float(row[name]) for name in names] for row in csv.DictReader(file)])
    assert np.allclose(*tables, rtol=0, atol=2e-5)  # sums of float32 in another order, six digits


def test_a_segmenter_that_ended_empty_says_so(tmp_path: Path) -> None:
    volumes = {"train": {"finding": {"positive": 3, "negative": 2}}}
    record = {"final_loss": 1.0, "seconds": 1.0, "shown": {"finding": 2}, "volumes": volumes}
    network = SegmenterNetwork((2.0, 2.0, 2.0), (32, 32, 32))
    known = {"threshold": 0.0, "min_volume_mm3": 0.0, "negative_volumes": 2}
    run = RunFolder(tmp_path, DistillationSettings(), read_manifest(write_toy_set(tmp_path / "toy")))
    said = {
        agreement: distill_command._summary(
            Segmenter(network, {}, {"segmenter": {**known, "agreement": agreement}}, record),
            tmp_path / "model",
            run,
            split_made=False,
        )
        for agreement in (0.02, 0.5, None)
    }
    assert ["warning" in text for text in said.values()] == [True, False, False]
    assert "`learning_rate`" in said[0.02]


def test_a_validation_that_says_nothing_is_called_unknown(tmp_path: Path) -> None:
    volumes = {"train": {"finding": {"positive": 3, "negative": 2}}}
    validation = {"agreement": None, "volume_auc": None}
    record = {"final_loss": 1.0, "seconds": 1.0, "shown": {}, "volumes": volumes, "validation": validation}
    made = Segmenter(SegmenterNetwork((2.0, 2.0, 2.0), (32, 32, 32)), {}, {}, record)
    run = RunFolder(tmp_path, DistillationSettings(), read_manifest(write_toy_set(tmp_path / "toy")))
    text = distill_command._summary(made, tmp_path / "model", run, split_made=False)
    said = "Dice with the pseudo-masks unknown, as the heatmaps of val show no finding, volume AUC unknown; no mask"
    assert said in text
