"""A DICOM Segmentation object: by Slicer's own exporter where it is there, else by the package highdicom.

Slicer has the exporter since 5.12; in 5.10 the extension Quantitative Reporting brings it. docs/interchange.md has
which reader gives back what.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.labelmap import cropOf, onGrid, tiltDegrees
from ToNNOSlicerLib.logic.notes import lossNotes, volumesMm3

INSTANCES = "DICOM.instanceUIDs"  # a volume's attribute that holds the UIDs of its slices
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
# Readers that stack frames at right angles may misplace the last slice by this at most, in pixels.
_STRAIGHT = 0.5
# A pixel's center belongs to a voxel whose center is nearer than this, in voxels: a little below half.
_SAME_VOXEL = 0.45


def writeDicomSeg(segmentationNode, path: Path, dicomFile: Callable[[str], str | None] | None = None) -> list[str]:
    """Write the segments that are not empty as one DICOM SEG that refers to the slices of the input's DICOM series.

    Args:
        segmentationNode: The segmentation; its reference volume is the input.
        path: The file, in a folder that exists.
        dicomFile: Returns the path of the file of an instance's UID; by default Slicer's DICOM database is asked.

    Returns:
        What to know about the file, in sentences.

    Raises:
        ToNNOUserError: If the input is no DICOM series, its files are gone, its slices are tilted, it no longer lies
            on its slices, or there is no exporter.
    """
    volumeNode, uids = _series(segmentationNode)
    isSlicers = _hasSlicersExporter()
    sources = _sources(uids, dicomFile or _inDatabase)
    if not _isEnhanced(sources):
        _checkTilt(volumeNode)
        _checkPlaces(volumeNode, sources)
    elif not isSlicers:
        raise ToNNOUserError(
            _("The series has several slices in a file (enhanced DICOM), or slices without a position."),
            _("Export .seg.nrrd or NIfTI: they hold the same voxels."),
        )
    ids, notes = _filled(segmentationNode)
    masks = {n: onGrid(segmentationNode, n, volumeNode) for n in ids}
    notes += lossNotes(segmentationNode, volumesMm3(masks, ijkToNode(volumeNode)))
    if isSlicers:
        return notes + _bySlicer(segmentationNode, ids, path)
    from ToNNOSlicerLib.logic.highdicom_seg import write

    onSlices = np.stack([_onSlices(mask, volumeNode, sources) for mask in masks.values()], axis=-1)
    write(segmentationNode, ids, onSlices, sources, path)
    return notes


def _series(segmentationNode) -> tuple:
    """Return the input's volume node, and the UIDs of its slices."""
    volumeNode = segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())
    uids = ((volumeNode.GetAttribute(INSTANCES) if volumeNode is not None else None) or "").split()
    if not uids:
        raise ToNNOUserError(
            _("DICOM SEG refers to the slices of a DICOM series, and the input was not loaded from one."),
            _("Export .seg.nrrd or NIfTI, or load the series through the DICOM module and reconstruct again."),
        )
    return volumeNode, uids


def _hasSlicersExporter() -> bool:
    """Return whether Slicer's exporter writes, else highdicom does. Raises ToNNOUserError where neither can."""
    if find_spec("DICOMSegmentationPlugin"):
        return True
    if find_spec("highdicom"):
        return False
    raise ToNNOUserError(
        _("Slicer's exporter for DICOM SEG is not installed."),
        _(
            "Slicer 5.12 and newer bring it; in Slicer 5.10 install the extension Quantitative Reporting (Extensions"
            " Manager). Or export .seg.nrrd."
        ),
    )


def _bySlicer(segmentationNode, ids: list[str], path: Path) -> list[str]:
    """Call the exporter itself: the plug-in around it asks about empty segments while everything waits."""
    from DICOMSegmentationPlugin import DICOMSegmentationExporter

    exporter = DICOMSegmentationExporter(segmentationNode)
    try:
        exporter.export(str(path.parent), path.name, {"SeriesDescription": segmentationNode.GetName()[:64]}, ids)
        if not path.is_file():
            raise ValueError(_("it wrote no file"))
        slicer.dicomDatabase.insert(str(path))  # as the plug-in does; the database keeps a copy
    except Exception as error:  # whatever another's code raises
        raise ToNNOUserError(
            _("Slicer's DICOM SEG exporter failed: {problem}.").format(problem=str(error).strip().rstrip(".")),
            _("Look at the application's log, or export .seg.nrrd."),
        ) from error
    finally:
        exporter.cleanup()
    return [_("Slicer's DICOM database holds a copy of the file.")]


def _inDatabase(uid: str) -> str | None:
    database = getattr(slicer, "dicomDatabase", None)
    return (database.fileForInstance(uid) or None) if database is not None else None


def _sources(uids: list[str], dicomFile: Callable[[str], str | None]) -> list:
    """Read the series' data sets, without their pixels."""
    import pydicom

    paths = [dicomFile(uid) for uid in uids]
    missing = sum(1 for path in paths if not path or not Path(path).is_file())
    if missing:
        raise ToNNOUserError(
            _("{missing} of the series' {number} DICOM files are not to be found.").format(
                missing=missing, number=len(uids)
            ),
            _("Load the series again through the DICOM module, or export .seg.nrrd."),
        )
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def _isEnhanced(sources: list) -> bool:
    """Return whether the places of slices are where only Slicer's exporter looks for them."""
    return not all("ImagePositionPatient" in source and "PixelSpacing" in source for source in sources)


def _checkTilt(volumeNode) -> None:
    """Refuse a tilted gantry's series: each frame would lie right, but most readers stack frames at right angles."""
    ijkToRAS, size = ijkToNode(volumeNode), volumeNode.GetImageData().GetDimensions()
    degrees, spacing = tiltDegrees(ijkToRAS), np.linalg.norm(ijkToRAS[:3, :3], axis=0)
    shift = float(np.sin(np.radians(degrees)) * spacing[2] * (size[2] - 1))
    if shift > _STRAIGHT * spacing[:2].min():
        raise ToNNOUserError(
            _(
                "The slices are tilted by {degrees:.2g} degrees (gantry). Slicer and others that stack the frames of a"
                " DICOM SEG would show it up to {shift:.1f} mm off, or not at all."
            ).format(degrees=degrees, shift=shift),
            _("Export .seg.nrrd, which keeps every voxel where it is."),
        )


def _checkPlaces(volumeNode, sources: list) -> None:
    """Refuse a volume that does not lie on its slices: moved since, resampled, or spaced evenly where they are not.

    Its mask would be written to pixels from which it was not made.
    """
    corners = [np.array([[x, y] for x in (0, s.Columns - 1) for y in (0, s.Rows - 1)]) for s in sources]
    ijk = np.stack([_onVoxels(_pixelToIJK(volumeNode, s), c) for s, c in zip(sources, corners, strict=True)])
    nearest = np.rint(ijk)
    last = np.array(volumeNode.GetImageData().GetDimensions()) - 1
    onVoxels = np.abs(ijk - nearest).max() <= _SAME_VOXEL and not np.ptp(nearest[..., 2], axis=1).any()
    # The volume may be a part of the series, but every voxel of it has a pixel.
    isCovered = (nearest.min(axis=(0, 1)) <= 0).all() and (nearest.max(axis=(0, 1)) >= last).all()
    if onVoxels and isCovered and set(nearest[:, 0, 2]) >= set(range(last[2] + 1)):
        return
    raise ToNNOUserError(
        _("{name} does not lie on the slices of its DICOM series.").format(name=volumeNode.GetName()),
        _(
            "It was moved or resampled since, or slices are missing. Export .seg.nrrd or NIfTI, which fit the volume as"
            " it lies, or load the series again and reconstruct."
        ),
    )


def _filled(segmentationNode) -> tuple[list[str], list[str]]:
    """Return IDs of the segments with voxels, and a sentence about the others: readers stumble over empty segments."""
    segmentation = segmentationNode.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    filled = [n for n in ids if cropOf(segmentationNode, n).mask.size]
    empty = [segmentation.GetSegment(n).GetName() for n in ids if n not in filled]
    return filled, [_("Left out, being empty: {names}.").format(names=", ".join(empty))] if empty else []


def _onSlices(mask: np.ndarray, volumeNode, sources: list) -> np.ndarray:
    """Sample a mask (Z Y X on the volume's grid) on the slices of its series: N rows columns, in their order."""
    return np.stack([_slice(mask, _pixelToIJK(volumeNode, source), source) for source in sources])


def _slice(mask: np.ndarray, pixelToIJK: np.ndarray, source) -> np.ndarray:
    rows, columns = np.mgrid[: source.Rows, : source.Columns]
    ijk = _onVoxels(pixelToIJK, np.stack([columns, rows], axis=-1))
    i, j, k = np.moveaxis(np.rint(ijk).astype(int), -1, 0)
    z, y, x = mask.shape
    inside = (0 <= i) & (i < x) & (0 <= j) & (j < y) & (0 <= k) & (k < z)
    pixels = np.zeros(inside.shape, dtype=np.uint8)
    pixels[inside] = mask[k[inside], j[inside], i[inside]]
    return pixels


def _onVoxels(pixelToIJK: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Convert pixels (..., column and row) to voxels (..., i j k), both counted from centers."""
    return pixels @ pixelToIJK[:3, :2].T + pixelToIJK[:3, 3]


def _pixelToIJK(volumeNode, source) -> np.ndarray:
    return np.linalg.inv(ijkToNode(volumeNode)) @ _LPS_TO_RAS @ _pixelToLPS(source)


def _pixelToLPS(source) -> np.ndarray:
    """Return the matrix from (column, row, 0, 1) of a slice to LPS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    orientation = np.array(source.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    betweenRows, betweenColumns = (float(mm) for mm in source.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0] = orientation[0] * betweenColumns
    matrix[:3, 1] = orientation[1] * betweenRows
    matrix[:3, 3] = source.ImagePositionPatient
    return matrix
