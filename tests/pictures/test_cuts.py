"""Planes lie where the patient is, whatever the grid: a function of the world is sampled as that function."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from tonno_core.pictures.cuts import PLANES, Cut, Plane, cut_plane, sample
from tonno_core.volume.volume import Volume

AXIAL, CORONAL, SAGITTAL = PLANES
SLOPE, OFFSET = np.array([0.3, -0.7, 1.1]), 5.0
CENTRE = np.array([4.0, -6.0, 9.0])


def world_volume(directions: npt.NDArray[np.float64], size: tuple[int, int, int]) -> Volume:
    """The linear function SLOPE . x + OFFSET of RAS mm; voxel axes are the columns of `directions`, in mm."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = directions
    ijk_to_ras[:3, 3] = CENTRE - directions @ ((np.array(size) - 1) / 2)
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in size], indexing="ij"))
    ras = np.einsum("ab,bijk->aijk", directions, ijk) + ijk_to_ras[:3, 3].reshape(3, 1, 1, 1)
    values = np.einsum("a,aijk->kji", SLOPE, ras) + OFFSET
    return Volume(np.ascontiguousarray(values, dtype=np.float32), ijk_to_ras)


ROTATION = Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix()
GRIDS = {
    "straight": np.diag([1.0, 1.0, 1.0]),
    "left-handed": np.diag([-1.0, 1.0, 2.5]),
    "axes in another order": np.array([[0, 0, 3.0], [-1.0, 0, 0], [0, 1.5, 0]]),
    "oblique and anisotropic": ROTATION @ np.diag([1.0, 1.4, 4.0]),
    "oblique and left-handed": ROTATION @ np.diag([-1.2, 1.0, 3.0]),
}


def interior(cut: Cut, volume: Volume) -> npt.NDArray[np.bool_]:
    """Where linear interpolation has voxels on all sides."""
    ras_to_ijk = np.linalg.inv(volume.ijk_to_ras)
    ijk = cut.points_ras @ ras_to_ijk[:3, :3].T + ras_to_ijk[:3, 3]
    return np.asarray(((ijk >= 0) & (ijk <= np.array(volume.size_ijk) - 1)).all(axis=-1))


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_linear_function_of_the_world_comes_back(grid: str, plane: Plane) -> None:
    volume = world_volume(GRIDS[grid], (41, 37, 17))
    cut = cut_plane(plane, volume, CENTRE)
    shown = sample(volume.array, volume.ijk_to_ras, cut.points_ras)
    inside = interior(cut, volume)
    assert inside.sum() > 400
    # Values up to 100 in float32 have steps of 8e-6; linear interpolation itself is exact here.
    np.testing.assert_allclose(shown[inside], (cut.points_ras @ SLOPE + OFFSET)[inside], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("plane", "right", "top"),
    [
        (AXIAL, (-1, 0, 0), (0, 1, 0)),  # the patient's left, the front
        (CORONAL, (-1, 0, 0), (0, 0, 1)),  # the patient's left, the head
        (SAGITTAL, (0, -1, 0), (0, 0, 1)),  # the back, the head
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_picture_runs_the_radiological_way(
    grid: str, plane: Plane, right: tuple[int, ...], top: tuple[int, ...]
) -> None:
    volume = world_volume(GRIDS[grid], (41, 37, 17))
    cut = cut_plane(plane, volume, CENTRE)
    step = volume.spacing_mm.min()
    # Coordinates below 100 mm, subtracted in float64.
    np.testing.assert_allclose(cut.points_ras[3, 6] - cut.points_ras[3, 5], step * np.array(right), atol=1e-12)
    np.testing.assert_allclose(cut.points_ras[4, 5] - cut.points_ras[3, 5], step * np.array(top), atol=1e-12)


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_one_pixel_is_the_centre_itself(plane: Plane) -> None:
    volume = world_volume(GRIDS["oblique and anisotropic"], (41, 37, 17))
    centre = CENTRE + np.array([1.23, -0.45, 0.67])
    distance = np.linalg.norm(cut_plane(plane, volume, centre).points_ras - centre, axis=-1)
    assert distance.min() < 1e-12  # float64 rounding of a few mm


def test_on_a_straight_grid_the_picture_is_the_slice() -> None:
    volume = Volume(np.random.default_rng(0).random((5, 6, 7), dtype=np.float32), np.diag([2.0, 2.0, 2.0, 1.0]))
    cut = cut_plane(AXIAL, volume, (6.0, 4.0, 4.0))
    shown = sample(volume.array, volume.ijk_to_ras, cut.points_ras)
    # i grows to the patient's right, which is on the left: the row is mirrored. 1e-12: float64 products.
    np.testing.assert_allclose(shown, volume.array[2, :, ::-1], rtol=1e-12)
    assert cut.view.extent == (-13.0, 1.0, -1.0, 11.0)
    assert cut.centre_uv == (-6.0, 4.0)
    assert cut.centre_mm == 4.0


def test_beyond_the_outer_voxels_there_is_nothing() -> None:
    volume = Volume(np.full((2, 2, 2), 3.0, dtype=np.float32), np.eye(4))
    points = np.array([[0.5, 0.5, 0.5], [-0.49, 0.0, 1.49], [-0.51, 0.0, 0.0], [0.0, 0.0, 1.51]])
    assert np.array_equal(sample(volume.array, volume.ijk_to_ras, points), [3, 3, np.nan, np.nan], equal_nan=True)


def test_pixels_are_the_smallest_spacing_until_there_are_too_many() -> None:
    small = Volume(np.zeros((4, 50, 60), dtype=np.float32), np.diag([0.5, 0.7, 5.0, 1.0]))
    assert cut_plane(AXIAL, small, (1.0, 1.0, 1.0)).view.pixel_mm == 0.5
    large = Volume(np.zeros((4, 5, 1000), dtype=np.float32), np.diag([0.8, 2.0, 2.0, 1.0]))
    cut = cut_plane(AXIAL, large, (400.0, 4.0, 4.0))
    assert cut.view.pixel_mm == pytest.approx(1000 * 0.8 / 400, rel=1e-12)  # float64 product
    assert cut.view.u.size == 400


def test_a_plane_is_never_thinner_than_two_pixels() -> None:
    """1 mm of 400 mm would be less than a pixel; contours need two."""
    flat = Volume(np.zeros((2, 2, 1600), dtype=np.float32), np.diag([0.5, 0.5, 0.5, 1.0]))
    assert cut_plane(AXIAL, flat, (200.0, 0.0, 0.0)).points_ras.shape[0] == 2
