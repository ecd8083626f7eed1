"""What the reader thinks of each finding: accept, reject or unsure. It is saved with the heatmap's node.

A verdict is kept by its place, the finding's peak in the heatmap's own frame, and not by a number that changes with the
threshold: it belongs to the component that holds the place. So it stays when the finding grows, goes along when two
findings merge, and comes back with a finding that was gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from ToNNOSlicerLib.logic.labelmap import SAME_PLACE_MM

ACCEPT, REJECT, UNSURE, NONE = "accept", "reject", "unsure", ""
# In a table for other programs: the panel's words, in any language of the panel.
IN_TABLES = {ACCEPT: "accepted", REJECT: "rejected", UNSURE: "unsure", NONE: ""}
ATTRIBUTE = "ToNNO.Verdicts"  # of the heatmap's node; restoring it undoes a verdict
# A peak that is this far away, in another filter's heatmap or after work by hand, belongs to another finding.
_FARTHEST_MM = 10.0


@dataclass(frozen=True)
class _Kept:
    """A verdict as the heatmap's node keeps it.

    Attributes:
        place: RAS mm in the heatmap's own frame.
        reach: How far around the place there was nothing but the finding, mm.
        verdict: ACCEPT, REJECT or UNSURE.
    """

    place: tuple[float, float, float]
    reach: float
    verdict: str


def setVerdict(heatmapNode, finding, verdict: str) -> None:
    """Keep a verdict about a finding, also about all parts of it that were judged while they were findings themselves.

    Args:
        heatmapNode: The heatmap.
        finding: The Finding.
        verdict: ACCEPT, REJECT, UNSURE, or NONE to take it back.

    Raises:
        ValueError: If the verdict is another word.
    """
    if verdict not in (ACCEPT, REJECT, UNSURE, NONE):
        raise ValueError(f"verdict is {verdict!r}, expected 'accept', 'reject', 'unsure' or ''")
    before = _read(heatmapNode)
    parts = [kept for kept in before if finding.pieces.labelOf(kept.place, kept.reach) == finding.label]
    after = [kept for kept in before if kept not in parts]
    if verdict != NONE:
        after += [replace(part, verdict=verdict) for part in parts if not _isAt(part, finding.place)]
        reach = finding.pieces.reachAt(finding.place, finding.label, _FARTHEST_MM)
        after.append(_Kept(finding.place, reach, verdict))
    heatmapNode.SetAttribute(ATTRIBUTE, json.dumps([asdict(kept) for kept in after]) if after else None)


def judged(heatmapNode, findings: Sequence) -> list:
    """Return findings with the verdicts that are kept now; components are not looked for again.

    Args:
        heatmapNode: The heatmap.
        findings: The findings of a segment, with the same `pieces`.

    Returns:
        The findings in their order.
    """
    return [
        replace(finding, verdict=_common(verdicts), isDivided=len(verdicts) > 1)
        for finding, verdicts in zip(findings, _all(heatmapNode, findings), strict=True)
    ]


def _all(heatmapNode, findings: Sequence) -> list[set[str]]:
    """Return the verdicts about the parts of each finding."""
    if not findings:
        return []
    pieces = findings[0].pieces
    byLabel: dict[int, set[str]] = {}
    for kept in _read(heatmapNode):
        byLabel.setdefault(pieces.labelOf(kept.place, kept.reach), set()).add(kept.verdict)
    return [byLabel.get(finding.label, set()) for finding in findings]


def _common(verdicts: set[str]) -> str:
    if not verdicts:
        return NONE
    return next(iter(verdicts)) if len(verdicts) == 1 else UNSURE


def _isAt(kept: _Kept, place) -> bool:
    return float(np.linalg.norm(np.subtract(kept.place, place))) < SAME_PLACE_MM


def _read(heatmapNode) -> list[_Kept]:
    text = heatmapNode.GetAttribute(ATTRIBUTE)
    return [_Kept(tuple(kept["place"]), kept["reach"], kept["verdict"]) for kept in json.loads(text or "[]")]
