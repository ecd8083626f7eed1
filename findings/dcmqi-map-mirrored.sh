#!/usr/bin/env bash
# dcmqi 1.5.7, paramap2itkimage: a parametric map whose frames lie against their normal, as highdicom 0.28.2 writes every
# map, is read mirrored without a word.
#
# Expected: each frame where its ImagePositionPatient says, as dcmqi's segimage2itkimage puts them.
# Seen: the image's origin is the lowest frame, but frame n becomes slice n, so that the first slice lies where the last
# is. 3D Slicer reads maps by it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dcmqi==1.5.7 highdicom==0.28.2 SimpleITK==2.5.7 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import subprocess
import sys
import tempfile
from pathlib import Path

import highdicom
import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid

folder = Path(tempfile.mkdtemp())
study, series, frame = generate_uid(), generate_uid(), generate_uid()
slices = []
for k in range(5):
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        setattr(data, name, "")
    data.StudyTime, data.Modality, data.Rows, data.Columns = "", "CT", 6, 7
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.5 * k], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.8, 0.7], 2.5
    slices.append(data)
values = np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7)


mapping = highdicom.pm.RealWorldValueMapping("x", "x", codes.UCUM.NoUnits, (0.0, 300.0))
made = highdicom.pm.ParametricMap(
    slices, values, generate_uid(), 1, generate_uid(), 1, "x", "x", "x", "x", False, [mapping],
    voi_lut_transformations=[highdicom.VOILUTTransformation(window_center=1, window_width=2)],
)
anatomy = Dataset()
anatomy.AnatomicRegionSequence = [highdicom.sr.CodedConcept("12738006", "SCT", "Brain")]
anatomy.FrameLaterality = "U"
made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [anatomy]
made.save_as(folder / "map.dcm")
call = "import sys, dcmqi; sys.exit(dcmqi.paramap2itkimage())"
words = ["--inputDICOM", str(folder / "map.dcm"), "--outputDirectory", str(folder)]
status = subprocess.run([sys.executable, "-c", call, *words], capture_output=True, check=False).returncode
image = sitk.ReadImage(str(folder / "pmap.nrrd"))
array, origin = sitk.GetArrayFromImage(image), image.GetOrigin()[2]
mirrored = origin == 0 and image.GetDirection()[8] == 1 and np.array_equal(array, values[::-1])
print(f"status {status}, mirrored {mirrored}")
sys.exit(0 if status == 0 and mirrored else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
