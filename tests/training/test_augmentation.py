"""Augmentation leaves the plane, and what it draws stays within its strengths."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from tonno_core.slicing.directions import plane_basis
from tonno_core.training.augmentation import Augmentation, change_intensities, gaussian_blur

NONE = Augmentation(scale=0, shear=0, gain=0, offset=0, noise=0, blur=0)


def bases(count: int = 200) -> np.ndarray:
    normals = np.random.default_rng(0).normal(size=(count, 3))
    return plane_basis(normals / np.linalg.norm(normals, axis=1, keepdims=True))


def uniform(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).random((count, 4))


def changed_slices(augmentation: Augmentation, slices: torch.Tensor, seed: int) -> torch.Tensor:
    """Changed as the slices of one volume."""
    changes = augmentation.changes(uniform(seed, len(slices)))
    return change_intensities(slices[None], changes[None], [seed])[0]


def test_the_plane_stays() -> None:
    basis = bases()
    changed = Augmentation().axes(basis, uniform(1, len(basis)))
    assert np.array_equal(changed[:, :, 2], basis[:, :, 2])  # the normal
    along_normal = np.einsum("bik,bi->bk", changed[:, :, :2], basis[:, :, 2])
    assert np.abs(along_normal).max() < 1e-14  # float64: u and v stay perpendicular to it
    assert not np.allclose(changed, basis)


def test_axes_are_scaled_and_sheared_within_the_strengths() -> None:
    basis = bases()
    changed = Augmentation(scale=0.2, shear=0.1).axes(basis, uniform(1, len(basis)))
    in_plane = np.swapaxes(basis, 1, 2) @ changed  # in the slice's own axes
    for a, b, middle, strength in ((0, 0, 1, 0.2), (1, 1, 1, 0.2), (0, 1, 0, 0.1), (1, 0, 0, 0.1)):
        values = in_plane[:, a, b] - middle
        assert np.abs(values).max() <= strength + 1e-12
        # The extremes of 200 uniform draws come within 5 % of the ends; the mean has a std of strength / 24.
        assert np.ptp(values) > 1.9 * strength
        assert abs(values.mean()) < strength / 6


def test_intensities_change_by_gain_offset_and_noise() -> None:
    slices = torch.tensor([1.0, 3.0]).repeat(400, 50, 1)  # 400 slices of 50 x 2: columns of 1 and of 3
    columns = changed_slices(replace(NONE, gain=0.2, offset=0.1), slices, 2).mean(dim=1)
    gain = (columns[:, 1] - columns[:, 0]) / 2
    offset = columns[:, 0] - gain
    assert 0.8 <= gain.min() < 0.82  # 400 uniform draws come within 5 % of the ends
    assert 1.18 < gain.max() <= 1.2 + 1e-6
    assert -0.1 - 1e-6 <= offset.min() < -0.09
    assert 0.09 < offset.max() <= 0.1 + 1e-6
    noisy = changed_slices(replace(NONE, noise=0.5), slices, 2) - slices
    stds = noisy.flatten(1).std(dim=1)
    assert stds.min() < 0.05
    assert 0.4 < stds.max() < 0.65  # up to 0.5, estimated from 100 values: +- 7 %, the highest of 400


def test_without_strength_nothing_changes() -> None:
    slices = torch.rand(3, 4, 4)
    assert torch.equal(changed_slices(NONE, slices, 0), slices)
    assert np.array_equal(NONE.axes(bases(), uniform(0, 200)), bases())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_draws_the_same(seed: int) -> None:
    slices = torch.rand(3, 4, 4)
    first, second = (changed_slices(Augmentation(), slices, seed) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, changed_slices(Augmentation(), slices, seed + 1))


# -------------------- blur


def test_a_slice_is_blurred_by_a_gaussian_of_its_own_sigma() -> None:
    slices = torch.randn(5, 20, 17, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)
    for blurred, image, sigma in zip(gaussian_blur(slices, sigmas), slices, sigmas.tolist(), strict=True):
        expected = gaussian_filter(image.numpy(), sigma, mode="nearest", radius=3)
        assert np.allclose(blurred.numpy(), expected, rtol=0, atol=1e-14)  # float64
        # Without the end at 3 pixels: of a Gaussian of sigma 1 they hold all but 4e-4, on values of up to 4.
        untruncated = gaussian_filter(image.numpy(), sigma, mode="nearest", truncate=8)
        assert np.allclose(blurred.numpy(), untruncated, rtol=0, atol=5e-3)


def test_no_blur_changes_no_bit() -> None:
    slices = torch.randn(3, 9, 9, generator=torch.Generator().manual_seed(0)) * 1e4
    assert torch.equal(gaussian_blur(slices, torch.zeros(3)), slices)


def test_blur_keeps_a_constant_and_its_edges() -> None:
    slices = torch.full((2, 8, 8), 7.0, dtype=torch.float64)
    assert torch.allclose(gaussian_blur(slices, torch.tensor([0.4, 1.0], dtype=torch.float64)), slices, rtol=1e-14)


def test_blurs_are_drawn_from_none_to_the_strength() -> None:
    impulse = torch.zeros(400, 9, 9)
    impulse[:, 4, 4] = 1.0
    blurred = changed_slices(replace(NONE, blur=0.8), impulse, 3)
    peaks = blurred[:, 4, 4]
    assert peaks.max() > 0.99  # 400 draws come to below 0.2 pixels, which leave all where it was
    offsets = torch.arange(-3, 4.0)
    strongest = float((1 / torch.exp(-0.5 * (offsets / 0.8) ** 2).sum()) ** 2)  # the peak of the strongest kernel
    assert strongest - 1e-6 <= float(peaks.min()) < strongest * 1.1


def test_noise_is_not_blurred() -> None:
    noisy = changed_slices(replace(NONE, noise=1.0, blur=1.0), torch.zeros(20, 40, 40), 4)
    neighbours = np.corrcoef(noisy[:, :, 1:].ravel(), noisy[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.03  # of 31 200 independent pairs the standard deviation is 0.006; blurred it is 0.8


def test_each_volume_has_noise_of_its_own_whatever_is_beside_it() -> None:
    slices = torch.zeros(2, 3, 8, 8)
    changes = replace(NONE, noise=1.0).changes(uniform(5, 6)).reshape(2, 3, 4)
    both = change_intensities(slices, changes, [7, 8])
    assert torch.equal(change_intensities(slices[1:], changes[1:], [8])[0], both[1])
    assert not torch.equal(both[0] / changes[0, 0, 2], both[1] / changes[1, 0, 2])
