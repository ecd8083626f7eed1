"""PixelSum, the encoder whose answer is known."""

from __future__ import annotations

import pytest
import torch

from tonno_core.encoding.encoder import PixelSum

RAMP = torch.arange(64.0 * 64).reshape(1, 64, 64)


def test_its_logit_is_the_mean_pixel() -> None:
    assert PixelSum().logits(RAMP).tolist() == [[4095 / 2]]


@pytest.mark.parametrize(("stage", "cells"), [(1, 16), (2, 8), (3, 4), (4, 2)])
def test_its_maps_are_the_means_of_cells(stage: int, cells: int) -> None:
    logits, by_key = PixelSum().cam(RAMP, [(0, stage)], "layercam")
    maps = by_key[0, stage]
    assert maps.shape == (1, cells, cells)
    side = 64 // cells
    # Means of thousands of whole numbers up to 4095 in float32: 1e-7 of them.
    assert maps[0, 0, 0] == pytest.approx(float(RAMP[0, :side, :side].mean()), rel=1e-6)
    assert maps.mean() == pytest.approx(float(logits), rel=1e-6)


def test_slices_smaller_than_a_cell_are_one_cell() -> None:
    assert PixelSum().cam(RAMP[:, :8, :8], [(0, 4)], "layercam")[1][0, 4].shape == (1, 1, 1)
