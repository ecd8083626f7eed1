"""Plans and slices: every number here can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.analytic import grid_around, make_blobs
from tests.reference import basis, normalized_to_index, physical_to_index, take_slice
from tonno_core.slicing.directions import hemisphere, sphere
from tonno_core.slicing.frame import normalized_frame, physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceCutter, SliceSource, _plane_to_ijk, half_will_do, sample_slices
from tonno_core.volume.atlas import Atlas
from tonno_core.volume.volume import Volume

EVERY = slice(None)


def slices_of(volume: Volume, plan: SlicePlan, fill: float = 0.0, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """All slices of all directions: L T V U."""
    slices = sample_slices(SliceSource.from_volume(volume, fills=(fill,), dtype=dtype), plan, EVERY)
    return slices.unflatten(0, (len(plan.directions), -1)).numpy()


def rotation_about_k(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_offsets_are_m_slices_and_one_more_at_each_end() -> None:
    plan = SlicePlan(np.eye(4), hemisphere(1), slices=5, pixels=8)
    np.testing.assert_allclose(plan.offsets, [-1.5, -1, -0.5, 0, 0.5, 1, 1.5], atol=1e-15)
    assert plan.step == 0.5


def test_planes_that_matter_are_counted_by_direction() -> None:
    plan = SlicePlan(np.eye(4), hemisphere(3), slices=5, pixels=8)
    np.testing.assert_array_equal(plan.counts, [7, 7, 7])
    some = replace(plan, needed=np.array([[0, 7], [2, 5], [6, 6]]))
    np.testing.assert_array_equal(some.counts, [7, 3, 0])


def test_frame_to_slice_gives_the_coordinates_along_u_v_n() -> None:
    plan = SlicePlan(np.eye(4), sphere(20), slices=5, pixels=8)
    point = np.array([0.3, -0.2, 0.5])
    for normal, matrix in zip(plan.directions, plan.frame_to_slice(EVERY), strict=True):
        u, v = basis(normal)
        np.testing.assert_allclose(matrix @ point, [point @ u, point @ v, point @ normal], atol=1e-14)


def test_slice_to_frame_turns_back_what_frame_to_slice_turned() -> None:
    plan = SlicePlan(np.eye(4), sphere(20), slices=5, pixels=8)
    forth, back = plan.slice_to_frame(EVERY), plan.frame_to_slice(EVERY)
    # (column, row, offset) run over [-1, 1] from first to last sample; the offsets' ends are at +-(1 + step).
    stretch = np.diag([1, 1, 1 + plan.step])
    np.testing.assert_allclose(back @ forth[:, :3, :3], np.broadcast_to(stretch, (20, 3, 3)), atol=1e-14)
    np.testing.assert_array_equal(forth[:, 3], np.broadcast_to([0, 0, 0, 1], (20, 4)))
    np.testing.assert_array_equal(forth[:, :3, 3], 0)


def test_a_ramp_is_seen_with_rows_along_u_and_columns_along_v() -> None:
    # Trilinear interpolation is exact for a linear function: V(x) = 3 x_R - 2 x_A + 5 x_S + 7 in mm.
    weights, constant = np.array([3.0, -2.0, 5.0]), 7.0
    ijk_to_ras = grid_around((5, 6, 7), (40, 44, 48), (1.0, 1.3, 1.6), turn_degrees=(25, 15, -40), left_handed=True)
    k, j, i = np.meshgrid(np.arange(40), np.arange(44), np.arange(48), indexing="ij")
    ras = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ ijk_to_ras.T
    volume = Volume((ras[..., :3] @ weights + constant).astype(np.float32), ijk_to_ras)

    # The slices' corners lie at most sqrt(1 + 1 + 1.4^2) * 8 = 16 mm from the centre: inside the volume.
    plan = SlicePlan(physical_frame([5, 6, 7], 8.0), sphere(15), slices=6, pixels=9)
    found = slices_of(volume, plan)

    column = np.linspace(-1, 1, 9)
    for direction, normal in enumerate(plan.directions):
        u, v = basis(normal)
        for t, s in enumerate(plan.offsets):
            along_v, along_u = np.meshgrid(column, column, indexing="ij")  # [row, column]
            frame = s * normal + along_u[..., None] * u + along_v[..., None] * v
            expected = (frame * 8.0 + [5, 6, 7]) @ weights + constant
            # The voxels are float32, up to 400: steps of 3e-5.
            np.testing.assert_allclose(found[direction, t], expected, atol=1e-4)


@pytest.mark.parametrize("frame", ["normalized", "physical"])
def test_slices_agree_with_the_reference(frame: str) -> None:
    shape = (7, 9, 6)
    ijk_to_ras = grid_around((1, 2, 3), shape, (1.0, 1.5, 2.5), turn_degrees=(25, 15, -40), left_handed=True)
    volume = Volume(np.random.default_rng(0).random(shape, dtype=np.float32), ijk_to_ras)
    if frame == "normalized":
        frame_to_ras, to_index = normalized_frame(volume), normalized_to_index(shape)
    else:
        centre = np.array([2.0, 1.0, 3.0])
        frame_to_ras, to_index = physical_frame(centre, 9.0), physical_to_index(ijk_to_ras, centre, 9.0)
    plan = SlicePlan(frame_to_ras, sphere(9), slices=4, pixels=11)
    found = slices_of(volume, plan)
    for direction, normal in enumerate(plan.directions):
        for t, s in enumerate(plan.offsets):
            expected = take_slice(volume.array.astype(np.float64), to_index, normal, s, 11)
            # Both in float64. A pixel exactly on the zero-padded border may fall on either side: it is 0 there.
            np.testing.assert_allclose(found[direction, t], expected, atol=1e-9)


def test_a_voxel_appears_at_its_own_pixel() -> None:
    # Direction z: u = y, v = -x. The voxel at frame (x, y, z) = (0.5, -0.25, 0) is at column 3, row 2 of 9.
    array = np.zeros((17, 17, 17), dtype=np.float32)
    array[8, 6, 12] = 1.0  # k = 8, j = 6, i = 12: x = 12 / 8 - 1 = 0.5, y = 6 / 8 - 1 = -0.25
    plan = SlicePlan(physical_frame([8, 8, 8], 8.0), np.array([[0.0, 0.0, 1.0]]), slices=3, pixels=9)
    found = slices_of(Volume(array, np.eye(4)), plan)[0]
    assert np.argwhere(found).tolist() == [[2, 2, 3]]  # the middle offset; b = -x = -0.5, a = y = -0.25
    assert found[2, 2, 3] == pytest.approx(1.0, abs=1e-5)  # rounding of float coordinates


def test_a_cube_turned_by_45_degrees() -> None:
    # One pixel is one voxel. The slice across k of a 101^3 cube, seen in a frame turned about k.
    array = np.zeros((121, 161, 161), dtype=np.float32)
    array[10:111, 30:131, 30:131] = 1.0
    frame = physical_frame([80, 80, 60], 80.0) @ rotation_about_k(45.0)
    plan = SlicePlan(frame, np.array([[0.0, 0.0, 1.0]]), slices=3, pixels=161)
    middle = slices_of(Volume(array, np.eye(4)), plan)[0, 2]
    # The corners of the diagonal, ceil(101 sqrt 2) = 143 pixels, are half empty pixels on either side.
    assert abs(int((middle[80] > 0.01).sum()) - 143) <= 2
    assert abs(int((middle[:, 80] > 0.01).sum()) - 143) <= 2
    # A turned square keeps its area; sampling errors of its four straight edges average out.
    np.testing.assert_allclose(middle.sum(), 101**2, rtol=1e-3)
    # Unturned it is the square itself.
    plain = SlicePlan(physical_frame([80, 80, 60], 80.0), plan.directions, slices=3, pixels=161)
    # (to the rounding of float64 coordinates).
    assert slices_of(Volume(array, np.eye(4)), plain)[0, 2].sum() == pytest.approx(101**2, rel=1e-9)


def test_the_diagonal_slice_of_a_cube_is_a_rectangle() -> None:
    # x + y = const through the middle of a cube of side 41: 41 along k. Along the diagonal, where both i and j
    # fade, the last voxel's t * t holds a third of it at each end instead of a half: (40 + 2/3) sqrt 2.
    array = np.zeros((81, 81, 81), dtype=np.float32)
    array[20:61, 20:61, 20:61] = 1.0
    plan = SlicePlan(physical_frame([40, 40, 40], 40.0), np.array([[0.5, 0.5, 0.0]]) ** 0.5, slices=3, pixels=81)
    middle = slices_of(Volume(array, np.eye(4)), plan)[0, 2]
    # One pixel per 1 mm samples the fading ends: 4e-4 measured.
    np.testing.assert_allclose(middle.sum(), 41 * (40 + 2 / 3) * np.sqrt(2), rtol=1e-3)


@pytest.mark.parametrize("fill", [0.0, -0.75])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_volumes_and_gpus_see_the_same_slices(dtype: torch.dtype, fill: float) -> None:
    # The CPU's atlas is left out where the volume is too large for it, and on every other device.
    shape = (13, 9, 11)
    array = np.random.default_rng(4).random(shape, dtype=np.float32)
    volume = Volume(array, grid_around((1, 2, 3), shape, (1, 2, 1.5)))
    plan = SlicePlan(physical_frame([2, 1, 3], 9.0), sphere(12), slices=7, pixels=13)
    source = SliceSource.from_volume(volume, fills=(fill,), dtype=dtype)
    assert source.atlas is not None
    usual = sample_slices(source, plan, EVERY)
    plain = sample_slices(replace(source, atlas=None), plan, EVERY)
    # float32 coordinates in an atlas of some 60 pixels: 60 * 6e-8 of a voxel, several roundings.
    torch.testing.assert_close(plain, usual, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-12)
    assert plain.std() > 0.1


def test_slices_are_linear_in_the_volume() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 6, 7, 8), dtype=np.float32)
    plan = SlicePlan(physical_frame([3, 3, 3], 4.0), sphere(7), slices=4, pixels=10)
    both = slices_of(Volume(2 * first + second, np.eye(4)), plan)
    parts = 2 * slices_of(Volume(first, np.eye(4)), plan) + slices_of(Volume(second, np.eye(4)), plan)
    np.testing.assert_allclose(both, parts, atol=1e-6)  # the sum of voxels is rounded to float32


def test_outside_the_volume_is_fill() -> None:
    # Half of what lies between an outermost voxel and the next, missing one is fill.
    volume = Volume(np.full((5, 5, 5), 3.0, dtype=np.float32), np.eye(4))
    plan = SlicePlan(physical_frame([2, 2, 2], 4.0), np.array([[0.0, 0.0, 1.0]]), slices=3, pixels=17)
    middle = slices_of(volume, plan, fill=-1.0)[0, 2]  # pixels of 0.5 mm from -2 to 6 along i and j
    np.testing.assert_allclose(middle[8], [-1, -1, -1, 1, *[3] * 9, 1, -1, -1, -1], atol=1e-12)
    assert (slices_of(volume, plan, fill=-1.0)[0, [0, 4]] == -1.0).all()  # 8 mm away: nothing but fill


def test_which_directions_are_asked_does_not_change_them() -> None:
    shape = (12, 12, 12)
    volume = make_blobs(0, 3, reach=4, sigmas=(2, 3)).on_grid(shape, grid_around((0, 0, 0), shape, (1, 1, 1)))
    plan = SlicePlan(physical_frame([0, 0, 0], 6.0), sphere(9), slices=4, pixels=8)
    source = SliceSource.from_volume(volume)
    whole = sample_slices(source, plan, EVERY)
    parts = [sample_slices(source, plan, slice(start, start + 4)) for start in (0, 4, 8)]
    assert torch.equal(whole, torch.cat(parts))


def test_float32_slices_are_as_good_as_float64() -> None:
    shape = (64, 64, 64)
    volume = make_blobs(0, 3, reach=20, sigmas=(4, 6)).on_grid(shape, grid_around((0, 0, 0), shape, (1, 1, 1)))
    plan = SlicePlan(physical_frame([0, 0, 0], 32.0), sphere(5), slices=8, pixels=32)
    coarse, fine = slices_of(volume, plan, dtype=torch.float32), slices_of(volume, plan)
    # Coordinates near 1 have steps of 6e-8, times 32 voxels: 2e-6 of a voxel.
    np.testing.assert_allclose(coarse, fine, atol=1e-5)


@pytest.mark.parametrize("pixels", [6, 7])
def test_planes_of_a_gpu_lie_where_the_plan_says(pixels: int) -> None:
    """What is copied to CUDA, without CUDA: where pixels, counted from a slice's middle, lie in the volume."""
    shape = (9, 8, 7)
    volume = Volume(
        np.ones(shape, np.float32), grid_around((3, -2, 5), shape, (1.0, 2.0, 1.5), turn_degrees=(10, 20, -30))
    )
    plan = SlicePlan(physical_frame([1, 2, 3], 9.0), hemisphere(3), 5, pixels, shift=0.1)
    shown = np.array([[0, 7], [2, 5], [6, 7]])
    source = SliceSource.from_volume(volume, dtype=torch.float64)
    found = iter(_plane_to_ijk(source, plan, shown))
    pixel = 2.0 / (pixels - 1)  # in frame units
    for (u, v, normal), (first, stop) in zip(plan.frame_to_slice(slice(None)), shown, strict=True):
        for offset in plan.offsets[first:stop]:
            placed = next(found) @ [1.5, -0.5, 1.0]
            point = 1.5 * pixel * u - 0.5 * pixel * v + (offset + plan.shift) * normal
            expected = np.linalg.inv(volume.ijk_to_ras) @ plan.frame_to_ras @ [*point, 1.0]
            np.testing.assert_allclose(placed, expected[:3], atol=1e-12)
    assert next(found, None) is None


def plain_kernel(voxels: torch.Tensor, affines: torch.Tensor, pixels: int, fill: float) -> torch.Tensor:
    """Do what `slicing.kernel.sample_planes` does, by torch."""
    along = torch.arange(pixels) - (pixels - 1) / 2
    row, column = torch.meshgrid(along, along, indexing="ij")
    ijk = torch.stack([column, row, torch.ones_like(row)], dim=-1) @ affines.transpose(1, 2)[:, None]
    points = ijk * (2.0 / (torch.tensor(voxels.shape[::-1]) - 1.0)) - 1.0
    return F.grid_sample(voxels[None, None], points[None], align_corners=True)[0, 0] + fill


@pytest.mark.parametrize(("channels", "shifts"), [(1, ()), (1, (-0.2, 0.0, 0.3)), (3, ())])
def test_slices_may_be_cut_in_any_batches_and_by_a_kernel(channels: int, shifts: tuple[float, ...]) -> None:
    shape, fills = (13, 9, 11), (-0.5, 0.25, 2.0)[:channels]
    first, *further = np.random.default_rng(4).random((channels, *shape), dtype=np.float32)
    matrix = grid_around((1, 2, 3), shape, (1, 2, 1.5), turn_degrees=(25, 15, -40), left_handed=True)
    plain = SliceSource.from_volume(Volume(first, matrix, further=tuple(further)), fills=fills)
    plan = SlicePlan(physical_frame([2, 1, 3], 14.0), sphere(6), 7, 13)
    found = []
    for source in (plain, replace(plain, atlas=None, kernel=plain_kernel)):
        cutter = SliceCutter(source, plan, shifts)
        found.append(cutter.cut(slice(0, 6)))
        parts = [cutter.cut(which) for which in (slice(0, 2), slice(2, 2), slice(2, 3), slice(3, 6))]
        torch.testing.assert_close(torch.cat(parts), found[-1], rtol=0, atol=0)
    # float32 positions among 13 voxels, whose values are up to 1.
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=2e-5)


def test_a_slice_shows_nothing_if_all_of_it_is_fill() -> None:
    volume = Volume(np.zeros((3, 3, 3), dtype=np.float32), np.eye(4))
    for channels in (1, 2):
        several = Volume(volume.array, volume.ijk_to_ras, further=(volume.array,) * (channels - 1))
        source = SliceSource.from_volume(several, fills=(-1.0, 2.0)[:channels])
        slices = torch.as_tensor(source.fill).expand(6, channels, 4, 4).clone()
        slices[1, 0, 2, 3] -= 1
        slices[2, 0, 0, 0] += 1
        slices[3, -1, 1, 1] += 1
        slices[4, -1, 1, 1] -= 1
        expected = [True, False, False, False, False, True]
        assert source.shows_nothing(slices if channels > 1 else slices[:, 0]).tolist() == expected


def test_a_volume_too_large_for_an_atlas_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    volume = Volume(np.ones((3, 3, 3), dtype=np.float32), np.eye(4))
    assert SliceSource.from_volume(volume).atlas is not None
    monkeypatch.setattr(Atlas, "fits", lambda *_: False)
    assert SliceSource.from_volume(volume).atlas is None


def test_float16_does_for_magnitudes_from_a_16th_to_2048() -> None:
    for largest, does in ((2.0**-5, False), (2.0**-4, True), (2048.0, True), (4096.0, False)):
        for sign in (1, -1):
            assert half_will_do(np.array([0.0, sign * largest], dtype=np.float32)) is does
