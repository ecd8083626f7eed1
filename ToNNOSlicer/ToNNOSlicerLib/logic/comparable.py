"""Caveats of a comparison: whether two results were made alike, and whether their scans lie one on the other."""

from __future__ import annotations

import math

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import corners, ijkToWorld
from ToNNOSlicerLib.logic.heatmap import madeBy
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.logic.segmentation import minPeakOf, smallestOf, thresholdOf
from ToNNOSlicerLib.logic.timepoint import TimePoint, scanOf

# Two scans are called shifted where the centers of what both see of the foreground are farther apart. In registered
# scans of a head they agree to a few mm.
SHIFT_MM = 10.0
# Points along each axis of the space that two scans share.
_POINTS = 32
# Voxels that differ in volume by more than this factor measure sizes differently.
_OTHER_VOXEL = 2.0
_SCALE = 0.01


def notes(present: Result, prior: Result, here: TimePoint, there: TimePoint) -> tuple[str, ...]:
    """Say what may mislead a reader who compares two results.

    Args:
        present: The result of now.
        prior: The earlier result.
        here: Findings and place of the present scan.
        there: Findings and place of the earlier scan.

    Returns:
        A line for each caveat.

    Raises:
        ToNNOUserError: If there is nothing to compare: the same result twice, or scans that share no space.
    """
    if present.identity == prior.identity:
        raise ToNNOUserError(
            _("Both time points are the same result."), _("Choose the heatmap of another scan as the prior one.")
        )
    return (
        *_aboutMaking(present.record, prior.record),
        *_aboutSegments(present, prior),
        *_aboutScans(present, prior, here, there),
        *_aboutPlace(present.heatmapNode, prior.heatmapNode),
    )


def _aboutMaking(now: Json, before: Json) -> list[str]:
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


def _modelOf(record: Json) -> tuple | None:
    """Return what tells models apart, and the name; None where the model is not known."""
    model = record.get("model")
    return (model.get("sha256"), model.get("name") or _("a model")) if isinstance(model, dict) else None


def _modelName(fact) -> str:
    if not isinstance(fact, tuple):
        return str(fact)
    sha256, name = fact
    return f"{name} ({sha256[:8]})" if sha256 else name


def _lowestPeak(segmentationNode, segmentId: str) -> float:
    """Return what the peaks of a segment's parts reach; segments of earlier versions have all parts."""
    known = minPeakOf(segmentationNode, segmentId)
    return -math.inf if known is None else known


def _aboutSegments(now: Result, before: Result) -> list[str]:
    lines = []
    facts = ((_("thresholds"), thresholdOf), (_("smallest volumes"), smallestOf), (_("lowest peaks"), _lowestPeak))
    for what, read in facts:
        a, b = read(*now.segment), read(*before.segment)
        # A file keeps all digits; two runs of one model have the same number, two sliders hardly ever.
        if None not in (a, b) and not np.isclose(a, b, rtol=1e-6, atol=0):
            lines.append(_("Segmented with different {what}: {a:.4g} now, {b:.4g} before.").format(what=what, a=a, b=b))
    for result, text in ((now, _("The present segment")), (before, _("The prior segment"))):
        if result.isEdited:
            lines.append(_("{segment} was changed by hand.").format(segment=text))
    return lines


def _aboutScans(present: Result, prior: Result, here: TimePoint, there: TimePoint) -> list[str]:
    lines = []
    if present.inputNode is not None and present.inputNode is prior.inputNode:
        lines.append(_("Both results are of the same scan."))
    for time, text in ((here, _("the present scan")), (there, _("the prior scan"))):
        if abs(time.scale - 1) > _SCALE:
            line = _("A transform scales {scan} by {percent:+.0f} %; sizes are the scan's own.")
            lines.append(line.format(scan=text, percent=100 * (time.scale - 1)))
        if time.rasToBox is not None:
            lines.append(_("In {scan} findings were looked for in a region only.").format(scan=text))
    sizes = here.voxelMm3, there.voxelMm3
    if max(sizes) > _OTHER_VOXEL * min(sizes):
        line = _("Voxels are {a:.3g} mm3 now, {b:.3g} mm3 before: sizes of small findings differ by that alone.")
        lines.append(line.format(a=sizes[0], b=sizes[1]))
    return lines


def _aboutPlace(heatmapNode, priorHeatmapNode) -> list[str]:
    """Say whether scans seem shifted, by the centers of their foreground where both see it."""
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
    """Spread points (3 x N, in the world) evenly over what both grids hold."""
    boxes = [corners(node.GetImageData().GetDimensions(), ijkToWorld(node)) for node in (scan, priorScan)]
    low = np.max([box.min(axis=1) for box in boxes], axis=0)
    high = np.min([box.max(axis=1) for box in boxes], axis=0)
    if (low >= high).any():
        return np.empty((3, 0))
    axes = [np.linspace(a, b, _POINTS) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    return points[:, _inside(scan, points) & _inside(priorScan, points)]


def _foregroundCenter(node, points: np.ndarray) -> np.ndarray:
    """Return the mean (3) of the points (3 x N) where a scan is brighter than on average: in tissue, not in air."""
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
