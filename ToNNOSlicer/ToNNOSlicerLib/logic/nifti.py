"""Segments as labels in a NIfTI file, by ITK, with the place and the words that the format has room for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from tonno_core.volume.volume import Forms
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import formsOf
from ToNNOSlicerLib.logic.labelmap import onReferences, referenceGrid, tiltDegrees
from ToNNOSlicerLib.logic.notes import lossNotes, nameOf, overlapNotes, volumesMm3
from ToNNOSlicerLib.logic.provenance import inAscii, statement

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_DESCRIPTION = 79  # characters that the header's field descrip has room for


def checkTilt(path: Path, ijkToNode: np.ndarray, instead: str) -> None:
    """Refuse a NIfTI file of a sheared grid: its writers and readers straighten that, each in its own way.

    A resampled mask or heatmap would no longer fit the voxels of its image.

    Args:
        path: The file; other formats than NIfTI pass.
        ijkToNode: 4 x 4, of the grid.
        instead: The format to name in place of it.

    Raises:
        ToNNOUserError: If the grid is sheared.
    """
    degrees = tiltDegrees(ijkToNode)
    if degrees and path.name.lower().endswith((".nii", ".nii.gz")):
        raise ToNNOUserError(
            _(
                "The slices are tilted by {degrees:.2g} degrees (gantry), which NIfTI cannot hold: voxels would be"
                " misplaced."
            ).format(degrees=degrees),
            _("Export {instead}, which keeps every voxel where it is.").format(instead=instead),
        )


def writeLabelmap(segmentationNode, path: Path) -> list[str]:
    """Write labels 1, 2, ... in the segments' order; where segments overlap the later one wins.

    Args:
        segmentationNode: Holds the segments.
        path: The file.

    Returns:
        Sentences on what the user should know of the file.

    Raises:
        ToNNOUserError: If there is no grid, or one that the format cannot hold.
        OSError: If the file cannot be written.
    """
    reference = referenceGrid(segmentationNode)
    if reference is None:
        raise ToNNOUserError(
            _("The segmentation {name} has no reference geometry.").format(name=segmentationNode.GetName()),
            _("Set it in the Segment Editor (Source volume geometry), or export .seg.nrrd."),
        )
    size, gridToNode = reference
    checkTilt(path, gridToNode, ".seg.nrrd")
    masks = onReferences(segmentationNode)
    labels = np.zeros(size[::-1], dtype=np.int16)
    for label, mask in enumerate(masks.values(), start=1):
        labels[mask != 0] = label
    notes = lossNotes(segmentationNode, volumesMm3(masks, gridToNode)) + overlapNotes(segmentationNode, masks)
    role = segmentationNode.GetReferenceImageGeometryReferenceRole()
    forms = formsOf(segmentationNode.GetNodeReference(role), gridToNode, size)
    _writeNifti(labels, (gridToNode, forms), path, statement(segmentationNode))
    if len(masks) == 1:
        return notes
    listed = ", ".join(f"{label} {nameOf(segmentationNode, n)}" for label, n in enumerate(masks, start=1))
    return [_("Labels: {listed}.").format(listed=listed), *notes]


def _writeNifti(labels: np.ndarray, grid: tuple[np.ndarray, Forms | None], path: Path, description: str) -> None:
    """Write int16 voxels (Z Y X), and read them back: on a full disk niftilib reports success."""
    import SimpleITK as sitk

    from tonno_core.volume.io import write_image

    gridToNode, forms = grid
    image = sitk.GetImageFromArray(labels)
    gridToLPS = _RAS_TO_LPS @ gridToNode
    spacing = np.linalg.norm(gridToLPS[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((gridToLPS[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(gridToLPS[:3, 3].tolist())
    image.SetMetaData("ITK_FileNotes", inAscii(description, _DESCRIPTION))
    try:
        write_image(image, path, forms)
        isWhole = np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), labels)
    except RuntimeError:
        isWhole = False
    if not isWhole:
        raise OSError(None, _("what was written cannot be read again; the disk may be full"))
