"""Matching of the findings of two time points. NumPy only."""

from __future__ import annotations

import numpy as np

from ToNNOSlicerLib.logic.timepoint import TimePoint

OVERLAP, NEAR, CENTROID = "overlap", "near", "centroid"
# Two findings are the same if they share this part of either. Neighbors that touch after a small change, or after a
# registration that is a voxel off, share less; what was swallowed or split off lies almost whole in the other.
SHARED = 0.2
# A finding without overlap is the same as another within whose neighborhood half of it lies. Rigid registrations of
# heads are good to 1 or 2 mm; where slices are thicker, the same thin object may be in the next slice.
NEAR_MM = 2.0
NEAR_SHARE = 0.5
# Findings that are still alone at both times belong together if their centroids are this close: small objects under a
# poor registration. A wider reach would call a finding unchanged where one is gone and another is new.
CENTROID_MM = 5.0
# Voxels, evenly chosen, that say how much of a finding is near another: to a few hundredths.
_SAMPLE = 500


def link(present: TimePoint, prior: TimePoint) -> dict[tuple[int, int], str]:
    """Find which findings of two scans are the same.

    `OVERLAP` links any number of findings. A finding that overlaps none is linked to the finding that it is `NEAR`, at
    either time. Findings that are then alone at both times are linked by the least distance of centroids, `CENTROID`.

    Args:
        present: The scan of now.
        prior: The earlier scan.

    Returns:
        The pairs (finding now, finding before; by their places in `findings`), each with what has linked it.
    """
    links = {pair: OVERLAP for pair in zip(*np.nonzero(_shares(present, prior) >= SHARED), strict=True)}
    reach = max(NEAR_MM, present.largestSpacingMm, prior.largestSpacingMm)
    lonely = _lonely(links, present, prior)
    for p in lonely[0]:
        links |= {(p, q): NEAR for q in _nearest(present, p, prior, reach)}
    for q in lonely[1]:
        links |= {(p, q): NEAR for p in _nearest(prior, q, present, reach)}
    links |= dict.fromkeys(_closest(present, prior, *_lonely(links, present, prior)), CENTROID)
    return {(int(p), int(q)): how for (p, q), how in sorted(links.items())}


def _shares(present: TimePoint, prior: TimePoint) -> np.ndarray:
    """Return (findings now x findings before) the larger of the parts of each that lie in the other."""
    return np.maximum(_within(present, prior), _within(prior, present).T)


def _within(inner: TimePoint, outer: TimePoint) -> np.ndarray:
    """Return (findings of `inner` x findings of `outer`) the part of the first that lies in the second."""
    shape = len(inner.findings), len(outer.findings)
    owner = outer.ownersAt(inner.pointsRAS)
    hit = owner >= 0
    pairs = np.bincount(inner.owner[hit] * shape[1] + owner[hit], minlength=shape[0] * shape[1])
    return pairs.reshape(shape) / np.maximum(inner.counts, 1)[:, np.newaxis]


def _lonely(links, present: TimePoint, prior: TimePoint) -> tuple[list[int], list[int]]:
    """Return the findings now, and those before, that no pair has."""
    linked = {p for p, _q in links}, {q for _p, q in links}
    return tuple(
        [n for n in range(len(time.findings)) if n not in paired]
        for time, paired in zip((present, prior), linked, strict=True)
    )


def _nearest(inner: TimePoint, number: int, outer: TimePoint, reach: float) -> list[int]:
    """Find the finding of `outer` within whose reach (mm) the largest part of a finding lies; [] if below half."""
    points = inner.pointsRAS[:, inner.owner == number]
    if not _meets(points, outer.pointsRAS, reach):
        return []
    points = points[:, :: max(1, points.shape[1] // _SAMPLE)]
    around = points[:, np.newaxis] + _ball(reach)[:, :, np.newaxis]  # 3 x steps x points
    owner = outer.ownersAt(around.reshape(3, -1)).reshape(around.shape[1:])
    near = np.zeros((points.shape[1], len(outer.findings) + 1), dtype=bool)  # the last column: no finding
    near[np.arange(points.shape[1]), owner] = True
    share = near[:, :-1].mean(axis=0)
    best = int(share.argmax())
    return [best] if share[best] >= NEAR_SHARE else []


def _meets(points: np.ndarray, others: np.ndarray, reach: float) -> bool:
    """Return whether any of the other points lies in the box of the points (3 x N), grown by reach."""
    low, high = points.min(axis=1) - reach, points.max(axis=1) + reach
    return bool(((others >= low[:, np.newaxis]) & (others <= high[:, np.newaxis])).all(axis=0).any())


def _ball(radius: float) -> np.ndarray:
    """Return steps (3 x N) that fill a ball, a quarter of its radius apart."""
    axis = np.linspace(-radius, radius, 9)
    steps = np.stack(np.meshgrid(axis, axis, axis)).reshape(3, -1)
    return steps[:, np.linalg.norm(steps, axis=0) <= radius * (1 + 1e-9)]


def _closest(present: TimePoint, prior: TimePoint, now: list[int], before: list[int]) -> list[tuple[int, int]]:
    """Pair the given findings by their centroids, the closest first; each is in one pair at most."""
    apart = present.centroidsRAS[:, now, np.newaxis] - prior.centroidsRAS[:, np.newaxis, before]
    apart = np.linalg.norm(apart, axis=0)
    pairs = []
    while apart.size and apart.min() <= CENTROID_MM:
        row, column = np.unravel_index(apart.argmin(), apart.shape)
        pairs.append((now[row], before[column]))
        apart[row], apart[:, column] = np.inf, np.inf
    return pairs
