"""Sums over directions, on objects whose backprojection is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.reference import in_map
from tonno_core.slicing.directions import hemisphere, sphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography import backprojection, grid
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.tomography.maps import AtlasMaps
from tonno_core.tomography.profiles import RowProfiles
from tonno_core.volume.grid import ijk_to_grid

SHAPE = (6, 7, 8)
EVERY = slice(None)


def nodes(shape: tuple[int, int, int]) -> np.ndarray:
    """Z Y X 3: frame coordinates (x, y, z) of a grid over [-1, 1]^3."""
    z, y, x = (np.linspace(-1, 1, n) for n in shape)
    k, j, i = np.meshgrid(z, y, x, indexing="ij")
    return np.stack([i, j, k], axis=-1)


def backprojector(shape: tuple[int, int, int] = SHAPE, **options: float) -> Backprojector:
    return Backprojector(TargetGrid(shape, ijk_to_grid(shape[::-1]), **options), torch.zeros((), dtype=torch.float64))


def plan_of(normals: np.ndarray, slices: int = 9, pixels: int = 16) -> SlicePlan:
    return SlicePlan(np.eye(4), normals, slices, pixels)


def random_maps(directions: int, slices: int = 9, cells: int = 4, channels: int = 1) -> torch.Tensor:
    shape = (directions, channels, slices, cells, cells)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_profile_is_laid_across_its_direction() -> None:
    normals = sphere(12)[3:4]
    target = backprojector()
    target.add_profiles(torch.linspace(-1, 1, 9, dtype=torch.float64)[None], plan_of(normals), EVERY)
    along = nodes(SHAPE) @ normals[0]
    # Linear interpolation is exact for a line; beyond the outermost plane there is nothing.
    np.testing.assert_allclose(target.profile_mean, np.where(np.abs(along) <= 1, along, 0), atol=1e-12)


def test_a_profile_is_interpolated_between_its_samples() -> None:
    target = backprojector((2, 2, 9))
    plan = plan_of(np.array([[1.0, 0.0, 0.0]]), slices=3)
    target.add_profiles(torch.tensor([[0.0, 4.0, 2.0]], dtype=torch.float64), plan, EVERY)
    np.testing.assert_allclose(target.profile_mean[0, 0], [0, 1, 2, 3, 4, 3.5, 3, 2.5, 2], atol=1e-12)


def test_the_cosine_square_law() -> None:
    # The mean of (x . n)^2 over all directions is |x|^2 / 3.
    normals = hemisphere(2000)
    target = backprojector((5, 5, 5))
    offsets = torch.linspace(-1, 1, 401, dtype=torch.float64)
    target.add_profiles((offsets**2).expand(2000, -1), plan_of(normals, slices=401), EVERY)
    radius2 = (nodes((5, 5, 5)) ** 2).sum(-1)
    inside = radius2 <= 1
    # 2000 directions hold the second moment to 2e-4, the profile's chords to (1 / 200)^2 / 8.
    np.testing.assert_allclose(target.profile_mean.numpy()[inside], radius2[inside] / 3, atol=3e-4)


def test_beyond_the_ball_a_share_of_1_by_r_contributes() -> None:
    # A constant profile: |x . n| <= 1 holds for a fraction 1 / r of the directions.
    target = backprojector((3, 3, 3))
    target.add_profiles(torch.ones(4000, 5, dtype=torch.float64), plan_of(hemisphere(4000), slices=5), EVERY)
    found = target.profile_mean
    assert found[1, 1, 1] == 1
    assert found[1, 1, 2] == pytest.approx(1)  # on the ball itself
    assert found[1, 2, 2] == pytest.approx(1 / np.sqrt(2), abs=0.002)  # 4000 points count areas to about 1 / 4000
    assert found[2, 2, 2] == pytest.approx(1 / np.sqrt(3), abs=0.002)


def test_the_outermost_planes_are_not_lost_to_rounding() -> None:
    target = Backprojector(TargetGrid((9, 9, 9), ijk_to_grid((9, 9, 9))), torch.zeros(()))
    normals = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]])
    target.add_profiles(torch.ones(3, 7), plan_of(normals, slices=7), EVERY)
    target.add_maps(torch.ones(3, 1, 7, 4, 4), plan_of(normals, slices=7), EVERY)
    np.testing.assert_allclose(target.profile_mean, 1, atol=1e-6)  # float32
    np.testing.assert_allclose(target.map_mean[0], 1, atol=1e-6)


def test_a_map_that_is_linear_in_a_b_s_is_that_function_of_space() -> None:
    # 4 cells of 4 pixels of 16: their centres are pixels 1.5, 5.5, 9.5, 13.5, at (2 t - 15) / 15.
    normals = sphere(12)[4:5]
    plan = plan_of(normals)
    centres = torch.tensor([-12.0, -4.0, 4.0, 12.0], dtype=torch.float64) / 15
    offsets = torch.linspace(-1, 1, 9, dtype=torch.float64)
    maps = offsets[:, None, None] + 10 * centres[:, None] + 100 * centres  # s + 10 b + 100 a; rows run along v
    target = backprojector()
    target.add_maps(maps[None, None], plan, EVERY)
    a, b, s = np.moveaxis(nodes(SHAPE) @ plan.frame_to_slice(EVERY)[0].T, -1, 0)
    # Between the outermost centres and the window's edge the outermost value goes on; outside there is nothing.
    expected = s + 10 * np.clip(b, -0.8, 0.8) + 100 * np.clip(a, -0.8, 0.8)
    expected[np.max(np.abs([a, b, s]), axis=0) > 1] = 0
    assert (np.abs(a) > 0.8).any()
    assert (expected == 0).any()
    np.testing.assert_allclose(target.map_mean[0], expected, atol=1e-10)


@pytest.mark.parametrize(("pixels", "cells"), [(16, 4), (16, 5), (9, 9), (32, 1)])
def test_maps_agree_with_the_reference(pixels: int, cells: int) -> None:
    plan = plan_of(sphere(7), slices=3, pixels=pixels)
    maps = random_maps(7, slices=3, cells=cells)
    maps[:, :, 0] = maps[:, :, 2] = maps[:, :, 1]  # the same on all offsets: what counts is a and b
    target = backprojector()
    target.add_maps(maps, plan, EVERY)
    expected = np.zeros(SHAPE)
    points = nodes(SHAPE)
    for direction, matrix in enumerate(plan.frame_to_slice(EVERY)):
        for voxel in np.ndindex(SHAPE):
            a, b, s = matrix @ points[voxel]
            if abs(s) <= 1:
                expected[voxel] += in_map(maps[direction, 0, 1].numpy(), pixels, a, b) / 7
    np.testing.assert_allclose(target.map_mean[0], expected, atol=1e-12)


def test_channels_do_not_mix() -> None:
    plan = plan_of(sphere(5))
    maps = random_maps(5, channels=3)
    target = backprojector()
    target.add_maps(maps, plan, EVERY)
    for channel in range(3):
        alone = backprojector()
        alone.add_maps(maps[:, channel : channel + 1], plan, EVERY)
        torch.testing.assert_close(target.map_mean[channel], alone.map_mean[0], rtol=0, atol=1e-13)


def test_it_is_linear() -> None:
    plan = plan_of(sphere(5))
    first, second = random_maps(5), random_maps(5).flip(0)
    results = []
    for maps in (first, second, 2 * first + 3 * second):
        target = backprojector()
        target.add_maps(maps, plan, EVERY)
        target.add_profiles(maps[:, 0, :, 0, 0], plan, EVERY)
        results.append(torch.stack([target.map_mean[0], target.profile_mean]))
    torch.testing.assert_close(results[2], 2 * results[0] + 3 * results[1], rtol=0, atol=1e-12)


def test_directions_may_come_in_any_batches() -> None:
    plan = plan_of(sphere(7))
    maps = random_maps(7)
    whole, streamed = backprojector(), backprojector()
    whole.add_maps(maps, plan, slice(0, 7))
    whole.add_profiles(maps[:, 0, :, 1, 2], plan, EVERY)
    for which in (slice(0, 1), slice(1, 5), slice(5, 7)):
        streamed.add_maps(maps[which], plan, which)
        streamed.add_profiles(maps[which][:, 0, :, 1, 2], plan, which)
    torch.testing.assert_close(streamed.map_mean, whole.map_mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(streamed.profile_mean, whole.profile_mean, rtol=0, atol=1e-13)


@pytest.mark.parametrize("points", [10, 60, 200])
def test_a_grid_too_large_for_memory_is_done_in_slabs(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(sphere(7))
    maps = random_maps(7)
    results = []
    for limit in (grid.POINTS, points):
        monkeypatch.setattr(grid, "POINTS", limit)
        target = backprojector(radius=1.1)
        target.add_maps(maps, plan, EVERY)
        target.add_profiles(maps[:, 0, :, 1, 2], plan, EVERY)
        results.append(torch.stack([target.map_mean[0], target.profile_mean]))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-13)


@pytest.mark.parametrize("radius", [0.5, 0.9])
def test_nodes_beyond_the_radius_are_left_out(radius: float) -> None:
    plan = plan_of(sphere(7))
    near, everywhere = backprojector(radius=radius), backprojector()
    for target in (near, everywhere):
        target.add_maps(random_maps(7), plan, EVERY)
        target.add_profiles(random_maps(7)[:, 0, :, 1, 2], plan, EVERY)
    inside = np.linalg.norm(nodes(SHAPE), axis=-1) <= radius
    assert 0 < inside.mean() < 0.9
    for found, whole in ((near.map_mean[0], everywhere.map_mean[0]), (near.profile_mean, everywhere.profile_mean)):
        np.testing.assert_allclose(found, np.where(inside, whole, 0), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nodes_outside_a_box_are_left_out_and_its_faces_kept(dtype: torch.dtype) -> None:
    box_to_frame = np.eye(4)
    box_to_frame[:3, :3] = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0] @ np.diag([0.3, 0.5, 0.4])
    box_to_frame[:3, 3] = 0.3, -0.2, 0.1
    ijk_to_box = np.diag([0.5, 0.5, 0.5, 1.0])
    ijk_to_box[:3, 3] = -1.5, -1.0, -2.0
    target = TargetGrid((9, 5, 6), box_to_frame @ ijk_to_box, frame_to_box=np.linalg.inv(box_to_frame))
    mask = Nodes(target, torch.empty(0, dtype=dtype)).mask()
    z, y, x = (np.abs(np.arange(count) / 2.0 - start) <= 1.0 for count, start in ((9, 2.0), (5, 1.0), (6, 1.5)))
    assert mask is not None
    np.testing.assert_array_equal(mask, z[:, None, None] & y[:, None] & x)


def test_a_cpu_takes_the_fast_ways() -> None:
    """They give the numbers of the references, so that nothing but time would tell."""
    assert backprojection._implementations(torch.empty(0)) == (RowProfiles, AtlasMaps)


def test_nothing_added_has_no_mean() -> None:
    target = backprojector()
    with pytest.raises(ValueError, match="no profiles"):
        _ = target.profile_mean
    with pytest.raises(ValueError, match="no maps"):
        _ = target.map_mean
