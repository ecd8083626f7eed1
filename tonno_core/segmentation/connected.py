"""Find the connected components of a mask by its runs of voxels along x. NumPy alone, for use in other applications.

Time and memory go with the number of runs, but for one pass over the mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

BoolMask = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True, eq=False)
class Runs:
    """The runs of a mask's voxels along x, in Z Y X order, and the 26-connected component that each belongs to.

    Attributes:
        first: Flat index (Z Y X) of each run's first voxel.
        last: Flat index of its last voxel.
        component: Each run's component, 0 to count - 1.
        count: Number of components.
        shape: Shape of the mask, Z Y X.
    """

    first: IntArray
    last: IntArray
    component: IntArray
    count: int
    shape: tuple[int, ...]

    @cached_property
    def length(self) -> IntArray:
        """Number of voxels of each run."""
        return self.last - self.first + 1

    @cached_property
    def sizes(self) -> npt.NDArray[np.intp]:
        """Number of voxels of each component."""
        return np.bincount(self.component, self.length, self.count).astype(np.intp)

    def only(self, components: IntArray) -> tuple[Runs, BoolMask]:
        """Select the runs of some components.

        Args:
            components: Their numbers.

        Returns:
            The runs, whose components are renumbered 0, 1, ... in the order given, and which of all runs these are.
        """
        number = np.full(self.count, -1)
        number[components] = np.arange(components.size)
        component = number[self.component]
        some = component >= 0
        return Runs(self.first[some], self.last[some], component[some], components.size, self.shape), some

    def voxels(self, some: slice | IntArray | BoolMask = slice(None)) -> IntArray:
        """Return the voxels of some runs.

        Args:
            some: Which runs; by default all.

        Returns:
            Flat indices, run by run.
        """
        first, length = self.first[some], self.length[some]
        before = np.cumsum(length) - length
        return np.repeat(first - before, length) + np.arange(length.sum())


def runs_of(mask: BoolMask) -> Runs:
    """Find the runs and the 26-connected components of a mask.

    Args:
        mask: Bool Z Y X.

    Returns:
        The runs; components are numbered by their first voxels.
    """
    return connect(*find_runs(mask), mask.shape)


def connected(mask: BoolMask) -> tuple[IntArray, IntArray, int]:
    """Find the voxels and the 26-connected components of a mask.

    Args:
        mask: Bool Z Y X.

    Returns:
        Flat indices of the voxels in Z Y X order, the component 0..n-1 of each, numbered by their first voxels, and n.
    """
    runs = runs_of(mask)
    return runs.voxels(), np.repeat(runs.component, runs.length), runs.count


def find_runs(mask: BoolMask) -> tuple[IntArray, IntArray]:
    """Find the runs of a mask's voxels along x.

    Args:
        mask: Bool Z Y X.

    Returns:
        Flat indices of the first and of the last voxel of each run, in Z Y X order.
    """
    flat = np.ascontiguousarray(mask, dtype=np.bool_).reshape(-1)
    if not flat.size:
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    change = np.flatnonzero(flat[1:] != flat[:-1])
    begins = int(flat[0])
    first, last = change[begins::2] + 1, change[1 - begins :: 2]
    if begins:
        first = np.insert(first, 0, 0)
    if flat[-1]:
        last = np.append(last, flat.size - 1)
    width = mask.shape[2]
    ends = np.arange(width - 1, flat.size - 1, width)
    cut = ends[flat[ends] & flat[ends + 1]]  # a row's last voxel, where the next row's first one is set too
    first = np.insert(first, np.searchsorted(first, cut + 1), cut + 1)
    return first, np.insert(last, np.searchsorted(last, cut), cut)


def connect(first: IntArray, last: IntArray, shape: tuple[int, ...]) -> Runs:
    """Find the 26-connected components of runs.

    Args:
        first: Flat index of each run's first voxel, as `find_runs` returns it.
        last: Flat index of its last voxel.
        shape: Shape of the mask, Z Y X.

    Returns:
        The runs; components are numbered by their first voxels.
    """
    root = _roots(*_touching(first, last, shape), first.size)
    # A component's root is its first run.
    number = np.cumsum(root == np.arange(root.size)) - 1
    return Runs(first, last, number[root], int(number[-1]) + 1 if number.size else 0, shape)


def outer_faces(runs: Runs) -> IntArray:
    """Count the faces of each component's voxels that look out of the mask, or out of the volume.

    Args:
        runs: The mask.

    Returns:
        A number for each component.
    """
    first, last, step_y, step_z = _bordered(runs.first, runs.last, runs.shape)
    inner = runs.length - 1  # faces between two voxels of a run, and of two runs, counted at the later one
    for back in (step_y, step_z):
        later, earlier = _neighbors(first, last, back, 0)
        common = np.minimum(last[later], last[earlier] + back) - np.maximum(first[later], first[earlier] + back) + 1
        inner = inner + np.bincount(later, common, inner.size).astype(np.intp)
    sums = np.bincount(runs.component, inner, runs.count).astype(np.intp)
    return np.asarray(6 * runs.sizes - 2 * sums)


def _touching(first: IntArray, last: IntArray, shape: tuple[int, ...]) -> tuple[IntArray, IntArray]:
    """Find pairs of runs that share a face, an edge or a corner; return the later and the earlier of each by number."""
    first, last, step_y, step_z = _bordered(first, last, shape)
    # The other four neighboring rows have this row among theirs.
    pairs = [_neighbors(first, last, back, 1) for back in (step_y, step_z - step_y, step_z, step_z + step_y)]
    later, earlier = zip(*pairs, strict=True)
    return np.concatenate(later), np.concatenate(earlier)


def _bordered(first: IntArray, last: IntArray, shape: tuple[int, ...]) -> tuple[IntArray, IntArray, int, int]:
    """Return flat indices in a volume with an empty border of a voxel's width, and its steps along y and z.

    There no neighbor of a voxel lies around an edge.
    """
    _, y, x = shape
    row = first // x
    step_y, step_z = x + 2, (x + 2) * (y + 2)
    shift = (row // y) * step_z + (row % y) * step_y - row * x
    return first + shift, last + shift, step_y, step_z


def _neighbors(first: IntArray, last: IntArray, back: int, reach: int) -> tuple[IntArray, IntArray]:
    """Find pairs of runs, later and earlier: `back` voxels on, the later overlaps the earlier lengthened by `reach`."""
    low = np.searchsorted(last, first - back - reach, side="left")
    high = np.searchsorted(first, last - back + reach, side="right")
    many = np.maximum(high - low, 0)
    before = np.cumsum(many) - many
    return np.repeat(np.arange(first.size), many), np.arange(many.sum()) + np.repeat(low - before, many)


def _roots(later: IntArray, earlier: IntArray, count: int) -> IntArray:
    """Find the least node that each of `count` nodes is connected with, by pairs of nodes.

    Each round hangs every root under the least root that it has a pair with, and shortens all ways to one step; what
    is left are pairs of different roots. Rounds: 1 to 7 for masks of noise, lesions, combs, walks and serpentines.
    """
    root = np.arange(count)
    while later.size:
        np.minimum.at(root, np.maximum(later, earlier), np.minimum(later, earlier))
        while True:
            above = root[root]
            if np.array_equal(above, root):
                break
            root = above
        later, earlier = root[later], root[earlier]
        apart = later != earlier
        later, earlier = later[apart], earlier[apart]
    return root
