"""The table of findings, and why the classifier says so."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import (
    BLOBS,
    GRIDS,
    RIGID,
    SCALED,
    SHAPE_ZYX,
    THRESHOLD,
    addHeatmap,
    addVolume,
    affine,
    blobs,
    image,
    mask,
    paint,
    record,
    segmentArray,
)
from test_logic_heatmap import WORLD_MM
from test_logic_inputs import world
from ToNNOSlicerLib.logic import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.findings import findingsOf, hideCrosshair, jumpTo, midlineOf, sideOf
from ToNNOSlicerLib.logic.geometry import ijkToWorld, volumeOf
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.profile import profileAlong, profileFor
from ToNNOSlicerLib.logic.segmentation import isEditedByHand

from tonno_core.segmentation.binarize import components

VOXEL_MM3 = 0.9 * 1.3 * 2.6


def only(centre) -> np.ndarray:
    """The mask of one blob."""
    i, j, k = centre
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = 1
    return voxels


@pytest.mark.parametrize("transforms", [(), (RIGID,)], ids=["bare", "rigid"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed"])
def test_findings_by_hand(logic, grid: str, transforms) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS[grid], transforms=transforms))
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    listed = findingsOf(segmentation, segmentId, heatmap)
    assert [f.label for f in listed] == [1, 2]
    for finding, (centre, peak) in zip(listed, BLOBS.items(), strict=True):
        assert finding.peak == peak
        assert finding.mean == pytest.approx((26 * (peak - 2) + peak) / 27)
        assert finding.volumeMm3 == pytest.approx(27 * VOXEL_MM3)
        assert finding.extentMm == pytest.approx((2.7, 3.9, 7.8))
        assert finding.peakRAS == pytest.approx(world(heatmap, centre), abs=WORLD_MM)
        assert finding.centroidRAS == pytest.approx(world(heatmap, centre), abs=WORLD_MM)


def test_millimetres_are_the_worlds(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(SCALED,)))
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    assert listed[0].volumeMm3 == pytest.approx(27 * VOXEL_MM3 * 1.1 * 0.8 * 1.5)


def test_work_by_hand_is_in_the_table(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[12, 2, 3] = 1
    paint(segmentation, segmentId, voxels, heatmap)
    listed = findingsOf(segmentation, segmentId, heatmap)
    assert len(listed) == 3 and listed[2].peak == blobs()[12, 2, 3]
    assert listed[2].volumeMm3 == pytest.approx(VOXEL_MM3)


def test_a_segment_on_another_grid_is_measured_too(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["plain"]))
    fine = addVolume(np.diag([0.5, 0.5, 0.5, 1]), array=image((28, 36, 44)), name="fine")
    other = addHeatmap(logic, fine, np.kron(blobs(), np.ones((2, 2, 2), np.float32)))
    segmentation, segmentId = logic.segments.write(other, THRESHOLD)
    listed = findingsOf(segmentation, segmentId, heatmap)
    assert [f.peak for f in listed] == list(BLOBS.values())
    assert [f.volumeMm3 for f in listed] == [27, 27]
    logic.removeFinding(other, findingsOf(segmentation, segmentId, other)[0])
    assert [f.peak for f in findingsOf(segmentation, segmentId, heatmap)] == [6.0]


def test_an_empty_segment_has_no_findings(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    assert findingsOf(*logic.segments.write(heatmap, 100.0), heatmap) == []


def test_a_finding_is_removed_and_comes_back(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)))
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    first, second = findingsOf(segmentation, segmentId, heatmap)
    logic.removeFinding(heatmap, first)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), only((15, 12, 9)))
    assert [f.peak for f in findingsOf(segmentation, segmentId, heatmap)] == [second.peak]
    # The user's decision: the slider asks before it brings the finding back.
    with pytest.raises(EditedByHandError):
        logic.segments.write(heatmap, 2.9)
    with pytest.raises(ToNNOUserError, match="no longer in the segment"):
        logic.removeFinding(heatmap, first)
    logic.segments.undo(heatmap)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())
    assert not isEditedByHand(segmentation, segmentId)


def test_all_findings_removed_leave_an_empty_segment(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    for finding in findingsOf(segmentation, segmentId, heatmap):
        logic.removeFinding(heatmap, finding)
    assert not segmentArray(segmentation, segmentId, heatmap).any()


@pytest.mark.parametrize("transforms", [(), (RIGID,), (SCALED,)], ids=["bare", "rigid", "scaled"])
def test_diameters_are_of_the_findings_own_plane(logic, transforms) -> None:
    """A cube of 27 voxels: longer than its thinnest side, shorter than its diagonal, in a plane of constant S."""
    heatmap = addHeatmap(logic, addVolume(transforms=transforms))
    edges = np.linalg.norm(3 * ijkToWorld(heatmap)[:3, :3], axis=0)
    for finding in findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap):
        assert edges.min() < finding.longestMm < np.linalg.norm(edges)
        assert finding.perpendicularMm <= finding.longestMm
        ends = np.array([*finding.longestRAS, *finding.perpendicularRAS])
        assert np.ptp(ends[:, 2]) == pytest.approx(0, abs=1e-9)
        assert (np.linalg.norm(ends - finding.centroidRAS, axis=1) < np.linalg.norm(edges)).all()
        assert finding.ml == finding.volumeMm3 / 1000


def test_measures_of_a_part_are_those_of_the_whole(logic) -> None:
    """Only the mask's box is measured: numbers are those of all of the heatmap, by the engine itself."""
    heatmap = addHeatmap(logic, addVolume())
    measured = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    for finding, component in zip(measured, components(mask(), volumeOf(heatmap)), strict=True):
        assert (finding.label, finding.peak, finding.mean) == (component.label, component.peak, component.mean)
        assert finding.peakRAS == pytest.approx(component.peak_ras) and finding.extentMm == component.extent_mm
        assert finding.centroidRAS == pytest.approx(component.centroid_ras)


def test_findings_know_their_own_voxels(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["left-handed"], transforms=(RIGID,)))
    first, second = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    for finding in (first, second):
        assert finding.pieces.labelOf(finding.place, 0.0) == finding.label
        # From the middle of 3 x 3 x 3 voxels of 0.9, 1.3 and 2.6 mm the nearest one outside is two voxels away.
        assert finding.pieces.reachAt(finding.place, finding.label, 10.0) == pytest.approx(1.8)
    between = np.add(first.place, second.place) / 2
    assert first.pieces.labelOf(between, 1.0) == 0 and first.pieces.labelOf(between, 100.0) in (1, 2)


# Side

# Planes along three axes and five more directions through a ball around (20, -30, 40), 64 mm in radius.
CENTER = np.array([20.0, -30.0, 40.0])
NORMALS = np.array([*np.eye(3), (1, 1, 0), (0, 1, 1), (1, 0, -1), (1, 2, 3), (-2, 1, 1)], float)


def ball(lengths=(33,) * 8) -> dict:
    normals = NORMALS / np.linalg.norm(NORMALS, axis=1, keepdims=True)
    return {"profiles": [
        {"normal_ras": n.tolist(), "positions_mm": (n @ CENTER + np.linspace(-64, 64, m)).tolist(), "logits": [0.0] * m}
        for n, m in zip(normals, lengths, strict=True)
    ]}  # fmt: skip


def test_the_midline_is_that_of_what_the_planes_cover(logic, host) -> None:
    heatmap = addHeatmap(logic, volume := addVolume(), result=ball())
    assert midlineOf(heatmap) == pytest.approx(20)
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for node in (volume, heatmap):
        node.SetAndObserveTransformNodeID(transform.GetID())
    slicer.util.updateTransformMatrixFromArray(transform, RIGID)
    assert midlineOf(heatmap) == pytest.approx((RIGID[:3, :3] @ CENTER + RIGID[:3, 3])[0])


@pytest.mark.parametrize("kept", [None, ball((33,) * 7 + (20,)), {"profiles": ball()["profiles"][:3]}])
def test_without_a_ball_the_midline_is_the_volumes(logic, kept) -> None:
    """An old scene; a region of interest, whose profiles are of different lengths; too few to tell."""
    heatmap = addHeatmap(logic, addVolume(), result=kept)
    assert midlineOf(heatmap) == pytest.approx(world(heatmap, (10.5, 8.5, 6.5))[0])


def test_a_region_that_was_zoomed_into_is_not_the_patient(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=ball(), zoom=True)
    assert midlineOf(heatmap) == pytest.approx(world(heatmap, (10.5, 8.5, 6.5))[0])


def test_sides_are_the_patients_also_of_a_scan_off_the_middle(logic) -> None:
    """On a grid of 4 mm that ends far to the patient's left; the blobs are at i = 5 and 15 of 22."""
    heatmap = addHeatmap(logic, addVolume(affine(np.diag([4.0, 4.0, 4.0]), (-300, 0, 0))))
    assert [f.side for f in findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)] == ["left", "right"]
    heatmap = addHeatmap(logic, addVolume(affine(np.diag([-4.0, -4.0, 4.0]), (300, 0, 0)), name="b"))
    assert [f.side for f in findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)] == ["right", "left"]
    assert [sideOf((r, 0, 0), 10.0) for r in (4.9, 5.1, 14.9, 15.1)] == ["left", "midline", "midline", "right"]


def test_confidence_is_in_the_table(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), threshold=record(7.0) | {"negative_volumes": 12})
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    assert [f.confidence for f in listed] == [
        "above at least 11 of 12 negative scans", "between noise floor and threshold",
    ]  # fmt: skip


def test_all_slice_views_jump_to_the_peak(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)))
    finding = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)[1]
    crosshair = host.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    jumpTo(logic.scene, finding.peakRAS)
    for name in ("Red", "Yellow", "Green"):
        sliceToRAS = slicer.util.arrayFromVTKMatrix(slicer.util.getNode(name).GetSliceToRAS())
        # In the plane of the view; the image stays where it was in it.
        assert np.linalg.inv(sliceToRAS)[2] @ (*finding.peakRAS, 1) == pytest.approx(0, abs=1e-9)
    assert crosshair.GetCrosshairRAS() == pytest.approx(finding.peakRAS)


def test_the_crosshair_of_a_jump_goes_with_its_patient(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume())
    finding = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)[0]
    crosshair = host.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    jumpTo(logic.scene, finding.peakRAS)
    assert crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.ShowBasic
    hideCrosshair(logic.scene)
    assert crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair
    crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowIntersection)  # one's own
    jumpTo(logic.scene, finding.peakRAS)
    hideCrosshair(logic.scene)
    assert crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.ShowIntersection


# Why

PROFILES = [
    {"normal_ras": [1.0, 0.0, 0.0], "positions_mm": [-2.0, 0.0, 2.0], "logits": [0.1, 0.2, 0.3]},
    {"normal_ras": [0.0, 0.0, 1.0], "positions_mm": [10.0, 20.0, 30.0], "logits": [1.0, 5.0, 2.0]},
]
RESULT = {"score": 4.25, "explained": 0.75, "profiles": PROFILES}


def test_why_by_hand(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=RESULT)
    assert (recordOf(heatmap).get("score"), recordOf(heatmap).get("explained")) == (4.25, 0.75)
    nothing = recordOf(addHeatmap(logic, addVolume(name="b")))
    assert "score" not in nothing and "explained" not in nothing


def test_the_profile_nearest_to_the_views_normal(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=RESULT)
    profile = profileAlong(heatmap, (0, 0.1, 2), (7, 7, 20.5))
    assert profile.normalRAS == pytest.approx([0, 0, 1])
    assert profile.positionsMm == pytest.approx([10, 20, 30])
    assert profile.logits.tolist() == [1, 5, 2]
    assert profile.angleDeg == pytest.approx(np.degrees(np.arctan2(0.1, 2)))
    assert profile.currentMm == 20.5
    assert profileAlong(addHeatmap(logic, addVolume(name="b")), (0, 0, 1)) is None


def test_a_view_from_the_other_side_turns_the_profile(logic) -> None:
    profile = profileAlong(addHeatmap(logic, addVolume(), result=RESULT), (0, 0, -1), (0, 0, 20))
    assert profile.positionsMm == pytest.approx([-30, -20, -10])
    assert profile.logits.tolist() == [2, 5, 1]
    assert profile.currentMm == -20 and profile.angleDeg == pytest.approx(0, abs=1e-5)


def test_the_profile_of_a_slice_view(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=RESULT)
    view = slicer.util.getNode("Red")
    view.JumpSliceByOffsetting(0, 0, 12.5)
    profile = profileFor(heatmap, view)
    assert profile.normalRAS == pytest.approx([0, 0, 1])
    assert profile.currentMm == pytest.approx(12.5)


def test_the_profile_moves_with_the_patient(logic, host) -> None:
    heatmap = addHeatmap(logic, volume := addVolume(), result=RESULT)
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for node in (volume, heatmap):
        node.SetAndObserveTransformNodeID(transform.GetID())
    slicer.util.updateTransformMatrixFromArray(transform, RIGID)
    normal = RIGID[:3, :3] @ (0, 0, 1)
    profile = profileAlong(heatmap, normal)
    assert profile.normalRAS == pytest.approx(normal) and profile.angleDeg == pytest.approx(0, abs=1e-5)
    # A point of the plane S = 20, moved, is on the moved plane of the same logit.
    moved = RIGID[:3, :3] @ (3, 4, 20) + RIGID[:3, 3]
    assert profile.positionsMm[1] == pytest.approx(normal @ moved)
    assert profile.logits[1] == 5
