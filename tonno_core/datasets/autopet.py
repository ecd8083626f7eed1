"""FDG-PET-CT-Lesions as NIfTI: ``PETCT_*/STUDY/SUV.nii.gz``, ``CTres.nii.gz`` and ``SEG.nii.gz``."""

from __future__ import annotations

from pathlib import Path

from tonno_core.datasets.found import Found, Item, as_it_is
from tonno_core.errors import TonnoError

COLLECTION = "FDG-PET-CT-Lesions"
SUV, CT, MASK = "SUV.nii.gz", "CTres.nii.gz", "SEG.nii.gz"
BOTH = "both"
CHANNELS = {BOTH: (SUV, CT), "suv": (SUV,), "ct": (CT,)}
LAYOUT = f"{COLLECTION}/PETCT_*/STUDY/ with {SUV}, {CT} and {MASK}"


def find(source: Path, channel: str = BOTH) -> Found:
    """Find the studies.

    Args:
        source: The collection's folder, or one above it.
        channel: A key of `CHANNELS`.

    Returns:
        A study is an item: PET in SUV, and CT on its grid; positive where the mask is not empty.

    Raises:
        TonnoError: There are none, or they are in another layout.
    """
    roots = [source, source / COLLECTION, *sorted(source.glob(f"*/{COLLECTION}"))]
    images = CHANNELS[channel]
    patients = next((found for root in roots if (found := _folders(root, "PETCT_*"))), [])
    if not patients:
        raise TonnoError(f"{source}: {_other_layout(source)}; expected {LAYOUT}")
    items, missing = [], []
    for patient in patients:
        studies = _folders(patient, "*")
        missing += (
            [] if studies else [f"{patient}: no study in it; expected a folder with {', '.join(images)} and {MASK}"]
        )
        for study in studies:
            lacking = [name for name in (*images, MASK) if not (study / name).is_file()]
            if lacking:
                missing.append(f"{study}: no {' and no '.join(lacking)}; {_inside(study)}")
                continue
            first, *others = (study / name for name in images)
            items.append(Item(first, patient.name, None, study / MASK, channels=others))
    notes = ["volumes have two channels: PET in SUV, and CT in Hounsfield units on its grid"] if len(images) > 1 else []
    return Found(items, as_it_is, has_units=True, missing=missing, notes=notes, writes=len(images) > 1)


def _folders(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir() and not path.name.startswith("."))


def _inside(study: Path) -> str:
    """Say what is in a study's folder in place of what was expected."""
    names = sorted(path.name for path in study.iterdir())
    if any(study.glob("*/*.dcm")):
        return "found DICOM series: convert them by the publisher's tcia_dicom_to_nifti.py, or take the NIfTI copy"
    return f"found {', '.join(names[:6]) or 'nothing'}: download or convert the study again"


def _other_layout(source: Path) -> str:
    if any(source.glob("**/imagesTr")):
        return "found imagesTr, the nnU-Net layout of the later autoPET challenges"
    return "no folder PETCT_* in it"
