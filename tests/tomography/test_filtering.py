"""The second derivative along the normal."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.settings import FilterKind
from tonno_core.tomography.filtering import impulse_response, second_derivative

KINDS: tuple[FilterKind, ...] = ("second-difference", "hann", "gaussian")
# R(theta) at theta radians per step, as the methods are defined.
RESPONSES = {
    "second-difference": lambda theta: -4 * np.sin(theta / 2) ** 2,
    "hann": lambda theta: -(theta**2) * np.cos(theta / 2) ** 2,
    "gaussian": lambda theta: -(theta**2) * np.exp(-(theta**2) / 2),
}


def test_the_papers_filter_is_1_minus_2_1() -> None:
    expected = [[1, -2, 1, 0, 0], [0, 1, -2, 1, 0], [0, 0, 1, -2, 1]]  # M = 3 rows, offsets -1 .. 3
    np.testing.assert_allclose(second_derivative("second-difference", 3), expected, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slices", [2, 3, 8, 64])
def test_constants_vanish(kind: FilterKind, slices: int) -> None:
    matrix = second_derivative(kind, slices)
    assert matrix.shape == (slices, slices + 2)
    # A logit's offset of any size must not become a heatmap: exact up to rounding.
    np.testing.assert_allclose(matrix @ np.full(slices + 2, 1e3), 0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_from_either_end(kind: FilterKind) -> None:
    # n and -n give the mirrored profile, and must give the mirrored derivative.
    matrix = second_derivative(kind, 20)
    np.testing.assert_allclose(matrix[::-1, ::-1], matrix, atol=1e-12)


def test_a_parabola_has_the_second_derivative_2() -> None:
    m = np.arange(-1.0, 65.0)
    np.testing.assert_allclose(second_derivative("second-difference", 64) @ m**2, 2, atol=1e-9)
    # The others reach beyond the ends, where the outermost value goes on; 16 steps inside they agree. What is
    # cut off is of order 1 / 16^3 times the parabola's fall: 2 % for the Gaussian, whose response ends at pi in a kink.
    for kind, tolerance in (("hann", 0.002), ("gaussian", 0.03)):
        found = second_derivative(kind, 64) @ m**2  # type: ignore[arg-type]
        np.testing.assert_allclose(found[16:-16], 2, rtol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("theta", [0.05, 0.3, 1.0, 2.0, 3.0])
def test_the_frequency_response_is_the_definition(kind: FilterKind, theta: float) -> None:
    m = np.arange(-1, 201)
    wave = second_derivative(kind, 200) @ np.cos(theta * m + 0.7)
    # In the middle, 100 taps reach: the rest is below 1 / 100^2.
    np.testing.assert_allclose(wave[99], RESPONSES[kind](theta) * np.cos(theta * 99 + 0.7), atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_taps_sum_to_the_response(kind: FilterKind) -> None:
    taps = impulse_response(kind, 400)
    for theta in (0.0, 0.5, 1.5, 2.5):
        total = taps[0] + 2 * (taps[1:] * np.cos(np.arange(1, 401) * theta)).sum()
        np.testing.assert_allclose(total, RESPONSES[kind](theta), atol=1e-5)  # the tail from 400 on


def test_hann_and_gaussian_pass_less_noise() -> None:
    # Noise gain is the root of the taps' squares: sqrt 6 for [1, -2, 1]; the others keep the low frequencies.
    gains = {kind: np.sqrt((second_derivative(kind, 64)[32] ** 2).sum()) for kind in KINDS}
    assert gains["second-difference"] == pytest.approx(np.sqrt(6))
    # By Parseval: (1 / pi) int theta^4 (1 + cos)^2 / 4, and (1 / pi) int theta^4 exp(-theta^2), over 0 .. pi.
    theta = np.linspace(0, np.pi, 20001)
    for kind in ("hann", "gaussian"):
        power = np.trapezoid(RESPONSES[kind](theta) ** 2, theta) / np.pi
        assert gains[kind] == pytest.approx(np.sqrt(power), rel=1e-3)  # type: ignore[index]
        assert gains[kind] < 0.4 * gains["second-difference"]  # type: ignore[index]


def test_a_cached_filter_cannot_be_spoilt() -> None:
    with pytest.raises(ValueError, match="read-only"):
        second_derivative("hann", 8)[0, 0] = 1.0
