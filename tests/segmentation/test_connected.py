"""Connected components by runs, against SciPy's: the same components in the same order, for masks of every kind."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tonno_core.segmentation import connected as module
from tonno_core.segmentation.connected import Runs, connected, find_runs, outer_faces, runs_of

BoolMask = npt.NDArray[np.bool_]


def noise(shape: tuple[int, int, int], share: float) -> BoolMask:
    return np.random.default_rng(0).random(shape) < share


def serpentine() -> BoolMask:
    """Rows of one component, joined at their ends in turn: its far ends are a long way apart."""
    mask = np.zeros((9, 21, 8), dtype=np.bool_)
    mask[::2, ::2] = True
    mask[::2, 1::4, -1] = mask[::2, 3::4, 0] = True
    mask[1::4, -1, -1] = mask[3::4, 0, 0] = True
    return mask


def comb() -> BoolMask:
    """Teeth that only the last row joins."""
    mask = np.zeros((3, 12, 15), dtype=np.bool_)
    mask[1, :, ::2] = True
    mask[1, -1] = True
    return mask


MASKS = {
    "empty": np.zeros((3, 4, 5), dtype=np.bool_),
    "no voxel": np.zeros((0, 4, 5), dtype=np.bool_),
    "full": np.ones((3, 4, 5), dtype=np.bool_),
    "single": np.ones((1, 1, 1), dtype=np.bool_),
    "one voxel wide": noise((6, 9, 1), 0.5),
    "one row": noise((1, 1, 60), 0.5),
    "sparse": noise((20, 21, 22), 0.02),
    "percolating": noise((20, 21, 22), 0.0976),  # where 26-connected noise just spans the volume
    "half": noise((20, 21, 22), 0.5),
    "dense": noise((20, 21, 22), 0.95),
    "smooth": ndimage.gaussian_filter(np.random.default_rng(1).normal(size=(24, 23, 22)), 2.0) > 0.1,
    "checkerboard": np.indices((5, 6, 7)).sum(0) % 2 == 0,
    "lattice": (np.indices((7, 7, 7)) % 2 == 0).all(0),  # no two voxels touch
    "serpentine": serpentine(),
    "comb": comb(),
    "not contiguous": noise((20, 21, 44), 0.1)[::-1, :, ::2],
}


@pytest.mark.parametrize("name", MASKS)
def test_the_components_are_scipys_in_the_order_of_their_first_voxels(name: str) -> None:
    mask = MASKS[name]
    labels, expected = ndimage.label(mask, np.ones((3, 3, 3))) if mask.size else (mask, 0)
    voxels, component, count = connected(mask)
    assert count == expected
    assert np.array_equal(voxels, np.flatnonzero(mask))
    assert np.array_equal(component, labels.reshape(-1)[voxels] - 1)


@pytest.mark.parametrize("name", MASKS)
def test_runs_hold_the_masks_voxels_and_do_not_go_around_an_edge(name: str) -> None:
    mask = MASKS[name]
    first, last = find_runs(mask)
    width = mask.shape[2]
    assert (first // width == last // width).all()
    set_voxels = [n for low, high in zip(first, last, strict=True) for n in range(low, high + 1)]
    assert set_voxels == np.flatnonzero(mask).tolist()
    for before, after in pairwise(zip(first, last, strict=True)):
        assert after[0] > before[1] + 1 or after[0] % width == 0  # else they would be one run


def test_the_runs_of_some_components_in_another_order() -> None:
    runs = runs_of(MASKS["sparse"])
    chosen = np.array([7, 2, 11])
    part, which = runs.only(chosen)
    assert part.count == 3 and np.array_equal(part.first, runs.first[which])
    assert part.sizes.tolist() == runs.sizes[chosen].tolist()
    voxels, component, _count = connected(MASKS["sparse"])
    for number, before in enumerate(chosen):
        assert np.array_equal(part.voxels(part.component == number), voxels[component == before])


@pytest.mark.parametrize("name", MASKS)
def test_the_faces_that_look_out_of_each_component(name: str) -> None:
    mask = MASKS[name]
    runs = runs_of(mask)
    if not runs.count:
        assert outer_faces(runs).size == 0
        return
    bordered = np.pad(mask, 1)
    faces = [np.roll(bordered, step, axis) < bordered for axis in range(3) for step in (-1, 1)]
    outside = sum(face[1:-1, 1:-1, 1:-1].astype(int) for face in faces)
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    assert outer_faces(runs).tolist() == ndimage.sum_labels(outside, labels, np.arange(1, count + 1)).tolist()


def graphs() -> dict[str, tuple[int, npt.NDArray[np.intp]]]:
    """Name to (how many nodes, pairs: 2 x n); numbered so that little is to be had in a round."""
    rng, n = np.random.default_rng(5), 3000
    path, nodes = rng.permutation(n), np.arange(n)
    tree = (rng.random(n - 1) * nodes[1:]).astype(np.intp)
    return {
        "no pair": (4, np.empty((2, 0), dtype=np.intp)),
        "a path": (n, np.stack((path[:-1], path[1:]))),
        "a star around the last": (n, np.stack((np.full(n - 1, n - 1), nodes[:-1]))),
        "a tree": (n, np.stack((path[1:], path[tree]))),
        "many small": (n, rng.integers(0, n, (2, n // 3))),
        "a ring, each pair twice": (n, np.stack((np.tile(path, 2), np.tile(np.roll(path, 1), 2)))),
    }


@pytest.mark.parametrize("name", graphs())
def test_pairs_are_joined_as_scipy_joins_them(name: str) -> None:
    count, (left, right) = graphs()[name]
    pairs = coo_array((np.ones(left.size), (left, right)), shape=(count, count))
    _number, component = connected_components(pairs, directed=False)
    least = [int(np.flatnonzero(component == c)[0]) for c in component]
    assert module._roots(left, right, count).tolist() == least


def test_nothing_is_changed_and_every_count_is_an_int() -> None:
    mask = MASKS["smooth"].copy()
    runs = runs_of(mask)
    assert isinstance(runs, Runs) and type(runs.count) is int
    assert np.array_equal(mask, MASKS["smooth"])
    assert runs.sizes.sum() == np.count_nonzero(mask)


def test_masks_and_their_components_need_numpy_alone() -> None:
    """In Slicer's process: there the first import of SciPy would hold the window."""
    code = (
        "import sys, numpy as np; from tonno_core.segmentation.binarize import binarize, components, otsu_threshold;"
        "from tonno_core.volume.volume import Volume;"
        "heatmap = Volume(np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32), np.eye(4));"
        "components(binarize(heatmap, otsu_threshold(heatmap), low=0.0, min_volume_mm3=2.0), heatmap);"
        "print(*({'scipy', 'SimpleITK'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
