#!/usr/bin/env bash
# SimpleITK 2.5.7, ImageSeriesReader: a CT series with a tilted gantry is read as if its slices were stacked at right
# angles, without a word.
#
# Expected: each slice where its ImagePositionPatient says, or a refusal, as an image of ITK holds no shear.
# Seen: at 20 degrees the last of 20 slices is 17 mm off: the images' direction is straight and the distance of slices is the
# length of the oblique step. Neither GetGDCMSeriesFileNames nor the reader warns. slicer-core keeps the shear.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet SimpleITK==2.5.7 pydicom==3.0.2 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import math
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

folder, count, apart = Path(tempfile.mkdtemp()), 20, 2.5
step = apart * math.tan(math.radians(20))  # along the rows' normal, from slice to slice
study, series, frame = generate_uid(), generate_uid(), generate_uid()
for k in range(count):
    data, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    data.Modality, data.InstanceNumber, data.GantryDetectorTilt = "CT", k + 1, 20
    data.ImagePositionPatient = [0, round(step * k, 6), apart * k]
    data.ImageOrientationPatient, data.PixelSpacing, data.SliceThickness = [1, 0, 0, 0, 1, 0], [0.8, 0.8], apart
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.Rows, data.Columns = 15, 16, 16
    pixels = np.zeros((16, 16), np.int16)
    pixels[5, 6] = k + 1
    data.PixelData, data.file_meta = pixels.tobytes(), meta
    pydicom.dcmwrite(folder / f"{k:03}.dcm", data, enforce_file_format=True)

reader = sitk.ImageSeriesReader()
reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
image = reader.Execute()
array, off = sitk.GetArrayFromImage(image), []
for k in range(count):
    ((z, y, x),) = np.argwhere(array == k + 1).tolist()
    place = image.TransformIndexToPhysicalPoint((x, y, z))
    off.append(float(np.linalg.norm(np.subtract(place, (6 * 0.8, step * k + 5 * 0.8, apart * k)))))
straight = image.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)
print(f"direction straight: {straight}, spacing {image.GetSpacing()[2]:.3f} mm, last slice off by {off[-1]:.1f} mm")
sys.exit(0 if straight and abs(image.GetSpacing()[2] - math.hypot(apart, step)) < 1e-3 and off[-1] > 15 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
