"""A result: what is shown and exported together, as one value with one identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from ToNNOSlicerLib.logic import diameters, patient, segmentation, verdicts
from ToNNOSlicerLib.logic.findings import Finding, Listing, listing
from ToNNOSlicerLib.logic.heatmap import (
    Record,
    calibrationOf,
    inputOf,
    isHeatmap,
    methodName,
    modelsMinPeak,
    recordOf,
)
from ToNNOSlicerLib.logic.scene import nodesByClass, removeNode

_QUALITIES = {"fast": "Fast", "balanced": "Balanced", "paper": "Paper"}
# What a run puts into a record beside the engine's answer.
QUALITY, KEY, RUN, MADE = "quality", "key", "run", "made"


@dataclass(frozen=True, eq=False)
class Result:
    """A heatmap with its image, its settings, its segment and its findings, as they were when it was read.

    Attributes:
        heatmapNode: The node that holds it all together.
        inputNode: The image; None where it is gone.
        segmentationNode: Holds the heatmap's segment; None where there is none (any more).
        segmentId: The segment's ID; "" where there is none.
        record: How the heatmap was made.
        threshold: The segment's, else the one that it would begin with; in the heatmap's units.
        smallestMm3: Volume of the smallest part that was kept.
        minPeak: What the peaks of the parts that were kept reach, in the heatmap's units; -inf for all.
        listing: The segment's parts, the highest peak first, and whether these are all.
        isEdited: Whether somebody has worked on the segment by hand.
    """

    heatmapNode: Any
    inputNode: Any
    segmentationNode: Any
    segmentId: str
    record: Record
    threshold: float
    smallestMm3: float
    minPeak: float
    listing: Listing
    isEdited: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings that are listed, the highest peak first."""
        return self.listing.findings

    @property
    def segment(self) -> tuple | None:
        """The segmentation node and the segment's ID, or None."""
        return (self.segmentationNode, self.segmentId) if self.segmentationNode is not None else None

    @property
    def identity(self) -> tuple[str, str, str]:
        """Node IDs of the heatmap and the segmentation, and the segment's ID; "" for what is not there."""
        segmentationId = self.segmentationNode.GetID() if self.segmentationNode is not None else ""
        return self.heatmapNode.GetID(), segmentationId, self.segmentId

    @property
    def name(self) -> str:
        """The volume's name and the settings: `CT 3: brain-lesions, Matched CAM, Fast, stopped at 38 of 96`."""
        volume = self.inputNode.GetName() if self.inputNode is not None else _("(volume removed)")
        return f"{volume}: {settingsText(self.record)}"


def resultOf(heatmapNode, smallestMm3: float = 0.0) -> Result:
    """Read a result from the scene.

    Args:
        heatmapNode: The heatmap.
        smallestMm3: Taken where the segment does not know it.

    Returns:
        The result.

    Raises:
        ToNNOUserError: If the node is no heatmap.
    """
    record = recordOf(heatmapNode)
    segment = segmentation.segmentOf(heatmapNode)
    node, segmentId = segment or (None, "")
    threshold = smallest = None
    minPeak: float | None = modelsMinPeak(record)
    listed = Listing()
    if segment is not None:
        threshold, smallest = segmentation.thresholdOf(*segment), segmentation.smallestOf(*segment)
        minPeak = segmentation.minPeakOf(*segment)
        listed = listing(*segment, heatmapNode)
    return Result(
        heatmapNode=heatmapNode,
        inputNode=inputOf(heatmapNode),
        segmentationNode=node,
        segmentId=segmentId,
        record=record,
        threshold=firstThreshold(record) if threshold is None else threshold,
        smallestMm3=smallestMm3 if smallest is None else smallest,
        minPeak=-math.inf if minPeak is None else minPeak,
        listing=listed,
        isEdited=segment is not None and segmentation.isEditedByHand(*segment),
    )


def firstThreshold(record: Record) -> float:
    """Choose the threshold that a heatmap begins with: its model's, else Otsu's, else half of its peak.

    Args:
        record: The heatmap's record.

    Returns:
        The threshold, in the heatmap's units.
    """
    ofModel = calibrationOf(record).get("threshold")
    peak = record.get("high", record.get("limit", 0.0))
    return float(next(value for value in (ofModel, record.get("otsu"), max(peak / 2, 1e-6)) if value is not None))


def settingsText(record: Record) -> str:
    """Describe a run: model, class, method, quality, region, and whether it was stopped.

    Args:
        record: The heatmap's record.

    Returns:
        The parts, separated by commas; what is not known is left out.
    """
    model = record.get("model") or {}
    parts = [model.get("name") or "", record.get("className") or "", methodName(record["method"])]
    parts.append(_QUALITIES.get(record.get(QUALITY) or "", record.get(QUALITY) or ""))
    if record.get("zoom"):
        parts.append(_("finer in region"))
    elif record.get("region"):
        parts.append(_("in region"))
    parts.append(stoppedText(record))
    return ", ".join(part for part in parts if part)


def stoppedText(record: Record) -> str:
    """Tell how far a run came that was stopped.

    Args:
        record: The heatmap's record.

    Returns:
        Words such as `stopped at 38 of 96`; "" for a whole run.
    """
    if not record.get("stopped"):
        return ""
    done, planned = record.get("directions"), record.get("planned")
    return _("stopped at {done} of {planned}").format(done=done, planned=planned) if planned else _("stopped early")


def heatmapsOf(scene, inputNode=None) -> list:
    """List the heatmaps of a scene, also of one that was loaded.

    Args:
        scene: The vtkMRMLScene.
        inputNode: The image that they explain; None: of any.

    Returns:
        Their nodes, the latest last.
    """
    heatmaps = [node for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode") if isHeatmap(node)]
    return heatmaps if inputNode is None else [node for node in heatmaps if inputOf(node) is inputNode]


def siblingsOf(heatmapNode) -> list:
    """List the heatmaps of a heatmap's run, one for each class.

    Args:
        heatmapNode: The heatmap.

    Returns:
        Their nodes, the heatmap's own among them.
    """
    run = recordOf(heatmapNode).get(RUN)
    others = heatmapsOf(heatmapNode.GetScene(), inputOf(heatmapNode)) if run else []
    return [node for node in others if recordOf(node).get(RUN) == run] or [heatmapNode]


def predecessorsOf(heatmapNode) -> list:
    """List earlier heatmaps of the same image by the same settings; that of a stopped run is one too.

    Args:
        heatmapNode: The heatmap.

    Returns:
        Their nodes, the latest last.
    """
    record = recordOf(heatmapNode)
    key = record.get(KEY)
    others = heatmapsOf(heatmapNode.GetScene(), inputOf(heatmapNode)) if key else []
    sameKey = [node for node in others if node is not heatmapNode and recordOf(node).get(KEY) == key]
    return [node for node in sameKey if recordOf(node).get("className") == record.get("className")]


def inherit(heatmapNode, earlierNode) -> tuple[float | None, float | None, float | None]:
    """Take over the verdicts of an earlier result of the same settings, and return what else the reader decided on it.

    Args:
        heatmapNode: Gets the verdicts.
        earlierNode: The earlier heatmap.

    Returns:
        Threshold (None: still the one that the earlier result began with), smallest part in mm3 and lowest peak of a
        part (None: not known).
    """
    heatmapNode.SetAttribute(verdicts.ATTRIBUTE, earlierNode.GetAttribute(verdicts.ATTRIBUTE))
    segment = segmentation.segmentOf(earlierNode)
    if segment is None:
        return None, None, None
    threshold = segmentation.thresholdOf(*segment)
    isFirst = threshold is None or abs(threshold - firstThreshold(recordOf(earlierNode))) <= 1e-9 * abs(threshold)
    return None if isFirst else threshold, segmentation.smallestOf(*segment), segmentation.minPeakOf(*segment)


def showOnly(scene, heatmapNode, inputNode=None) -> None:
    """Show segments, diameters and surface of a heatmap's run, and hide those of all others.

    Args:
        scene: The vtkMRMLScene.
        heatmapNode: The heatmap; None: nothing is shown.
        inputNode: The image whose surface may stay; None: none.
    """
    segmentation.showOnly(scene, [] if heatmapNode is None else siblingsOf(heatmapNode))
    diameters.showOnly(heatmapsOf(scene), heatmapNode)
    patient.hideOthers(scene, inputNode)


def remove(heatmapNode, segments: segmentation.Segments) -> None:
    """Take a result out of the scene: heatmap, segment, and the segmentation node where nothing else is in it.

    Args:
        heatmapNode: The heatmap.
        segments: Forgets the steps of the heatmap.
    """
    segment = segmentation.segmentOf(heatmapNode)
    segments.forget(heatmapNode)
    removeNode(heatmapNode)
    if segment is not None:
        node, segmentId = segment
        node.GetSegmentation().RemoveSegment(segmentId)
        if not node.GetSegmentation().GetNumberOfSegments():
            removeNode(node)
