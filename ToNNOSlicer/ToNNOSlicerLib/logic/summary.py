"""A result in words: the sentence after a run, with findings or without, and the report for the clipboard.

Findings that the reader has rejected are named apart: the total leaves them out, and the total of the accepted findings
stands beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic.geometry import ijkToWorld, transformPoint
from ToNNOSlicerLib.logic.heatmap import calibrationOf, inputOf, madeBy, recordOf
from ToNNOSlicerLib.logic.results import stoppedText
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, thresholdOf
from ToNNOSlicerLib.logic.verdicts import ACCEPT, NONE, REJECT, UNSURE

RESEARCH_USE = _("Research use only, not for diagnosis.")


@dataclass(frozen=True)
class Peak:
    """The highest voxel that the planes cover.

    Attributes:
        value: In the heatmap's units.
        ras: The voxel's center, RAS mm in the world.
    """

    value: float
    ras: tuple[float, float, float]


@dataclass(frozen=True)
class Identity:
    """What a result is, in words for people; what is not known is "".

    Attributes:
        volume: Name of the image.
        model: Name of the model.
        method: Such as "ToNNO Matched CAM".
        className: Name of the finding that was looked for.
        quality: Name of the preset.
        planes: Such as "6144 planes along 96 directions".
        threshold: The segment's, in the heatmap's units.
        thresholdSource: Such as "the model's".
        stopped: Such as "stopped at 38 of 96"; "" for a whole run.
        made: ISO time.
    """

    volume: str
    model: str
    method: str
    className: str
    quality: str
    planes: str
    threshold: str
    thresholdSource: str
    stopped: str
    made: str


def highest(heatmapNode) -> Peak | None:
    """Find the heatmap's highest voxel within what the planes cover.

    Outside of the planes a heatmap is exactly 0, which does not count.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The voxel; None where the planes cover nothing.
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


def identityOf(heatmapNode, segmentationNode, segmentId: str) -> Identity:
    """Say what a result is.

    Args:
        heatmapNode: The heatmap.
        segmentationNode: Holds the result's segment.
        segmentId: The segment's ID.

    Returns:
        The words for texts and tables.
    """
    record, volumeNode = recordOf(heatmapNode), inputOf(heatmapNode)
    threshold = thresholdOf(segmentationNode, segmentId)
    source = _sourceOf(threshold, record)
    if threshold is not None and isEditedByHand(segmentationNode, segmentId):
        source = _("{source}, then corrected by hand").format(source=source)
    return Identity(
        volume="" if volumeNode is None else volumeNode.GetName(),
        model=(record.get("model") or {}).get("name") or "",
        method=madeBy(record),
        className=record.get("className") or "",
        quality=record.get("quality") or "",
        planes=_planes(record),
        threshold="" if threshold is None else f"{threshold:.4g}",
        thresholdSource=source,
        stopped=stoppedText(record),
        made=record.get("made") or "",
    )


def counted(findings: Sequence) -> list:
    """Return the findings that count: all but the rejected ones.

    Args:
        findings: The findings.

    Returns:
        A part of them, in their order.
    """
    return [finding for finding in findings if finding.verdict != REJECT]


def sentence(findings: Sequence, record: Json) -> str:
    """Say how many findings there are and how large they are.

    Rejected findings are named apart, and so is how many lie below the model's threshold.

    Args:
        findings: All findings of the segment.
        record: The heatmap's.

    Returns:
        Such as "3 findings, 5.2 ml; largest 16 mm".
    """
    valid = counted(findings)
    rejected = [finding for finding in findings if finding.verdict == REJECT]
    parts = [_total(valid)]
    if valid:
        parts.append(_("largest {size}").format(size=mm(max(finding.longestMm for finding in valid))))
    threshold = calibrationOf(record).get("threshold")
    if threshold is not None and not record.get("zoom"):
        low = sum(finding.peak < threshold for finding in valid)
        if low:
            parts.append(_("{count} below the model's threshold").format(count=low))
    if rejected:
        parts.append(_("{count} rejected ({volume})").format(count=len(rejected), volume=ml(_sumMl(rejected))))
    text = "; ".join(parts)
    return text[0].upper() + text[1:]


def nothing(
    peak: Peak | None, record: Json, threshold: float, smallestMm3: float = 0.0, minPeak: float = -math.inf
) -> str:
    """Say that no finding is there, and how near the heatmap's highest voxel comes to being one.

    Args:
        peak: As `highest` gave it.
        record: The heatmap's.
        threshold: What the segment was written with.
        smallestMm3: The volume below which components were left out.
        minPeak: The value that no voxel of a component reached that was left out.

    Returns:
        A sentence or two without the last period.
    """
    calibration = {} if record.get("zoom") else calibrationOf(record)
    isModels = calibration.get("threshold") is not None and math.isclose(calibration["threshold"], threshold)
    name = _("the model's threshold") if isModels else _("the threshold {value:.3g}").format(value=threshold)
    if peak is None:
        return _("Nothing above {name}: the heatmap is empty.").format(name=name)
    if threshold <= peak.value < minPeak:
        text = _("Nothing above {name} reaches {value:.3g} anywhere.").format(name=name, value=minPeak)
    elif peak.value >= threshold:
        text = _("Nothing above {name} is {volume} or larger.").format(name=name, volume=ml(smallestMm3 / 1000))
    else:
        text = _("Nothing above {name}.").format(name=name)
    return " ".join((text, _highestOf(peak, threshold, calibration.get("noise_floor"))))


def headline(
    findings: Sequence,
    heatmapNode,
    threshold: float | None,
    smallestMm3: float = 0.0,
    minPeak: float = -math.inf,
) -> str:
    """Summarize the findings; if there are none, say how close the highest voxel is to the threshold.

    Args:
        findings: All findings of the segment.
        heatmapNode: The heatmap.
        threshold: What the segment was written with; None: it was drawn or edited by hand.
        smallestMm3: The volume below which components were left out.
        minPeak: The value that no voxel of a component reached that was left out.

    Returns:
        A sentence or two without the last period.
    """
    record = recordOf(heatmapNode)
    if findings or threshold is None:
        return sentence(findings, record)
    return nothing(highest(heatmapNode), record, threshold, smallestMm3, minPeak)


def reportText(identity: Identity, findings: Sequence, record: Json) -> str:
    """Write the result as plain text, for the clipboard: what it is, a line for each finding, totals.

    Args:
        identity: As `identityOf` gave it.
        findings: All findings of the segment.
        record: The heatmap's.

    Returns:
        The text, with a line break at its end.
    """
    rows = [(_("Volume"), identity.volume), *facts(identity)]
    lines = [*(f"{topic}: {text}" for topic, text in rows), *warnings(record), "", sentence(findings, record) + "."]
    lines += [f"{finding.label}. {described(finding)}" for finding in findings]
    lines += [totals(findings), "", RESEARCH_USE]
    return "\n".join(lines) + "\n"


def warnings(record: Json) -> list[str]:
    """Return what the engine has to say about a heatmap: how its threshold was calibrated, and warnings of the run.

    Args:
        record: The heatmap's.

    Returns:
        Sentences.
    """
    return [str(text) for text in (calibrationOf(record).get("note"), *(record.get("warnings") or ())) if text]


def facts(identity: Identity) -> list[tuple[str, str]]:
    """Return what the result of a volume is, as topics and texts.

    Args:
        identity: As `identityOf` gave it.

    Returns:
        Pairs of topic and text, without those of which nothing is known.
    """
    source = identity.thresholdSource
    threshold = f"{identity.threshold} ({source})" if identity.threshold and source else identity.threshold or source
    quality = _("quality {name}").format(name=identity.quality) if identity.quality else ""
    rows = (
        (_("Looked for"), identity.className),
        (_("Model"), identity.model),
        (_("Method"), ", ".join(filter(None, (identity.method, quality, identity.planes, identity.stopped)))),
        (_("Threshold"), threshold),
        (_("Made"), identity.made.replace("T", " ")[:16]),
    )
    return [(topic, text) for topic, text in rows if text]


def described(finding) -> str:
    """Describe a finding in a line.

    Args:
        finding: The Finding.

    Returns:
        Such as "right, 16 x 12 mm, 1.2 ml, accepted; above the model's threshold".
    """
    return f"{side(finding)}, {size(finding)}, {ml(finding.ml)}, {verdict(finding)}; {finding.confidence}"


def totals(findings: Sequence) -> str:
    """Say both totals: of all findings but the rejected ones, and of the accepted ones alone.

    Args:
        findings: All findings of the segment.

    Returns:
        Two sentences.
    """
    accepted = [finding for finding in findings if finding.verdict == ACCEPT]
    return _("All but rejected: {all}. Accepted only: {accepted}.").format(
        all=_total(counted(findings)), accepted=_total(accepted)
    )


def verdict(finding) -> str:
    """Put a finding's verdict into words.

    Args:
        finding: The Finding.

    Returns:
        Such as "accepted" or "not judged".
    """
    if finding.isDivided:
        return _("unsure (its parts were judged differently)")
    words = {ACCEPT: _("accepted"), REJECT: _("rejected"), UNSURE: _("unsure"), NONE: _("not judged")}
    return words[finding.verdict]


def side(finding) -> str:
    """Name the side of the patient that a finding is on.

    Args:
        finding: The Finding.

    Returns:
        "left", "right" or "midline", in the user's language.
    """
    return {"left": _("left"), "right": _("right"), "midline": _("midline")}[finding.side]


def size(finding) -> str:
    """Write the longest axial diameter and its perpendicular.

    Args:
        finding: The Finding.

    Returns:
        Such as "16 x 12 mm".
    """
    return f"{_digits(finding.longestMm)} x {mm(finding.perpendicularMm)}"


def mm(length: float) -> str:
    """Write a length.

    Args:
        length: In mm.

    Returns:
        Such as "16 mm" or "7.4 mm".
    """
    return f"{_digits(length)} mm"


def ml(volume: float) -> str:
    """Write a volume with two digits or so.

    Args:
        volume: In ml.

    Returns:
        Such as "16 ml", "5.2 ml", "0.43 ml" or "0.004 ml".
    """
    if volume < 0.0095:
        return f"{volume:.3f} ml"
    return f"{volume:.2f} ml" if volume < 0.95 else f"{_digits(volume)} ml"


def place(ras: Sequence[float]) -> str:
    """Write a place by the patient's sides.

    Args:
        ras: 3, RAS mm.

    Returns:
        Such as "L 12, A 40, S 8 mm".
    """
    pairs = (("R", "L"), ("A", "P"), ("S", "I"))
    rounded = [round(value) for value in ras]
    return ", ".join(f"{pair[value < 0]} {abs(value)}" for pair, value in zip(pairs, rounded, strict=True)) + " mm"


def _digits(value: float) -> str:
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def _sumMl(findings: Sequence) -> float:
    return sum(finding.ml for finding in findings)


def _total(findings: Sequence) -> str:
    """Say how many findings there are, and their volume together."""
    if not findings:
        return _("no finding")
    volume = ml(_sumMl(findings))
    if len(findings) == 1:
        return _("1 finding, {volume}").format(volume=volume)
    return _("{count} findings, {volume}").format(count=len(findings), volume=volume)


def _highestOf(peak: Peak, threshold: float, floor: float | None) -> str:
    value, where = f"{peak.value:.3g}", place(peak.ras)
    if floor is not None and peak.value < floor:
        return _("Highest: {value}, below the noise floor, at {place}").format(value=value, place=where)
    if 0 < peak.value < threshold:  # rounded down: 99.9 % is not all of it
        share = math.floor(100 * peak.value / threshold)
        return _("Highest: {value} ({share} % of it) at {place}").format(value=value, share=share, place=where)
    return _("Highest: {value} at {place}").format(value=value, place=where)


def _planes(record: Json) -> str:
    planes, directions = record.get("slices"), record.get("directions")
    if not planes or not directions:
        return ""
    return _("{planes} planes along {directions} directions").format(planes=planes, directions=directions)


def _sourceOf(threshold: float | None, record: Json) -> str:
    """Say where a segment's threshold is from."""
    if threshold is None:
        return _("drawn by hand")
    known = ((calibrationOf(record).get("threshold"), _("the model's")), (record.get("otsu"), _("Otsu's method")))
    same = (source for value, source in known if value is not None and math.isclose(threshold, value))
    return next(same, _("set by hand"))
