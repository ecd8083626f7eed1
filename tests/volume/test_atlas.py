"""The CPU's fast trilinear sampling against torch's own 3D grid_sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tonno_core.volume.atlas import LARGEST_SIDE, Atlas
from tonno_core.volume.grid import affine_points, ijk_to_grid


def sampled(atlas: Atlas, unit_to_ijk: np.ndarray, block: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
    """T V U: a volume at the samples of a block, whose corners are at -1 and 1."""
    theta = torch.as_tensor(atlas.from_ijk(unit_to_ijk[:3]), dtype=dtype)[None]
    return atlas.sample(*atlas.clamped(affine_points(theta, block)[0].movedim(-1, 0)))[:, 0]


@pytest.mark.parametrize("shape", [(2, 2, 2), (5, 7, 9), (14, 6, 11), (23, 40, 31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_grid_sample_inside_across_and_beyond_the_border(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(sum(shape))
    array = torch.randn(shape, generator=generator, dtype=dtype)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    size = np.array(shape[::-1])
    unit_to_ijk = np.eye(4)
    unit_to_ijk[:3, :3] = turn * (size * 0.8)[:, None]  # reaches past every face
    unit_to_ijk[:3, 3] = (size - 1) / 2
    block = (9, 10, 11)
    theta = torch.as_tensor(ijk_to_grid(shape[::-1]) @ unit_to_ijk, dtype=dtype)[None]
    expected = F.grid_sample(array[None, None], affine_points(theta, block), align_corners=True)[0, 0]
    atlas = Atlas.of_volume(array[None])
    found = sampled(atlas, unit_to_ijk, block, dtype)
    # float32 coordinates of an atlas of about 250 pixels are good to 250 * 6e-8 = 1.5e-5 of a voxel, two
    # roundings each way; neighbouring voxels differ by up to about 5. float64: 1e-12 is far below either.
    assert torch.allclose(found, expected, rtol=0, atol=2e-4 if dtype == torch.float32 else 1e-12)
    assert expected.abs().max() > 0.5
    assert (expected == 0).any()  # the block does leave the volume


def test_a_ramp_is_itself() -> None:
    k, j, i = torch.meshgrid(*[torch.arange(6, dtype=torch.float64)] * 3, indexing="ij")
    ramp = i + 10 * j + 100 * k
    unit_to_ijk = np.diag([2.5, 2.5, 2.5, 1.0])
    unit_to_ijk[:3, 3] = 2.5
    atlas = Atlas.of_volume(ramp[None])
    found = sampled(atlas, unit_to_ijk, (3, 3, 3), ramp.dtype)
    assert found.flatten().tolist() == pytest.approx(
        [x + 10 * y + 100 * z for z in (0, 2.5, 5) for y in (0, 2.5, 5) for x in (0, 2.5, 5)], abs=1e-9
    )


def test_volumes_with_too_large_an_atlas_are_left_to_grid_sample() -> None:
    assert Atlas.fits((100, 114, 94))
    side = LARGEST_SIDE // 10
    assert not Atlas.fits((99, side, side))  # 11 x 10 tiles
