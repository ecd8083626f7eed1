"""A DICOM Segmentation object: by Slicer's own exporter where it is installed, else by the package highdicom."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.labelmap import onGrid

INSTANCES = "DICOM.instanceUIDs"  # a volume's attribute: the UIDs of its slices
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def writeDicomSeg(segmentationNode, path: Path, dicomFile: Callable[[str], str | None] | None = None) -> None:
    """Write all segments as one DICOM SEG file that refers to the slices of the input's DICOM series.

    Raises ToNNOUserError where the input is no DICOM series, its files are gone, or neither exporter is there.
    """
    volumeNode = segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())
    uids = ((volumeNode.GetAttribute(INSTANCES) if volumeNode is not None else None) or "").split()
    if not uids:
        raise ToNNOUserError(
            _("DICOM SEG refers to the slices of a DICOM series, and the input was not loaded from one."),
            _("Export .seg.nrrd or NIfTI, or load the series through the DICOM module and reconstruct again."),
        )
    if find_spec("DICOMSegmentationPlugin"):
        _bySlicer(segmentationNode, path)
    elif find_spec("highdicom"):
        _byHighdicom(segmentationNode, volumeNode, _sources(uids, dicomFile or _inDatabase), path)
    else:
        raise ToNNOUserError(
            _("Slicer's exporter for DICOM SEG is not installed."),
            _("Install the extension Quantitative Reporting (Extensions Manager), or export .seg.nrrd."),
        )


def _bySlicer(segmentationNode, path: Path) -> None:
    from DICOMSegmentationPlugin import DICOMSegmentationPluginClass

    plugin = DICOMSegmentationPluginClass()
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(segmentationNode.GetScene())
    exportables = plugin.examineForExport(tree.GetItemByDataNode(segmentationNode))
    for exportable in exportables:
        exportable.directory = str(path.parent)
    problem = plugin.export(exportables) if exportables else _("no exportable was offered")
    written = [file for file in path.parent.rglob("*") if file.is_file()]
    if problem or len(written) != 1:
        raise ToNNOUserError(
            _("Slicer's DICOM SEG exporter failed: {problem}.").format(problem=problem or _("it wrote no file")),
            _("Look at the application's log, or export .seg.nrrd."),
        )
    written[0].replace(path)


def _inDatabase(uid: str) -> str | None:
    database = getattr(slicer, "dicomDatabase", None)
    return (database.fileForInstance(uid) or None) if database is not None else None


def _sources(uids: list[str], dicomFile: Callable[[str], str | None]) -> list:
    """The series' data sets, without their pixels."""
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


def _byHighdicom(segmentationNode, volumeNode, sources: list, path: Path) -> None:
    import highdicom

    segmentation = segmentationNode.GetSegmentation()
    ids = list(segmentation.GetSegmentIDs())
    masks = np.stack([_onSlices(onGrid(segmentationNode, n, volumeNode), volumeNode, sources) for n in ids], axis=-1)
    written = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=masks,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_description(segmentation.GetSegment(n), k) for k, n in enumerate(ids, start=1)],
        series_instance_uid=highdicom.UID(),
        series_number=1000,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="ToNNO",
        manufacturer_model_name="ToNNO for 3D Slicer",
        software_versions="1",
        device_serial_number="none",
        series_description=segmentationNode.GetName()[:64],
    )
    written.save_as(path)


def _description(segment, number: int):
    """Coded as every segment of the module: a lesion, found by an algorithm that a user steers."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.GetName()[:64],
        segmented_property_category=Code("49755003", "SCT", "Morphologically Altered Structure"),
        segmented_property_type=Code("52988006", "SCT", "Lesion"),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="ToNNO", family=codes.DCM.ArtificialIntelligence, version="1"
        ),
    )


def _onSlices(mask: np.ndarray, volumeNode, sources: list) -> np.ndarray:
    """A mask (Z Y X on the volume's grid) on the slices of its series: N rows columns, in their order."""
    rasToIJK = np.linalg.inv(ijkToNode(volumeNode))
    return np.stack([_slice(mask, rasToIJK @ _LPS_TO_RAS @ _pixelToLPS(source), source) for source in sources])


def _slice(mask: np.ndarray, pixelToIJK: np.ndarray, source) -> np.ndarray:
    rows, columns = np.mgrid[: source.Rows, : source.Columns]
    ijk = np.stack([columns, rows], axis=-1) @ pixelToIJK[:3, :2].T + pixelToIJK[:3, 3]
    i, j, k = np.moveaxis(np.rint(ijk).astype(int), -1, 0)
    z, y, x = mask.shape
    inside = (0 <= i) & (i < x) & (0 <= j) & (j < y) & (0 <= k) & (k < z)
    pixels = np.zeros(inside.shape, dtype=np.uint8)
    pixels[inside] = mask[k[inside], j[inside], i[inside]]
    return pixels


def _pixelToLPS(source) -> np.ndarray:
    """From (column, row, 0, 1) of a slice to LPS mm (DICOM PS3.3, C.7.6.2.1.1)."""
    orientation = np.array(source.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = (float(mm) for mm in source.PixelSpacing)
    matrix = np.eye(4)
    matrix[:3, 0] = orientation[0] * between_columns
    matrix[:3, 1] = orientation[1] * between_rows
    matrix[:3, 3] = source.ImagePositionPatient
    return matrix
