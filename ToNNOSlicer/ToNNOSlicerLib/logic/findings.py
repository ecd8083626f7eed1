"""The components of a segment, by their peaks in the heatmap: where they are, how large, and what to make of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from tonno_core.segmentation.binarize import components, connected
from tonno_core.volume.volume import Volume
from ToNNOSlicerLib.logic import diameters, verdicts
from ToNNOSlicerLib.logic.confidence import confidence
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToNode, ijkToWorld, nodeToWorld, transformPoint, volumeOf
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.labelmap import Crop, cropOf, cropped, onGrid
from ToNNOSlicerLib.logic.pieces import Pieces
from ToNNOSlicerLib.logic.profile import ballCenter

Point = tuple[float, float, float]
Line = tuple[Point, Point]

# What is nearer to the midline has no side: heads are tilted, and the midline is estimated to some millimeters.
MIDLINE_MM = 5.0


@dataclass(frozen=True)
class Finding:
    """One component (26 neighbors) of a segment. Points are RAS mm in the world.

    label: 1 for the highest peak, then 2, ... volumeMm3: its voxels'. peak, mean: in the heatmap's units.
    extentMm: of its bounding box along the heatmap's axes i, j, k. centroidRAS: mean of its voxels' centers.
    peakRAS: its highest voxel. longestRAS, perpendicularRAS: the ends of its longest diameter in an axial plane, and of
    the longest line at a right angle to it there (diameters.py). side: "left", "right" or "midline" (`sideOf`).
    confidence: in words of the model's calibration (confidence.py). place: the peak, RAS mm in the frame of the
    heatmap's node, which transforms leave as it is. pieces: the voxels of this and all other findings. verdict:
    "accept", "reject", "unsure" or "" (verdicts.py); isDivided: it is unsure as its parts were judged differently.
    """

    label: int
    volumeMm3: float
    peak: float
    mean: float
    extentMm: Point
    centroidRAS: Point
    peakRAS: Point
    longestRAS: Line
    perpendicularRAS: Line
    side: str
    confidence: str
    place: Point
    pieces: Pieces = field(repr=False, compare=False)
    verdict: str = ""
    isDivided: bool = False

    @property
    def ml(self) -> float:
        """Its volume in milliliters."""
        return self.volumeMm3 / 1000

    @property
    def longestMm(self) -> float:
        """The length of its longest axial diameter."""
        return _length(self.longestRAS)

    @property
    def perpendicularMm(self) -> float:
        """The length of the longest perpendicular to that diameter, in the same plane."""
        return _length(self.perpendicularRAS)


def findings(segmentationNode, segmentId: str, heatmapNode) -> list[Finding]:
    """Measure the segment's components on the heatmap's grid, work by hand included; the highest peak comes first."""
    record = recordOf(heatmapNode)
    ijkToRAS = ijkToWorld(heatmapNode)
    crop = cropped(onGrid(segmentationNode, segmentId, heatmapNode), ijkToRAS)
    if not crop.mask.size:
        return []
    volume = _part(heatmapNode, crop)
    listed = components(crop.mask, volume)
    pieces = _pieces(crop, volume, listed, _moved(ijkToNode(heatmapNode), crop.first))
    longest, perpendicular = diameters.measure(pieces, volume.ijk_to_ras)
    midline = midlineOf(heatmapNode)
    worldToNode = np.linalg.inv(nodeToWorld(heatmapNode))
    return verdicts.judged(
        heatmapNode,
        [
            Finding(
                c.label,
                c.volume_mm3,
                c.peak,
                c.mean,
                c.extent_mm,
                c.centroid_ras,
                c.peak_ras,
                _line(longest[c.label - 1]),
                _line(perpendicular[c.label - 1]),
                sideOf(c.centroid_ras, midline),
                confidence(c, record),
                _point(transformPoint(worldToNode, c.peak_ras)),
                pieces,
            )
            for c in listed
        ],
    )


def sideOf(pointRAS: Point, midlineR: float) -> str:
    """Return "left" or "right" (the patient's) of a midline at R mm, or "midline" within MIDLINE_MM of it."""
    if abs(pointRAS[0] - midlineR) <= MIDLINE_MM:
        return "midline"
    return "right" if pointRAS[0] > midlineR else "left"


def midlineOf(heatmapNode) -> float:
    """Estimate where the patient's midline cuts the R axis of the world, in mm.

    R = 0 is the scanner's middle, not the patient's. Taken is the center of the ball that the planes cover, which is
    that of the foreground's bounding box; where the record does not tell it (nothing kept, a region of interest), the
    volume's center. Neither looks at the anatomy: a patient who is tilted, or a volume of which one side is cut off or
    one limb is shown, has another midline.
    """
    center = ballCenter(heatmapNode)
    if center is None:
        size = np.array(heatmapNode.GetImageData().GetDimensions())
        center = transformPoint(ijkToWorld(heatmapNode), (size - 1) / 2)
    return float(center[0])


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


def _part(heatmapNode, crop: Crop) -> Volume:
    """The heatmap in the box of a crop, in the world; the rest of it costs nothing."""
    whole = volumeOf(heatmapNode)
    box = tuple(slice(n, n + m) for n, m in zip(crop.first[::-1], crop.mask.shape, strict=True))
    return Volume(np.ascontiguousarray(whole.array[box]), _moved(whole.ijk_to_ras, crop.first))


def _moved(matrix: np.ndarray, first) -> np.ndarray:
    """A grid's matrix for a part of the grid whose first voxel is (i, j, k) `first`."""
    moved = matrix.copy()
    moved[:3, 3] = transformPoint(matrix, first)
    return moved


def _pieces(crop: Crop, volume: Volume, listed: list, partToNode: np.ndarray) -> Pieces:
    """The components' voxels under the components' labels."""
    voxels, component, count = connected(crop.mask.astype(bool))
    peaks = np.array([c.peak_ras for c in listed])
    rasToIJK = np.linalg.inv(volume.ijk_to_ras)
    ijk = (peaks @ rasToIJK[:3, :3].T + rasToIJK[:3, 3]).round().astype(np.intp)
    flat = np.ravel_multi_index(ijk[:, ::-1].T, crop.mask.shape)
    labels = np.zeros(count, dtype=np.intp)
    labels[component[np.searchsorted(voxels, flat)]] = [c.label for c in listed]
    return Pieces.of(voxels, labels[component], crop.mask.shape, partToNode)


def _line(ends: np.ndarray) -> Line:
    return _point(ends[0]), _point(ends[1])


def _point(xyz: np.ndarray) -> Point:
    x, y, z = xyz.tolist()
    return x, y, z


def _length(line: Line) -> float:
    return float(np.linalg.norm(np.subtract(*line)))
