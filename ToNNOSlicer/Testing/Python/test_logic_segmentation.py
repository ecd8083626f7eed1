"""From threshold to segment: right voxels, right place, nobody else's work lost."""

from __future__ import annotations

import time

import numpy as np
import pytest
import slicer
import slicer.util
import vtk
from scenes import (
    BLOBS,
    GRIDS,
    RIGID,
    SCALED,
    SHAPE_ZYX,
    THRESHOLD,
    addHeatmap,
    addVolume,
    blobs,
    mask,
    paint,
    replace,
    segmentArray,
)
from test_logic_heatmap import WORLD_MM
from test_logic_inputs import world
from ToNNOSlicerLib.logic import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.results import resultOf
from ToNNOSlicerLib.logic.segmentation import (
    SEGMENTATION_ROLE,
    isEditedByHand,
    minPeakOf,
    segmentOf,
    show3D,
    thresholdOf,
)

VOXEL_MM3 = 0.9 * 1.3 * 2.6


@pytest.fixture
def written(logic):
    """(heatmap, segmentation, segment ID) at the threshold, on the oblique grid."""
    heatmap = addHeatmap(logic, addVolume())
    return heatmap, *logic.segments.write(heatmap, THRESHOLD)


def speck() -> np.ndarray:
    """One voxel, far from the blobs."""
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[12, 2, 3] = 1
    return voxels


def voxelCentres(segmentation, segmentId: str) -> np.ndarray:
    """RAS in the world of a segment's voxels (N 3), as its own image has them."""
    image = segmentation.GetBinaryLabelmapInternalRepresentation(segmentId)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    points = []
    i0, i1, j0, j1, k0, k1 = image.GetExtent()
    for k in range(k0, k1 + 1):
        for j in range(j0, j1 + 1):
            for i in range(i0, i1 + 1):
                if image.GetScalarComponentAsDouble(i, j, k, 0):
                    point = [0.0, 0.0, 0.0]
                    segmentation.TransformPointToWorld(matrix.MultiplyPoint((i, j, k, 1))[:3], point)
                    points.append(point)
    return np.array(points)


@pytest.mark.parametrize("transforms", [(), (RIGID,), (RIGID, SCALED)], ids=["bare", "rigid", "rigid in scaled"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_segment_lies_on_its_volume(logic, grid: str, transforms) -> None:
    volume = addVolume(GRIDS[grid], transforms=transforms)
    heatmap = addHeatmap(logic, volume)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    centres = voxelCentres(segmentation, segmentId)
    expected = np.array([world(volume, (i, j, k)) for k, j, i in np.argwhere(mask())])
    assert centres == pytest.approx(expected, abs=WORLD_MM)
    assert np.array_equal(segmentArray(segmentation, segmentId, volume), mask())


def test_a_segmentation_of_another_frame_gets_the_same_place(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)))
    segmentation = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    slicer.util.updateTransformMatrixFromArray(transform, SCALED)
    segmentation.SetAndObserveTransformNodeID(transform.GetID())
    _node, segmentId = logic.segments.writeNew(heatmap, THRESHOLD, segmentationNode=segmentation)
    expected = np.array([world(heatmap, (i, j, k)) for k, j, i in np.argwhere(mask())])
    assert voxelCentres(segmentation, segmentId) == pytest.approx(expected, abs=WORLD_MM)


def test_the_segment_is_an_ordinary_one(written) -> None:
    _heatmap, segmentation, segmentId = written
    segment = segmentation.GetSegmentation().GetSegment(segmentId)
    assert segment.GetName() == "lesion"
    terminology = vtk.reference("")
    assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology)
    assert "SCT^4147007^Mass" in terminology
    role = segmentation.GetReferenceImageGeometryReferenceRole()
    assert segmentation.GetNodeReferenceID(role) == slicer.util.getNode("CT").GetID()
    assert segmentation.GetSegmentation().GetConversionParameter("Reference image geometry")
    # Cropped to what it holds: both blobs and no more.
    (i0, j0, k0), (i1, j1, k1) = BLOBS
    box = (i0 - 1, i1 + 1, j0 - 1, j1 + 1, k0 - 1, k1 + 1)
    assert segmentation.GetBinaryLabelmapInternalRepresentation(segmentId).GetExtent() == box


def test_the_slider_rewrites_the_same_segment(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    assert logic.segments.write(heatmap, 5.0) == (segmentation, segmentId)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), blobs() >= 5.0)
    assert thresholdOf(segmentation, segmentId) == 5.0
    assert segmentOf(heatmap) == (segmentation, segmentId)


def test_small_components_are_left_out(logic) -> None:
    array = blobs()
    array[12, 2, 3] = 8.0
    heatmap = addHeatmap(logic, addVolume(), array)
    node, segmentId = logic.segments.write(heatmap, THRESHOLD, 2 * VOXEL_MM3)
    assert np.array_equal(segmentArray(node, segmentId, heatmap), mask())
    logic.segments.write(heatmap, THRESHOLD, VOXEL_MM3)  # exactly one voxel's volume is enough
    assert np.array_equal(segmentArray(node, segmentId, heatmap), mask() | speck())


def test_an_empty_segment_can_be_written_and_filled_again(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    logic.segments.write(heatmap, 100.0)
    assert not segmentArray(segmentation, segmentId, heatmap).any()
    assert not isEditedByHand(segmentation, segmentId)
    logic.segments.write(heatmap, THRESHOLD)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())


def test_a_threshold_that_is_no_number_is_refused(logic, written) -> None:
    with pytest.raises(ToNNOUserError, match="finite number"):
        logic.segments.write(written[0], float("nan"))


# Work by hand


def test_paint_is_never_overwritten_unasked(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    paint(segmentation, segmentId, speck(), heatmap)
    painted = segmentArray(segmentation, segmentId, heatmap)
    assert np.array_equal(painted, mask() | speck())
    assert isEditedByHand(segmentation, segmentId)
    with pytest.raises(EditedByHandError, match="lesion has been changed by hand"):
        logic.segments.write(heatmap, 5.0)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), painted)
    # One way out: a new segment, which the slider moves from now on.
    _node, other = logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)
    assert segmentation.GetSegmentation().GetSegment(other).GetName() == "lesion 2"
    assert logic.segments.write(heatmap, 4.5) == (segmentation, other)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), painted)
    # The other: overwrite.
    heatmap.SetAttribute(SEGMENTATION_ROLE, segmentId)
    logic.segments.write(heatmap, 5.0, overwrite=True)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), blobs() >= 5.0)
    assert not isEditedByHand(segmentation, segmentId)


def test_erased_voxels_are_work_by_hand_too_and_paint_taken_back_is_none(written) -> None:
    heatmap, segmentation, segmentId = written
    paint(segmentation, segmentId, speck(), heatmap)
    assert isEditedByHand(segmentation, segmentId)
    replace(segmentation, segmentId, mask(), heatmap)
    assert not isEditedByHand(segmentation, segmentId)
    replace(segmentation, segmentId, np.zeros_like(mask()), heatmap)
    assert isEditedByHand(segmentation, segmentId)


def test_a_hole_inside_of_the_segments_box_is_work_by_hand(written) -> None:
    heatmap, segmentation, segmentId = written
    (i, j, k), *_others = BLOBS
    holed = mask()
    holed[k, j, i] = 0
    replace(segmentation, segmentId, holed, heatmap)
    assert isEditedByHand(segmentation, segmentId)


def test_a_users_own_segment_counts_as_work_by_hand(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segmentation.SetReferenceImageGeometryParameterFromVolumeNode(heatmap)
    tumour = segmentation.GetSegmentation().AddEmptySegment("", "tumour")
    paint(segmentation, tumour, speck(), heatmap)
    heatmap.SetNodeReferenceID(SEGMENTATION_ROLE, segmentation.GetID())
    heatmap.SetAttribute(SEGMENTATION_ROLE, tumour)
    with pytest.raises(EditedByHandError, match="tumour"):
        logic.segments.write(heatmap, THRESHOLD)


@pytest.mark.parametrize("shared", [False, True], ids=["own layers", "a shared layer"])
def test_other_segments_are_never_touched(logic, host, shared: bool) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    other = segmentation.GetSegmentation().AddEmptySegment("", "tumour")
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[2:12, 2:12, 10:12] = 1
    voxels[mask() > 0] = 0  # side by side, as in one layer
    paint(segmentation, other, voxels, heatmap)
    if not shared:
        segmentation.GetSegmentation().SeparateSegmentLabelmap(other)
    assert segmentation.GetSegmentation().GetNumberOfLayers() == (1 if shared else 2)
    for threshold in (-0.5, 5.0, THRESHOLD):  # also over the neighbour
        logic.segments.write(heatmap, threshold)
        assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), blobs() >= threshold)
        assert np.array_equal(segmentArray(segmentation, other, heatmap), voxels)
    logic.segments.undo(heatmap)
    logic.segments.writeNew(heatmap, 0.0, segmentationNode=segmentation)
    logic.segments.undo(heatmap)
    assert np.array_equal(segmentArray(segmentation, other, heatmap), voxels)


def test_a_segmentation_of_surfaces_is_refused(logic, written) -> None:
    heatmap, segmentation, _id = written
    segmentation.CreateClosedSurfaceRepresentation()
    segmentation.SetSourceRepresentationToClosedSurface()
    with pytest.raises(ToNNOUserError, match="made of surfaces"):
        logic.segments.write(heatmap, 5.0, overwrite=True)
    with pytest.raises(ToNNOUserError, match="made of surfaces"):
        logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)


def test_a_segmentation_on_another_grid_is_refused(logic, host) -> None:
    """Slicer would resample the segment to that grid when it saves it."""
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.segments.write(addHeatmap(logic, addVolume(GRIDS["plain"], name="MR")), THRESHOLD)
    with pytest.raises(ToNNOUserError, match="another grid"):
        logic.segments.writeNew(heatmap, THRESHOLD, segmentationNode=segmentation)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


# Undo


def test_undo_goes_back_step_by_step_and_redo_forward(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    thresholds = (THRESHOLD, 4.0, 5.0, 8.0)
    for threshold in thresholds[1:]:
        logic.segments.write(heatmap, threshold)

    def isWritten(threshold: float) -> bool:
        assert thresholdOf(segmentation, segmentId) == threshold
        assert not isEditedByHand(segmentation, segmentId)
        return np.array_equal(segmentArray(segmentation, segmentId, heatmap), blobs() >= threshold)

    for threshold in thresholds[2::-1]:
        assert logic.segments.canUndo(heatmap) and logic.segments.undo(heatmap)
        assert isWritten(threshold)
    assert not logic.segments.canUndo(heatmap) and not logic.segments.undo(heatmap)
    for threshold in thresholds[1:]:
        assert logic.segments.canRedo(heatmap) and logic.segments.redo(heatmap)
        assert segmentOf(heatmap) == (segmentation, segmentId) and isWritten(threshold)
    assert not logic.segments.canRedo(heatmap) and not logic.segments.redo(heatmap)


def test_the_first_segment_is_what_the_run_found_and_no_step(logic, written) -> None:
    """Undo right after a run would leave a result without findings."""
    heatmap, segmentation, segmentId = written
    assert not logic.segments.canUndo(heatmap) and not logic.segments.undo(heatmap)
    logic.segments.write(heatmap, 5.0)
    segmentation.GetSegmentation().RemoveSegment(segmentId)
    written = logic.segments.write(heatmap, 6.5)  # it begins anew: steps of the segment that is gone are over
    assert not logic.segments.canUndo(heatmap) and not logic.segments.canRedo(heatmap)
    assert segmentOf(heatmap) == written


def test_a_new_step_ends_what_could_be_done_again(logic, written) -> None:
    heatmap, _segmentation, _id = written
    logic.segments.write(heatmap, 5.0)
    logic.segments.undo(heatmap)
    logic.segments.write(heatmap, 6.5)
    assert not logic.segments.canRedo(heatmap)


def test_each_heatmap_has_steps_of_its_own(logic, written) -> None:
    """What is taken back belongs to the result that is looked at, whatever was done last elsewhere."""
    heatmap, segmentation, segmentId = written
    logic.segments.write(heatmap, 5.0)
    other = addHeatmap(logic, addVolume(name="MR"))
    logic.segments.write(other, THRESHOLD)
    logic.segments.write(other, 6.5)
    logic.segments.undo(heatmap)
    assert thresholdOf(segmentation, segmentId) == THRESHOLD
    assert thresholdOf(*segmentOf(other)) == 6.5


def test_undo_of_a_new_segment_makes_the_old_one_the_heatmaps_again(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)
    assert segmentOf(heatmap)[1] != segmentId
    logic.segments.undo(heatmap)
    assert segmentOf(heatmap) == (segmentation, segmentId)


def test_undo_brings_overwritten_paint_back(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    paint(segmentation, segmentId, speck(), heatmap)
    logic.segments.write(heatmap, 5.0, overwrite=True)
    logic.segments.undo(heatmap)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask() | speck())
    assert isEditedByHand(segmentation, segmentId)


def test_undo_and_redo_ask_before_they_take_paint_away(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    logic.segments.write(heatmap, 5.0)
    paint(segmentation, segmentId, speck(), heatmap)
    with pytest.raises(EditedByHandError):
        logic.segments.undo(heatmap)
    assert segmentArray(segmentation, segmentId, heatmap)[12, 2, 3] == 1
    assert logic.segments.undo(heatmap, overwrite=True)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())
    paint(segmentation, segmentId, speck(), heatmap)
    with pytest.raises(EditedByHandError):
        logic.segments.redo(heatmap)
    assert segmentArray(segmentation, segmentId, heatmap)[12, 2, 3] == 1


def test_undo_passes_over_what_is_gone(logic, host, written) -> None:
    heatmap, segmentation, segmentId = written
    logic.segments.write(heatmap, 5.0)
    logic.segments.writeNew(heatmap, 5.0)
    gone, _gone_id = segmentOf(heatmap)
    host.scene.RemoveNode(gone)
    assert logic.segments.undo(heatmap) and thresholdOf(segmentation, segmentId) == THRESHOLD


# Preview


def test_the_preview_is_the_mask_and_nobody_keeps_it(logic, host, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)))
    for threshold in (THRESHOLD, 5.0):
        logic.preview.show(heatmap, threshold)
        preview = slicer.util.getNode("ToNNO preview")
        assert np.array_equal(segmentArray(preview, "preview", heatmap), blobs() >= threshold)
    assert preview.GetHideFromEditors() and not preview.GetSaveWithScene()
    logic.preview.hide()
    assert not slicer.util.getNodes("ToNNO preview*")
    logic.preview.show(heatmap, THRESHOLD)
    host.load(host.save(tmp_path / "scene"))
    assert not slicer.util.getNodes("ToNNO preview*")


def higher() -> np.ndarray:
    """The cube whose peak is above 6.5; that of the other is not."""
    (i, j, k), _peak = max(BLOBS.items(), key=lambda blob: blob[1])
    kept = np.zeros_like(mask())
    kept[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 1
    return kept


def test_weak_components_are_left_out_at_any_threshold(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD, minPeak=6.5)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), higher())
    assert minPeakOf(segmentation, segmentId) == 6.5
    # With the slider below the noise all is one part, which has the peak.
    logic.segments.write(heatmap, -2.0, minPeak=6.5)
    assert segmentArray(segmentation, segmentId, heatmap).all()
    logic.segments.write(heatmap, 7.5, minPeak=6.5)
    assert segmentArray(segmentation, segmentId, heatmap).sum() == 1
    logic.segments.write(heatmap, THRESHOLD)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())
    assert minPeakOf(segmentation, segmentId) == -np.inf
    for expected in (7.5, -2.0, THRESHOLD):
        assert logic.segments.undo(heatmap)
        assert (thresholdOf(segmentation, segmentId), minPeakOf(segmentation, segmentId)) == (expected, 6.5)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), higher())


def test_a_segment_of_an_earlier_version_has_all_parts(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    segmentation.GetSegmentation().GetSegment(segmentId).RemoveTag("ToNNO.MinPeak")
    assert minPeakOf(segmentation, segmentId) is None
    assert resultOf(heatmap).minPeak == -np.inf


def test_the_preview_leaves_weak_components_out(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    logic.preview.show(heatmap, THRESHOLD, 0.0, 6.5)
    assert np.array_equal(logic.preview._mask, higher())
    logic.preview.show(heatmap, THRESHOLD)
    assert np.array_equal(logic.preview._mask, mask())


def test_the_preview_leaves_small_components_out(logic) -> None:
    array = blobs()
    array[12, 2, 3] = 8.0
    heatmap = addHeatmap(logic, addVolume(), array)
    logic.preview.show(heatmap, THRESHOLD, 2 * VOXEL_MM3)
    preview = slicer.util.getNode("ToNNO preview")
    assert np.array_equal(segmentArray(preview, "preview", heatmap), mask())


def test_the_preview_follows_another_heatmap(logic) -> None:
    logic.preview.show(addHeatmap(logic, addVolume()), THRESHOLD)
    other = addHeatmap(logic, addVolume(GRIDS["plain"], name="MR"), -blobs())
    logic.preview.show(other, 0.5)
    assert np.array_equal(segmentArray(slicer.util.getNode("ToNNO preview"), "preview", other), -blobs() >= 0.5)


# 3D


def test_show_3d_follows_the_threshold(logic, written) -> None:
    heatmap, segmentation, segmentId = written
    show3D(segmentation, True)
    assert segmentation.GetDisplayNode().GetVisibility3D()

    def points() -> int:
        surface = segmentation.GetClosedSurfaceInternalRepresentation(segmentId)
        return surface.GetNumberOfPoints() if surface is not None else 0

    both = points()
    logic.segments.write(heatmap, 7.5)  # one voxel is left
    assert 0 < points() < both
    show3D(segmentation, False)
    assert not segmentation.GetDisplayNode().GetVisibility3D()


def test_a_release_of_the_slider_is_far_from_a_freeze(logic) -> None:
    """Ten times the issue's limit on a sixteenth of its volume; the benchmark is benchmarks/slicer_logic.py."""
    array = np.random.default_rng(0).normal(size=(96, 104, 110)).astype(np.float32)
    heatmap = addHeatmap(logic, addVolume(array=array), array)
    started = time.perf_counter()
    logic.segments.write(heatmap, 2.0, 5 * VOXEL_MM3)
    assert time.perf_counter() - started < 3.0
