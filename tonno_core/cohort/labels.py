"""What the labels of a table say: classes, and for each line which of them it has."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tonno_core.errors import TonnoError
from tonno_core.words import is_finding, is_no_finding, is_not_known, spelling

_NOT_A_NAME = re.compile(r"[-+.,\d]+")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]+,[0-9]+")
# A column whose values differ by less than this share of their mean holds nothing but rounding.
_LEAST_SPREAD = 1e-4


class Row(NamedTuple):
    """A line of a table.

    Attributes:
        where: File and line, for messages.
        line: Its number.
        cells: Texts by column.
    """

    where: str
    line: int
    cells: dict[str, str]


def column_of(name: str, classes: Sequence[str]) -> int | None:
    """Find a class by its name, in any spelling.

    Args:
        name: Of the class.
        classes: Where to look.

    Returns:
        Its index; None where it is not there.
    """
    same = (index for index, other in enumerate(classes) if other == name)
    alike = (index for index, other in enumerate(classes) if spelling(other) == spelling(name))
    return next(same, next(alike, None))


def binary_label(row: Row, column: str) -> int:
    """Read a label of one class.

    Args:
        row: The line.
        column: Name of the label's column.

    Returns:
        0 or 1.

    Raises:
        TonnoError: It is no word for either.
    """
    text = row.cells[column]
    if is_not_known(text) or not (is_finding(text) or is_no_finding(text)):
        raise TonnoError(f"{row.where}: {column} is {text!r}, expected 0 or 1{_if_not_known(text)}")
    return int(is_finding(text))


def labels_by_word(
    rows: Sequence[Row], class_name: str, model_classes: Sequence[str], path: Path
) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Read the classes, and the labels of each line, from the column ``label``.

    Args:
        rows: The lines.
        class_name: Of the class that label 1 means, or which of two names that exclude each other is the finding.
        model_classes: Of the model that the labels are for, if there is one.
        path: The file, for messages.

    Returns:
        Names of the classes, and for each line 0 or 1 of each.

    Raises:
        TonnoError: A label is no word for either and no name, or what it means is a question.
    """
    texts = [row.cells["label"] for row in rows]
    names = {text: row for row, text in zip(rows, texts, strict=True) if _is_name(text)}
    for row, text in zip(rows, texts, strict=True):
        if is_not_known(text) or not (_is_name(text) or is_no_finding(text) or is_finding(text)):
            expected = f"expected 0 or 1, or the name of a class{_if_not_known(text) or _if_number(text)}"
            raise TonnoError(f"{row.where}: label is {text!r}, {expected}")
        if is_finding(text) and names:
            other, its_row = next(iter(names.items()))
            raise TonnoError(
                f"{row.where}: label is {text!r}, but {other!r} in line {its_row.line}; expected 0 and 1 in all lines, "
                "or names of classes (none for no finding)"
            )
    if not names:
        return (class_name,), [(int(is_finding(text)),) for text in texts]
    _check_spelling(names)
    classes = tuple(sorted(names))
    if (
        len(classes) == 2
        and all(map(_is_name, texts))
        and not {*map(spelling, classes)} <= {*map(spelling, model_classes)}
    ):
        classes = (_one_of(classes, texts, class_name, model_classes, path),)
    return classes, [tuple(int(text == name) for name in classes) for text in texts]


def numbers_of(rows: Sequence[Row], column: str, target: str, path: Path) -> list[float]:
    """Read the numbers of a column that a regressor learns.

    Args:
        rows: The lines.
        column: The column.
        target: Its name as it was asked for, for messages.
        path: The file, for messages.

    Returns:
        A number for each line.

    Raises:
        TonnoError: A line has none, or none that is finite; or they are those of a classification, or all alike.
    """
    values = []
    for row in rows:
        text = row.cells[column]
        if not _NUMBER.fullmatch(text):
            raise TonnoError(f"{row.where}: {target} is {text!r}, expected a number; {_as_number(text)}")
        if not math.isfinite(float(text)):
            raise TonnoError(f"{row.where}: {target} is {text!r}, expected a finite number")
        values.append(float(text))
    if set(values) == {0.0, 1.0}:
        rename = "" if column == "label" else ", and call the column label"
        raise TonnoError(
            f"{path}: {target} is 0 or 1 in all lines: that is a class, not a quantity; leave `target` out{rename}"
        )
    if is_constant(values):
        raise TonnoError(
            f"{path}: {target} is {values[0]:g} in all {len(values)} lines, or differs by less than a "
            f"{1 / _LEAST_SPREAD:.0f}th; there is nothing to learn"
        )
    return values


def _as_number(text: str) -> str:
    """Say what to do about a cell that should be a number."""
    if is_not_known(text):
        return "leave out volumes whose value is not known"
    if _DECIMAL_COMMA.fullmatch(text):
        return "write a decimal point"
    if any(map(str.isdigit, text)):
        return "write it with digits and a decimal point alone, without a unit or signs between thousands"
    return "name a column of numbers, or write one in each line"


def is_constant(values: Sequence[float]) -> bool:
    """Tell whether numbers differ so little that there is nothing to learn.

    Args:
        values: At least one.

    Returns:
        Whether their range is next to nothing beside the largest.
    """
    return max(values) - min(values) <= _LEAST_SPREAD * max(map(abs, values))


def _one_of(
    classes: Sequence[str], texts: Sequence[str], class_name: str, model_classes: Sequence[str], path: Path
) -> str:
    """Choose the finding where each volume has one of two names. Raises TonnoError that asks, if none was chosen."""
    chosen = column_of(class_name, classes)
    if chosen is None:
        first, second = classes
        counts = f"{first!r} ({texts.count(first)}) or {second!r} ({texts.count(second)})"
        columns = f"label:{first} and label:{second}"
        advice = f"Name it by `class_name`, or write 0 for the other, or give columns {columns} for both"
        if model_classes:
            advice = f"Give columns label:NAME for what the model tells, {', '.join(model_classes)}"
        asked = "so that the one is the absence of the other; which is the finding?"
        raise TonnoError(f"{path}: every label is {counts}, {asked} {advice}")
    return classes[chosen]


def _if_not_known(text: str) -> str:
    return "; leave out volumes whose label is not known" if is_not_known(text) else ""


def _if_number(text: str) -> str:
    return "; a column of numbers is learned with `target` label" if _NUMBER.fullmatch(text) else ""


def _is_name(text: str) -> bool:
    return not (is_not_known(text) or is_no_finding(text) or is_finding(text) or _NOT_A_NAME.fullmatch(text))


def _check_spelling(names: Mapping[str, Row]) -> None:
    seen: dict[tuple[str, ...], str] = {}
    for name, row in names.items():
        other = seen.setdefault(spelling(name), name)
        if other != name:
            raise TonnoError(f"{row.where}: class {name!r} is {other!r} elsewhere; spell it one way")
