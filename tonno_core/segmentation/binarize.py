"""From a heatmap to a mask and a table of its components; fast enough to follow a slider."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.segmentation.connected import BoolMask, IntArray, Runs, connect, connected, find_runs, runs_of
from tonno_core.volume.volume import Volume

Mask = npt.NDArray[np.uint8]
Point = tuple[float, float, float]

# Voxels of a mask that are measured at once: they take some 100 bytes each, and a body can have a hundred million.
_AT_ONCE = 4_000_000
_BINS = 128  # of Otsu's histogram
_COUNTED_AT_ONCE = 1 << 18  # stays in a core's cache


@dataclass(frozen=True)
class Component:
    """One connected piece of a mask (26 neighbours: voxels that share a face, an edge or a corner).

    label: 1 for the component with the highest peak, then 2, ...
    voxels, volume_mm3: its size.
    centroid_ras: mean of its voxels' centres, not weighted by the heatmap, RAS mm.
    peak, peak_ras, mean: highest heatmap value, where (the first voxel in Z Y X order), and the mean value.
    extent_mm: size of its bounding box along the grid's axes i, j, k, whole voxels counted.
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
    """Otsu's threshold of the heatmap over the voxels of `inside` (bool Z Y X; all voxels by default).

    N. Otsu, IEEE Trans. SMC 9(1), 1979, 62-66, with 128 bins as SimpleITK's OtsuThresholdImageFilter has them; the
    same number, unless all values lie within some 1e-6, where that takes splits that differ for equal.
    Raises TonnoError where there is nothing to split: no voxel, a constant, or NaN and infinite values.
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
    """129 edges in float32, as ITK has them: the last bin ends a hundredth of a bin above the highest value."""
    top = high + (high - low) / np.float32(_BINS) / np.float32(100)
    return np.append(low + np.arange(_BINS, dtype=np.float32) * ((top - low) / np.float32(_BINS)), top)


def _histogram(values: npt.NDArray[np.float32], edges: npt.NDArray[np.float32]) -> IntArray:
    """How many values there are from each edge on to the next one."""
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
    """The last bin of the lower class, by the greatest variance between the two classes' means; of equals the first."""
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums, whole = np.cumsum(counts * middles)[:-1], (counts * middles).sum()
    with np.errstate(divide="ignore", invalid="ignore"):  # edges may coincide, and the lowest bins be empty
        between = sums**2 / below + (whole - sums) ** 2 / (total - below)
    return int(np.nanargmax(between))


def binarize(heatmap: Volume, threshold: float, *, low: float | None = None, min_volume_mm3: float = 0.0) -> Mask:
    """Mask (uint8 Z Y X, 0 and 1) of heatmap >= threshold.

    low: hysteresis: the components of heatmap >= low that contain a voxel >= threshold.
    min_volume_mm3: components smaller than this are removed. Components are 26-connected. NaN is background.
    Raises TonnoError for a threshold that is not finite, low above threshold, or a negative volume.
    """
    check_options(threshold, low, min_volume_mm3)
    mask = heatmap.array >= (threshold if low is None else low)
    if low is not None:
        voxels, component, count = connected(mask)
        seeds = component[heatmap.array.reshape(-1)[voxels] >= threshold]
        keep = np.bincount(seeds, minlength=count) > 0
        mask.reshape(-1)[voxels[~keep[component]]] = False
    if min_volume_mm3 > 0.0:
        clear_small(mask, heatmap.voxel_mm3, min_volume_mm3)
    return mask.view(np.uint8)


def clear_small(mask: BoolMask, voxel_mm3: float, min_volume_mm3: float, most_runs: int | None = None) -> bool:
    """Clear the 26-connected components below a volume, in place (bool Z Y X, contiguous).

    Returns whether it was done: a mask of more than `most_runs` runs of voxels along x is left as it is, for whoever
    must not wait (half a second for a million runs).
    """
    first, last = find_runs(mask)
    if most_runs is not None and first.size > most_runs:
        return False
    runs = connect(first, last, mask.shape)
    # A hair below the quotient: 8 voxels of 0.1 mm are 0.008 mm3, whatever the last bit of the product says.
    small = runs.sizes < min_volume_mm3 / voxel_mm3 * (1 - 1e-9)
    mask.reshape(-1)[runs.voxels(small[runs.component])] = False
    return True


def components(mask: npt.NDArray[np.generic], heatmap: Volume) -> list[Component]:
    """The 26-connected components of the mask's nonzero voxels (Z Y X), highest peak first."""
    return measure(runs_of(_as_mask(mask, heatmap)), heatmap)


def measure(runs: Runs, heatmap: Volume, most: int | None = None) -> list[Component]:
    """Measure the components of a mask that were found before, highest peak first.

    Args:
        runs: of a mask on the heatmap's grid.
        most: only so many, those with the highest peaks; None for all.

    Raises:
        TonnoError: the heatmap holds NaN within the mask.
    """
    if not runs.count:
        return []
    sums, tops = _of_runs(runs, heatmap.array)
    if np.isnan(sums).any():
        raise TonnoError("the heatmap holds NaN in the mask, finite values are expected")
    peaks = np.full(runs.count, -np.inf)
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
    """The sum and the highest of the values (Z Y X) of each run."""
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
    """The mean place (i, j, k) of each component's voxels, and its size in voxels along i, j, k: 3 x N each."""
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
    """The first voxel (flat index) of each component that has the component's peak; tops: the runs' peaks."""
    holders = np.flatnonzero(tops == peaks[runs.component])
    run = np.full(runs.count, tops.size)
    np.minimum.at(run, runs.component[holders], holders)
    voxels, length = runs.voxels(run), runs.length[run]
    hits = np.flatnonzero(array.reshape(-1)[voxels] == np.repeat(peaks, length))
    first: IntArray = voxels[hits[np.searchsorted(hits, np.cumsum(length) - length)]]
    return first


def check_options(threshold: float, low: float | None, min_volume_mm3: float) -> None:
    if not math.isfinite(threshold):
        raise TonnoError(f"threshold: {threshold} found, a finite number is expected")
    if low is not None and not (math.isfinite(low) and low <= threshold):
        raise TonnoError(f"low threshold: {low} found, a number up to the threshold {threshold} is expected")
    if not (math.isfinite(min_volume_mm3) and min_volume_mm3 >= 0):
        raise TonnoError(f"`min_volume_mm3` is {min_volume_mm3}, expected 0 or more")


def _as_mask(mask: npt.NDArray[np.generic], heatmap: Volume) -> BoolMask:
    if mask.shape != heatmap.array.shape:
        raise ValueError(f"mask of shape {mask.shape} on a heatmap of shape {heatmap.array.shape}")
    return mask.astype(np.bool_)


def _to_ras(volume: Volume, ijk: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Voxel coordinates (3 x N) to RAS mm (3 x N)."""
    return np.asarray(volume.ijk_to_ras[:3, :3] @ ijk + volume.ijk_to_ras[:3, 3:])


def _point(xyz: npt.NDArray[np.float64]) -> Point:
    x, y, z = xyz.tolist()
    return x, y, z
