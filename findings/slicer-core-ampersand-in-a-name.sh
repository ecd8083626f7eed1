#!/usr/bin/env bash
# slicer-core 5.13.31053.0 (3D Slicer's MRML libraries; vtk 9.6): a scene in which a volume's name holds an ampersand is
# saved without a complaint and cannot be opened again.
#
# Expected: the scene's writer escapes names for XML, as it does in the node's own attribute name="CT &amp; co".
# Seen: the name of the file that it derives from the node's, in the storage node's attribute fileName, keeps the bare "&"
# ("Data/CT%20&%20co.nrrd"). The file is no XML, and the reader refuses the whole scene, all other nodes with it. The same
# function writes .mrb bundles. A name with "<" survives.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "slicer-core==5.13.31053.0" "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import os
import sys
import tempfile
import xml.etree.ElementTree as ET
from pathlib import Path

import slicer
import slicer.util
import vtk

vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)


def saved_and_opened(name):
    vtk.vtkOutputWindow.SetInstance(vtk.vtkStringOutputWindow())
    scene, application, folder = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic(), Path(tempfile.mkdtemp())
    application.SetTemporaryPath(str(folder))
    application.SetMRMLScene(scene)
    node, image = slicer.vtkMRMLScalarVolumeNode(), vtk.vtkImageData()
    image.SetDimensions(4, 5, 6)
    image.AllocateScalars(vtk.VTK_FLOAT, 1)
    node.SetName(name)
    node.SetAndObserveImageData(image)
    scene.AddNode(node)
    (folder / "scene").mkdir()
    saved = application.SaveSceneToSlicerDataBundleDirectory(str(folder / "scene"), None)
    path = next((folder / "scene").glob("*.mrml"))
    try:
        ET.parse(path)
        xml = True
    except ET.ParseError:
        xml = False
    scene.Clear(0)
    scene.SetURL(str(path))
    opened = scene.Connect()
    return bool(saved), xml, bool(opened), scene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode")


seen = {name: saved_and_opened(name) for name in ("CT and co", "CT <1>", "CT & co")}
for name, (saved, xml, opened, volumes) in seen.items():
    print(f"{name!r}: saved {saved}, is XML {xml}, opened {opened}, volumes {volumes}", flush=True)
good, bad = (True, True, True, 1), (True, False, False, 0)
os._exit(0 if seen == {"CT and co": good, "CT <1>": good, "CT & co": bad} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
