"""Augmentation leaves the plane, and what it draws stays within its strengths."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tonno_core.slicing.directions import plane_basis
from tonno_core.training.augmentation import Augmentation

NONE = Augmentation(scale=0, shear=0, gain=0, offset=0, noise=0)


def bases(count: int = 200) -> np.ndarray:
    normals = np.random.default_rng(0).normal(size=(count, 3))
    return plane_basis(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def test_the_plane_stays() -> None:
    basis = bases()
    changed = Augmentation().axes(basis, np.random.default_rng(1))
    assert np.array_equal(changed[:, :, 2], basis[:, :, 2])  # the normal
    along_normal = np.einsum("bik,bi->bk", changed[:, :, :2], basis[:, :, 2])
    assert np.abs(along_normal).max() < 1e-14  # float64: u and v stay perpendicular to it
    assert not np.allclose(changed, basis)


def test_axes_are_scaled_and_sheared_within_the_strengths() -> None:
    basis = bases()
    changed = Augmentation(scale=0.2, shear=0.1).axes(basis, np.random.default_rng(1))
    in_plane = np.swapaxes(basis, 1, 2) @ changed  # in the slice's own axes
    for a, b, middle, strength in ((0, 0, 1, 0.2), (1, 1, 1, 0.2), (0, 1, 0, 0.1), (1, 0, 0, 0.1)):
        values = in_plane[:, a, b] - middle
        assert np.abs(values).max() <= strength + 1e-12
        # Of 200 uniform draws the extremes come within 5 % of the ends; the mean has a std of strength / 24.
        assert np.ptp(values) > 1.9 * strength
        assert abs(values.mean()) < strength / 6


def test_intensities_change_by_gain_offset_and_noise() -> None:
    slices = torch.tensor([1.0, 3.0]).repeat(400, 50, 1)  # 400 slices of 50 x 2: columns of 1 and of 3
    rng = np.random.default_rng(2)
    columns = Augmentation(gain=0.2, offset=0.1, noise=0).intensities(slices, rng).mean(dim=1)
    gain = (columns[:, 1] - columns[:, 0]) / 2
    offset = columns[:, 0] - gain
    assert 0.8 <= gain.min() < 0.82  # 400 uniform draws come within 5 % of the ends
    assert 1.18 < gain.max() <= 1.2 + 1e-6
    assert -0.1 - 1e-6 <= offset.min() < -0.09
    assert 0.09 < offset.max() <= 0.1 + 1e-6
    noisy = Augmentation(gain=0, offset=0, noise=0.5).intensities(slices, rng) - slices
    stds = noisy.flatten(1).std(dim=1)
    assert stds.min() < 0.05
    assert 0.4 < stds.max() < 0.65  # up to 0.5, estimated from 100 values: +- 7 %, the highest of 400


def test_without_strength_nothing_changes() -> None:
    slices = torch.rand(3, 4, 4)
    assert torch.equal(NONE.intensities(slices, np.random.default_rng(0)), slices)
    assert np.array_equal(NONE.axes(bases(), np.random.default_rng(0)), bases())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_draws_the_same(seed: int) -> None:
    slices = torch.rand(3, 4, 4)
    one, other = (Augmentation().intensities(slices, np.random.default_rng(seed)) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, Augmentation().intensities(slices, np.random.default_rng(seed + 1)))
