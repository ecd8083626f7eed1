"""Files that a worker writes: the same as here, failures in words, and nothing left of what was canceled."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from scenes import THRESHOLD, addHeatmap, addVolume
from studies_on_disk import hasEnded
from test_logic_findings import RESULT
from ToNNOSlicerLib.engine import EngineClient
from ToNNOSlicerLib.exports import writer
from ToNNOSlicerLib.logic import ToNNOUserError
from ToNNOSlicerLib.logic.export import SlowWriter, writeHere
from ToNNOSlicerLib.logic.report import reportSteps

from tonno_core.errors import TonnoError
from tonno_core.pictures.drawing import Scene
from tonno_core.protocol import encode
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume
from tonno_core.worker.exports import Export, Picture

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


@pytest.fixture
def export() -> Export:
    heatmap = np.random.default_rng(0).normal(size=(6, 7, 8)).astype(np.float32)
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    lines = (((2.0, 4.0, 6.0), (5.0, 4.0, 6.0)),)
    mask = (heatmap > 1).astype(np.uint8)
    return Export(
        volume=Volume(heatmap, matrix),
        volume_file="h.nrrd",
        scene=Scene(Volume(100 * heatmap, matrix), Volume(heatmap, matrix), mask, 1.0, (-150.0, 200.0)),
        pictures=(Picture("a.png", (3.0, 4.0, 6.0), lines),),
        profiles=(Profile("R", np.arange(5.0), np.arange(5.0) ** 2),),
        profiles_file="p.png",
        marks=(("1", (3.0, 4.0, 6.0)),),
    )


def worker(*code: str, place: Path | None = None) -> SlowWriter:
    """A writer by a real worker, or by a program in its place."""
    command = [sys.executable, "-c", *code] if code else [sys.executable, "-m", "tonno_core.worker"]
    return writer(EngineClient(command, ENVIRONMENT, temporaryPath=place))


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """Where temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def drain(steps, seconds: float = 60.0) -> list[float]:
    """Ask as the timer would, and return the shares."""
    shares, end = [], time.monotonic() + seconds
    for share in steps:
        assert time.monotonic() < end, "the process does not end"
        shares.append(share)
        time.sleep(0.01)
    return shares


def test_the_process_writes_what_would_be_written_here(export, tmp_path, temporary) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    assert list(writeHere(export, here)) == pytest.approx([1 / 3, 2 / 3, 1.0])
    shares = drain(worker()(export, there))
    assert shares[0] == 0.0 and shares == sorted(shares)
    assert sorted(file.name for file in there.iterdir()) == ["a.png", "h.nrrd", "p.png"]
    for name in export.files:
        assert (there / name).read_bytes() == (here / name).read_bytes()
    assert not any(temporary.iterdir())


def test_what_waits_for_the_process_lies_where_the_user_wants_it(export, tmp_path, temporary) -> None:
    chosen, place = tmp_path / "chosen by the user", tmp_path / "place"
    chosen.mkdir()
    place.mkdir()
    steps = worker(place=chosen)(export, place)
    next(steps)
    (folder,) = chosen.iterdir()
    assert os.name == "nt" or folder.stat().st_mode & 0o077 == 0  # pixels of a patient are nobody else's
    drain(steps)
    assert not any(chosen.iterdir()) and not any(temporary.iterdir())


def test_a_refusal_is_told_with_what_to_do(export, tmp_path, temporary) -> None:
    with pytest.raises(ToNNOUserError, match="cannot be written") as error:
        drain(worker()(export, tmp_path / "missing"))
    assert error.value.nextStep == "Check the folder and the space on the disk, or choose another place."
    assert not any(temporary.iterdir())


class Refusing:
    """A client whose worker answers with an error."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._folder, self._kind, self.closed = folder, kind, False

    def newFolder(self) -> Path:
        return self._folder

    def submit(self, kind: str, **fields) -> int:
        encode(kind, 1, **fields)
        return 1

    def poll(self) -> list[dict]:
        return [{"type": "error", "kind": self._kind, "message": "Unable to allocate 2 GiB"}]

    def close(self, _patience: float) -> None:
        self.closed = True


@pytest.mark.parametrize(
    ("kind", "cause", "nextStep"),
    [
        ("out-of-memory", "not enough memory to write the files", "Close other programs, then export again."),
        ("disk-full", "The disk that the files go to is full", "Free some space, or choose another place."),
    ],
)
def test_what_the_machine_lacks_is_told_without_a_word_of_packages(export, tmp_path, kind, cause, nextStep) -> None:
    client = Refusing(tmp_path, kind)
    with pytest.raises(ToNNOUserError, match=cause) as error:
        drain(writer(client)(export, tmp_path))
    assert error.value.nextStep == nextStep
    assert client.closed


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_a_folder_whose_name_is_no_text_is_refused_in_words(export, tmp_path) -> None:
    with pytest.raises(TonnoError, match="this name is not UTF-8; rename it"):
        drain(writer(Refusing(tmp_path, "user"))(export, tmp_path / "M\udcfcller"))


def test_a_process_that_dies_is_told_with_its_last_line(export, tmp_path, temporary) -> None:
    dies = "import sys; sys.exit('No module named matplotlib')"
    with pytest.raises(ToNNOUserError, match="exit code 1: No module named matplotlib") as error:
        drain(worker(dies)(export, tmp_path))
    assert "another Python" in error.value.nextStep
    assert not any(temporary.iterdir())


def test_closing_ends_the_process_and_its_child(export, tmp_path, temporary) -> None:
    """As PythonSlicer does it: what was started only starts another."""
    pids = tmp_path / "pids"
    child = "import time; time.sleep(100)"
    code = f"import os, subprocess, sys; p = subprocess.Popen([sys.executable, '-c', '{child}']);"
    code += f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{p.pid}}'); p.wait()"
    steps = worker(code)(export, tmp_path)
    end = time.monotonic() + 20
    while not (pids.exists() and pids.read_text()) and time.monotonic() < end:
        next(steps)
        time.sleep(0.01)
    steps.close()
    for pid in map(int, pids.read_text().split()):
        assert hasEnded(pid)
    assert not any(temporary.iterdir())


def test_no_node_is_read_after_the_first_steps(host, logic, tmp_path) -> None:
    """The scene may change while the files are written: they are of the moment of the click."""
    import slicer.util

    volume = addVolume()
    heatmap = addHeatmap(logic, volume, result=RESULT)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    given = []

    def write(export, place):
        given.append(export)
        before = export.scene.heatmap.array.copy(), export.scene.image.array.copy()
        slicer.util.arrayFromVolume(heatmap)[:] = 0
        slicer.util.arrayFromVolume(volume)[:] = 0
        host.scene.Clear(0)
        np.testing.assert_array_equal(export.scene.heatmap.array, before[0])
        np.testing.assert_array_equal(export.scene.image.array, before[1])
        yield from writeHere(export, place)

    shares = list(reportSteps(tmp_path / "report.html", heatmap, segmentation, segmentId, write))
    assert shares[-1] == 1.0 and (tmp_path / "report.html").exists()
    assert len(given[0].pictures) == 2


def test_a_report_that_is_closed_leaves_nothing(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=RESULT)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    for stop in range(1, 7):
        steps = reportSteps(tmp_path / "report.html", heatmap, segmentation, segmentId, writeHere)
        for _n in range(stop):
            next(steps)
        steps.close()
        assert not any(tmp_path.iterdir()), stop
