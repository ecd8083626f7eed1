#!/usr/bin/env bash
# dcmqi 1.5.7, itkimage2paramap: a parametric map of pixels that are not square is written with the two spacings in each
# other's place.
#
# Expected: PixelSpacing is [between rows, between columns] (DICOM PS3.3, 10.7.1.3): [0.8, 0.5] for an ITK image whose
# spacing is (0.5, 0.8, 2.5), as in the series that it was made from.
# Seen: the file says [0.5, 0.8], so that every reader stretches the map over the image; dcmqi's own paramap2itkimage gives
# (0.8, 0.5, 2.5) back. Of a map of another writer with [0.8, 0.5] it reads (0.5, 0.8, 2.5), which is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet dcmqi==1.5.7 SimpleITK==2.5.7 pydicom==3.0.2 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

folder = Path(tempfile.mkdtemp())
(folder / "series").mkdir()
study, series, frame = generate_uid(), generate_uid(), generate_uid()
for k in range(5):
    data, meta = Dataset(), FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    data.SOPClassUID = CTImageStorage
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
    for name in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        setattr(data, name, "")
    data.StudyTime, data.Modality, data.InstanceNumber = "", "CT", k + 1
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 2.5 * k], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.SliceThickness = [0.8, 0.5], 2.5
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
    data.BitsAllocated = data.BitsStored = 16
    data.HighBit, data.Rows, data.Columns = 15, 6, 7
    data.PixelData, data.file_meta = np.zeros((6, 7), np.int16).tobytes(), meta
    pydicom.dcmwrite(folder / "series" / f"{k}.dcm", data, enforce_file_format=True)
image = sitk.GetImageFromArray(np.arange(5 * 6 * 7, dtype=np.float32).reshape(5, 6, 7))
image.SetSpacing((0.5, 0.8, 2.5))
sitk.WriteImage(image, str(folder / "map.nrrd"))


def code(value, scheme, meaning):
    return {"CodeValue": value, "CodingSchemeDesignator": scheme, "CodeMeaning": meaning}


about = {
    "SeriesDescription": "x", "SeriesNumber": "1", "InstanceNumber": "1", "RealWorldValueSlope": "1",
    "QuantityValueCode": code("113041", "DCM", "Apparent Diffusion Coefficient"),
    "MeasurementUnitsCode": code("um2/s", "UCUM", "um2/s"),
    "AnatomicRegionSequence": code("12738006", "SCT", "Brain"), "FrameLaterality": "U",
    "DerivedPixelContrast": "ADC", "DerivationDescription": "x", "SourceImageDiffusionBValues": ["0", "1400"],
    "DerivationCode": code("110800", "DCM", "Spin Tagging Perfusion MR Signal Intensity"),
    "MeasurementMethodCode": code("x1", "99X", "x"), "ModelFittingMethodCode": code("x2", "99X", "x"),
}
(folder / "map.json").write_text(json.dumps(about))


def dcmqi(function, *words):
    call = f"import sys, dcmqi; sys.exit(dcmqi.{function}())"
    subprocess.run([sys.executable, "-c", call, *map(str, words)], capture_output=True, check=True)


dcmqi(
    "itkimage2paramap", "--inputImage", folder / "map.nrrd", "--inputMetadata", folder / "map.json",
    "--inputDICOMDirectory", folder / "series", "--outputDICOM", folder / "map.dcm",
)
dcmqi("paramap2itkimage", "--inputDICOM", folder / "map.dcm", "--outputDirectory", folder)
made = pydicom.dcmread(folder / "map.dcm")
stated = [float(mm) for mm in made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing]
back = sitk.ReadImage(str(folder / "pmap.nrrd")).GetSpacing()
print(f"{made.Rows} rows, {made.Columns} columns, PixelSpacing {stated}, read back {back}")
sys.exit(0 if (made.Rows, made.Columns) == (6, 7) and stated == [0.5, 0.8] and back == (0.8, 0.5, 2.5) else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
