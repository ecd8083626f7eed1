"""Voxels of segments as numpy arrays, and back; cropped to what is not empty, which saves time and memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from tonno_core.bundle.terminology import Terminology, terminology_of
from tonno_core.segmentation.connected import find_runs
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToWorld, nodeToWorld, toVTK, transformPoint
from ToNNOSlicerLib.logic.limits import FEWER, MOST_SURFACE_RUNS
from ToNNOSlicerLib.logic.surface import SLICERS_DEFAULT, SMOOTHING, smoothingFor, thinnest

LABELMAP = "Binary labelmap"
SURFACE = "Closed surface"
GREEN = (0x3D / 255, 1.0, 0x9E / 255)  # of the first segment, and of its preview
# Two places are the same within this: a file keeps fewer digits than memory.
SAME_PLACE_MM = 0.01
# Cosine of two axes of a grid, as the engine's: below it, the far corner of 500 voxels is off by .05 voxel.
_TILTED = 1e-4
_LISTS = ("Segmentation category and type - 3D Slicer General Anatomy list", "Anatomic codes - DICOM master list")
WRITTEN = "ToNNO.Written"  # tag of a segment: the fingerprint of the voxels that were written last
# Voxels that are measured while no surface is shown: within a tenth of a second, at each release of the slider.
_QUICK = 100_000
_FITTED = "ToNNO.Smoothing"  # attribute of a segmentation: the smoothing that was chosen here


def terminologyEntry(terms: Terminology) -> str:
    """Spell codes as the terminology tag of a segment does.

    Args:
        terms: The codes.

    Returns:
        The entry.
    """
    kind = (terms.category, terms.kind, terms.modifier)
    kindText, regionText = (
        "~".join(str(code or "^^") for code in codes) for codes in (kind, (terms.region, terms.region_modifier))
    )
    return f"{_LISTS[0]}~{kindText}~{_LISTS[1]}~{regionText}"


TERMINOLOGY = terminologyEntry(terminology_of({}, None))  # where a model says nothing; the user may choose another


@dataclass(frozen=True)
class Crop:
    """Voxels of a segment on a grid.

    Attributes:
        mask: uint8, Z Y X, of 0 and 1, without empty borders; of size 0 where the segment is empty.
        first: The first voxel's (i, j, k) on the grid.
        gridToNode: 4 x 4, from the grid to the segmentation's frame.
    """

    mask: np.ndarray
    first: tuple[int, int, int]
    gridToNode: np.ndarray

    @property
    def volumeMm3(self) -> float:
        """The volume of its voxels."""
        return int(np.count_nonzero(self.mask)) * float(abs(np.linalg.det(self.gridToNode[:3, :3])))

    @cached_property
    def fingerprint(self) -> str:
        """Shape, content and place of the voxels, as text that may stand in a segment's tag."""
        digest = hashlib.blake2b(np.packbits(self.mask).tobytes(), digest_size=12).hexdigest()
        place = transformPoint(self.gridToNode, self.first) if self.mask.size else np.zeros(3)
        return " ".join(["x".join(map(str, self.mask.shape)), digest, *(f"{mm:.4f}" for mm in place)])

    def has(self, fingerprint: str) -> bool:
        """Tell whether a fingerprint is that of these voxels.

        Args:
            fingerprint: A fingerprint; "" is that of no voxels.

        Returns:
            True where shape and content are the same, and the place within SAME_PLACE_MM.
        """
        mine, other = self.fingerprint.split(), fingerprint.split()
        if mine[:2] != other[:2] or len(other) != 5:
            return False
        return all(abs(float(a) - float(b)) < SAME_PLACE_MM for a, b in zip(mine[2:], other[2:], strict=True))


def cropped(mask: np.ndarray, gridToNode: np.ndarray, first: tuple[int, int, int] = (0, 0, 0)) -> Crop:
    """Cut the empty borders off a mask.

    Args:
        mask: Bool or uint8 of 0 and 1, Z Y X. The crop may share its memory.
        gridToNode: 4 x 4, from the grid to the segmentation's frame.
        first: The (i, j, k) of the mask's voxel (0, 0, 0) on the grid.

    Returns:
        The crop.
    """
    box = _box(mask)
    if box is None:
        return Crop(np.zeros((0, 0, 0), dtype=np.uint8), first, gridToNode)
    low = tuple(axis.start + start for axis, start in zip(box[::-1], first, strict=True))
    return Crop(np.ascontiguousarray(mask[box]).view(np.uint8), low, gridToNode)


def cropOf(segmentationNode, segmentId: str) -> Crop | None:
    """Read the voxels of a segment.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        The crop; None where the segment is gone or has no labelmap (its source is a surface).
    """
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    image = segment.GetRepresentation(LABELMAP) if segment is not None else None
    if image is None:
        return None
    first = image.GetExtent()[::2]
    scalars = image.GetPointData().GetScalars()
    shape = image.GetDimensions()[::-1]
    if scalars is None or 0 in shape:
        return cropped(np.zeros((0, 0, 0)), _gridToNode(image), first)
    mask = vtk_to_numpy(scalars).reshape(shape) == segment.GetLabelValue()
    return cropped(mask, _gridToNode(image), first)


def setCrop(segmentationNode, segmentId: str, crop: Crop) -> None:
    """Replace a segment's voxels. No other segment changes, also where they share a labelmap.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.
        crop: The voxels.
    """
    segmentation = segmentationNode.GetSegmentation()
    segment = segmentation.GetSegment(segmentId)
    if _isShared(segmentation, segmentId):
        segmentation.SeparateSegmentLabelmap(segmentId)
    hadSurface = _keepsSurface(segmentation, crop)
    segment.SetLabelValue(1)
    image = segment.GetRepresentation(LABELMAP)
    if image is None:
        segment.AddRepresentation(LABELMAP, imageOf(crop))
    else:
        image.DeepCopy(imageOf(crop, shared=True))
    hasChanged = fitSurface(segmentationNode, {segmentId: crop}, np.inf if hadSurface else _QUICK)
    if hadSurface:
        segmentation.CreateRepresentation(SURFACE, hasChanged)


def addSegment(
    segmentationNode,
    name: str,
    color: tuple[float, float, float],
    crop: Crop,
    segmentId: str | None = None,
    terminology: str = TERMINOLOGY,
) -> str:
    """Add a segment in a labelmap of its own.

    Args:
        segmentationNode: Gets the segment.
        name: The segment's name.
        color: Red, green, blue, 0 to 1.
        crop: The voxels.
        segmentId: The segment's ID; None: a new one.
        terminology: Its entry, see `terminologyEntry`.

    Returns:
        The segment's ID.
    """
    segment = slicer.vtkSegment()
    segment.SetName(name)
    segment.SetColor(*color)
    segment.SetLabelValue(1)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology)
    segment.AddRepresentation(LABELMAP, imageOf(crop))
    segmentation = segmentationNode.GetSegmentation()
    _keepsSurface(segmentation, crop)
    segmentId = segmentId or segmentation.GenerateUniqueSegmentID("ToNNO")
    segmentation.AddSegment(segment, segmentId)
    hasSurface = segmentation.ContainsRepresentation(SURFACE)
    if fitSurface(segmentationNode, {segmentId: crop}, np.inf if hasSurface else _QUICK) and hasSurface:
        segmentation.CreateRepresentation(SURFACE, True)
    return segmentId


def checkSurface(segmentationNode) -> None:
    """Refuse surfaces that would block the window for more than a second.

    Args:
        segmentationNode: Holds the segments.

    Raises:
        ToNNOUserError: If one of them is too large or too scattered.
    """
    crops = [cropOf(segmentationNode, n) for n in segmentationNode.GetSegmentation().GetSegmentIDs()]
    if not all(crop is None or _hasQuickSurface(crop) for crop in crops):
        raise ToNNOUserError(
            _("{name} is too large, or scattered over too many parts, for 3D views.").format(
                name=segmentationNode.GetName()
            ),
            FEWER,
        )


def _hasQuickSurface(crop: Crop) -> bool:
    """Tell whether a crop's surface is made within a second."""
    return find_runs(crop.mask.view(np.bool_))[0].size <= MOST_SURFACE_RUNS


def _keepsSurface(segmentation, crop: Crop) -> bool:
    """Tell whether a segmentation has surfaces when it gets a crop; where that takes too long they are given up."""
    if not segmentation.ContainsRepresentation(SURFACE):
        return False
    if not _hasQuickSurface(crop):
        segmentation.RemoveRepresentation(SURFACE)
    return bool(segmentation.ContainsRepresentation(SURFACE))


def fitSurface(segmentationNode, written: Mapping[str, Crop] = MappingProxyType({}), limit: float = np.inf) -> bool:
    """Choose how smooth a node's surfaces will be, by the thinnest finding of the segments that we have written.

    A choice that the user has made in Slicer (neither its default nor the last one made here) is left alone.

    Args:
        segmentationNode: Gets the choice as a parameter of its conversion; nothing is converted.
        written: The segments that were written just now, by ID.
        limit: Most voxels for which a choice is made.

    Returns:
        Whether it is another choice than before.
    """
    segmentation = segmentationNode.GetSegmentation()
    chosen = float(segmentation.GetConversionParameter(SMOOTHING) or SLICERS_DEFAULT)
    if chosen not in (SLICERS_DEFAULT, float(segmentationNode.GetAttribute(_FITTED) or SLICERS_DEFAULT)):
        return False
    others = [
        n for n in segmentation.GetSegmentIDs() if n not in written and segmentation.GetSegment(n).HasTag(WRITTEN)
    ]
    crops = [*written.values(), *(cropOf(segmentationNode, n) for n in others)]
    masks = [crop.mask for crop in crops if crop is not None]
    if sum(map(np.count_nonzero, masks)) > limit:
        return False
    fitted = smoothingFor(min(map(thinnest, masks), default=np.inf))
    segmentation.SetConversionParameter(SMOOTHING, str(fitted))
    segmentationNode.SetAttribute(_FITTED, str(fitted))
    return fitted != chosen


def imageOf(crop: Crop, shared: bool = False):
    """Return a crop as Slicer's oriented image, on the crop's grid.

    Args:
        crop: The voxels.
        shared: Whether the image shares their memory: for whoever only reads it, and not for long.

    Returns:
        The vtkOrientedImageData.
    """
    image = slicer.vtkOrientedImageData()
    image.SetImageToWorldMatrix(toVTK(crop.gridToNode))
    extent = [end for low, n in zip(crop.first, crop.mask.shape[::-1], strict=True) for end in (low, low + n - 1)]
    image.SetExtent(extent)
    scalars = numpy_to_vtk(np.ascontiguousarray(crop.mask).reshape(-1), deep=not shared)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    return image


def onGrid(segmentationNode, segmentId: str, volumeNode) -> np.ndarray:
    """Return a segment on a volume's grid: exact where the grids agree, else the nearest voxel.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.
        volumeNode: The volume.

    Returns:
        uint8, Z Y X, of 0 and 1.
    """
    size = volumeNode.GetImageData().GetDimensions()
    return _onto(cropOf(segmentationNode, segmentId), nodeToWorld(segmentationNode), ijkToWorld(volumeNode), size)


def onReferences(segmentationNode) -> dict[str, np.ndarray]:
    """Return all segments on the segmentation's reference grid, which must be there.

    Args:
        segmentationNode: Holds the segments.

    Returns:
        Each segment's voxels, uint8, Z Y X, of 0 and 1, by its ID.
    """
    size, gridToNode = referenceGrid(segmentationNode)
    identifiers = segmentationNode.GetSegmentation().GetSegmentIDs()
    return {n: _onto(cropOf(segmentationNode, n), np.eye(4), gridToNode, size) for n in identifiers}


def referenceGrid(segmentationNode) -> tuple[tuple[int, int, int], np.ndarray] | None:
    """Read a segmentation's reference geometry.

    Args:
        segmentationNode: Holds the segments.

    Returns:
        Size (i, j, k), and 4 x 4 from its voxels to the node's frame; None where there is none.
    """
    parameter = slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    geometry = segmentationNode.GetSegmentation().GetConversionParameter(parameter)
    if not geometry:
        return None
    image = slicer.vtkOrientedImageData()
    slicer.vtkSegmentationConverter.DeserializeImageGeometry(geometry, image, False)
    shift = np.eye(4)
    shift[:3, 3] = image.GetExtent()[::2]
    return image.GetDimensions(), _gridToNode(image) @ shift


def tiltDegrees(ijkToRAS: np.ndarray) -> float:
    """Measure how far a grid's axes are from perpendicular, as after a tilted gantry.

    Args:
        ijkToRAS: 4 x 4.

    Returns:
        Degrees; 0 where no file format minds.
    """
    axes = ijkToRAS[:3, :3] / np.linalg.norm(ijkToRAS[:3, :3], axis=0)
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    return float(np.degrees(np.arcsin(min(cosine, 1.0)))) if cosine > _TILTED else 0.0


def _onto(crop: Crop | None, nodeToRAS: np.ndarray, gridToRAS: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Return a crop on another grid, uint8, Z Y X."""
    target = np.zeros(size[::-1], dtype=np.uint8)
    if crop is None or not crop.mask.size:
        return target
    ijkToIJK = np.linalg.inv(gridToRAS) @ nodeToRAS @ crop.gridToNode
    first = transformPoint(ijkToIJK, crop.first)
    # A thousandth of a voxel across the whole grid is still the same grid.
    if np.allclose(ijkToIJK[:3, :3], np.eye(3), atol=1e-3 / max(size)) and np.allclose(first, first.round(), atol=1e-3):
        _paste(crop.mask, first.round().astype(int), target)
        return target
    return _resampled(crop, nodeToRAS, gridToRAS, size)


def _paste(mask: np.ndarray, first: np.ndarray, target: np.ndarray) -> None:
    """Copy a mask to where its voxel (0, 0, 0) is (i, j, k) `first` of the target; what lies beyond is cut off."""
    low = first[::-1]
    here = tuple(slice(max(0, a), max(0, min(n, a + m))) for a, m, n in zip(low, mask.shape, target.shape, strict=True))
    target[here] = mask[tuple(slice(s.start - a, max(s.start, s.stop) - a) for s, a in zip(here, low, strict=True))]


def _resampled(crop: Crop, nodeToRAS: np.ndarray, gridToRAS: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """Return a crop on another grid by Slicer's nearest neighbor, uint8, Z Y X."""
    image, reference, result = imageOf(crop), slicer.vtkOrientedImageData(), slicer.vtkOrientedImageData()
    image.SetImageToWorldMatrix(toVTK(nodeToRAS @ crop.gridToNode))
    reference.SetImageToWorldMatrix(toVTK(gridToRAS))
    reference.SetExtent(0, size[0] - 1, 0, size[1] - 1, 0, size[2] - 1)
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, reference, result)
    return (vtk_to_numpy(result.GetPointData().GetScalars()).reshape(size[::-1]) != 0).astype(np.uint8)


def _isShared(segmentation, segmentId: str) -> bool:
    """Tell whether another segment lives in the same image, told apart by its label value."""
    image = segmentation.GetSegment(segmentId).GetRepresentation(LABELMAP)
    others = (other for other in segmentation.GetSegmentIDs() if other != segmentId)
    return image is not None and any(segmentation.GetSegment(n).GetRepresentation(LABELMAP) is image for n in others)


def _gridToNode(image) -> np.ndarray:
    """Return the matrix (4 x 4) of an oriented image."""
    from vtk import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    """Return the bounding box of the nonzero voxels as slices (Z Y X), or None."""
    planes = np.flatnonzero(mask.reshape(mask.shape[0], -1).any(axis=1)) if mask.size else np.empty(0)
    if not planes.size:
        return None
    z = slice(int(planes[0]), int(planes[-1]) + 1)
    shadow = mask[z].any(axis=0)
    y, x = (np.flatnonzero(shadow.any(axis=axis)) for axis in (1, 0))
    return z, slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)
