#!/usr/bin/env bash
# dcmqi 1.5.7, segimage2itkimage: dark colors of segments are read as others, some of them as numbers beyond 255.
#
# Expected: RecommendedDisplayCIELabValue as red, green, blue within a few units, 0 to 255, as dcmqi reads bright colors.
# Seen: black-blue (0, 0, 80) is read as (4294967206, 51, 78), whose first number no color has and JSON readers take as it
# is; dark gray (20, 20, 20) as (44, 44, 44); brown (60, 20, 0) as (53, 22, 39).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dcmqi==1.5.7 highdicom==0.28.2 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid

folder = Path(tempfile.mkdtemp())
mask = np.zeros((5, 6, 8), np.uint8)
mask[1, 2, 3] = 1


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


def read(color):
    """The color that dcmqi reads."""
    path = folder / "-".join(map(str, color))
    path.mkdir()
    segment = highdicom.seg.SegmentDescription(
        1, "x", codes.SCT.Organ, codes.SCT.Liver, "MANUAL", display_color=highdicom.color.CIELabColor.from_rgb(*color)
    )
    highdicom.seg.Segmentation(
        headers(6, 8, [0, 2.5, 5, 7.5, 10]), mask, "BINARY", [segment], generate_uid(), 1, generate_uid(), 1, "x", "x", "x", "x"
    ).save_as(path / "seg.dcm")
    call = "import sys, dcmqi; sys.exit(dcmqi.segimage2itkimage())"
    words = ["--inputDICOM", str(path / "seg.dcm"), "--outputDirectory", str(path), "--outputType", "nrrd"]
    subprocess.run([sys.executable, "-c", call, *words], capture_output=True, check=True)
    (about,) = path.glob("*.json")
    return tuple(json.loads(about.read_text())["segmentAttributes"][0][0]["recommendedDisplayRGBValue"])


seen = {color: read(color) for color in ((255, 0, 0), (0, 128, 0), (0, 0, 80), (20, 20, 20), (60, 20, 0))}
for color, found in seen.items():
    print(f"{color}: read as {found}")
expected = [(255, 0, 0), (0, 128, 0), (4294967206, 51, 78), (44, 44, 44), (53, 22, 39)]
sys.exit(0 if list(seen.values()) == expected else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
