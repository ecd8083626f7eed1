"""What goes to the engine: the right voxels at the right place, or a sentence that says why not."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from scenes import GRIDS, RIGID, SCALED, THRESHOLD, addHeatmap, addVolume, image, rotation
from ToNNOSlicerLib.logic import ToNNOUserError
from ToNNOSlicerLib.logic.export import exportHeatmap
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.inputs import inputFor, roiFor

# Corners and the like in the world, by two ways of multiplying float64 matrices: far below a micrometre.
EXACT_MM = 1e-9
IJK = np.array([(0, 0, 0), (21, 0, 0), (0, 17, 0), (0, 0, 13), (3, 5, 7)], dtype=float)


def world(volumeNode, ijk) -> np.ndarray:
    """Where MRML itself says that a voxel is."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    point = [0.0, 0.0, 0.0]
    volumeNode.TransformPointToWorld(matrix.MultiplyPoint((*ijk, 1.0))[:3], point)
    return np.array(point)


@pytest.mark.parametrize("transforms", [(), (RIGID,), (RIGID, SCALED)], ids=["bare", "rigid", "rigid in scaled"])
@pytest.mark.parametrize("grid", GRIDS)
def test_voxels_lie_where_mrml_shows_them(host, grid: str, transforms) -> None:
    node = addVolume(GRIDS[grid], transforms=transforms)
    given = inputFor(node)
    for ijk in IJK:
        assert given.ijkToRAS[:3, :3] @ ijk + given.ijkToRAS[:3, 3] == pytest.approx(world(node, ijk), abs=EXACT_MM)
    assert given.array.dtype == np.float32 and given.array.flags.c_contiguous
    assert np.array_equal(given.array, image())
    assert given.warnings == ()


def test_the_volume_is_left_as_it_was(host) -> None:
    array = image()
    array[2, 3, 4] = np.nan
    node = addVolume(array=array)
    given = inputFor(node)
    given.array[:] = 0
    assert np.array_equal(slicer.util.arrayFromVolume(node), array, equal_nan=True)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64])
def test_any_type_of_voxel_becomes_float32(host, dtype) -> None:
    given = inputFor(addVolume(array=image().astype(dtype)))
    assert given.array.dtype == np.float32
    assert np.array_equal(given.array, image().astype(dtype).astype(np.float32))


def test_nan_and_infinity_become_the_lowest_value_with_a_warning(host) -> None:
    array = image()
    array[0, 0, :2] = np.nan, np.inf
    given = inputFor(addVolume(array=array))
    lowest = array[np.isfinite(array)].min()
    assert given.array[0, 0, :2].tolist() == [lowest, lowest]
    assert len(given.warnings) == 1 and "2 voxels" in given.warnings[0]


def refusal(node) -> str:
    with pytest.raises(ToNNOUserError) as error:
        inputFor(node)
    assert error.value.nextStep, "a refusal says what to do"
    return error.value.message


def test_refuses_no_volume(host) -> None:
    assert "No volume" in refusal(None)


def test_refuses_an_empty_volume(host) -> None:
    assert "holds no voxels" in refusal(host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode"))


def test_refuses_a_colour_image(host) -> None:
    node = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode")
    assert "3 values in each voxel" in refusal(node)


def test_refuses_a_sequence(host) -> None:
    assert "4D" in refusal(host.scene.AddNewNodeByClass("vtkMRMLSequenceNode"))


def test_refuses_a_label_map_and_what_is_no_volume(host) -> None:
    node = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.uint8), nodeClassName="vtkMRMLLabelMapVolumeNode")
    assert "label map" in refusal(node)
    assert "not a volume" in refusal(host.scene.AddNewNodeByClass("vtkMRMLModelNode"))


@pytest.mark.parametrize("shape", [(1, 8, 8), (8, 1, 8), (8, 8, 1)])
def test_refuses_a_single_slice(host, shape) -> None:
    assert "single slice" in refusal(addVolume(array=image(shape)))


def test_refuses_voxels_without_contrast(host) -> None:
    assert "Every voxel of CT is 7" in refusal(addVolume(array=np.full((4, 4, 4), 7, np.float32)))


def test_refuses_nothing_but_nan(host) -> None:
    node = host.scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "CT")
    slicer.util.updateVolumeFromArray(node, np.full((4, 4, 4), np.nan, np.float32))
    assert "no finite number" in refusal(node)


@pytest.mark.parametrize("matrix", [np.diag([1, 1, 200.0, 1]), np.diag([1, 1e-5, 1, 1.0])])
def test_refuses_a_broken_geometry(host, matrix) -> None:
    assert "geometry of CT is broken" in refusal(addVolume(matrix))


def test_refuses_a_warp_and_takes_it_once_it_is_hardened(host) -> None:
    node = addVolume()
    warp = host.scene.AddNewNodeByClass("vtkMRMLBSplineTransformNode")
    node.SetAndObserveTransformNodeID(warp.GetID())
    nonlinear = vtk.vtkThinPlateSplineTransform()
    nonlinear.SetBasisToR()
    points = [vtk.vtkPoints(), vtk.vtkPoints()]
    for set_ in points:
        for ras in ((0, 0, 0), (50, 0, 0), (0, 50, 0), (0, 0, 50)):
            set_.InsertNextPoint(ras)
    points[1].SetPoint(0, 5, 0, 0)
    nonlinear.SetSourceLandmarks(points[0])
    nonlinear.SetTargetLandmarks(points[1])
    warp.SetAndObserveTransformToParent(nonlinear)
    assert "warping" in refusal(node)


def test_one_time_point_of_a_sequence_is_taken_with_a_warning(host) -> None:
    sequence = host.scene.AddNewNodeByClass("vtkMRMLSequenceNode", "series")
    node = addVolume()
    for value in "012":
        sequence.SetDataNodeAtValue(node, value)
    browser = host.scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    browser.AddProxyNode(node, sequence, False)
    browser.SetSelectedItemNumber(1)
    assert inputFor(node).warnings == ("CT is time point 2 of a sequence.",)


def addBox(host, size=(20, 10, 30), centre=(0, 0, 0), turn=None, transform=None):
    roi = host.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    roi.SetSize(size)
    roi.SetCenter(centre)
    if turn is not None:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, centre
        roi.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(matrix))
    if transform is not None:
        node = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        slicer.util.updateTransformMatrixFromArray(node, transform)
        roi.SetAndObserveTransformNodeID(node.GetID())
    return roi


def to_box(rasToBox, point) -> list[float]:
    return (rasToBox[:3, :3] @ point + rasToBox[:3, 3]).tolist()


def test_a_plain_box_by_hand(host) -> None:
    rasToBox = roiFor(addBox(host, (20, 10, 30), (1, 2, 3)))
    assert to_box(rasToBox, (11, 7, 18)) == pytest.approx([1, 1, 1], abs=1e-12)
    assert to_box(rasToBox, (1, 2, -12)) == pytest.approx([0, 0, -1], abs=1e-12)


def test_a_turned_and_transformed_box_by_hand(host) -> None:
    turn = rotation((0, 0, 1), 90)  # x to y
    rasToBox = roiFor(addBox(host, (20, 10, 30), (5, 0, 0), turn, SCALED))
    corner = np.array([5, 0, 0]) + turn @ (10, -5, 15)
    assert to_box(rasToBox, SCALED[:3, :3] @ corner + SCALED[:3, 3]) == pytest.approx([1, -1, 1], abs=1e-12)


def test_a_box_that_is_none_is_refused(host) -> None:
    for roi in (None, addVolume(), host.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")):
        with pytest.raises(ToNNOUserError) as error:
            roiFor(roi)
        assert error.value.nextStep


def test_a_box_beside_the_volume_is_refused_and_one_that_touches_it_is_not(host) -> None:
    volume = addVolume(GRIDS["plain"])  # from -0.5 to 21.5, 17.5 and 13.5 mm
    assert roiFor(addBox(host, (2, 2, 2), (-1.4, 5, 5)), volume) is not None
    with pytest.raises(ToNNOUserError, match="outside of the volume CT"):
        roiFor(addBox(host, (2, 2, 2), (-1.6, 5, 5)), volume)
    # Near an edge only the cross product of edges separates: the box's corner points at the volume's edge.
    tip = rotation((0, 0, 1), 45)
    with pytest.raises(ToNNOUserError):
        roiFor(addBox(host, (2, 2, 2), (-0.5 - 1.5, 5, 5), tip), volume)
    assert roiFor(addBox(host, (2, 2, 2), (-0.5 - 1.4, 5, 5), tip), volume) is not None


def test_a_name_that_slicer_cannot_save_is_told(host) -> None:
    """A saved scene with an ampersand in a name is no XML, and is refused as a whole: findings/ has the script."""
    assert inputFor(addVolume(name="T1 and T2")).warnings == ()
    (warning,) = inputFor(addVolume(name="T1 & T2")).warnings
    assert "ampersand" in warning and "Rename it" in warning


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ((1, 2), "The file's qform and sform place a corner 11.6 mm apart"),
        ((0, 0), "states no orientation"),
        ((1, 0), ""),
    ],
)
def test_doubtful_orientation_of_a_nifti_file_is_told_and_carried_on(host, logic, tmp_path, codes, expected) -> None:
    """The node is loaded as Slicer loads it; results are read back as Slicer reads them, and by nibabel."""
    nibabel = pytest.importorskip("nibabel")
    moved = np.array([[1, 0, 0, 10], [0, 2, 0, 5], [0, 0, 3, 3], [0, 0, 0, 1.0]])
    theirs = nibabel.Nifti1Image(image().T, None)
    theirs.header.set_zooms((1, 2, 3))
    theirs.set_qform(np.diag([1.0, 2, 3, 1]), codes[0])
    theirs.set_sform(moved, codes[1])
    nibabel.save(theirs, tmp_path / "scan.nii")
    node = loaded(tmp_path / "scan.nii")
    warnings = inputFor(node).warnings
    assert len(warnings) == bool(expected) and all(expected in text for text in warnings)

    from tonno_core.volume.io import read_volume, write_volume

    write_volume(read_volume(tmp_path / "scan.nii"), tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(ijkToNode(loaded(tmp_path / "map.nii.gz")), ijkToNode(node))
    back = nibabel.load(tmp_path / "map.nii.gz")
    np.testing.assert_array_equal(back.affine, nibabel.load(tmp_path / "scan.nii").affine)
    assert (back.header["qform_code"], back.header["sform_code"]) == codes

    heatmap = addHeatmap(logic, node)
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    for name in ("heatmap.nii.gz", "heatmap.nii", "mask.nii.gz", "mask.nii"):
        write, written = (
            (exportHeatmap, heatmap) if name.startswith("heatmap") else (logic.exportSegmentation, segmentation)
        )
        write(written, tmp_path / name)
        back = nibabel.load(tmp_path / name)
        np.testing.assert_array_equal(back.affine, nibabel.load(tmp_path / "scan.nii").affine)
        assert (back.header["qform_code"], back.header["sform_code"]) == codes
        np.testing.assert_array_equal(ijkToNode(loaded(tmp_path / name)), ijkToNode(node))


def test_exports_of_a_left_handed_nifti_file_fit_it_for_nibabel_too(host, logic, tmp_path) -> None:
    nibabel = pytest.importorskip("nibabel")
    theirs = nibabel.Nifti1Image(image().T, None)
    theirs.header.set_zooms((1, 2, 3))
    theirs.set_qform(np.diag([-1.0, 2, 3, 1]), 1)
    theirs.set_sform(np.array([[-1, 0, 0, 10], [0, 2, 0, 5], [0, 0, 3, 3], [0, 0, 0, 1.0]]), 2)
    nibabel.save(theirs, tmp_path / "scan.nii")
    node = loaded(tmp_path / "scan.nii")
    turned = np.linalg.inv(np.diag([-1.0, 2, 3, 1])) @ ijkToNode(node)  # from the node's voxels to the file's
    exportHeatmap(addHeatmap(logic, node), tmp_path / "heatmap.nii.gz")
    back = nibabel.load(tmp_path / "heatmap.nii.gz")
    # Small whole numbers, exact in the header's float32; the quaternion adds rounding.
    np.testing.assert_allclose(back.get_sform(), theirs.get_sform() @ turned, rtol=0, atol=1e-5)
    np.testing.assert_allclose(back.get_qform(), theirs.get_qform() @ turned, rtol=0, atol=1e-5)
    np.testing.assert_allclose(ijkToNode(loaded(tmp_path / "heatmap.nii.gz")), ijkToNode(node), rtol=0, atol=1e-5)


def loaded(path):
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(path))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    node.SetAndObserveStorageNodeID(storage.GetID())
    assert storage.ReadData(node)
    return node
