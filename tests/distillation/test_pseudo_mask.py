"""Levels of pseudo-masks against a plain float64 reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN, levels_by_answer, levels_by_heatmaps
from tonno_core.distillation.settings import DistillationSettings

Array = npt.NDArray[np.float64]
# Heatmaps are float32: values this near to a threshold may fall on either side of it.
ROUNDING = 1e-5


def reference(
    maps: Array, units: Sequence[float], foreground: npt.NDArray[np.bool_], settings: DistillationSettings
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """The mean heatmap in its unit, and its levels, voxel by voxel from the definition."""
    mean = sum(each / unit for each, unit in zip(maps, units, strict=True)) / len(maps)
    if settings.unit == "peak":
        mean = mean / max(value for value, inside in zip(mean.ravel(), foreground.ravel(), strict=True) if inside)
    levels = np.empty(mean.shape, dtype=np.uint8)
    for index, value in np.ndenumerate(mean):
        if value >= settings.finding:
            levels[index] = FINDING
        elif value < settings.background:
            levels[index] = BACKGROUND
        else:
            levels[index] = UNKNOWN
    return mean, levels


@pytest.mark.parametrize("unit", ["peak", "threshold"])
def test_levels_are_those_of_the_definition(unit: str) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(2, 5, 6, 7)) * np.array([1e-5, 30.0])[:, None, None, None]  # scales of ToNNO and of CAMs
    foreground = rng.random((5, 6, 7)) < 0.7
    units = [float(each[foreground].max()) for each in maps] if unit == "peak" else [0.5e-5, 20.0]
    settings = DistillationSettings(unit=unit, finding=0.55, background=0.33)  # type: ignore[arg-type]
    made = levels_by_heatmaps(torch.as_tensor(maps, dtype=torch.float32), units, torch.as_tensor(foreground), settings)
    mean, expected = reference(maps, units, foreground, settings)
    clear = (np.abs(mean - 0.55) > ROUNDING) & (np.abs(mean - 0.33) > ROUNDING)
    assert clear.mean() > 0.99
    assert np.array_equal(made.numpy()[clear], expected[clear])
    assert set(np.unique(made)) == {UNKNOWN, BACKGROUND, FINDING}


def test_a_heatmap_without_a_peak_says_nothing() -> None:
    maps, everywhere = -torch.rand(2, 3, 3, 3), torch.ones(3, 3, 3, dtype=torch.bool)
    made = levels_by_heatmaps(maps, [-0.1, -0.2], everywhere, DistillationSettings())
    assert (made == UNKNOWN).all()


def test_a_finding_that_is_nowhere_reached_leaves_the_volume_out() -> None:
    settings = DistillationSettings(unit="threshold", finding=1.0, background=0.5)
    maps, everywhere = torch.full((1, 3, 3, 3), 0.4), torch.ones(3, 3, 3, dtype=torch.bool)
    assert (levels_by_heatmaps(maps, [1.0], everywhere, settings) == UNKNOWN).all()


def test_a_network_s_own_answer_is_divided_by_its_probability() -> None:
    settings = DistillationSettings(own_finding=0.5, own_background=0.2)
    logits = torch.tensor([-5.0, -1.4, -1.38, -0.1, 0.0, 5.0]).reshape(1, 1, 6)  # 0.2 is at -1.386
    expected = [BACKGROUND, BACKGROUND, UNKNOWN, UNKNOWN, FINDING, FINDING]
    assert levels_by_answer(logits, settings).flatten().tolist() == expected
    assert (levels_by_answer(logits[..., :4], settings) == UNKNOWN).all()
