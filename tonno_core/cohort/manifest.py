"""The list of a study's volumes: CSV ``volume,label[,mask,mask_label,patient,split]``, a volume on each line."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tonno_core.cohort.labels import Row, binary_label, column_of, is_constant, labels_by_word, numbers_of
from tonno_core.cohort.mask import ANY, Values, parse_values, values_text
from tonno_core.cohort.notes import notes_on_files, notes_on_names, notes_on_patients
from tonno_core.cohort.places import held_by, is_there, locate, missing, relative_below, tables_in
from tonno_core.errors import TonnoError, reason_of
from tonno_core.output import atomic_file
from tonno_core.words import findings_of, is_no_finding, spelling, visible

SPLITS = ("train", "val", "test")
DEFAULT_CLASS = "finding"

_COLUMNS = ("volume", "label", "mask", "mask_label", "patient", "split")
_PER_CLASS = ("label", "mask", "mask_label")
_EXPECTED = "volume,label[,mask,patient,split]"
_UNNAMED = "\0"
_SHOWN = 20  # missing volumes in a message
# A mask's file, and its values that mean the finding.
_WITH_VALUES = re.compile(rf"(.+)#([\d.+]+|{ANY})", re.IGNORECASE)
_DELIMITER_LINE = re.compile(r'"?sep=([^\s"]|\t)"?\r?\n', re.IGNORECASE)
# Columns that are often meant by patient and split.
_PERSON = re.compile(r"(?:subject|participant|person|patient|pat)s?(?:id|name|number|no)?|caseid|mrn|pid")
_SPLIT_WORDS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


@dataclass(frozen=True)
class Case:
    """A volume with its labels.

    Masks are for evaluation only: reading a manifest opens none, and does not mind if one is missing.

    Attributes:
        volume: Absolute path.
        labels: For each class of the manifest 0 or 1; none with a target.
        masks: For each class the absolute path of the mask; None where there is none.
        patient: Name of the patient.
        split: "train", "val" or "test"; "" where the manifest gives none.
        line: Line of the manifest; 0 for a case from elsewhere.
        mask_values: For each class which values of the mask mean the finding, see `cohort.mask`; empty where the
            manifest states none at all.
        absent: How the manifest writes the volume where there is no such file; "" where there is.
        number: Of the manifest's target; 0 where it has labels.
    """

    volume: Path
    labels: tuple[int, ...]
    masks: tuple[Path | None, ...]
    patient: str
    split: str
    line: int = field(default=0, compare=False)
    mask_values: tuple[Values, ...] = ()
    absent: str = field(default="", compare=False)
    number: float = 0.0

    def values_of(self, index: int) -> Values:
        """Return which values of a class's mask mean the finding.

        Args:
            index: Of the class.

        Returns:
            See `cohort.mask`.
        """
        return self.mask_values[index] if self.mask_values else None


@dataclass(frozen=True)
class Listed:
    """A volume of a list, with what the list says of it.

    Attributes:
        volume: Absolute path.
        patient: Name of the patient, "" where none is given.
        label: As it is written; of several columns ``NAME=1, OTHER=0``.
        split: "train", "val", "test" or "".
        line: Line of the list.
        absent: See `Case`.
    """

    volume: Path
    patient: str = ""
    label: str = ""
    split: str = ""
    line: int = 0
    absent: str = ""


@dataclass(frozen=True)
class Manifest:
    """Volumes with their labels.

    Attributes:
        path: The file.
        classes: Names of the classes; with a target its name alone.
        cases: The volumes; all or none have a split.
        notes: How the file was understood, where a person may have meant something else; a line each.
        target: Name of the column of numbers that stand in the labels' place, "" where there are labels.
    """

    path: Path
    classes: tuple[str, ...]
    cases: tuple[Case, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    target: str = ""

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

    def counts(self, name: str) -> dict[str, dict[str, float]]:
        """Count a split's volumes with and without each class; of a target, say how its numbers are spread.

        Args:
            name: As for `split`.

        Returns:
            By class ``positive`` and ``negative``; by the target ``volumes`` and, of some, ``mean``, ``least`` and
            ``most``.
        """
        cases = self.split(name)
        if self.target:
            values = [case.number for case in cases]
            spread = {"mean": sum(values) / len(values), "least": min(values), "most": max(values)} if values else {}
            return {self.target: {"volumes": len(values), **spread}}
        found = {klass: sum(case.labels[index] for case in cases) for index, klass in enumerate(self.classes)}
        return {klass: {"positive": count, "negative": len(cases) - count} for klass, count in found.items()}


def read_manifest(
    path: Path,
    *,
    class_name: str = DEFAULT_CLASS,
    model_classes: Sequence[str] = (),
    target: str = "",
    absent: bool = False,
) -> Manifest:
    """Read a manifest; paths in it are relative to its folder.

    ``label`` is 0 or 1 (a single class), or the name of a class, or a word for no finding (see `words`); or each class
    has columns ``label:NAME`` and ``mask:NAME``. Classes from names are sorted. Of two names that share all volumes
    between them, `class_name` chooses one. ``mask`` is a file, with ``#2`` or ``#1+2`` after it where only these of its
    values mean the finding (or these in a column ``mask_label``). ``patient`` is the volume's name where it is missing.
    Separators may be commas, semicolons or tabs.

    Args:
        path: The CSV file.
        class_name: Name of the class that label 1 means.
        model_classes: Of the model that the labels are for, if there is one; two names that are both its are no
            question.
        target: Name of a column of numbers to read in the labels' place; labels and masks are not looked at then.
        absent: Whether volumes may be missing.

    Returns:
        The volumes, checked against each other.

    Raises:
        TonnoError: A bad label, missing files, a volume twice, a patient in two splits, a split on some lines only,
            a column that looks like a slip, or no volumes; the message names the file and the line.
    """
    names, rows = _read_rows(path, ("volume",) if target else ("volume", "label"))
    _check_overlooked(names, rows, path)
    named = [] if target else _classes_of_columns(names, "label", path)
    if target:
        numbers = numbers_of(rows, _target_column(names, target, path), target, path)
        classes: tuple[str, ...] = (target,)
        cases = tuple(_case(row, (), path, number) for row, number in zip(rows, numbers, strict=True))
    else:
        if named:
            classes = tuple(named)
            labels = [tuple(binary_label(row, f"label:{name}") for name in classes) for row in rows]
        else:
            classes, labels = labels_by_word(rows, class_name, model_classes, path)
        masks, values = (_columns_of_masks(names, classes, kind, path) for kind in ("mask", "mask_label"))
        cases = tuple(
            _with_masks(_case(row, label, path), row, masks, values, path)
            for row, label in zip(rows, labels, strict=True)
        )
    _check_volumes(cases, path, absent)
    _check_mask_values(cases, () if target else classes, path)
    _check_splits(cases, path)
    lines = [case.line for case in cases]
    notes = [] if named or target else [*notes_on_names(classes)]
    if not target and class_name not in (DEFAULT_CLASS, _UNNAMED) and column_of(class_name, classes) is None:
        notes.append(f"the labels name {', '.join(classes)}; {class_name!r}, which label 1 would mean, is not used")
    notes += notes_on_patients(
        [case.patient for case in cases], [bool(row.cells.get("patient")) for row in rows], lines
    )
    notes += notes_on_files([case.volume for case in cases], lines)
    notes += [
        f"column {name} is not read: channels are read from one file, such as a 4D NIfTI"
        for name in names
        if _is_channel(name)
    ]
    return Manifest(path, classes, cases, tuple(notes), target)


def read_for_model(
    path: Path,
    classes: Sequence[str],
    *,
    wanted: str | None = None,
    class_name: str | None = None,
    absent: bool = False,
) -> Manifest:
    """Read a manifest with the labels of a model's classes.

    Label 1 of a manifest that names no class means `class_name`, or the only class of the model that is a finding. A
    class such as "normal" that the manifest has no labels of is the absence of all others.

    Args:
        path: The CSV file.
        classes: Of the model.
        wanted: The only one whose labels are needed.
        class_name: The one that label 1 means, where a person says so.
        absent: Whether volumes may be missing.

    Returns:
        The volumes with labels of the model's classes, or of the one that is wanted.

    Raises:
        TonnoError: As `read_manifest` does, or a class has no labels.
    """
    findings = findings_of(classes)
    of_1 = findings[0] if len(findings) == 1 else _UNNAMED
    if class_name and not is_no_finding(class_name):
        of_1 = class_name
    manifest = read_manifest(path, class_name=of_1, model_classes=classes, absent=absent)
    advice = "name the label columns label:NAME like the model's classes"
    advice += ", or choose another class by `class_name`" if wanted else ""
    told = ", ".join(classes)
    if manifest.classes == (_UNNAMED,):
        raise TonnoError(f"{path}: labels are 0 and 1, the model tells {told}; which of them label 1 means: {advice}")
    column = {name: column_of(name, manifest.classes) for name in classes}
    others = {name: column[name] for name in findings}
    names = (wanted,) if wanted else tuple(classes)
    for name in sorted(names, key=is_no_finding):
        absence = is_no_finding(name) and others and None not in others.values()
        if column[name] is None and not absence:
            present = ", ".join(manifest.classes)
            raise TonnoError(f"{path}: labels are of {present}, the model tells {told}: none are of {name!r}; {advice}")
    cases = tuple(_chosen(case, [column[name] for name in names], others) for case in manifest.cases)
    return dataclasses.replace(manifest, classes=names, cases=cases)


def read_volumes(path: Path, *, absent: bool = False) -> tuple[Listed, ...]:
    """Read the volumes of a manifest, or of a CSV with a column ``volume`` alone; labels are not understood.

    Args:
        path: The CSV file.
        absent: Whether volumes may be missing.

    Returns:
        The volumes, with labels as they are written.

    Raises:
        TonnoError: As `read_manifest` does, but for labels and masks.
    """
    _, rows = _read_rows(path, ("volume",))
    cases = tuple(_case(row, (), path) for row in rows)
    _check_volumes(cases, path, absent)
    return tuple(
        Listed(case.volume, row.cells.get("patient", ""), _label_text(row), case.split, case.line, case.absent)
        for case, row in zip(cases, rows, strict=True)
    )


def why_absent(path: Path, case: Case | Listed) -> str:
    """Say that a volume is missing, and why that may be.

    Args:
        path: The manifest.
        case: A case whose volume is missing.

    Returns:
        Such as "volume '9.nii.gz' does not exist (paths are relative to the manifest)".
    """
    return f"volume {case.absent!r} does not exist {missing(path.parent, case.absent)}"


def write_manifest(path: Path, manifest: Manifest, extra: Mapping[str, Sequence[str | Path]] | None = None) -> None:
    """Write a manifest that `read_manifest` reads back.

    Paths are relative where the data lies in or below the new file's folder, else absolute. A class's name is
    kept in its columns, unless it is the only one and has the default name.

    Args:
        path: The file; it appears whole or not at all.
        manifest: Its content.
        extra: Further columns by name, with a cell for each case; a path is written as those of volumes are.

    Raises:
        TonnoError: The file cannot be written.
    """
    several = manifest.classes != (DEFAULT_CLASS,)
    columns = {kind: [f"{kind}:{name}" if several else kind for name in manifest.classes] for kind in _PER_CLASS}
    if manifest.target:
        columns["label"] = [manifest.target]
    if not any(mask for case in manifest.cases for mask in case.masks):
        columns["mask"] = []
    header = ["volume", *columns["label"], *columns["mask"], "patient", *(["split"] if manifest.has_split else [])]
    header += extra or {}
    folder = path.absolute().parent
    further = [
        [relative_below(cell, folder) if isinstance(cell, Path) else cell for cell in cells]
        for cells in (extra or {}).values()
    ]
    try:
        with atomic_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            for number, case in enumerate(manifest.cases):
                writer.writerow([*_cells(case, folder, bool(columns["mask"])), *(cells[number] for cells in further)])
    except UnicodeEncodeError as error:
        raise TonnoError(f"{path}: cannot be written ({error})") from error


def require_volumes(cases: Sequence[Case], path: Path) -> None:
    """Check that volumes are there.

    Args:
        cases: The volumes that are needed.
        path: The manifest.

    Raises:
        TonnoError: Some are missing; it names them, the first twenty.
    """
    lost = [case for case in cases if case.absent]
    shown = "; ".join(f"line {case.line}: {why_absent(path, case)}" for case in lost[:_SHOWN])
    if len(lost) == 1:
        raise TonnoError(f"{path}, {shown}")
    if lost:
        more = f"; and {len(lost) - _SHOWN} more, which `tonno check` lists" if len(lost) > _SHOWN else ""
        raise TonnoError(f"{path}: {len(lost)} of {len(cases)} volumes are missing: {shown}{more}")


def require_trainable(manifest: Manifest) -> None:
    """Check that training has two volumes or more and, for each class, a volume with it and a volume without.

    Args:
        manifest: The cohort, whose split ``train`` is meant, or all of it where there is no split.

    Raises:
        TonnoError: It has not, or a target is the same in all of them.
    """
    cases = manifest.split("train") if manifest.has_split else manifest.cases
    place = " in split train" if manifest.has_split else ""
    if len(cases) < 2:
        raise TonnoError(f"{manifest.path}: volumes{place}: {len(cases)}; training needs two or more: add some")
    if manifest.target:
        if is_constant([case.number for case in cases]):
            value = f"{manifest.target} is {cases[0].number:g} in all {len(cases)} volumes{place}"
            raise TonnoError(f"{manifest.path}: {value}; there is nothing to learn: move others to train")
        return
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


def _chosen(case: Case, columns: Sequence[int | None], others: Mapping[str, int | None]) -> Case:
    """Give a case the labels and masks of some columns; None is the absence of all others, which has no mask."""
    absent = int(not any(case.labels[index] for index in others.values() if index is not None))
    return dataclasses.replace(
        case,
        labels=tuple(absent if index is None else case.labels[index] for index in columns),
        masks=tuple(None if index is None else case.masks[index] for index in columns),
        mask_values=tuple(None if index is None else case.values_of(index) for index in columns)
        if case.mask_values
        else (),
    )


def _read_rows(path: Path, needed: Sequence[str] = ("volume", "label")) -> tuple[list[str], list[Row]]:
    """Read the names of the columns, and the lines that are not empty, with spaces around cells removed."""
    text = _read_text(path)
    said = _DELIMITER_LINE.match(text)  # as Excel writes and understands it
    text = text[said.end() :] if said else text
    head = re.split(r"[\r\n]", text, maxsplit=1)[0]
    delimiter = said[1] if said else max(",;\t", key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 1 if said else 0
    rows = []
    try:
        names = [_column_name(cell) for cell in next(reader, [])]
        _check_columns(names, path, needed)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            line = reader.line_num + before
            where = f"{path}, line {line}"
            if len(cells) > len(names) and any(cell.strip() for cell in cells[len(names) :]):
                raise TonnoError(
                    f"{where}: {len(cells)} cells under {len(names)} columns; "
                    f'put names that contain "{delimiter}" in double quotes'
                )
            padded = [*cells, *[""] * len(names)]
            cleaned = {name: _cell(name, cell) for name, cell in zip(names, padded, strict=False)}
            rows.append(Row(where, line, cleaned))
    except csv.Error as error:
        raise TonnoError(f"{path}, line {reader.line_num + before}: not readable as CSV ({error})") from error
    if not rows:
        raise TonnoError(f"{path}: no volumes in it, expected a line for each under {_EXPECTED}")
    return names, rows


def _read_text(path: Path) -> str:
    if path.is_dir():
        tables = tables_in(path)
        hint = f"; give {tables[0]}" if len(tables) == 1 else ""
        raise TonnoError(f"{path}: is a folder ({held_by(path)}), expected a manifest, a CSV file{hint}")
    if not path.is_file():
        raise TonnoError(f"{path}: no such manifest, expected a CSV with a column volume, and for training label")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TonnoError(f"{path}: cannot be opened ({reason_of(error)})") from error
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


def _cell(column: str, text: str) -> str:
    """Remove spaces around a cell, and signs that show nothing but from names of files, which may have them."""
    return text.strip() if column.partition(":")[0] in ("volume", "mask") else visible(text)


def _column_name(cell: str) -> str:
    """Put a known name in lower case; the name of a class after the colon stays as it is."""
    head, colon, name = (visible(part) for part in cell.partition(":"))
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


def _check_overlooked(names: Sequence[str], rows: Sequence[Row], path: Path) -> None:
    """Refuse a table whose column of patients or splits has another name: all would go on without it."""
    heads = {name.partition(":")[0] for name in names}
    for name in names:
        cells = [row.cells[name].lower() for row in rows if name and row.cells[name]]
        person = _PERSON.fullmatch(re.sub(r"[\W_]+", "", name)) and len(set(cells)) < len(cells)
        part = name not in _COLUMNS and len(set(cells)) > 1 and set(cells) <= _SPLIT_WORDS
        for known, looks in (("patient", person), ("split", part)):
            if looks and known not in heads:
                raise TonnoError(f"{path}: unknown column {name}, and no {known}; did you mean {known}? Rename it")


def _target_column(names: Sequence[str], target: str, path: Path) -> str:
    """Find the column of a target. Raises TonnoError where there is none, or it has another meaning."""
    column = _column_name(target)
    others = set(_COLUMNS) - {"label"}
    if column in others:
        raise TonnoError(f"`target` {target}: is the column of something else; name one of numbers")
    if column not in names:
        free = [name for name in names if name and name not in others]
        near = difflib.get_close_matches(column, free, n=1)
        present = f"did you mean {near[0]}?" if near else f"found {', '.join(free) or 'none that could be meant'}"
        raise TonnoError(f"{path}: no column {target}, which `target` names; {present}")
    return column


def _is_channel(name: str) -> bool:
    """Tell whether a column holds a further channel of the volumes, as ``volume:CT`` does."""
    return name.startswith("volume:")


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


# -------------------- cases


def _case(row: Row, labels: tuple[int, ...], path: Path, number: float = 0.0) -> Case:
    name = row.cells["volume"]
    volume = locate(path.parent, name)
    if not name:
        raise TonnoError(f"{row.where}: no volume; write its path, or remove the line")
    split = row.cells.get("split", "").lower()
    if split and split not in SPLITS:
        raise TonnoError(f"{row.where}: split is {row.cells['split']!r}, expected {', '.join(SPLITS)}")
    return Case(
        volume=volume,
        labels=labels,
        masks=(None,) * len(labels),
        patient=row.cells.get("patient") or name,
        split=split,
        line=row.line,
        absent="" if is_there(volume) else name,
        number=number,
    )


def _label_text(row: Row) -> str:
    """Return a line's labels as they are written."""
    named = [(name.partition(":")[2], cell) for name, cell in row.cells.items() if name.startswith("label:")]
    return row.cells.get("label", "") or ", ".join(f"{name}={cell}" for name, cell in named if cell)


def _with_masks(
    case: Case, row: Row, mask_columns: Sequence[str | None], value_columns: Sequence[str | None], path: Path
) -> Case:
    """Give a case the masks of its row, with the values that mean the finding."""
    masks: list[Path | None] = []
    values: list[Values] = []
    for mask_column, value_column in zip(mask_columns, value_columns, strict=True):
        name = row.cells[mask_column] if mask_column else ""
        text = row.cells[value_column] if value_column else ""
        match = None if is_there(locate(path.parent, name)) else _WITH_VALUES.fullmatch(name)
        if match and text and match[2] != text:
            raise TonnoError(f"{row.where}: {mask_column} is {name!r}, but {value_column} {text!r}; leave one out")
        name, text = (match[1], match[2]) if match else (name, text)
        try:
            values.append(parse_values(text) if name else None)
        except ValueError as error:
            raise TonnoError(f"{row.where}: {mask_column if match else value_column}: {error}") from error
        masks.append(locate(path.parent, name) if name else None)
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


def _check_volumes(cases: Sequence[Case], path: Path, absent: bool) -> None:
    """Refuse missing volumes, unless they may be, and one in two lines, by links or other spellings of one file."""
    if not absent:
        require_volumes(cases, path)
    seen: dict[str, list[tuple[Path, int]]] = {}
    for case in cases:
        real = case.volume.resolve()
        alike = seen.setdefault(unicodedata.normalize("NFC", str(real)).casefold(), [])
        for other, line in alike:
            if other == real or (is_there(real) and is_there(other) and other.samefile(real)):
                raise TonnoError(f"{path}, line {case.line}: the volume of line {line} again; remove one of the lines")
        alike.append((real, case.line))


def _check_splits(cases: Sequence[Case], path: Path) -> None:
    given = [case for case in cases if case.split]
    first: dict[tuple[str, ...], Case] = {}
    for case in cases if given else ():
        if not case.split:
            raise TonnoError(
                f"{path}, line {case.line}: no split, but line {given[0].line} has one; give {', '.join(SPLITS)} "
                "in all lines or in none"
            )
        other = first.setdefault(spelling(case.patient), case)
        if other.split != case.split and other.patient != case.patient:
            raise TonnoError(
                f"{path}, line {case.line}: patient {case.patient!r} is in split {case.split!r}, and {other.patient!r} "
                f"in {other.split!r} (line {other.line}); a patient belongs to one split: spell it one way, or rename "
                "one if they are two persons"
            )
        if other.split != case.split:
            raise TonnoError(
                f"{path}, line {case.line}: patient {case.patient!r} is in split {case.split!r} and in "
                f"{other.split!r} (line {other.line}); a patient belongs to one split"
            )


def further_columns(manifest: Manifest) -> dict[str, list[str]]:
    """Read the columns of a manifest's file that are the user's own, such as the age.

    Args:
        manifest: That was read from its file.

    Returns:
        By name the texts of the cases, for `write_manifest`.

    Raises:
        TonnoError: The file cannot be read any more.
    """
    names, rows = _read_rows(manifest.path, ("volume",))
    cells = {row.line: row.cells for row in rows}
    own = {"volume", *_PER_CLASS, "mask_label", "patient", "split", _column_name(manifest.target)}
    further = [name for name in names if name and name.partition(":")[0] not in own and name not in own]
    return {name: [cells.get(case.line, {}).get(name, "") for case in manifest.cases] for name in further}


def _cells(case: Case, folder: Path, with_masks: bool) -> list[str | float]:
    """Write the line of a case, for a manifest in ``folder``."""
    masks = []
    for index, mask in enumerate(case.masks if with_masks else ()):
        values = values_text(case.values_of(index))
        masks.append((relative_below(mask, folder) if mask else "") + (f"#{values}" if mask and values else ""))
    labels = case.labels or (case.number,)
    return [relative_below(case.volume, folder), *labels, *masks, case.patient, *([case.split] if case.split else [])]
