"""A whole reconstruction on a GPU, by the kernels, is that on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.analytic import grid_around, make_blobs
from tonno_core import ReconstructionSettings, reconstruct
from tonno_core.settings import CAM_METHODS


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_heatmaps_on_a_gpu_are_those_on_the_cpu() -> None:
    shape = (40, 46, 52)
    matrix = grid_around((5, 6, 7), shape, (1.5, 1.2, 2.0), turn_degrees=(25, 15, -40), left_handed=True)
    volume = make_blobs(3, 6, reach=14.0, sigmas=(4.0, 7.0), centre=np.array([5.0, 6.0, 7.0])).on_grid(shape, matrix)
    settings = ReconstructionSettings(
        methods=("tonno", *CAM_METHODS), slices=32, directions=40, stages=(2,), slice_size=32
    )
    found, expected = (reconstruct(volume, "pixel-sum", settings, device=device).heatmaps for device in ("cuda", "cpu"))
    for method in settings.methods:
        peak = np.abs(expected[method].array).max()
        # Both are within 6e-5 of float64 (docs/benchmarks.md); the bar there is this one.
        np.testing.assert_allclose(found[method].array, expected[method].array, rtol=0, atol=1e-3 * peak)
