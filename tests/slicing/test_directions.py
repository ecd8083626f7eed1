"""Lattices and plane bases, exactly as in the method's equations."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import basis, sphere_lattice
from tonno_core.slicing.directions import farthest_first, hemisphere, plane_basis, sphere

COUNTS = [1, 2, 3, 10, 101]


def angles_to_nearest(normals: np.ndarray) -> np.ndarray:
    """Return for each plane the angle in degrees to the nearest other; n and -n are the same plane."""
    cosines = np.abs(normals @ normals.T)
    np.fill_diagonal(cosines, 0.0)
    return np.degrees(np.arccos(np.minimum(cosines.max(axis=1), 1.0)))


def fibonacci_hemisphere(count: int) -> np.ndarray:
    """y_l = (l + 1/2) / L, azimuth l pi (3 - sqrt 5), in the order of l."""
    index = np.arange(count)
    y, azimuth = (index + 0.5) / count, index * np.pi * (3 - np.sqrt(5))
    ring = np.sqrt(1 - y**2)
    return np.stack([ring * np.cos(azimuth), y, ring * np.sin(azimuth)], axis=1)


def test_sphere_of_three_by_hand() -> None:
    # y = -1, 0, 1; the middle one turned by the golden angle, 137.5078 degrees, from x towards z.
    expected = [[0, -1, 0], [-0.737369, 0, 0.675490], [0, 1, 0]]
    np.testing.assert_allclose(sphere(3), expected, atol=1e-6)  # the digits written here


@pytest.mark.parametrize("count", COUNTS[1:])
def test_sphere_is_the_papers_lattice(count: int) -> None:
    # Rounding of an azimuth of up to 101 * 2.4 rad.
    np.testing.assert_allclose(sphere(count), sphere_lattice(count), atol=1e-12)


def test_the_paper_counts_its_first_plane_twice() -> None:
    np.testing.assert_array_equal(sphere(50)[0], -sphere(50)[-1])


@pytest.mark.parametrize("lattice", [sphere, hemisphere])
@pytest.mark.parametrize("count", COUNTS)
def test_normals_have_length_one(lattice, count: int) -> None:  # type: ignore[no-untyped-def]
    normals = lattice(count)
    assert normals.shape == (count, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-14)


@pytest.mark.parametrize("count", COUNTS)
def test_hemisphere_is_the_fibonacci_lattice_in_another_order(count: int) -> None:
    ours, theirs = hemisphere(count), fibonacci_hemisphere(count)
    np.testing.assert_allclose(ours[np.argsort(ours[:, 1])], theirs, atol=1e-12)


def test_hemisphere_meets_each_plane_once_and_sphere_almost_twice() -> None:
    # 200 even patches of a half sphere are 2 pi / 200 large: discs of that area are 11.5 degrees wide.
    assert angles_to_nearest(hemisphere(200)).min() > 11.5 / 2.2
    # The paper's lattice: the planes of the second half fall among those of the first.
    assert angles_to_nearest(sphere(200)).min() < 1e-6


def test_hemisphere_favours_no_axis() -> None:
    # The mean of n n^T is a third of the identity for an even spread; 0.0014 off at L = 256.
    normals = hemisphere(256)
    np.testing.assert_allclose(normals.T @ normals / 256, np.eye(3) / 3, atol=0.002)


@pytest.mark.parametrize("count", [96, 256, 400, 1000])
def test_every_prefix_is_spread_like_a_lattice_of_its_size(count: int) -> None:
    normals = hemisphere(count)
    for size in range(8, count + 1, max(1, count // 40)):
        prefix, lattice = angles_to_nearest(normals[:size]), angles_to_nearest(fibonacci_hemisphere(size))
        # The bar is 30 %; measured 0.83 to 1.05 on average over the planes ...
        assert 0.7 < prefix.mean() / lattice.mean() < 1.3
        # ... and no two planes are much closer than the lattice's closest (measured 0.84 or more).
        assert prefix.min() > 0.75 * lattice.min()
    # A prefix favours no axis either: measured up to 0.08 from a third.
    for size in (8, 16, 32, 64):
        spread = np.linalg.eigvalsh(normals[:size].T @ normals[:size] / size)
        assert np.abs(spread - 1 / 3).max() < 0.1


def test_the_lattices_own_order_would_not_be_progressive() -> None:
    # The control: its first 64 of 256 planes all lie near the equator.
    crowded, spread = (
        angles_to_nearest(lattice[:64]).mean() for lattice in (fibonacci_hemisphere(256), hemisphere(256))
    )
    assert crowded < 0.7 * spread


def test_farthest_first_on_three_axes_and_their_opposites() -> None:
    # From x the farthest planes are y and z (90 degrees); -x is the same plane and comes last.
    normals = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert farthest_first(normals).tolist() == [0, 2, 3, 1]
    assert sorted(farthest_first(sphere(77)).tolist()) == list(range(77))


@pytest.mark.parametrize(
    ("normal", "u", "v"),
    [
        ([0, 0, 1], [0, 1, 0], [-1, 0, 0]),  # u = z x x = y, v = z x y = -x
        ([0, 1, 0], [0, 0, -1], [-1, 0, 0]),  # u = y x x = -z, v = y x -z = -x
        ([1, 0, 0], [0, 0, 1], [0, -1, 0]),  # |n_0| = 1: u = x x y = z, v = x x z = -y
        ([0.8, 0.6, 0], [0, 0, -1], [-0.6, 0.8, 0]),  # |n_0| < 0.9: u = n x x = -0.6 z, normalised
        ([-0.96, 0.28, 0], [0, 0, -1], [-0.28, -0.96, 0]),  # |n_0| > 0.9: u = n x y = -0.96 z
    ],
)
def test_u_and_v_by_hand(normal: list[float], u: list[float], v: list[float]) -> None:
    columns = plane_basis(np.array([normal], dtype=np.float64))[0].T
    np.testing.assert_allclose(columns, [u, v, normal], atol=1e-15)


def test_bases_are_orthonormal_and_right_handed() -> None:
    bases = plane_basis(sphere(300))
    products = np.swapaxes(bases, 1, 2) @ bases
    np.testing.assert_allclose(products, np.broadcast_to(np.eye(3), products.shape), atol=1e-14)
    np.testing.assert_allclose(np.linalg.det(bases), 1.0, atol=1e-14)


def test_bases_agree_with_the_reference() -> None:
    normals = sphere(300)
    for normal, columns in zip(normals, plane_basis(normals), strict=True):
        u, v = basis(normal)
        np.testing.assert_allclose(columns, np.stack([u, v, normal], axis=1), atol=1e-14)
