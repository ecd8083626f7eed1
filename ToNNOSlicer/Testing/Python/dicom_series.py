"""DICOM series of the tests' volumes, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scenes import GRIDS, SHAPE_ZYX, image


def writeSeries(folder: Path, reverse: bool = False, ijkToRAS: np.ndarray = GRIDS["oblique"]) -> list[Path]:
    """A CT series of a grid's slices; the files run along k, or against it."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    lps = np.diag([-1, -1, 1, 1]) @ ijkToRAS
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for k in range(SHAPE_ZYX[0])[:: -1 if reverse else 1]:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientID, data.PatientName = "phantom", "phantom^"
        data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.StudyID = ""
        data.AccessionNumber = data.ReferringPhysicianName = data.PositionReferenceIndicator = data.Manufacturer = ""
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, len(paths) + 1
        data.ImagePositionPatient = [f"{mm:.9f}"[:16] for mm in (lps @ (0, 0, k, 1))[:3]]
        data.ImageOrientationPatient = [f"{c:.12f}"[:16] for a in (0, 1) for c in lps[:3, a] / spacing[a]]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, (data.Rows, data.Columns) = 15, SHAPE_ZYX[1:]
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        data.PixelData = image()[k].astype(np.uint16).tobytes()
        paths.append(folder / f"{k:03}.dcm")
        pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths
