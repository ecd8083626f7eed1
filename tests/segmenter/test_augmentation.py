"""Random changes of patches: image and pseudo-mask together, repeatable, and as large as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from tonno_core.segmenter.with_monai import Augmentation

WINDOW = (10, 12, 8)


def patch(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, *shape, generator=generator)
    return image, torch.randint(0, 3, (1, *shape), generator=generator, dtype=torch.uint8)


def middle(array: torch.Tensor) -> torch.Tensor:
    start = [(n - m) // 2 for n, m in zip(array.shape[1:], WINDOW, strict=True)]
    return array[(slice(None), *(slice(first, first + m) for first, m in zip(start, WINDOW, strict=True)))]


def mirrors(array: torch.Tensor) -> list[torch.Tensor]:
    axes = itertools.chain.from_iterable(itertools.combinations((1, 2, 3), count) for count in range(4))
    return [array.flip(some) for some in axes]


def test_without_a_range_a_patch_is_the_middle_or_its_mirror_image() -> None:
    still = Augmentation((5.0, 1.0, 1.0), 0, 0, 0, 0, 0)
    assert still.reach(WINDOW) == WINDOW
    image, levels = patch((20, 24, 16))
    seen = set()
    for seed in range(24):
        made, made_levels = still.apply(image, levels, WINDOW, seed)
        # grid_sample at the voxels themselves, in float32
        same = [torch.allclose(made, each, atol=1e-5) for each in mirrors(middle(image))]
        assert same.count(True) == 1
        assert torch.equal(made_levels, mirrors(middle(levels))[same.index(True)])
        seen.add(same.index(True))
    assert len(seen) > 4  # of 8


def test_the_same_seed_makes_the_same_change() -> None:
    changing = Augmentation((5.0, 1.0, 1.0), 15, 0.1, 0.1, 0.1, 0.1)
    image, levels = patch(changing.reach(WINDOW))
    once, again, other = (changing.apply(image, levels, WINDOW, seed) for seed in (3, 3, 4))
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])
    assert not torch.equal(once[0], other[0])
    assert once[1].dtype == torch.uint8
    assert (type(once[0]), type(once[1])) == (torch.Tensor, torch.Tensor)


def test_a_rotation_turns_by_no_more_than_its_angle_and_less_between_unlike_axes() -> None:
    angles = Augmentation((5.0, 1.0, 1.0), 15, 0, 0, 0, 0)._angles
    assert angles == pytest.approx([math.radians(15), math.radians(3), math.radians(3)])  # about Z, between Y and X


def test_an_image_and_its_levels_are_turned_alike_and_nothing_from_beyond_comes_in() -> None:
    turning = Augmentation((1.0, 1.0, 1.0), 20, 0.1, 0, 0, 0)
    shape = turning.reach((16, 16, 16))
    z, y, x = np.mgrid[tuple(slice(0, n) for n in shape)]
    ball = ((z - 14) / 3.0) ** 2 + ((y - 20) / 5.0) ** 2 + ((x - 17) / 4.0) ** 2 < 1
    image = torch.as_tensor(ndimage.gaussian_filter(ball.astype(np.float32), 1.0))[None] + 1.0
    levels = torch.as_tensor(1 + ball.astype(np.uint8))[None]
    for seed in range(8):
        made, made_levels = turning.apply(image, levels, (16, 16, 16), seed)
        assert (made_levels > 0).all()  # 0 is what lies beyond
        assert float(made.min()) > 0.99
        # Levels are of the nearest voxel, at most 0.87 voxels away, where the blurred ball is between these values.
        assert (made_levels[made > 1.9] == 2).all()
        assert (made_levels[made < 1.05] == 1).all()
        assert (made_levels == 2).sum() > 100


def test_gamma_bends_what_lies_between_the_darkest_and_the_brightest_voxel() -> None:
    image = torch.linspace(-1.0, 3.0, 4**3).view(1, 4, 4, 4)
    levels = torch.ones((1, 4, 4, 4), dtype=torch.uint8)
    bent = Augmentation((1.0, 1.0, 1.0), 0.0, 0.0, 0.0, 0.0, 0.0, 2.0)
    made = [bent.apply(image, levels, (4, 4, 4), seed)[0].flatten().sort().values for seed in range(12)]
    share = (image.flatten() + 1.0) / 4.0
    # The exponent that was drawn, from the voxel nearest to the middle; it holds for all voxels.
    exponents = [float(torch.log((each[32] + 1.0) / 4.0) / torch.log(share[32])) for each in made]
    for each, exponent in zip(made, exponents, strict=True):
        # float32, and MONAI adds 1e-7 to the range by which it divides
        torch.testing.assert_close(each, 4.0 * share**exponent - 1.0, atol=1e-4, rtol=0)
    assert min(exponents) < 0.9 and max(exponents) > 1.1
    assert all(0.49 < exponent < 2.01 for exponent in exponents)
