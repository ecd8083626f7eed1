"""The report that a colleague can read: one HTML file with everything in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from tonno_core.pictures.colours import COLD_HOT
from tonno_core.pictures.drawing import Scene
from tonno_core.settings import SEGMENTER
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume
from tonno_core.worker.exports import Export, Picture
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.export import SlowWriter, atomicFile, writeHere
from ToNNOSlicerLib.logic.findings import Finding, findingsOf
from ToNNOSlicerLib.logic.geometry import ijkToWorld
from ToNNOSlicerLib.logic.heatmap import inputOf, recordOf
from ToNNOSlicerLib.logic.labelmap import onGrid
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.report_page import HIGHEST, PROFILES, Contents, page, pictureOf
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, minPeakOf, smallestOf, thresholdOf
from ToNNOSlicerLib.logic.summary import counted, headline, highest, identityOf

ENDINGS = (".html", ".htm")
LARGEST_NUMBER_OF_PICTURES = 12


def reportSteps(
    path, heatmapNode, segmentationNode, segmentId: str, write: SlowWriter, colors: str = COLD_HOT
) -> Iterator[float]:
    """Write the report, whole or not at all, a little at each step.

    After the first steps no node is read any more.

    Args:
        path: The HTML file. One that is there is replaced at the end.
        heatmapNode: The heatmap.
        segmentationNode: Holds the result's segment.
        segmentId: The segment's ID.
        write: Writes what takes long: `export.writeHere`, or by the worker (exports.py).
        colors: The heatmap's, by the engine's name.

    Yields:
        The share that is done, 0 to 1. To cancel, close the iterator before its end; nothing is left then.

    Raises:
        ToNNOUserError: If the ending is unknown, the input volume is gone, or the file cannot be written.
    """
    path = Path(path)
    if not path.name.lower().endswith(ENDINGS):
        raise ToNNOUserError(
            _("{name}: the report is an HTML file.").format(name=path.name), _("End the name with .html.")
        )
    volumeNode = inputOf(heatmapNode)
    if volumeNode is None:
        raise ToNNOUserError(
            _("The volume that {name} explains is no longer in the scene.").format(name=heatmapNode.GetName()),
            _("Load it and reconstruct again."),
        )
    with atomicFile(path) as partial:
        yield 0.0
        listed = findingsOf(segmentationNode, segmentId, heatmapNode)
        yield 0.0
        contents = _contents(heatmapNode, segmentationNode, segmentId, listed)
        yield 0.0
        image, window = _copyOf(volumeNode), _window(volumeNode)
        yield 0.0
        mask = onGrid(segmentationNode, segmentId, heatmapNode)
        threshold = thresholdOf(segmentationNode, segmentId)
        isOfSegmenter = recordOf(heatmapNode)["method"] == SEGMENTER
        export = Export(
            scene=Scene(image, _copyOf(heatmapNode), mask, threshold, window, odds=isOfSegmenter, colours=colors),
            pictures=_pictures(heatmapNode, listed),
            profiles=tuple(_profiles(heatmapNode)),
            profiles_file=PROFILES,
            marks=tuple((str(finding.label), finding.peakRAS) for finding in _pictured(listed)),
        )
        yield 0.0
        yield from write(export, partial.parent)
        partial.write_text(page(contents, partial.parent), encoding="utf-8")


def exportReport(path, heatmapNode, segmentationNode, segmentId: str) -> None:
    """Write the report at once, for scripts, which may wait.

    Args:
        path: The HTML file.
        heatmapNode: The heatmap.
        segmentationNode: Holds the result's segment.
        segmentId: The segment's ID.
    """
    for _share in reportSteps(path, heatmapNode, segmentationNode, segmentId, writeHere):
        pass


def _contents(heatmapNode, segmentationNode, segmentId: str, listed: list[Finding]) -> Contents:
    record, segment = recordOf(heatmapNode), (segmentationNode, segmentId)
    threshold = None if isEditedByHand(*segment) else thresholdOf(*segment)
    minPeak = minPeakOf(*segment)
    minPeak = -math.inf if minPeak is None else minPeak
    return Contents(
        identity=identityOf(heatmapNode, segmentationNode, segmentId),
        record={name: value for name, value in record.items() if name not in ("profiles", "histogram")},
        findings=tuple(listed),
        headline=headline(listed, heatmapNode, threshold, smallestOf(*segment) or 0.0, minPeak),
        written=datetime.now().isoformat(timespec="minutes"),
        pictured=tuple(finding.label for finding in _pictured(listed)),
    )


def _copyOf(volumeNode) -> Volume:
    """Copy the voxels as they are now: the node may change while the files are written."""
    return Volume(np.array(slicer.util.arrayFromVolume(volumeNode), dtype=np.float32), ijkToWorld(volumeNode))


def _window(volumeNode) -> tuple[float, float] | None:
    """Return the values that are black and white in the slice views, so that the report shows the image as read."""
    display = volumeNode.GetDisplayNode()
    if display is None or not display.IsA("vtkMRMLScalarVolumeDisplayNode") or display.GetWindow() <= 0:
        return None
    return display.GetWindowLevelMin(), display.GetWindowLevelMax()


def _pictured(listed: list[Finding]) -> list[Finding]:
    """Return the findings that have a picture: the highest of those that count."""
    return counted(listed)[:LARGEST_NUMBER_OF_PICTURES]


def _pictures(heatmapNode, listed: list[Finding]) -> tuple[Picture, ...]:
    """Choose the pictures: the axial plane goes through the diameters, the other two through the peak."""
    pictures = tuple(
        Picture(
            pictureOf(finding.label),
            (*finding.peakRAS[:2], finding.longestRAS[0][2]),
            (finding.longestRAS, finding.perpendicularRAS),
        )
        for finding in _pictured(listed)
    )
    if pictures:
        return pictures
    peak = highest(heatmapNode)
    return () if peak is None else (Picture(HIGHEST, peak.ras),)


def _profiles(heatmapNode) -> list[Profile]:
    """Return the profiles along the patient's axes, where they were kept."""
    kept = {axis: profileAlong(heatmapNode, normal) for axis, normal in zip("RAS", np.eye(3), strict=True)}
    return [Profile(axis, p.positionsMm, p.logits) for axis, p in kept.items() if p is not None and p.angleDeg < 1]
