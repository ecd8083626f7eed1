"""The sample in the scene, and its place in Slicer's module Sample Data."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from pathlib import Path
from urllib.request import pathname2url

import slicer
import slicer.util

NAME = "ToNNO sample"
_THUMBNAIL = Path(__file__).resolve().parent.parent / "Resources" / "Icons" / "ToNNOSlicer.png"
_DRAWN_BY = Path(__file__).resolve().parent / "sample.py"
# Nothing is downloaded: Sample Data asks `_addressOf` what to fetch in place of this, and that draws a file first.
_ADDRESS = "tonno-sample:"
_drawn: Path | None = None


def load(_source=None):
    """Draw the sample into a new volume and show it in the slice views. Needs no network.

    Args:
        _source: What Sample Data hands over; not used.

    Returns:
        The volume's node.
    """
    from ToNNOSlicerLib.sample import makeSample

    array, ijkToRAS = makeSample()
    node = slicer.util.addVolumeFromArray(array, ijkToRAS, name=NAME)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.5)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def write(path: str | Path) -> None:
    """Draw the sample into a file.

    Args:
        path: Its name says the format.

    Raises:
        OSError: It cannot be written.
    """
    import vtk

    from ToNNOSlicerLib.sample import makeSample

    array, ijkToRAS = makeSample()
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetAndObserveImageData(vtk.vtkImageData())
    slicer.util.updateVolumeFromArray(node, array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRAS))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(node):
        raise OSError(f"{path}: the sample cannot be written")


def register() -> None:
    """List the sample in the module Sample Data, if that is there.

    Its button calls `load`. ``SampleData.downloadSample``, which knows no drawing, gets a file that was drawn.
    """
    try:
        from SampleData import SampleDataLogic
    except ImportError:
        return
    SampleDataLogic.registerUrlRewriteRule("ToNNO", _addressOf)
    SampleDataLogic.registerCustomSampleDataSource(
        category="ToNNO",
        sampleName=NAME,
        uris=_ADDRESS,
        # Sample Data keeps the file for good; a sample that is drawn in another way needs another name.
        fileNames=f"ToNNO-sample-{hashlib.sha256(_DRAWN_BY.read_bytes()).hexdigest()[:8]}.nrrd",
        nodeNames=NAME,
        thumbnailFileName=str(_THUMBNAIL),
        customDownloader=load,
    )


def _addressOf(address: str) -> str:
    """Draw the sample where it is asked for, and return the file's address; leave other addresses as they are."""
    if address != _ADDRESS:
        return address
    global _drawn
    if _drawn is None or not _drawn.exists():
        folder = Path(tempfile.mkdtemp(prefix="tonno-sample-", dir=slicer.app.temporaryPath))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # Sample Data copies it, and does not say when
        write(folder / "sample.nrrd")
        _drawn = folder / "sample.nrrd"
    return "file:" + pathname2url(str(_drawn))
