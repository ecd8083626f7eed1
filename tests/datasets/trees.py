"""Small data sets in their publishers' layouts, written with nibabel, pydicom and csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

Array = npt.NDArray[Any]
AFFINE = np.diag([-3.0, 3.0, 4.0, 1.0])  # as dicom2nifti writes: left to the patient's left, LAS
STUDY = "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-1044"
BOX_COLUMNS = ("Start Row", "End Row", "Start Column", "End Column", "Start Slice", "End Slice")


def body(seed: int, scale: float = 1.0, size: tuple[int, int, int] = (12, 10, 8)) -> Array:
    """A body in air: i j k."""
    rng = np.random.default_rng(seed)
    array = np.zeros(size)
    array[2:-2, 2:-2, 1:-1] = scale * rng.uniform(1, 3, tuple(n - m for n, m in zip(size, (4, 4, 2), strict=True)))
    return array


def write_nifti(path: Path, array: Array, affine: Array = AFFINE, dtype: str = "float32") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array.astype(dtype), affine).to_filename(path)


def write_rows(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)


def write_workbook(path: Path, rows: Sequence[Sequence[object]]) -> None:
    from openpyxl import Workbook

    book = Workbook()
    for row in rows:
        book.active.append(list(row))
    book.save(path)


def lesion(size: tuple[int, int, int] = (12, 10, 8)) -> Array:
    mask = np.zeros(size)
    mask[3:5, 4:6, 3:5] = 1
    return mask


def write_study(folder: Path, seed: int, positive: bool) -> None:
    """A study of FDG-PET-CT-Lesions, with all five files."""
    mask = lesion() if positive else np.zeros((12, 10, 8))
    pet = body(seed, 2.0) + 10 * mask
    write_nifti(folder / "SUV.nii.gz", pet)
    write_nifti(folder / "PET.nii.gz", 1000 * pet)
    write_nifti(folder / "CTres.nii.gz", 50 * body(seed) - 1024, dtype="float64")
    write_nifti(folder / "CT.nii.gz", 50 * body(seed, size=(24, 20, 8)) - 1024, np.diag([-1.5, 1.5, 4.0, 1.0]), "int16")
    write_nifti(folder / "SEG.nii.gz", mask, dtype="uint8")


def write_autopet(folder: Path, patients: int = 8) -> Path:
    """FDG-PET-CT-Lesions: every second patient is positive, and the first one has a second study without a lesion."""
    root = folder / "FDG-PET-CT-Lesions"
    for number in range(patients):
        write_study(root / f"PETCT_{number:010x}" / f"{STUDY}{number}", number, number % 2 == 0)
    write_study(root / f"PETCT_{0:010x}" / "05-06-2005-NA-PET-CT Ganzkoerper nativ u. mit KM-95034", 99, False)
    write_rows(root / "fdg_metadata.csv", [["Subject ID", "diagnosis"], ["PETCT_0000000000", "MELANOMA"]])
    return root


def write_mosmed(folder: Path, counts: Sequence[int] = (9, 12, 3, 2, 1), masks: int = 4) -> Path:
    """COVID19_1110: numbered through, from CT-0 to CT-4; the first of CT-1 have masks."""
    root, number = folder / "COVID19_1110", 0
    for severity, count in enumerate(counts):
        for place in range(count):
            number += 1
            name = f"study_{number:04d}"
            scan = 300 * body(number) - 1024
            write_nifti(root / "studies" / f"CT-{severity}" / f"{name}.nii.gz", scan, dtype="int16")
            if severity == 1 and place < masks:
                write_nifti(root / "masks" / f"{name}_mask.nii.gz", lesion(), dtype="uint8")
    write_rows(root / "README_EN.md", [["MosMedData"]])
    return root


# -------------------- Duke-Breast-Cancer-MRI

ROWS, COLUMNS, SLICES = 10, 14, 8


def write_series(
    folder: Path, patient: str, seed: int, *, axes: Sequence[float] = (1, 0, 0, 0, 1, 0), upwards: bool = True
) -> tuple[list[str], Array]:
    """An axial series whose files are numbered in the order of their slices; UIDs in this order, and its pixels."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    pixels = np.zeros((SLICES, ROWS, COLUMNS), dtype=np.uint16)
    pixels[:, 1:-1, 1:-1] = rng.integers(100, 300, (SLICES, ROWS - 2, COLUMNS - 2))
    uids, series = [], generate_uid(entropy_srcs=[patient, str(seed)])
    for number in range(1, SLICES + 1):
        uid = generate_uid(entropy_srcs=[patient, str(seed), str(number)])
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = MRImageStorage, uid
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID, data.SeriesInstanceUID = MRImageStorage, uid, series
        data.StudyInstanceUID, data.Modality, data.PatientID = "1.2.3", "MR", patient
        data.InstanceNumber = number
        step = number if upwards else -number
        corner = np.array([-20.0, -30.0, 2.0 * step])
        # With axes to the right or front, the first pixel lies at the other end of the same field of view.
        corner -= [3.0 * (COLUMNS - 1) * min(axes[0], 0), 3.0 * (ROWS - 1) * min(axes[4], 0), 0]
        data.ImagePositionPatient = [f"{value:.3f}" for value in corner]
        data.ImageOrientationPatient = [f"{value:g}" for value in axes]
        data.PixelSpacing, data.SliceThickness = ["3", "3"], "2"
        data.Rows, data.Columns, data.SamplesPerPixel = ROWS, COLUMNS, 1
        data.PhotometricInterpretation, data.PixelRepresentation = "MONOCHROME2", 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelData = pixels[number - 1].tobytes()
        data.save_as(folder / f"1-{number:02d}.dcm", enforce_file_format=True)
        uids.append(uid)
    return uids, pixels


def write_duke(
    folder: Path, boxes: Mapping[str, Sequence[int]], *, workbooks: bool = False, **options: Any
) -> dict[str, Array]:
    """A download of Duke-Breast-Cancer-MRI by the NBIA data retriever, with the tables beside; pixels by patient."""
    root = folder / "manifest-1654812109500" / "Duke-Breast-Cancer-MRI"
    files: list[list[object]] = [["original_path_and_filename", "sop_instance_UID", "classic_path", "descriptive_path"]]
    arrays = {}
    for seed, patient in enumerate(boxes):
        for part, sequence in enumerate(("pre", "post_1")):
            study = root / patient / "01-01-1990-NA-MRI BREAST BILATERAL WWO-97538"
            place = study / f"{part + 2}.000000-ax dyn {sequence}-9387{part}"
            uids, pixels = write_series(place, patient, 10 * seed + part, **options)
            for number, uid in enumerate(uids, start=1):
                original = f"DICOM_Images/{patient}/{sequence}/{patient}_{sequence}_{number:03d}.dcm"
                files.append(
                    [original, uid, f"Duke-Breast-Cancer-MRI/{patient}/1.2.3/1.2.{part}/1-{number:02d}.dcm", ""]
                )
        arrays[patient] = pixels
    (root / "LICENSE").write_text("CC BY-NC 4.0")
    tables = {
        "Annotation_Boxes": [["Patient ID", *BOX_COLUMNS], *([name, *box] for name, box in boxes.items())],
        "Breast-Cancer-MRI-filepath_filename-mapping": files,
    }
    for name, rows in tables.items():
        if workbooks:
            write_workbook(folder / f"{name}.xlsx", rows)
        else:
            write_rows(folder / f"{name}.csv", rows)
    return arrays


def write_clinical(folder: Path, told: Mapping[str, tuple[str, object]]) -> None:
    """Clinical_and_Other_Features: groups, names and meanings of columns in three rows; the side, and bilateral."""
    rows: list[list[object]] = [
        ["Patient Information", "", "Tumor Characteristics", "", "MRI Findings"],
        [
            "Patient ID",
            "Date of Birth (Days)",
            "Tumor Location",
            "Bilateral Information",
            "Contralateral Breast Involvement",
        ],
        ["", "(Taking date of diagnosis as day 0)", "", "{0=no,1=yes,NC}", "{0 = no, 1 = yes}"],
        *(
            [patient, -15000, side, bilateral, int(patient.endswith("6"))]
            for patient, (side, bilateral) in told.items()
        ),
    ]
    write_rows(folder / "Clinical_and_Other_Features.csv", rows)


# -------------------- results


def manifest_rows(output: Path) -> list[dict[str, str]]:
    with (output / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
