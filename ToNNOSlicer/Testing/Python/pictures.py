"""Pictures for the docs: Slicer's own slice and 3D views of a result, rendered without a screen.

    python ToNNOSlicer/Testing/Python/pictures.py --output slicer-demo [--demo demo-output]

--demo: the folder that `tonno demo` wrote; without it, a head with implanted lesions (the MNI brain inside nilearn) is
made and reconstructed here, some minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / "ToNNOSlicer"), str(Path(__file__).parent)]
METHOD, CLASS = "matched-cam", "lesion"
MODEL = ROOT / "tonno_core" / "models" / "brain-lesions"
SIDE = 360  # pixels of one view


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("slicer-demo"))
    parser.add_argument("--demo", type=Path)
    options = parser.parse_args()
    from slicer_views import whyNot

    missing = whyNot()
    if missing:
        print(f"The views cannot be rendered here: {missing}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    image, heatmap, threshold = fromDemo(options.demo) if options.demo else reconstructed()
    for path in draw(image, heatmap, threshold, options.output):
        print(path)
    return 0


def fromDemo(folder: Path):
    """Image, heatmap and the model's record of thresholds from a folder of `tonno demo`."""
    from tonno_core.volume.io import read_volume

    return read_volume(folder / "image.nii.gz"), read_volume(folder / f"heatmap-{METHOD}.nii.gz"), modelRecord()


def reconstructed():
    """The same from a head made here."""
    from tonno_core import load_bundle, reconstruct
    from tonno_core.demo.phantom import make_phantom
    from tonno_core.settings import ReconstructionSettings

    image = make_phantom(seed=7, lesions=3).image
    result = reconstruct(image, load_bundle(MODEL), ReconstructionSettings(methods=(METHOD,)))
    return image, result.heatmaps[METHOD], modelRecord()


def modelRecord() -> dict:
    return json.loads((MODEL / "model.json").read_text(encoding="utf-8"))["thresholds"][METHOD]


def draw(image, heatmap, record: dict, folder: Path) -> list[Path]:
    """Write the pictures of a result; returns their paths."""
    from slicer_host import Host
    from slicer_views import SliceView, ThreeDView

    host = Host()
    from ToNNOSlicerLib.logic import ToNNOLogic

    views = {name: SliceView(host, name, (SIDE, SIDE)) for name in ("Red", "Yellow", "Green")}
    space = ThreeDView(host, (SIDE, SIDE))
    logic = ToNNOLogic(host.scene, host.applicationLogic)
    volume, node = addResult(logic, image, heatmap, record)
    threshold = logic.modelThreshold(node)
    logic.setOverlay(node, threshold, 0.6)
    segmentation, segmentId = logic.writeSegment(node, threshold, 100.0)
    found = logic.findings(segmentation, segmentId, node)
    logic.show3D(segmentation, True)
    addHead(host, volume)
    for view in views.values():
        view.fit(1.05)
        view.mark()
    logic.jumpTo(found[0])
    for view in views.values():
        centre(view, volume)
    # One legend is enough for four views.
    import slicer

    slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node).SetViewNodeIDs([views["Yellow"].node.GetID()])
    space.look()
    written = [folder / "slicer-views.png", folder / "slicer-threshold.png"]
    save([[views["Red"], space], [views["Green"], views["Yellow"]]], written[0])

    # The same place at three positions of the slider, as outlined while it is dragged.
    segmentation.SetDisplayVisibility(False)
    rows = []
    view = views["Red"]
    view.node.SetFieldOfView(90.0, 90.0, view.node.GetFieldOfView()[2])
    logic.jumpTo(found[0])
    for value in (logic.noiseFloor(node) * 2, threshold, threshold * 2):
        logic.setOverlay(node, value, 0.6)
        logic.previewMask(node, value, 100.0)
        rows.append(pixels(view))
    savePixels(np.concatenate(rows, axis=1), written[1])
    host.close()
    return written


def addResult(logic, image, heatmap, record: dict) -> tuple:
    import slicer.util

    volume = slicer.util.addVolumeFromArray(image.array, ijkToRAS=image.ijk_to_ras, name="T1")
    display = volume.GetDisplayNode()
    display.SetAutoWindowLevel(False)
    display.SetWindowLevelMinMax(0.0, float(np.percentile(image.array[image.array > 0], 99.8)))
    given = logic.inputFor(volume)
    inside = heatmap.array != 0
    node = logic.showHeatmap(volume, heatmap.array, given.ijkToRAS, inside, METHOD, CLASS, record)
    return volume, node


def addHead(host, volume) -> None:
    """The brain's surface, clear as glass, so that the findings have a place in 3D."""
    import vtk
    from ToNNOSlicerLib.logic.geometry import ijkToWorld, toVTK, volumeOf, vtkImageOf

    head = (volumeOf(volume).array > 0).astype(np.float32)
    steps = [vtk.vtkImageGaussianSmooth(), vtk.vtkFlyingEdges3D(), vtk.vtkTransformPolyDataFilter()]
    steps[0].SetInputData(vtkImageOf(head))
    steps[0].SetStandardDeviation(1.2)
    steps[1].SetInputConnection(steps[0].GetOutputPort())
    steps[1].SetValue(0, 0.5)
    steps[1].ComputeNormalsOff()
    steps[1].ComputeScalarsOff()
    steps[2].SetInputConnection(steps[1].GetOutputPort())
    place = vtk.vtkTransform()
    place.SetMatrix(toVTK(ijkToWorld(volume)))
    steps[2].SetTransform(place)
    normals = vtk.vtkPolyDataNormals()
    normals.SetInputConnection(steps[2].GetOutputPort())
    normals.SplittingOff()
    normals.Update()
    model = host.scene.AddNewNodeByClass("vtkMRMLModelNode", "brain")
    model.SetAndObservePolyData(normals.GetOutput())
    model.CreateDefaultDisplayNodes()
    model.GetDisplayNode().SetColor(0.85, 0.8, 0.75)
    model.GetDisplayNode().SetOpacity(0.3)
    model.GetDisplayNode().SetBackfaceCulling(False)
    model.GetDisplayNode().SetVisibility2D(False)


def centre(view, volume) -> None:
    """Pan a slice view so that the volume, not the finding, is in its middle; the plane stays."""
    import slicer.util

    bounds = np.zeros(6)
    volume.GetRASBounds(bounds)
    middle = (bounds[::2] + bounds[1::2]) / 2
    matrix = view.node.GetSliceToRAS()
    sliceToRAS = slicer.util.arrayFromVTKMatrix(matrix)
    normal = sliceToRAS[:3, 2]
    origin = middle + normal * (normal @ (sliceToRAS[:3, 3] - middle))
    for row in range(3):
        matrix.SetElement(row, 3, origin[row])
    view.node.UpdateMatrices()


def pixels(view) -> np.ndarray:
    from vtk.util.numpy_support import vtk_to_numpy

    image = view.render()
    width, height, _ = image.GetDimensions()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, 3)[::-1]


def save(grid: list, path: Path) -> None:
    savePixels(np.concatenate([np.concatenate([pixels(view) for view in row], axis=1) for row in grid]), path)


def savePixels(array: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(np.ascontiguousarray(array)).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
