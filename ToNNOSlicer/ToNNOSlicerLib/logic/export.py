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

import numpy as np
import slicer
import slicer.util
from slicer.i18n import tr as _

from tonno_core.errors import TonnoError
from ToNNOSlicerLib import slow_files
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.geometry import ijkToNode, toVTK, volumeOf, vtkImageOf
from ToNNOSlicerLib.logic.labelmap import SURFACE, cropOf, onReference, referenceGrid
from ToNNOSlicerLib.slow_files import SlowFiles

SEGMENTATION_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".stl", ".dcm")
HEATMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii")
SlowWriter = Callable[[SlowFiles, Path], Iterator[float]]
_COLUMNS = (
    "label", "volume_mm3", "peak", "mean", "extent_i_mm", "extent_j_mm", "extent_k_mm",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "peak_r_mm", "peak_a_mm", "peak_s_mm",
    "ml", "longest_mm", "perpendicular_mm", "side", "confidence", "verdict",
)  # fmt: skip
_IDENTITY = ("volume", "model", "method", "quality", "threshold", "stopped")


def exportSegmentation(segmentationNode, path, dicomFile: Callable[[str], str | None] | None = None) -> None:
    """All segments of a node, by the ending: .seg.nrrd, .nii.gz, .nii (labels 1, 2, ... on the reference grid; of
    segments that overlap the later one wins), .stl (one surface), .dcm (DICOM SEG).

    Raises ToNNOUserError for another ending, an empty segmentation, or where the file cannot be written.
    """
    path = Path(path)
    _checkContents(segmentationNode)
    name = path.name.lower()
    with wholeFile(path) as partial:
        if name.endswith(".seg.nrrd"):
            _write(slicer.vtkMRMLSegmentationStorageNode(), segmentationNode, partial)
        elif name.endswith((".nii.gz", ".nii")):
            _writeLabelmap(segmentationNode, partial)
        elif name.endswith(".stl"):
            _writeSurface(segmentationNode, partial)
        elif name.endswith(".dcm"):
            from ToNNOSlicerLib.logic.dicom_seg import writeDicomSeg

            writeDicomSeg(segmentationNode, partial, dicomFile)
        else:
            raise _wrongEnding(path, SEGMENTATION_ENDINGS)


def heatmapSteps(heatmapNode, path, write: SlowWriter) -> Iterator[float]:
    """The heatmap as .nrrd, .nii.gz or .nii, float32, on its own grid, a little at each step.

    Yields the share that is done, 0 to 1; who closes the iterator before its end has cancelled, and nothing is left.
    write: who writes what takes long. Raises ToNNOUserError for another ending and where the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(HEATMAP_ENDINGS):
        raise _wrongEnding(path, HEATMAP_ENDINGS)
    heatmap = volumeOf(heatmapNode).array.copy()  # the node may change meanwhile
    with wholeFile(path) as partial:
        yield from write(SlowFiles(heatmap, ijkToNode(heatmapNode), partial.name), partial.parent)


def exportHeatmap(heatmapNode, path) -> None:
    """The same at once."""
    for _share in heatmapSteps(heatmapNode, path, writeHere):
        pass


def writeHere(files: SlowFiles, place: Path) -> Iterator[float]:
    """Write slow files in this process: for scripts, which may wait."""
    for count, _name in enumerate(slow_files.write(files, place), start=1):
        yield count / len(files.names)


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


def cannotWrite(error: TonnoError) -> tuple[str, str]:
    """Cause and next click where the engine's own writing failed."""
    return (
        _("The files cannot be written: {reason}.").format(reason=str(error).rstrip(".")),
        _("Check the folder and the space on the disk, or choose another place."),
    )


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


def _write(storage, node, path: Path) -> None:
    """By a storage node of its own: the node's, which knows where the scene is saved, stays as it is.

    On a full disk some of the writers below cut the file off and report success, so it is read back.
    """
    storage.SetFileName(str(path))
    storage.SetUseCompression(1)
    if not (storage.WriteData(node) and path.exists() and _isWhole(path, node)):
        raise OSError(None, _("what was written cannot be read again; the disk may be full"))


def _isWhole(path: Path, node) -> bool:
    import SimpleITK as sitk

    try:
        read = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    except RuntimeError:
        return False
    if node.IsA("vtkMRMLVolumeNode"):
        return np.array_equal(read, slicer.util.arrayFromVolume(node))
    return bool(read.any())  # ITK refuses an NRRD file that was cut off; Slicer may have resampled some segment


def _writeLabelmap(segmentationNode, path: Path) -> None:
    reference = referenceGrid(segmentationNode)
    if reference is None:
        raise ToNNOUserError(
            _("The segmentation {name} has no reference geometry.").format(name=segmentationNode.GetName()),
            _("Set it in the Segment Editor (Source volume geometry), or export .seg.nrrd."),
        )
    size, gridToNode = reference
    ids = segmentationNode.GetSegmentation().GetSegmentIDs()
    labels = np.zeros(size[::-1], dtype=np.int16)
    for label, segmentId in enumerate(ids, start=1):
        labels[onReference(segmentationNode, segmentId) != 0] = label
    labelmap = slicer.vtkMRMLLabelMapVolumeNode()
    labelmap.SetAndObserveImageData(vtkImageOf(labels))
    labelmap.SetIJKToRASMatrix(toVTK(gridToNode))
    _write(slicer.vtkMRMLVolumeArchetypeStorageNode(), labelmap, path)


def _writeSurface(segmentationNode, path: Path) -> None:
    """All segments in one STL file, mm, LPS as medical STL files are, and said so in its header."""
    from vtk import vtkAppendPolyData, vtkSTLWriter, vtkTransform, vtkTransformPolyDataFilter, vtkTriangleFilter

    append = vtkAppendPolyData()
    for segmentId in segmentationNode.GetSegmentation().GetSegmentIDs():
        append.AddInputData(_surfaceOf(segmentationNode, segmentId))
    lps = vtkTransform()
    lps.Scale(-1.0, -1.0, 1.0)  # a half turn about S: triangles keep their outer side
    turn = vtkTransformPolyDataFilter()
    turn.SetInputConnection(append.GetOutputPort())
    turn.SetTransform(lps)
    triangles = vtkTriangleFilter()
    triangles.SetInputConnection(turn.GetOutputPort())
    writer = vtkSTLWriter()
    writer.SetFileName(str(path))
    writer.SetFileTypeToBinary()
    writer.SetHeader("ToNNO. SPACE=LPS")
    writer.SetInputConnection(triangles.GetOutputPort())
    if not writer.Write() or writer.GetErrorCode() or not path.exists():
        raise OSError(None, _("the surface could not be written"))


def _surfaceOf(segmentationNode, segmentId: str):
    """A segment's closed surface in the node's frame; made for this, if it is not shown in 3D."""
    segmentation = segmentationNode.GetSegmentation()
    shown = segmentation.GetSegment(segmentId).GetRepresentation(SURFACE)
    if shown is not None:
        return shown
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(segmentation.GetSourceRepresentationName())
    alone.CopySegmentFromSegmentation(segmentation, segmentId)
    if not alone.CreateRepresentation(SURFACE):
        raise OSError(None, _("the surface could not be made"))
    return alone.GetSegment(segmentId).GetRepresentation(SURFACE)


def _wrongEnding(path: Path, endings: tuple[str, ...]) -> ToNNOUserError:
    return ToNNOUserError(
        _("{name}: files of this kind are not written.").format(name=path.name),
        _("End the name with {endings}.").format(endings=_(" or ").join(endings)),
    )
