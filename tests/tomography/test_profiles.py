"""Rows of a grid at once against interpolation at every node."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.masked_nodes import MaskedNodes
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography import profiles as module
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.profiles import ReferenceProfiles, RowProfiles, interpolate
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Matrix

SHAPE = (9, 12, 11)


def oblique(scale: float = 1.0, shape: tuple[int, int, int] = SHAPE) -> Matrix:
    """ijk_to_frame of a grid that is turned and reaches ``scale`` times as far as the cube."""
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0] * scale
    turn[:3, 3] = 0.05, -0.1, 0.02
    return turn @ ijk_to_grid(shape[::-1])


def both(
    profiles: torch.Tensor,
    normals: np.ndarray,
    matrix: Matrix,
    mask: torch.Tensor | None = None,
    shape: tuple[int, int, int] = SHAPE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums by rows and by points."""
    nodes = MaskedNodes(TargetGrid(shape, matrix), profiles, mask)
    by_points, by_rows = ReferenceProfiles(nodes), RowProfiles(nodes)
    for way in (by_points, by_rows):
        way.add(profiles, SlicePlan(np.eye(4), normals, profiles.shape[1], 2), slice(None))
    return by_rows.total(), by_points.total()


def random_profiles(count: int, offsets: int = 13, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, offsets, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("offsets", [2, 3, 8, 40])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_rows_equal_points_inside_and_beyond_the_ends(offsets: int, scale: float) -> None:
    by_rows, by_points = both(random_profiles(11, offsets), hemisphere(11), oblique(scale))
    # float64 positions in steps are good to 1e-13, slopes are up to 5.
    torch.testing.assert_close(by_rows, by_points, rtol=0, atol=1e-11)
    assert by_points.abs().max() > 1


@pytest.mark.parametrize("rounding", [0.0, 1e-14, -1e-14])
@pytest.mark.parametrize("size", [4, 7, 10])
def test_nodes_on_samples_and_on_the_very_ends(size: int, rounding: float) -> None:
    # A grid whose nodes are the samples along its axes: rounding of a position must not move it past an end.
    shape = (size, size, size)
    normals = np.vstack([np.eye(3), -np.eye(3)])
    profiles = random_profiles(6, size)
    matrix = ijk_to_grid(shape)
    matrix[:3, 3] += rounding
    by_rows, by_points = both(profiles, normals, matrix, shape=shape)
    torch.testing.assert_close(by_rows, by_points, rtol=0, atol=1e-11)
    x, y, z = (profiles[axis] + profiles[axis + 3].flip(0) for axis in range(3))
    expected = z[:, None, None] + y[:, None] + x
    torch.testing.assert_close(by_rows.reshape(shape), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [10, 40])
@pytest.mark.parametrize("sign", [1, -1])
def test_nodes_a_little_beyond_the_very_ends_count(size: int, sign: int) -> None:
    shape = (size, size, size)
    profiles = random_profiles(6, size)
    x, y, z = (profiles[axis] + profiles[axis + 3].flip(0) for axis in range(3))
    expected = (z[:, None, None] + y[:, None] + x).flatten()
    # As far as rounding moves nodes: rows compute positions in float64, points in any precision.
    for way, beyond in ((0, 1e-9), (1, 5e-6)):
        matrix = ijk_to_grid(shape)
        matrix[:3, 3] += sign * beyond
        found = both(profiles, np.vstack([np.eye(3), -np.eye(3)]), matrix, shape=shape)[way]
        # Six slopes of up to 5, of 20 steps in a frame unit.
        torch.testing.assert_close(found, expected, rtol=0, atol=6 * 5 * 20 * beyond)


def test_only_nodes_of_the_mask_are_set() -> None:
    mask = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < 0.1
    mask[:3] = mask[:, :2] = mask[..., 8:] = False  # whole planes, rows and columns are not needed
    by_rows, by_points = both(random_profiles(7), hemisphere(7), oblique(1.5), mask)
    torch.testing.assert_close(by_rows, by_points, rtol=0, atol=1e-11)
    assert (by_rows[~mask.flatten()] == 0).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_a_mask_of_few_columns(columns: int) -> None:
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[..., 4 : 4 + columns] = True
    by_rows, by_points = both(random_profiles(7), hemisphere(7), oblique(1.5), mask)
    torch.testing.assert_close(by_rows, by_points, rtol=0, atol=1e-11)


def test_an_empty_mask() -> None:
    by_rows, _ = both(random_profiles(2), hemisphere(2), oblique(), torch.zeros(SHAPE, dtype=torch.bool))
    assert not by_rows.any()


def test_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = both(random_profiles(7), hemisphere(7), oblique(1.5))
    monkeypatch.setattr(module, "_NUMBERS", 40)
    monkeypatch.setattr(module, "_DIRECTIONS", 3)
    parts, _ = both(random_profiles(7), hemisphere(7), oblique(1.5))
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)


def test_float32_is_as_good_by_rows() -> None:
    # Smooth profiles that end at zero, as behind the ends float32 positions fall on either side.
    s = torch.linspace(-1, 1, 96, dtype=torch.float64)
    exact = torch.stack([torch.cos(s * np.pi / 2) * torch.sin(s * (5 + k)) for k in range(60)])
    truth, _ = both(exact, hemisphere(60), oblique())
    by_rows, by_points = both(exact.float(), hemisphere(60), oblique())
    # Positions of 50 steps have steps of 4e-6; sums of 60 terms.
    torch.testing.assert_close(by_rows.double(), truth, rtol=0, atol=1e-5 * float(truth.abs().max()))
    torch.testing.assert_close(by_points.double(), truth, rtol=0, atol=1e-5 * float(truth.abs().max()))


def test_interpolation_agrees_with_numpy() -> None:
    profile = random_profiles(1, 9)[0]
    at = torch.linspace(-3, 11, 1001, dtype=torch.float64)
    expected = np.interp(at, np.arange(9), profile, left=0, right=0)
    np.testing.assert_allclose(interpolate(profile, at), expected, atol=1e-12)
