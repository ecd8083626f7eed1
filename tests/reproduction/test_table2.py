"""Table 2 of made-up records: values, differences case by case, and what it says where something is not known."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation.records import finding, overlap, record
from tonno_core.errors import TonnoError
from tonno_core.evaluation.record import CaseRecord, save_record
from tonno_core.evaluation.summary import results_csv
from tonno_core.reproduction.table2 import Evaluated, compare, markdown, read_evaluation, table, write
from tonno_core.settings import Variant

ROWS = {"tonno": {"best": True}, "matched-cam@3": {"best": False}, "slicewise-cam": {"best": True}}
DICE = {"tonno": (0.5, 0.7, 1.0, 0.0), "matched-cam@3": (0.1, 0.2, 1.0, 1.0), "slicewise-cam": (0.3, 0.3, 0.0, 1.0)}
PEAKS = {"tonno": (3.0, 2.0, 0.1, 0.2), "matched-cam@3": (3.0, 0.5, 0.1, 0.2), "slicewise-cam": (3.0, 0.5, 1.2, 0.2)}


def rows_of(case: int, *, known: bool = True, max_iou: float | None = 0.25) -> dict[str, Any]:
    found = {}
    for name, dice in DICE.items():
        made = finding(dice[case] if known else None, peak=PEAKS[name][case])
        found[name] = replace(made, overlap=overlap(dice[case], max_iou=max_iou)) if known else made
    return found


def evaluated(**changes: Any) -> Evaluated:
    """Two patients with a finding, two without."""
    records = [record(name, rows_of(n, **changes), truth=int(n < 2)) for n, name in enumerate("abcd")]
    return Evaluated(tuple(records), {"rows": ROWS}, {})


def test_differences_are_to_layercam_and_of_the_cases_with_something_to_find() -> None:
    layercam, tonno = compare(evaluated(), baseline="slicewise-cam", seed=0)
    assert (layercam.row, tonno.row) == ("slicewise-cam", "tonno")  # the paper's order
    assert (layercam.title, layercam.differences) == ("LayerCAM, slice by slice", {})
    for measure in ("dice", "f1", "precision", "recall"):
        value, difference = tonno.values[measure], tonno.differences[measure]
        assert value is not None
        assert difference is not None
        assert (value.value, value.cases) == (pytest.approx(0.6), 2)
        # 0.5 - 0.3 and 0.7 - 0.3: a resample has one of them twice, or both.
        found = (difference.value, difference.low, difference.high)
        assert found == (pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4))
    accuracy, gain = tonno.values["balanced_accuracy"], tonno.differences["balanced_accuracy"]
    assert accuracy is not None
    assert gain is not None
    assert (accuracy.value, gain.value) == (1.0, 0.5)  # LayerCAM finds one of two, and calls one of two negatives


def test_rows_are_named_by_the_kind_of_map() -> None:
    of_scorecam = Evaluated(evaluated().records, {"rows": ROWS, "settings": {"cam": "scorecam"}}, {})
    titles = [line.title for line in compare(of_scorecam, baseline="slicewise-cam", seed=0)]
    assert titles == ["ScoreCAM, slice by slice", "ToNNO"]


def test_any_row_can_be_the_baseline() -> None:
    lines = compare(evaluated(), baseline="matched-cam@3", seed=0)
    assert [line.row for line in lines] == ["matched-cam@3", "slicewise-cam", "tonno"]
    difference = lines[2].differences["dice"]
    assert difference is not None
    assert difference.value == pytest.approx(0.45)
    with pytest.raises(TonnoError, match=r"^`baseline` center: the evaluation has no such row; it has tonno, matched"):
        compare(evaluated(), baseline="center", seed=0)


def test_what_an_earlier_build_did_not_measure_is_left_out() -> None:
    lines = compare(evaluated(max_iou=None), baseline="slicewise-cam", seed=0)
    assert lines[1].values["max_iou"] is lines[1].differences["max_iou"] is None
    assert "| MaxIoU" not in markdown(lines, evaluated(max_iou=None), baseline="slicewise-cam")
    lines = compare(evaluated(), baseline="slicewise-cam", seed=0)
    assert "MaxIoU" in markdown(lines, evaluated(), baseline="slicewise-cam").split("Definitions")[0]


def test_without_masks_balanced_accuracy_is_left() -> None:
    records = [record("a", rows_of(0, known=False), truth=None), record("c", rows_of(2), truth=0)]
    found = Evaluated(tuple(records), {"rows": ROWS}, {"b": "damaged"})
    lines = compare(found, baseline="slicewise-cam", seed=0)
    assert lines[1].values["dice"] is None
    assert lines[1].values["balanced_accuracy"] is not None
    text = markdown(lines, found, baseline="slicewise-cam")
    assert "2 volumes of 2 patients, 0 with something to find, 1 positive without a mask" in text
    assert "- b: damaged" in text


def test_files_hold_the_same_numbers(tmp_path: Path) -> None:
    found = evaluated()
    lines = compare(found, baseline="slicewise-cam", seed=0)
    write(tmp_path, lines, found, baseline="slicewise-cam", seed=0)
    with (tmp_path / "table2.csv").open() as file:
        by_row = {line["row"]: line for line in csv.DictReader(file)}
    assert float(by_row["tonno"]["dice_difference"]) == pytest.approx(0.3)
    assert by_row["tonno"]["threshold_source"] == "the model's own"
    assert by_row["slicewise-cam"]["dice_difference"] == ""
    assert (by_row["tonno"]["volumes"], by_row["tonno"]["patients"]) == ("2", "2")
    content = json.loads((tmp_path / "table2.json").read_text())
    assert content["rows"][1]["differences"]["dice"]["high"] == pytest.approx(0.4)
    assert "0.600 (+0.300)" in (tmp_path / "table2.md").read_text()
    assert "+0.300 (+0.200 to +0.400)" in (tmp_path / "table2.md").read_text()


def test_it_says_which_rows_are_not_at_a_threshold_of_the_model() -> None:
    of_model = evaluated()
    records = tuple(
        replace(each, rows={**each.rows, "tonno": replace(each.rows["tonno"], threshold_source="otsu, as none")})
        for each in of_model.records
    )
    found = replace(of_model, records=records)
    lines = compare(found, baseline="slicewise-cam", seed=0)
    for text in (markdown(lines, found, baseline="slicewise-cam").split("Definitions")[0], table(lines, found)):
        assert "- threshold the model's own: LayerCAM, slice by slice\n- threshold otsu, as none: ToNNO\n" in text
    whole = markdown(lines, found, baseline="slicewise-cam")
    assert "## With one factor on the thresholds, tuned on these masks" in whole  # Otsu's have no threshold in common
    assert "one threshold" not in whole.lower() and "Otsu's stays each\n  volume's own, times the factor" in whole


# -------------------- the folder of an evaluation


def write_evaluation(folder: Path, records: tuple[CaseRecord, ...]) -> Path:
    (folder / "cases").mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"rows": ROWS, "run": "f", "cases": {}}))
    (folder / "summary.json").write_text(json.dumps({"failures": {"z": "damaged"}}))
    (folder / "results.csv").write_text(results_csv(records, {name: (Variant("tonno"), True) for name in ROWS}))
    for each in records:
        save_record(folder / "cases" / f"{each.case}.json", each)
    return folder


def test_an_evaluation_is_read_back(tmp_path: Path) -> None:
    records = evaluated().records
    found = read_evaluation(write_evaluation(tmp_path / "e", records))
    assert found.records == records
    assert found.failures == {"z": "damaged"}


def test_a_folder_of_something_else_and_a_case_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="it holds nothing, expected a manifest"):
        read_evaluation(tmp_path)
    folder = write_evaluation(tmp_path / "e", evaluated().records)
    (folder / "cases" / "b.json").unlink()
    with pytest.raises(TonnoError, match=r"the case b is in results\.csv, but not in cases/"):
        read_evaluation(folder)
