"""Turn a heatmap into a mask and a table of its components, fast enough to follow a slider."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.segmentation.connected import BoolMask, IntArray, Runs, connect, find_runs, runs_of
from tonno_core.segmentation.parts import Parts
from tonno_core.volume.volume import Volume

Mask = npt.NDArray[np.uint8]
Point = tuple[float, float, float]

# Voxels of a mask that are measured at once: each takes some 100 bytes, and a body can have a hundred million.
_AT_ONCE = 4_000_000
_BINS = 128  # of Otsu's histogram
_COUNTED_AT_ONCE = 1 << 18  # stays in a core's cache


@dataclass(frozen=True)
class Component:
    """A connected piece of a mask (26 neighbours: voxels that share a face, an edge or a corner).

    Attributes:
        label: 1 for the component with the highest peak, then 2, ...
        voxels: Number of its voxels.
        volume_mm3: Its volume.
        centroid_ras: Mean of its voxels' centres, not weighted by the heatmap, RAS mm.
        peak: Highest value of the heatmap.
        peak_ras: Where that is (the first voxel in Z Y X order), RAS mm.
        mean: Mean value of the heatmap.
        extent_mm: Size of its bounding box along the grid's axes i, j, k; whole voxels count.
    """

    label: int
    voxels: int
    volume_mm3: float
    centroid_ras: Point
    peak: float
    peak_ras: Point
    mean: float
    extent_mm: Point


def otsu_threshold(heatmap: Volume, inside: BoolMask | None = None) -> float:
    """Find the threshold that separates the values best into two classes.

    N. Otsu, IEEE Trans. SMC 9(1), 1979, 62-66, with 128 bins as SimpleITK's OtsuThresholdImageFilter has them. The
    number is the same, unless all values lie within some 1e-6, where SimpleITK takes different splits for equal.

    Args:
        heatmap: The heatmap.
        inside: The voxels that count, bool Z Y X; None takes all.

    Returns:
        The threshold, at an edge of a bin.

    Raises:
        TonnoError: Nothing to split: no voxel, a constant, or NaN and infinite values.
    """
    values = heatmap.array.reshape(-1) if inside is None else heatmap.array[_as_mask(inside, heatmap)]
    if not values.size:
        raise TonnoError("threshold otsu: the mask holds no voxel, at least two are expected; use a number")
    low, high = values.min(), values.max()
    if not math.isfinite(float(high) - float(low)):
        raise TonnoError("threshold otsu: the heatmap holds NaN or infinite voxels, finite ones are expected")
    if not float(high) - float(low) > _BINS * np.finfo(np.float32).tiny:
        raise TonnoError(f"threshold otsu: the heatmap is constant ({low:g}), nothing to split; use a number")
    edges = _bin_edges(low, high)
    return float(edges[1 + _best_split(_histogram(values, edges), edges.astype(np.float64))])


def _bin_edges(low: np.float32, high: np.float32) -> npt.NDArray[np.float32]:
    """Return 129 edges in float32, as ITK has them: the last bin ends a hundredth of a bin above the highest value."""
    top = high + (high - low) / np.float32(_BINS) / np.float32(100)
    return np.append(low + np.arange(_BINS, dtype=np.float32) * ((top - low) / np.float32(_BINS)), top)


def _histogram(values: npt.NDArray[np.float32], edges: npt.NDArray[np.float32]) -> IntArray:
    """Count the values from each edge on to the next."""
    counts, per_bin = np.zeros(_BINS, np.intp), np.float32(_BINS) / (edges[-1] - edges[0])
    for start in range(0, values.size, _COUNTED_AT_ONCE):
        part = values[start : start + _COUNTED_AT_ONCE]
        place = (part - edges[0]) * per_bin
        bins = place.astype(np.int32)
        # Rounded (by 1e-5 at most, 128 times 2^-24 and a little), a value may come into a neighbor's bin.
        near = np.flatnonzero(np.abs(place - np.rint(place)) < 1e-4)
        bins[near] = np.minimum(np.searchsorted(edges, part[near], side="right"), _BINS) - 1
        counts += np.bincount(bins, minlength=_BINS)
    return counts


def _best_split(counts: IntArray, edges: npt.NDArray[np.float64]) -> int:
    """Return the last bin of the lower class: the first with the greatest variance between the classes' means."""
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums, whole = np.cumsum(counts * middles)[:-1], (counts * middles).sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # edges may coincide, and the lowest bins be empty
        between = sums**2 / below + (whole - sums) ** 2 / (total - below)
    return int(np.nanargmax(between))


def covered(array: npt.NDArray[np.floating]) -> BoolMask:
    """Find the voxels that the planes cover. A heatmap is exactly 0 outside of them, and nowhere else.

    Args:
        array: The heatmap's values.

    Returns:
        Bool, of the same shape.
    """
    mask: BoolMask = array != 0
    return mask


def reaches(array: npt.NDArray[np.floating], threshold: float, out: BoolMask | None = None) -> BoolMask:
    """Find the voxels that reach a threshold; outside of the planes there is nothing to reach it, however low it is.

    Args:
        array: The heatmap's values; NaN does not reach it.
        threshold: Any number.
        out: Array of the same shape to write into; None for a new one.

    Returns:
        Bool, of the same shape.
    """
    mask: BoolMask = np.greater_equal(array, np.asarray(threshold, array.dtype), out=out)
    if threshold <= 0:
        mask &= covered(array)
    return mask


def peak_of(array: npt.NDArray[np.floating]) -> float:
    """Find the highest value within what the planes cover.

    Args:
        array: The heatmap's values.

    Returns:
        The value; 0 where nothing is covered.
    """
    highest = float(array.max())
    if highest > 0:
        return highest
    return float(array.max(where=covered(array), initial=-np.inf)) if covered(array).any() else 0.0


def binarize(
    heatmap: Volume,
    threshold: float,
    *,
    low: float | None = None,
    min_volume_mm3: float = 0.0,
    min_peak: float = -math.inf,
) -> Mask:
    """Segment a heatmap by a threshold, within what the planes cover; NaN is background, components are 26-connected.

    Args:
        heatmap: The heatmap.
        threshold: The mask is where the heatmap reaches it.
        low: A lower threshold for hysteresis: the mask is the components of heatmap >= low that contain a voxel
            >= threshold. None: no hysteresis.
        min_volume_mm3: Smaller components are removed.
        min_peak: So are those whose highest value does not reach it, see `Parts`.

    Returns:
        Mask, uint8 Z Y X, 0 and 1.

    Raises:
        TonnoError: A threshold that is not finite, low above threshold, a negative volume, or a peak that is no number.
    """
    parts, lowest = check_options(threshold, low, min_volume_mm3, min_peak), threshold
    if low is not None:
        parts, lowest = Parts(min_volume_mm3, max(min_peak, threshold)), low
    mask = reaches(heatmap.array, lowest)
    if parts.drop_some(lowest):
        clear_parts(mask, heatmap, parts)
    return mask.view(np.uint8)


def clear_parts(mask: BoolMask, heatmap: Volume, parts: Parts, most_runs: int | None = None) -> bool:
    """Clear the 26-connected components of a mask that do not count.

    Args:
        mask: Bool Z Y X, contiguous; changed in place.
        heatmap: On whose grid the mask is.
        parts: Which count.
        most_runs: A mask of more runs of voxels along x is left as it is, for callers that must not wait (half a
            second for a million runs); None sets no limit.

    Returns:
        Whether it was done.
    """
    first, last = find_runs(mask)
    if most_runs is not None and first.size > most_runs:
        return False
    runs = connect(first, last, mask.shape)
    dropped = ~parts.counted(runs, heatmap.array, heatmap.voxel_mm3)
    mask.reshape(-1)[runs.voxels(dropped[runs.component])] = False
    return True


def components(mask: npt.NDArray[np.generic], heatmap: Volume) -> list[Component]:
    """Find and measure the 26-connected components of a mask.

    Args:
        mask: Z Y X on the heatmap's grid; not zero is inside.
        heatmap: The heatmap.

    Returns:
        The components, highest peak first.
    """
    return measure(runs_of(_as_mask(mask, heatmap)), heatmap)


def measure(runs: Runs, heatmap: Volume, most: int | None = None) -> list[Component]:
    """Measure the components of a mask that were found before, highest peak first.

    Args:
        runs: Runs of a mask on the heatmap's grid.
        heatmap: The heatmap.
        most: Greatest number of components, those with the highest peaks; None takes all.

    Returns:
        The components, highest peak first.

    Raises:
        TonnoError: The heatmap holds NaN within the mask.
    """
    if not runs.count:
        return []
    sums, tops = _of_runs(runs, heatmap.array)
    if np.isnan(sums).any():
        raise TonnoError("the heatmap holds NaN in the mask, finite values are expected")
    peaks: npt.NDArray[np.float64] = np.full(runs.count, -np.inf)
    np.maximum.at(peaks, runs.component, tops)
    listed = np.argsort(-peaks, kind="stable")[:most]
    runs, kept = runs.only(listed)
    sums, tops, peaks = sums[kept], tops[kept], peaks[listed]
    means = np.bincount(runs.component, sums) / runs.sizes
    centroids, extents = _shapes(runs)
    places = np.unravel_index(_peak_voxels(runs, heatmap.array, tops, peaks), runs.shape)
    centroids_ras, peaks_ras = _to_ras(heatmap, centroids), _to_ras(heatmap, np.stack(places[::-1]))
    extents_mm = extents * heatmap.spacing_mm[:, np.newaxis]
    return [
        Component(
            label=n + 1,
            voxels=int(runs.sizes[n]),
            volume_mm3=float(runs.sizes[n] * heatmap.voxel_mm3),
            centroid_ras=_point(centroids_ras[:, n]),
            peak=float(peaks[n]),
            peak_ras=_point(peaks_ras[:, n]),
            mean=float(means[n]),
            extent_mm=_point(extents_mm[:, n]),
        )
        for n in range(runs.count)
    ]


def _of_runs(runs: Runs, array: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the sum and the highest of the values (Z Y X) of each run."""
    flat, ends = array.reshape(-1), np.cumsum(runs.length)
    sums, tops = np.empty(ends.size), np.empty(ends.size)
    cuts = np.unique(np.searchsorted(ends, np.arange(0, ends[-1], _AT_ONCE), side="right"))
    for low, high in zip(cuts, [*cuts[1:], ends.size], strict=True):
        part = slice(low, high)
        values, starts = flat[runs.voxels(part)], ends[part] - runs.length[part]
        starts -= starts[0]
        sums[part] = np.add.reduceat(values, starts, dtype=np.float64)
        tops[part] = np.maximum.reduceat(values, starts)
    return sums, tops


def _shapes(runs: Runs) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp]]:
    """Return the mean place (i, j, k) of each component's voxels, and its size in voxels along i, j, k: 3 x N each."""
    k, j, i = np.unravel_index(runs.first, runs.shape)
    ends = ((i, i + runs.length - 1), (j, j), (k, k))
    means = [np.bincount(runs.component, (a + b) / 2 * runs.length) / runs.sizes for a, b in ends]
    extents = []
    for a, b in ends:
        low, high = np.full(runs.count, max(runs.shape)), np.full(runs.count, -1)
        np.minimum.at(low, runs.component, a)
        np.maximum.at(high, runs.component, b)
        extents.append(high - low + 1)
    return np.stack(means), np.stack(extents)


def _peak_voxels(
    runs: Runs, array: npt.NDArray[np.float32], tops: npt.NDArray[np.float64], peaks: npt.NDArray[np.float64]
) -> IntArray:
    """Return each component's first voxel (flat index) that has its peak; `tops` are the peaks of the runs."""
    holders = np.flatnonzero(tops == peaks[runs.component])
    run = np.full(runs.count, tops.size)
    np.minimum.at(run, runs.component[holders], holders)
    voxels, length = runs.voxels(run), runs.length[run]
    hits = np.flatnonzero(array.reshape(-1)[voxels] == np.repeat(peaks, length))
    first: IntArray = voxels[hits[np.searchsorted(hits, np.cumsum(length) - length)]]
    return first


def check_options(threshold: float, low: float | None, min_volume_mm3: float, min_peak: float = -math.inf) -> Parts:
    """Check the options of `binarize`.

    Args:
        threshold: A finite number.
        low: A number up to the threshold, or None.
        min_volume_mm3: 0 or more.
        min_peak: A number, or -inf.

    Returns:
        The components that count.

    Raises:
        TonnoError: Another value.
    """
    if not math.isfinite(threshold):
        raise TonnoError(f"threshold: {threshold} found, a finite number is expected")
    if low is not None and not (math.isfinite(low) and low <= threshold):
        raise TonnoError(f"low threshold: {low} found, a number up to the threshold {threshold} is expected")
    return Parts(min_volume_mm3, min_peak)


def _as_mask(mask: npt.NDArray[np.generic], heatmap: Volume) -> BoolMask:
    if mask.shape != heatmap.array.shape:
        raise ValueError(f"mask of shape {mask.shape} on a heatmap of shape {heatmap.array.shape}")
    return mask.astype(np.bool_)


def _to_ras(volume: Volume, ijk: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Convert voxel coordinates (3 x N) to RAS mm (3 x N)."""
    return np.asarray(volume.ijk_to_ras[:3, :3] @ ijk + volume.ijk_to_ras[:3, 3:])


def _point(xyz: npt.NDArray[np.float64]) -> Point:
    x, y, z = xyz.tolist()
    return x, y, z
