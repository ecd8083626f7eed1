"""Whether two results may be compared: were they made alike, and do their scans lie one on the other. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer.util
import vtk
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToWorld
from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, recordOf
from ToNNOSlicerLib.logic.segmentation import SMALLEST, isEditedByHand, thresholdOf
from ToNNOSlicerLib.logic.timepoint import TimePoint, scanOf

# Centers of two scans' foreground, where both see it, that are farther apart are not registered: a head's own center
# is the same to a few mm in two scans that are.
SHIFT_MM = 10.0
# Points along each axis of the space that two scans share.
_POINTS = 32
# A voxel so many times as large is another measure of size.
_OTHER_VOXEL = 2.0
_SCALE = 0.01


def notes(here: tuple, there: tuple, present: TimePoint, prior: TimePoint) -> tuple[str, ...]:
    """What may mislead who compares two results, a line each.

    here, there: (heatmapNode, segmentationNode, segmentId) of now and before. Raises ToNNOUserError where there is
    nothing to compare: the same result twice, or scans that share no space.
    """
    if here[0] is there[0] and here[1:] == there[1:]:
        raise ToNNOUserError(
            _("Both time points are the same result."), _("Choose the heatmap of another scan as the prior one.")
        )
    return (
        *_aboutMaking(recordOf(here[0]), recordOf(there[0])),
        *_aboutSegments(here[1:], there[1:]),
        *_aboutScans(here[0], there[0], present, prior),
        *_aboutPlace(here[0], there[0]),
    )


def _aboutMaking(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    facts = (
        (_("methods"), madeBy(now), madeBy(before)),
        (_("classes"), now.get("className"), before.get("className")),
        (_("models"), _modelOf(now), _modelOf(before)),
        (_("numbers of directions"), now.get("directions"), before.get("directions")),
        (_("qualities"), now.get("quality"), before.get("quality")),
    )
    text = _("Made with different {what}: {now} now, {before} before.")
    lines = [
        text.format(what=what, now=_modelName(a), before=_modelName(b))
        for what, a, b in facts
        if None not in (a, b) and a != b
    ]
    if now.get("stopped"):
        lines.append(_("The present run was stopped before its end."))
    if before.get("stopped"):
        lines.append(_("The prior run was stopped before its end."))
    return lines


def _modelOf(record: dict[str, Any]) -> tuple | None:
    """What tells models apart, and the name; None where it is not known."""
    model = record.get("model")
    return (model.get("sha256"), model.get("name") or _("a model")) if isinstance(model, dict) else None


def _modelName(fact) -> str:
    if not isinstance(fact, tuple):
        return str(fact)
    sha256, name = fact
    return f"{name} ({sha256[:8]})" if sha256 else name


def _aboutSegments(now: tuple, before: tuple) -> list[str]:
    lines = []
    facts = ((_("thresholds"), thresholdOf), (_("smallest volumes"), smallestMm3))
    for what, read in facts:
        a, b = read(*now), read(*before)
        # A file keeps all digits; two runs of one model have the same number, two sliders hardly ever.
        if None not in (a, b) and not np.isclose(a, b, rtol=1e-6, atol=0):
            lines.append(_("Segmented with different {what}: {a:.4g} now, {b:.4g} before.").format(what=what, a=a, b=b))
    for segment, text in ((now, _("The present segment")), (before, _("The prior segment"))):
        if isEditedByHand(*segment):
            lines.append(_("{segment} was changed by hand.").format(segment=text))
    return lines


def smallestMm3(segmentationNode, segmentId: str) -> float | None:
    """The smallest volume of a component that a segment was written with, or None."""
    value = vtk.reference("")
    known = segmentationNode.GetSegmentation().GetSegment(segmentId).GetTag(SMALLEST, value)
    return float(str(value)) if known else None


def _aboutScans(heatmapNode, priorHeatmapNode, present: TimePoint, prior: TimePoint) -> list[str]:
    lines = []
    if inputOf(heatmapNode) is not None and inputOf(heatmapNode) is inputOf(priorHeatmapNode):
        lines.append(_("Both results are of the same scan."))
    for time, text in ((present, _("the present scan")), (prior, _("the prior scan"))):
        if abs(time.scale - 1) > _SCALE:
            line = _("A transform scales {scan} by {percent:+.0f} %; sizes are the scan's own.")
            lines.append(line.format(scan=text, percent=100 * (time.scale - 1)))
        if time.rasToBox is not None:
            lines.append(_("In {scan} findings were looked for in a region only.").format(scan=text))
    sizes = present.voxelMm3, prior.voxelMm3
    if max(sizes) > _OTHER_VOXEL * min(sizes):
        line = _("Voxels are {a:.3g} mm3 now, {b:.3g} mm3 before: sizes of small findings differ by that alone.")
        lines.append(line.format(a=sizes[0], b=sizes[1]))
    return lines


def _aboutPlace(heatmapNode, priorHeatmapNode) -> list[str]:
    """Whether the scans lie one on the other, by the centers of their foreground where both see it."""
    scan, priorScan = scanOf(heatmapNode), scanOf(priorHeatmapNode)
    points = _sharedPoints(scan, priorScan)
    advice = _("Register the prior scan to the present one and put it under that transform.")
    if not points.size:
        raise ToNNOUserError(
            _("{prior} and {scan} share no space.").format(prior=priorScan.GetName(), scan=scan.GetName()), advice
        )
    centers = [_foregroundCenter(node, points) for node in (scan, priorScan)]
    apart = float(np.linalg.norm(centers[0] - centers[1]))
    if apart <= SHIFT_MM:
        return []
    return [_("The two scans look shifted by {mm:.0f} mm. {advice}").format(mm=apart, advice=advice)]


def _sharedPoints(scan, priorScan) -> np.ndarray:
    """3 x N, in the world, evenly spread over what both grids hold."""
    boxes = [_corners(node) for node in (scan, priorScan)]
    low = np.max([corners.min(axis=1) for corners in boxes], axis=0)
    high = np.min([corners.max(axis=1) for corners in boxes], axis=0)
    if (low >= high).any():
        return np.empty((3, 0))
    axes = [np.linspace(a, b, _POINTS) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return points[:, _inside(scan, points) & _inside(priorScan, points)]


def _foregroundCenter(node, points: np.ndarray) -> np.ndarray:
    """The mean (3) of the points (3 x N) where a scan is brighter than on average: of tissue, not of air."""
    i, j, k = _voxelsAt(node, points)
    values = np.asarray(slicer.util.arrayFromVolume(node)[k, j, i], dtype=np.float64)
    bright = values > values.mean()
    return points[:, bright if bright.any() else slice(None)].mean(axis=1)


def _inside(node, points: np.ndarray) -> np.ndarray:
    ijk = _voxelsAt(node, points)
    return ((ijk >= 0) & (ijk < np.array(node.GetImageData().GetDimensions())[:, np.newaxis])).all(axis=0)


def _voxelsAt(node, points: np.ndarray) -> np.ndarray:
    rasToIJK = np.linalg.inv(ijkToWorld(node))
    return np.rint(rasToIJK[:3, :3] @ points + rasToIJK[:3, 3:]).astype(np.int64)


def _corners(node) -> np.ndarray:
    """3 x 8, the outermost voxels' centers in the world."""
    ends = [(0, n - 1) for n in node.GetImageData().GetDimensions()]
    ijk = np.stack(np.meshgrid(*ends)).reshape(3, -1)
    ijkToRAS = ijkToWorld(node)
    return ijkToRAS[:3, :3] @ ijk + ijkToRAS[:3, 3:]
