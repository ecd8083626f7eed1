#!/usr/bin/env bash
# SimpleITK 2.5.7: a BINARY DICOM SEG one of whose frames is off an even spacing by a micrometer is read with a spacing of
# 1 x 1 x 1 mm, in plane too, without a word.
#
# Expected: the pixel spacing that the file states, and the mean distance of its frames, as of a series of single slices.
# Seen: the spacing is (1, 1, 1); origin and direction are right. Scanners that round positions make such series, and
# segmentations copy their positions. With even frames all is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet highdicom==0.28.2 SimpleITK==2.5.7 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid

path = Path(tempfile.mkdtemp()) / "seg.dcm"


def spacing(off_mm):
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    slices = []
    for k in range(5):
        data = Dataset()
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
            setattr(data, name, "")
        data.StudyDate, data.StudyTime, data.Modality, data.Rows, data.Columns = "", "", "CT", 6, 8
        data.ImagePositionPatient = [0, 0, round(2.5 * k + (off_mm if k == 2 else 0), 6)]
        data.ImageOrientationPatient, data.PixelSpacing, data.SliceThickness = [1, 0, 0, 0, 1, 0], [0.8, 0.7], 2.5
        slices.append(data)
    segment = highdicom.seg.SegmentDescription(1, "x", codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
    made = highdicom.seg.Segmentation(
        slices, np.ones((5, 6, 8), np.uint8), "BINARY", [segment], generate_uid(), 1, generate_uid(), 1, "x", "x", "x", "x"
    )
    made.save_as(path)
    return tuple(round(mm, 3) for mm in sitk.ReadImage(str(path)).GetSpacing())


seen = {off: spacing(off) for off in (0, 0.001)}
print(seen)
sys.exit(0 if seen == {0: (0.7, 0.8, 2.5), 0.001: (1.0, 1.0, 1.0)} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
