"""Segments as one closed surface in an STL file."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.labelmap import SURFACE, fitSurface
from ToNNOSlicerLib.logic.notes import surfaceNotes
from ToNNOSlicerLib.logic.provenance import inAscii, statement
from ToNNOSlicerLib.logic.surface import volumeMm3

_HEADER = 79  # characters, of the 80 bytes that a binary STL file begins with


def writeSurface(segmentationNode, path: Path) -> list[str]:
    """Write all segments as one surface: mm, LPS as in other medical STL files (the header says so), faces outward.

    Args:
        segmentationNode: Holds the segments.
        path: The file.

    Returns:
        Sentences on what the user should know of the file.

    Raises:
        OSError: If there is no surface, or it cannot be written.
    """
    from vtk import vtkAppendPolyData, vtkSTLWriter, vtkTransform, vtkTransformPolyDataFilter, vtkTriangleFilter

    surfaces = _surfaces(segmentationNode)
    append = vtkAppendPolyData()
    for surface in surfaces.values():
        append.AddInputData(surface)
    flip = vtkTransform()
    flip.Scale(-1, -1, 1)
    toLPS = vtkTransformPolyDataFilter()
    toLPS.SetInputConnection(append.GetOutputPort())
    toLPS.SetTransform(flip)
    triangles = vtkTriangleFilter()
    triangles.SetInputConnection(toLPS.GetOutputPort())
    writer = vtkSTLWriter()
    writer.SetFileName(str(path))
    writer.SetFileTypeToBinary()
    writer.SetHeader(inAscii(f"ToNNO. SPACE=LPS. {statement(segmentationNode)}", _HEADER))
    writer.SetInputConnection(triangles.GetOutputPort())
    if not writer.Write() or writer.GetErrorCode() or not path.exists():
        raise OSError(None, _("the surface could not be written"))
    notes = surfaceNotes(segmentationNode, {n: volumeMm3(surface) for n, surface in surfaces.items()})
    together = _("The {number} segments are one surface in the file.").format(number=len(surfaces))
    return [together, *notes] if len(surfaces) > 1 else notes


def _surfaces(segmentationNode) -> dict:
    """Return each segment's closed surface in the node's frame, by its ID; made where it is not shown in 3D."""
    segmentation = segmentationNode.GetSegmentation()
    hasChanged = fitSurface(segmentationNode)
    if segmentation.ContainsRepresentation(SURFACE):
        segmentation.CreateRepresentation(SURFACE, hasChanged)
    else:
        alone = slicer.vtkSegmentation()
        alone.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
        for segmentId in segmentation.GetSegmentIDs():
            alone.CopySegmentFromSegmentation(segmentation, segmentId)
        alone.CopyConversionParameters(segmentation)
        if not alone.CreateRepresentation(SURFACE, True):
            raise OSError(None, _("the surface could not be made"))
        segmentation = alone
    surfaces = {n: segmentation.GetSegment(n).GetRepresentation(SURFACE) for n in segmentation.GetSegmentIDs()}
    return {n: _outward(surface) for n, surface in surfaces.items()}


def _outward(surface):
    """Turn a surface's faces outward: on a left-handed grid, Slicer's look inward."""
    from vtk import vtkReverseSense

    if volumeMm3(surface) >= 0:
        return surface
    reverse = vtkReverseSense()
    reverse.SetInputData(surface)
    reverse.ReverseCellsOn()
    reverse.ReverseNormalsOn()
    reverse.Update()
    return reverse.GetOutput()
