"""What is skipped because it is fill: it must change no sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.analytic import grid_around
from tests.reference import trilinear
from tonno_core.slicing.content import Content, bounding_box
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceCutter, SliceSource, sample_slices
from tonno_core.volume.volume import Volume


def test_the_box_holds_all_that_is_not_zero() -> None:
    array = np.zeros((6, 7, 8), dtype=np.float32)
    array[2, 3, 4] = array[4, 3, 6] = 1.0
    matrix = grid_around((1, 2, 3), (6, 7, 8), (1, 2, 3), turn_degrees=(10, 20, 30), left_handed=True)
    box = bounding_box(Volume(array, matrix))
    assert box.array.shape == (3, 2, 3)  # at least two along each axis
    assert box.array.sum() == 2.0
    # The same voxel lies at the same place.
    k, j, i = np.argwhere(box.array)[0]
    np.testing.assert_allclose(box.ijk_to_ras @ [i, j, k, 1], matrix @ [4, 3, 2, 1], atol=1e-12)
    assert bounding_box(Volume(np.zeros_like(array), matrix)).array.shape == (2, 2, 2)


def test_the_box_holds_all_that_is_not_fill() -> None:
    array = np.full((6, 7, 8), -1.5, dtype=np.float32)
    array[2, 3, 4], array[4, 3, 6] = 1.0, 0.0
    box, plain = bounding_box(Volume(array, np.eye(4)), (-1.5,)), bounding_box(Volume(array + 1.5, np.eye(4)))
    np.testing.assert_array_equal(box.array, plain.array)  # fill is taken off
    np.testing.assert_array_equal(box.ijk_to_ras, plain.ijk_to_ras)
    assert array.min() == -1.5  # of the copy alone


def test_the_box_holds_what_any_channel_shows() -> None:
    first, second, third = (np.full((6, 7, 8), fill, dtype=np.float32) for fill in (0.0, 2.0, -3.0))
    first[2, 3, 4] = second[4, 3, 4] = third[2, 3, 1] = 1.0
    box = bounding_box(Volume(first, np.eye(4), further=(second, third)), (0.0, 2.0, -3.0))
    assert box.array.shape == (3, 2, 4)
    np.testing.assert_array_equal(box.ijk_to_ras[:3, 3], [1, 3, 2])
    for channel, place, value in zip(box.channels, [(0, 0, 3), (2, 0, 3), (0, 0, 0)], [1.0, -1.0, 4.0], strict=True):
        assert channel[place] == value and np.count_nonzero(channel) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_box_of_the_last_plane_has_the_one_before_it(axis: int) -> None:
    array = np.zeros((6, 7, 8), dtype=np.float32)
    array[tuple(-1 if each == axis else slice(None) for each in range(3))] = 1.0
    box = bounding_box(Volume(array, np.eye(4)))
    assert box.array.shape[axis] == 2
    assert box.ijk_to_ras[2 - axis, 3] == array.shape[axis] - 2


def test_the_hull_is_spanned_by_the_ends_of_rows_in_any_channel() -> None:
    first, second = np.zeros((2, 5, 6, 9), dtype=np.float32)
    first[1, 2, 3:5] = 1.0
    second[1, 2, 7] = second[4, 5, 6] = -1.0
    matrix = grid_around((1, 2, 3), (5, 6, 9), (1, 2, 3), turn_degrees=(10, 20, 30))
    expected = np.array([[3, 2, 1, 1], [7, 2, 1, 1], [6, 5, 4, 1]]) @ matrix.T  # i j k
    found = Content.of(Volume(first, matrix, further=(second,)))
    np.testing.assert_allclose(np.unique(found.corners_ras, axis=0), np.unique(expected[:, :3], axis=0), atol=1e-12)
    # Of more points than `_FEW`, those inside are left out.
    assert len(Content.of(Volume(np.ones((9, 9, 9), dtype=np.float32), np.eye(4))).corners_ras) == 8


def test_an_empty_volume_has_nothing_to_sample() -> None:
    plan = SlicePlan(physical_frame([2, 2, 2], 3.0), hemisphere(3), slices=5, pixels=8)
    content = Content.of(Volume(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4)))
    assert not content.shown(plan).any() and not content.windows(plan).any()
    assert content.shown(plan).shape == (3, 2) and content.windows(plan).shape == (3, 7, 2, 2)
    source = SliceSource.from_volume(Volume(np.full((4, 4, 4), 2.0, dtype=np.float32), np.eye(4)), fills=(2.0,))
    assert (sample_slices(source, plan, slice(None)) == 2.0).all()


def test_a_voxel_is_shown_by_the_planes_it_reaches_and_none_beyond_the_last() -> None:
    array = np.zeros((5, 5, 5), dtype=np.float32)
    array[2, 2, 2] = 1.0
    content = Content.of(Volume(array, np.eye(4)))
    # It reaches 1 mm, a third of the frame's 3 mm: from s = -1/3 to 1/3, which are offsets 3 and 5 of -1 to 7 by 1/3.
    # Those on its very ends count, as they may be inside but for rounding.
    plan = SlicePlan(physical_frame([2, 2, 2], 3.0), np.eye(3), slices=7, pixels=8)
    np.testing.assert_array_equal(content.shown(plan), [[3, 6]] * 3)
    # 1 mm to the side: from 0 to 2/3.
    np.testing.assert_array_equal(content.shown(replace(plan, shift=-1 / 3)), [[4, 7]] * 3)
    # Of a frame of half a millimetre all of the 9 planes, and there are no more.
    near = replace(plan, frame_to_ras=physical_frame([2, 2, 2], 0.5))
    np.testing.assert_array_equal(content.shown(near), [[0, 9]] * 3)
    np.testing.assert_array_equal(content.shown(replace(near, shift=100.0)), [[0, 0]] * 3)
    np.testing.assert_array_equal(content.shown(replace(near, shift=-100.0)), [[9, 9]] * 3)


def test_a_voxel_is_shown_by_the_pixels_it_reaches() -> None:
    array = np.zeros((5, 5, 5), dtype=np.float32)
    array[2, 2, 2] = 1.0
    # Pixels of a millimetre at -3 to 3: it reaches those at -1 to 1, its very ends included, in the slices it is in.
    plan = SlicePlan(physical_frame([2, 2, 2], 3.0), np.eye(3), slices=7, pixels=7)
    windows = Content.of(Volume(array, np.eye(4))).windows(plan)
    np.testing.assert_array_equal(windows[:, 3:6], np.broadcast_to([2, 5], (3, 3, 2, 2)))
    # Planes that are moved by two thirds of a millimetre meet the same voxel elsewhere.
    moved = Content.of(Volume(array, np.eye(4))).windows(replace(plan, shift=2 / 9))
    np.testing.assert_array_equal(moved[:, 3:5], np.broadcast_to([2, 5], (3, 2, 2, 2)))


def every_sample(volume: Volume, plan: SlicePlan) -> np.ndarray:
    """Slices N V U without any shortcut."""
    side = np.linspace(-1, 1, plan.pixels)
    ras_to_ijk = np.linalg.inv(volume.ijk_to_ras) @ plan.frame_to_ras
    stacks = []
    for u, v, normal in plan.frame_to_slice(slice(None)):
        points = (plan.offsets + plan.shift)[:, None, None, None] * normal + side[:, None, None] * v + side[:, None] * u
        ijk = points.reshape(-1, 3) @ ras_to_ijk[:3, :3].T + ras_to_ijk[:3, 3]
        values = trilinear(volume.array.astype(np.float64), ijk[:, ::-1])
        stacks.append(values.reshape(len(plan.offsets), plan.pixels, plan.pixels))
    return np.concatenate(stacks)


# Along the axes and next to them (the first of the hemisphere's 400), where a slice can graze a face of the content;
# and some across. 21 + 2 and 22 + 2 offsets leave runs of one and two slices.
NORMALS = np.concatenate([np.eye(3), hemisphere(400)[:8], hemisphere(23)])


@pytest.mark.parametrize("slices", [2, 21, 22, 42])
@pytest.mark.parametrize("fraction", [1.0, 0.4, 0.05])
def test_nothing_is_lost(fraction: float, slices: int) -> None:
    rng = np.random.default_rng(int(100 * fraction))
    shape = (14, 12, 16)
    array = rng.random(shape, dtype=np.float32) + 1.0
    if fraction < 1.0:  # content in a corner of the volume, ragged
        k, j, i = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
        array[k + j + 0.5 * i > 2.5 * fraction] = 0.0
    volume = Volume(array, grid_around((3, 2, 1), shape, (1.5, 2.0, 1.0), turn_degrees=(0, 0, 20)))
    source = SliceSource.from_volume(volume, dtype=torch.float64)
    for shift in (0.0, 0.3):
        plan = SlicePlan(physical_frame([2, 3, 1], 14.0), NORMALS, slices, 15, shift=shift)
        np.testing.assert_allclose(sample_slices(source, plan, slice(None)), every_sample(volume, plan), atol=1e-9)


@pytest.mark.parametrize("needed", [None, (3, 17)])
@pytest.mark.parametrize("shape", ["ball", "plane", "voxel"])
def test_slices_that_are_not_cut_show_nothing(shape: str, needed: tuple[int, int] | None) -> None:
    k, j, i = np.meshgrid(*(np.arange(20) - 9.5 for _ in range(3)), indexing="ij")
    content = {
        "ball": i**2 + j**2 + k**2 < 40,
        "plane": (k == 2.5) & (i**2 + j**2 < 60),
        "voxel": (i == 3.5) & (j == k),
    }
    array = np.where(content[shape], 1.0, 0.0).astype(np.float32)
    volume = Volume(array, grid_around((3, 2, 1), array.shape, (1.5, 2.0, 1.0), turn_degrees=(10, 20, 30)))
    limits = None if needed is None else np.tile(needed, (len(NORMALS), 1))
    plan = SlicePlan(physical_frame([2, 3, 1], 24.0), NORMALS, 22, 49, limits)
    cutter = SliceCutter(SliceSource.from_volume(volume, dtype=torch.float64), plan)
    whole = every_sample(volume, plan).reshape(len(NORMALS), 24, 49, 49)
    offsets = np.arange(24)
    cut = (offsets >= cutter.shown[:, :1]) & (offsets < cutter.shown[:, 1:])
    wanted = (offsets >= plan.limits[:, :1]) & (offsets < plan.limits[:, 1:])
    np.testing.assert_allclose(cutter.cut(slice(0, len(NORMALS))), whole[cut], atol=1e-9)
    assert not whole[wanted & ~cut].any()
    # What may show something mostly does: of a ball all but what only the corner of a voxel's reach meets.
    shows = whole.any(axis=(2, 3)) & wanted
    assert (cut & ~shows).sum() <= (1 if shape == "ball" else 2) * len(NORMALS)


def test_a_slice_of_several_channels_is_cut_where_one_of_them_shows_something() -> None:
    shape = (14, 12, 16)
    volume = Volume(np.ones(shape, dtype=np.float32), grid_around((3, 2, 1), shape, (1.5, 2.0, 1.0)))
    plan, shifts = SlicePlan(physical_frame([2, 3, 1], 40.0), NORMALS, 30, 15), (-0.2, 0.0, 0.3)
    source = SliceSource.from_volume(volume, dtype=torch.float64)
    cutter = SliceCutter(source, plan, shifts)
    found = cutter.cut(slice(0, len(NORMALS)))
    assert found.shape[1:] == (3, 15, 15) and cutter.blank().shape == (1, 3, 15, 15)
    offsets = np.arange(32)
    cut = torch.as_tensor((offsets >= cutter.shown[:, :1]) & (offsets < cutter.shown[:, 1:])).flatten()
    for channel, shift in enumerate(shifts):
        alone = sample_slices(source, replace(plan, shift=shift), slice(None))
        torch.testing.assert_close(found[:, channel], alone[cut], rtol=0, atol=1e-12)
        assert not alone[~cut].any()


@pytest.mark.parametrize("slices", [64, 100])
def test_no_slice_is_lost_in_400_directions(slices: int) -> None:
    # A full volume, so that every offset within 0.9 of the ball shows something in every direction.
    shape = (24, 24, 24)
    volume = Volume(np.ones(shape, dtype=np.float32), grid_around((0, 0, 0), shape, (1, 1, 1)))
    plan = SlicePlan(physical_frame([0, 0, 0], 11.5), hemisphere(400), slices, 8)
    found = sample_slices(SliceSource.from_volume(volume), plan, slice(None)).unflatten(0, (400, -1))
    inner = torch.as_tensor(np.abs(plan.offsets) < 0.9)
    assert found[:, inner].amax(dim=(2, 3)).min() > 0.99  # ones, but for rounding
