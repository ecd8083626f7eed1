"""MosMedData COVID19_1110: ``studies/CT-0`` to ``studies/CT-4`` with a file for each patient, and ``masks/``."""

from __future__ import annotations

from pathlib import Path

from tonno_core.datasets.found import Found, Item, as_it_is
from tonno_core.errors import TonnoError
from tonno_core.words import without_ending

CLASSES = tuple(f"CT-{severity}" for severity in range(5))
STUDIES, MASKS = 1110, 50  # as published
LAYOUT = "COVID19_1110/studies/CT-0 to CT-4 with study_NNNN.nii.gz, and COVID19_1110/masks with study_NNNN_mask.nii.gz"
_ENDINGS = (".nii.gz", ".nii")


def find(source: Path) -> Found:
    """Find the studies: CT-0 is negative, CT-1 to CT-4 are positive; all with a mask are for validation.

    Args:
        source: The data set's folder, or one above it.

    Returns:
        The studies; each is a patient of its own, as the data set names none.

    Raises:
        TonnoError: There are none.
    """
    roots = [
        source,
        source / "studies",
        *sorted(source.glob("COVID19_1110*/studies")),
        *sorted(source.glob("COVID19_1110*")),
    ]
    root = next((root for root in roots if any((root / name).is_dir() for name in CLASSES)), None)
    if root is None:
        raise TonnoError(f"{source}: no folder CT-0 in it, nor in studies in it; expected {LAYOUT}")
    missing = [f"{root / name}: no such folder; expected {LAYOUT}" for name in CLASSES if not (root / name).is_dir()]
    folder = next((place for place in (root / "masks", root.parent / "masks") if place.is_dir()), None)
    masks = {} if folder is None else {name.removesuffix("_mask"): file for name, file in _images(folder).items()}
    if not masks:
        missing.append(f"{folder or root.parent / 'masks'}: no masks there; expected {MASKS}, study_NNNN_mask.nii.gz")
    items = []
    for severity in CLASSES:
        studies = _images(root / severity)
        if not studies and (root / severity).is_dir():
            missing.append(f"{root / severity}: no study in it; expected study_NNNN.nii.gz")
        for name, file in studies.items():
            mask = masks.pop(name, None)
            label = int(severity != CLASSES[0])
            items.append(Item(file, name, label, mask, "val" if mask else "", columns={"severity": severity}))
    missing += [f"{file}: no study {name} for this mask in {root}" for name, file in masks.items()]
    masked = sum(item.mask is not None for item in items)
    notes = [f"{masked} studies have a mask; all of them are in split val"]
    if len(items) != STUDIES or masked != MASKS:
        notes.append(f"{len(items)} studies and {masked} masks are here; the publisher lists {STUDIES} and {MASKS}")
    return Found(items, as_it_is, has_units=True, missing=missing, notes=notes)


def _images(folder: Path) -> dict[str, Path]:
    """Find the files of a folder by their names without the ending; of two, the packed one."""
    files: dict[str, Path] = {}
    for ending in _ENDINGS:
        for file in sorted(folder.glob(f"*{ending}")):
            if not file.name.startswith("."):
                files.setdefault(without_ending(file.name), file)
    return dict(sorted(files.items()))
