"""Notes on a file that was written: sentences for the panel."""

from __future__ import annotations

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.labelmap import cropOf

# Voxels that go from grid to grid unchanged keep their volume; a surface may differ more, and always does a little.
_OF_VOXELS, _OF_SURFACES = 0.01, 0.1


def lossNotes(segmentationNode, heldMm3: dict[str, float]) -> list[str]:
    """Name the segments of which a file holds less, or more, than the scene: resampled, or cut off.

    Args:
        segmentationNode: The segmentation that was written.
        heldMm3: Each segment's volume in the file, by segment ID.

    Returns:
        A sentence for each such segment.

    Raises:
        ToNNOUserError: If the file holds nothing.
    """
    if not any(heldMm3.values()):
        raise ToNNOUserError(
            _("The file would be empty: the voxels of {name} lie between or beyond those of its source volume.").format(
                name=segmentationNode.GetName()
            ),
            _("Choose a finer geometry in the Segment Editor (Specify geometry)."),
        )
    text = _("{name}: {written} in the file, {voxels} in the scene: its voxels lie on another grid, or beyond it.")
    return _differing(segmentationNode, heldMm3, _OF_VOXELS, text)


def volumesMm3(masks: dict[str, np.ndarray], gridToNode: np.ndarray) -> dict[str, float]:
    """Return the volume of each segment's mask.

    Args:
        masks: Z Y X each, by segment ID.
        gridToNode: 4 x 4, from their grid's voxels to mm.

    Returns:
        Volumes in mm3 by segment ID.
    """
    voxelMm3 = float(abs(np.linalg.det(gridToNode[:3, :3])))
    return {segmentId: int(np.count_nonzero(mask)) * voxelMm3 for segmentId, mask in masks.items()}


def overlapNotes(segmentationNode, masks: dict[str, np.ndarray]) -> list[str]:
    """Name the segments that later segments cover in a label map, where a voxel has a single label.

    Args:
        segmentationNode: The segmentation that was written.
        masks: Z Y X each, by segment ID, in the order of their labels.

    Returns:
        A sentence for each such segment.
    """
    notes = []
    later = np.zeros(next(iter(masks.values())).shape, dtype=bool)
    for segmentId, mask in reversed(masks.items()):
        covered = np.count_nonzero(later & (mask != 0))
        if covered:
            text = _("{name}: {covered} of its {number} voxels are also a later segment's, and have its label.")
            name = nameOf(segmentationNode, segmentId)
            notes.append(text.format(name=name, covered=covered, number=np.count_nonzero(mask)))
        later |= mask != 0
    return notes[::-1]


def surfaceNotes(segmentationNode, surfacesMm3: dict[str, float]) -> list[str]:
    """Name the segments whose surface encloses another volume than their voxels.

    Args:
        segmentationNode: The segmentation that was written.
        surfacesMm3: The volume within each segment's surface, by segment ID.

    Returns:
        A sentence for each such segment.
    """
    text = _("{name}: the surface encloses {written}, its voxels are {voxels}.")
    return _differing(segmentationNode, surfacesMm3, _OF_SURFACES, text)


def _differing(segmentationNode, writtenMm3: dict[str, float], tolerance: float, text: str) -> list[str]:
    """Write a sentence for each segment whose volume in a file differs from that of its voxels."""
    notes = []
    for segmentId, mm3 in writtenMm3.items():
        voxelsMm3 = cropOf(segmentationNode, segmentId).volumeMm3
        if abs(mm3 - voxelsMm3) > tolerance * voxelsMm3:
            name = nameOf(segmentationNode, segmentId)
            notes.append(text.format(name=name, written=_ml(mm3), voxels=_ml(voxelsMm3)))
    return notes


def nameOf(segmentationNode, segmentId: str) -> str:
    """Return the name of a segment.

    Args:
        segmentationNode: Holds the segment.
        segmentId: The segment's ID.

    Returns:
        The name.
    """
    return segmentationNode.GetSegmentation().GetSegment(segmentId).GetName()


def _ml(mm3: float) -> str:
    return _("{volume:.3g} ml").format(volume=mm3 / 1000)
