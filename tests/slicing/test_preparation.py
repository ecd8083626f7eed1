"""From a scan to what is sliced: the ball, and no finer detail than the pixels can hold."""

from __future__ import annotations

import numpy as np
import pytest

from tests.analytic import Blobs, grid_around, make_blobs, slope, voxel_centres
from tonno_core.errors import TonnoError
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.preparation import PreparedVolume, foreground_points, limit_resolution, prepare_volume
from tonno_core.volume.volume import Volume

CENTRE = np.array([12.0, -7.0, 20.0])


def ball_volume(radius_mm: float = 20.0, spacing: tuple[float, float, float] = (1.0, 1.5, 2.0)) -> Volume:
    """A bright ball around CENTRE on an oblique, left-handed grid."""
    shape = tuple(int(70 / s) for s in spacing[::-1])
    matrix = grid_around(CENTRE + np.array([3, 2, 1]), shape, spacing, turn_degrees=(10, 20, 30), left_handed=True)  # type: ignore[arg-type]
    inside = np.linalg.norm(voxel_centres(shape, matrix) - CENTRE, axis=-1) <= radius_mm  # type: ignore[arg-type]
    return Volume(inside.astype(np.float32), matrix)


def test_the_physical_frame_is_the_foregrounds_ball() -> None:
    prepared = prepare_volume(ball_volume(), frame="physical", intensity="none", slice_size=64)
    # Voxels of up to 2 mm: the bounding box is known to half of that, the radius to half a diagonal more.
    np.testing.assert_allclose(prepared.frame_to_ras[:3, 3], CENTRE, atol=1.0)
    assert prepared.radius_mm is not None
    assert 19.0 < prepared.radius_mm < 23.0
    np.testing.assert_allclose(prepared.frame_to_ras[:3, :3], prepared.radius_mm * np.eye(3))


@pytest.mark.parametrize(
    ("pixel_mm", "radius_mm", "expected"), [(2.0, None, 63.0), (0.1, None, None), (2.0, 30.0, 30.0)]
)
def test_the_ball_is_at_least_the_window_of_training(
    pixel_mm: float, radius_mm: float | None, expected: float | None
) -> None:
    prepared = prepare_volume(
        ball_volume(), frame="physical", intensity="none", slice_size=64, pixel_mm=pixel_mm, radius_mm=radius_mm
    )
    assert prepared.radius_mm is not None
    if expected is None:
        assert 19.0 < prepared.radius_mm < 23.0  # the foreground's
    else:
        assert prepared.radius_mm == expected  # 63 pixels of 2 mm are 2 * 63 mm; what was asked for wins


def test_the_ball_around_another_centre_is_as_large() -> None:
    middle = np.array([1.0, 2.0, 3.0])
    there, here = (
        prepare_volume(ball_volume(), frame="physical", intensity="none", slice_size=64, centre_ras=centre)
        for centre in (middle, None)
    )
    np.testing.assert_array_equal(there.frame_to_ras[:3, 3], middle)
    assert there.radius_mm == here.radius_mm


def test_the_ball_of_a_specimen_is_as_small_as_it() -> None:
    # Of voxels of 10 to 20 micrometers, where nothing tells how large a pixel of training was.
    fine = ball_volume()
    fine = Volume(fine.array, np.diag([0.01, 0.01, 0.01, 1.0]) @ fine.ijk_to_ras)
    prepared = prepare_volume(fine, frame="physical", intensity="none", slice_size=64)
    assert prepared.radius_mm is not None
    assert 0.19 < prepared.radius_mm < 0.23
    np.testing.assert_allclose(prepared.frame_to_ras[:3, 3], CENTRE / 100, atol=0.01)


def test_detail_is_limited_to_the_pixels_of_the_slices() -> None:
    # 16 pixels across a ball of 30 mm are 60 / 15 = 4 mm apart.
    volume = ball_volume()
    prepared = prepare_volume(volume, frame="physical", intensity="none", slice_size=16, radius_mm=30.0)
    expected = limit_resolution(volume, 4.0)
    np.testing.assert_array_equal(prepared.volume.array, expected.array)
    np.testing.assert_array_equal(prepared.volume.ijk_to_ras, expected.ijk_to_ras)


def test_the_normalized_frame_leaves_the_voxels_alone() -> None:
    volume = ball_volume()
    prepared = prepare_volume(volume, frame="normalized", intensity="none", slice_size=8)  # 10 mm pixels
    assert prepared.radius_mm is None
    np.testing.assert_array_equal(prepared.volume.array, volume.array)
    np.testing.assert_array_equal(prepared.volume.ijk_to_ras, volume.ijk_to_ras)


def test_voxels_near_the_pixel_size_stay_as_they_are() -> None:
    volume = ball_volume()
    assert limit_resolution(volume, 1.1) is volume


def test_pixels_a_quarter_larger_smooth_and_thin_nothing_out() -> None:
    volume = ball_volume()
    smooth = limit_resolution(volume, 1.25)
    assert smooth.array.shape == volume.array.shape
    assert not np.array_equal(smooth.array, volume.array)


def test_only_the_fine_axes_are_smoothed_and_thinned() -> None:
    # Voxels of 1 x 1.5 x 2 mm, pixels of 3.1 mm: ratios 3.1, 2.07, 1.55; every 3rd, 2nd, 1st is kept.
    volume = ball_volume()
    thinned = limit_resolution(volume, 3.1)
    assert volume.array.shape == (35, 46, 70)
    assert thinned.array.shape == (35, 23, 24)  # 1 of 46 and 0 of 70 are left over
    np.testing.assert_allclose(thinned.spacing_mm, [3, 3, 2])


def test_what_is_left_over_is_left_out_at_both_ends() -> None:
    # Of 15 voxels every 4th: 1, 5, 9, 13 lie as far from either end, so mirrored scans are thinned alike.
    matrix = grid_around((0, 0, 0), (4, 4, 15), (1, 5, 5))
    volume = Volume(np.random.default_rng(0).random((4, 4, 15), dtype=np.float32), matrix)
    thinned = limit_resolution(volume, 4.0)
    np.testing.assert_allclose(thinned.ijk_to_ras[:3, 3] - matrix[:3, 3], [1, 0, 0])
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = 14
    mirrored = limit_resolution(Volume(volume.array[:, :, ::-1].copy(), matrix @ mirror), 4.0)
    np.testing.assert_array_equal(mirrored.array, thinned.array[:, :, ::-1])


def test_each_axis_keeps_two_voxels() -> None:
    volume = Volume(np.ones((2, 3, 40), dtype=np.float32), np.eye(4))
    assert limit_resolution(volume, 50.0).array.shape == (2, 2, 2)


def test_a_blob_stays_where_it_is_and_widens_by_the_pixel() -> None:
    # A Gaussian of std 6 mm seen by pixels of 4 mm through voxels of 1 mm: std sqrt(4^2 - 1^2) / 2 mm is added.
    blob = Blobs(CENTRE[None], np.array([6.0]), np.array([1.0]))
    volume = blob.on_grid((64, 64, 64), grid_around(CENTRE + 0.3, (64, 64, 64), (1, 1, 1), turn_degrees=(5, 6, 7)))
    smooth = limit_resolution(volume, 4.0)
    assert smooth.array.shape == (16, 16, 16)
    sigma = np.sqrt(6.0**2 + (4.0**2 - 1.0**2) / 4)
    expected = Blobs(CENTRE[None], np.array([sigma]), np.array([(6.0 / sigma) ** 3]))
    points = voxel_centres(smooth.array.shape, smooth.ijk_to_ras)
    # The kernel ends at 3 std, which narrows it a little: 1 % of the peak.
    np.testing.assert_allclose(smooth.array, expected.at(points), atol=0.01)


def test_each_axis_is_smoothed_by_its_own_voxels() -> None:
    # Every 4th, 4th and 2nd voxel is kept; of 48 along J those from the second on.
    spacing, pixel = np.array([1.0, 1.2, 2.0]), 4.9
    matrix = grid_around(CENTRE + 0.3, (40, 48, 61), tuple(spacing))
    volume = Blobs(CENTRE[None], np.array([6.0]), np.array([1.0])).on_grid((40, 48, 61), matrix)
    smooth = limit_resolution(volume, pixel)
    assert smooth.array.shape == (20, 12, 16)
    sigmas = np.sqrt(6.0**2 + (pixel**2 - spacing**2) / 4)
    away = (voxel_centres(smooth.array.shape, smooth.ijk_to_ras) - CENTRE) / sigmas
    expected = np.prod(6.0 / sigmas) * np.exp(-(away**2).sum(axis=-1) / 2)
    np.testing.assert_allclose(smooth.array, expected, atol=0.01)  # the kernel ends at 3 std, as above


def test_a_ramp_keeps_its_values() -> None:
    # Smoothing and thinning change neither place nor scale of a linear function, away from the border.
    matrix = grid_around((0, 0, 0), (40, 40, 40), (1, 1, 1))
    volume = Volume(voxel_centres((40, 40, 40), matrix)[..., 0].astype(np.float32), matrix)
    smooth = limit_resolution(volume, 3.0)
    inner = (slice(None), slice(None), slice(3, -3))
    expected = voxel_centres(smooth.array.shape, smooth.ijk_to_ras)[..., 0]
    np.testing.assert_allclose(smooth.array[inner], expected[inner], atol=1e-4)  # float32 of values up to 20


def test_fine_stripes_do_not_alias() -> None:
    # Stripes of 2 mm period cannot be shown by pixels of 4 mm: they turn grey, not into stripes of another width.
    matrix = grid_around((0, 0, 0), (32, 32, 64), (0.5, 1, 1))
    stripes = np.broadcast_to(np.sin(2 * np.pi * voxel_centres((32, 32, 64), matrix)[..., 0] / 2.0), (32, 32, 64))
    smooth = limit_resolution(Volume(stripes.astype(np.float32), matrix), 4.0)
    # A Gaussian of std 2 mm leaves exp(-2 pi^2) of them inside.
    assert np.abs(smooth.array[:, :, 2:-2]).max() < 0.01


def test_intensities_are_normalised_first() -> None:
    shape = (32, 32, 32)
    volume = make_blobs(0, 4, reach=8, sigmas=(3, 5)).on_grid(shape, grid_around((0, 0, 0), shape, (1, 1, 1)))
    prepared = prepare_volume(volume, frame="normalized", intensity="window:0:2", slice_size=16)
    assert slope(prepared.volume.array, volume.array) == pytest.approx(0.5, rel=1e-5)
    assert prepared.fill == 0.0


def test_foreground_points_are_what_differs_by_a_tenth() -> None:
    array = np.full((20, 24, 22), -2.0, dtype=np.float32)
    array[3:7, 5:8, 2:9] = 8.0  # the brightest difference from the fill: 10
    array[10:12, 3:6, 4:8] = -0.8  # 1.2 of 10
    array[15:17, 15:18, 15:18] = -1.1  # 0.9 of 10
    array[12:14, 18:20, 9:11] = -5.0  # darker than the surroundings
    grid = grid_around((5, -8, 3), array.shape, (1.0, 1.5, 2.0), turn_degrees=(20, -10, 30))
    frame = physical_frame([4.0, -9.0, 5.0], 25.0)
    prepared = PreparedVolume(Volume(array, grid), -2.0, frame, 25.0)
    k, j, i = np.nonzero(np.abs(array + 2.0) > 1.0)
    expected = (np.linalg.inv(frame) @ grid @ np.stack([i, j, k, np.ones(len(i))]))[:3].T
    found = foreground_points(prepared, np.random.default_rng(0))
    np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)], atol=1e-12)


def test_foreground_points_are_some_of_many() -> None:
    prepared = PreparedVolume(Volume(np.ones((16, 16, 16), dtype=np.float32), np.eye(4)), 0.0, np.eye(4), 1.0)
    assert len(np.unique(foreground_points(prepared, np.random.default_rng(0)), axis=0)) == 2048


def test_a_volume_without_contrast_has_no_foreground_points() -> None:
    prepared = PreparedVolume(Volume(np.full((8, 8, 8), 3.0, dtype=np.float32), np.eye(4)), 3.0, np.eye(4), 1.0)
    with pytest.raises(TonnoError, match="expected contrast in the window"):
        foreground_points(prepared, np.random.default_rng(0))
