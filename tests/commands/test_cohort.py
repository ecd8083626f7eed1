"""`tonno reconstruct MANIFEST.csv`: a folder for each volume; it goes on, and one that fails stops no other."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from matplotlib.figure import Figure

from tests.commands.single import reconstruct_files
from tests.networks import write_random_bundle
from tests.training.toy import toy_scan
from tonno_core import cli
from tonno_core.cohort.cases import Outcome, fingerprint
from tonno_core.cohort.manifest import read_volumes
from tonno_core.cohort.source import content_of, source_of
from tonno_core.commands import cohort
from tonno_core.commands import reconstruct as workflow
from tonno_core.commands.cohort import reconstruct_cohort
from tonno_core.commands.request import Compute, Options
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_volume, write_volume

OPTIONS = {"methods": ("tonno",), "slices": 12, "directions": 6, "slice_size": 12}
FILES = {"heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz", "report.json", "overview.png", "planes.npz"}
SUMMARY = {"settings.json", "summary.csv", "findings.csv", "contact-sheet-1.png"}
PLANES = {"slices": 12, "directions": 6}
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
    reconstruct_files(home / "set" / "1.nii.gz", tmp_path / "one", options, Compute("cpu"))
    for file in ("heatmap-tonno.nii.gz", "segmentation-tonno.nii.gz"):
        ours, single = (read_volume(folder / file).array for folder in (home / "out/cases/0002-1", tmp_path / "one"))
        np.testing.assert_array_equal(ours, single)
    report = json.loads((home / "out/cases/0002-1/report.json").read_text())
    row = rows(home / "out")[1]
    assert (row["case"], row["method"], row["failed"]) == ("0002-1", "tonno", "")
    assert float(row["score"]) == report["score"]
    assert float(row["peak"]) == report["methods"]["tonno"]["peak"]
    assert int(row["components"]) == len(report["methods"]["tonno"]["components"])


def test_the_terminal_says_how_many_cases_have_warnings(home: Path, tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    scan = nibabel.Nifti1Image(toy_scan(1, 1).array.T, None)  # no orientation is stated
    scan.header["qform_code"] = scan.header["sform_code"] = 0
    nibabel.save(scan, tmp_path / "set" / "1.nii.gz")
    text = run(manifest, tmp_path / "out").text
    assert [bool(row["warnings"]) for row in rows(tmp_path / "out")] == [False, True, False]
    assert text.splitlines()[-2] == "warnings for 1 of 3 cases: see column warnings of summary.csv"
    assert "warnings" not in run(home / "set" / "list.csv", home / "out").text


def test_what_another_command_did_meanwhile_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = cohort.reconstruct_into

    def overtaken(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        raise TonnoError("`output`: another process wrote it meanwhile")

    monkeypatch.setattr(cohort, "reconstruct_into", overtaken)
    assert run(write_set(tmp_path / "set"), tmp_path / "out").failed == ""
    assert not list((tmp_path / "out").rglob("*.failed"))


def test_a_second_run_does_what_is_missing_and_no_more(tmp_path: Path, done: list[str]) -> None:
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
    done.clear()
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
    reconstruct_files(tmp_path / "set/1.nii.gz", tmp_path / "one", options, Compute("cpu"))
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
    for name, data in (("a.nhdr", "a.raw.gz"), ("b.nhdr", "voxels/1.raw"), ("c.nhdr", "c.raw")):
        (tmp_path / name).write_text(f"NRRD0004\ndata file: {data}\n")
        (tmp_path / data).parent.mkdir(exist_ok=True)
        (tmp_path / data).write_bytes(b"1")
    headers = [tmp_path / f"{name}.nhdr" for name in "abc"]
    before, bytes_before = [*map(source_of, headers)], [*map(content_of, headers)]
    series = source_of(tmp_path)
    (tmp_path / "a.raw.gz").write_bytes(b"22")
    (tmp_path / "voxels" / "1.raw").write_bytes(b"22")
    (tmp_path / "c.txt").write_bytes(b"beside it, and not of the scan")
    assert [old == source_of(header) for old, header in zip(before, headers, strict=True)] == [False, False, True]
    assert [old == content_of(header) for old, header in zip(bytes_before, headers, strict=True)] == [
        False, False, True,
    ]  # fmt: skip
    assert source_of(tmp_path) != series


def test_what_a_desktop_leaves_in_a_series_makes_no_other_scan_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_bytes(bytes(128) + b"DICM1")
    (folder / "2.dcm").write_bytes(bytes(128) + b"DICM2")
    before = content_of(folder)
    for name in (".DS_Store", "._1.dcm"):
        (folder / name).write_bytes(b"\0\0\0\1Bud1")
    assert content_of(folder) == before
    (folder / ".3.dcm").write_bytes(bytes(128) + b"DICM3")  # a slice whatever its name
    assert content_of(folder) != before
    (tmp_path / "a.nhdr").write_text("NRRD0004\ndata file: .a.raw\n")
    found = []
    for voxels in (b"1", b"2"):
        (tmp_path / ".a.raw").write_bytes(voxels)
        found.append(content_of(tmp_path / "a.nhdr"))
    assert found[0] != found[1]


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
    assert "tonno pixel-sum 2" in " ".join(out.split())
    assert err.splitlines()[-1].startswith("tonno: 1 of 3 cases failed: 0003-2: ")


# --- another list


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are reconstructed from now on."""
    names: list[str] = []
    original = workflow.reconstruct_into

    def counted(output: Path, *arguments: Any, **options: Any) -> str:
        names.append(output.name)
        return original(output, *arguments, **options)

    monkeypatch.setattr(cohort, "reconstruct_into", counted)
    return names


def copy_of(home: Path, folder: Path) -> tuple[Path, Path]:
    """The set of `home` and what came out, as they are there, and known to be."""
    shutil.copytree(home / "set", folder / "set")
    manifest = folder / "set" / "list.csv"
    run(manifest, folder / "out")
    return manifest, folder / "out"


def test_a_longer_and_sorted_list_goes_on(home: Path, tmp_path: Path, done: list[str]) -> None:
    manifest, out = copy_of(home, tmp_path)
    before = rows(out)
    done.clear()
    write_volume(toy_scan(5, 1), tmp_path / "set" / "more.nii.gz")
    manifest.write_text("volume\nmore.nii.gz\n2.nii.gz\n1.nii.gz\n0.nii.gz\n")
    assert run(manifest, out).failed == ""
    assert done == ["0004-more"]
    assert [row["case"] for row in rows(out)] == ["0004-more", "0003-2", "0002-1", "0001-0"]
    assert rows(out)[1:] == before[::-1]
    # A name that another volume has: the next free number. What the list no longer has stays, and is said.
    done.clear()
    (tmp_path / "set" / "b").mkdir()
    write_volume(toy_scan(6, 1), tmp_path / "set" / "b" / "0.nii.gz")
    manifest.write_text("volume\nb/0.nii.gz\n1.nii.gz\n")
    text = run(manifest, out).text
    assert done == ["0005-0"]
    assert f"3 cases of an earlier list stay in {out / 'cases'} and are left out of the summary" in text
    assert [row["case"] for row in rows(out)] == ["0005-0", "0002-1"]
    manifest.write_text("volume\n0.nii.gz\n1.nii.gz\n2.nii.gz\n")
    run(manifest, out)
    assert done == ["0005-0"]
    assert rows(out) == before


def test_volumes_that_were_moved_or_copied_are_known_by_their_bytes(
    home: Path, tmp_path: Path, done: list[str]
) -> None:
    manifest, out = copy_of(home, tmp_path)
    before, sources = rows(out), [json.loads(path.read_text())["source"] for path in sorted(out.rglob("report.json"))]
    done.clear()
    shutil.copytree(tmp_path / "set", tmp_path / "elsewhere", copy_function=shutil.copyfile)  # with other times
    shutil.rmtree(tmp_path / "set")
    # Under an old name at the new place: another scan.
    write_volume(toy_scan(9, 1), tmp_path / "elsewhere" / "1.nii.gz")
    run(tmp_path / "elsewhere" / "list.csv", out)
    assert done == ["0004-1"]
    assert [row["case"] for row in rows(out)] == ["0001-0", "0004-1", "0003-2"]
    assert [row["seconds"] for row in rows(out)[::2]] == [row["seconds"] for row in before[::2]]
    assert rows(out)[0]["path"] == str(tmp_path / "elsewhere" / "0.nii.gz")
    # The module's worklist knows a result by its volume's place and time.
    now = json.loads((out / "cases/0001-0/report.json").read_text())["source"]
    assert now == source_of(tmp_path / "elsewhere" / "0.nii.gz")
    assert now not in sources
    manifest = tmp_path / "elsewhere" / "list.csv"
    (tmp_path / "elsewhere" / "0.nii.gz").touch()  # the same bytes
    run(manifest, out)
    assert done == ["0004-1"]


def test_volumes_of_one_name_in_many_folders_are_told_apart(tmp_path: Path, done: list[str]) -> None:
    for index, folder in enumerate("abc"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        write_volume(toy_scan(index, index % 2), tmp_path / "set" / folder / "t1.nii.gz")
    (tmp_path / "set" / "list.csv").write_text("volume\na/t1.nii.gz\nb/t1.nii.gz\nc/t1.nii.gz\n")
    run(tmp_path / "set" / "list.csv", tmp_path / "out")
    peaks = {row["path"].split("/")[-2]: row["peak"] for row in rows(tmp_path / "out")}
    done.clear()
    (tmp_path / "set").rename(tmp_path / "moved")
    manifest = tmp_path / "moved" / "list.csv"
    manifest.write_text("volume\nc/t1.nii.gz\na/t1.nii.gz\nb/t1.nii.gz\n")
    run(manifest, tmp_path / "out")
    assert done == []
    assert {row["path"].split("/")[-2]: row["peak"] for row in rows(tmp_path / "out")} == peaks
    assert len(set(peaks.values())) == 3


def test_processes_name_the_cases_of_a_new_list_alike(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, out = copy_of(home, tmp_path)
    write_volume(toy_scan(5, 1), tmp_path / "set" / "new.nii.gz")
    (tmp_path / "set").rename(tmp_path / "moved")
    (tmp_path / "moved" / "list.csv").write_text("volume\nnew.nii.gz\n2.nii.gz\n0.nii.gz\n1.nii.gz\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert "2 of 4 cases done here, 1 are not done" in run(tmp_path / "moved" / "list.csv", out).text
    monkeypatch.setenv("RANK", "0")
    assert "4 of 4 cases in" in run(tmp_path / "moved" / "list.csv", out).text
    assert {path.name for path in (out / "cases").iterdir()} == {"0004-new", *CASES}


def as_earlier(out: Path, places: list[str]) -> None:
    """Make a folder what earlier builds wrote: hashed with its list, without a hash of each volume."""
    settings = json.loads((out / "settings.json").read_text())
    for name in ("run", "cases", "heatmaps"):
        del settings[name]
    settings["manifest"] = {"cases": len(places), "sha256": fingerprint(places)}
    (out / "settings.json").write_text(json.dumps(settings))
    for path in out.rglob("report.json"):
        report = {**json.loads(path.read_text()), "run": fingerprint(settings)}
        del report["content"]
        path.write_text(json.dumps(report))


def test_a_folder_of_an_earlier_build_goes_on_where_its_list_grew(home: Path, tmp_path: Path, done: list[str]) -> None:
    manifest, out = copy_of(home, tmp_path)
    before = rows(out)
    as_earlier(out, [str(tmp_path / "set" / f"{index}.nii.gz") for index in range(3)])
    done.clear()
    manifest.write_text("volume\n2.nii.gz\n1.nii.gz\n0.nii.gz\n")
    with pytest.raises(TonnoError, match=r"holds a cohort of another list, and an earlier version .* which volume"):
        run(manifest, out)
    write_volume(toy_scan(5, 1), tmp_path / "set" / "more.nii.gz")
    manifest.write_text("volume\n0.nii.gz\n1.nii.gz\n2.nii.gz\nmore.nii.gz\n")
    run(manifest, out)
    assert done == ["0004-more"]
    manifest.write_text("volume\nmore.nii.gz\n2.nii.gz\n1.nii.gz\n0.nii.gz\n")  # it is written down by now
    run(manifest, out)
    assert done == ["0004-more"]
    assert rows(out)[:0:-1] == before


def test_a_result_whose_volume_is_gone_stays(home: Path, tmp_path: Path) -> None:
    manifest, out = copy_of(home, tmp_path)
    before = rows(out)
    (tmp_path / "set" / "1.nii.gz").unlink()
    assert run(manifest, out).failed == ""
    assert rows(out) == before


def test_a_model_calibrated_anew_is_another_run(tmp_path: Path) -> None:
    """The weights are the same, the masks would not be."""
    manifest = write_set(tmp_path / "set")
    manifest.write_text("volume\n1.nii.gz\n")
    for name, threshold in (("one", 0.25), ("other", 0.5)):
        known = {"matched-cam": {"threshold": threshold, "settings": {**PLANES, "stage": 2}}}
        write_random_bundle(tmp_path / name, thresholds=known)
    asked = Options(str(tmp_path / "one"), {"methods": ("matched-cam",), **PLANES})
    reconstruct_cohort([manifest], tmp_path / "out", asked, Compute("cpu"), progress=False)
    again = Options(str(tmp_path / "other"), {"methods": ("matched-cam",), **PLANES})
    with pytest.raises(TonnoError, match=r"the model's threshold for matched-cam was 0\.25, now 0\.5; choose"):
        reconstruct_cohort([manifest], tmp_path / "out", again, Compute("cpu"), progress=False)


# --- what is written about all cases


def test_missing_volumes_are_all_listed_and_the_others_run(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    lines = ["volume;patient;label;split", "0.nii.gz;p0;0;train", "gone.nii.gz;p1;1;test", "1.nii.gz;p2;1;test"]
    manifest.write_text("\n".join([*lines, "3.nii.gz;p3;0;val"]))
    outcome = run(manifest, tmp_path / "out")
    assert outcome.failed.startswith(
        "2 of 4 cases failed: 0002-gone: volume 'gone.nii.gz' does not exist (paths are relative to the manifest); "
        "0004-3: volume '3.nii.gz' does not exist"
    )
    summary = rows(tmp_path / "out")
    assert [bool(row["failed"]) for row in summary] == [False, True, False, True]
    assert [(row["patient"], row["label"], row["split"]) for row in summary] == [
        ("p0", "0", "train"), ("p1", "1", "test"), ("p2", "1", "test"), ("p3", "0", "val"),
    ]  # fmt: skip
    assert [Path(row["path"]).name for row in summary] == ["0.nii.gz", "gone.nii.gz", "1.nii.gz", "3.nii.gz"]
    write_volume(toy_scan(3, 1), tmp_path / "set" / "gone.nii.gz")
    assert run(manifest, tmp_path / "out").failed.startswith("1 of 4 cases failed: 0004-3")


def test_findings_csv_has_each_finding_of_each_case(home: Path) -> None:
    with (home / "out" / "findings.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    expected = []
    for case in CASES:
        components = json.loads((home / f"out/cases/{case}/report.json").read_text())["methods"]["tonno"]["components"]
        expected += [(case, each) for each in components]
    assert len(found) == len(expected) > 3
    for row, (case, component) in zip(found, expected, strict=True):
        assert (row["case"], int(row["finding"]), int(row["voxels"])) == (case, component["label"], component["voxels"])
        peak = [float(row[f"peak_ras_{axis}"]) for axis in "ras"]
        assert peak == pytest.approx(component["peak_ras"], abs=5e-4)  # three digits are written
        # In the patient's millimetres: the heatmap has its peak there, as nibabel sees the file.
        image = nibabel.load(home / f"out/cases/{case}/heatmap-tonno.nii.gz")
        ijk = np.rint(np.linalg.inv(image.affine) @ [*peak, 1.0]).astype(int)[:3]
        assert float(image.dataobj[tuple(ijk)]) == pytest.approx(float(row["peak"]), rel=1e-6)  # both are float32


def test_a_contact_sheet_shows_each_case(home: Path, tmp_path: Path, drawn: list[Figure], rendered: None) -> None:
    _, out = copy_of(home, tmp_path)
    assert [len([axes for axes in figure.axes if axes.images]) for figure in drawn[-1:]] == [2 * 3]
    headings = [text.get_text() for text in drawn[-1].texts if text.get_text().startswith("000")]
    assert [heading.split()[0] for heading in headings] == list(CASES)
    report = json.loads((out / "cases/0002-1/report.json").read_text())
    method = report["methods"]["tonno"]
    parts = f"{method['volume_mm3'] / 1000:.1f} ml in {len(method['components'])} part"
    assert sum(text.get_text().startswith(parts) for text in drawn[-1].texts) >= 1
    # An earlier build kept no planes; where the volume is gone as well, the case is left out.
    for name in ("0001-0", "0002-1"):
        (out / "cases" / name / "planes.npz").unlink()
    (tmp_path / "set" / "1.nii.gz").unlink()
    run(tmp_path / "set" / "list.csv", out)
    headings = [text.get_text() for text in drawn[-1].texts if text.get_text().startswith("000")]
    assert [heading.split()[0] for heading in headings] == ["0001-0", "0003-2"]


def test_a_model_without_thresholds_asks_before_any_work(tmp_path: Path) -> None:
    manifest = write_set(tmp_path / "set")
    manifest.write_text("volume\n1.nii.gz\n")
    write_random_bundle(tmp_path / "bare")
    options = Options(str(tmp_path / "bare"), {"methods": ("tonno", "center"), **PLANES})

    def go(asked: Options, **more: Any) -> Outcome:
        return reconstruct_cohort([manifest], tmp_path / "out", asked, Compute("cpu"), progress=False, **more)

    with pytest.raises(TonnoError, match=r"no threshold for tonno, center; which one .* `threshold` otsu.*calibr"):
        go(options)
    assert not (tmp_path / "out").exists()
    go(dataclasses.replace(options, threshold="otsu"))
    assert {row["threshold_source"] for row in rows(tmp_path / "out")} == {"otsu"}
    shutil.rmtree(tmp_path / "out")
    go(options, ask=False)
    go(options)  # what was begun goes on
    assert {row["threshold_source"][:16] for row in rows(tmp_path / "out")} == {"otsu, as the mod"}


def test_the_command_takes_folders_and_can_be_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_set(tmp_path / "set")
    write_random_bundle(tmp_path / "bare")
    words = ["--model", str(tmp_path / "bare"), "--method", "tonno", "--device", "cpu", "--slices", "12"]
    words += ["--directions", "6", "--quiet"]

    def go(*more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            cli.main(["reconstruct", *more, *words])
        return int(done.value.code or 0), *capfd.readouterr()

    code, out, err = go(str(tmp_path / "set"), "--output", str(tmp_path / "asked"))
    assert (code, out) == (2, "")
    assert "--threshold otsu" in err
    ended = go(str(tmp_path / "set"), "--output", str(tmp_path / "out"), "--threshold", "auto")  # which is an answer
    assert ended == (0, "", "")
    assert [row["case"] for row in rows(tmp_path / "out")] == list(CASES)
    ended = go(str(tmp_path / "set" / "0.nii.gz"), "--output", str(tmp_path / "one"))
    assert ended == (0, "", "")
    assert (tmp_path / "one" / "report.json").is_file()


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
        ("volume\n8.nii.gz\n0.nii.gz\n9.nii.gz\n", r"2 of 3 volumes are missing: line 2: .*'8\.nii.*line 4: .*'9\.nii"),
        ("volume\n0.nii.gz\n0.nii.gz\n", "line 3: the volume of line 2 again"),
        ("volume\n", "no volumes in it"),
    ],
)
def test_bad_lists(text: str, message: str, tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(TonnoError, match=message):
        read_volumes(tmp_path / "bad.csv")
