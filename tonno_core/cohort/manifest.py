"""The list of a study's volumes: CSV ``volume,label[,mask,mask_label,patient,split]``, a volume on each line."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tonno_core.cohort.mask import ANY, Values, parse_values, values_text
from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file

SPLITS = ("train", "val", "test")
DEFAULT_CLASS = "finding"
NO_FINDING = ("0", "none", "negative", "healthy", "normal", "control")

_COLUMNS = ("volume", "label", "mask", "mask_label", "patient", "split")
_PER_CLASS = ("label", "mask", "mask_label")
_EXPECTED = "volume,label[,mask,patient,split]"
# How a spreadsheet or pandas writes whole numbers where a column had gaps.
_WHOLE = {"0.0": "0", "1.0": "1"}
# A mask's file, and its values that mean the finding.
_WITH_VALUES = re.compile(rf"(.+)#([\d.+]+|{ANY})", re.IGNORECASE)
_NOT_A_NAME = re.compile(r"[-+.,\d]+|yes|no|true|false|positive", re.IGNORECASE)


@dataclass(frozen=True)
class Case:
    """A volume with its labels.

    Masks are for evaluation only: reading a manifest opens none, and does not mind if one is missing.

    Attributes:
        volume: Absolute path.
        labels: For each class of the manifest 0 or 1.
        masks: For each class the absolute path of the mask; None where there is none.
        patient: Name of the patient.
        split: "train", "val" or "test"; "" where the manifest gives none.
        line: Line of the manifest; 0 for a case from elsewhere.
        mask_values: For each class which values of the mask mean the finding, see `cohort.mask`; empty where the
            manifest states none at all.
    """

    volume: Path
    labels: tuple[int, ...]
    masks: tuple[Path | None, ...]
    patient: str
    split: str
    line: int = field(default=0, compare=False)
    mask_values: tuple[Values, ...] = ()

    def values_of(self, index: int) -> Values:
        """Return which values of a class's mask mean the finding.

        Args:
            index: Of the class.

        Returns:
            See `cohort.mask`.
        """
        return self.mask_values[index] if self.mask_values else None


@dataclass(frozen=True)
class Manifest:
    """Volumes with their labels.

    Attributes:
        path: The file.
        classes: Names of the classes.
        cases: The volumes; all or none have a split.
    """

    path: Path
    classes: tuple[str, ...]
    cases: tuple[Case, ...]

    @property
    def has_split(self) -> bool:
        """Whether the manifest says what is for training, validation and test."""
        return any(case.split for case in self.cases)

    def split(self, name: str) -> tuple[Case, ...]:
        """Select the cases of a split.

        Args:
            name: "train", "val" or "test".

        Returns:
            Its cases; none if the manifest has no split.

        Raises:
            ValueError: Another name.
        """
        if name not in SPLITS:
            raise ValueError(f"split {name!r}, expected one of {SPLITS}")
        return tuple(case for case in self.cases if case.split == name)


class _Row(NamedTuple):
    where: str
    line: int
    cells: dict[str, str]


def read_manifest(path: Path, *, class_name: str = DEFAULT_CLASS) -> Manifest:
    """Read a manifest; paths in it are relative to its folder.

    ``mask`` is a file, with ``#2`` or ``#1+2`` after it where only these of its values mean the finding (or these in
    a column ``mask_label``).

    ``label`` is 0 or 1 (a single class) or the name of a class, with a word of `NO_FINDING` for none; or each class
    has columns ``label:NAME`` and ``mask:NAME``. Classes from names are sorted. ``patient`` is the volume's name
    where it is missing. Separators may be commas, semicolons or tabs.

    Args:
        path: The CSV file.
        class_name: Name of the class that label 1 means.

    Returns:
        The volumes, checked against each other.

    Raises:
        TonnoError: A bad label, a missing file, a volume twice, a patient in two splits, a split on some lines only,
            a column that looks like a slip, or no volumes; the message names the file and the line.
    """
    names, rows = _read_rows(path)
    named = _classes_of_columns(names, "label", path)
    if named:
        classes = tuple(named)
        labels = [tuple(_binary(row, f"label:{name}") for name in classes) for row in rows]
    else:
        classes, labels = _labels(rows, class_name)
    masks, values = (_columns_of_masks(names, classes, kind, path) for kind in ("mask", "mask_label"))
    cases = tuple(
        _with_masks(_case(row, label, path), row, masks, values, path) for row, label in zip(rows, labels, strict=True)
    )
    _check_volumes(cases, path)
    _check_mask_values(cases, classes, path)
    _check_splits(cases, path)
    return Manifest(path, classes, cases)


def read_volumes(path: Path) -> tuple[Case, ...]:
    """Read the volumes of a manifest, or of a CSV with a column ``volume`` alone; labels and masks are ignored.

    Args:
        path: The CSV file.

    Returns:
        Cases without labels and masks.

    Raises:
        TonnoError: As `read_manifest` does, but for labels and masks.
    """
    _, rows = _read_rows(path, ("volume",))
    cases = tuple(_case(row, (), path) for row in rows)
    _check_volumes(cases, path)
    return cases


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest that `read_manifest` reads back.

    Paths are relative where the data lies in or below the new file's folder, else absolute. A class's name is
    kept in its columns, unless it is the only one and has the default name.

    Args:
        path: The file; it appears whole or not at all.
        manifest: Its content.

    Raises:
        TonnoError: The file cannot be written.
    """
    several = manifest.classes != (DEFAULT_CLASS,)
    columns = {kind: [f"{kind}:{name}" if several else kind for name in manifest.classes] for kind in _PER_CLASS}
    if not any(mask for case in manifest.cases for mask in case.masks):
        columns["mask"] = []
    header = ["volume", *columns["label"], *columns["mask"], "patient", *(["split"] if manifest.has_split else [])]
    folder = path.absolute().parent
    try:
        with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(_cells(case, folder, bool(columns["mask"])) for case in manifest.cases)
    except UnicodeEncodeError as error:
        raise TonnoError(f"{path}: cannot be written ({error})") from error


def require_trainable(manifest: Manifest) -> None:
    """Check that training has two volumes or more and, for each class, a volume with it and a volume without.

    Args:
        manifest: The cohort, whose split ``train`` is meant, or all of it where there is no split.

    Raises:
        TonnoError: It has not.
    """
    cases = manifest.split("train") if manifest.has_split else manifest.cases
    place = " in split train" if manifest.has_split else ""
    if len(cases) < 2:
        raise TonnoError(f"{manifest.path}: volumes{place}: {len(cases)}; training needs two or more: add some")
    for index, name in enumerate(manifest.classes):
        for label, kind in ((1, "with"), (0, "without")):
            if any(case.labels[index] == label for case in cases):
                continue
            elsewhere = any(case.labels[index] == label for case in manifest.cases)
            advice = "move one to train" if elsewhere else f"add volumes {kind} it"
            raise TonnoError(
                f"{manifest.path}: no volume{place} has label {label} of class {name!r}, all {len(cases)} have "
                f"{1 - label}; training needs both: {advice}"
            )


# -------------------- the table


def _read_rows(path: Path, needed: Sequence[str] = ("volume", "label")) -> tuple[list[str], list[_Row]]:
    """Read the names of the columns, and the lines that are not empty, with spaces around cells removed."""
    text = _read_text(path)
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        names = [_column_name(cell) for cell in next(reader, [])]
        _check_columns(names, path, needed)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            where = f"{path}, line {reader.line_num}"
            if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
                raise TonnoError(
                    f"{where}: {len(cells)} cells under {len(names)} columns; "
                    f'put names that contain "{delimiter}" in double quotes'
                )
            padded = [cell.strip() for cell in cells] + [""] * len(names)
            rows.append(_Row(where, reader.line_num, dict(zip(names, padded, strict=False))))
    except csv.Error as error:
        raise TonnoError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from error
    if not rows:
        raise TonnoError(f"{path}: no volumes in it, expected a line for each under {_EXPECTED}")
    return names, rows


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise TonnoError(f"{path}: no such manifest, expected a CSV with a column volume, and for training label")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TonnoError(f"{path}: cannot be opened ({error.strerror or error})") from error
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise TonnoError(f"{path}: not readable as CSV, it is a spreadsheet's own format; save it as CSV UTF-8")
    if b"\0" in content:
        raise TonnoError(f"{path}: not readable as CSV, it is no UTF-8 text; save it as CSV UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TonnoError(
            f"{path}, line {line}: not readable as CSV, it is no UTF-8 text; save it as CSV UTF-8"
        ) from None


def _column_name(cell: str) -> str:
    """Put a known name in lower case; the name of a class after the colon stays as it is."""
    head, colon, name = (part.strip() for part in cell.partition(":"))
    return f"{head.lower()}:{name}" if colon else head.lower()


def _check_columns(names: Sequence[str], path: Path, needed: Sequence[str]) -> None:
    for name, count in Counter(filter(None, names)).items():
        if count > 1:
            raise TonnoError(f"{path}: column {name} stands there {count} times; remove or rename one")
    heads = {name.partition(":")[0] for name in names}
    for name in names:
        head, colon, rest = name.partition(":")
        close = difflib.get_close_matches(head, _PER_CLASS if colon else _COLUMNS, n=1, cutoff=0.8)
        if head not in _COLUMNS and close and close[0] not in heads:
            raise TonnoError(f"{path}: unknown column {name}; did you mean {close[0]}{colon}{rest}? Rename it")
    missing = [name for name in needed if name not in heads]
    if missing:
        present = ", ".join(names) or "nothing"
        raise TonnoError(f"{path}: column {' and '.join(missing)} missing, found {present}; expected {_EXPECTED}")


# -------------------- labels and masks


def _classes_of_columns(names: Sequence[str], kind: str, path: Path) -> list[str]:
    """Return NAME of each column ``kind:NAME``. Raises TonnoError if the plain column is there as well."""
    classes = [name.partition(":")[2] for name in names if name.startswith(f"{kind}:")]
    if classes and kind in names:
        raise TonnoError(f"{path}: columns {kind} and {kind}:{classes[0]}; expected one or the other")
    if "" in classes:
        raise TonnoError(f"{path}: column '{kind}:' names no class, expected {kind}:NAME")
    return classes


def _columns_of_masks(names: Sequence[str], classes: tuple[str, ...], kind: str, path: Path) -> tuple[str | None, ...]:
    """Find for each class the column of its masks, or of their values."""
    named = _classes_of_columns(names, kind, path)
    for name in named:
        if name not in classes:
            raise TonnoError(f"{path}: column {kind}:{name} for no class of the labels, these are {', '.join(classes)}")
    if kind in names and len(classes) > 1:
        columns = ", ".join(f"{kind}:{name}" for name in classes)
        raise TonnoError(f"{path}: column {kind} is for one class, there are {len(classes)}; expected {columns}")
    plain = kind if kind in names else None
    return tuple(f"{kind}:{name}" if name in named else plain for name in classes)


def _binary(row: _Row, column: str) -> int:
    text = row.cells[column]
    if _WHOLE.get(text, text) not in ("0", "1"):
        raise TonnoError(f"{row.where}: {column} is {text!r}, expected 0 or 1")
    return int(_WHOLE.get(text, text))


def _labels(rows: Sequence[_Row], class_name: str) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """Read the classes, and the labels of each row, from the column ``label``."""
    texts = [_WHOLE.get(row.cells["label"], row.cells["label"]) for row in rows]
    names = {text: row for row, text in zip(rows, texts, strict=True) if _is_name(text)}
    for row, text in zip(rows, texts, strict=True):
        if not (_is_name(text) or text.casefold() in NO_FINDING or text == "1"):
            raise TonnoError(f"{row.where}: label is {text!r}, expected 0 or 1, or the name of a class")
        if text == "1" and names:
            other, its_row = next(iter(names.items()))
            raise TonnoError(
                f"{row.where}: label is '1', but {other!r} in line {its_row.line}; expected 0 and 1 in all lines, "
                "or names of classes (none for no finding)"
            )
    if not names:
        return (class_name,), [(int(text == "1"),) for text in texts]
    _check_spelling(names)
    classes = tuple(sorted(names))
    return classes, [tuple(int(text == name) for name in classes) for text in texts]


def _is_name(text: str) -> bool:
    return bool(text) and text.casefold() not in NO_FINDING and not _NOT_A_NAME.fullmatch(text)


def _check_spelling(names: Mapping[str, _Row]) -> None:
    seen: dict[str, str] = {}
    for name, row in names.items():
        if seen.setdefault(name.casefold(), name) != name:
            raise TonnoError(f"{row.where}: class {name!r} is {seen[name.casefold()]!r} elsewhere; spell it one way")


# -------------------- cases


def _case(row: _Row, labels: tuple[int, ...], path: Path) -> Case:
    name = row.cells["volume"]
    if not name or not (path.parent / name).exists():
        raise TonnoError(f"{row.where}: volume {name!r} does not exist (paths are relative to the manifest)")
    split = row.cells.get("split", "").lower()
    if split and split not in SPLITS:
        raise TonnoError(f"{row.where}: split is {row.cells['split']!r}, expected {', '.join(SPLITS)}")
    return Case(
        volume=(path.parent / name).absolute(),
        labels=labels,
        masks=(None,) * len(labels),
        patient=row.cells.get("patient") or name,
        split=split,
        line=row.line,
    )


def _with_masks(
    case: Case, row: _Row, mask_columns: Sequence[str | None], value_columns: Sequence[str | None], path: Path
) -> Case:
    """Give a case the masks of its row, with the values that mean the finding."""
    masks: list[Path | None] = []
    values: list[Values] = []
    for mask_column, value_column in zip(mask_columns, value_columns, strict=True):
        name = row.cells[mask_column] if mask_column else ""
        text = row.cells[value_column] if value_column else ""
        match = None if (path.parent / name).exists() else _WITH_VALUES.fullmatch(name)
        if match and text and match[2] != text:
            raise TonnoError(f"{row.where}: {mask_column} is {name!r}, but {value_column} {text!r}; leave one out")
        name, text = (match[1], match[2]) if match else (name, text)
        try:
            values.append(parse_values(text) if name else None)
        except ValueError as error:
            raise TonnoError(f"{row.where}: {mask_column if match else value_column}: {error}") from error
        masks.append((path.parent / name).absolute() if name else None)
    stated = tuple(values) if any(value is not None for value in values) else ()
    return dataclasses.replace(case, masks=tuple(masks), mask_values=stated)


def _check_mask_values(cases: Sequence[Case], classes: Sequence[str], path: Path) -> None:
    """Refuse a class whose masks state values in some lines only: elsewhere any value would be the finding."""
    for index, name in enumerate(classes):
        having = [case for case in cases if case.masks[index]]
        stated = [case for case in having if case.values_of(index) is not None]
        if stated and len(stated) < len(having):
            case = next(case for case in having if case.values_of(index) is None)
            raise TonnoError(
                f"{path}, line {case.line}: the mask of {name} states no value, but that of line {stated[0].line} "
                f"{values_text(stated[0].values_of(index))}; state it in all lines that have a mask, or in none"
            )


def _check_volumes(cases: Sequence[Case], path: Path) -> None:
    line_of: dict[str, int] = {}
    for case in cases:
        line = line_of.setdefault(os.path.realpath(case.volume), case.line)
        if line != case.line:
            raise TonnoError(f"{path}, line {case.line}: the volume of line {line} again; remove one of the lines")


def _check_splits(cases: Sequence[Case], path: Path) -> None:
    given = [case for case in cases if case.split]
    first: dict[str, Case] = {}
    for case in cases if given else ():
        if not case.split:
            raise TonnoError(
                f"{path}, line {case.line}: no split, but line {given[0].line} has one; give {', '.join(SPLITS)} "
                "in all lines or in none"
            )
        other = first.setdefault(case.patient, case)
        if other.split != case.split:
            raise TonnoError(
                f"{path}, line {case.line}: patient {case.patient!r} is in split {case.split!r} and in "
                f"{other.split!r} (line {other.line}); a patient belongs to one split"
            )


def _cells(case: Case, folder: Path, with_masks: bool) -> list[str | int]:
    """Write the line of a case, for a manifest in ``folder``."""
    masks = []
    for index, mask in enumerate(case.masks if with_masks else ()):
        values = values_text(case.values_of(index))
        masks.append((_relative(mask, folder) if mask else "") + (f"#{values}" if mask and values else ""))
    return [_relative(case.volume, folder), *case.labels, *masks, case.patient, *([case.split] if case.split else [])]


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
