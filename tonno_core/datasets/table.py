"""Tables that publishers give with their images: CSV, TSV, or a spreadsheet (.xlsx)."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from tonno_core.errors import TonnoError, first_line
from tonno_core.progress import progress_bar
from tonno_core.words import visible

_ADVICE = "take the file as its publisher gives it, or name the columns so"
ENDINGS = (".csv", ".tsv", ".xlsx")
_HEAD_ROWS = 5  # among which the names of columns are: some tables have a title, or a group of columns, above them
_SHOWN = 12


def find_table(folders: Sequence[Path], stem: str) -> Path | None:
    """Find a table by its name without the ending, CSV before a spreadsheet.

    Args:
        folders: Where to look, not below them.
        stem: Of the file, in any case of its letters.

    Returns:
        The file; None where there is none.
    """
    for ending in ENDINGS:
        for folder in folders:
            for file in sorted(folder.glob(f"*{ending}")):
                if file.name.casefold() == f"{stem}{ending}".casefold():
                    return file
    return None


def read_table(
    path: Path, needed: Sequence[str], *, advice: str = _ADVICE, progress: bool = False
) -> Iterator[dict[str, str]]:
    """Read the rows of a table below the first row that names all columns that are needed.

    Args:
        path: The file.
        needed: Names of columns, in any case of their letters.
        advice: What to do where one is lacking.
        progress: Whether to show a bar, which a large spreadsheet needs.

    Yields:
        Texts by column: the needed ones as they are asked for, all others in lower case; rows whose needed cells are
        all empty are passed over. Of two columns of one name the first counts.

    Raises:
        TonnoError: The file cannot be read, or lacks a column.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such table; expected {', '.join(ENDINGS)}")
    rows = _spreadsheet(path) if path.suffix.lower() == ".xlsx" else _text(path)
    head = list(islice(rows, _HEAD_ROWS))
    wanted = {name.casefold(): name for name in needed}
    number = next((index for index, row in enumerate(head) if wanted.keys() <= {_key(cell) for cell in row}), None)
    if number is None:
        widest = max(head, key=lambda row: sum(map(bool, row)), default=[])
        found = [cell for cell in widest if cell]
        missing = [name for key, name in wanted.items() if key not in {_key(cell) for cell in widest}]
        shown = ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        raise TonnoError(
            f"{path}: no column {' and '.join(missing or needed)}; found {shown or 'nothing'}, expected "
            f"{', '.join(needed)}; {advice}"
        )
    columns: dict[str, int] = {}
    for index, cell in enumerate(head[number]):
        if _key(cell):
            columns.setdefault(wanted.get(_key(cell), _key(cell)), index)
    body = progress_bar(desc=f"reading {path.name}", unit="row", disable=not progress, delay=2)
    with body:
        for row in chain(head[number + 1 :], rows):
            body.update(1)
            if _is_filled(row, columns, needed):
                yield _cells(row, columns)


def _key(cell: str) -> str:
    return visible(cell).casefold()


def _is_filled(row: Sequence[str], columns: dict[str, int], needed: Sequence[str]) -> bool:
    return any(columns[name] < len(row) and row[columns[name]] for name in needed)


def _cells(row: Sequence[str], columns: dict[str, int]) -> dict[str, str]:
    return {name: row[index] if index < len(row) else "" for name, index in columns.items()}


def _text(path: Path) -> Iterator[list[str]]:
    """Read the rows of a CSV or TSV; the first line tells which sign separates them."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max("\t;,", key=first.count)
            for row in csv.reader(file, delimiter=delimiter):
                yield [visible(cell) for cell in row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TonnoError(f"{path}: not readable as a table ({first_line(error)}); save it as CSV UTF-8") from error


def _spreadsheet(path: Path) -> Iterator[list[str]]:
    """Read the rows of a spreadsheet's first sheet."""
    try:
        from openpyxl import load_workbook
    except ImportError:
        raise TonnoError(
            f"{path}: reading a spreadsheet needs the package openpyxl: pip install openpyxl, or save the table as CSV "
            "beside it under the same name"
        ) from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # openpyxl's, of styles and extensions that do not matter here
            book = load_workbook(path, read_only=True, data_only=True)
    except Exception as error:  # damaged archives and sheets make openpyxl raise nearly any kind
        raise TonnoError(f"{path}: not readable as a spreadsheet ({first_line(error)}); download it again") from error
    try:
        for row in book.worksheets[0].iter_rows(values_only=True):
            yield [_cell(value) for value in row]
    finally:
        book.close()


def _cell(value: Any) -> str:
    """Return the text of a spreadsheet's cell: 3 for 3.0, as a person sees it."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else visible(str(value))
