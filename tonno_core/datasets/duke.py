"""Duke-Breast-Cancer-MRI: DICOM series in ``Breast_MRI_NNN``, and its publisher's tables of boxes and of files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.datasets.found import Found, Item, Outcome, Prepared
from tonno_core.datasets.intensity import statistics_of
from tonno_core.datasets.sides import SIDES, box_of, cut_at_middle
from tonno_core.datasets.table import find_table, read_table
from tonno_core.errors import TonnoError
from tonno_core.volume.dicom import find_series
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

BOXES, FILES, CLINICAL = (
    "Annotation_Boxes",
    "Breast-Cancer-MRI-filepath_filename-mapping",
    "Clinical_and_Other_Features",
)
LAYOUT = f"Duke-Breast-Cancer-MRI/Breast_MRI_NNN/ with DICOM series, beside {BOXES}.xlsx and {FILES}.xlsx (or .csv)"
_BOX = ("Start Row", "End Row", "Start Column", "End Column", "Start Slice", "End Slice")
_PATIENT, _UID, _FILE = "Patient ID", "sop_instance_UID", "original_path_and_filename"
_SIDE, _BILATERAL = "Tumor Location", "Bilateral Information"
_OTHER_BREAST = "contralateral breast involvement"
# DICOM_Images/Breast_MRI_001/pre/Breast_MRI_001_pre_012.dcm
_ORIGINAL = re.compile(r"(?:.*/)?(Breast_MRI_\d+)/([^/]+)/[^/]*?(\d+)\.dcm", re.IGNORECASE)
_WHOLE = re.compile(r"\d+(?:\.0*)?")
_CROSSES = "the box crosses the middle: the other breast is left out"
_IN_BOTH = "cancer in both breasts: the one without a box is left out"
_OTHER_SIDE = "the box lies in the other breast than the clinical table says"


@dataclass(frozen=True)
class Box:
    """A tumour's box as the table has it: rows, columns and slices from 1, the last included.

    Attributes:
        rows: First and last.
        columns: First and last.
        slices: First and last, by the numbers of the publisher's files.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    slices: tuple[int, int]

    def fill(self, shape: tuple[int, ...], numbers: Sequence[int]) -> npt.NDArray[np.bool_]:
        """Fill the box.

        Args:
            shape: Of the volume, Z Y X.
            numbers: The publisher's number of each slice along Z.

        Returns:
            Z Y X.

        Raises:
            ValueError: The box reaches out of the volume.
        """
        inside = np.array([self.slices[0] <= number <= self.slices[1] for number in numbers])
        (top, bottom), (first, last) = self.rows, self.columns
        if not inside.any() or not (1 <= top <= bottom <= shape[1] and 1 <= first <= last <= shape[2]):
            raise ValueError(
                f"rows {top} to {bottom}, columns {first} to {last}, slices {self.slices[0]} to {self.slices[1]} in "
                f"{shape[1]} rows, {shape[2]} columns, slices {min(numbers)} to {max(numbers)}"
            )
        mask = np.zeros(shape, dtype=np.bool_)
        mask[inside, top - 1 : bottom, first - 1 : last] = True
        return mask


def find(source: Path, sequence: str, *, progress: bool) -> Found:
    """Find the patients, with the tables that say which series is the sequence and where the tumour is.

    Args:
        source: The collection's folder, or one above it.
        sequence: Its name in the table of files, as "pre" or "post_1".
        progress: Whether to show a bar while tables are read.

    Returns:
        A patient is an item, which becomes two volumes: the breast with the box is positive, the other is negative.

    Raises:
        TonnoError: A table or all patients are missing, a table lacks a column, or it knows no such sequence.
    """
    patterns = ("Breast_MRI_*", "Duke-Breast-Cancer-MRI/Breast_MRI_*", "*/Duke-Breast-Cancer-MRI/Breast_MRI_*")
    patients = {path.name: path for pattern in patterns for path in sorted(source.glob(pattern)) if path.is_dir()}
    if not patients:
        raise TonnoError(f"{source}: no folder Breast_MRI_NNN in it; expected {LAYOUT}")
    folders = list(dict.fromkeys([source, *(path for patient in patients.values() for path in patient.parents[:2])]))
    boxes = _boxes(_table(source, folders, BOXES))
    numbers = _numbers(_table(source, folders, FILES), sequence, progress)
    clinical = find_table(folders, CLINICAL)
    facts = (
        {} if clinical is None else {row[_PATIENT]: row for row in read_table(clinical, (_PATIENT, _SIDE, _BILATERAL))}
    )
    notes = []
    if clinical is None:
        notes.append(
            f"no {CLINICAL}.xlsx or .csv beside the other tables: the other breast of a patient with cancer in both is "
            "taken for negative"
        )
    absent = [patient for patient in boxes if patient not in numbers]
    if absent:
        notes.append(f"left out, because {FILES} has no series {sequence} of them: {', '.join(absent)}")
    items, missing = [], []
    for patient, box in sorted(boxes.items()):
        if patient in absent:
            continue
        if patient not in patients:
            missing.append(f"{source}: no folder {patient}, which {BOXES} has a box for; download its series")
            continue
        row = facts.get(patient, {})
        columns = {"rows": box.rows, "columns": box.columns, "slices": box.slices}
        said = {name: f"{low}-{high}" for name, (low, high) in columns.items()}
        both = "1" in (row.get(_BILATERAL), row.get(_OTHER_BREAST))
        told = {"both": "1" if both else "", "location": row.get(_SIDE, "")}
        items.append(Item(patients[patient], patient, None, columns={"sequence": sequence, **said, **told}))
    unknown = sorted(patients.keys() - boxes.keys())
    if unknown:
        notes.append(f"left out, because {BOXES} has no box for them: {', '.join(unknown)}")

    def prepare(item: Item, folder: Path, stem: str) -> Outcome:
        return _breasts(item, boxes[item.patient], numbers[item.patient], folder / stem)

    return Found(items, prepare, has_units=False, missing=missing, notes=notes, writes=True)


# -------------------- tables


def _table(source: Path, folders: Sequence[Path], stem: str) -> Path:
    table = find_table(folders, stem)
    if table is None:
        raise TonnoError(
            f"{source}: no {stem}.xlsx or .csv in it; expected {LAYOUT}: download it from the collection's page"
        )
    return table


def _boxes(path: Path) -> dict[str, Box]:
    boxes: dict[str, Box] = {}
    for row in read_table(path, (_PATIENT, *_BOX)):
        patient, texts = row[_PATIENT], [row[name] for name in _BOX]
        if not all(_WHOLE.fullmatch(text) for text in texts):
            raise TonnoError(f"{path}: box of {patient!r} is {', '.join(texts)}; expected six whole numbers")
        if patient in boxes:
            raise TonnoError(f"{path}: patient {patient!r} has two boxes; expected one")
        top, bottom, first, last, start, end = (int(float(text)) for text in texts)
        boxes[patient] = Box((top, bottom), (first, last), (start, end))
    if not boxes:
        raise TonnoError(f"{path}: no box in it; expected a row for each patient")
    return boxes


def _numbers(path: Path, sequence: str, progress: bool) -> dict[str, dict[str, int]]:
    """Read the number of each slice of a sequence: by patient, and by the SOP instance UID."""
    numbers: dict[str, dict[str, int]] = {}
    others: set[str] = set()
    odd = ""
    for row in read_table(path, (_UID, _FILE), progress=progress):
        match = _ORIGINAL.fullmatch(row[_FILE].replace("\\", "/"))
        if match is None:
            odd = odd or row[_FILE]
            continue
        if match[2].casefold() == sequence.casefold():
            numbers.setdefault(match[1], {})[row[_UID]] = int(match[3])
        others.add(match[2])
    if not others:
        raise TonnoError(f"{path}: {_FILE} is {odd!r}; expected DICOM_Images/Breast_MRI_NNN/SEQUENCE/NAME_N.dcm")
    if not numbers:
        raise TonnoError(
            f"`sequence` {sequence}: {path} has none of this name; choose among {', '.join(sorted(others))}"
        )
    return numbers


# -------------------- a patient


def _breasts(item: Item, box: Box, numbers: Mapping[str, int], stem: Path) -> Outcome:
    """Cut a patient's volume into the breasts, and write them with the box as a mask."""
    series = _series(item.place, numbers, item.columns["sequence"])
    volume = read_volume(series)
    slices = [numbers.get(uid) for uid in map(_uid, find_series(series).files)]
    known = [number for number in slices if number is not None]
    if len(known) < len(slices):
        raise TonnoError(
            f"{series}: {len(slices) - len(known)} of {len(slices)} slices are not in {FILES}; download it again"
        )
    if len(known) < len(numbers):
        raise TonnoError(f"{series}: {len(known)} slices, {FILES} lists {len(numbers)}; download the series again")
    try:
        tumour = box.fill(volume.array.shape, known)
    except ValueError as error:
        raise TonnoError(f"{series}: the box of {item.patient} in {BOXES} is {error}; expected it inside") from error
    cut = cut_at_middle(volume)
    positive, *crossing = cut.sides_of(tumour)
    notes = [_CROSSES] if crossing else []
    notes += [_IN_BOTH] if item.columns["both"] and not crossing else []
    notes += [_OTHER_SIDE] if item.columns["location"] and item.columns["location"][:1].lower() != positive[0] else []
    negatives = [] if crossing or item.columns["both"] else [side for side in SIDES if side != positive]
    cases = []
    for side in (positive, *negatives):
        half = cut.half(volume, side)
        case = _write(stem, side, half, item)
        if side == positive:
            inside = np.ascontiguousarray(tumour[cut.slices(side)])
            mask = stem.with_name(f"{stem.name}-{side}-mask.nii.gz")
            write_volume(half.with_array(inside), mask, dtype="uint8")
            columns = {**case.columns, "box": box_of(inside, half.ijk_to_ras)}
            case = dataclasses.replace(case, label=1, mask=str(mask), columns=columns)
        cases.append(case)
    return Outcome(tuple(sorted(cases, key=lambda case: case.volume)), (series,), tuple(notes))


def _write(stem: Path, side: str, half: Volume, item: Item) -> Prepared:
    path = stem.with_name(f"{stem.name}-{side}.nii.gz")
    write_volume(half, path)
    return Prepared(str(path), item.patient, 0, "", "", {"side": side, "box": ""}, statistics_of(half))


def _series(patient: Path, numbers: Mapping[str, int], sequence: str) -> Path:
    """Find the folder of a sequence, whatever the folders are called: one of its files tells."""
    count = 0
    for folder in _holding_files(patient):
        first = next((file for file in sorted(folder.iterdir()) if file.is_file() and _uid(file)), None)
        count += first is not None
        if first is not None and _uid(first) in numbers:
            return folder
    raise TonnoError(f"{patient}: none of its {count} DICOM series is {sequence} by {FILES}; download that series")


def _holding_files(folder: Path) -> Iterator[Path]:
    below = sorted(path for path in folder.rglob("*") if path.is_dir())
    yield from (path for path in (folder, *below) if any(file.is_file() for file in path.iterdir()))


def _uid(file: Path) -> str:
    """Read a file's SOP instance UID, "" where it is no DICOM."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        return str(dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID"]).get("SOPInstanceUID", ""))
    except (InvalidDicomError, OSError):
        return ""
