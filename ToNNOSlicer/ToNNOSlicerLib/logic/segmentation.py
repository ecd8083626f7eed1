"""From heatmap and threshold to a segment, written when the slider is released.

The segment remembers the fingerprint of its voxels as they were written last (in a tag, which is saved with it).
Where they are others now, somebody has worked on it by hand, and nothing overwrites that unasked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _

from tonno_core.segmentation.binarize import binarize
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToWorld, nodeToWorld, volumeOf
from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, recordOf
from ToNNOSlicerLib.logic.hierarchy import putBeside
from ToNNOSlicerLib.logic.labelmap import (
    GREEN,
    LABELMAP,
    SAME_PLACE_MM,
    SURFACE,
    WRITTEN,
    Crop,
    addSegment,
    cropOf,
    cropped,
    fitSurface,
    referenceGrid,
    setCrop,
)
from ToNNOSlicerLib.logic.provenance import TAGS, editedProvenance, provenanceOf

SEGMENTATION_ROLE = "ToNNO.segmentation"  # of a heatmap, the node of its segment; the attribute has the segment's ID
THRESHOLD, SMALLEST, METHOD = "ToNNO.Threshold", "ToNNO.SmallestMm3", "ToNNO.Method"
_TAGS = (WRITTEN, THRESHOLD, SMALLEST, METHOD, *TAGS)
_COLOURS = (GREEN, (1.0, 0x5C / 255, 0xF4 / 255), (0x5C / 255, 0.84, 1.0), (1.0, 0.84, 0.29))
# Of Slicer's own list, where "Lesion" (52988006) is missing; the user may choose another in the Segment Editor.
TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)
UNDO_STEPS = 20


@dataclass(frozen=True)
class _Step:
    """What a segment was before one of our steps (None: it did not exist), and what the step made of it."""

    segmentationId: str
    segmentId: str
    before: Crop | None
    tags: dict[str, str]
    after: str


class Segments:
    """Writes segments into segmentation nodes of one scene, and takes that back. Other segments are never touched."""

    def __init__(self, scene) -> None:
        self._scene = scene
        self._steps: list[_Step] = []

    def write(
        self, heatmapNode, threshold, smallestMm3=0.0, segmentationNode=None, segmentId=None, overwrite=False
    ) -> tuple:
        """The segment of heatmap >= threshold. Returns (segmentationNode, segmentId).

        Without a node, the heatmap's own is used, or made; without an ID, the heatmap's own segment in it, or a new
        one. Raises EditedByHandError where the segment holds other voxels than were written last, unless `overwrite`.
        """
        known = segmentOf(heatmapNode)
        if segmentationNode is None and known is not None:
            segmentationNode, segmentId = known[0], segmentId or known[1]
        if segmentationNode is not None and segmentId is None and known is not None and known[0] is segmentationNode:
            segmentId = known[1]
        if segmentationNode is None or not _hasSegment(segmentationNode, segmentId):
            return self.writeNew(heatmapNode, threshold, smallestMm3, segmentationNode)
        _prepare(segmentationNode, heatmapNode)
        before, tags = cropOf(segmentationNode, segmentId), _tagsOf(segmentationNode, segmentId)
        if not overwrite and _isEdited(before, tags):
            raise _editedError(segmentationNode, segmentId)
        crop = maskOf(heatmapNode, threshold, smallestMm3, segmentationNode)
        setCrop(segmentationNode, segmentId, crop)
        self._finish(heatmapNode, threshold, smallestMm3, segmentationNode, segmentId, crop)
        self._remember(segmentationNode, segmentId, before, tags, crop)
        return segmentationNode, segmentId

    def writeNew(self, heatmapNode, threshold, smallestMm3=0.0, segmentationNode=None) -> tuple:
        """The same into a new segment; of a new node where none is given. It becomes the heatmap's own."""
        recordOf(heatmapNode)
        if segmentationNode is None:
            segmentationNode = _newNode(heatmapNode)
        _prepare(segmentationNode, heatmapNode)
        crop = maskOf(heatmapNode, threshold, smallestMm3, segmentationNode)
        segmentation = segmentationNode.GetSegmentation()
        name = _freeName(segmentation, recordOf(heatmapNode)["className"] or _("finding"))
        colour = _COLOURS[segmentation.GetNumberOfSegments() % len(_COLOURS)]
        segmentId = addSegment(segmentationNode, name, colour, crop)
        segment = segmentation.GetSegment(segmentId)
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), TERMINOLOGY)
        self._finish(heatmapNode, threshold, smallestMm3, segmentationNode, segmentId, crop)
        self._remember(segmentationNode, segmentId, None, {}, crop)
        return segmentationNode, segmentId

    def replace(self, segmentationNode, segmentId: str, crop: Crop) -> None:
        """Another content for a segment, by the user's own decision: it counts as work by hand."""
        before, tags = cropOf(segmentationNode, segmentId), _tagsOf(segmentationNode, segmentId)
        setCrop(segmentationNode, segmentId, crop)
        noteEditing(segmentationNode)
        self._remember(segmentationNode, segmentId, before, tags, crop)

    @property
    def canUndo(self) -> bool:
        return any(self._find(step) is not None for step in self._steps)

    def undo(self, overwrite: bool = False) -> tuple | None:
        """Take the last step back. Returns (segmentationNode, segmentId), the ID None where the segment was new.

        None if there is nothing to take back. Raises EditedByHandError where the segment has been changed since.
        """
        while self._steps:
            step = self._steps[-1]
            node = self._find(step)
            if node is None:  # removed meanwhile
                self._steps.pop()
                continue
            crop = cropOf(node, step.segmentId)
            if not overwrite and (crop is None or not crop.has(step.after)):
                raise _editedError(node, step.segmentId)
            self._steps.pop()
            if step.before is None:
                node.GetSegmentation().RemoveSegment(step.segmentId)
                return node, None
            setCrop(node, step.segmentId, step.before)
            _setTags(node, step.segmentId, step.tags)
            return node, step.segmentId
        return None

    def forget(self) -> None:
        self._steps.clear()

    def _find(self, step: _Step):
        node = self._scene.GetNodeByID(step.segmentationId)
        return node if node is not None and _hasSegment(node, step.segmentId) else None

    def _finish(self, heatmapNode, threshold, smallestMm3, segmentationNode, segmentId: str, crop: Crop) -> None:
        tags = {
            WRITTEN: crop.fingerprint,
            THRESHOLD: repr(float(threshold)),
            SMALLEST: repr(float(smallestMm3)),
            METHOD: recordOf(heatmapNode)["method"],
            **provenanceOf(heatmapNode, float(threshold)),
        }
        _setTags(segmentationNode, segmentId, tags)
        heatmapNode.SetNodeReferenceID(SEGMENTATION_ROLE, segmentationNode.GetID())
        heatmapNode.SetAttribute(SEGMENTATION_ROLE, segmentId)

    def _remember(self, segmentationNode, segmentId: str, before: Crop | None, tags: dict, after: Crop) -> None:
        self._steps.append(_Step(segmentationNode.GetID(), segmentId, before, tags, after.fingerprint))
        del self._steps[:-UNDO_STEPS]


def maskOf(heatmapNode, threshold, smallestMm3, segmentationNode) -> Crop:
    """heatmap >= threshold without components below a volume, on the reference grid of a segmentation node."""
    from tonno_core.errors import TonnoError

    recordOf(heatmapNode)
    volume = volumeOf(heatmapNode)
    try:
        mask = binarize(volume, float(threshold), min_volume_mm3=float(smallestMm3))
    except TonnoError as error:
        raise ToNNOUserError(str(error), _("Set the threshold and the smallest volume to numbers.")) from None
    _size, gridToNode = referenceGrid(segmentationNode)
    # A file may have given the heatmap back with an axis reversed; the segment keeps its own grid.
    ijkToGrid = np.linalg.inv(nodeToWorld(segmentationNode) @ gridToNode) @ volume.ijk_to_ras
    reverse = [2 - axis for axis in range(3) if ijkToGrid[axis, axis] < 0]
    return cropped(np.flip(mask, reverse), gridToNode)


def segmentOf(heatmapNode) -> tuple | None:
    """(segmentationNode, segmentId) that were written last from a heatmap, or None where they are gone."""
    node = heatmapNode.GetNodeReference(SEGMENTATION_ROLE)
    segmentId = heatmapNode.GetAttribute(SEGMENTATION_ROLE)
    return (node, segmentId) if node is not None and _hasSegment(node, segmentId) else None


def isEditedByHand(segmentationNode, segmentId: str) -> bool:
    """Whether a segment holds other voxels than those written last; so does one that was never written by us."""
    return _isEdited(cropOf(segmentationNode, segmentId), _tagsOf(segmentationNode, segmentId))


def noteEditing(segmentationNode) -> None:
    """Tell in a node's tags which of our segments hold other voxels than written last; the exports read them."""
    for segmentId in segmentationNode.GetSegmentation().GetSegmentIDs():
        tags = _tagsOf(segmentationNode, segmentId)
        if WRITTEN in tags and _isEdited(cropOf(segmentationNode, segmentId), tags):
            _setTags(segmentationNode, segmentId, editedProvenance(tags))


def thresholdOf(segmentationNode, segmentId: str) -> float | None:
    """The threshold that a segment was written with, or None."""
    value = _tagsOf(segmentationNode, segmentId).get(THRESHOLD)
    return None if value is None else float(value)


def show3D(segmentationNode, on: bool) -> None:
    """Show a segmentation's surfaces in the 3D views, smoothed no more than its smallest finding bears, or hide them.

    Raises ToNNOUserError where there is no surface.
    """
    segmentation = segmentationNode.GetSegmentation()
    if on and not segmentation.CreateRepresentation(SURFACE, fitSurface(segmentationNode)):
        raise ToNNOUserError(_("The segmentation has no surface."), _("Lower the threshold until it holds voxels."))
    display = segmentationNode.GetDisplayNode()
    if on:
        display.SetPreferredDisplayRepresentationName3D(SURFACE)
    display.SetVisibility3D(on)


def _prepare(segmentationNode, heatmapNode) -> None:
    """Refuse a segmentation that cannot hold the heatmap's voxels as they are; give an empty one their grid.

    A segmentation made of surfaces would turn its other segments into voxels, or lose ours; and Slicer resamples
    all segments to the node's reference geometry when it saves them.
    """
    other = _("Select another segmentation, or a new one.")
    segmentation, name = segmentationNode.GetSegmentation(), segmentationNode.GetName()
    if not segmentation.GetNumberOfSegments():
        _setReference(segmentationNode, heatmapNode)
    elif segmentation.GetSourceRepresentationName() != LABELMAP:
        raise ToNNOUserError(_("{name} is made of surfaces, not of voxels.").format(name=name), other)
    elif not _hasGrid(segmentationNode, heatmapNode):
        raise ToNNOUserError(_("The voxels of {name} lie on another grid.").format(name=name), other)


def _setReference(segmentationNode, heatmapNode) -> None:
    """The grid, by the input volume where it has it: an export to DICOM looks for its series there."""
    segmentationNode.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    for volumeNode in (inputOf(heatmapNode), heatmapNode):
        if volumeNode is not None and volumeNode.GetImageData() is not None:
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            if _hasGrid(segmentationNode, heatmapNode):
                return


def _hasGrid(segmentationNode, heatmapNode) -> bool:
    """Whether a segmentation's reference geometry is the heatmap's grid, but for the direction of its axes."""
    reference = referenceGrid(segmentationNode)
    if reference is None:
        return False
    size, gridToNode = reference
    there = _corners(size, nodeToWorld(segmentationNode) @ gridToNode)
    here = _corners(heatmapNode.GetImageData().GetDimensions(), ijkToWorld(heatmapNode))
    apart = np.linalg.norm(there[:, np.newaxis] - here, axis=-1)
    return size == heatmapNode.GetImageData().GetDimensions() and apart.min(axis=0).max() < SAME_PLACE_MM


def _corners(size: tuple[int, int, int], matrix: np.ndarray) -> np.ndarray:
    """8 x 3, of a grid's outermost voxels."""
    ijk = np.stack(np.meshgrid(*((0, n - 1) for n in size)), axis=-1).reshape(-1, 3)
    return ijk @ matrix[:3, :3].T + matrix[:3, 3]


def _isEdited(crop: Crop | None, tags: dict[str, str]) -> bool:
    return crop is None or not crop.has(tags.get(WRITTEN, ""))


def _editedError(segmentationNode, segmentId: str) -> EditedByHandError:
    name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    return EditedByHandError(
        _("The segment {name} has been changed by hand.").format(name=name),
        _("Overwrite it, or write to a new segment."),
    )


def _newNode(heatmapNode):
    scene = heatmapNode.GetScene()
    volumeNode = inputOf(heatmapNode) or heatmapNode
    method = madeBy(recordOf(heatmapNode))
    name = scene.GenerateUniqueName(f"{volumeNode.GetName()} {method} segmentation")
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetVisibility2DFill(False)  # the heatmap is under it
    node.GetDisplayNode().SetSliceIntersectionThickness(2)
    node.SetAndObserveTransformNodeID(heatmapNode.GetTransformNodeID())
    putBeside(node, volumeNode)
    return node


def _freeName(segmentation, name: str) -> str:
    taken = {segmentation.GetSegment(n).GetName() for n in segmentation.GetSegmentIDs()}
    return next(free for free in (name, *(f"{name} {n}" for n in range(2, len(taken) + 3))) if free not in taken)


def _hasSegment(segmentationNode, segmentId: str | None) -> bool:
    return bool(segmentId) and segmentationNode.GetSegmentation().GetSegment(segmentId) is not None


def _tagsOf(segmentationNode, segmentId: str) -> dict[str, str]:
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    value = vtk.reference("")
    return {tag: str(value) for tag in _TAGS if segment.GetTag(tag, value)}


def _setTags(segmentationNode, segmentId: str, tags: dict[str, str]) -> None:
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    for tag in _TAGS:
        if tag in tags:
            segment.SetTag(tag, tags[tag])
        else:
            segment.RemoveTag(tag)
