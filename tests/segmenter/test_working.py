"""The working grid and the way back, against scipy in float64 and fields that are known everywhere."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.analytic import grid_around, make_blobs, voxel_centres
from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import WorkingGrid, prepare_image, working_grid
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.intensity import inputs_of, normalise
from tonno_core.volume.volume import Volume

SHAPE, CENTRE = (18, 22, 26), (10.0, -20.0, 30.0)
SPACING_MM = (2.0, 2.5, 2.4)  # finer than the volume along k, coarser along i and j
ORDERS = [
    pytest.param(order, signs, id=f"{order}{signs}")
    for order, signs in product(permutations(range(3)), [(1, 1, 1), (-1, 1, -1), (1, -1, -1)])
]


def volume_grid(order: tuple[int, ...] = (0, 1, 2), signs: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
    """An oblique, anisotropic grid whose axes i, j, k run near R, A, S in any order and direction."""
    turned = grid_around((0, 0, 0), (1, 1, 1), (1.5, 1.0, 3.0), turn_degrees=(12, -18, 9))[:3, :3]
    matrix = np.eye(4)
    matrix[:3, :3] = turned[:, list(order)] * signs
    matrix[:3, 3] = np.asarray(CENTRE) - matrix[:3, :3] @ ((np.asarray(SHAPE[::-1]) - 1) / 2)
    return matrix


def grid_of(volume: Volume) -> tuple[WorkingGrid, np.ndarray]:
    """A volume's working grid, and its affine to RAS mm."""
    grid = working_grid(volume, SPACING_MM)
    return grid, volume.ijk_to_ras @ grid.to_ijk


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_the_axes_run_near_r_a_and_s_with_the_spacing_asked_for(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    grid, to_ras = grid_of(Volume(np.zeros(SHAPE, np.float32), volume_grid(order, signs)))
    np.testing.assert_allclose(np.linalg.norm(to_ras[:3, :3], axis=0), SPACING_MM, rtol=1e-12)
    assert (np.argmax(np.abs(to_ras[:3, :3]), axis=0) == range(3)).all()
    assert (np.diag(to_ras[:3, :3]) > 0).all()
    # The same middle, and all of the volume is inside of it.
    np.testing.assert_allclose(to_ras @ [*((np.asarray(grid.shape[::-1]) - 1) / 2), 1], [*CENTRE, 1], atol=1e-9)
    for target in range(3):
        source = grid.axes.index(target)
        volume_mm = SHAPE[2 - source] * np.linalg.norm(volume_grid(order, signs)[:3, source])
        assert 0 <= grid.shape[2 - target] * SPACING_MM[target] - volume_mm < SPACING_MM[target]


@pytest.mark.parametrize(("order", "signs"), ORDERS)
def test_a_linear_field_is_the_same_at_every_place_there_and_back(
    order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    """Smoothing and interpolation leave it alone, away from the edges where the outermost values go on."""
    ijk_to_ras, gradient = volume_grid(order, signs), np.array([0.3, -0.7, 0.2])
    volume = Volume((voxel_centres(SHAPE, ijk_to_ras) @ gradient).astype(np.float32), ijk_to_ras)
    grid, to_ras = grid_of(volume)
    taken = grid.take(torch.as_tensor(volume.array, dtype=torch.float64)[None])
    expected = voxel_centres(grid.shape, to_ras) @ gradient
    inner = tuple(slice(5, -5) for _ in range(3))
    small = tuple(slice(n // 4, -(n // 4)) for n in grid.shape)
    # The field in float32: 30 x 6e-8, summed over three axes.
    np.testing.assert_allclose(taken[0].numpy()[small], expected[small], rtol=0, atol=1e-5)
    back = grid.give_back(torch.as_tensor(expected)[None])[0].numpy()
    np.testing.assert_allclose(back[inner], volume.array[inner], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("order", "signs"), ORDERS[::5])
def test_both_ways_are_those_of_a_plain_reference(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """scipy in float64 at every voxel: a Gaussian where the grid is coarser, linear interpolation, edges that go on."""
    ijk_to_ras = volume_grid(order, signs)
    volume = make_blobs(0, 12, reach=15, sigmas=(2, 6), centre=np.asarray(CENTRE)).on_grid(SHAPE, ijk_to_ras)
    grid, _ = grid_of(volume)
    steps = np.array([SPACING_MM[grid.axes[source]] / volume.spacing_mm[source] for source in range(3)])
    sigma = np.sqrt(np.maximum(steps**2 - 1, 0)) / 2
    assert (sigma > 0).any()
    assert (sigma == 0).any()

    def at(array: np.ndarray, other_to_ijk: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        places = voxel_centres(shape, other_to_ijk)[..., ::-1]
        return ndimage.map_coordinates(array, np.moveaxis(places, -1, 0), order=1, mode="nearest")

    smooth = ndimage.gaussian_filter(volume.array.astype(np.float64), sigma[::-1])
    taken = grid.take(torch.as_tensor(volume.array, dtype=torch.float64)[None])[0].numpy()
    # Sums of float64 in another order; one part in 10^9 of what a kernel leaves out beyond 4 sigma is in both.
    np.testing.assert_allclose(taken, at(smooth, grid.to_ijk, grid.shape), rtol=0, atol=1e-12)
    back = grid.give_back(torch.as_tensor(taken)[None])[0].numpy()
    np.testing.assert_allclose(back, at(taken, np.linalg.inv(grid.to_ijk), SHAPE), rtol=0, atol=1e-12)


def test_float32_differs_by_rounding_alone() -> None:
    volume = make_blobs(0, 12, reach=15, sigmas=(2, 6), centre=np.asarray(CENTRE)).on_grid(SHAPE, volume_grid())
    grid, _ = grid_of(volume)
    single, double = (
        grid.take(torch.as_tensor(volume.array, dtype=kind)[None]) for kind in (torch.float32, torch.float64)
    )
    # Values up to 4, three products of sums of up to 26 terms.
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_a_mirrored_volume_has_the_mirrored_grid() -> None:
    """Here the mirror is in the array: the patient's right is where the left was."""
    volume = make_blobs(1, 12, reach=15, sigmas=(2, 6), centre=np.asarray(CENTRE)).on_grid(SHAPE, volume_grid())
    mirrored = volume.with_array(volume.array[:, :, ::-1])
    grid, _ = grid_of(volume)
    first, second = (grid.take(torch.as_tensor(each.array)[None]) for each in (volume, mirrored))
    # float32 sums from the other end.
    torch.testing.assert_close(second, first.flip(3), rtol=0, atol=1e-5)


def test_the_volumes_own_spacing_changes_nothing() -> None:
    ijk_to_ras = grid_around(CENTRE, SHAPE, SPACING_MM)
    volume = make_blobs(2, 12, reach=15, sigmas=(2, 6), centre=np.asarray(CENTRE)).on_grid(SHAPE, ijk_to_ras)
    grid, _ = grid_of(volume)
    array = torch.as_tensor(volume.array)[None]
    torch.testing.assert_close(grid.take(array), array, rtol=0, atol=1e-6)
    torch.testing.assert_close(grid.give_back(array), array, rtol=0, atol=1e-6)


def test_a_volume_of_one_slice() -> None:
    volume = Volume(np.full((1, 6, 5), 7, np.float32), np.diag([2.0, 2.0, 5.0, 1.0]))
    grid = working_grid(volume, (1.0, 1.0, 1.0))
    assert grid.shape == (5, 12, 10)
    taken = grid.take(torch.as_tensor(volume.array)[None])
    torch.testing.assert_close(taken, torch.full((1, *grid.shape), 7.0))
    torch.testing.assert_close(grid.give_back(taken)[0], torch.as_tensor(volume.array))


def test_a_grid_beyond_any_memory_is_refused_before_it_is_made() -> None:
    volume = Volume(np.zeros((4, 4, 4), np.float32), np.diag([300.0, 300.0, 300.0, 1.0]))
    with pytest.raises(TonnoError, match=r"covers 1200 x 1200 x 1200 mm, 1,728,000,000 voxels of the 1 x 1 x 1 mm"):
        working_grid(volume, (1.0, 1.0, 1.0))


def test_intensities_are_those_of_slices() -> None:
    blobs = make_blobs(3, 12, reach=15, sigmas=(2, 6), centre=np.asarray(CENTRE))
    volume = blobs.on_grid(SHAPE, grid_around(CENTRE, SHAPE, SPACING_MM))
    network = SegmenterNetwork(SPACING_MM, (16, 16, 16))
    for intensity in ("none", "zscore", "window:0:2"):
        image = prepare_image(volume, network, intensity)
        array, fill = normalise(volume.array, foreground_mask(volume), intensity)
        torch.testing.assert_close(image.array[0], torch.as_tensor(array), rtol=0, atol=1e-5)
        assert image.fill == fill
    image = prepare_image(volume, network, "window:0:1,1:3")
    assert inputs_of("window:0:1,1:3") == 2
    for channel, (low, high) in zip(image.array, [(0, 1), (1, 3)], strict=True):
        expected = np.clip((volume.array - low) / (high - low), 0, 1)
        torch.testing.assert_close(channel, torch.as_tensor(expected), rtol=0, atol=1e-5)
