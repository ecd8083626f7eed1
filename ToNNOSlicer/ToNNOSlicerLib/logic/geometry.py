"""Places of voxels: MRML's matrices as numpy arrays. Matrices are 4 x 4 float64, named a to b, in RAS mm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer.util
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from tonno_core.volume.volume import Forms, Volume


def toVTK(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """Copy a matrix for VTK.

    Args:
        matrix: 4 x 4.

    Returns:
        The vtkMatrix4x4.
    """
    return slicer.util.vtkMatrixFromArray(np.asarray(matrix, dtype=np.float64))


def ijkToNode(volumeNode) -> np.ndarray:
    """Return the matrix from voxels (i, j, k) to the volume's own frame, without its parent transforms.

    Args:
        volumeNode: The volume.

    Returns:
        4 x 4.
    """
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def nodeToWorld(node) -> np.ndarray:
    """Return the matrix from a node's own frame to the world.

    Args:
        node: Any transformable node.

    Returns:
        4 x 4.

    Raises:
        ValueError: If there is no such matrix: a warp is above the node.
    """
    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    matrix = vtk.vtkMatrix4x4()
    if not transform.IsTransformToWorldLinear() or not transform.GetMatrixTransformToWorld(matrix):
        raise ValueError(f"{node.GetName()}: the transform above it is not linear")
    return slicer.util.arrayFromVTKMatrix(matrix)


def ijkToWorld(volumeNode) -> np.ndarray:
    """Return the matrix from voxels (i, j, k) to the world, parent transforms included.

    Args:
        volumeNode: The volume.

    Returns:
        4 x 4.
    """
    return nodeToWorld(volumeNode) @ ijkToNode(volumeNode)


def transformPoint(matrix: np.ndarray, point) -> np.ndarray:
    """Apply a matrix to a point.

    Args:
        matrix: 4 x 4, affine.
        point: 3 numbers.

    Returns:
        The point, 3.
    """
    return matrix[:3, :3] @ np.asarray(point, dtype=np.float64) + matrix[:3, 3]


def corners(size, matrix: np.ndarray) -> np.ndarray:
    """Return the places of a grid's outermost voxels.

    Args:
        size: (i, j, k) of the grid.
        matrix: 4 x 4, from its voxels.

    Returns:
        3 x 8.
    """
    ijk = np.stack(np.meshgrid(*((0, n - 1) for n in size))).reshape(3, -1)
    return matrix[:3, :3] @ ijk + matrix[:3, 3:]


def volumeOf(volumeNode) -> Volume:
    """Return a scalar volume node as the engine's volume in the world.

    Args:
        volumeNode: The volume.

    Returns:
        Float32 voxels, Z Y X, shared with the node where it has such, and their place.
    """
    array = slicer.util.arrayFromVolume(volumeNode)
    return Volume(np.asarray(array, dtype=np.float32), ijkToWorld(volumeNode))


def formsOf(volumeNode, ijkToNode: np.ndarray, size: tuple[int, int, int]) -> Forms | None:
    """Read qform and sform of the NIfTI file that a volume was loaded from, for files on its grid.

    Args:
        volumeNode: The volume, or None.
        ijkToNode: 4 x 4, of the grid.
        size: Its voxels along i, j, k.

    Returns:
        None where there is no such file any more, or it is on another grid.
    """
    from tonno_core.volume.orientation import describes, read_forms, reversed_slices

    path = fileOf(volumeNode)
    try:
        forms = read_forms(path) if path.name.lower().endswith((".nii", ".nii.gz")) else None
    except OSError:
        return None
    if forms is None:
        return None
    both = (forms, reversed_slices(forms, size[2]))
    return next((stated for stated in both if describes(stated, ijkToNode, size)), None)


def fileOf(volumeNode) -> Path:
    """Return the file that a volume was loaded from or saved to.

    Args:
        volumeNode: The volume, or None.

    Returns:
        Its path, an empty one where there is none.
    """
    storage = volumeNode.GetStorageNode() if volumeNode is not None else None
    return Path(storage.GetFileName() or "") if storage is not None else Path()


def vtkImageOf(array: np.ndarray) -> vtk.vtkImageData:
    """Copy voxels for VTK.

    Args:
        array: Z Y X.

    Returns:
        The vtkImageData, without a place.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(array.shape[::-1])
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(array).reshape(-1), deep=True))
    return image
