"""Results as files. A file appears whole or not at all; a file that was there before stays until then.

Files lie in the frame of the input volume's own file: transforms above the volume in the scene are left out, so
that a mask fits the image from which it was made.
"""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from tonno_core.errors import TonnoError
from ToNNOSlicerLib import slow_files
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.geometry import ijkToNode, volumeOf
from ToNNOSlicerLib.logic.labelmap import cropOf
from ToNNOSlicerLib.logic.nifti import checkTilt, writeLabelmap
from ToNNOSlicerLib.logic.notes import lossNotes
from ToNNOSlicerLib.logic.segmentation import noteEditing
from ToNNOSlicerLib.logic.stl import writeSurface
from ToNNOSlicerLib.slow_files import SlowFiles

SEGMENTATION_ENDINGS = (".seg.nrrd", ".nii.gz", ".nii", ".stl", ".dcm")
HEATMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii")
SlowWriter = Callable[[SlowFiles, Path], Iterator[float]]
_COLUMNS = (
    "label", "volume_mm3", "peak", "mean", "extent_i_mm", "extent_j_mm", "extent_k_mm",
    "centroid_r_mm", "centroid_a_mm", "centroid_s_mm", "peak_r_mm", "peak_a_mm", "peak_s_mm",
)  # fmt: skip


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
            return _writeSlicers(segmentationNode, partial)
        if name.endswith((".nii.gz", ".nii")):
            return writeLabelmap(segmentationNode, partial)
        if name.endswith(".stl"):
            return writeSurface(segmentationNode, partial)
        if name.endswith(".dcm"):
            from ToNNOSlicerLib.logic.dicom_seg import writeDicomSeg

            return writeDicomSeg(segmentationNode, partial, dicomFile)
        raise _wrongEnding(path, SEGMENTATION_ENDINGS)


def heatmapSteps(heatmapNode, path, write: SlowWriter) -> Iterator[float]:
    """The heatmap as .nrrd, .nii.gz or .nii, float32, on its own grid, a little at each step.

    Yields the share that is done, 0 to 1; who closes the iterator before its end has cancelled, and nothing is left.
    write: who writes what takes long. Raises ToNNOUserError for another ending and where the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(HEATMAP_ENDINGS):
        raise _wrongEnding(path, HEATMAP_ENDINGS)
    checkTilt(path, ijkToNode(heatmapNode), ".nrrd")
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


def exportFindings(findings: list[Finding], path) -> None:
    """One row for each finding, numbers as exact as they are known; points in RAS mm of the scene's world."""
    with wholeFile(Path(path)) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for f in findings:
            writer.writerow([f.label, f.volumeMm3, f.peak, f.mean, *f.extentMm, *f.centroidRAS, *f.peakRAS])


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
    """Cause and next click where the engine's writing failed: its messages end with what to do, after a semicolon."""
    cause, _semicolon, advice = str(error).rstrip(".").partition("; ")
    advice = advice or _("check the folder and the space on the disk, or choose another place")
    return _("The files cannot be written: {reason}.").format(reason=cause), f"{advice[0].upper()}{advice[1:]}."


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


def _writeSlicers(segmentationNode, path: Path) -> list[str]:
    """By a storage node of its own: the node's, which knows where the scene is saved, stays as it is. Returns notes.

    The file is read back: on a full disk it may be cut off although the writer reports success (and Slicer's reader
    ends the application over such a file); segments on different grids are resampled to one.
    """
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(1)
    held = _heldMm3(path) if storage.WriteData(segmentationNode) and path.exists() else None
    if held is None:
        raise OSError(None, _("what was written cannot be read again; the disk may be full"))
    return lossNotes(segmentationNode, held)


def _heldMm3(path: Path) -> dict[str, float] | None:
    """The volume of each segment, by its ID, in a .seg.nrrd file, by ITK; None where the file is cut off."""
    import SimpleITK as sitk

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError:
        return None
    layers = sitk.GetArrayFromImage(image).reshape(*image.GetSize()[::-1], -1)
    voxelMm3 = np.prod(image.GetSpacing()) * abs(np.linalg.det(np.reshape(image.GetDirection(), (3, 3))))
    held = {}
    for n in range(sum(key.endswith("_LabelValue") for key in image.GetMetaDataKeys())):
        value, layer = (int(image.GetMetaData(f"Segment{n}_{name}")) for name in ("LabelValue", "Layer"))
        held[image.GetMetaData(f"Segment{n}_ID")] = float(np.count_nonzero(layers[..., layer] == value) * voxelMm3)
    return held


def _wrongEnding(path: Path, endings: tuple[str, ...]) -> ToNNOUserError:
    return ToNNOUserError(
        _("{name}: files of this kind are not written.").format(name=path.name),
        _("End the name with {endings}.").format(endings=_(" or ").join(endings)),
    )
