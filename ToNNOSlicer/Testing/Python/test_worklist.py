"""Studies one after the other in a process of their own: what is done stays, what fails stops no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dicom_series import writeSeries
from studies_on_disk import CHANGES, COMMAND, QUICK, ROOT, ended, hasEnded, known, states, until, worklist, write
from ToNNOSlicerLib.studies import findStudies
from ToNNOSlicerLib.worklist import ENDED, FINDING, IDLE, WORKING, Case, Worklist, arguments
from ToNNOSlicerLib.worklist_files import progress, reported, runsOf

from tonno_core.cohort.source import source_of
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_volume

SLOW = QUICK | {"directions": 3000, "slices": 24}  # seconds for each case


@pytest.fixture(scope="module")
def set_(tmp_path_factory) -> Path:
    """Three studies, one of which is no image, and what came of them."""
    home = tmp_path_factory.mktemp("home")
    for n, name in enumerate(("a/flair.nii.gz", "b/flair.nrrd", "c/t1.nii.gz")):
        write(home / "set" / name, n)
    (home / "set/b/flair.nrrd").write_bytes(b"not an image")
    listed = worklist(home / "set", home / "out")
    listed.start()
    until(listed, ended)
    listed.cancel()
    return home


def runs(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "runs").iterdir())


def pidOf(listed: Worklist) -> int:
    return listed._process._popen.pid


def test_a_damaged_report_is_no_result(tmp_path: Path) -> None:
    stored = ROOT / "tests/stored/cohort/finished/cases/0001-0/report.json"
    right = json.loads(stored.read_text(encoding="utf-8"))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(right))
    known = reported(tmp_path)
    assert known is not None
    assert known.state == "done" and known.findings == len(right["methods"]["tonno"]["components"])
    method = right["methods"]["tonno"]
    for change in (
        {"methods": {}}, {"methods": []}, {"methods": {"tonno": 3}}, {"methods": {"tonno": method | {"components": 2}}},
        {"methods": {"tonno": method | {"peak": None}}}, {"score": "high"}, {"score": float("nan")}, {"class": None},
        {"frame_to_ras": [[1.0]]}, {"profiles": [{"axis": "Z"}]}, {"settings": {}}, {"region": {"zoom": True}},
    ):  # fmt: skip
        path.write_text(json.dumps(right | change))
        assert reported(tmp_path) is None, change
    for text in ("[" * 100_000, "[]", "{", '{"a": 1}'):
        path.write_text(text)
        assert reported(tmp_path) is None


def test_a_damaged_run_is_left_out(tmp_path: Path) -> None:
    for number, volumes in enumerate((["/a.nii"], 3, "/a.nii", [None], {"/a.nii": 1}), start=1):
        folder = tmp_path / "runs" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"key": "k", "volumes": volumes}))
    assert [run.volumes for run in runsOf(tmp_path, "k")] == [("/a.nii",)]


def test_a_folder_is_done_and_what_fails_stops_no_other(set_: Path) -> None:
    state = worklist(set_ / "set", set_ / "out").poll()  # as it was seen last, without a process
    assert state.step == IDLE and states(state) == ["done", "failed", "done"]
    assert [case.name for case in state.cases] == ["a/flair", "b/flair", "c/t1"]
    first, failed, last = state.cases
    assert "flair.nrrd" in failed.error and failed.folder == "" and failed.findings is None
    for case in (first, last):
        report = json.loads((Path(case.folder) / "report.json").read_text())
        assert report["source"] == case.source == source_of(Path(case.volume))
        assert case.score == report["score"]
        assert case.findings == len(report["methods"]["tonno"]["components"]) > 0
        heatmap = read_volume(Path(case.folder) / "heatmap-tonno.nrrd")
        np.testing.assert_allclose(heatmap.ijk_to_ras, read_volume(case.volume).ijk_to_ras)


@pytest.mark.slow
def test_what_is_not_done_yet_is_done_and_nothing_else(tmp_path) -> None:
    """Failed ones, new ones, and those whose file was written to: another patient's scan at the same place."""
    for n, name in enumerate("abc"):
        write(tmp_path / f"set/{name}.nii.gz", n)
    (tmp_path / "set/b.nii.gz").write_bytes(b"not an image")
    listed = worklist(tmp_path / "set", tmp_path / "out")
    listed.start()
    before = until(listed, ended)
    assert states(before) == ["done", "failed", "done"]
    files = {file: file.read_bytes() for file in (tmp_path / "out/runs").rglob("report.json")}
    for name, seed in (("b", 5), ("c", 6), ("d", 7)):
        write(tmp_path / f"set/{name}.nii.gz", seed)
    assert [case.state for case in known(listed)] == ["done", "failed", "waiting", "waiting"]
    listed.start()
    state = until(listed, ended)
    assert (state.step, state.error) == (ENDED, "") and states(state) == ["done"] * 4
    assert (tmp_path / "out/runs/0002/list.csv").read_text().split()[1:] == [
        str(tmp_path / f"set/{name}.nii.gz") for name in "bcd"
    ]
    assert state.cases[0] == before.cases[0]
    assert state.cases[2].folder != before.cases[2].folder and state.cases[2].source != before.cases[2].source
    assert all(file.read_bytes() == content for file, content in files.items())  # with what was saved beside them
    listed.start()  # there is nothing left to do
    assert until(listed, ended).cases == state.cases and runs(tmp_path / "out") == ["0001", "0002"]


def test_other_arguments_are_another_list_and_back_again(set_: Path) -> None:
    other = worklist(set_ / "set", set_ / "out", QUICK | {"slices": 10})
    assert other.poll().cases == ()
    assert [case.state for case in known(other)] == ["waiting"] * 3
    again = worklist(set_ / "set", set_ / "out")
    assert [case.state for case in known(again)] == ["done", "failed", "done"]


@pytest.mark.slow
def test_cancelled_in_the_middle_it_goes_on_where_it_was(tmp_path) -> None:
    for n in range(3):
        write(tmp_path / f"set/{n}.nii.gz", n, shape=(40, 40, 40))
    listed = worklist(tmp_path / "set", tmp_path / "out", SLOW)
    listed.start()
    assert listed.poll().step == FINDING
    shares = []

    def second(state) -> bool:
        shares.append((states(state), state.share))
        return states(state)[:2] == ["done", "running"]

    until(listed, second)
    assert any(share and 0 < share < 1 for _states, share in shares)
    pid = pidOf(listed)
    if hasattr(os, "getpriority"):
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 10
    began = time.monotonic()
    listed.cancel()
    assert time.monotonic() - began < 0.5
    assert hasEnded(pid)
    state = listed.poll()
    assert (state.step, states(state)) == (IDLE, ["done", "waiting", "waiting"])
    report = Path(state.cases[0].folder) / "report.json"
    before = report.read_bytes()

    # What a process leaves that was killed while it wrote.
    (tmp_path / "out/runs/0001/results/cases/.tonno-partial-x").mkdir()
    again = worklist(tmp_path / "set", tmp_path / "out", SLOW)  # as after Slicer was started anew
    assert states(again.poll()) == ["done", "waiting", "waiting"]
    again.start()
    state = until(again, ended)
    assert states(state) == ["done"] * 3
    assert report.read_bytes() == before and Path(state.cases[0].folder) == report.parent
    assert not list((tmp_path / "out").rglob(".tonno-partial-*"))


CRASHING = """
import os, runpy, sys
import tonno_core.commands.cohort as workflow
read = workflow.read_volume
def crashing(path, **options):
    if "crash" in str(path):
        print("Fatal: the driver is gone", file=sys.stderr, flush=True)
        os._exit(9)
    return read(path, **options)
workflow.read_volume = crashing
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_study_at_which_the_engine_dies_does_not_stop_the_night(tmp_path) -> None:
    for n, name in enumerate(("a", "b-crash", "c", "d-crash", "e")):
        write(tmp_path / f"set/{name}.nii.gz", n)
    listed = worklist(tmp_path / "set", tmp_path / "out", command=(sys.executable, "-c", CRASHING))
    listed.start()
    state = until(listed, ended)
    assert (state.step, state.error) == (ENDED, "")
    assert states(state) == ["done", "failed", "done", "failed", "done"]
    assert state.cases[1].error == "the engine ended with exit code 9: Fatal: the driver is gone"
    # Each time once with the others and once alone: the study before is in work while one is read.
    assert len(runs(tmp_path / "out")) >= 5
    assert known(listed) == state.cases  # the files say the same


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import sys; sys.exit('No module named torch')", "No module named torch"),
        ("import sys; sys.exit(7)", "The process ended with exit code 7."),
    ],
)
def test_a_process_that_cannot_start_ends_the_list_with_its_last_line(tmp_path, code: str, error: str) -> None:
    write(tmp_path / "set/a.nii.gz", 0)
    listed = worklist(tmp_path / "set", tmp_path / "out", command=(sys.executable, "-c", code))
    listed.start()
    state = until(listed, ended)
    assert (state.step, state.error) == (ENDED, error)
    listed = worklist(tmp_path / "set", tmp_path / "out", command=(str(tmp_path / "no-python"), "-m"))
    listed.start()
    assert "cannot be started" in listed.poll().error


def test_what_stops_all_is_told_once(tmp_path) -> None:
    """Such as a model that is no model."""
    write(tmp_path / "set/a.nii.gz", 0)
    listed = Worklist(tmp_path / "set", tmp_path / "out", COMMAND, CHANGES, str(tmp_path / "no-model"))
    listed.start()
    state = until(listed, ended)
    assert (state.step, states(state)) == (ENDED, ["waiting"])
    assert "no-model" in state.error and not state.error.startswith("tonno:")


@pytest.mark.slow
def test_it_ends_with_the_application(tmp_path) -> None:
    """Also where that is killed: nobody would take what comes."""
    write(tmp_path / "set/a.nii.gz", 0, shape=(40, 40, 40))
    code = f"""
import sys, time
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ToNNOSlicer")!r}, {str(Path(__file__).parent)!r}]
from slicer_host import provide_i18n
provide_i18n()
from studies_on_disk import worklist, until
from pathlib import Path
listed = worklist(Path({str(tmp_path / "set")!r}), Path({str(tmp_path / "out")!r}), {SLOW | {"directions": 40_000}!r})
listed.start()
until(listed, lambda state: state.share)
print(listed._process._popen.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as owner:
        pid = int(owner.stdout.readline())
        assert not hasEnded(pid, 0.2)
        owner.send_signal(signal.SIGKILL)
        assert hasEnded(pid)


@pytest.mark.slow
def test_two_at_once_do_not_work_in_one_folder(tmp_path) -> None:
    write(tmp_path / "set/a.nii.gz", 0, shape=(40, 40, 40))
    first, second = (worklist(tmp_path / "set", tmp_path / "out", SLOW | {"directions": 40_000}) for _n in (1, 2))
    first.start()
    until(first, lambda state: state.step == WORKING and (state.share or 0) > 0)
    second.start()
    assert "another process works on this list" in until(second, ended).error
    first.cancel()
    second.start()
    assert until(second, lambda state: state.step == WORKING).error == ""
    second.cancel()


def test_results_need_a_folder_of_their_own(tmp_path) -> None:
    listed = worklist(tmp_path, tmp_path)
    listed.start()
    assert "a folder of their own" in listed.poll().error
    assert not any(tmp_path.iterdir())  # a refusal leaves nothing among the studies
    listed = worklist(tmp_path / "none", tmp_path / "out")
    listed.start()
    assert "no such folder" in until(listed, ended).error


@pytest.mark.parametrize(
    ("file", "said"),
    [("readme.txt", "no image file and no DICOM series"), ("mask.nii", "as masks"), ("worklist.json", "the results")],
)
def test_a_folder_without_studies_says_so(file: str, said: str, tmp_path) -> None:
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / file).write_bytes(b"content")
    listed = worklist(tmp_path / "studies", tmp_path / "out")
    listed.start()
    assert said in until(listed, ended).error


# --- the studies


def found(place: Path, output: Path) -> list[tuple[str, str]]:
    studies, _notes = findStudies(place, output)
    return [(study.name, os.path.relpath(study.volume, place)) for study in studies]


def test_images_are_found_and_results_are_not(tmp_path) -> None:
    for name in ("b/x.nii.gz", "a.nrrd", "a-seg.seg.nrrd", ".hidden/y.nii", "b/._x.nii.gz", "b/heatmap-tonno.nii.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"1")
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("out/z.nii", "old/z.nii", "old/worklist.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert found(tmp_path, tmp_path / "out") == [("a", "a.nrrd"), ("b/x", "b/x.nii.gz")]
    (tmp_path / "b/link.nii.gz").symlink_to(tmp_path / "b/x.nii.gz")
    studies, notes = findStudies(tmp_path, tmp_path / "out")
    assert len(studies) == 2 and "the same as" in notes[0]


def test_masks_by_name_are_no_studies_and_that_is_said(tmp_path) -> None:
    masks = ("labelsTr/p1.nii.gz", "p2/p2_seg.nii.gz", "p2/p2-Mask.nrrd", "p3/segmentations/a.nii.gz", "p4/labels.mha")
    images = ("imagesTr/p1.nii.gz", "p2/p2_t1.nii.gz", "p3/ct.nii.gz", "p4/unmasked.mha", "p4/segment.mha")
    for name in (*masks, *images):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    assert sorted(path for _name, path in found(tmp_path, tmp_path / "out")) == sorted(images)
    notes = findStudies(tmp_path, tmp_path / "out")[1]
    assert notes[1] == f"{tmp_path / 'p2'}: 2 left out by name as masks, such as p2-Mask.nrrd; a list can have them"
    assert len(notes) == 4


def test_a_list_names_its_volumes(tmp_path) -> None:
    write(tmp_path / "set/x.nii.gz", 0)
    write(tmp_path / "set/y, z.nii.gz", 1)
    (tmp_path / "list.csv").write_text('volume;patient\nset/x.nii.gz;P1\n"set/y, z.nii.gz";\n')
    assert found(tmp_path / "list.csv", tmp_path / "out") == [
        ("P1 x", "../set/x.nii.gz"),
        ("y, z", "../set/y, z.nii.gz"),
    ]
    (tmp_path / "list.csv").write_text("volume\nset/none.nii.gz\nset/x.nii.gz\n")
    studies, notes = findStudies(tmp_path / "list.csv", tmp_path / "out")
    assert [study.name for study in studies] == ["x"]  # what is missing stops no other, and is said
    hint = "(paths are relative to the manifest)"
    assert notes == [f"{tmp_path / 'list.csv'}, line 2: volume 'set/none.nii.gz' does not exist {hint}"]
    (tmp_path / "list.csv").write_text("volume\nset/none.nii.gz\n")
    with pytest.raises(TonnoError, match=r"line 2: volume 'set/none\.nii\.gz' does not exist"):
        findStudies(tmp_path / "list.csv", tmp_path / "out")
    with pytest.raises(TonnoError, match=r"expected a folder of studies, or a list"):
        findStudies(tmp_path / "set/x.nii.gz", tmp_path / "out")


def described(paths: list[Path], description: str, folder: Path) -> None:
    """Give a series' files a description and another folder."""
    import pydicom

    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        data = pydicom.dcmread(path)
        data.SeriesDescription = description
        data.save_as(folder / f"{description}-{path.name}")
        path.unlink()


def test_dicom_series_are_told_apart(tmp_path) -> None:
    """One series in a folder of its own; two and a single file in one."""
    tree, output, work = tmp_path / "tree", tmp_path / "out", tmp_path / "work"
    work.mkdir()
    described(writeSeries(work, False), "T1", tree / "p1/s1")
    described(writeSeries(work, True), "FLAIR", tree / "p2")
    described(writeSeries(work, False), "DWI", tree / "p2")
    described(writeSeries(work, False)[:1], "scout", tree / "p2")
    (tree / "p2/README").write_text("hello")
    studies, notes = findStudies(tree, output)
    assert sorted((s.name, s.modality, s.description) for s in studies) == [
        ("p1/s1 T1", "CT", "T1"), ("p2 DWI", "CT", "DWI"), ("p2 FLAIR", "CT", "FLAIR")
    ]  # fmt: skip
    assert Path(studies[0].volume) == tree / "p1/s1"
    assert notes == [f"{tree / 'p2'}: 1 DICOM series of a single file left out"]
    for study in studies[1:]:
        files = sorted(Path(study.volume).iterdir())
        assert [f.name.partition("-")[0] for f in files] == [study.description] * 14
        assert Path(study.volume).is_relative_to(output / "series")
        np.testing.assert_allclose(read_volume(study.volume).array.shape, (14, 18, 22))
    again, _notes = findStudies(tree, output)
    assert again == studies
    changed = next((tree / "p2").glob("DWI-000*"))
    os.utime(changed, (1, 1))
    later, _notes = findStudies(tree, output)
    assert [a.source == b.source for a, b in zip(later, studies, strict=True)] == [
        study.description != "DWI" for study in studies
    ]
    described(writeSeries(work, False)[:3], "T1", tree / "p1/s1")  # of another series: the folder has two now
    assert [s.name for s in findStudies(tree, output)[0]].count("p1/s1 T1") == 2


def test_copies_do_where_there_are_no_links(tmp_path, monkeypatch) -> None:
    def refuse(self, target):
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    work = tmp_path / "work"
    work.mkdir()
    for name in ("T1", "T2"):
        described(writeSeries(work, False), name, tmp_path / "tree")
    studies, _notes = findStudies(tmp_path / "tree", tmp_path / "out")
    assert len(studies) == 2
    kept = [file.stat().st_ino for study in studies for file in Path(study.volume).iterdir()]
    assert findStudies(tmp_path / "tree", tmp_path / "out")[0] == studies
    assert kept == [file.stat().st_ino for study in studies for file in Path(study.volume).iterdir()]


@pytest.mark.slow
def test_dicom_is_reconstructed_by_the_series(tmp_path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    for name in ("T1", "T2"):
        described(writeSeries(work, False), name, tmp_path / "tree")
    listed = worklist(tmp_path / "tree", tmp_path / "out")
    listed.start()
    state = until(listed, ended)
    assert states(state) == ["done", "done"]
    for case in state.cases:
        heatmap = read_volume(Path(case.folder) / "heatmap-tonno.nrrd")
        np.testing.assert_allclose(heatmap.ijk_to_ras, read_volume(case.volume).ijk_to_ras, atol=1e-6)


# --- small things


def test_arguments_are_those_of_the_command_line() -> None:
    options = {"slices": 48, "sigma_scale": None, "stage": "3+4"}
    assert arguments("matched-cam", "lesion", "fast", "cuda", 20.0, options) == (
        "--method", "matched-cam", "--class", "lesion", "--preset", "fast", "--device", "cuda",
        "--min-volume-mm3", "20.0", "--slices", "48", "--stage", "3+4",
    )  # fmt: skip
    assert arguments() == ("--device", "auto")
    # All components, also of a model that would leave out small ones.
    assert arguments(minMm3=0.0) == ("--device", "auto", "--min-volume-mm3", "0.0")


def test_the_bar_is_read_from_the_log(tmp_path) -> None:
    log = tmp_path / "log.txt"
    assert progress(log) == (-1.0, "")
    log.write_text("warning: x\n")
    assert progress(log) == (-1.0, "warning: x")
    log.write_text(
        "a\nreconstructing:   0%|          | 0.0/4 [00:00<?]\rreconstructing:  33%|###3 | 1.3/4 [00:46<01:34]"
    )
    assert progress(log) == (1.3, "a")


def test_the_next_unread_case_goes_round(tmp_path) -> None:
    listed = worklist(tmp_path, tmp_path / "out")
    kinds = ("done", "read", "failed", "done", "waiting")
    cases = tuple(Case(str(n), f"/{n}", "", state=kind) for n, kind in enumerate(kinds))
    listed._state = listed._state.__class__(cases=cases)
    assert listed.nextUnread() is cases[0]
    assert listed.nextUnread(cases[0]) is cases[3]
    assert listed.nextUnread(cases[3]) is cases[0]
    assert listed.nextUnread(cases[1]) is cases[3]
    listed._state = listed._state.__class__(cases=cases[1:3])
    assert listed.nextUnread(cases[1]) is None


def test_importing_it_loads_nothing_heavy() -> None:
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ToNNOSlicer")!r}, {str(Path(__file__).parent)!r}]
from slicer_host import provide_i18n
provide_i18n()
import ToNNOSlicerLib.worklist
print(sorted(set("torch SimpleITK scipy numpy qt tqdm tonno_core.cli".split()) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stdout and "SimpleITK" not in done.stdout and "tqdm" not in done.stdout
