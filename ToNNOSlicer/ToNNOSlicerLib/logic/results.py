"""A result: what is shown and exported together, as one value with one identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slicer.i18n import tr as _

from ToNNOSlicerLib.logic import diameters, patient, segmentation, verdicts
from ToNNOSlicerLib.logic.findings import Finding, Listing, listing
from ToNNOSlicerLib.logic.heatmap import Record, inputOf, isHeatmap, modelThreshold, recordOf
from ToNNOSlicerLib.logic.hierarchy import takeOut
from ToNNOSlicerLib.logic.scene import nodesByClass

_METHODS = {
    "tonno": "ToNNO",
    "matched-cam": "Matched CAM",
    "averaged-cam": "Averaged CAM",
    "tomographic-cam": "Tomographic CAM",
}
_QUALITIES = {"fast": "Fast", "balanced": "Balanced", "paper": "Paper"}
# Of a record, what a run puts there beside the engine's answer.
QUALITY, KEY, RUN, MADE = "quality", "key", "run", "made"


@dataclass(frozen=True, eq=False)
class Result:
    """A heatmap with its image, its settings, its segment and its findings, as they were when it was read.

    heatmapNode: the scene's node that holds it all together. inputNode: the image, None where it is gone.
    segmentationNode, segmentId: the heatmap's own segment; None, "" where it has none (any more). record: how it was
    made. threshold: of the segment, else the one that it would begin with. smallestMm3: parts below it were left out.
    listing: the segment's parts, the highest peak first, and whether these are all. isEdited: whether somebody has
    worked on the segment by hand.
    """

    heatmapNode: Any
    inputNode: Any
    segmentationNode: Any
    segmentId: str
    record: Record
    threshold: float
    smallestMm3: float
    listing: Listing
    isEdited: bool

    @property
    def findings(self) -> tuple[Finding, ...]:
        return self.listing.findings

    @property
    def segment(self) -> tuple | None:
        """(segmentationNode, segmentId), or None."""
        return (self.segmentationNode, self.segmentId) if self.segmentationNode is not None else None

    @property
    def identity(self) -> tuple[str, str, str]:
        """IDs of the heatmap, the segmentation and the segment."""
        segmentationId = self.segmentationNode.GetID() if self.segmentationNode is not None else ""
        return self.heatmapNode.GetID(), segmentationId, self.segmentId

    @property
    def name(self) -> str:
        """Such as `CT 3: brain-lesions, Matched CAM, Fast, stopped at 38 of 96`."""
        volume = self.inputNode.GetName() if self.inputNode is not None else _("(volume removed)")
        return f"{volume}: {settingsText(self.record)}"

    @property
    def modelThreshold(self) -> float | None:
        return modelThreshold(self.heatmapNode)

    @property
    def isStopped(self) -> bool:
        return bool(self.record.get("stopped"))


def resultOf(heatmapNode, smallestMm3: float = 0.0) -> Result:
    """Read a result from the scene. smallestMm3: where the segment does not know it.

    Raises ToNNOUserError for a node that is no heatmap.
    """
    record = recordOf(heatmapNode)
    known = segmentation.segmentOf(heatmapNode)
    node, segmentId = known or (None, "")
    threshold = smallest = None
    listed = Listing()
    if known is not None:
        threshold, smallest = segmentation.thresholdOf(*known), segmentation.smallestOf(*known)
        listed = listing(*known, heatmapNode)
    return Result(
        heatmapNode=heatmapNode,
        inputNode=inputOf(heatmapNode),
        segmentationNode=node,
        segmentId=segmentId,
        record=record,
        threshold=firstThreshold(record) if threshold is None else threshold,
        smallestMm3=smallestMm3 if smallest is None else smallest,
        listing=listed,
        isEdited=known is not None and segmentation.isEditedByHand(*known),
    )


def firstThreshold(record: Record) -> float:
    """The threshold that a heatmap begins with: its model's, else Otsu's, else half of its peak."""
    ofModel = (record.get("threshold") or {}).get("threshold")
    peak = record.get("high", record.get("limit", 0.0))
    return float(next(value for value in (ofModel, record.get("otsu"), max(peak / 2, 1e-6)) if value is not None))


def settingsText(record: Record) -> str:
    """Model, class where it is no matter of course, method, quality, region, and whether it was stopped."""
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
    """Such as `stopped at 38 of 96`; empty for a whole run."""
    if not record.get("stopped"):
        return ""
    done, planned = record.get("directions"), record.get("planned")
    return _("stopped at {done} of {planned}").format(done=done, planned=planned) if planned else _("stopped early")


def methodName(method: str) -> str:
    return _METHODS.get(method, method)


def heatmapsOf(scene, inputNode=None) -> list:
    """The heatmaps of a scene, or of one image alone; the latest last."""
    heatmaps = [node for node in nodesByClass(scene, "vtkMRMLScalarVolumeNode") if isHeatmap(node)]
    return heatmaps if inputNode is None else [node for node in heatmaps if inputOf(node) is inputNode]


def siblingsOf(heatmapNode) -> list:
    """The heatmaps of the same run (one for each class), this one among them."""
    run = recordOf(heatmapNode).get(RUN)
    others = heatmapsOf(heatmapNode.GetScene(), inputOf(heatmapNode)) if run else []
    return [node for node in others if recordOf(node).get(RUN) == run] or [heatmapNode]


def predecessorsOf(heatmapNode) -> list:
    """Earlier heatmaps of the same image by the same settings (a stopped run is one too)."""
    record = recordOf(heatmapNode)
    key = record.get(KEY)
    others = heatmapsOf(heatmapNode.GetScene(), inputOf(heatmapNode)) if key else []
    sameKey = [node for node in others if node is not heatmapNode and recordOf(node).get(KEY) == key]
    return [node for node in sameKey if recordOf(node).get("className") == record.get("className")]


def inherit(heatmapNode, earlierNode) -> tuple[float | None, float | None]:
    """Take over what the reader decided on an earlier result of the same settings: verdicts; the threshold is returned.

    Returns (threshold, smallestMm3) where they were changed from what the earlier result began with, else None.
    """
    heatmapNode.SetAttribute(verdicts.ATTRIBUTE, earlierNode.GetAttribute(verdicts.ATTRIBUTE))
    known = segmentation.segmentOf(earlierNode)
    if known is None:
        return None, None
    threshold = segmentation.thresholdOf(*known)
    isFirst = threshold is None or abs(threshold - firstThreshold(recordOf(earlierNode))) <= 1e-9 * abs(threshold)
    return (None if isFirst else threshold), segmentation.smallestOf(*known)


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
    """Take a result out of the scene: heatmap, segment, and the segmentation node where nothing else is in it."""
    scene = heatmapNode.GetScene()
    known = segmentation.segmentOf(heatmapNode)
    segments.forget(heatmapNode)
    takeOut(heatmapNode)
    scene.RemoveNode(heatmapNode)
    if known is not None:
        node, segmentId = known
        node.GetSegmentation().RemoveSegment(segmentId)
        if not node.GetSegmentation().GetNumberOfSegments():
            takeOut(node)
            scene.RemoveNode(node.GetDisplayNode())
            scene.RemoveNode(node)
