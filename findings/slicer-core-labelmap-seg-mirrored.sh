#!/usr/bin/env bash
# slicer-core 5.13.31053.0 (3D Slicer's MRML libraries), reading a file as a volume: a LABELMAP DICOM SEG whose frames lie
# against their normal, as highdicom 0.28.2 writes them, is read mirrored, without a word.
#
# Expected: each frame where its ImagePositionPatient says, as of the BINARY segmentation of the same mask in the same order.
# Seen: the first frame's place is right, and each further one is on its wrong side, so that a mask at one end of the scan
# lies as far beyond the other. SimpleITK 2.5.7 refuses the file; highdicom and dcmqi 1.5.7 read it right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "slicer-core==5.13.31053.0" highdicom==0.28.2 "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import os
import tempfile
from pathlib import Path

import highdicom
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, generate_uid
import slicer
import slicer.util
import vtk

vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
vtk.vtkOutputWindow.SetInstance(vtk.vtkStringOutputWindow())
folder, scene = Path(tempfile.mkdtemp()), slicer.vtkMRMLScene()


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


def heights(kind):
    """Where the voxels of a mask in the lowest slice alone are read, mm; and in which order its frames are."""
    mask = np.zeros((5, 6, 8), np.uint8)
    mask[0, 1, 2:4] = 1
    segment = highdicom.seg.SegmentDescription(1, "x", codes.SCT.Organ, codes.SCT.Liver, "MANUAL")
    made = highdicom.seg.Segmentation(
        headers(6, 8, [0, 2.5, 5, 7.5, 10]), mask, kind, [segment], generate_uid(), 1, generate_uid(), 1, "x", "x", "x", "x",
        omit_empty_frames=False,
    )
    made.save_as(folder / f"{kind}.dcm")
    frames = made.PerFrameFunctionalGroupsSequence
    order = [float(frame.PlanePositionSequence[0].ImagePositionPatient[2]) for frame in frames]
    node, storage, matrix = slicer.vtkMRMLScalarVolumeNode(), slicer.vtkMRMLVolumeArchetypeStorageNode(), vtk.vtkMatrix4x4()
    scene.AddNode(node)
    scene.AddNode(storage)
    storage.SetFileName(str(folder / f"{kind}.dcm"))
    assert storage.ReadData(node)
    node.GetIJKToRASMatrix(matrix)
    found = np.argwhere(slicer.util.arrayFromVolume(node) > 0)
    return sorted({float(matrix.MultiplyPoint((i, j, k, 1))[2]) for k, j, i in found.tolist()}), order


seen = {kind: heights(kind) for kind in ("BINARY", "LABELMAP")}
for kind, (found, order) in seen.items():
    print(f"{kind}: frames at {order} mm, a mask at 0 mm is read at {found} mm", flush=True)
order = [10.0, 7.5, 5.0, 2.5, 0.0]
os._exit(0 if seen == {"BINARY": ([0.0], order), "LABELMAP": ([20.0], order)} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
