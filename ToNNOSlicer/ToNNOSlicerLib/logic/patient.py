"""The patient's surface around the findings in the 3D views: translucent, from the image, for orientation only."""

from __future__ import annotations

import numpy as np
import slicer
import slicer.util
import vtk

from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.volume.intensity import without_padding
from tonno_core.volume.volume import Volume
from ToNNOSlicerLib.logic.geometry import ijkToNode, toVTK, vtkImageOf
from ToNNOSlicerLib.logic.scene import addHidden, nodesByClass, removeNode

ROLE = "ToNNO.surface"  # the reference from an image to the model node of its surface
OPACITY = 0.12
_COLOR = (0.86, 0.82, 0.76)
_SIDE = 96  # voxels along the longest axis at most, which takes a tenth of a second


def showSurface(volumeNode, on: bool) -> None:
    """Show an image's outer surface in the 3D views, or hide it.

    Args:
        volumeNode: The image. Its surface is made when it is shown first.
        on: Whether to show it.
    """
    node = volumeNode.GetNodeReference(ROLE)
    if node is None and on:
        node = _make(volumeNode)
    if node is not None:
        node.GetDisplayNode().SetVisibility(on)


def hideOthers(scene, volumeNode) -> None:
    """Hide the surfaces of all images but one.

    Args:
        scene: The vtkMRMLScene.
        volumeNode: The image whose surface stays as it is; None: all are hidden.
    """
    shown = volumeNode.GetNodeReference(ROLE) if volumeNode is not None else None
    for node in nodesByClass(scene, "vtkMRMLModelNode"):
        if node.GetAttribute(ROLE) is not None and node is not shown and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)


def removeSurface(volumeNode) -> None:
    """Take an image's surface out of the scene.

    Args:
        volumeNode: The image; without a surface nothing is done.
    """
    node = volumeNode.GetNodeReference(ROLE)
    if node is not None:
        removeNode(node)


def _make(volumeNode):
    scene = volumeNode.GetScene()
    name = scene.GenerateUniqueName(f"{volumeNode.GetName()} surface")
    node = addHidden(scene, slicer.vtkMRMLModelNode(), name)
    node.SetSelectable(False)
    node.SetAttribute(ROLE, "1")
    node.SetAndObservePolyData(_polyData(volumeNode))
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    display = node.GetDisplayNode()
    display.SetColor(*_COLOR)
    display.SetOpacity(OPACITY)
    display.SetVisibility2D(False)
    display.SetBackfaceCulling(False)
    volumeNode.SetNodeReferenceID(ROLE, node.GetID())
    return node


def _polyData(volumeNode) -> vtk.vtkPolyData:
    """Make the surface at `_level`, in the volume's own frame."""
    from vtk import vtkFlyingEdges3D, vtkTransform, vtkTransformPolyDataFilter, vtkWindowedSincPolyDataFilter

    array = slicer.util.arrayFromVolume(volumeNode)
    step = max(1, -(-max(array.shape) // _SIDE))
    coarse = np.ascontiguousarray(array[::step, ::step, ::step], dtype=np.float32)
    coarse = without_padding(coarse)
    coarse = np.pad(coarse, 1, constant_values=coarse.min())  # closed where the image ends inside of the patient
    edges = vtkFlyingEdges3D()
    edges.SetInputData(vtkImageOf(coarse))
    edges.SetValue(0, _level(coarse))
    edges.ComputeNormalsOff()
    edges.ComputeGradientsOff()
    edges.ComputeScalarsOff()
    smooth = vtkWindowedSincPolyDataFilter()
    smooth.SetInputConnection(edges.GetOutputPort())
    smooth.SetNumberOfIterations(15)
    coarseToIJK = np.diag([step, step, step, 1.0])
    coarseToIJK[:3, 3] = -step
    place = vtkTransform()
    place.SetMatrix(toVTK(ijkToNode(volumeNode) @ coarseToIJK))
    moved = vtkTransformPolyDataFilter()
    moved.SetInputConnection(smooth.GetOutputPort())
    moved.SetTransform(place)
    moved.Update()
    return moved.GetOutput()


def _level(array: np.ndarray) -> float:
    """Return the value half way from the lowest to Otsu's threshold: between air and the patient in MR and in CT."""
    try:
        otsu = otsu_threshold(Volume(array, np.eye(4)))
    except TonnoError:  # a constant: there is nothing to show
        otsu = float(array.max())
    return (float(array.min()) + otsu) / 2
