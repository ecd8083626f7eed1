"""Edges of masks, on objects whose true edges are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from benchmarks import random_walker
from benchmarks.random_walker import BACKGROUND, FINDING, refine
from tonno_core.segmentation.metrics import component_scores, dice
from tonno_core.volume.volume import Volume

SHAPE = (30, 32, 34)


def ball(
    centre: tuple[float, float, float], radius: float, spacing: tuple[float, float, float] = (1, 1, 1)
) -> np.ndarray:
    z, y, x = np.indices(SHAPE)
    dz, dy, dx = (step * (at - c) for step, at, c in zip(spacing, (z, y, x), centre, strict=True))
    return np.asarray(dz**2 + dy**2 + dx**2 <= radius**2)


def volume(array: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(array.astype(np.float32), np.diag([*spacing[::-1], 1.0]))


def noisy(truth: np.ndarray) -> np.ndarray:
    return truth + 0.1 * np.random.default_rng(0).normal(size=truth.shape)


@pytest.mark.parametrize("threshold", [0.25, 0.5])
def test_a_blurred_heatmaps_mask_gets_the_images_edge(threshold: float) -> None:
    truth = ball((15, 16, 17), 8)
    heatmap = volume(ndimage.gaussian_filter(truth.astype(float), 3))
    before = dice(heatmap.array >= threshold, truth)
    refined = refine(heatmap, threshold, volume(noisy(truth)))
    # Too large and too small by the threshold alone; the edge lies between the seeds (0.6 of 0.5 is outside of it).
    assert before < 0.86
    assert dice(refined, truth) > 0.97


def test_a_weak_finding_beside_a_strong_one_stays() -> None:
    strong, weak = ball((15, 8, 8), 5), ball((15, 24, 25), 4)
    heatmap = ndimage.gaussian_filter(1.5 * strong + 0.9 * weak, 2)
    refined = refine(volume(heatmap), 0.45, volume(noisy(strong | weak)))
    assert heatmap[weak].max() < FINDING * 0.45  # below the limit that alone is certain
    assert component_scores(refined, strong | weak)[1] == 1.0
    assert dice(refined, strong | weak) > 0.9


def test_every_component_has_its_own_brightest_tenths() -> None:
    values = np.zeros((1, 3, 100), dtype=np.float32)
    for row, peak in ((0, 0.6), (2, 0.7)):
        values[0, row] = np.linspace(0.5, peak, 100)
    seeds = random_walker._seeds(values, 0.5)
    # All below 1.6 x 0.5; the voxel at the 0.7 quantile is the 70th of 100.
    assert [(seeds[0, row] == 2).sum() for row in (0, 1, 2)] == [31, 0, 31]
    assert (seeds[0, 0, 69:] == 2).all() and (seeds[0, 1] == 1).all()


def test_what_is_certain_keeps_its_side() -> None:
    heatmap = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=SHAPE), 3)
    heatmap /= heatmap.max()
    image = np.random.default_rng(2).normal(size=SHAPE)  # that knows nothing
    refined = refine(volume(heatmap), 0.5, volume(image))
    assert refined[heatmap >= FINDING * 0.5].all()
    assert not refined[heatmap < BACKGROUND * 0.5].any()


def test_distances_are_millimetres() -> None:
    # Voxels three times as high as wide; without that the walk along z would be as easy as any other.
    spacing = (3.0, 1.0, 1.0)
    truth = ball((15, 16, 17), 12, spacing)
    heatmap = volume(ndimage.gaussian_filter(truth.astype(float), [1, 3, 3]), spacing)
    image = np.random.default_rng(3).normal(size=SHAPE)
    anisotropic = refine(heatmap, 0.3, volume(image, spacing))
    isotropic = refine(volume(heatmap.array), 0.3, volume(image))
    assert (anisotropic != isotropic).any()


def test_nothing_to_decide() -> None:
    empty = volume(np.zeros(SHAPE))
    assert not refine(empty, 0.5, empty).any()
    sharp, image = volume(ball((15, 16, 17), 6)), volume(np.random.default_rng(4).normal(size=SHAPE))
    np.testing.assert_array_equal(refine(sharp, 0.5, image), sharp.array > 0)
    smooth = volume(ndimage.gaussian_filter(sharp.array, 3))
    np.testing.assert_array_equal(refine(smooth, 0.3, empty), smooth.array >= 0.3)  # no edge in the image
    full = volume(np.ones(SHAPE))
    assert refine(full, 0.5, empty).all()


def test_what_cannot_be_refined() -> None:
    heatmap = volume(np.zeros(SHAPE))
    with pytest.raises(ValueError, match="differ in size"):
        refine(heatmap, 0.5, volume(np.zeros((3, 3, 3))))
    for threshold in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="expected a positive number"):
            refine(heatmap, threshold, heatmap)
