"""Levels of pseudo-masks against a plain float64 reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import ndimage

from tonno_core.distillation.pseudo_mask import (
    BACKGROUND,
    FINDING,
    UNKNOWN,
    is_trusted,
    levels_by_answer,
    levels_by_heatmaps,
)
from tonno_core.distillation.settings import DistillationSettings

Array = npt.NDArray[np.float64]
# Heatmaps are float32: values this near to a threshold may fall on either side of it.
ROUNDING = 1e-5
BLANK = torch.zeros(1, 3, 3, 3)  # an image that is not looked at, or has no contrast


def reference(
    maps: Array, units: Sequence[float], foreground: npt.NDArray[np.bool_], settings: DistillationSettings
) -> tuple[Array, npt.NDArray[np.uint8]]:
    """The mean heatmap in its unit, and its levels by it alone, voxel by voxel from the definition."""
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
    settings = DistillationSettings(unit=unit, finding=0.55, background=0.33, contrast=math.inf)  # type: ignore[arg-type]
    made = levels_by_heatmaps(
        torch.as_tensor(maps, dtype=torch.float32),
        units,
        torch.zeros(1, 5, 6, 7),
        torch.as_tensor(foreground),
        settings,
    )
    mean, expected = reference(maps, units, foreground, settings)
    clear = (np.abs(mean - 0.55) > ROUNDING) & (np.abs(mean - 0.33) > ROUNDING)
    assert clear.mean() > 0.99
    assert np.array_equal(made.numpy()[clear], expected[clear])
    assert set(np.unique(made)) == {UNKNOWN, BACKGROUND, FINDING}


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["bright", "dark"])
def test_brightness_says_where_a_finding_ends(sign: float) -> None:
    # A finding of 6^3 voxels, of whose heatmap a blurred ball is left, in a head of noise; beside it a bright spot.
    rng = np.random.default_rng(0)
    z, y, x = np.mgrid[:20, :20, :20]
    truth = np.maximum(np.maximum(abs(z - 10), abs(y - 10)), abs(x - 10)) <= 3
    image = 0.3 * rng.normal(size=truth.shape) + sign * 2.0 * truth
    image[2:5, 2:5, 2:5] += sign * 2.0
    heat = np.exp(-((z - 11) ** 2 + (y - 10) ** 2 + (x - 10) ** 2) / (2 * 4.0**2))
    foreground = rng.random(truth.shape) < 0.9
    settings = DistillationSettings(smoothing=0.6)
    made = levels_by_heatmaps(
        torch.as_tensor(heat[None], dtype=torch.float32), [1.0], torch.as_tensor(image[None]),
        torch.as_tensor(foreground), settings,
    ).numpy()  # fmt: skip

    u = heat / heat[foreground].max()
    smooth = ndimage.gaussian_filter(image, 0.6, mode="nearest")
    inside, outside = np.median(smooth[u >= 0.7]), np.median(smooth[(u < 0.2) & foreground])
    share = (smooth - outside) / (inside - outside)
    expected = np.select([u < 0.2, share > 0.65, share < 0.35], [BACKGROUND, FINDING, BACKGROUND], UNKNOWN)
    # Medians of float32, of which torch takes the lower of two in the middle.
    clear = np.min([abs(u - 0.2), abs(share - 0.65), abs(share - 0.35)], axis=0) > 1e-2
    assert clear.mean() > 0.9
    assert np.array_equal(made[clear], expected[clear])
    dice = 2 * (truth & (made == FINDING)).sum() / (truth.sum() + (made == FINDING).sum())
    assert dice > 0.85  # by the heatmap alone 0.6 at best
    best = max(2 * (truth & (u >= t)).sum() / (truth.sum() + (u >= t).sum()) for t in np.linspace(0.05, 1, 39))
    assert dice > best
    assert not (made[2:5, 2:5, 2:5] == FINDING).any()


def test_without_contrast_a_heatmap_stands_alone() -> None:
    rng = np.random.default_rng(0)
    heat = torch.as_tensor(rng.random((1, 6, 6, 6)), dtype=torch.float32)
    everywhere, settings = torch.ones(6, 6, 6, dtype=torch.bool), DistillationSettings()
    flat = torch.as_tensor(rng.normal(size=(1, 6, 6, 6)))
    alone = levels_by_heatmaps(heat, [1.0], flat, everywhere, replace(settings, contrast=math.inf))
    # Of noise the medians of some dozen voxels differ by less than this.
    assert torch.equal(levels_by_heatmaps(heat, [1.0], flat, everywhere, replace(settings, contrast=1.0)), alone)
    assert set(alone.unique().tolist()) == {UNKNOWN, BACKGROUND, FINDING}


def test_a_heatmap_without_a_peak_says_nothing() -> None:
    maps, everywhere = -torch.rand(2, 3, 3, 3), torch.ones(3, 3, 3, dtype=torch.bool)
    made = levels_by_heatmaps(maps, [-0.1, -0.2], BLANK, everywhere, DistillationSettings())
    assert (made == UNKNOWN).all()


def test_a_finding_that_is_nowhere_reached_leaves_the_volume_out() -> None:
    settings = DistillationSettings(unit="threshold", finding=1.0, background=0.5)
    maps, everywhere = torch.full((1, 3, 3, 3), 0.4), torch.ones(3, 3, 3, dtype=torch.bool)
    assert (levels_by_heatmaps(maps, [1.0], BLANK, everywhere, settings) == UNKNOWN).all()


def test_a_network_s_own_answer_is_divided_by_its_probability() -> None:
    settings = DistillationSettings(own_finding=0.5, own_background=0.2)
    logits = torch.tensor([-5.0, -1.4, -1.38, -0.1, 0.0, 5.0]).reshape(1, 1, 6)  # 0.2 is at -1.386
    expected = [BACKGROUND, BACKGROUND, UNKNOWN, UNKNOWN, FINDING, FINDING]
    assert levels_by_answer(logits, settings).flatten().tolist() == expected
    assert (levels_by_answer(logits[..., :4], settings) == UNKNOWN).all()


def test_heatmaps_below_the_thresholds_are_not_trusted() -> None:
    assert is_trusted([3.0, 0.5], [2.0, 1.0], 1.0)  # 1.5 and 0.5 of the thresholds: 1 on average
    assert not is_trusted([2.9, 0.5], [2.0, 1.0], 1.0)
    assert is_trusted([2.9, 0.5], [2.0, 1.0], 0.9)
    assert is_trusted([-5.0], [2.0], 0.0) is False
    for thresholds in ([None, 1.0], [0.0, 1.0], [-2.0, 1.0]):  # nothing to measure by
        assert is_trusted([0.1, 0.1], thresholds, 1.0)
