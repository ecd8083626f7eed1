"""A result in words: the sentence after a run, what is said when nothing is there, the report for the clipboard.

Volumes that the reader has rejected stand apart: the total is without them, and that of the accepted ones beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.geometry import ijkToWorld, transformPoint
from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, modelThreshold, recordOf
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, thresholdOf
from ToNNOSlicerLib.logic.verdicts import ACCEPT, NONE, REJECT, UNSURE

RESEARCH_USE = "Research use only, not for diagnosis."


@dataclass(frozen=True)
class Peak:
    """The highest voxel that the planes cover: its value in the heatmap's units, and where it is (RAS mm, world)."""

    value: float
    ras: tuple[float, float, float]


def highest(heatmapNode) -> Peak | None:
    """Return the heatmap's highest voxel within what the planes cover; None where they cover nothing.

    Outside of the planes a heatmap is exactly 0, which is no value of it.
    """
    array = slicer.util.arrayFromVolume(heatmapNode)
    flat = int(array.argmax())
    if array.flat[flat] <= 0:
        flat = int(np.where(array == 0, -np.inf, array).argmax())
    value = float(array.flat[flat])
    if value == 0:
        return None
    k, j, i = np.unravel_index(flat, array.shape)
    r, a, s = transformPoint(ijkToWorld(heatmapNode), (i, j, k)).tolist()
    return Peak(value, (r, a, s))


def identityOf(heatmapNode, segmentationNode, segmentId: str) -> dict[str, str]:
    """Return what a result is, for the texts: volume, model, method, className, quality, planes, threshold,
    thresholdSource, stopped ("" or such as "stopped at 38 of 96") and made (ISO time). What is not known is "".
    """
    record, volumeNode = recordOf(heatmapNode), inputOf(heatmapNode)
    threshold = thresholdOf(segmentationNode, segmentId)
    return {
        "volume": "" if volumeNode is None else volumeNode.GetName(),
        "model": (record.get("model") or {}).get("name") or "",
        "method": madeBy(record),
        "className": record.get("className") or "",
        "quality": record.get("quality") or "",
        "planes": _planes(record),
        "threshold": "" if threshold is None else f"{threshold:.4g}",
        "thresholdSource": _source(heatmapNode, segmentationNode, segmentId, threshold),
        "stopped": _stopped(record),
        "made": record.get("made") or "",
    }


@dataclass(frozen=True)
class Totals:
    """Findings that count, and their volume; largestMm: the longest axial diameter among them."""

    count: int
    ml: float
    largestMm: float


def burden(findings: Sequence) -> Totals:
    """Add up all findings but the rejected ones."""
    return _totals(counted(findings))


def counted(findings: Sequence) -> list:
    """Return the findings that count: all but the rejected ones."""
    return [finding for finding in findings if finding.verdict != REJECT]


def accepted(findings: Sequence) -> Totals:
    """Add up the accepted findings alone."""
    return _totals([finding for finding in findings if finding.verdict == ACCEPT])


def rejected(findings: Sequence) -> Totals:
    """Add up the rejected findings, which count nowhere else."""
    return _totals([finding for finding in findings if finding.verdict == REJECT])


def sentence(findings: Sequence, record: Mapping[str, Any]) -> str:
    """Say how many findings there are and how large they are: "3 findings, 5.2 ml; largest 16 mm".

    Rejected ones stand apart. Those that only a threshold below the model's shows are counted.
    """
    total, out = burden(findings), rejected(findings)
    parts = [_counted(total)]
    if total.count:
        parts.append(_("largest {size}").format(size=mm(total.largestMm)))
    threshold = (record.get("threshold") or {}).get("threshold")
    if threshold is not None and not record.get("zoom"):
        low = sum(finding.peak < threshold for finding in findings if finding.verdict != REJECT)
        if low:
            parts.append(_("{count} below the model's threshold").format(count=low))
    if out.count:
        parts.append(_("{count} rejected ({volume})").format(count=out.count, volume=ml(out.ml)))
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def nothing(peak: Peak | None, record: Mapping[str, Any], threshold: float, smallestMm3: float = 0.0) -> str:
    """Say that no finding is there, and how near the heatmap's highest voxel comes to being one.

    Args:
        peak: As `highest` gave it.
        record: The heatmap's.
        threshold: What the segment was written with.
        smallestMm3: The volume below which components were left out.
    """
    calibration = {} if record.get("zoom") else record.get("threshold") or {}
    isModels = calibration.get("threshold") is not None and math.isclose(calibration["threshold"], threshold)
    name = _("the model's threshold") if isModels else _("the threshold {value:.3g}").format(value=threshold)
    if peak is None:
        return _("Nothing above {name}: the heatmap is empty.").format(name=name)
    if peak.value >= threshold:
        text = _("Nothing above {name} is {volume} or larger.").format(name=name, volume=ml(smallestMm3 / 1000))
    else:
        text = _("Nothing above {name}.").format(name=name)
    return " ".join((text, _highestOf(peak, threshold, calibration.get("noise_floor"))))


def reportText(identity: Mapping[str, str], findings: Sequence, record: Mapping[str, Any]) -> str:
    """Write the result as plain text, for the clipboard: what it is, a line for each finding, totals.

    Args:
        identity: As `identityOf` gave it.
    """
    rows = [(_("Volume"), identity["volume"]), *facts(identity)]
    notes = [text for text in ((record.get("threshold") or {}).get("note"), *(record.get("warnings") or ())) if text]
    lines = [*(f"{topic}: {text}" for topic, text in rows), *notes, "", sentence(findings, record) + "."]
    lines += [f"{finding.label}. {described(finding)}" for finding in findings]
    lines += [totals(findings), "", RESEARCH_USE]
    return "\n".join(lines) + "\n"


def facts(identity: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return what the result of a volume is, as topics and texts; those of which nothing is known are left out."""
    threshold = _with(identity["threshold"], identity["thresholdSource"], " ({})")
    method = ", ".join(filter(None, (identity["method"], _quality(identity), identity["planes"], identity["stopped"])))
    rows = (
        (_("Looked for"), identity["className"]),
        (_("Model"), identity["model"]),
        (_("Method"), method),
        (_("Threshold"), threshold),
        (_("Made"), identity["made"].replace("T", " ")[:16]),
    )
    return [(topic, text) for topic, text in rows if text]


def described(finding) -> str:
    """Describe a finding in a line: "right, 16 x 12 mm, 1.2 ml, accepted; above the model's threshold"."""
    return f"{side(finding)}, {size(finding)}, {ml(finding.ml)}, {verdict(finding)}; {finding.confidence}"


def totals(findings: Sequence) -> str:
    """Say both totals: of all findings but the rejected ones, and of the accepted ones alone."""
    return _("All but rejected: {all}. Accepted only: {accepted}.").format(
        all=_counted(burden(findings)), accepted=_counted(accepted(findings))
    )


def verdict(finding) -> str:
    """Put a finding's verdict into words."""
    if finding.isDivided:
        return _("unsure (its parts were judged differently)")
    words = {ACCEPT: _("accepted"), REJECT: _("rejected"), UNSURE: _("unsure"), NONE: _("not judged")}
    return words[finding.verdict]


def side(finding) -> str:
    """Name the side of the patient that a finding is on."""
    return {"left": _("left"), "right": _("right"), "midline": _("midline")}[finding.side]


def size(finding) -> str:
    """Write the longest axial diameter and its perpendicular: "16 x 12 mm"."""
    return f"{_digits(finding.longestMm)} x {mm(finding.perpendicularMm)}"


def mm(length: float) -> str:
    """Write a length: "16 mm", "7.4 mm"."""
    return f"{_digits(length)} mm"


def ml(volume: float) -> str:
    """Write a volume with two digits or so: "16 ml", "5.2 ml", "0.43 ml", "0.004 ml"."""
    if volume < 0.0095:
        return f"{volume:.3f} ml"
    return f"{volume:.2f} ml" if volume < 0.95 else f"{_digits(volume)} ml"


def place(ras: Sequence[float]) -> str:
    """Write a place by the patient's sides: "L 12, A 40, S 8 mm"."""
    pairs = (("R", "L"), ("A", "P"), ("S", "I"))
    rounded = [round(value) for value in ras]
    return ", ".join(f"{pair[value < 0]} {abs(value)}" for pair, value in zip(pairs, rounded, strict=True)) + " mm"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _totals(findings: Sequence) -> Totals:
    return Totals(
        len(findings),
        sum(finding.ml for finding in findings),
        max((finding.longestMm for finding in findings), default=0.0),
    )


def _counted(total: Totals) -> str:
    if not total.count:
        return _("no finding")
    if total.count == 1:
        return _("1 finding, {volume}").format(volume=ml(total.ml))
    return _("{count} findings, {volume}").format(count=total.count, volume=ml(total.ml))


def _highestOf(peak: Peak, threshold: float, floor: float | None) -> str:
    value, where = f"{peak.value:.3g}", place(peak.ras)
    if floor is not None and peak.value < floor:
        return _("Highest: {value}, below the noise floor, at {place}").format(value=value, place=where)
    if 0 < peak.value < threshold:  # rounded down: 99.9 % is not all of it
        share = math.floor(100 * peak.value / threshold)
        return _("Highest: {value} ({share} % of it) at {place}").format(value=value, share=share, place=where)
    return _("Highest: {value} at {place}").format(value=value, place=where)


def _planes(record: Mapping[str, Any]) -> str:
    planes, directions = record.get("slices"), record.get("directions")
    if not planes or not directions:
        return ""
    return _("{planes} planes along {directions} directions").format(planes=planes, directions=directions)


def _stopped(record: Mapping[str, Any]) -> str:
    if not record.get("stopped"):
        return ""
    done, planned = record.get("directions"), record.get("planned")
    if done is None or planned is None:
        return _("stopped early")
    return _("stopped at {done} of {planned}").format(done=done, planned=planned)


def _source(heatmapNode, segmentationNode, segmentId: str, threshold: float | None) -> str:
    """Where a segment's threshold is from, and whether its voxels are still those above it."""
    if threshold is None:
        return _("drawn by hand")
    record, model = recordOf(heatmapNode), modelThreshold(heatmapNode)
    if model is not None and math.isclose(threshold, model):
        source = _("the model's")
    elif record.get("otsu") is not None and math.isclose(threshold, record["otsu"]):
        source = _("Otsu's method")
    else:
        source = _("set by hand")
    if isEditedByHand(segmentationNode, segmentId):
        return _("{source}, then corrected by hand").format(source=source)
    return source


def _quality(identity: Mapping[str, str]) -> str:
    return _("quality {name}").format(name=identity["quality"]) if identity["quality"] else ""


def _with(text: str, more: str, form: str) -> str:
    return text + form.format(more) if text and more else text or more
