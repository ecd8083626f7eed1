"""A run's folder: nobody else's is touched, and what differs is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import SETTINGS, write_toy_set
from tonno_core.cohort.manifest import read_manifest
from tonno_core.errors import TonnoError
from tonno_core.training.run_folder import RunFolder

STATE = {"model": {"w": torch.ones(2)}, "step": 3}
ADVICE = "choose another `run`, or give `overwrite` to begin again"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return write_toy_set(tmp_path / "toy", train=2, val=2)


@pytest.fixture
def run(tmp_path: Path, manifest: Path) -> Path:
    """A run with a checkpoint and all else that a run leaves."""
    folder = folder_of(tmp_path / "run", manifest)
    folder.open()
    folder.save(STATE)
    folder.measured(lambda: 7.0)
    for name in ("metrics.csv", "curves.png", "split.csv"):
        (folder.path / name).write_text("old")
    return folder.path


def folder_of(path: Path, manifest: Path, **changes: Any) -> RunFolder:
    return RunFolder(path, replace(SETTINGS, **changes), read_manifest(manifest))


def refused(folder: RunFolder, **options: bool) -> str:
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(TonnoError) as caught:
        folder.check(**options)
    assert before == {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_new_place_and_an_empty_folder_will_do(tmp_path: Path, manifest: Path) -> None:
    (tmp_path / "empty/.tonno-partial-x").mkdir(parents=True)  # of a process that was killed as it began
    for name in ("empty", "deep/er/run"):
        for resume in (False, True):
            folder = folder_of(tmp_path / name, manifest)
            folder.check(resume=resume)
            assert folder.load() is None
        folder.open()
        assert json.loads((tmp_path / name / "run.json").read_text())["settings"]["steps"] == SETTINGS.steps


def test_a_checkpoint_comes_back(run: Path, manifest: Path) -> None:
    folder = folder_of(run, manifest)
    folder.check(resume=True)
    state = folder.load()
    assert state is not None
    assert state["step"] == 3
    assert torch.equal(state["model"]["w"], torch.ones(2))


def test_a_run_that_was_begun_is_not_begun_again_unasked(run: Path, manifest: Path) -> None:
    message = refused(folder_of(run, manifest))
    assert message == (
        f"`run` {run}: holds the checkpoint of such a run; give `resume` to go on, or `overwrite` to begin again"
    )


def test_a_run_without_a_checkpoint_yet_may_be_begun_again(run: Path, manifest: Path) -> None:
    (run / "checkpoint.pt").unlink()  # interrupted while volumes were prepared
    folder = folder_of(run, manifest)
    folder.check()
    folder.open()
    assert folder.measured(lambda: pytest.fail("measured twice")) == 7.0


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"learning_rate": 0.5}, "learning-rate 0.001, now 0.5"),
        ({"encoder": "resnet10t"}, "encoder test_resnet, now resnet10t"),
        ({"classes": ("lesion",)}, "classes ['finding'], now ['lesion']"),
        ({"seed": 4}, "seed 0, now 4"),
    ],
)
def test_a_run_of_other_settings_says_which(
    changes: dict[str, Any], difference: str, resume: bool, run: Path, manifest: Path
) -> None:
    message = refused(folder_of(run, manifest, **changes), resume=resume)
    assert message == f"{run / 'run.json'}: is of another run, with {difference}; {ADVICE}"


def test_the_device_may_change(run: Path, manifest: Path) -> None:
    folder_of(run, manifest, device="cuda").check(resume=True)


@pytest.mark.parametrize("change", ["a label", "a split", "a volume more"])
def test_a_run_on_other_cases_is_refused(change: str, run: Path, manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    if change == "a label":
        lines[1] = lines[1].replace(",0,", ",1,")
    elif change == "a split":
        lines[4] = lines[4].replace("val", "test")
    else:
        shutil.copy(manifest.parent / "0.nii.gz", manifest.parent / "9.nii.gz")
        lines.append("9.nii.gz,0,,p9,train")
    manifest.write_text("\n".join(lines))
    message = refused(folder_of(run, manifest), resume=True)
    assert message.startswith(f"{run / 'run.json'}: is of a run on other cases (the manifest's volumes, labels or")


def test_a_run_may_move_with_its_data(run: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for path in (run, manifest.parent):
        shutil.move(path, tmp_path / "elsewhere" / path.name)
    moved = tmp_path / "elsewhere"
    folder_of(moved / "run", moved / "toy" / "manifest.csv").check(resume=True)


def test_something_else_is_never_touched(tmp_path: Path, manifest: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_text("mine")
    (tmp_path / "notes").write_text("mine")
    for options in ({}, {"resume": True}, {"overwrite": True}):
        message = refused(folder_of(tmp_path / "photos", manifest), **options)
        assert message.endswith("photos: is a folder of something else (no run.json); choose another name")
        assert "is a file, expected a folder" in refused(folder_of(tmp_path / "notes", manifest), **options)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"settings": 3, "cases": ""}'])
def test_a_damaged_description_is_said(text: str, run: Path, manifest: Path) -> None:
    (run / "run.json").write_text(text)
    assert refused(folder_of(run, manifest), resume=True).startswith(f"{run / 'run.json'}: ")
    folder = folder_of(run, manifest)
    folder.check(overwrite=True)
    folder.open(overwrite=True)
    folder.check()


@pytest.mark.parametrize("kind", ["cut off", "empty", "text", "a list", "of another run", "of no run"])
def test_a_checkpoint_that_is_none_of_this_run_is_said(kind: str, run: Path, manifest: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoint.pt"
    if kind in ("cut off", "empty", "text"):
        whole = checkpoint.read_bytes()
        checkpoint.write_bytes({"cut off": whole[:-5], "empty": b"", "text": b"hello\n" * 9}[kind])
    elif kind == "a list":
        torch.save([1, 2], checkpoint)
    elif kind == "of no run":
        torch.save({"w": torch.ones(2)}, checkpoint)
    else:
        other = folder_of(tmp_path / "other", manifest, learning_rate=0.5)
        other.open()
        other.save(STATE)
        shutil.copy(other.checkpoint, checkpoint)
    message = refused(folder_of(run, manifest), resume=True)
    assert message.startswith(f"{checkpoint}: ")
    assert "give `overwrite` to begin again" in message
    if kind == "of another run":
        assert "with learning-rate 0.5, now 0.001" in message


@pytest.mark.parametrize("changes", [{}, {"learning_rate": 0.5}])
def test_overwriting_begins_anew_and_leaves_what_is_not_ours(
    changes: dict[str, Any], run: Path, manifest: Path
) -> None:
    (run / "notes.txt").write_text("mine")
    folder = folder_of(run, manifest, **changes)
    folder.check(overwrite=True)
    folder.open(overwrite=True)
    assert sorted(path.name for path in run.iterdir()) == ["notes.txt", "run.json"]
    assert folder.measured(lambda: 8.0) == 8.0
    folder.check()


def test_nothing_tells_a_patient(run: Path) -> None:
    text = (run / "run.json").read_text()
    assert not any(word in text for word in ("nii", "toy", "p0", str(run.parent)))


def test_an_interrupted_write_leaves_the_checkpoint_before(
    run: Path, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(values: object, file: Any) -> None:
        file.write(b"PK half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    folder = folder_of(run, manifest)
    before = {path.name for path in run.iterdir()}
    with pytest.raises(KeyboardInterrupt):
        folder.save({"step": 4})
    state = folder.load()
    assert state is not None
    assert state["step"] == 3
    assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"radius_mm": 0}', '{"radius_mm": NaN}', '{"radius_mm": "80"}'])
def test_a_damaged_measurement_is_said(text: str, run: Path, manifest: Path) -> None:
    (run / "measured.json").write_text(text)
    with pytest.raises(TonnoError, match=r"measured\.json: damaged; delete it, and the volumes are measured again"):
        folder_of(run, manifest).measured(lambda: 80.0)
