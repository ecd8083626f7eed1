"""Two time points of a patient: which finding was which, and what has become of it. NumPy only.

What can be told apart: the same object, moved by half a voxel, is segmented otherwise. The volume of 480 ellipsoids
(mean radius 1.5 to 15 isotropic voxels), each moved four ways, changed by up to 0.45 of the voxels that have a face to
the outside (0.62 where slices are three times as thick and a radius spans one). Three lesions of the sample (175 to 290
voxels of 2 mm), reconstructed by the shipped model at quality Fast from four images so moved, changed by 0.76 of those
voxels at most: -40 % of the smallest, 1.1 mm of its radius. So a volume counts as changed where it differs by a quarter
and by more than one layer of those voxels, or a layer of 1 mm where voxels are smaller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.comparable import notes
from ToNNOSlicerLib.logic.findings import Finding
from ToNNOSlicerLib.logic.matching import link
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.logic.timepoint import TimePoint, timePointOf

NEW, LARGER, SMALLER, UNCHANGED, MERGED, SPLIT = "new", "larger", "smaller", "unchanged", "merged", "split"
GONE, OUTSIDE = "gone", "outside"
# A volume must change by this factor, either way (+25 %, -20 %): what is larger seen from one scan is smaller from the
# other.
VOLUME_FACTOR = 1.25
# Its border must have moved all around by a layer of this thickness, or by a voxel where that is thicker.
LAYER_MM = 1.0
# RECIST 1.1 calls it progression where a diameter has changed by 20 % and by 5 mm.
DIAMETER_FACTOR, DIAMETER_MM = 1.2, 5.0
# Cosine of the angle up to which two scans have the same axial planes. Beyond 20 degrees other diameters are measured.
_SAME_PLANES = 0.94


@dataclass(frozen=True)
class Change:
    """What has become of a finding, or what a present finding was before.

    Findings of both scans that belong together form a group: usually one of each.

    Attributes:
        kind: `NEW`; `LARGER`, `SMALLER` or `UNCHANGED` in a group of one each; `MERGED` if it was several findings;
            `SPLIT` if it is a part of a finding; `GONE`; `OUTSIDE` if the other scan, or its region, does not show it.
        present: The present finding; None if there was one before and is none now.
        prior: The findings that it was.
        growth: `LARGER`, `SMALLER` or `UNCHANGED`, of the group; "" for a finding that is alone.
        presentMm3: Volume of the group now, in the scan's own mm; 0 without a finding.
        priorMm3: Volume of the group before, likewise.
        matchedBy: "overlap", "near" or "centroid"; "" for a finding that is alone.
        placeRAS: Where to look, RAS mm in the world.
        group: Number of the group.
    """

    kind: str
    present: Finding | None
    prior: tuple[Finding, ...]
    growth: str
    presentMm3: float
    priorMm3: float
    matchedBy: str
    placeRAS: tuple[float, float, float]
    group: int


@dataclass(frozen=True)
class Comparison:
    """Two results of a patient, beside each other.

    Attributes:
        priorName: The name of the earlier result.
        changes: One for each present finding in its order, then those of findings that are gone or not shown now.
        notes: What may mislead, a line each.
    """

    priorName: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]


def changes(present: Result, prior: Result) -> Comparison:
    """Compare the findings of two results in the scene, but for the rejected ones.

    Each scan lies where the transforms above it put it.

    Args:
        present: A result that has a segment.
        prior: Another result that has a segment, of an earlier scan.

    Returns:
        What has become of each finding.

    Raises:
        ToNNOUserError: If a transform warps, a segment has too many parts, the scans share no space, or both results
            are the same.
    """
    here, there = timePointOf(present), timePointOf(prior)
    warned = notes(present, prior, here, there)  # first: it refuses what cannot be compared
    return Comparison(prior.name, tuple(match(here, there)), warned)


def match(present: TimePoint, prior: TimePoint) -> list[Change]:
    """Find out what has become of each finding.

    Args:
        present: The scan of now.
        prior: The earlier scan.

    Returns:
        A change for each present finding, then those of findings before that match none.
    """
    links = link(present, prior)
    groups = _groups(links, len(present.findings), len(prior.findings))
    made = [_Pairing(present, prior, links, *group, number) for number, group in enumerate(groups)]
    ofNow = {p: pairing.ofNow(p) for pairing in made for p in pairing.now}
    return [*(ofNow[p] for p in range(len(present.findings))), *(m.ofBefore() for m in made if not m.now)]


def sentence(listed: Iterable[Change]) -> str:
    """Count changes by their kind.

    Args:
        listed: The changes. The parts of a finding that was split count once.

    Returns:
        Such as "1 new, 2 larger, 1 gone".
    """
    listed = list(listed)
    counts = Counter(change.kind for change in listed if change.kind != SPLIT)
    counts[SPLIT] = len({(change.group, change.prior) for change in listed if change.kind == SPLIT})
    texts = {
        NEW: _("{n} new"),
        LARGER: _("{n} larger"),
        SMALLER: _("{n} smaller"),
        MERGED: _("{n} merged"),
        SPLIT: _("{n} split"),
        UNCHANGED: _("{n} unchanged"),
        GONE: _("{n} gone"),
        OUTSIDE: _("{n} not in both scans"),
    }
    said = [text.format(n=counts[kind]) for kind, text in texts.items() if counts[kind]]
    return ", ".join(said) or _("no findings at either time")


def kindText(kind: str) -> str:
    """Name a kind of change.

    Args:
        kind: NEW, LARGER or another.

    Returns:
        A word in the user's language.
    """
    return {
        NEW: _("new"),
        LARGER: _("larger"),
        SMALLER: _("smaller"),
        MERGED: _("merged"),
        SPLIT: _("split"),
        UNCHANGED: _("unchanged"),
        GONE: _("gone"),
        OUTSIDE: _("outside"),
    }[kind]


class _Pairing:
    """Findings now and before that belong together."""

    def __init__(self, present: TimePoint, prior: TimePoint, links, now: list[int], before: list[int], number: int):
        self._present, self._prior, self._number = present, prior, number
        self.now, self.before = now, before
        self._links = {pair: how for pair, how in links.items() if pair[0] in now}
        self._mm3 = tuple(float(t.counts[n].sum() * t.voxelMm3) for t, n in ((present, now), (prior, before)))

    def ofNow(self, p: int) -> Change:
        """Describe the present finding number p, which is in `now`."""
        finding = self._present.findings[p]
        was = [before for now, before in self._links if now == p]
        if not was:
            seen = self._prior.covers(self._present.pointsRAS[:, self._present.owner == p])
            return self._change(_alone(seen, NEW), finding, (), finding.peakRAS)
        growth = self._growth()
        parts = [now for now, before in self._links if before == was[0]]
        kind = MERGED if len(was) > 1 else SPLIT if len(parts) > 1 else growth
        findings = tuple(self._prior.findings[q] for q in was)
        return self._change(kind, finding, findings, finding.peakRAS, growth, self._links[p, was[0]])

    def ofBefore(self) -> Change:
        """Describe a finding before that has no match."""
        (q,) = self.before
        seen = self._present.covers(self._prior.pointsRAS[:, self._prior.owner == q])
        place = tuple(self._prior.centroidsRAS[:, q].tolist())
        return self._change(_alone(seen, GONE), None, (self._prior.findings[q],), place)

    def _change(self, kind, finding, before, place, growth="", how="") -> Change:
        return Change(kind, finding, before, growth, *self._mm3, how, place, self._number)

    def _growth(self) -> str:
        mm3, priorMm3 = self._mm3
        ratio, diameters = mm3 / priorMm3, self._diameters()
        if max(ratio, 1 / ratio) >= VOLUME_FACTOR and abs(mm3 - priorMm3) > self._layerMm3():
            return LARGER if ratio > 1 else SMALLER
        if diameters is None:
            return UNCHANGED
        longer, shorter = max(diameters), min(diameters)
        if longer < DIAMETER_FACTOR * shorter or longer - shorter < DIAMETER_MM:
            return UNCHANGED
        return LARGER if diameters[0] == longer else SMALLER

    def _layerMm3(self) -> float:
        """Return the volume of the outer layer of the group at the time when it was smaller."""
        time, numbers = ((self._present, self.now), (self._prior, self.before))[int(np.argmin(self._mm3))]
        thickness = max(1.0, LAYER_MM / np.cbrt(time.voxelMm3))  # in voxels
        return float(time.rims[numbers].sum() * time.voxelMm3 * thickness)

    def _diameters(self) -> tuple[float, float] | None:
        """Return the longest diameters, now and before, in the scans' own mm; None unless known of one finding each."""
        if len(self.now) != 1 or len(self.before) != 1:
            return None
        if abs(self._present.axialRAS @ self._prior.axialRAS) < _SAME_PLANES:
            return None
        sides = (self._present, self.now[0]), (self._prior, self.before[0])
        longest = [getattr(time.findings[n], "longestMm", None) for time, n in sides]
        if None in longest:
            return None
        return longest[0] / self._present.scale, longest[1] / self._prior.scale


def _alone(seen: np.ndarray, kind: str) -> str:
    """Return the kind of a finding without a match: it says something only where the other scan shows its place."""
    return kind if seen.mean() >= 0.5 else OUTSIDE


def _groups(links, now: int, before: int) -> list[tuple[list[int], list[int]]]:
    """Group findings now and before (by their places) that links hold together; what is alone has a group too."""
    group = {("now", p): {("now", p)} for p in range(now)} | {("before", q): {("before", q)} for q in range(before)}
    for p, q in links:
        joined = group["now", p] | group["before", q]
        group |= dict.fromkeys(joined, joined)
    different = {id(members): members for members in group.values()}
    return [
        tuple(sorted(n for time, n in members if time == which) for which in ("now", "before"))
        for members in different.values()
    ]
