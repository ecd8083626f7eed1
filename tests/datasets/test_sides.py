"""Where a patient is cut, and that each voxel stays where it was."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest

from tonno_core.datasets.sides import box_of, cut_at_middle
from tonno_core.volume.volume import Volume


def scan(axes: np.ndarray, origin: tuple[float, float, float] = (5.0, -7.0, 11.0)) -> Volume:
    """A body of 10 voxels along each axis of its array, in 13: it ends 2 voxels before the end."""
    rng = np.random.default_rng(0)
    array = np.zeros((13, 13, 13), dtype=np.float32)
    array[1:11, 1:11, 1:11] = rng.uniform(1, 2, (10, 10, 10))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes, origin
    return Volume(array, affine)


def points_of(volume: Volume) -> np.ndarray:
    kji = np.argwhere(np.ones(volume.array.shape))
    return kji[:, ::-1] @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]


@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=3)))
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_any_orientation_is_cut_at_the_middle_of_the_body(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    axes = np.zeros((3, 3))
    for axis, (row, sign) in enumerate(zip(order, signs, strict=True)):
        axes[row, axis] = 2.0 * sign
    volume = scan(axes)
    cut = cut_at_middle(volume)
    left, right = cut.half(volume, "left"), cut.half(volume, "right")
    assert left.array.size + right.array.size == volume.array.size
    # The body spans voxels 1 to 10: its middle is between voxels 5 and 6 of the axis that runs left to right.
    middle = 5.0 + 5.5 * axes[0].sum()
    assert points_of(left)[:, 0].max() < middle < points_of(right)[:, 0].min()
    for half in (left, right):
        ijk = np.linalg.solve(axes, (points_of(half) - volume.ijk_to_ras[:3, 3]).T).T
        assert np.allclose(ijk, np.rint(ijk), atol=1e-9)  # float64
        i, j, k = np.rint(ijk).astype(int).T
        assert np.array_equal(half.array.ravel(), volume.array[k, j, i])


def test_an_oblique_scan_is_cut_along_its_own_axis_and_keeps_its_place() -> None:
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volume = scan(turn @ np.diag([2.0, 2.0, 3.0]))
    cut = cut_at_middle(volume)
    assert (cut.axis, cut.index, cut.upper) == (2, 6, "right")
    right = cut.half(volume, "right")
    assert np.allclose(right.ijk_to_ras[:3, 3], volume.ijk_to_ras[:3] @ [6, 0, 0, 1], rtol=0, atol=1e-12)
    assert np.array_equal(right.array, volume.array[:, :, 6:])


def test_a_box_holds_whole_voxels_and_sides_are_told_by_their_voxels() -> None:
    volume = scan(np.diag([-2.0, 3.0, 4.0]))
    mask = np.zeros(volume.array.shape, dtype=np.bool_)
    mask[2:4, 3:6, 4:9] = True  # 2 of 5 along i below 6, which lies to the left
    # i 3.5 to 8.5 times -2, j 2.5 to 5.5 times 3, k 1.5 to 3.5 times 4, from the origin (5, -7, 11).
    assert box_of(mask, volume.ijk_to_ras) == "-12.000,0.500,17.000:-2.000,9.500,25.000"
    cut = cut_at_middle(volume)
    assert (cut.index, cut.upper) == (6, "left")
    assert cut.sides_of(mask) == ("left", "right")
    assert cut.sides_of(mask & False) == ()
