"""Interpolation with smoothing, against `resample` and SciPy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from tonno_core.volume.grid import resample
from tonno_core.volume.smoothing import Interpolation, gaussian_matrix

SOURCE, TARGET = (12, 14, 13), (17, 23, 21)
BLOCK = (slice(3, 9), slice(2, 20), slice(5, 21))
SIGMAS = {0.0: (0.0, 0.0, 0.0), 4.0: (1.2, 0.7, 2.0)}


@pytest.mark.parametrize("count", [1, 2, 5, 60])
@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.3, 1.0, 4.0, 20.0])  # also beyond the whole axis, reflected many times
def test_a_matrix_smooths_as_scipy_does(count: int, sigma: float) -> None:
    values = np.random.default_rng(0).normal(size=(count, 3))
    expected = ndimage.gaussian_filter1d(values, sigma, axis=0) if sigma else values
    # Sums of up to 161 products in float64, of numbers of about 1.
    np.testing.assert_allclose(gaussian_matrix(count, sigma) @ values, expected, atol=1e-13)


@pytest.mark.parametrize("turned", ["parallel", "permuted", "oblique"])
@pytest.mark.parametrize("block", [None, BLOCK])
def test_it_is_interpolation_and_then_scipys_filter_also_in_a_block(
    turned: str, block: tuple[slice, slice, slice] | None
) -> None:
    source = torch.as_tensor(np.random.default_rng(1).normal(size=(2, *SOURCE)))
    cosine, sine = np.cos(0.2), np.sin(0.2)
    matrix = {
        "parallel": np.diag([0.5, 0.5, 0.6]),
        "permuted": np.array([[0.0, 0.5, 0.0], [0.0, 0.0, 0.6], [-0.5, 0.0, 0.0]]),
        "oblique": 0.5 * np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]]),
    }[turned]
    ijk_to_source = np.eye(4)
    ijk_to_source[:3, :3], ijk_to_source[:3, 3] = matrix, (0.7, 1.4, 11.1 if turned == "permuted" else 1.1)
    interpolation = Interpolation(ijk_to_source, SOURCE, TARGET, source, SIGMAS, block)
    plain = resample(source, ijk_to_source, TARGET).numpy()
    assert plain.any()
    for key, sigma in SIGMAS.items():
        expected = np.stack([ndimage.gaussian_filter(each, sigma) if key else each for each in plain])
        # float64, but for coordinates near 1 whose rounding the slope of the values multiplies.
        np.testing.assert_allclose(interpolation(source, key), expected[(slice(None), *(block or ()))], atol=1e-12)
