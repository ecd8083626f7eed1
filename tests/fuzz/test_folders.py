"""Folders that a second run goes on in: whatever has become of a record, it is as it was, made anew, or refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.strategies import attempt, cases, changed_to, damaged, one_changed, text_of, without
from tonno_core.cohort.manifest import Listed, write_manifest
from tonno_core.commands import cohort_summary
from tonno_core.commands.cohort import CohortFolder
from tonno_core.commands.cohort_summary import Done, write_summary
from tonno_core.datasets.found import Item, Outcome, Prepared
from tonno_core.datasets.intensity import Statistics, choose_intensities
from tonno_core.datasets.work import PreparedFolder, split_cases
from tonno_core.evaluation.bootstrap import Estimate
from tonno_core.evaluation.sheet import Entry
from tonno_core.pictures.cuts import View
from tonno_core.pictures.tile import Tile, save_tile
from tonno_core.reproduction import table1
from tonno_core.segmentation.binarize import Component
from tonno_core.segmentation.threshold import NO_FINDINGS
from tonno_core.training.look import Job, Look, Watched

HALF = Prepared("volumes/0001-a-left.nii", "P1", 1, "volumes/m.nii", "", {"side": "left"}, (Statistics(0.0, 1.0, 2.0),))
PREPARED = {
    "fingerprint": "f", "item": "i", "source": "s", "files": ["a.nii"], "notes": ["odd"],
    "cases": [dataclasses.asdict(HALF), {**dataclasses.asdict(HALF), "volume": "/b.nii", "label": 0, "mask": ""}],
}  # fmt: skip
PREPARED = json.loads(json.dumps(PREPARED))


class OfAnyFiles(PreparedFolder):
    """Takes what is kept for that of the files as they are, so that all that follows is looked at."""

    def kept(self, content: bytes) -> Outcome | None:
        self.fingerprint = "f"
        self.cases.mkdir(parents=True, exist_ok=True)
        (self.cases / "0001-a.json").write_bytes(content)
        self.items = {"0001-a": Item(self.path / "a.nii", "P1", 1)}
        known = self.content_of_case("0001-a")
        assert not self.has("0001-a")  # made up, of other files
        outcome = self.outcome("0001-a")
        assert (outcome is None) == (known is None)
        return outcome


@cases(20)
@given(one_changed(PREPARED).map(text_of) | damaged(text_of(PREPARED)))
@example(text_of(PREPARED))
@example(text_of(without(PREPARED, "source")))
@example(text_of(changed_to(PREPARED, [], "cases")))
@example(text_of(without(PREPARED, "cases", 0, "columns")))
@example(text_of(changed_to(PREPARED, float("nan"), "cases", 0, "statistics", 0, "low")))
@example(text_of(changed_to(PREPARED, "2", "cases", 0, "label")))
@example(text_of(changed_to(PREPARED, "a\0b", "files", 0)))
@example(b"[" * 100_000)
def test_any_prepared_scan_is_as_it_was_or_prepared_again(folder: Path, content: bytes) -> None:
    outcome = OfAnyFiles(folder / "prepared").kept(content)
    if outcome is None:
        assert content != text_of(PREPARED)
        return
    manifest = attempt(lambda: split_cases(outcome.cases, folder / "manifest.csv", seed=0))
    if manifest is not None:
        columns: dict[str, list[str | Path]] = {"side": [case.columns.get("side", "") for case in outcome.cases]}
        write_manifest(manifest.path, manifest, columns)
        choose_intensities([case.statistics[:1] for case in outcome.cases], has_units=False)
        json.dumps(outcome.notes, allow_nan=False)


FOUND = Component(1, 8, 8.0, (0.0, 1.0, 2.0), 0.5, (1.0, 2.0, 3.0), 0.25, (2.0, 2.0, 2.0))
REPORT = {
    "run": "f", "model": {"encoder": "resnet10t"}, "class": "lesion", "intensity": "window:0:80", "score": 0.5,
    "warnings": ["odd"], "seconds": {"total": 1.5, "encoder": 1.0}, "source": "s", "content": "c", "profiles": [],
    "methods": {
        "tonno": {"threshold": 0.2, "threshold_source": "model", "volume_mm3": 8.0, "peak": 0.5,
                  "components": [dataclasses.asdict(FOUND)]},
        "center": {"threshold_source": NO_FINDINGS, "peak": 0.5, "components": []},
    },
}  # fmt: skip
REPORT = json.loads(json.dumps(REPORT))
VIEW = View(np.arange(4.0), np.arange(3.0), ("R", "L", "P", "A"))
PICTURE = np.arange(12.0).reshape(3, 4)


@pytest.fixture(scope="module")
def cohort(folder: Path) -> CohortFolder:
    """A cohort of a case whose planes are there."""
    run = CohortFolder(folder / "cohort")
    run.fingerprint, run.volumes = "f", {"0001-a": folder / "a.npy"}
    np.save(folder / "a.npy", PICTURE)
    (run.cases / "0001-a").mkdir(parents=True)
    both = {"tonno": PICTURE, "center": PICTURE}
    save_tile(run.cases / "0001-a" / "planes.npz", Tile("S 0", VIEW, PICTURE, None, both, both))
    return run


@cases(20)
@given(one_changed(REPORT).map(text_of) | damaged(text_of(REPORT)))
@example(text_of(REPORT))
@example(text_of(changed_to(REPORT, "identity", "model")))
@example(text_of(changed_to(REPORT, {}, "model")))
@example(text_of(without(REPORT, "score")))
@example(text_of(without(REPORT, "methods", "tonno", "threshold")))
@example(text_of(without(REPORT, "methods", "tonno", "components", 0, "peak_ras", 2)))
@example(text_of(changed_to(REPORT, {}, "methods")))
@example(text_of(changed_to(REPORT, "2", "methods", "tonno", "peak")))
@example(text_of(changed_to(REPORT, float("inf"), "seconds", "total")))
@example(text_of(changed_to(REPORT, [float("nan")], "profiles")))
@example(text_of(changed_to(REPORT, "bright", "intensity")))
@example(b"[" * 100_000)
def test_any_report_of_a_cohort_is_as_it_was_or_refused(cohort: CohortFolder, content: bytes) -> None:
    place = cohort.cases / "0001-a"
    (place / "report.json").write_bytes(content)
    attempt(lambda: cohort.has("0001-a"))
    (place / "report.json").write_bytes(content)
    known = attempt(lambda: cohort.content_of_case("0001-a"))
    report = attempt(lambda: cohort.report("0001-a"))
    assert (known is None) == (report is None)
    if report is None:
        assert content != text_of(REPORT)
        return
    listed = Listed(Path("a.nii"), "P1", "1", "test")
    drawn: list[Entry] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort_summary, "write_sheets", lambda folder, entries, **rest: drawn.extend(entries))
        done = [Done(place, listed, report), Done(place, listed, None, "no such file")]
        assert "1 of 2 cases" in write_summary(cohort.path, done).text
    assert len(drawn) == 1  # no case is left out of the sheet without a word


ROW = {
    "asked": {"steps": 3, "cases": "0"}, "steps": 3, "seconds": 1.5,
    "result": {
        "measures": {name: dataclasses.asdict(Estimate(0.5, 0.25, 0.75, 2, 2)) for name in ("f1", "peak_auc")} |
                    {"dice": None},
        "volume_auc": 0.5, "cases": 2, "patients": 2, "cases_with_truth": 1, "cases_without_finding": 1, "failures": 0,
    },
}  # fmt: skip
ROW = json.loads(json.dumps(ROW))


@cases(20)
@given(one_changed(ROW).map(text_of) | damaged(text_of(ROW)))
@example(text_of(ROW))
@example(text_of(changed_to(ROW, 3, "result")))
@example(text_of(without(ROW, "seconds")))
@example(text_of(without(ROW, "result", "measures", "f1", "low")))
@example(text_of(changed_to(ROW, None, "seconds")))
@example(text_of(changed_to(ROW, "2", "result", "measures", "f1", "value")))
@example(b"[" * 100_000)
def test_any_row_of_the_grid_is_as_it_was_or_refused(folder: Path, content: bytes) -> None:
    grid = table1.GridFolder(folder / "grid", {"steps": 3, "cases": "0"}, lambda run: False)
    grid.row("random").mkdir(parents=True, exist_ok=True)
    (grid.row("random") / "row.json").write_bytes(content)
    state = attempt(lambda: grid.load("random"))
    if state is not None:
        grid.write({"volumes": "2"})
    assert state is not None or content != text_of(ROW)


@cases(20)
@given(st.data())
def test_what_was_measured_is_as_it_was_or_measured_anew(folder: Path, data: st.DataObject) -> None:
    scan, kept, measured = folder / "scan", folder / "measured", {"0": [0.5, 0.25]}
    if not scan.exists():
        scan.write_bytes(b"0")
    shutil.rmtree(kept, ignore_errors=True)  # what is drawn depends on the file as it was written

    def measure(read: object, watched: Watched) -> dict[str, list[float]]:
        return measured

    look = Look("cpu", progress=False, kept=kept)
    job = Job(scan, {"label": 0}, np.ones(4), lambda: None, measure)
    assert list(look.measure([job])) == [measured]
    (file,) = kept.iterdir()
    right = file.read_bytes()
    file.write_bytes(data.draw(one_changed(json.loads(right)).map(text_of) | damaged(right)))
    assert list(look.measure([job])) == [measured]
    assert file.read_bytes() == right or json.loads(file.read_bytes())["measured"] == measured
