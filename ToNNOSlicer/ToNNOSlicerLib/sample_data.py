"""The sample in the scene, and its place in Slicer's module Sample Data."""

from __future__ import annotations

from pathlib import Path

import slicer
import slicer.util

NAME = "ToNNO sample"
_THUMBNAIL = Path(__file__).resolve().parent.parent / "Resources" / "Icons" / "ToNNOSlicer.png"


def load(_source=None):
    """Draw the sample into a new volume, show it in the slice views, and return its node. Needs no network."""
    from ToNNOSlicerLib.sample import makeSample

    array, ijkToRAS = makeSample()
    node = slicer.util.addVolumeFromArray(array, ijkToRAS, name=NAME)
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevelMinMax(0.0, 1.5)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def register() -> None:
    """List the sample in the module Sample Data, whose button then calls `load`. Without it nothing happens."""
    try:
        from SampleData import SampleDataLogic
    except ImportError:
        return
    # There is no file and no address: the sample is drawn.
    SampleDataLogic.registerCustomSampleDataSource(
        category="ToNNO",
        sampleName=NAME,
        uris="",
        fileNames="",
        nodeNames=NAME,
        thumbnailFileName=str(_THUMBNAIL),
        customDownloader=load,
    )
