"""grid_sample's conventions, and resampling between grids."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tests.reference import trilinear
from tonno_core.volume import grid
from tonno_core.volume.grid import affine_points, affine_slab, grid_to_ijk, ijk_to_grid, resample, slabs


def test_first_and_last_voxel_are_at_minus_one_and_one() -> None:
    matrix = ijk_to_grid((3, 5, 11))
    np.testing.assert_allclose(matrix @ [0, 0, 0, 1], [-1, -1, -1, 1])
    np.testing.assert_allclose(matrix @ [2, 4, 10, 1], [1, 1, 1, 1])
    np.testing.assert_allclose(matrix @ [1, 1, 1, 1], [0, -0.5, -0.8, 1])


def test_grid_and_ijk_round_trip() -> None:
    np.testing.assert_allclose(grid_to_ijk((3, 5, 11)) @ ijk_to_grid((3, 5, 11)), np.eye(4), atol=1e-15)


@pytest.mark.parametrize("size", [(1, 5, 5), (5, 1, 5), (5, 5, 1), (0, 2, 2)])
def test_an_axis_of_one_voxel_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 2 voxels"):
        ijk_to_grid(size)


@pytest.mark.parametrize("points_each", [1, 12, 13, 36, 1000])
def test_slabs_cover_every_plane_once(points_each: int) -> None:
    found = list(slabs((7, 3, 4), points_each))
    assert [z for slab in found for z in range(slab.start, slab.stop)] == list(range(7))
    assert all((slab.stop - slab.start) * 12 <= max(points_each, 12) for slab in found)


def test_points_of_a_slab_are_those_of_the_whole_grid() -> None:
    rng = np.random.default_rng(0)
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4))
    shape = (7, 3, 4)
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    expected = np.stack([i, j, k, np.ones_like(i)], axis=-1) @ matrix.T
    for points_each in (12, 24, 1000):  # slabs of one plane, of two and a rest, of all
        parts = []
        for slab in slabs(shape, points_each):
            theta = torch.as_tensor(affine_slab(matrix, shape, slab))[None]
            parts.append(affine_points(theta, (slab.stop - slab.start, 3, 4))[0])
        np.testing.assert_allclose(torch.cat(parts), expected[..., :3], atol=1e-12)


def test_affine_points_put_x_on_the_last_axis() -> None:
    points = affine_points(torch.eye(4)[None], (2, 3, 5))[0]
    assert points.shape == (2, 3, 5, 3)
    np.testing.assert_allclose(points[0, 0, :, 0], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(points[0, :, 0, 1], [-1, 0, 1])
    np.testing.assert_allclose(points[:, 0, 0, 2], [-1, 1])
    # One sample along an axis sits in its middle.
    assert affine_points(torch.eye(4)[None], (1, 1, 3))[0, 0, 0, :, 1:].abs().max() == 0


def random_image() -> torch.Tensor:
    return torch.rand((2, 6, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_resampling_on_the_own_grid_changes_nothing() -> None:
    image = random_image()
    torch.testing.assert_close(resample(image, np.eye(4), (6, 5, 7)), image, rtol=0, atol=1e-14)


def test_half_a_voxel_along_x_is_the_mean_of_neighbours() -> None:
    image = random_image()
    shift = np.eye(4)
    shift[0, 3] = 0.5
    found = resample(image, shift, (6, 5, 6))
    torch.testing.assert_close(found, (image[..., :-1] + image[..., 1:]) / 2, rtol=0, atol=1e-14)


def test_axes_may_be_exchanged_and_mirrored() -> None:
    # Target (i, j, k) is source (k, j, 6 - i) of a 5 x 5 x 7 image: X mirrored and exchanged with Z.
    image = torch.rand((1, 7, 5, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 6], [0, 0, 0, 1.0]])
    found = resample(image, matrix, (5, 5, 7))
    torch.testing.assert_close(found, image.flip(1).permute(0, 3, 2, 1), rtol=0, atol=1e-14)


def test_resampling_agrees_with_the_reference_and_ends_in_zeros() -> None:
    image = random_image()
    rng = np.random.default_rng(2)
    matrix = np.eye(4)
    matrix[:3, :3] += 0.4 * rng.normal(size=(3, 3))
    matrix[:3, 3] = rng.normal(size=3)
    shape = (5, 8, 6)
    found = resample(image, matrix, shape)
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    source = np.stack([i, j, k, np.ones_like(i)], axis=-1).reshape(-1, 4) @ matrix[:3].T
    for channel in range(2):
        expected = trilinear(image[channel].numpy(), source[:, ::-1]).reshape(shape)
        np.testing.assert_allclose(found[channel], expected, atol=1e-12)
    assert (found == 0).any()


def test_border_padding_goes_on_with_the_outermost_value() -> None:
    shift = np.eye(4)
    shift[2, 3] = 5.0  # from the last plane of six on
    found = resample(random_image(), shift, (3, 5, 7), padding="border")
    torch.testing.assert_close(found, random_image()[:, -1:].expand(-1, 3, -1, -1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_grids_with_parallel_axes_agree_with_the_reference(order: tuple[int, int, int]) -> None:
    """Scaled, mirrored and exchanged axes take a path of their own; samples before, on, between and after voxels."""
    image = random_image()
    matrix = np.zeros((4, 4))
    matrix[[0, 1, 2], order] = [0.6, -0.7, 1.5]
    matrix[:, 3] = [-0.8, 4.9, -1.2, 1.0]
    shape = (9, 8, 12)
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    source = np.stack([i, j, k, np.ones_like(i)], axis=-1).reshape(-1, 4) @ matrix[:3].T
    for channel, found in enumerate(resample(image, matrix, shape)):
        expected = trilinear(image[channel].numpy(), source[:, ::-1]).reshape(shape)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert (found == 0).any()


def test_resampling_in_slabs_is_resampling_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = np.diag([0.7, 0.6, 0.5, 1.0])
    matrix[0, 2] = 0.1  # oblique: grids with parallel axes need no slabs
    whole = resample(random_image(), matrix, (9, 8, 7))
    monkeypatch.setattr(grid, "slabs", lambda shape: slabs(shape, 2 * 8 * 7))
    torch.testing.assert_close(resample(random_image(), matrix, (9, 8, 7)), whole, rtol=0, atol=1e-14)
