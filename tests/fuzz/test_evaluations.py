"""Folders of evaluations: whatever has become of a file in them, it is read as it was or refused in one line."""

from __future__ import annotations

import dataclasses
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.evaluation.records import finding, overlap, record
from tests.fuzz.strategies import attempt, cases, changed_to, damaged, one_changed, text_of, without
from tests.reproduction.test_table2 import ROWS, evaluated, write_evaluation
from tonno_core.cohort.cases import CasesFolder
from tonno_core.commands.cohort import CohortFolder
from tonno_core.evaluation.case import Task
from tonno_core.evaluation.folder import ResultsFolder
from tonno_core.evaluation.record import CaseRecord, Files, load_record
from tonno_core.evaluation.report import markdown, terminal_table
from tonno_core.evaluation.sheet import entry_of
from tonno_core.evaluation.summary import results_csv, summarize, summary_csv
from tonno_core.output import write_json
from tonno_core.pictures.cuts import View
from tonno_core.pictures.tile import Tile, load_tile, save_tile
from tonno_core.reproduction import table2
from tonno_core.settings import Variant

RECORD = json.loads(json.dumps(dataclasses.asdict(record(
    "a", {"tonno": dataclasses.replace(finding(0.5), overlap=overlap(0.5, max_iou=0.25)), "center": finding(0.25)},
    warnings=("odd",), files=Files("1", "2", "3"),
))))  # fmt: skip
UNKNOWN = json.loads(json.dumps(dataclasses.asdict(record("a", {"tonno": finding(None)}, truth=None))))
VARIANTS = {name: (Variant("tonno"), name == "tonno") for name in ("tonno", "center")}
SETTINGS = {"tonno": "1", "rows": {"tonno": {}}, "run": "f", "manifest": {"cases": 2, "sha256": "0"},
            "cases": {"0001-a": "a.nii", "0002-b": "b.nii"}}  # fmt: skip


def use(found: CaseRecord, rows: dict[str, Any]) -> None:
    """All that an evaluation makes of its records."""
    other = record("b", dict.fromkeys(rows, finding(0.25)), truth=1)
    negative = record("c", dict.fromkeys(rows, finding(1.0, peak=0.1)), truth=0)
    for group in ([found], [found, other, negative]):
        summary = summarize(group, rows, seed=0)
        json.dumps(dataclasses.asdict(summary), allow_nan=False)
        for text in (results_csv(group, rows), summary_csv(summary), markdown(summary, title="t", facts={})):
            text.encode()
        terminal_table(summary)
        entry_of(found, lambda: Tile("S 0", VIEW, PICTURE, None, {}, {}))


VIEW = View(np.arange(4.0), np.arange(3.0), ("R", "L", "P", "A"))
PICTURE = np.arange(12.0).reshape(3, 4)


@cases(60)
@given(st.one_of(one_changed(RECORD).map(text_of), one_changed(UNKNOWN).map(text_of), damaged(text_of(RECORD))))
@example(text_of(without(RECORD, "rows")))
@example(text_of(without(RECORD, "rows", "tonno")))
@example(text_of(without(RECORD, "rows", "tonno", "overlap", "ladder_f1", 0)))
@example(text_of(without(RECORD, "warnings")))
@example(text_of(changed_to(RECORD, None, "rows", "tonno", "overlap")))
@example(text_of(changed_to(RECORD, [], "rows", "tonno")))
@example(text_of(changed_to(RECORD, 10**400, "rows", "tonno", "peak")))
@example(text_of(changed_to(RECORD, float("nan"), "score")))
@example(text_of(changed_to(RECORD, 1e308, "rows", "tonno", "overlap", "dice")))
@example(text_of(changed_to(RECORD, "../b", "case")))
@example(text_of(changed_to(RECORD, "\ud800", "rows", "tonno", "threshold_source")))
@example(b"[" * 100_000)
def test_any_record_is_as_it_was_written_or_refused(folder: Path, content: bytes) -> None:
    (folder / "a.json").write_bytes(content)
    for rows in (VARIANTS, {"tonno": VARIANTS["tonno"]}):
        found = attempt(partial(load_record, folder / "a.json", "f", rows))
        if found is not None:
            use(found, rows)


@pytest.fixture(scope="module")
def tile_file(folder: Path) -> Path:
    save_tile(folder / "a.npz", Tile("S 0", VIEW, PICTURE, PICTURE / 11, {"tonno": PICTURE}, {"tonno": PICTURE / 11}))
    return folder / "a.npz"


@cases(40)
@given(st.data())
def test_any_planes_are_read_or_refused(folder: Path, tile_file: Path, data: st.DataObject) -> None:
    path = folder / "damaged.npz"
    if data.draw(st.booleans()):
        path.write_bytes(data.draw(damaged(tile_file.read_bytes())))
    else:
        with np.load(tile_file) as file:
            arrays = {name: file[name] for name in file.files}
        name = data.draw(st.sampled_from(sorted(arrays)))
        odd = [None, np.array("x"), np.zeros(0), np.zeros((2, 2)), np.array([1.0, np.nan]), np.array(["a", "b"])]
        changed = data.draw(st.sampled_from(odd))
        np.savez(path, **{key: value for key, value in ({**arrays, name: changed}).items() if value is not None})
    tile = attempt(lambda: load_tile(path))
    if tile is not None:
        assert tile.image.shape == (tile.view.v.size, tile.view.u.size) and tile.view.pixel_mm > 0
        assert tile.heatmaps.keys() == tile.masks.keys()


@cases(30)
@given(st.sampled_from(["settings.json", "summary.json", "results.csv", "cases/b.json"]), st.data())
def test_any_finished_evaluation_is_compared_or_refused(folder: Path, name: str, data: st.DataObject) -> None:
    place = folder / "evaluation"
    if not place.exists():
        write_evaluation(place, evaluated().records)
    right = (place / name).read_bytes()
    change = one_changed(json.loads(right)).map(text_of) if name.endswith(".json") else damaged(right)
    try:
        (place / name).write_bytes(data.draw(change))
        found = attempt(lambda: table2.read_evaluation(place))
        for baseline in ROWS if found else ():
            lines = attempt(partial(table2.compare, found, baseline=baseline, seed=0))
            if lines is not None:
                table2.write(folder, lines, found, baseline=baseline, seed=0)
    finally:
        (place / name).write_bytes(right)


@cases(40)
@given(st.sampled_from([ResultsFolder, CohortFolder]), one_changed(SETTINGS).map(text_of) | damaged(text_of(SETTINGS)))
@example(ResultsFolder, text_of(changed_to(SETTINGS, [1], "cases")))
@example(ResultsFolder, text_of(changed_to(SETTINGS, {"../../a": "a.nii"}, "cases")))
@example(ResultsFolder, text_of(changed_to(SETTINGS, {"x": "b.nii"}, "cases")))
@example(ResultsFolder, text_of(changed_to(without(SETTINGS, "cases"), "2", "manifest", "cases")))
@example(CohortFolder, text_of(changed_to(SETTINGS, 3, "run")))
@example(ResultsFolder, text_of(changed_to(SETTINGS, {"\n": None}, "rows")))
def test_a_folder_is_gone_on_in_or_refused(folder: Path, kind: type[CasesFolder], content: bytes) -> None:
    place = folder / "results"
    try:
        (place / "cases").mkdir(parents=True)
        (place / "settings.json").write_bytes(content)
        asked = {"tonno": "1", "rows": {"tonno": {}}}
        run, volumes = kind(place), [(1, folder / "a.nii"), (2, folder / "c.nii")]
        names = attempt(lambda: run.take_up(asked, [["a"], ["c"]], volumes, overwrite=False))
        if names is not None:
            assert len(set(names)) == 2 and all(Path(name).name == name for name in names)
            run.open(names, names)
            run.left_out(names)
    finally:
        shutil.rmtree(place)


@cases(20)
@given(one_changed({"fingerprint": "", "failed": "no such file"}).map(text_of))
@example(b"[]")
@example(b'{"fingerprint": ""}')
def test_any_reason_of_a_failure_is_one_line_or_none(folder: Path, content: bytes) -> None:
    run = ResultsFolder(folder / "failed")
    run.cases.mkdir(parents=True, exist_ok=True)
    (run.cases / "0001-a.failed").write_bytes(content)
    reason = run.reason("0001-a")
    assert reason is None or (reason and "\n" not in reason)


def test_a_damaged_record_stops_an_evaluation_in_one_line(tmp_path: Path) -> None:
    run = ResultsFolder(tmp_path)
    run.content, run.tasks = {"rows": {"tonno": {}}}, {"0001-a": Task("0001-a", tmp_path, 1, None, "p", None)}
    run.cases.mkdir()
    write_json(run.cases / "0001-a.json", {"fingerprint": ""})
    for action in (lambda: run.has("0001-a"), lambda: run.content_of_case("0001-a"), lambda: run.gather(["0001-a"])):
        with pytest.raises(Exception, match=r"0001-a\.json: not readable as a case's results \(.*\); delete it$"):
            action()
