"""Whether all that a user sees, and could export, is of one result: the module's first promise, looked at from outside.

Nothing here asks the session what it thinks: views, legends, outlines, table, slider and labels are read as they are.
"""

from __future__ import annotations

import html
import json
from typing import Any

import numpy as np
import slicer
import slicer.util
import vtk


def nodes(scene: Any, kind: str) -> list[Any]:
    return [scene.GetNthNodeByClass(n, kind) for n in range(scene.GetNumberOfNodesByClass(kind))]


def tag(segment: Any, name: str) -> str | None:
    value = vtk.reference("")
    return str(value) if segment.GetTag(name, value) else None


def shownHeatmaps(scene: Any) -> set[str]:
    """IDs of the heatmaps in any layer of any slice view."""
    return {name for view in nodes(scene, "vtkMRMLSliceCompositeNode") for name in heatmapsIn(view)}


def heatmapsIn(view: Any) -> set[str]:
    """IDs of the heatmaps in any layer of a slice view."""
    layers = [view.GetScene().GetNodeByID(view.GetNthLayerVolumeID(n) or "") for n in range(5)]
    return {node.GetID() for node in layers if node is not None and node.GetAttribute("ToNNO.Record")}


def visibleSegments(scene: Any) -> set[tuple[str, str]]:
    """(segmentation, segment) of what the module has written and the views show."""
    shown = set()
    for node in nodes(scene, "vtkMRMLSegmentationNode"):
        display = node.GetDisplayNode()
        for name in node.GetSegmentation().GetSegmentIDs():
            if tag(node.GetSegmentation().GetSegment(name), "ToNNO.Written") is None:
                continue
            if display.GetVisibility() and display.GetSegmentVisibility(name):
                shown.add((node.GetID(), name))
    return shown


def linesOf(heatmap: Any) -> set[str]:
    """IDs of the diameters that were drawn for a heatmap."""
    role = "ToNNO.diameter"
    return {heatmap.GetNthNodeReferenceID(role, n) for n in range(heatmap.GetNumberOfNodeReferences(role))}


def components(mask: np.ndarray) -> list[int]:
    """Voxels of each component (26 neighbors), falling; by SciPy."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    return sorted(np.bincount(labels.reshape(-1), minlength=count + 1)[1:].tolist(), reverse=True)


def check(widget: Any) -> None:
    """Raise AssertionError where something that is seen is not of the result that is named."""
    panel, ui = widget.panel, widget.ui
    parameters, scene = panel.session.parameters, panel.logic.scene
    volume, heatmap = ui.inputSelector.currentNode(), ui.heatmapSelector.currentNode()
    isPreview = "(preview)" in ui.statusLabel.text
    named = ui.identityLabel.text if ui.identityLabel.isVisibleTo(ui.ToNNOSlicer) else ""

    backgrounds = [view.GetBackgroundVolumeID() for view in nodes(scene, "vtkMRMLSliceCompositeNode")]
    if volume is not None:
        # A user may have another image in a single view; there no heatmap may lie over it.
        assert volume.GetID() in backgrounds, "another image is in the background"
        for view in nodes(scene, "vtkMRMLSliceCompositeNode"):
            assert view.GetBackgroundVolumeID() == volume.GetID() or not heatmapsIn(view), "over another image"
    shown = shownHeatmaps(scene)
    for identifier in shown:
        image = scene.GetNodeByID(identifier).GetNodeReference("ToNNO.input")
        assert image is volume, "a heatmap lies over an image of another patient"
    assert len(shown) <= 1, "two heatmaps are shown"
    legends = set()
    for node in nodes(scene, "vtkMRMLScalarVolumeNode"):
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if node.GetAttribute("ToNNO.Record") and legend is not None and legend.GetVisibility():
            legends.add(node.GetID())
    assert legends == shown, "the legend is of another heatmap"

    for node in nodes(scene, "vtkMRMLMarkupsLineNode"):
        if node.GetDisplayNode().GetVisibility():
            assert named and node.GetID() in linesOf(heatmap), "a diameter of another result"
    if named and linesOf(heatmap):
        assert len(linesOf(heatmap)) == 2 * ui.findingsTable.rowCount, "diameters of findings that are no more"

    if not named:
        assert not visibleSegments(scene), "an outline without a result"
        assert ui.findingsTable.rowCount == 0, "findings without a result"
        assert not ui.exportFindingsButton.enabled and not ui.exportHeatmapButton.enabled
        return
    assert not isPreview, "a result is named while a preview is shown"
    assert heatmap is not None and heatmap.GetNodeReference("ToNNO.input") is volume
    assert volume.GetName() in html.unescape(named), "the name is of another volume"
    record = json.loads(heatmap.GetAttribute("ToNNO.Record"))
    assert bool(record.get("stopped")) == ("stopped" in named)
    method = {"tonno": "ToNNO", "matched-cam": "Matched CAM", "averaged-cam": "Averaged CAM"}
    assert method.get(record["method"], "Tomographic CAM") in named
    assert shown == ({heatmap.GetID()} if parameters.overlayVisible else set())

    segmentation = heatmap.GetNodeReference("ToNNO.segmentation")
    segmentId = heatmap.GetAttribute("ToNNO.segmentation")
    segment = segmentation.GetSegmentation().GetSegment(segmentId) if segmentation is not None and segmentId else None
    siblings = {
        (node.GetNodeReferenceID("ToNNO.segmentation"), node.GetAttribute("ToNNO.segmentation"))
        for node in nodes(scene, "vtkMRMLScalarVolumeNode")
        if node.GetAttribute("ToNNO.Record")
        and json.loads(node.GetAttribute("ToNNO.Record")).get("run") == record.get("run")
    }
    assert visibleSegments(scene) <= siblings, "an outline of another result"
    assert ui.show3DButton.segmentationNode() is (segmentation if segment is not None else None)
    if segment is None:
        assert ui.findingsTable.rowCount == 0
        assert not ui.exportFindingsButton.enabled
        return
    assert (segmentation.GetID(), segmentId) in visibleSegments(scene), "the result's own outline is hidden"
    isDragging = any(node.GetName() == "ToNNO preview" for node in nodes(scene, "vtkMRMLSegmentationNode"))
    if not isDragging:
        np.testing.assert_allclose(ui.thresholdSlider.value, float(tag(segment, "ToNNO.Threshold")), rtol=1e-6)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, heatmap)
    sizes = components(mask) if mask is not None else []
    assert ui.findingsTable.rowCount == len(sizes), "the table is of another segment"
    mm3 = abs(np.linalg.det(_linear(heatmap)))
    listed = sorted((finding.volumeMm3 for finding in panel.session.shownResult.findings), reverse=True)
    np.testing.assert_allclose(listed, [size * mm3 for size in sizes], rtol=1e-5)


def _linear(volume: Any) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]
