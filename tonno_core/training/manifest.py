"""The list of training volumes and their volume-level labels: CSV ``volume,label[,mask,patient,split]``."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from tonno_core.errors import TonnoError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Case:
    """One line. Paths are absolute; ``mask`` is for evaluation only and never opened by training."""

    volume: Path
    label: int
    mask: Path | None
    patient: str
    split: str


def read_manifest(path: Path) -> list[Case]:
    """Read a manifest; paths in it are relative to its folder.

    ``split`` is ``train`` where the column is missing or empty; ``patient`` is the volume's name then.
    Raises TonnoError that names the line: bad label, missing file, a patient in two splits, a training
    split with one class only.
    """
    if not path.is_file():
        raise TonnoError(f"{path}: no such manifest, expected a CSV with the columns volume,label")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"volume", "label"} - set(reader.fieldnames or [])
            if missing:
                raise TonnoError(
                    f"{path}: column {' and '.join(sorted(missing))} missing, found "
                    f"{', '.join(reader.fieldnames or [])}; expected volume,label[,mask,patient,split]"
                )
            cases = []
            split_of: dict[str, str] = {}
            for row in reader:
                cases.append(_case(row, path, reader.line_num))
                _check_patient(cases[-1], split_of, path, reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TonnoError(f"{path}: not readable as CSV ({error})") from error
    for label in (0, 1):
        if not any(case.label == label and case.split == "train" for case in cases):
            raise TonnoError(f"{path}: no training volume has label {label}; training needs both classes")
    return cases


def _case(row: dict[str, str | None], path: Path, line: int) -> Case:
    label = (row.get("label") or "").strip()
    if label not in ("0", "1"):
        raise TonnoError(f"{path}, line {line}: label is {label!r}, expected 0 or 1")
    name = (row.get("volume") or "").strip()
    volume = path.parent / name
    if not name or not volume.exists():
        raise TonnoError(f"{path}, line {line}: volume {name!r} does not exist (paths are relative to the manifest)")
    split = (row.get("split") or "").strip() or "train"
    if split not in SPLITS:
        raise TonnoError(f"{path}, line {line}: split is {split!r}, expected {', '.join(SPLITS)} or nothing")
    mask = (row.get("mask") or "").strip()
    return Case(
        volume=volume.absolute(),
        label=int(label),
        mask=(path.parent / mask).absolute() if mask else None,
        patient=(row.get("patient") or "").strip() or name,
        split=split,
    )


def _check_patient(case: Case, split_of: dict[str, str], path: Path, line: int) -> None:
    if split_of.setdefault(case.patient, case.split) != case.split:
        raise TonnoError(
            f"{path}, line {line}: patient {case.patient!r} is in split {case.split!r} and in "
            f"{split_of[case.patient]!r}; a patient belongs to one split"
        )
