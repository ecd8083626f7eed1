"""Findings: the components of a segment, by their peaks in the heatmap, with place, size and side."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from tonno_core.segmentation.binarize import Component, measure
from tonno_core.segmentation.connected import Runs, connect, find_runs, runs_of
from ToNNOSlicerLib.logic import diameters, verdicts
from ToNNOSlicerLib.logic.confidence import confidence
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToNode, ijkToWorld, nodeToWorld, transformPoint, volumeOf
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.labelmap import Crop, cropOf, cropped, onGrid
from ToNNOSlicerLib.logic.limits import FEWER, MOST_LISTED, MOST_RUNS
from ToNNOSlicerLib.logic.pieces import NOTHING, Pieces
from ToNNOSlicerLib.logic.profile import ballCenter
from ToNNOSlicerLib.logic.scene import nodesByClass

Point = tuple[float, float, float]
Line = tuple[Point, Point]

# What is nearer to the midline has no side: heads are tilted, and the midline is estimated to some millimeters.
MIDLINE_MM = 5.0
_SWITCHED_ON = "ToNNO.SwitchedOn"


@dataclass(frozen=True)
class Finding:
    """One component (26 neighbors) of a segment. Points are RAS mm in the world.

    Attributes:
        label: 1 for the highest peak, then 2, ...
        volumeMm3: Volume of its voxels.
        peak: Highest value, in the heatmap's units.
        mean: Mean value, in the heatmap's units.
        extentMm: Size of its bounding box along the heatmap's axes i, j, k.
        centroidRAS: Mean of its voxels' centers.
        peakRAS: Its highest voxel.
        longestRAS: Ends of its longest diameter in an axial plane (diameters.py).
        perpendicularRAS: Ends of the longest line at a right angle to it in that plane.
        side: "left", "right" or "midline" (`sideOf`).
        confidence: Words of the model's calibration (confidence.py).
        place: The peak in the frame of the heatmap's node, mm: transforms leave it as it is.
        pieces: The voxels of this and all other findings.
        verdict: "accept", "reject", "unsure" or "" (verdicts.py).
        isDivided: Whether it is unsure because its parts were judged differently.
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


@dataclass(frozen=True)
class Listing:
    """The findings of a segment, the highest peak first.

    Attributes:
        findings: At most MOST_LISTED of them.
        parts: How many components the segment has; None where they are too many to be counted, and none is listed.
    """

    findings: tuple[Finding, ...] = ()
    parts: int | None = 0

    @property
    def gap(self) -> str:
        """A sentence on what is not listed; "" where everything is."""
        if self.parts is None:
            return _("The segment is scattered over too many parts to list them.")
        if self.parts == len(self.findings):
            return ""
        text = _("The segment has {parts:,} parts; listed are the {number} with the highest peaks.")
        return text.format(parts=self.parts, number=len(self.findings))

    def checkWhole(self) -> None:
        """Refuse a list that is not whole, before findings are counted, compared or written.

        Raises:
            ToNNOUserError: If some are not listed.
        """
        if self.gap:
            raise ToNNOUserError(self.gap, FEWER)


def listing(segmentationNode, segmentId: str, heatmapNode) -> Listing:
    """Measure the segment's components on the heatmap's grid, work by hand included, in the time that a click has.

    It takes some 0.2 s for any mask: one that is scattered over more parts than a person reads is a threshold in the
    noise, and not all of its parts are measured.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.
        heatmapNode: The heatmap.

    Returns:
        The findings with their verdicts.
    """
    runs = partsOf(onGrid(segmentationNode, segmentId, heatmapNode))
    if runs is None:
        return Listing((), None)
    volume = volumeOf(heatmapNode)
    components = measure(runs, volume, MOST_LISTED)
    pieces = _pieces(runs, components, volume.ijk_to_ras, ijkToNode(heatmapNode))
    longest, perpendicular = diameters.measure(pieces.listed(), volume.ijk_to_ras)
    record, midline = recordOf(heatmapNode), midlineOf(heatmapNode)
    worldToNode = np.linalg.inv(nodeToWorld(heatmapNode))
    made = [
        Finding(
            label=c.label,
            volumeMm3=c.volume_mm3,
            peak=c.peak,
            mean=c.mean,
            extentMm=c.extent_mm,
            centroidRAS=c.centroid_ras,
            peakRAS=c.peak_ras,
            longestRAS=_line(longest[c.label - 1]),
            perpendicularRAS=_line(perpendicular[c.label - 1]),
            side=sideOf(c.centroid_ras, midline),
            confidence=confidence(c, record),
            place=_point(transformPoint(worldToNode, c.peak_ras)),
            pieces=pieces,
        )
        for c in components
    ]
    return Listing(tuple(verdicts.judged(heatmapNode, made)), runs.count)


def partsOf(mask: np.ndarray) -> Runs | None:
    """Find the components (26 neighbors) of a mask.

    Args:
        mask: uint8 or bool of 0 and 1, Z Y X.

    Returns:
        Runs of voxels along i with their component; None for a mask of more than MOST_RUNS.
    """
    first, last = find_runs(mask.view(np.bool_))
    return connect(first, last, mask.shape) if first.size <= MOST_RUNS else None


def findingsOf(segmentationNode, segmentId: str, heatmapNode) -> list[Finding]:
    """List all findings of a segment, the highest peak first.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.
        heatmapNode: The heatmap.

    Returns:
        The findings with their verdicts.

    Raises:
        ToNNOUserError: If they are more than are listed.
    """
    listed = listing(segmentationNode, segmentId, heatmapNode)
    listed.checkWhole()
    return list(listed.findings)


def sideOf(pointRAS: Point, midlineR: float) -> str:
    """Tell on which side of the midline a point lies.

    Args:
        pointRAS: RAS mm in the world.
        midlineR: Where the midline cuts the R axis, mm.

    Returns:
        "left" or "right" (the patient's), or "midline" within MIDLINE_MM of it.
    """
    if abs(pointRAS[0] - midlineR) <= MIDLINE_MM:
        return "midline"
    return "right" if pointRAS[0] > midlineR else "left"


def midlineOf(heatmapNode) -> float:
    """Estimate where the patient's midline cuts the R axis of the world.

    R = 0 is the scanner's middle, not the patient's. Taken is the center of the ball that the planes cover, which is
    that of the foreground's bounding box; where the record does not tell it (nothing kept, a region of interest), the
    volume's center. Neither looks at the anatomy: the midline is another where the patient is tilted, where one side of
    the volume is cut off, and where a single limb is shown.

    Args:
        heatmapNode: The heatmap.

    Returns:
        R in mm.
    """
    center = ballCenter(heatmapNode)
    if center is None:
        size = np.array(heatmapNode.GetImageData().GetDimensions())
        center = transformPoint(ijkToWorld(heatmapNode), (size - 1) / 2)
    return float(center[0])


def without(segmentationNode, segmentId: str, finding: Finding) -> Crop:
    """Return the segment's voxels without those of a finding.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.
        finding: A finding of it.

    Returns:
        The voxels that are left.

    Raises:
        ToNNOUserError: If the finding is no longer there.
    """
    crop = cropOf(segmentationNode, segmentId)
    gone = ToNNOUserError(_("This finding is no longer in the segment."), _("Look at the table again: it is updated."))
    if crop is None or not crop.mask.size:
        raise gone
    runs, ijkToRAS = runs_of(crop.mask.view(np.bool_)), nodeToWorld(segmentationNode) @ crop.gridToNode
    partToRAS = ijkToRAS.copy()
    partToRAS[:3, 3] = transformPoint(ijkToRAS, crop.first)
    pieces = Pieces(runs.first, runs.last, runs.component + 1, crop.mask.shape[::-1], partToRAS)
    # On a grid of its own, the segment's nearest voxel is within half a voxel's diagonal of the heatmap's.
    label = pieces.labelOf(finding.peakRAS, np.linalg.norm(ijkToRAS[:3, :3].sum(axis=1)))
    if label == NOTHING:
        raise gone
    mask = crop.mask.copy()
    mask.reshape(-1)[runs.voxels(runs.component + 1 == label)] = 0
    return cropped(mask, crop.gridToNode, crop.first)


def jumpTo(scene, ras) -> None:
    """Move all slice views and the crosshair to a point. The image stays where it is in them.

    Args:
        scene: The vtkMRMLScene.
        ras: The point, RAS mm in the world.
    """
    slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *ras, slicer.vtkMRMLSliceNode.OffsetJumpSlice)
    for crosshair in nodesByClass(scene, "vtkMRMLCrosshairNode"):
        crosshair.SetCrosshairRAS(ras)
        if crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair:
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)  # the small one is lost on the overlay
            crosshair.SetAttribute(_SWITCHED_ON, "1")


def hideCrosshair(scene) -> None:
    """Switch off the crosshair that `jumpTo` switched on: it marks a place in one patient. The user's own stays.

    Args:
        scene: The vtkMRMLScene.
    """
    for crosshair in nodesByClass(scene, "vtkMRMLCrosshairNode"):
        if crosshair.GetAttribute(_SWITCHED_ON):
            crosshair.RemoveAttribute(_SWITCHED_ON)
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.NoCrosshair)


def _pieces(runs: Runs, components: list[Component], ijkToRAS: np.ndarray, ijkToNode: np.ndarray) -> Pieces:
    """Give the runs the labels of the components that were measured, and those of others NOTHING."""
    labels = np.full(runs.count, NOTHING)
    if components:
        rasToIJK = np.linalg.inv(ijkToRAS)
        ijk = np.array([transformPoint(rasToIJK, c.peak_ras) for c in components]).round().astype(np.intp)
        peaks = np.ravel_multi_index(ijk[:, ::-1].T, runs.shape)
        holders = np.searchsorted(runs.first, peaks, side="right") - 1
        labels[runs.component[holders]] = [c.label for c in components]
    return Pieces(runs.first, runs.last, labels[runs.component], runs.shape[::-1], ijkToNode)


def _line(ends: np.ndarray) -> Line:
    return _point(ends[0]), _point(ends[1])


def _point(xyz: np.ndarray) -> Point:
    x, y, z = xyz.tolist()
    return x, y, z


def _length(line: Line) -> float:
    return float(np.linalg.norm(np.subtract(*line)))
