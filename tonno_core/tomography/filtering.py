"""The second derivative along the normal, as a matrix on the offsets.

All filters approximate d2/dm2 on the offsets' index m. A filter is a real, even response R(theta) over
theta in [-pi, pi] radians per step, with R -> -theta^2 at low frequencies:

    second-difference   -(2 - 2 cos theta)                         the paper's: [1, -2, 1]
    hann                -theta^2 (1 + cos theta) / 2
    gaussian            -theta^2 exp(-theta^2 / 2)                 a Gaussian of one step
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tonno_core.settings import FilterKind

_Response = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
_RESPONSES: dict[FilterKind, _Response] = {
    "second-difference": lambda theta: 2.0 * np.cos(theta) - 2.0,
    "hann": lambda theta: -(theta**2) * (1.0 + np.cos(theta)) / 2.0,
    "gaussian": lambda theta: -(theta**2) * np.exp(-(theta**2) / 2.0),
}

# Extra offsets sampled beyond each end of a region, so that the filter has support. Cutting its longer taps changed a
# heatmap by at most 1.5e-4 of its peak, with random weights, whose outputs jump from plane to plane.
FILTER_REACH: dict[FilterKind, int] = {"second-difference": 1, "hann": 6, "gaussian": 8}


@lru_cache(maxsize=8)
def second_derivative(kind: FilterKind, slices: int) -> npt.NDArray[np.float64]:
    """Build the matrix that takes values at m = -1 .. M to their second derivative by index at m = 0 .. M - 1.

    Beyond the ends the outermost value goes on: outside the foreground a classifier's logit is constant
    but not 0. Constants are mapped to exactly 0, and with ``second-difference`` no end is ever needed.

    Args:
        kind: the filter.
        slices: M.

    Returns:
        M x (M + 2), read-only: all callers share it.
    """
    taps = impulse_response(kind, slices + 1)
    matrix = np.zeros((slices, slices + 2))
    rows = np.arange(slices)[:, None]
    reach = np.arange(-(slices + 1), slices + 2)
    columns = np.clip(rows + 1 + reach, 0, slices + 1)
    np.add.at(matrix, (np.broadcast_to(rows, columns.shape), columns), taps[np.abs(reach)])
    # The truncated tail (below 1e-4) would otherwise leave a constant a small value.
    matrix[np.arange(slices), np.arange(slices) + 1] -= matrix.sum(axis=1)
    matrix.setflags(write=False)
    return matrix


def impulse_response(kind: FilterKind, reach: int) -> npt.NDArray[np.float64]:
    """Compute the taps of an even filter, k_j = (1 / pi) int_0^pi R(theta) cos(j theta) d theta.

    Args:
        kind: the filter.
        reach: index of the last tap.

    Returns:
        k_0 .. k_reach.
    """
    # The midpoint rule in 2^14 points is exact for the cosine polynomial and to 1e-9 for the others.
    count = 1 << 14
    theta = (np.arange(count) + 0.5) * np.pi / count
    response = _RESPONSES[kind](theta)
    taps = np.array([np.mean(response * np.cos(j * theta)) for j in range(reach + 1)])
    if kind == "second-difference":
        taps[2:] = 0.0
    return taps
