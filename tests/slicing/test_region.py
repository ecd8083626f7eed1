"""A box in the patient: its voxels, and the planes that cut it."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.region import Region
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Volume


def turned_box() -> Region:
    """10 x 20 x 40 mm around (5, -3, 2), turned by 30 degrees about S."""
    matrix = np.eye(4)
    cos, sin = np.cos(np.pi / 6), 0.5
    matrix[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag([5.0, 10.0, 20.0])
    matrix[:3, 3] = 5, -3, 2
    return Region(matrix)


def points_of(region: Region, count: int = 400) -> np.ndarray:
    """Points all over the box, its corners among them, in RAS."""
    inner = np.random.default_rng(0).uniform(-1, 1, (count, 3))
    corners = np.array(list(np.ndindex(2, 2, 2))) * 2.0 - 1.0
    box = np.concatenate([inner, corners])
    return np.asarray(box @ region.box_to_ras[:3, :3].T + region.box_to_ras[:3, 3])


def test_a_box_holds_the_voxels_whose_centres_are_in_it() -> None:
    grid = np.diag([2.0, -1.5, 3.0, 1.0])
    grid[:3, 3] = -20, 20, -40
    volume = Volume(np.zeros((27, 28, 21), np.float32), grid)
    inside = turned_box().contains(volume)
    # 10 x 20 x 40 mm of voxels of 9 mm3: 889, give or take a part of the surface.
    assert abs(int(inside.sum()) - 889) < 90
    k, j, i = np.nonzero(inside)
    ras = np.stack([i, j, k], axis=1) * [2.0, -1.5, 3.0] + [-20, 20, -40]
    away = ras - [5, -3, 2]
    along = away @ [np.cos(np.pi / 6), 0.5, 0]
    assert np.abs(along).max() <= 5.0
    assert np.abs(away[:, 2]).max() <= 20.0


def test_voxels_on_the_very_faces_belong_to_a_box() -> None:
    from_face_to_face = turned_box().box_to_ras @ ijk_to_grid((4, 5, 7))
    assert turned_box().contains(Volume(np.zeros((7, 5, 4), np.float32), from_face_to_face)).all()


def test_the_ball_of_a_box_reaches_its_corners() -> None:
    centre, radius = turned_box().ball
    np.testing.assert_array_equal(centre, [5, -3, 2])
    assert radius == pytest.approx(np.sqrt(5.0**2 + 10.0**2 + 20.0**2), rel=1e-12)


def test_the_ball_of_a_slanted_box_reaches_its_longest_diagonal() -> None:
    slanted = np.eye(4)
    slanted[0, 1] = -0.5  # corners at (+-1.5, -+1, +-1) and (+-0.5, +-1, +-1)
    assert Region(slanted).ball[1] == pytest.approx(np.sqrt(1.5**2 + 1 + 1), rel=1e-12)


def test_the_extents_are_those_of_the_corners() -> None:
    frame = physical_frame([1.0, 2.0, 3.0], 50.0)
    directions = hemisphere(40)
    extents = turned_box().extents(frame, directions)
    along = (points_of(turned_box()) - [1, 2, 3]) / 50.0 @ directions.T
    np.testing.assert_allclose(extents, np.stack([along.min(axis=0), along.max(axis=0)], axis=1), atol=1e-12)


def test_planes_on_both_sides_of_every_point_are_needed_and_hardly_more() -> None:
    frame, directions = physical_frame([1.0, 2.0, 3.0], 50.0), hemisphere(40)
    plan = SlicePlan(frame, directions, slices=48, pixels=8)
    reach = 3 * plan.step
    needed = turned_box().needed(frame, directions, plan.offsets, reach)
    along = (points_of(turned_box()) - [1, 2, 3]) / 50.0 @ directions.T
    first, last = plan.offsets[needed[:, 0]], plan.offsets[needed[:, 1] - 1]
    low, high = along.min(axis=0) - reach, along.max(axis=0) + reach
    assert (first <= low + 1e-12).all()
    assert (last >= high - 1e-12).all()
    assert (first > low - plan.step - 1e-12).all()  # not a whole step more
    assert (last < high + plan.step + 1e-12).all()


def test_a_box_beyond_the_planes_needs_the_last_of_them() -> None:
    frame, directions = physical_frame([0.0, 0.0, 0.0], 50.0), np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    far = np.eye(4)
    far[0, 3] = 500.0
    plan = SlicePlan(frame, directions, slices=20, pixels=8)
    needed = Region(far).needed(frame, directions, plan.offsets, 0.0)
    np.testing.assert_array_equal(needed, [[21, 22], [0, 1]])


def test_a_box_holds_its_own_parts_only() -> None:
    whole = turned_box()
    part = Region(whole.box_to_ras @ np.diag([0.5, 0.9, 1.0, 1.0]))
    moved = whole.box_to_ras.copy()
    moved[0, 3] += 1.0
    assert whole.holds(whole)
    assert whole.holds(part)
    assert not part.holds(whole)
    assert not whole.holds(Region(moved))
    for axis, shift in ((0, 0.2), (1, -0.2), (2, 0.2)):  # a face in [-1, 1] sticks out at one end alone
        offset = np.diag([0.9, 0.9, 0.9, 1.0])
        offset[axis, 3] = shift
        assert not whole.holds(Region(whole.box_to_ras @ offset))


def test_the_needed_slices_are_those_of_the_whole_stack() -> None:
    array = np.random.default_rng(0).random((20, 22, 24), dtype=np.float32)
    source = SliceSource.from_volume(Volume(array, np.diag([2.0, 2.0, 2.0, 1.0])))
    needed = np.array([[0, 18], [5, 9], [17, 18], [3, 16]])
    whole = SlicePlan(physical_frame([23, 21, 19], 30.0), hemisphere(4), slices=16, pixels=12)
    plan = SlicePlan(whole.frame_to_ras, whole.directions, 16, 12, needed)
    np.testing.assert_array_equal(plan.counts, [18, 4, 1, 13])
    stacks = sample_slices(source, whole, slice(0, 4)).unflatten(0, (4, -1)).numpy()
    expected = np.concatenate([stack[first:stop] for stack, (first, stop) in zip(stacks, needed, strict=True)])
    # Trilinear weights in float32 from coordinates of about 20.
    np.testing.assert_allclose(sample_slices(source, plan, slice(0, 4)), expected, atol=2e-5)
    np.testing.assert_allclose(sample_slices(source, plan, slice(1, 3)), expected[18:23], atol=2e-5)
