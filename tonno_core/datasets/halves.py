"""Any scans with a column that says which side has the finding: each is cut at the middle of the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tonno_core.cohort.manifest import SPLITS
from tonno_core.cohort.places import locate, missing
from tonno_core.datasets.found import Found, Item, Outcome, Prepared, on_grid
from tonno_core.datasets.intensity import statistics_of
from tonno_core.datasets.sides import SIDES, cut_at_middle
from tonno_core.datasets.table import read_table
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_mask, read_volume, write_volume
from tonno_core.words import is_no_finding

LAYOUT = "a table with the columns volume, laterality and, if there are any, mask, patient and split"
_WORDS = {
    "left": ("left",), "l": ("left",), "right": ("right",), "r": ("right",),
    "both": SIDES, "bilateral": SIDES, "b": SIDES, "left and right": SIDES, "l/r": SIDES, "lr": SIDES,
}  # fmt: skip


def find(source: Path, column: str) -> Found:
    """Find the scans of a table.

    Args:
        source: The table, or the folder that holds it as ``manifest.csv``; paths in it are relative to it.
        column: Which says the side: left, right, both, or a word for no finding.

    Returns:
        A scan is an item, which becomes two volumes.

    Raises:
        TonnoError: There is no such table, or a cell is none of these.
    """
    path = source / "manifest.csv" if source.is_dir() else source
    if not path.is_file():
        raise TonnoError(f"{path}: no such table; expected {LAYOUT}")
    items, lost = [], []
    for row in read_table(path, ("volume", column), advice="name the columns so, or say by `label` which has the side"):
        volume = locate(path.parent, row["volume"])
        sides = _sides(row[column])
        if sides is None:
            raise TonnoError(
                f"{path}: {column} of {row['volume']} is {row[column]!r}; expected left, right, both or none; leave "
                "out scans whose side is not known"
            )
        mask = locate(path.parent, row["mask"]) if row.get("mask") else None
        names = [row["volume"], *([row["mask"]] if mask else [])]
        absent = [name for name in names if not locate(path.parent, name).exists()]
        if absent:
            lost += [f"{path}: {name} does not exist {missing(path.parent, name)}" for name in absent]
            continue
        columns = {"sides": " ".join(sides)}
        split = checked_split(row.get("split", ""), f"{path}: split of {row['volume']}")
        items.append(Item(volume, row.get("patient") or row["volume"], None, mask, split, columns=columns))
    require_all_splits(items, path)
    return Found(items, _halves, has_units=False, missing=lost, writes=True)


def checked_split(text: str, where: str) -> str:
    """Read the split of a table's row.

    Args:
        text: The cell.
        where: It is, for the message.

    Returns:
        "train", "val", "test" or "".

    Raises:
        TonnoError: It is something else.
    """
    if text.lower() not in ("", *SPLITS):
        raise TonnoError(f"{where} is {text!r}; expected {', '.join(SPLITS)}")
    return text.lower()


def require_all_splits(items: list[Item], path: Path) -> None:
    """Refuse a table that states the split of some scans only.

    Args:
        items: The scans.
        path: The table.

    Raises:
        TonnoError: It does.
    """
    without = [item for item in items if not item.split]
    if without and len(without) < len(items):
        raise TonnoError(f"{path}: no split for {without[0].place}, but for others; state it for all scans or for none")


def _sides(text: str) -> tuple[str, ...] | None:
    word = text.strip().casefold()
    if word in _WORDS:
        return _WORDS[word]
    return () if word and is_no_finding(word) else None


def _halves(item: Item, folder: Path, stem: str) -> Outcome:
    """Cut a scan, and its mask where there is one, and write the halves."""
    volume = read_volume(item.place)
    mask = None if item.mask is None else on_grid(item.mask, read_mask(item.mask), volume)
    cut = cut_at_middle(volume)
    positive = item.columns["sides"].split()
    cases, notes = [], []
    for side in SIDES:
        path, mask_path = folder / f"{stem}-{side}.nii.gz", folder / f"{stem}-{side}-mask.nii.gz"
        half, label = cut.half(volume, side), int(side in positive)
        write_volume(half, path)
        voxels = 0
        if mask is not None:
            part = cut.half(mask, side)
            voxels = int(np.count_nonzero(part.array))
            write_volume(half.with_array(part.array), mask_path, dtype="uint8")
            notes += ["a half is labelled negative, but the mask reaches into it"] if voxels and not label else []
            notes += (
                ["a half is labelled positive, but the mask does not reach into it"] if label and not voxels else []
            )
        columns = {"side": side, "finding_voxels": str(voxels) if mask is not None else ""}
        kept = str(mask_path) if mask is not None else ""
        cases.append(Prepared(str(path), item.patient, label, kept, item.split, columns, statistics_of(half)))
    return Outcome(tuple(cases), (item.place, *([item.mask] if item.mask else [])), tuple(notes))
