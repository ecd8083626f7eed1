"""Results as files. A file appears whole or not at all; a file that was there before stays until then.

Files lie in the frame of the input volume's own file: transforms above the volume in the scene are left out, so
that a mask fits the image from which it was made.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import Volume
from tonno_core.worker.exports import Export
from ToNNOSlicerLib.labels import forPanel
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.geometry import ijkToNode, volumeOf
from ToNNOSlicerLib.logic.hierarchy import takeOut
from ToNNOSlicerLib.logic.labelmap import cropOf
from ToNNOSlicerLib.logic.nifti import checkTilt, writeLabelmap
from ToNNOSlicerLib.logic.seg_nrrd import writeSegNrrd
from ToNNOSlicerLib.logic.segmentation import noteEditing, visibleSegments
from ToNNOSlicerLib.logic.stl import writeSurface

SEGMENTATION_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".stl", ".dcm")
HEATMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii")
SlowWriter = Callable[[Export, Path], Iterator[float]]
_COLUMNS = (
    "label", "volume_mm3", "peak", "mean", "extent_i_mm", "extent_j_mm", "extent_k_mm",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "peak_r_mm", "peak_a_mm", "peak_s_mm",
    "ml", "longest_mm", "perpendicular_mm", "side", "confidence", "verdict",
)  # fmt: skip
_IDENTITY = ("volume", "model", "method", "quality", "threshold", "stopped")


def exportSegmentation(segmentationNode, path, dicomFile: Callable[[str], str | None] | None = None) -> list[str]:
    """Write all segments of a node, by the ending, and say of which result they are where the format has room for that.

    .seg.nrrd: Slicer's own. .nii.gz, .nii: labels 1, 2, ... on the reference grid; of segments that overlap the later
    one wins. .stl: one surface. .dcm: DICOM SEG.

    Args:
        segmentationNode: its segments may be anybody's.
        path: of the file, which is there as a whole or not at all; an old one stays until then.
        dicomFile: see `writeDicomSeg`.

    Returns:
        What to know about the file, in sentences: what it holds otherwise than the scene.

    Raises:
        ToNNOUserError: another ending, an empty segmentation, what the format cannot hold, or a disk that fails.
    """
    path = Path(path)
    _checkContents(segmentationNode)
    noteEditing(segmentationNode)
    name = path.name.lower()
    with wholeFile(path) as partial:
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
    """Yield the node, or a copy without its hidden segments: what is seen is what is written.

    Raises ToNNOUserError where no segment is shown.
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
    scene = segmentationNode.GetScene()
    copy = scene.AddNode(slicer.vtkMRMLSegmentationNode())
    try:
        copy.Copy(segmentationNode)
        copy.SetSaveWithScene(False)
        for segmentId in segmentation.GetSegmentIDs():
            if segmentId not in shown:
                copy.GetSegmentation().RemoveSegment(segmentId)
        yield copy
    finally:
        takeOut(copy)
        scene.RemoveNode(copy)


def heatmapSteps(heatmapNode, path, write: SlowWriter) -> Iterator[float]:
    """The heatmap as .nrrd, .nii.gz or .nii, float32, on its own grid, a little at each step.

    Yields the share that is done, 0 to 1; who closes the iterator before its end has cancelled, and nothing is left.
    write: who writes what takes long. Raises ToNNOUserError for another ending and where the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(HEATMAP_ENDINGS):
        raise _wrongEnding(path, HEATMAP_ENDINGS)
    checkTilt(path, ijkToNode(heatmapNode), ".nrrd")
    heatmap = Volume(volumeOf(heatmapNode).array.copy(), ijkToNode(heatmapNode))  # the node may change meanwhile
    with wholeFile(path) as partial:
        yield from write(Export(heatmap, partial.name), partial.parent)


def exportHeatmap(heatmapNode, path) -> None:
    """The same at once."""
    for _share in heatmapSteps(heatmapNode, path, writeHere):
        pass


def writeHere(export: Export, folder: Path) -> Iterator[float]:
    """Write an export's files in this process, for scripts, which may wait; yields the share that is done."""
    for count, _name in enumerate(export.write(folder), start=1):
        yield count / len(export.files)


def exportFindings(findings: list[Finding], path, identity: Mapping[str, str] | None = None) -> None:
    """Write one row for each finding, rejected ones too, and in each of what result it is.

    Numbers are as exact as they are known; points in RAS mm of the scene's world.

    Args:
        path: Of the CSV file, which appears whole or not at all.
        identity: What the result is (`summary.identityOf`); columns of which nothing is known stay empty.

    Raises:
        ToNNOUserError: Where the file cannot be written.
    """
    result = [(identity or {}).get(name, "") for name in _IDENTITY]
    with wholeFile(Path(path)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS + _IDENTITY)
        for f in findings:
            writer.writerow([
                f.label, f.volumeMm3, f.peak, f.mean, *f.extentMm, *f.centroidRAS, *f.peakRAS,
                f.ml, f.longestMm, f.perpendicularMm, f.side, f.confidence, f.verdict, *result,
            ])  # fmt: skip


@contextmanager
def wholeFile(path: Path) -> Iterator[Path]:
    """Yield a name of the same ending in a folder of its own beside the path; the file moves to the path at the end.

    Raises ToNNOUserError where that fails; nothing is left then, and the old file is as it was.
    """
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".tonno-partial-", dir=path.parent))
        yield folder / path.name
        (folder / path.name).replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ToNNOUserError(
            _("{path} cannot be written: {reason}.").format(path=path, reason=reason.rstrip(".")),
            _("Check the folder and the space on the disk, or choose another place."),
        ) from error
    except TonnoError as error:
        raise ToNNOUserError(*cannotWrite(error)) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def cannotWrite(error: object) -> tuple[str, str]:
    """Cause and next click where the engine's writing failed: its messages end with what to do, after a semicolon."""
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
        _("End the name with {endings}.").format(endings=_(" or ").join(endings)),
    )
