"""The outline while the slider moves: one pass over the heatmap, and Slicer draws the slices that are visible."""

from __future__ import annotations

import math

import numpy as np
import slicer

from tonno_core.segmentation.binarize import clear_parts, reaches
from tonno_core.segmentation.parts import Parts
from ToNNOSlicerLib.logic.geometry import ijkToWorld, volumeOf
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.labelmap import GREEN, LABELMAP, Crop, imageOf
from ToNNOSlicerLib.logic.limits import MOST_PREVIEW_RUNS
from ToNNOSlicerLib.logic.scene import addHidden, removeNode


class Preview:
    """The outline of heatmap >= threshold in the slice views, in a node that nobody saves or selects."""

    def __init__(self, scene) -> None:
        self._scene = scene
        self._nodeId: str | None = None
        self._mask: np.ndarray | None = None
        self._key = None

    def show(self, heatmapNode, threshold: float, smallestMm3: float = 0.0, minPeak: float = -math.inf) -> None:
        """Outline heatmap >= threshold in all slice views; no segment changes.

        Args:
            heatmapNode: The heatmap.
            threshold: In the heatmap's units.
            smallestMm3: Volume of the smallest component that is kept, where that is quick.
            minPeak: What the highest value of a component reaches that is kept, likewise.

        Raises:
            ToNNOUserError: If the node is no heatmap.
        """
        recordOf(heatmapNode)
        node = self._node(heatmapNode)
        volume = volumeOf(heatmapNode)
        mask = self._mask.view(np.bool_)
        reaches(volume.array, float(threshold), out=mask)
        parts = Parts(float(smallestMm3), float(minPeak))
        if parts.drop_some(float(threshold)):
            clear_parts(mask, volume, parts, MOST_PREVIEW_RUNS)
        self._image.GetPointData().GetScalars().Modified()
        self._image.Modified()
        node.SetDisplayVisibility(True)

    def hide(self) -> None:
        """Take the outline away."""
        node = self._scene.GetNodeByID(self._nodeId) if self._nodeId else None
        if node is not None:
            removeNode(node)
        self._nodeId = self._mask = self._key = None

    def _node(self, heatmapNode):
        """Return the outline's node for a heatmap; it is made anew for another heatmap or grid."""
        node = self._scene.GetNodeByID(self._nodeId) if self._nodeId else None
        key = (heatmapNode.GetID(), heatmapNode.GetImageData().GetDimensions(), ijkToWorld(heatmapNode).tobytes())
        if node is not None and key == self._key:
            return node
        self.hide()
        self._key = key
        node = addHidden(self._scene, slicer.vtkMRMLSegmentationNode(), "ToNNO preview")
        display = node.GetDisplayNode()
        display.SetVisibility2DFill(False)
        display.SetSliceIntersectionThickness(2)
        display.SetVisibility3D(False)
        self._nodeId = node.GetID()
        self._fill(node, heatmapNode)
        return node

    def _fill(self, node, heatmapNode) -> None:
        """Add a segment over the whole grid whose voxels are shared with numpy."""
        self._mask = np.zeros(heatmapNode.GetImageData().GetDimensions()[::-1], dtype=np.uint8)
        self._image = imageOf(Crop(self._mask, (0, 0, 0), ijkToWorld(heatmapNode)), shared=True)
        segment = slicer.vtkSegment()
        segment.SetName("ToNNO preview")
        segment.SetColor(*GREEN)
        segment.SetLabelValue(1)
        segment.AddRepresentation(LABELMAP, self._image)
        node.GetSegmentation().AddSegment(segment, "preview")
