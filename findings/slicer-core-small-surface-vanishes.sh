#!/usr/bin/env bash
# slicer-core 5.13.31053.0 (3D Slicer's segmentation libraries): at the default smoothing factor of 0.5 the closed surface of a
# small segment shrinks to nothing, without a word.
#
# Expected: a surface of about the volume of the voxels, or a warning, as for large segments: a cube of 8^3 keeps 98 %.
# Seen: a cube of 2^3 voxels keeps 0 %, one of 3^3 4 %, one of 4^3 39 %. The conversion reports success, and the surface has
# polygons. The 3D view and STL files show a small lesion as a speck or not at all.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "slicer-core==5.13.31053.0" "numpy==2.4.6" 2>/dev/null
cat > "$folder/seen.py" <<'PYTHON'
import os

import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

vtk.vtkLogger.SetStderrVerbosity(vtk.vtkLogger.VERBOSITY_OFF)
vtk.vtkOutputWindow.SetInstance(vtk.vtkStringOutputWindow())
scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerSegmentationsModuleLogic()
logic.SetMRMLScene(scene)  # registers the conversion


def kept(side):
    """Share of a cube's volume that its surface has, in percent; the factor; polygons."""
    image = slicer.vtkOrientedImageData()
    image.SetDimensions(20, 20, 20)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    voxels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(20, 20, 20)
    voxels[:] = 0
    voxels[6 : 6 + side, 6 : 6 + side, 6 : 6 + side] = 1
    segment, node = slicer.vtkSegment(), slicer.vtkMRMLSegmentationNode()
    scene.AddNode(node)
    segment.AddRepresentation("Binary labelmap", image)
    node.GetSegmentation().AddSegment(segment, "cube")
    assert node.GetSegmentation().CreateRepresentation("Closed surface")
    triangles, mass = vtk.vtkTriangleFilter(), vtk.vtkMassProperties()
    triangles.SetInputData(segment.GetRepresentation("Closed surface"))
    mass.SetInputConnection(triangles.GetOutputPort())
    mass.Update()
    factor = float(node.GetSegmentation().GetConversionParameter("Smoothing factor"))
    return round(100 * mass.GetVolume() / side**3), factor, triangles.GetOutput().GetNumberOfPolys() > 0


seen = {side: kept(side) for side in (2, 3, 4, 8)}
for side, (percent, factor, polygons) in seen.items():
    print(f"cube of {side}: {percent} % of its volume at factor {factor}, polygons {polygons}", flush=True)
os._exit(0 if seen == {2: (0, 0.5, True), 3: (4, 0.5, True), 4: (39, 0.5, True), 8: (98, 0.5, True)} else 1)
PYTHON
"$folder/venv/bin/python" "$folder/seen.py"
