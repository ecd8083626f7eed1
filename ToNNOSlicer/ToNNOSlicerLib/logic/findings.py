"""The components of a segment, by their peaks in the heatmap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from tonno_core.segmentation.binarize import components, connected
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import nodeToWorld, volumeOf
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.labelmap import Crop, cropOf, cropped, onGrid

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Finding:
    """One component (26 neighbours) of a segment. Points are RAS mm in the world.

    label: 1 for the highest peak, then 2, ... volumeMm3: its voxels'. peak, mean: in the heatmap's units.
    extentMm: of its bounding box along the heatmap's axes i, j, k. centroidRAS: mean of its voxels' centres.
    peakRAS: its highest voxel.
    """

    label: int
    volumeMm3: float
    peak: float
    mean: float
    extentMm: Point
    centroidRAS: Point
    peakRAS: Point


def findings(segmentationNode, segmentId: str, heatmapNode) -> list[Finding]:
    """The segment's components on the heatmap's grid, highest peak first; work by hand included."""
    recordOf(heatmapNode)
    return [
        Finding(c.label, c.volume_mm3, c.peak, c.mean, c.extent_mm, c.centroid_ras, c.peak_ras)
        for c in components(onGrid(segmentationNode, segmentId, heatmapNode), volumeOf(heatmapNode))
    ]


def without(segmentationNode, segmentId: str, finding: Finding) -> Crop:
    """The segment's voxels without those of a finding. Raises ToNNOUserError where it is no longer there."""
    crop = cropOf(segmentationNode, segmentId)
    gone = ToNNOUserError(_("This finding is no longer in the segment."), _("Look at the table again: it is updated."))
    if crop is None or not crop.mask.size:
        raise gone
    ijkToRAS = nodeToWorld(segmentationNode) @ crop.gridToNode
    voxels, component, _count = connected(crop.mask.astype(bool))
    kji = np.stack(np.unravel_index(voxels, crop.mask.shape))
    ijk = kji[::-1] + np.array(crop.first)[:, np.newaxis]
    ras = ijkToRAS[:3, :3] @ ijk + ijkToRAS[:3, 3:]
    distance = np.linalg.norm(ras - np.array(finding.peakRAS)[:, np.newaxis], axis=0)
    nearest = int(distance.argmin())
    # On a grid of its own, the segment's nearest voxel is within half a voxel's diagonal of the heatmap's.
    if distance[nearest] > np.linalg.norm(ijkToRAS[:3, :3].sum(axis=1)):
        raise gone
    mask = crop.mask.copy()
    mask.reshape(-1)[voxels[component == component[nearest]]] = 0
    return cropped(mask, crop.gridToNode, crop.first)


def jumpTo(scene, finding: Finding) -> None:
    """Move all slice views to a finding's peak, and the crosshair with them."""
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *finding.peakRAS, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
    for crosshair in slicer.util.getNodesByClass("vtkMRMLCrosshairNode", scene):
        crosshair.SetCrosshairRAS(finding.peakRAS)
