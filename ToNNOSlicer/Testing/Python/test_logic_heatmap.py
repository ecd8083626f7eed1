"""The heatmap's node, what it remembers, and its colours over the slices."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SCALED, SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, blobs, record, setOverlay
from test_logic_inputs import world
from ToNNOSlicerLib.logic import ToNNOUserError
from ToNNOSlicerLib.logic.heatmap import Heatmap, calibrationOf, histogram, otsuThreshold, recordOf, showHeatmap
from ToNNOSlicerLib.logic.inputs import inputFor
from ToNNOSlicerLib.logic.overlay import window
from ToNNOSlicerLib.logic.results import heatmapsOf
from vtk.util.numpy_support import vtk_to_numpy

# The issue's own limit; what is left of it is the float64 of a chain of matrices.
WORLD_MM = 1e-4
CORNERS = [(i, j, k) for k in (0, 13) for j in (0, 17) for i in (0, 21)]


def voxels(node) -> np.ndarray:
    return slicer.util.arrayFromVolume(node)


@pytest.mark.parametrize("transforms", [(), (RIGID,), (RIGID, SCALED)], ids=["bare", "rigid", "rigid in scaled"])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_heatmap_lies_on_its_volume(logic, grid: str, transforms) -> None:
    volume = addVolume(GRIDS[grid], transforms=transforms)
    heatmap = addHeatmap(logic, volume)
    given = inputFor(volume)
    for ijk in CORNERS:
        assert world(heatmap, ijk) == pytest.approx(world(volume, ijk), abs=WORLD_MM)
        assert world(heatmap, ijk) == pytest.approx(given.ijkToRAS[:3, :3] @ ijk + given.ijkToRAS[:3, 3], abs=WORLD_MM)
    assert np.array_equal(voxels(heatmap), blobs())


def test_the_heatmap_goes_where_its_volume_goes(logic) -> None:
    volume = addVolume(transforms=(RIGID,))
    heatmap = addHeatmap(logic, volume)
    slicer.util.updateTransformMatrixFromArray(volume.GetParentTransformNode(), SCALED)
    assert world(heatmap, (3, 2, 1)) == pytest.approx(world(volume, (3, 2, 1)), abs=WORLD_MM)


def test_a_volume_that_was_cropped_during_the_run_leaves_the_heatmap_in_its_place(host) -> None:
    volume = addVolume(transforms=(RIGID,))
    given = inputFor(volume)
    slicer.util.updateVolumeFromArray(volume, np.zeros((4, 4, 4), np.float32))
    heatmap = showHeatmap(volume, Heatmap(blobs(), given.ijkToRAS, "tonno", "lesion"))
    expected = given.ijkToRAS[:3, :3] @ (1, 2, 3) + given.ijkToRAS[:3, 3]
    assert world(heatmap, (1, 2, 3)) == pytest.approx(expected, abs=WORLD_MM)


def test_a_preview_is_sharpened_in_the_same_node(logic) -> None:
    volume = addVolume()
    coarse = addHeatmap(logic, volume, blobs() / 2)
    fine = addHeatmap(logic, volume, heatmapNode=coarse)
    assert fine is coarse and np.array_equal(voxels(fine), blobs())
    assert heatmapsOf(logic.scene) == [fine]


def test_names_say_volume_and_method(logic) -> None:
    volume = addVolume(name="T1")
    assert addHeatmap(logic, volume).GetName() == "T1 ToNNO Matched CAM"
    assert addHeatmap(logic, volume, method="tonno").GetName() == "T1 ToNNO"
    assert addHeatmap(logic, volume, method="tonno").GetName() == "T1 ToNNO_1"


def test_a_zoomed_heatmap_is_told_by_name_legend_and_segmentation(logic) -> None:
    volume = addVolume(name="T1")
    whole, zoomed = addHeatmap(logic, volume), addHeatmap(logic, volume, zoom=True)
    assert [recordOf(node)["zoom"] for node in (whole, zoomed)] == [False, True]
    assert zoomed.GetName() == "T1 ToNNO Matched CAM finer in region"
    assert logic.segments.write(zoomed, THRESHOLD)[0].GetName() == f"{zoomed.GetName()} segmentation"
    setOverlay(zoomed, THRESHOLD)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(zoomed)
    assert legend.GetTitleText() == "ToNNO Matched CAM finer in region\nlesion"


def test_heatmap_and_segmentation_are_in_the_volumes_study(logic, host) -> None:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(host.scene)
    study = tree.CreateStudyItem(tree.CreateSubjectItem(tree.GetSceneItemID(), "patient"), "study")
    volume = addVolume()
    tree.CreateItem(study, volume)
    heatmap = addHeatmap(logic, volume)
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    for node in (heatmap, segmentation):
        assert tree.GetItemParent(tree.GetItemByDataNode(node)) == study


def test_nan_in_the_heatmap_becomes_zero(logic) -> None:
    array = blobs()
    array[0, 0, 0] = np.nan
    heatmap = addHeatmap(logic, addVolume(), array)
    assert voxels(heatmap)[0, 0, 0] == 0.0
    assert np.array_equal(voxels(heatmap).ravel()[1:], blobs().ravel()[1:])


def test_the_models_numbers_are_kept(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    assert calibrationOf(recordOf(heatmap)).get("threshold") == THRESHOLD
    assert calibrationOf(recordOf(heatmap)).get("noise_floor") == 1.0
    bare = addHeatmap(logic, addVolume(name="other"), threshold=None)
    assert calibrationOf(recordOf(bare)) == {}


def test_the_histogram_counts_what_the_planes_cover(host) -> None:
    volume = addVolume()
    inside = np.zeros(SHAPE_ZYX, bool)
    inside[2:, 3:, 4:] = True
    made = Heatmap(np.where(inside, blobs(), 0), np.eye(4), "tonno", "lesion")
    heatmap = showHeatmap(volume, replace(made, inside=inside))
    edges, counts = histogram(heatmap)
    expected, expected_edges = np.histogram(blobs()[inside], 256)
    assert counts.tolist() == expected.tolist()
    assert edges == pytest.approx(expected_edges, abs=1e-6)  # numpy's own are float32
    # A preview has no mask: what is not exactly zero.
    preview = showHeatmap(volume, made)
    assert histogram(preview)[1].sum() == inside.sum()


def test_otsu_lies_between_noise_and_blobs_and_is_computed_once(logic) -> None:
    array = blobs()
    array[8:] = 0  # outside of the planes
    array[:3] = 8 + array[:3] / 2
    heatmap = addHeatmap(logic, addVolume(), array)
    value = otsuThreshold(heatmap)
    assert 1.0 < value < 7.5  # the noise ends at 1, the bright part starts at 7.5; zeros would pull it below 1
    voxels(heatmap)[:] = 0
    assert otsuThreshold(heatmap) == value
    told = addHeatmap(logic, addVolume(name="b"), result={"heatmaps": {"matched-cam": {"otsu": 2.5}}})
    assert otsuThreshold(told) == 2.5


def test_otsu_of_a_constant_says_so(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), np.ones(SHAPE_ZYX, np.float32))
    with pytest.raises(ToNNOUserError, match="nothing to split"):
        otsuThreshold(heatmap)


def test_a_node_that_is_no_heatmap_is_refused(host) -> None:
    with pytest.raises(ToNNOUserError, match="no heatmap"):
        histogram(addVolume())


# Overlay


def shown(heatmap) -> np.ndarray:
    """What Slicer's own display pipeline makes of the voxels: RGBA, Z Y X 4."""
    display = heatmap.GetDisplayNode()
    display.UpdateImageDataPipeline()
    display.GetImageDataConnection().GetProducer().Update()
    image = display.GetOutputImageData()
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*image.GetDimensions()[::-1], 4)


@pytest.mark.parametrize("threshold", [0.5, 1.0, 2.7, 3.0, 6.3, 8.999, 9.0])
def test_exactly_what_reaches_the_threshold_is_visible(logic, threshold: float) -> None:
    heatmap = addHeatmap(logic, addVolume())
    setOverlay(heatmap, threshold)
    visible = shown(heatmap)[..., 3] > 0
    positive = blobs() >= 0
    assert np.array_equal(visible[positive], blobs()[positive] >= threshold)
    # On the other side of zero the border is that of a colour, at most one of 255 off.
    width = 2 * heatmap.GetDisplayNode().GetWindowLevelMax() / 255
    assert not visible[(blobs() < 0) & (blobs() > -threshold + width)].any()
    assert visible[blobs() < -threshold - width].all()


def test_evidence_for_is_warm_and_evidence_against_is_cold(logic) -> None:
    array = blobs()
    array[10, 10, 10], array[11, 11, 11] = 9.0, -9.0
    heatmap = addHeatmap(logic, addVolume(), array)
    setOverlay(heatmap, 3.0)
    warm, cold = shown(heatmap)[10, 10, 10], shown(heatmap)[11, 11, 11]
    assert warm[0] > warm[2] and cold[2] > cold[0] and warm[3] == cold[3] == 255


@pytest.mark.parametrize("limit", [0.0, 1e-3, 1.0, 9.0, 700.0])
@pytest.mark.parametrize("share", [0.0, 1e-4, 0.003, 0.01, 0.3, 0.99, 1.0, 3.0])
@pytest.mark.parametrize("lowest", [-1.0, -1e-6], ids=["evidence against", "none against"])
def test_the_window_fits_the_data_and_the_threshold_is_between_two_colors(limit, share, lowest) -> None:
    threshold = share * limit
    low, high, first = window({"limit": limit, "low": lowest * limit, "high": limit}, threshold)
    isCentered = lowest * limit <= -threshold or threshold == 0
    assert low == (-high if isCentered else 0) and high > 0 and 1 <= first <= 255
    if share > 0.002 and limit:  # below that the threshold is inside of the middle color
        width = (high - low) / 255
        assert low + first * width == pytest.approx(threshold, rel=2e-6)  # the millionth of `window`
    if 0.01 <= share <= 1 and limit:
        assert high == pytest.approx(limit, rel=0.6 / (255 * share) + 1e-6 if share < 1 else 0.26)


def views() -> list:
    return slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")


def test_the_overlay_gives_the_views_back(logic) -> None:
    other, volume = addVolume(name="PET"), addVolume()
    for view in views():
        view.SetBackgroundVolumeID(volume.GetID())
        view.SetForegroundVolumeID(other.GetID())
        view.SetForegroundOpacity(0.25)
    heatmaps = [addHeatmap(logic, volume), addHeatmap(logic, volume, method="tonno")]
    for heatmap in heatmaps:  # the second takes the place of the first
        setOverlay(heatmap, THRESHOLD, 0.7)
        assert {view.GetForegroundVolumeID() for view in views()} == {heatmap.GetID()}
        assert {view.GetForegroundOpacity() for view in views()} == {0.7}
    setOverlay(heatmaps[1], THRESHOLD, visible=False)
    assert {view.GetForegroundVolumeID() for view in views()} == {other.GetID()}
    assert {view.GetForegroundOpacity() for view in views()} == {0.25}
    assert {view.GetBackgroundVolumeID() for view in views()} == {volume.GetID()}


def test_an_empty_view_gets_the_volume_too(logic) -> None:
    volume = addVolume()
    setOverlay(addHeatmap(logic, volume), THRESHOLD)
    assert {view.GetBackgroundVolumeID() for view in views()} == {volume.GetID()}


def test_the_legend_comes_and_goes_with_the_overlay(logic) -> None:
    heatmap = addHeatmap(logic, addVolume())
    setOverlay(heatmap, THRESHOLD)
    legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(heatmap)
    assert legend.GetVisibility() and "Matched CAM" in legend.GetTitleText() and "lesion" in legend.GetTitleText()
    setOverlay(heatmap, THRESHOLD, visible=False)
    assert not legend.GetVisibility()


def test_a_heatmap_that_is_removed_takes_its_traces_with_it(logic, host) -> None:
    volume = addVolume()
    before = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    heatmap = addHeatmap(logic, volume)
    setOverlay(heatmap, THRESHOLD)
    logic.preview.show(heatmap, THRESHOLD)
    host.scene.RemoveNode(heatmap)
    after = {node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLNode")}
    assert {n for n in after - before if "SubjectHierarchy" not in n} == set()
    assert {view.GetForegroundVolumeID() for view in views()} == {None}


def test_a_record_survives_any_text(logic, host, tmp_path) -> None:
    odd = "a;b:c|d~e&f<g>\"h\"'i'%3B\n\u00e4\u4e2d"
    heatmap = addHeatmap(logic, addVolume(), className=odd, threshold=record() | {"note": odd})
    path = host.save(tmp_path / "scene")
    host.load(path)
    kept = json.loads(heatmapsOf(logic.scene)[0].GetAttribute("ToNNO.Record"))
    assert kept["className"] == odd and kept["threshold"]["note"] == odd
    del heatmap
