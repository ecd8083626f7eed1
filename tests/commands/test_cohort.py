"""`tonno reconstruct MANIFEST.csv`: a folder for each volume; it goes on, and one that fails stops no other."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.toy import toy_scan
from tonno_core import cli
from tonno_core.cohort.cases import Outcome
from tonno_core.cohort.manifest import read_volumes
from tonno_core.cohort.source import source_of
from tonno_core.commands import cohort
from tonno_core.commands import reconstruct as workflow
from tonno_core.commands.cohort import reconstruct_cohort
from tonno_core.commands.request import Compute, Options
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_volume, write_volume

OPTIONS = {"methods": ("tonno",), "slices": 12, "directions": 6, "slice_size": 12}
FILES = {"heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz", "report.json", "overview.png", "planes.npz"}
SUMMARY = {"settings.json", "summary.csv", "findings.csv", "contact-sheet-1.png"}
CASES = ("0001-0", "0002-1", "0003-2")


def write_set(folder: Path, *, broken: int | None = None) -> Path:
    """Three scans and the list of them, one of them no image."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(3):
        write_volume(toy_scan(index, index % 2), folder / f"{index}.nii.gz")
    if broken is not None:
        (folder / f"{broken}.nii.gz").write_bytes(b"not an image")
    (folder / "list.csv").write_text("volume\n0.nii.gz\n1.nii.gz\n2.nii.gz\n")
    return folder / "list.csv"


def run(manifest: Path, output: Path, *, overwrite: bool = False, compiled: bool = False, **changes: Any) -> Outcome:
    options = Options("pixel-sum", {**OPTIONS, **changes})
    compute = Compute("cpu", compiled=compiled)
    return reconstruct_cohort([manifest], output, options, compute, overwrite=overwrite, progress=False)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "summary.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, and what came out."""
    folder = tmp_path_factory.mktemp("home")
    run(write_set(folder / "set"), folder / "out")
    return folder


def test_each_volume_has_what_a_single_run_writes(home: Path, tmp_path: Path) -> None:
    each = {f"cases/{case}/{file}" for case in CASES for file in FILES}
    assert files(home / "out") == {*SUMMARY, *each}
    options = Options("pixel-sum", OPTIONS)
    workflow.reconstruct_files(home / "set" / "1.nii.gz", tmp_path / "one", options, Compute("cpu"))
    for file in ("heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz"):
        ours, single = (read_volume(folder / file).array for folder in (home / "out/cases/0002-1", tmp_path / "one"))
        np.testing.assert_array_equal(ours, single)
    report = json.loads((home / "out/cases/0002-1/report.json").read_text())
    row = rows(home / "out")[1]
    assert (row["case"], row["method"], row["failed"]) == ("0002-1", "tonno", "")
    assert float(row["score"]) == report["score"]
    assert float(row["peak"]) == report["methods"]["tonno"]["peak"]
    assert int(row["components"]) == len(report["methods"]["tonno"]["components"])


def test_a_second_run_does_what_is_missing_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = write_set(tmp_path / "set", broken=1)
    outcome = run(manifest, tmp_path / "out")
    assert outcome.failed.startswith(f"1 of 3 cases failed: 0002-1: {tmp_path / 'set' / '1.nii.gz'}: ")
    assert "2 of 3 cases in" in outcome.text
    assert "failed" in outcome.text
    assert [(row["case"], bool(row["failed"])) for row in rows(tmp_path / "out")] == [
        ("0001-0", False), ("0002-1", True), ("0003-2", False),
    ]  # fmt: skip
    assert not (tmp_path / "out/cases/0002-1").exists()

    write_volume(toy_scan(1, 1), tmp_path / "set" / "1.nii.gz")
    done: list[str] = []
    original = workflow.reconstruct_into

    def counted(output: Path, *arguments: Any, **options: Any) -> str:
        done.append(output.name)
        return original(output, *arguments, **options)

    monkeypatch.setattr(cohort, "reconstruct_into", counted)
    outcome = run(manifest, tmp_path / "out")
    assert done == ["0002-1"]
    assert outcome.failed == ""
    assert not any(row["failed"] for row in rows(tmp_path / "out"))


def test_an_interruption_leaves_finished_cases_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, written = workflow.write_overview, []

    def interrupted(*arguments: Any, **options: Any) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(1)
        original(*arguments, **options)

    monkeypatch.setattr(workflow, "write_overview", interrupted)
    manifest = write_set(tmp_path / "set")
    with pytest.raises(KeyboardInterrupt):
        run(manifest, tmp_path / "out")
    assert files(tmp_path / "out") == {"settings.json", *(f"cases/0001-0/{file}" for file in FILES)}
    assert [path.name for path in (tmp_path / "out/cases").iterdir()] == ["0001-0"]


def test_another_run_is_refused_until_it_is_to_be_replaced(home: Path, tmp_path: Path) -> None:
    run(home / "set" / "list.csv", tmp_path / "out")
    with pytest.raises(
        TonnoError, match=r"holds another cohort: `slices` was 12, now 10; choose another folder, or give"
    ):
        run(home / "set" / "list.csv", tmp_path / "out", slices=10)
    (tmp_path / "out/cases/0001-0/notes.txt").write_text("mine")
    before = read_volume(tmp_path / "out/cases/0001-0/heatmap-tonno.nii.gz").array
    run(home / "set" / "list.csv", tmp_path / "out", slices=10, overwrite=True)
    after = read_volume(tmp_path / "out/cases/0001-0/heatmap-tonno.nii.gz").array
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()
    assert (tmp_path / "out/cases/0001-0/notes.txt").read_text() == "mine"


def test_a_compiled_network_rounds_otherwise_and_is_another_run(home: Path) -> None:
    with pytest.raises(TonnoError, match="`compiled` was off, now on"):
        run(home / "set" / "list.csv", home / "out", compiled=True)


def test_a_report_of_another_run_is_no_finished_case(home: Path, tmp_path: Path) -> None:
    # Such as another process's, that has not begun anew yet where this one has.
    shutil.copytree(home / "out", tmp_path / "out")
    report = tmp_path / "out/cases/0002-1/report.json"
    report.write_text(json.dumps({**json.loads(report.read_text()), "run": "another"}))
    before = (tmp_path / "out/cases/0001-0/report.json").read_bytes()
    run(home / "set" / "list.csv", tmp_path / "out")
    assert json.loads(report.read_text())["run"] != "another"
    assert (tmp_path / "out/cases/0001-0/report.json").read_bytes() == before


def test_a_volume_whose_file_has_changed_is_done_again(tmp_path: Path) -> None:
    """Another patient's scan at the same place must not get the first one's heatmap."""
    manifest = write_set(tmp_path / "set")
    run(manifest, tmp_path / "out")
    reports = [tmp_path / "out/cases" / case / "report.json" for case in CASES]
    before = [report.read_bytes() for report in reports]
    write_volume(toy_scan(7, 1), tmp_path / "set" / "1.nii.gz")
    assert run(manifest, tmp_path / "out").failed == ""
    after = [report.read_bytes() for report in reports]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]
    options = Options("pixel-sum", OPTIONS)
    workflow.reconstruct_files(tmp_path / "set/1.nii.gz", tmp_path / "one", options, Compute("cpu"))
    again = read_volume(tmp_path / "out/cases/0002-1/heatmap-tonno.nii.gz").array
    np.testing.assert_array_equal(again, read_volume(tmp_path / "one/heatmap-tonno.nii.gz").array)

    (tmp_path / "set" / "1.nii.gz").write_bytes(b"no image")
    assert run(manifest, tmp_path / "out").failed.startswith("1 of 3 cases failed: 0002-1: ")
    assert [bool(row["failed"]) for row in rows(tmp_path / "out")] == [False, True, False]


def test_what_is_told_by_the_files_of_a_volume(tmp_path: Path) -> None:
    write_set(tmp_path)
    one, other = source_of(tmp_path / "0.nii.gz"), source_of(tmp_path / "1.nii.gz")
    assert one == source_of(tmp_path / "0.nii.gz") and one != other
    moved = tmp_path / "9.nii.gz"
    (tmp_path / "0.nii.gz").rename(moved)
    assert source_of(moved) != one  # the place belongs to it
    with pytest.raises(FileNotFoundError):
        source_of(tmp_path / "0.nii.gz")
    for name in ("a.nhdr", "a.raw.gz", "b.nhdr"):
        (tmp_path / name).write_bytes(b"1")
    header, apart = source_of(tmp_path / "a.nhdr"), source_of(tmp_path / "b.nhdr")
    series = source_of(tmp_path)
    (tmp_path / "a.raw.gz").write_bytes(b"22")
    assert source_of(tmp_path / "a.nhdr") != header
    assert source_of(tmp_path / "b.nhdr") == apart
    assert source_of(tmp_path) != series


def test_processes_share_the_cases_and_the_last_one_sums_up(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert run(home / "set/list.csv", tmp_path / "out").text == "1 of 3 cases done here, 2 are not done elsewhere yet"
    assert {path.name for path in (tmp_path / "out/cases").iterdir()} == {"0002-1"}
    monkeypatch.setenv("RANK", "0")
    assert "3 of 3 cases in" in run(home / "set/list.csv", tmp_path / "out").text
    assert files(tmp_path / "out") == files(home / "out")


def test_the_command_takes_a_csv_and_ends_with_2_where_a_case_failed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = write_set(tmp_path / "set", broken=2)
    words = ["--model", "pixel-sum", "--slices", "12", "--directions", "6", "--slice-size", "12", "--device", "cpu"]
    with pytest.raises(SystemExit) as done:
        cli.main(["reconstruct", str(manifest), "--output", str(tmp_path / "out"), *words])
    out, err = capfd.readouterr()
    assert done.value.code == 2
    assert out.startswith("method")
    assert "tonno     2" in out
    assert err.splitlines()[-1].startswith("tonno: 1 of 3 cases failed: 0003-2: ")


# --- the list


def test_a_study_s_manifest_is_a_list_too_and_its_labels_are_not_looked_at(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "study.csv").write_text("volume;label;mask\n0.nii.gz;maybe;none\n2.nii.gz;;\n")
    assert [case.volume.name for case in read_volumes(tmp_path / "study.csv")] == ["0.nii.gz", "2.nii.gz"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scan\n0.nii.gz\n", "column volume missing, found scan"),
        ("volume\n0.nii.gz\n9.nii.gz\n", r"line 3: volume '9\.nii\.gz' does not exist"),
        ("volume\n0.nii.gz\n0.nii.gz\n", "line 3: the volume of line 2 again"),
        ("volume\n", "no volumes in it"),
    ],
)
def test_bad_lists(text: str, message: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TonnoError, match=message):
        read_volumes(tmp_path / "bad.csv")
