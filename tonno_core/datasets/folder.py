"""A data set of one's own: BIDS, or one folder for each case."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tonno_core.cohort.find import find_volumes, is_mask, is_result
from tonno_core.datasets.found import Found, Item, as_it_is
from tonno_core.datasets.halves import checked_split, require_all_splits
from tonno_core.datasets.table import read_table
from tonno_core.errors import TonnoError
from tonno_core.words import is_finding, is_image_file, is_no_finding, is_not_known, spelling

LAYOUT = "BIDS (sub-*/...), or one folder for each case with an image and, if there is one, a mask in it"
_PERSON = ("participant_id", "patient", "subject", "case", "id")
# BIDS: x_dseg.nii.gz, x_roi.nii.gz, x_label-lesion_mask.nii.gz.
_BIDS_MASK = re.compile(r"_(?:dseg|probseg|roi)\b|(?<![a-z])lesions?(?:[-_]roi)?\.nii", re.IGNORECASE)
_BESIDE = ("derivatives", "sourcedata", "code", "stimuli", "phenotype")
_SHOWN = 6


def find(source: Path, *, table: Path | None, label: str, image: str, mask: str) -> Found:
    """Find the cases of a folder.

    Args:
        source: The folder.
        table: With the labels; None for ``participants.tsv`` where it has the column, else masks decide.
        label: Column of the table, "" for ``label``.
        image: Part of the image's name, where a case has several; "" for the only one.
        mask: Part of the mask's name, likewise.

    Returns:
        The cases.

    Raises:
        TonnoError: There are none, one has several images or masks, or labels are missing or no labels.
    """
    if not source.is_dir():
        raise TonnoError(f"{source}: no such folder; expected {LAYOUT}")
    folders = [path for path in sorted(source.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    subjects = [path for path in folders if path.name.startswith("sub-")]
    bids = bool(subjects)
    places = [place for path in subjects for place in _sessions(path)] if bids else folders
    places = places if bids else [place for place in places if place.name not in _BESIDE]
    if not places:
        raise TonnoError(f"{source}: no folder in it; expected {LAYOUT}")
    labels = _labels(source, table, label)
    items, missing = [], []
    for place in places:
        person = place.parent if bids and place.name.startswith("ses-") else place
        known = labels.get(spelling(person.name.removeprefix("sub-")))
        if labels and known is None:
            missing.append(
                f"{place}: {person.name} has no row with a label in the table; add it, or move the folder away"
            )
            continue
        images, masks = _files(source, place)
        chosen = _only(place, images, image, "image")
        found = _only(place, masks, mask, "mask")
        if chosen is None:
            missing.append(
                f"{place}: no image{_with(image)} in it; {_found(images)}; expected a NIfTI file or the like"
            )
        elif known is None and found is None:
            missing.append(
                f"{place}: no mask{_with(mask)} in it, and no table; {_found(masks)}; give `table`, or a mask"
            )
        else:
            value, split = known[:2] if known else (None, "")
            items.append(Item(chosen, person.name, value, found, split))
    require_all_splits(items, table or source)
    people = {spelling(path.name.removeprefix("sub-")) for path in (subjects if bids else folders)}
    rows = [name for key, (*_, name) in labels.items() if key not in people]
    notes = [f"rows of the table without a folder, left out: {', '.join(rows[:_SHOWN])}"] if rows else []
    notes += [] if labels else ["positive means that the mask is not empty"]
    return Found(items, as_it_is, has_units=False, missing=missing, notes=notes)


# -------------------- files


def _sessions(subject: Path) -> list[Path]:
    sessions = sorted(path for path in subject.glob("ses-*") if path.is_dir())
    return sessions or [subject]


def _files(source: Path, place: Path) -> tuple[list[Path], list[Path]]:
    """Find images and masks of a case; BIDS has masks in derivatives."""
    masks = _masks(place, place)
    for derived in sorted(source.glob(f"derivatives/**/{place.relative_to(source)}")):
        masks += _masks(derived, source / "derivatives")
    try:
        images = [listed.volume for listed in find_volumes([place], [])]
    except TonnoError:  # there is none
        images = []
    return [file for file in images if file not in {mask.absolute() for mask in masks}], masks


def _masks(folder: Path, root: Path) -> list[Path]:
    """Find what is called a mask below a folder, by its name and those of its folders up to a root."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file() and is_image_file(file.name))
    called = (file for file in files if is_mask(file.relative_to(root)) or _BIDS_MASK.search(file.name))
    return [file for file in called if not is_result(file) and not file.name.startswith(".")]


def _only(place: Path, files: Sequence[Path], part: str, kind: str) -> Path | None:
    """Choose the only file, or the only one whose name has a part; None where there is none."""
    chosen = [file for file in files if part.casefold() in file.name.casefold()]
    if len(chosen) > 1:
        names = ", ".join(file.name for file in chosen[:_SHOWN])
        raise TonnoError(
            f"{place}: {len(chosen)} {kind}s{_with(part)}: {names}; choose one by a part of its name, `{kind}`"
        )
    return chosen[0] if chosen else None


def _with(part: str) -> str:
    return f" with {part!r} in its name" if part else ""


def _found(files: Sequence[Path]) -> str:
    return f"found {', '.join(file.name for file in files[:_SHOWN]) or 'none'}"


# -------------------- labels


def _labels(source: Path, table: Path | None, column: str) -> dict[tuple[str, ...], tuple[int, str, str]]:
    """Read the label, the split where there is one, and the name of each person; empty where masks decide."""
    path, asked, column = table or source / "participants.tsv", bool(table or column), column or "label"
    if not asked and not path.is_file():
        return {}
    try:
        rows = list(read_table(path, (column,), advice="name the column so, or say by `label` which it is"))
    except TonnoError:
        if asked:
            raise
        return {}
    if not rows:
        return {}
    person = next((name for name in _PERSON if name in rows[0]), None)
    if person is None:
        raise TonnoError(
            f"{path}: no column {', '.join(_PERSON)}; found {', '.join(rows[0])}; name the cases' column so"
        )
    names: dict[str, str] = {}  # with the first person of each
    for row in rows:
        if not (is_finding(row[column]) or is_no_finding(row[column])):
            names.setdefault(row[column], row[person])
    if len(names) > 1 or any(is_not_known(name) for name in names):
        told = ", ".join(f"{name!r} of {whose}" for name, whose in sorted(names.items())[:_SHOWN])
        raise TonnoError(
            f"{path}: {column} is {told}; expected 0 and 1, or one name and words for no finding; leave out cases "
            "whose label is not known"
        )
    labels: dict[tuple[str, ...], tuple[int, str, str]] = {}
    for row in rows:
        key = spelling(row[person].removeprefix("sub-"))
        value = (
            int(not is_no_finding(row[column])),
            checked_split(row.get("split", ""), f"{path}: split of {row[person]}"),
        )
        if labels.setdefault(key, (*value, row[person]))[:2] != value:
            raise TonnoError(f"{path}: {row[person]} has two rows that differ; expected one label and one split")
    return labels
