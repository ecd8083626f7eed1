"""Segments from heatmap and threshold, written when the slider is released.

A segment keeps the fingerprint of its voxels as they were written last (in a tag, which is saved with it). Where the
voxels are others now, somebody has worked on them by hand, and nothing overwrites that unasked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import binarize, check_options, clear_parts
from tonno_core.volume.volume import Volume
from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.geometry import corners, ijkToWorld, nodeToWorld, volumeOf
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
    checkSurface,
    cropOf,
    cropped,
    fitSurface,
    referenceGrid,
    setCrop,
)
from ToNNOSlicerLib.logic.limits import MOST_FILTERED_RUNS
from ToNNOSlicerLib.logic.provenance import TAGS, editedProvenance, provenanceOf, tagOf, terminologyOf
from ToNNOSlicerLib.logic.scene import nodesByClass

SEGMENTATION_ROLE = "ToNNO.segmentation"  # of a heatmap, the node of its segment; the attribute has the segment's ID
THRESHOLD, SMALLEST, METHOD = "ToNNO.Threshold", "ToNNO.SmallestMm3", "ToNNO.Method"
MIN_PEAK = "ToNNO.MinPeak"
_TAGS = (WRITTEN, THRESHOLD, SMALLEST, MIN_PEAK, METHOD, *TAGS)
_COLORS = (GREEN, (1.0, 0x5C / 255, 0xF4 / 255), (0x5C / 255, 0.84, 1.0), (0.72, 0.6, 1.0))  # none of the heatmap's
UNDO_STEPS = 20


@dataclass(frozen=True)
class Written:
    """What of a heatmap a segment takes.

    Attributes:
        threshold: In the heatmap's units.
        smallestMm3: Volume of the smallest component that is kept.
        minPeak: What the highest value of a component reaches that is kept; -inf for all.
    """

    threshold: float
    smallestMm3: float = 0.0
    minPeak: float = -math.inf


@dataclass(frozen=True, eq=False)
class _Content:
    """A segment at one moment: voxels, our tags, name and color."""

    crop: Crop
    tags: dict[str, str]
    name: str
    color: tuple[float, float, float]
    terminology: str


@dataclass(frozen=True, eq=False)
class _Step:
    """One writing or removal.

    Attributes:
        heatmapId: Node ID of the heatmap whose result it is.
        segmentationId: Node ID of the segmentation.
        segmentId: The segment's ID.
        before: The segment before the step; None: it did not exist.
        after: The segment after the step.
        previous: IDs of the segmentation node and the segment that were the heatmap's before, or None.
    """

    heatmapId: str
    segmentationId: str
    segmentId: str
    before: _Content | None
    after: _Content
    previous: tuple[str, str] | None


class Segments:
    """Writes segments into segmentation nodes of one scene, and takes that back. Other segments are never touched.

    Each heatmap has its steps: what is taken back belongs to the result that is looked at. They begin after its first
    segment, which is what the run has found: no undo leaves a result without findings.

    Args:
        scene: The vtkMRMLScene.

    Attributes:
        beforeChange: Called with a segmentation node before segments in it change, so that others can save its state.
    """

    def __init__(self, scene) -> None:
        self.beforeChange: Callable[[Any], None] = lambda _node: None
        self._scene = scene
        self._done: list[_Step] = []
        self._undone: list[_Step] = []

    def write(self, heatmapNode, threshold, smallestMm3=0.0, overwrite=False, minPeak=-math.inf) -> tuple:
        """Write heatmap >= threshold into the heatmap's own segment, which is made where there is none.

        Args:
            heatmapNode: The heatmap.
            threshold: In the heatmap's units.
            smallestMm3: Volume of the smallest component that is kept.
            overwrite: Whether work by hand is given up.
            minPeak: What the highest value of a component reaches that is kept; -inf for all.

        Returns:
            The segmentation node and the segment's ID.

        Raises:
            EditedByHandError: If the segment holds other voxels than were written last, unless `overwrite`.
            ToNNOUserError: If the node cannot hold the heatmap's voxels.
        """
        segment = segmentOf(heatmapNode)
        if segment is None:
            return self.writeNew(heatmapNode, threshold, smallestMm3, minPeak=minPeak)
        segmentationNode, segmentId = segment
        _prepare(segmentationNode, heatmapNode)
        before = _contentOf(segmentationNode, segmentId)
        if not overwrite and _isEdited(None if before is None else before.crop, _tagsOf(segmentationNode, segmentId)):
            raise _editedError(segmentationNode, segmentId)
        written = Written(float(threshold), float(smallestMm3), float(minPeak))
        crop = maskOf(heatmapNode, written, segmentationNode)
        self.beforeChange(segmentationNode)
        setCrop(segmentationNode, segmentId, crop)
        self._finish(heatmapNode, written, segmentationNode, segmentId, crop)
        self._remember(heatmapNode, segmentationNode, segmentId, before, _named(segment))
        return segment

    def writeNew(self, heatmapNode, threshold, smallestMm3=0.0, segmentationNode=None, minPeak=-math.inf) -> tuple:
        """Write heatmap >= threshold into a new segment, which becomes the heatmap's own.

        Args:
            heatmapNode: The heatmap.
            threshold: In the heatmap's units.
            smallestMm3: Volume of the smallest component that is kept.
            segmentationNode: Gets the segment; None: a new node.
            minPeak: What the highest value of a component reaches that is kept; -inf for all.

        Returns:
            The segmentation node and the segment's ID.

        Raises:
            ToNNOUserError: If the node cannot hold the heatmap's voxels.
        """
        recordOf(heatmapNode)
        previous = segmentOf(heatmapNode)
        wasShown3D = segmentationNode is not None and isShown3D(segmentationNode)
        if segmentationNode is None:
            segmentationNode = _newNode(heatmapNode)
        _prepare(segmentationNode, heatmapNode)
        written = Written(float(threshold), float(smallestMm3), float(minPeak))
        crop = maskOf(heatmapNode, written, segmentationNode)
        record = recordOf(heatmapNode)
        name = _freeName(segmentationNode.GetSegmentation(), record["className"] or _("finding"))
        color = _freeColor(self._scene)
        self.beforeChange(segmentationNode)
        segmentId = addSegment(segmentationNode, name, color, crop, terminology=terminologyOf(record))
        self._finish(heatmapNode, written, segmentationNode, segmentId, crop)
        if previous is None:
            self.forget(heatmapNode)
        else:
            self._remember(heatmapNode, segmentationNode, segmentId, None, _named(previous))
        if wasShown3D and segmentationNode.GetSegmentation().ContainsRepresentation(SURFACE):
            show3D(segmentationNode, True)
        return segmentationNode, segmentId

    def replace(self, heatmapNode, segmentationNode, segmentId: str, crop: Crop) -> None:
        """Replace a segment's voxels by the user's decision: it counts as work by hand.

        Args:
            heatmapNode: The heatmap whose segment it is.
            segmentationNode: Holds the segment.
            segmentId: The segment's ID.
            crop: The voxels.
        """
        before = _contentOf(segmentationNode, segmentId)
        self.beforeChange(segmentationNode)
        setCrop(segmentationNode, segmentId, crop)
        noteEditing(segmentationNode)
        self._remember(heatmapNode, segmentationNode, segmentId, before, _named(segmentOf(heatmapNode)))

    def canUndo(self, heatmapNode) -> bool:
        """Tell whether there is a step of this heatmap to take back.

        Args:
            heatmapNode: The heatmap, or None.

        Returns:
            True where `undo` has something to do.
        """
        return self._last(self._done, heatmapNode) is not None

    def canRedo(self, heatmapNode) -> bool:
        """Tell whether there is a step of this heatmap that was taken back.

        Args:
            heatmapNode: The heatmap, or None.

        Returns:
            True where `redo` has something to do.
        """
        return self._last(self._undone, heatmapNode) is not None

    def undo(self, heatmapNode, overwrite: bool = False) -> bool:
        """Take the heatmap's last step back.

        Args:
            heatmapNode: The heatmap.
            overwrite: Whether work by hand since that step is given up.

        Returns:
            Whether there was a step.

        Raises:
            EditedByHandError: If the segment has been changed by hand since, unless `overwrite`.
        """
        return self._take(self._done, self._undone, heatmapNode, overwrite)

    def redo(self, heatmapNode, overwrite: bool = False) -> bool:
        """Do the heatmap's last undone step again.

        Args:
            heatmapNode: The heatmap.
            overwrite: Whether work by hand since then is given up.

        Returns:
            Whether there was a step.

        Raises:
            EditedByHandError: If the segment has been changed by hand since, unless `overwrite`.
        """
        return self._take(self._undone, self._done, heatmapNode, overwrite)

    def _take(self, steps: list[_Step], others: list[_Step], heatmapNode, overwrite: bool) -> bool:
        """Take the heatmap's last step, back or again, and put it among the others; returns whether there was one."""
        step = self._last(steps, heatmapNode)
        if step is None:
            return False
        isUndone = steps is self._done
        present, wanted = (step.after, step.before) if isUndone else (step.before, step.after)
        own = step.previous if isUndone else (step.segmentationId, step.segmentId)
        node = self._scene.GetNodeByID(step.segmentationId)
        if present is not None and not overwrite:
            crop = cropOf(node, step.segmentId)
            if crop is None or not crop.has(present.crop.fingerprint):
                raise _editedError(node, step.segmentId)
        steps.remove(step)
        others.append(step)
        self.beforeChange(node)
        if wanted is None:
            node.GetSegmentation().RemoveSegment(step.segmentId)
        else:
            _restore(node, step.segmentId, wanted)
        _point(heatmapNode, *(own or (None, None)))
        return True

    def forget(self, heatmapNode=None) -> None:
        """Forget the steps of a heatmap.

        Args:
            heatmapNode: The heatmap; None: of all.
        """
        for steps in (self._done, self._undone):
            steps[:] = [] if heatmapNode is None else [s for s in steps if s.heatmapId != heatmapNode.GetID()]

    def _last(self, steps: list[_Step], heatmapNode) -> _Step | None:
        """Return the heatmap's last step that can be taken; those whose segment was removed meanwhile are dropped."""
        identifier = heatmapNode.GetID() if heatmapNode is not None else None
        for step in [step for step in reversed(steps) if step.heatmapId == identifier]:
            node = self._scene.GetNodeByID(step.segmentationId)
            removed = steps is self._done or step.before is not None
            if node is not None and (not removed or _hasSegment(node, step.segmentId)):
                return step
            steps.remove(step)
        return None

    def _finish(self, heatmapNode, written: Written, segmentationNode, segmentId: str, crop: Crop) -> None:
        """Tag a segment that was written, and make it the heatmap's own."""
        tags = {
            WRITTEN: crop.fingerprint,
            THRESHOLD: repr(written.threshold),
            SMALLEST: repr(written.smallestMm3),
            MIN_PEAK: repr(written.minPeak),
            METHOD: recordOf(heatmapNode)["method"],
            **provenanceOf(heatmapNode, written.threshold),
        }
        _setTags(segmentationNode, segmentId, tags)
        _point(heatmapNode, segmentationNode.GetID(), segmentId)

    def _remember(self, heatmapNode, segmentationNode, segmentId: str, before: _Content | None, previous) -> None:
        """Add a step; what was undone before it cannot be done again."""
        identifiers = heatmapNode.GetID(), segmentationNode.GetID(), segmentId
        after = _contentOf(segmentationNode, segmentId)
        self._done.append(_Step(*identifiers, before, after, previous))
        del self._done[:-UNDO_STEPS]
        self._undone[:] = [step for step in self._undone if step.heatmapId != heatmapNode.GetID()]


def maskOf(heatmapNode, written: Written, segmentationNode) -> Crop:
    """Return heatmap >= threshold on the reference grid of a segmentation.

    Args:
        heatmapNode: The heatmap.
        written: The threshold, and which components (26 neighbors) are kept.
        segmentationNode: Has a reference geometry: the heatmap's grid, but for the direction of its axes.

    Returns:
        The voxels.

    Raises:
        ToNNOUserError: If threshold or volume is no sane number, or if there are too many small components to leave
            them out while somebody waits.
    """
    recordOf(heatmapNode)
    volume = volumeOf(heatmapNode)
    mask = _mask(volume, written)
    _size, gridToNode = referenceGrid(segmentationNode)
    # A file may have given the heatmap back with an axis reversed; the segment keeps its own grid.
    ijkToGrid = np.linalg.inv(nodeToWorld(segmentationNode) @ gridToNode) @ volume.ijk_to_ras
    reverse = [2 - axis for axis in range(3) if ijkToGrid[axis, axis] < 0]
    return cropped(np.flip(mask, reverse), gridToNode)


def _mask(volume: Volume, written: Written) -> np.ndarray:
    """Return uint8 voxels (Z Y X) on the heatmap's grid."""
    try:
        parts = check_options(written.threshold, None, written.smallestMm3, written.minPeak)
    except TonnoError as error:
        raise ToNNOUserError(forPanel(str(error)), _("Set the threshold and the smallest volume to numbers.")) from None
    mask = binarize(volume, written.threshold)
    if not parts.drop_some(written.threshold):
        return mask
    if not clear_parts(mask.view(np.bool_), volume, parts, MOST_FILTERED_RUNS):
        text = _("The mask at {threshold:.3g} is scattered over too many parts to leave out small ones.")
        nextStep = _("Raise the threshold, or set the smallest part to 0.")
        if parts.min_peak > written.threshold:
            text = _("The mask at {threshold:.3g} is scattered over too many parts to leave out small or weak ones.")
            nextStep = _("Raise the threshold, or set the smallest part to 0 and untick Leave out weak parts.")
        raise ToNNOUserError(text.format(threshold=written.threshold), nextStep)
    return mask


def _named(segment) -> tuple[str, str] | None:
    """Return a segment's node and ID by their IDs, as a step keeps them."""
    return None if segment is None else (segment[0].GetID(), segment[1])


def _point(heatmapNode, segmentationId: str | None, segmentId: str | None) -> None:
    """Make a segment the heatmap's own, or none."""
    heatmapNode.SetNodeReferenceID(SEGMENTATION_ROLE, segmentationId)
    if segmentId:
        heatmapNode.SetAttribute(SEGMENTATION_ROLE, segmentId)
    else:
        heatmapNode.RemoveAttribute(SEGMENTATION_ROLE)


def _contentOf(segmentationNode, segmentId: str) -> _Content | None:
    """Read a segment's content now; None where it has no voxels (it is made of surfaces)."""
    crop = cropOf(segmentationNode, segmentId)
    if crop is None:
        return None
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    terminology = tagOf(segment, slicer.vtkSegment.GetTerminologyEntryTagName())
    return _Content(crop, _tagsOf(segmentationNode, segmentId), segment.GetName(), segment.GetColor(), terminology)


def _restore(segmentationNode, segmentId: str, content: _Content) -> None:
    """Give a segment a content back; it is made again under its ID where it was removed."""
    if not _hasSegment(segmentationNode, segmentId):
        addSegment(segmentationNode, content.name, content.color, content.crop, segmentId, content.terminology)
    else:
        setCrop(segmentationNode, segmentId, content.crop)
    _setTags(segmentationNode, segmentId, content.tags)


def segmentOf(heatmapNode) -> tuple | None:
    """Return the segment that was written last from a heatmap, also after loading.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The segmentation node and the segment's ID, or None where they are gone.
    """
    node = heatmapNode.GetNodeReference(SEGMENTATION_ROLE)
    segmentId = heatmapNode.GetAttribute(SEGMENTATION_ROLE)
    return (node, segmentId) if node is not None and _hasSegment(node, segmentId) else None


def isEditedByHand(segmentationNode, segmentId: str) -> bool:
    """Tell whether a segment holds other voxels than were written last; one that was never written by us does.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        True where it does.
    """
    return _isEdited(cropOf(segmentationNode, segmentId), _tagsOf(segmentationNode, segmentId))


def noteEditing(segmentationNode) -> None:
    """Mark in the tags which of our segments hold other voxels than were written last; the exports read that.

    Args:
        segmentationNode: Gets the tags.
    """
    for segmentId in segmentationNode.GetSegmentation().GetSegmentIDs():
        tags = _tagsOf(segmentationNode, segmentId)
        if WRITTEN in tags and _isEdited(cropOf(segmentationNode, segmentId), tags):
            _setTags(segmentationNode, segmentId, editedProvenance(tags))


def thresholdOf(segmentationNode, segmentId: str) -> float | None:
    """Return the threshold that a segment was written with.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        The threshold, in the heatmap's units; None where we have not written the segment.
    """
    return _number(segmentationNode, segmentId, THRESHOLD)


def smallestOf(segmentationNode, segmentId: str) -> float | None:
    """Return the volume of the smallest part that a segment was written with.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        The volume in mm3; None where we have not written the segment.
    """
    return _number(segmentationNode, segmentId, SMALLEST)


def minPeakOf(segmentationNode, segmentId: str) -> float | None:
    """Return what the peaks of the parts reach that a segment was written with.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        A value in the heatmap's units, -inf for all parts; None where we have not written the segment, or where an
        earlier version has, which kept all.
    """
    return _number(segmentationNode, segmentId, MIN_PEAK)


def _number(segmentationNode, segmentId: str, tag: str) -> float | None:
    value = _tagsOf(segmentationNode, segmentId).get(tag)
    return None if value is None else float(value)


def showOnly(scene, heatmapNodes) -> None:
    """Show the segments of some heatmaps, and hide those that were written from others.

    Segments that the module has not written are the user's: they stay as they are.

    Args:
        scene: The vtkMRMLScene.
        heatmapNodes: The heatmaps; may be empty.
    """
    shown = {_named(segmentOf(node)) for node in heatmapNodes} - {None}
    for node in nodesByClass(scene, "vtkMRMLSegmentationNode"):
        display = node.GetDisplayNode()
        for segmentId in node.GetSegmentation().GetSegmentIDs() if display is not None else ():
            isOurs = WRITTEN in _tagsOf(node, segmentId)
            visible = (node.GetID(), segmentId) in shown
            if isOurs and display.GetSegmentVisibility(segmentId) != visible:
                display.SetSegmentVisibility(segmentId, visible)


def visibleSegments(segmentationNode) -> list[str]:
    """List the segments that are shown: those that an export writes.

    Args:
        segmentationNode: Holds the segments.

    Returns:
        Their IDs.
    """
    display = segmentationNode.GetDisplayNode()
    identifiers = segmentationNode.GetSegmentation().GetSegmentIDs()
    return [name for name in identifiers if display is None or display.GetSegmentVisibility(name)]


def show3D(segmentationNode, on: bool) -> None:
    """Show a segmentation's surfaces in the 3D views, smoothed no more than its smallest finding bears, or hide them.

    Args:
        segmentationNode: Holds the segments.
        on: False hides them.

    Raises:
        ToNNOUserError: If there is no surface, or one that is too large.
    """
    display = segmentationNode.GetDisplayNode()
    if on:
        checkSurface(segmentationNode)
        hasChanged = fitSurface(segmentationNode)
        if not segmentationNode.GetSegmentation().CreateRepresentation(SURFACE, hasChanged):
            raise ToNNOUserError(_("The segmentation has no surface."), _("Lower the threshold until it holds voxels."))
        display.SetPreferredDisplayRepresentationName3D(SURFACE)
    display.SetVisibility3D(on)


def isShown3D(segmentationNode) -> bool:
    """Tell whether a segmentation's surfaces are shown in the 3D views.

    Args:
        segmentationNode: Holds the segments.

    Returns:
        True where they are.
    """
    display = segmentationNode.GetDisplayNode()
    hasSurface = segmentationNode.GetSegmentation().ContainsRepresentation(SURFACE)
    return display is not None and hasSurface and bool(display.GetVisibility() and display.GetVisibility3D())


def _prepare(segmentationNode, heatmapNode) -> None:
    """Refuse a segmentation that cannot hold the heatmap's voxels as they are; give an empty one their grid.

    In a segmentation made of surfaces, the other segments would turn into voxels, or ours would be lost; and Slicer
    resamples all segments to the node's reference geometry when it saves them.
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
    """Set the grid, from the input volume where it has the same: an export to DICOM looks for its series there."""
    segmentationNode.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    for volumeNode in (inputOf(heatmapNode), heatmapNode):
        if volumeNode is not None and volumeNode.GetImageData() is not None:
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            if _hasGrid(segmentationNode, heatmapNode):
                return


def _hasGrid(segmentationNode, heatmapNode) -> bool:
    """Tell whether a segmentation's reference geometry is the heatmap's grid, but for the direction of its axes."""
    reference = referenceGrid(segmentationNode)
    if reference is None:
        return False
    size, gridToNode = reference
    there = corners(size, nodeToWorld(segmentationNode) @ gridToNode)
    here = corners(heatmapNode.GetImageData().GetDimensions(), ijkToWorld(heatmapNode))
    apart = np.linalg.norm(there[:, :, np.newaxis] - here[:, np.newaxis], axis=0)
    return size == heatmapNode.GetImageData().GetDimensions() and apart.min(axis=0).max() < SAME_PLACE_MM


def _isEdited(crop: Crop | None, tags: dict[str, str]) -> bool:
    """Tell whether voxels are others than the tags say; None: a segment without voxels."""
    return crop is None or not crop.has(tags.get(WRITTEN, ""))


def _editedError(segmentationNode, segmentId: str) -> EditedByHandError:
    """Make the error that asks whether work by hand may be overwritten."""
    name = segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()
    return EditedByHandError(
        _("The segment {name} has been changed by hand.").format(name=name),
        _("Overwrite it, or write to a new segment."),
    )


def _newNode(heatmapNode):
    """Make a segmentation node beside the volume, which shows outlines alone in the slice views."""
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


def _freeColor(scene) -> tuple[float, float, float]:
    """Choose the color that fewest of our segments in the scene have, the first of several."""
    segments = [
        node.GetSegmentation().GetSegment(segmentId)
        for node in nodesByClass(scene, "vtkMRMLSegmentationNode")
        for segmentId in node.GetSegmentation().GetSegmentIDs()
        if WRITTEN in _tagsOf(node, segmentId)
    ]
    taken = [min(_COLORS, key=lambda color: np.abs(np.subtract(color, s.GetColor())).sum()) for s in segments]
    return min(_COLORS, key=taken.count)


def _freeName(segmentation, name: str) -> str:
    """Number a name that another segment has."""
    taken = {segmentation.GetSegment(n).GetName() for n in segmentation.GetSegmentIDs()}
    return next(free for free in (name, *(f"{name} {n}" for n in range(2, len(taken) + 3))) if free not in taken)


def _hasSegment(segmentationNode, segmentId: str | None) -> bool:
    """Tell whether a segment is there."""
    return bool(segmentId) and segmentationNode.GetSegmentation().GetSegment(segmentId) is not None


def _tagsOf(segmentationNode, segmentId: str) -> dict[str, str]:
    """Read our tags of a segment."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    return {tag: tagOf(segment, tag) for tag in _TAGS if segment.HasTag(tag)}


def _setTags(segmentationNode, segmentId: str, tags: dict[str, str]) -> None:
    """Replace our tags of a segment."""
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    for tag in _TAGS:
        if tag in tags:
            segment.SetTag(tag, tags[tag])
        else:
            segment.RemoveTag(tag)
