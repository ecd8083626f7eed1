"""Tables of publishers: where the names of columns are, and what a cell says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tonno_core.datasets.table import find_table, read_table
from tonno_core.errors import TonnoError


def table(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_names_below_a_title_beside_an_index_and_with_signs_that_show_nothing(tmp_path: Path, separator: str) -> None:
    lines = ["\ufeffTable S1,,", ",patient id , Start Row", "0,A,3", ",,", "1,B,4,surplus", "2,C"]
    path = table(tmp_path / "a.csv", "\r\n".join(lines).replace(",", separator))
    assert list(read_table(path, ("Patient ID", "Start Row"))) == [
        {"Patient ID": "A", "Start Row": "3"},
        {"Patient ID": "B", "Start Row": "4"},
        {"Patient ID": "C", "Start Row": ""},
    ]


def test_a_spreadsheets_numbers_are_as_a_person_sees_them(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Title"], ["Patient ID", "Start Row", "Note"], ["A", 3.0, 0.5], [None, None, "total"], ["B", 4, None]):
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    assert list(read_table(tmp_path / "a.xlsx", ("Patient ID", "Start Row"))) == [
        {"Patient ID": "A", "Start Row": "3", "note": "0.5"},
        {"Patient ID": "B", "Start Row": "4", "note": ""},
    ]
    (tmp_path / "b.xlsx").write_bytes((tmp_path / "a.xlsx").read_bytes()[:2000])
    with pytest.raises(TonnoError, match=r"b\.xlsx: not readable as a spreadsheet .*; download it again"):
        list(read_table(tmp_path / "b.xlsx", ("Patient ID",)))


def test_a_csv_comes_before_a_spreadsheet_and_the_case_of_letters_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "Boxes.xlsx").touch()
    assert find_table([tmp_path, tmp_path / "sub"], "boxes") == tmp_path / "Boxes.xlsx"
    (tmp_path / "sub" / "BOXES.csv").touch()
    assert find_table([tmp_path, tmp_path / "sub"], "boxes") == tmp_path / "sub" / "BOXES.csv"
    assert find_table([tmp_path], "files") is None


def test_what_is_no_table_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"Patient ID\n\xff\xfe\n")
    with pytest.raises(TonnoError, match=r"a\.csv: not readable as a table .*; save it as CSV UTF-8"):
        list(read_table(tmp_path / "a.csv", ("Patient ID",)))
    with pytest.raises(TonnoError, match="no column Patient ID; found nothing, expected Patient ID"):
        list(read_table(table(tmp_path / "b.csv", ""), ("Patient ID",)))
    with pytest.raises(TonnoError, match=r"no such table; expected \.csv, \.tsv, \.xlsx"):
        list(read_table(tmp_path / "c.csv", ("Patient ID",)))
