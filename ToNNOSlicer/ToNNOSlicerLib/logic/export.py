"""Results as files. A file appears whole or not at all; a file that was there before stays until then.

Files lie in the frame of the input volume's own file: transforms above the volume in the scene are left out, so
that a mask fits the image from which it was made.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file
from tonno_core.volume.volume import Volume
from tonno_core.worker.exports import Export
from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.geometry import formsOf, ijkToNode, volumeOf
from ToNNOSlicerLib.logic.heatmap import inputOf
from ToNNOSlicerLib.logic.labelmap import cropOf
from ToNNOSlicerLib.logic.nifti import checkTilt, writeLabelmap
from ToNNOSlicerLib.logic.scene import removeNode
from ToNNOSlicerLib.logic.seg_nrrd import writeSegNrrd
from ToNNOSlicerLib.logic.segmentation import noteEditing, visibleSegments
from ToNNOSlicerLib.logic.stl import writeSurface
from ToNNOSlicerLib.logic.summary import Identity
from ToNNOSlicerLib.logic.verdicts import IN_TABLES

SEGMENTATION_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".stl", ".dcm")
HEATMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii")
FINDINGS_ENDINGS = (".csv",)
SlowWriter = Callable[[Export, Path], Iterator[float]]
_COLUMNS = (
    "label", "volume_mm3", "peak", "mean", "extent_i_mm", "extent_j_mm", "extent_k_mm",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "peak_r_mm", "peak_a_mm", "peak_s_mm",
    "ml", "longest_mm", "perpendicular_mm", "side", "confidence", "verdict",
)  # fmt: skip
_IDENTITY = ("volume", "model", "method", "quality", "threshold", "stopped")


def exportSegmentation(segmentationNode, path, dicomFile: Callable[[str], str | None] | None = None) -> list[str]:
    """Write all segments of a node in the format of the file's ending; where there is room, it says which result it is.

    .seg.nrrd: Slicer's format. .nii.gz, .nii: labels 1, 2, ... on the reference grid; where segments overlap, the later
    one wins. .stl: a surface. .dcm: DICOM SEG.

    Args:
        segmentationNode: The segmentation; the module need not have made it.
        path: The file, which appears whole or not at all; an old one stays until then.
        dicomFile: See `writeDicomSeg`.

    Returns:
        How the file differs from the scene, in sentences.

    Raises:
        ToNNOUserError: If the ending is unknown, there is nothing to write, the format cannot hold it, or the file
            cannot be written.
    """
    path = Path(path)
    _checkContents(segmentationNode)
    noteEditing(segmentationNode)
    name = path.name.lower()
    with atomicFile(path) as partial:
        if name.endswith(".seg.nrrd"):
            return writeSegNrrd(segmentationNode, partial)
        if name.endswith((".nii.gz", ".nii")):
            return writeLabelmap(segmentationNode, partial)
        if name.endswith(".stl"):
            return writeSurface(segmentationNode, partial)
        if name.endswith(".dcm"):
            from ToNNOSlicerLib.logic.dicom_seg import writeDicomSeg

            return writeDicomSeg(segmentationNode, partial, dicomFile)
        raise _wrongEnding(path, SEGMENTATION_ENDINGS)


@contextmanager
def shownAlone(segmentationNode) -> Iterator[Any]:
    """Leave out hidden segments, so that what is seen is written.

    Args:
        segmentationNode: The segmentation.

    Yields:
        The node, or a copy without its hidden segments, which goes at the end.

    Raises:
        ToNNOUserError: If no segment is shown.
    """
    segmentation, shown = segmentationNode.GetSegmentation(), visibleSegments(segmentationNode)
    if len(shown) == segmentation.GetNumberOfSegments():
        yield segmentationNode
        return
    if not shown:
        raise ToNNOUserError(
            _("All segments of {name} are hidden.").format(name=segmentationNode.GetName()),
            _("Show what is to be written."),
        )
    copy = segmentationNode.GetScene().AddNode(slicer.vtkMRMLSegmentationNode())
    try:
        copy.Copy(segmentationNode)
        copy.SetSaveWithScene(False)
        for segmentId in segmentation.GetSegmentIDs():
            if segmentId not in shown:
                copy.GetSegmentation().RemoveSegment(segmentId)
        yield copy
    finally:
        removeNode(copy)


def heatmapSteps(heatmapNode, path, write: SlowWriter) -> Iterator[float]:
    """Write a heatmap, float32 on its grid, a little at each step.

    To cancel, close the iterator before its end; nothing is left then.

    Args:
        heatmapNode: The heatmap.
        path: The file: .nrrd, .nii.gz or .nii.
        write: Writes what takes long.

    Yields:
        The share that is done, 0 to 1.

    Raises:
        ToNNOUserError: If the ending is unknown, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(HEATMAP_ENDINGS):
        raise _wrongEnding(path, HEATMAP_ENDINGS)
    checkTilt(path, ijkToNode(heatmapNode), ".nrrd")
    array, place = volumeOf(heatmapNode).array.copy(), ijkToNode(heatmapNode)  # the node may change meanwhile
    heatmap = Volume(array, place, formsOf(inputOf(heatmapNode), place, array.shape[::-1]))
    with atomicFile(path) as partial:
        yield from write(Export(heatmap, partial.name), partial.parent)


def exportHeatmap(heatmapNode, path) -> None:
    """Write a heatmap at once, for scripts, which may wait.

    Args:
        heatmapNode: The heatmap.
        path: The file: .nrrd, .nii.gz or .nii.
    """
    for _share in heatmapSteps(heatmapNode, path, writeHere):
        pass


def writeHere(export: Export, folder: Path) -> Iterator[float]:
    """Write an export's files in this process, for scripts, which may wait.

    Args:
        export: What to write.
        folder: Where.

    Yields:
        The share that is done.
    """
    for count, _name in enumerate(export.write(folder), start=1):
        yield count / len(export.files)


def exportFindings(findings: list[Finding], path, identity: Identity | None = None) -> None:
    """Write a row for each finding, rejected ones too; each row also says which result it belongs to.

    Numbers are as exact as they are known; points in RAS mm of the scene's world.

    Args:
        findings: The findings, in the order of the rows.
        path: The CSV file, which appears whole or not at all.
        identity: What the result is; None: its columns stay empty.

    Raises:
        ToNNOUserError: If the ending is another, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(FINDINGS_ENDINGS):
        raise _wrongEnding(path, FINDINGS_ENDINGS)
    result = [getattr(identity, name, "") for name in _IDENTITY]
    with atomicFile(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS + _IDENTITY)
        for f in findings:
            writer.writerow([
                f.label, f.volumeMm3, f.peak, f.mean, *f.extentMm, *f.centroidRAS, *f.peakRAS,
                f.ml, f.longestMm, f.perpendicularMm, f.side, f.confidence, IN_TABLES[f.verdict], *result,
            ])  # fmt: skip


@contextmanager
def atomicFile(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all, as `atomic_file` does.

    Args:
        path: The file.

    Yields:
        A temporary path to write to.

    Raises:
        ToNNOUserError: The file cannot be written.
    """
    try:
        with atomic_file(path) as partial:
            yield partial
    except TonnoError as error:
        if not isinstance(error.__cause__, OSError):
            raise ToNNOUserError(*cannotWrite(error)) from error
        reason = error.__cause__.strerror or str(error.__cause__)
        raise ToNNOUserError(
            _("{path} cannot be written: {reason}.").format(path=path, reason=reason.rstrip(".")),
            _("Check the folder and the space on the disk, or choose another place."),
        ) from error


def cannotWrite(error: object) -> tuple[str, str]:
    """Split the engine's message of a failed writing, which ends with what to do after a semicolon.

    Args:
        error: The engine's error, or its text.

    Returns:
        The cause, and the next step.
    """
    cause, _semicolon, advice = str(error).rstrip(".").partition("; ")
    advice = forPanel(advice) if advice else _("Check the folder and the space on the disk, or choose another place.")
    return _("The files cannot be written: {reason}.").format(reason=forPanel(cause).rstrip(".")), advice


def _checkContents(segmentationNode) -> None:
    name = segmentationNode.GetName()
    crops = [cropOf(segmentationNode, n) for n in segmentationNode.GetSegmentation().GetSegmentIDs()]
    if any(crop is None for crop in crops):
        raise ToNNOUserError(
            _("{name} is made of surfaces, not of voxels.").format(name=name),
            _("Make it binary labelmap in the Segmentations module."),
        )
    if not any(crop.mask.size for crop in crops):
        raise ToNNOUserError(
            _("The segmentation {name} is empty.").format(name=name), _("Lower the threshold until it holds voxels.")
        )


def _wrongEnding(path: Path, endings: tuple[str, ...]) -> ToNNOUserError:
    return ToNNOUserError(
        _("{name}: files of this kind are not written.").format(name=path.name),
        _("End the name with one of these: {endings}.").format(endings=", ".join(endings)),
    )
