"""Agreement of masks by half of the directions with the evidence of the other half, against float64 and known maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from tonno_core.training import agreement
from tonno_core.training.agreement import (
    LARGEST,
    MASKS,
    Agreement,
    best_threshold,
    mask_counts,
    measure_agreement,
)

RNG = np.random.default_rng(0)


def measured(halves: np.ndarray, evidence: np.ndarray) -> Agreement:
    whole, both, other = (torch.as_tensor(each, dtype=torch.float32) for each in (halves.mean(0), halves, evidence))
    return Agreement.of_numbers(measure_agreement(whole, both, other).tolist())


@pytest.mark.parametrize("voxels", [1, 2, 5, 997])
def test_it_is_the_correlation_of_each_mask_with_the_other_half(voxels: int) -> None:
    halves = RNG.normal(size=(2, voxels)).astype(np.float32)
    evidence = (0.5 * halves[::-1] + RNG.normal(3.0, 2.0, size=(2, voxels))).astype(np.float32)
    found = measured(halves, evidence)
    counts = mask_counts(voxels)
    assert (len(counts), counts[0], counts[-1]) == (MASKS, 1, max(1, round(LARGEST * voxels)))
    for count, level, correlation in zip(counts, found.levels, found.correlations, strict=True):
        expected = []
        for half in (0, 1):
            mask = np.zeros(voxels)
            mask[np.argsort(-halves[half])[:count]] = 1.0
            other = evidence[1 - half].astype(np.float64)
            defined = mask.std() > 0 and other.std() > 0
            expected.append(np.corrcoef(mask, other)[0, 1] if defined else 0.0)
        assert correlation == pytest.approx(np.mean(expected), abs=1e-5)  # the evidence's float32, over 1,000 voxels
        assert level == np.sort(halves.mean(0))[::-1][count - 1]


def test_noise_agrees_with_nothing_and_a_map_without_noise_with_itself() -> None:
    voxels = 20_000
    noise = measured(RNG.normal(size=(2, voxels)), RNG.normal(size=(2, voxels)))
    # The mean of two correlations of independent numbers: 0, a standard deviation of 1 / sqrt(2 n).
    assert np.abs(noise.correlations).max() < 4.5 / np.sqrt(2 * voxels)
    counts = mask_counts(voxels)
    size = counts[-20]
    finding = (np.arange(voxels) < size).astype(float)
    smooth = finding - np.linspace(0, 1e-3, voxels)  # no two voxels are equal
    clean = measured(np.stack([smooth, smooth]), np.stack([finding, finding]))
    assert clean.correlations[-20] == pytest.approx(1.0, abs=1e-6) == clean.correlations.max()
    # A mask of m of n voxels, within or around the finding's k: sqrt(small (n - large) / (large (n - small))).
    for m in counts[[-28, -21, -19, -12]]:
        small, large = sorted((m, size))
        expected = np.sqrt(small * (voxels - large) / (large * (voxels - small)))
        assert clean.correlations[np.flatnonzero(counts == m)[0]] == pytest.approx(expected, abs=1e-6)
    assert clean.at(0.5) > 0.9  # between two masks whose sizes are a factor of 1.2 apart


def test_a_threshold_lies_between_levels_and_nothing_is_marked_above_the_highest() -> None:
    found = Agreement(np.array([4.0, 2.0, 1.0]), np.array([0.2, 0.6, 0.4]))
    assert found.at([4.5, 4.0, 3.0, 2.0, 1.5, 0.0]).tolist() == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.5, 0.4])


def test_the_best_threshold_is_that_of_all_volumes_together() -> None:
    first = Agreement(np.array([4.0, 2.0, 1.0]), np.array([0.2, 0.6, 0.4]))
    other = Agreement(np.array([3.0, 1.5, 0.5]), np.array([0.1, 0.7, 0.7]))
    assert best_threshold([first]) == 2.0
    assert best_threshold([other]) == 1.5  # the highest of equals
    assert best_threshold([first, other]) == 1.5  # (0.5 + 0.7) / 2, at 2 it is (0.6 + 0.5) / 2
    faint = Agreement(np.array([0.4, 0.3]), np.array([0.5, 0.5]))
    assert best_threshold([faint, faint, first]) == 0.4  # nothing is marked in two of three above it


def test_constant_evidence_says_nothing() -> None:
    found = measured(RNG.normal(size=(2, 100)), np.full((2, 100), 7.0))
    assert not found.correlations.any()


def test_of_a_large_volume_every_so_many_voxels_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = ndimage.gaussian_filter(RNG.normal(size=(4, 40, 40, 40)), (0, 4, 4, 4)).reshape(4, -1)
    maps[2:] += maps[:2][::-1]
    whole = measured(maps[:2], maps[2:])
    monkeypatch.setattr(agreement, "VOXELS", 40**3 // 7)
    some = measured(maps[:2], maps[2:])
    # The largest masks hold tens of blobs of the same width, sampled 7 times less densely.
    for level in whole.levels[-12:]:
        assert some.at(level) == pytest.approx(whole.at(level), abs=0.02)
