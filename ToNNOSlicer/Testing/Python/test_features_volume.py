"""What `tonno features` writes is a vector volume to Slicer, with the same numbers at the same place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")


def test_features_are_a_vector_volume(host: Any, tmp_path: Path) -> None:
    import slicer
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    from tonno_core.volume.channels import write_channels

    shape, count = (6, 5, 4), 40
    values = np.random.default_rng(0).normal(size=(count, *shape)).astype(np.float32)
    ijkToRas = np.diag([3.0, 3.0, 3.0, 1.0])
    ijkToRas[:3, 3] = [-10.0, 20.0, 5.0]
    path = tmp_path / "features.nii.gz"
    write_channels(path, iter(values), count, shape, ijkToRas)
    node = host.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode")
    storage = host.scene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    image = node.GetImageData()
    assert image.GetDimensions() == shape[::-1] and image.GetNumberOfScalarComponents() == count
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*shape, count)
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    found = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
    np.testing.assert_allclose(found, ijkToRas, atol=1e-5)  # float32 in the file
    np.testing.assert_array_equal(array, values.transpose(1, 2, 3, 0))
    assert slicer.vtkMRMLVectorVolumeNode.SafeDownCast(node) is not None
