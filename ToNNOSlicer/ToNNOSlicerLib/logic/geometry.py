"""Where voxels lie: MRML's matrices as numpy arrays. Matrices are 4 x 4 float64, named a to b, RAS mm."""

from __future__ import annotations

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from tonno_core.volume.volume import Volume


def fromVTK(matrix) -> np.ndarray:
    return slicer.util.arrayFromVTKMatrix(matrix)


def toVTK(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    return slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=np.float64))


def ijkToNode(volumeNode) -> np.ndarray:
    """From voxel (i, j, k) to the volume's own frame, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return fromVTK(matrix)


def nodeToWorld(node) -> np.ndarray:
    """From a node's own frame to the world. Raises ValueError where that is no matrix (a warp above it)."""
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformToWorld(matrix):
        raise ValueError(f"{node.GetName()}: the transform above it is not linear")
    return fromVTK(matrix)


def ijkToWorld(volumeNode) -> np.ndarray:
    """From voxel (i, j, k) to the world, parent transforms included."""
    return nodeToWorld(volumeNode) @ ijkToNode(volumeNode)


def transformPoint(matrix: np.ndarray, point) -> np.ndarray:
    return matrix[:3, :3] @ np.asarray(point, dtype=np.float64) + matrix[:3, 3]


def volumeOf(volumeNode) -> Volume:
    """A scalar volume node in the world; its float32 voxels (Z Y X) are shared, not copied."""
    array = slicer.util.arrayFromVolume(volumeNode)
    return Volume(np.asarray(array, dtype=np.float32), ijkToWorld(volumeNode))


def vtkImageOf(array: np.ndarray) -> vtk.vtkImageData:
    """A copy of an array (Z Y X) as VTK's image."""
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).reshape(-1), deep=True))
    return image
