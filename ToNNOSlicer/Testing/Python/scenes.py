"""Scenes that the tests share: volumes in every position, and a heatmap whose blobs are known by hand."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
from ToNNOSlicerLib.logic import ToNNOLogic
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.heatmap import Heatmap, inputOf, showHeatmap
from ToNNOSlicerLib.logic.inputs import inputFor
from ToNNOSlicerLib.logic.labelmap import Crop, imageOf
from ToNNOSlicerLib.logic.overlay import Layers, show

# In mm, and no two axes alike, so that no exchange of axes goes unseen.
SHAPE_ZYX = (14, 18, 22)
BLOBS = {  # centre (i, j, k), peak; 3 x 3 x 3 voxels each
    (5, 6, 4): 9.0,
    (15, 12, 9): 6.0,
}
THRESHOLD = 3.0


def rotation(axis: tuple[float, float, float], degrees: float) -> np.ndarray:
    """3 x 3, by Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine(linear: np.ndarray, origin: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = linear, origin
    return matrix


SPACING = np.diag([0.9, 1.3, 2.6])
OBLIQUE = rotation((1, 2, 3), 33) @ SPACING
GRIDS = {
    "plain": affine(np.eye(3), (0, 0, 0)),
    "anisotropic": affine(SPACING, (-10, 20, 30)),
    "oblique": affine(OBLIQUE, (12.34, -56.7, 89.1)),
    "left-handed": affine(OBLIQUE @ np.diag([1, -1, 1]), (-40, 3, 8)),
    "as DICOM has it": affine(np.diag([-0.9, -1.3, 2.6]), (110, 120, -300)),
}


def tilted(degrees: float) -> np.ndarray:
    """Return ijkToRAS (4 x 4) of a gantry that is tilted about the patient's axis from left to right."""
    matrix = GRIDS["as DICOM has it"].copy()
    matrix[1, 2] = np.tan(np.radians(degrees)) * matrix[2, 2]
    return matrix


RIGID = affine(rotation((3, -1, 2), 71), (7, -8, 9))
SCALED = affine(rotation((0, 1, 1), 20) @ np.diag([1.1, 0.8, 1.5]), (-5, 0, 4))


def image(shape=SHAPE_ZYX, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def blobs() -> np.ndarray:
    """Noise below 1, two cubes of 27 voxels above 3 whose middle is the peak."""
    array = np.random.default_rng(1).uniform(-1, 1, SHAPE_ZYX).astype(np.float32)
    for (i, j, k), peak in BLOBS.items():
        array[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = peak - 2
        array[k, j, i] = peak
    return array


def mask() -> np.ndarray:
    return (blobs() >= THRESHOLD).astype(np.uint8)


def addVolume(ijkToRAS=GRIDS["oblique"], array=None, name="CT", transforms=()):
    """A scalar volume under transforms (matrices to the parent, the outermost last)."""
    node = slicer.util.addVolumeFromArray(image() if array is None else array, ijkToRAS=ijkToRAS, name=name)
    child = node
    for matrix in transforms:
        parent = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        slicer.util.updateTransformMatrixFromArray(parent, matrix)
        child.SetAndObserveTransformNodeID(parent.GetID())
        child = parent
    return node


def record(threshold: float = THRESHOLD, floor: float = 1.0) -> dict:
    return {"threshold": threshold, "noise_floor": floor, "volume_quantile": 0.95}


def addHeatmap(logic: ToNNOLogic, volumeNode, array=None, heatmapNode=None, result=None, zoom=False, **options):
    array = blobs() if array is None else array
    values = {"method": "matched-cam", "className": "lesion", "threshold": record()} | options
    inside, ijkToRAS = np.ones(array.shape, dtype=bool), inputFor(volumeNode).ijkToRAS
    heatmap = Heatmap(array, ijkToRAS, inside=inside, answer=result, isZoomed=zoom, **values)
    return showHeatmap(volumeNode, heatmap, heatmapNode)


def setOverlay(heatmapNode, threshold: float, opacity: float = 0.6, visible: bool = True) -> None:
    """Show a heatmap over its image in all slice views, or take it away."""
    shown = heatmapNode if visible else None
    show(heatmapNode.GetScene(), Layers(inputOf(heatmapNode), shown, threshold, opacity))


def paint(segmentationNode, segmentId: str, voxels: np.ndarray, volumeNode) -> None:
    """What the Segment Editor's brush does: voxels (Z Y X, on the volume's grid) are added to a segment."""
    _modify(segmentationNode, segmentId, voxels, volumeNode, "MODE_MERGE_MASK")


def replace(segmentationNode, segmentId: str, voxels: np.ndarray, volumeNode) -> None:
    """What its eraser leaves: these voxels and no others."""
    _modify(segmentationNode, segmentId, voxels, volumeNode, "MODE_REPLACE")


def _modify(segmentationNode, segmentId: str, voxels: np.ndarray, volumeNode, mode: str) -> None:
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    stroke = imageOf(Crop(voxels, (0, 0, 0), ijkToNode(volumeNode)))
    assert logic.SetBinaryLabelmapToSegment(stroke, segmentationNode, segmentId, getattr(logic, mode))


def segmentArray(segmentationNode, segmentId: str, volumeNode) -> np.ndarray:
    """A segment on a volume's grid as Slicer itself resamples it; the way the tests look at results."""
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode)
