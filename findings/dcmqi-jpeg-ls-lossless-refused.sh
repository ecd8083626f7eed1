#!/usr/bin/env bash
# dcmqi 1.5.7, segimage2itkimage: a DICOM SEG compressed with JPEG-LS Lossless (1.2.840.10008.1.2.4.80) is refused, because
# "Transfer syntax JPEG-LS Lossless uses lossy compression".
#
# Expected: the mask, as with RLE: the syntax loses nothing, and the standard allows it for segmentations of whole bytes
# (LABELMAP and FRACTIONAL).
# Seen: exit code 1 and no image; the same mask with RLE is read. highdicom reads both. 3D Slicer reads segmentations by dcmqi.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dcmqi==1.5.7 highdicom==0.28.2 pyjpegls SimpleITK==2.5.7 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, JPEGLSLossless, RLELossless, generate_uid

folder = Path(tempfile.mkdtemp())
mask = np.zeros((5, 32, 40), np.uint8)
mask[1, 2:9, 3:12] = 1


def headers(rows, columns, heights):
    """A CT series without pixels: axial, 0.8 mm between rows, 0.5 mm between columns."""
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for height in heights:
        data = Dataset()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(data, name, "")
        data.StudyDate, data.StudyTime, data.Modality, data.Rows, data.Columns = "", "", "CT", rows, columns
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, height], [1, 0, 0, 0, 1, 0]
        data.PixelSpacing, data.SliceThickness = [0.8, 0.5], 2.5
        slices.append(data)
    return slices


def read(syntax):
    """What dcmqi and highdicom say to a mask."""
    segment = highdicom.seg.SegmentDescription(1, "x", codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
    path, output = folder / f"{syntax}.dcm", folder / syntax
    output.mkdir()
    highdicom.seg.Segmentation(
        headers(32, 40, [0, 2.5, 5, 7.5, 10]), mask, "LABELMAP", [segment], generate_uid(), 1, generate_uid(), 1,
        "x", "x", "x", "x", transfer_syntax_uid=syntax, omit_empty_frames=False,
    ).save_as(path)
    frames = highdicom.imread(path).get_frames()
    call = "import sys, dcmqi; sys.exit(dcmqi.segimage2itkimage())"
    words = ["--inputDICOM", str(path), "--outputDirectory", str(output), "--outputType", "nrrd"]
    done = subprocess.run([sys.executable, "-c", call, *words], capture_output=True, text=True, check=False)
    isCalledLossy = "uses lossy compression" in done.stdout + done.stderr
    return done.returncode, len(list(output.glob("*.nrrd"))), isCalledLossy, int((frames > 0).sum()) == int(mask.sum())


seen = {syntax.name: read(syntax) for syntax in (RLELossless, JPEGLSLossless)}
for name, (status, images, isCalledLossy, isWhole) in seen.items():
    print(f"{name}: status {status}, images {images}, called lossy {isCalledLossy}, highdicom reads the mask {isWhole}")
sys.exit(0 if list(seen.values()) == [(0, 1, False, True), (1, 0, True, True)] else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
