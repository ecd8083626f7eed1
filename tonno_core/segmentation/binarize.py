"""From a heatmap to a mask and a table of its components; fast enough to follow a slider."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.volume.volume import Volume

Mask = npt.NDArray[np.uint8]
BoolMask = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]
Point = tuple[float, float, float]

# Voxels of a mask that are measured at once: they take some 100 bytes each, and a body can have a hundred million.
_AT_ONCE = 4_000_000


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

    SimpleITK's filter with its 128 histogram bins; N. Otsu, IEEE Trans. SMC 9(1), 1979, 62-66.
    Raises TonnoError where there is nothing to split: no voxel, a constant, or NaN and infinite values.
    """
    values = heatmap.array.reshape(-1) if inside is None else heatmap.array[_as_mask(inside, heatmap)]
    if not values.size:
        raise TonnoError("threshold otsu: the mask holds no voxel, at least two are expected; use a number")
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(high - low):
        raise TonnoError("threshold otsu: the heatmap holds NaN or infinite voxels, finite ones are expected")
    if low == high:
        raise TonnoError(f"threshold otsu: the heatmap is constant ({low:g}), nothing to split; use a number")
    import SimpleITK as sitk

    otsu = sitk.OtsuThresholdImageFilter()
    otsu.Execute(sitk.GetImageFromArray(values[np.newaxis]))
    return float(otsu.GetThreshold())


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


def clear_small(mask: BoolMask, voxel_mm3: float, min_volume_mm3: float) -> None:
    """Clear the 26-connected components below a volume, in place (bool Z Y X, contiguous)."""
    voxels, component, count = connected(mask)
    # A hair below the quotient: 8 voxels of 0.1 mm are 0.008 mm3, whatever the last bit of the product says.
    small = np.bincount(component, minlength=count) < min_volume_mm3 / voxel_mm3 * (1 - 1e-9)
    mask.reshape(-1)[voxels[small[component]]] = False


def components(mask: npt.NDArray[np.generic], heatmap: Volume) -> list[Component]:
    """The 26-connected components of the mask's nonzero voxels (Z Y X), highest peak first."""
    voxels, component, count = connected(_as_mask(mask, heatmap))
    if count == 0:
        return []
    found = _Measures(count)
    for start in range(0, voxels.size, _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found.add(voxels[part], component[part], heatmap.array)
    means, centroids = found.sums / found.sizes, _to_ras(heatmap, found.ijk_sums / found.sizes)
    extents_mm = (found.last - found.first + 1) * heatmap.spacing_mm[:, np.newaxis]
    sizes, peaks, peaks_ras = found.sizes, found.peaks, _to_ras(heatmap, found.peaks_ijk)
    return [
        Component(
            label=rank,
            voxels=int(sizes[n]),
            volume_mm3=float(sizes[n] * heatmap.voxel_mm3),
            centroid_ras=_point(centroids[:, n]),
            peak=float(peaks[n]),
            peak_ras=_point(peaks_ras[:, n]),
            mean=float(means[n]),
            extent_mm=_point(extents_mm[:, n]),
        )
        for rank, n in enumerate(np.argsort(-peaks, kind="stable"), start=1)
    ]


class _Measures:
    """What is known of each of n components; their voxels come in parts, each component's in Z Y X order."""

    def __init__(self, count: int) -> None:
        self.sizes, self.sums, self.peaks = np.zeros(count, np.intp), np.zeros(count), np.full(count, -np.inf)
        self.ijk_sums, self.peaks_ijk = np.zeros((3, count)), np.zeros((3, count), np.intp)
        self.first, self.last = np.full((3, count), np.iinfo(np.intp).max), np.full((3, count), -1)

    def add(self, voxels: IntArray, component: IntArray, array: npt.NDArray[np.float32]) -> None:
        """voxels: flat indices of Z Y X. component: of each."""
        values = array.reshape(-1)[voxels].astype(np.float64)
        # One sort groups the voxels by component and puts each component's peak first in its group.
        order = np.lexsort((-values, component))
        sizes = np.bincount(component, minlength=self.sizes.size)
        which = np.flatnonzero(sizes)
        start = (np.cumsum(sizes) - sizes)[which]
        k, j, i = np.unravel_index(voxels[order], array.shape)
        ijk = np.stack((i, j, k))  # 3 x voxels, group by group
        self.sizes += sizes
        self.sums[which] += np.add.reduceat(values[order], start)
        self.ijk_sums[:, which] += np.add.reduceat(ijk, start, axis=1)
        self.first[:, which] = np.minimum(self.first[:, which], np.minimum.reduceat(ijk, start, axis=1))
        self.last[:, which] = np.maximum(self.last[:, which], np.maximum.reduceat(ijk, start, axis=1))
        peaks = values[order[start]]
        higher = peaks > self.peaks[which]
        self.peaks[which[higher]] = peaks[higher]
        self.peaks_ijk[:, which[higher]] = ijk[:, start[higher]]


def check_options(threshold: float, low: float | None, min_volume_mm3: float) -> None:
    if not math.isfinite(threshold):
        raise TonnoError(f"threshold: {threshold} found, a finite number is expected")
    if low is not None and not (math.isfinite(low) and low <= threshold):
        raise TonnoError(f"low threshold: {low} found, a number up to the threshold {threshold} is expected")
    if not (math.isfinite(min_volume_mm3) and min_volume_mm3 >= 0):
        raise TonnoError(f"--min-volume-mm3 is {min_volume_mm3}, expected 0 or more")


def _as_mask(mask: npt.NDArray[np.generic], heatmap: Volume) -> BoolMask:
    if mask.shape != heatmap.array.shape:
        raise ValueError(f"mask of shape {mask.shape} on a heatmap of shape {heatmap.array.shape}")
    return mask.astype(np.bool_)


def connected(mask: BoolMask) -> tuple[IntArray, IntArray, int]:
    """Flat indices of a mask's voxels (bool Z Y X) in that order, the 26-connected component 0..n-1 of each, and n.

    Components are numbered by their first voxels. Works on the runs of voxels along x alone, so the time goes
    with the mask's size, not with the volume's. NumPy alone: Slicer follows a slider with it, and the first import of
    SciPy would hold its window.
    """
    voxels = np.flatnonzero(mask)
    if not voxels.size:
        return voxels, voxels, 0
    starts, ends = _runs(voxels, mask.shape[2])
    component, count = _joined(starts.size, *_touching(voxels[starts], voxels[ends - 1], mask.shape))
    return voxels, np.repeat(component, ends - starts), count


def _runs(voxels: IntArray, width: int) -> tuple[IntArray, IntArray]:
    """Where in `voxels` (sorted flat indices, rows of `width`) each run of neighbours starts, and one past its end."""
    new = np.empty(voxels.size, dtype=np.bool_)
    new[0] = True
    new[1:] = (np.diff(voxels) != 1) | (voxels[1:] % width == 0)
    starts = np.flatnonzero(new)
    return starts, np.append(starts[1:], voxels.size)


def _touching(first: IntArray, last: IntArray, shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Pairs of runs, by number, that share a face, an edge or a corner; runs by their first and last flat index."""
    _, y, x = shape
    row = first // x
    # In a volume with a border of one empty voxel, no window of three rows by width + 2 wraps around an edge.
    step_y, step_z = x + 2, (x + 2) * (y + 2)
    shift = (row // y) * step_z + (row % y) * step_y - row * x
    first, last = first + shift, last + shift
    ones, others = [], []
    for back in (step_y, step_z - step_y, step_z, step_z + step_y):  # the other four neighbours see this run as theirs
        low = np.searchsorted(last, first - back - 1, side="left")
        high = np.searchsorted(first, last - back + 1, side="right")
        many = np.maximum(high - low, 0)
        ones.append(np.repeat(np.arange(first.size), many))
        before = np.cumsum(many) - many
        others.append(np.arange(many.sum()) + np.repeat(low - before, many))
    return np.concatenate(ones), np.concatenate(others)


def _joined(count: int, left: IntArray, right: IntArray) -> tuple[IntArray, int]:
    """The component 0..n-1 of each of `count` runs, of which those of each pair touch, and n; in the runs' order.

    In each round every group hooks on to a touching group of a lower number, all become one with the last that they so
    reach, and the pairs between the new groups go on (Y. Shiloach and U. Vishkin, J. Algorithms 3(1), 1982, 57-67).
    """
    rounds: list[IntArray] = []
    while True:
        root = np.arange(count)
        lower, higher = np.minimum(left, right), np.maximum(left, right)
        if rounds:
            np.minimum.at(root, higher, lower)  # the lowest, or a star of groups would take a round for each ray
        else:
            root[higher] = lower  # any of them: quicker, and few pairs are left
        while not np.array_equal(further := root[root], root):
            root = further
        first = root == np.arange(count)
        number = (np.cumsum(first) - 1)[root]
        count = int(np.count_nonzero(first))
        rounds.append(number)
        left, right = number[left], number[right]
        apart = left != right
        if not apart.any():
            break
        left, right = left[apart], right[apart]
    component = rounds.pop()
    while rounds:
        component = component[rounds.pop()]
    return component, count


def _to_ras(volume: Volume, ijk: npt.NDArray[np.number]) -> npt.NDArray[np.float64]:
    """Voxel coordinates (3 x N) to RAS mm (3 x N)."""
    return np.asarray(volume.ijk_to_ras[:3, :3] @ ijk + volume.ijk_to_ras[:3, 3:])


def _point(xyz: npt.NDArray[np.float64]) -> Point:
    x, y, z = xyz.tolist()
    return x, y, z
