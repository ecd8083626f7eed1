"""What is skipped because it is fill: it must change no sample."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.analytic import grid_around
from tests.reference import trilinear
from tonno_core.slicing.content import Content, bounding_box
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.volume.volume import Volume


def test_the_box_holds_all_that_is_not_zero() -> None:
    array = np.zeros((6, 7, 8), dtype=np.float32)
    array[2, 3, 4] = array[4, 3, 6] = 1.0
    matrix = grid_around((1, 2, 3), (6, 7, 8), (1, 2, 3), turn_degrees=(10, 20, 30), left_handed=True)
    box = bounding_box(Volume(array, matrix))
    assert box.array.shape == (3, 2, 3)  # at least two along each axis
    assert box.array.sum() == 2.0
    # The same voxel lies at the same place.
    k, j, i = np.argwhere(box.array)[0]
    np.testing.assert_allclose(box.ijk_to_ras @ [i, j, k, 1], matrix @ [4, 3, 2, 1], atol=1e-12)
    assert bounding_box(Volume(np.zeros_like(array), matrix)).array.shape == (2, 2, 2)


def test_an_empty_volume_has_nothing_to_sample() -> None:
    plan = SlicePlan(physical_frame([2, 2, 2], 3.0), hemisphere(3), slices=5, pixels=8)
    content = Content.of(np.zeros((4, 4, 4), dtype=np.float32), np.eye(4))
    assert not content.shown(plan).any() and not content.windows(plan).any()
    source = SliceSource.from_volume(Volume(np.full((4, 4, 4), 2.0, dtype=np.float32), np.eye(4)), fill=2.0)
    assert (sample_slices(source, plan, slice(None)) == 2.0).all()


def every_sample(volume: Volume, plan: SlicePlan) -> np.ndarray:
    """Slices N V U without any shortcut."""
    side = np.linspace(-1, 1, plan.pixels)
    ras_to_ijk = np.linalg.inv(volume.ijk_to_ras) @ plan.frame_to_ras
    stacks = []
    for u, v, normal in plan.frame_to_slice(slice(None)):
        points = plan.offsets[:, None, None, None] * normal + side[:, None, None] * v + side[:, None] * u
        ijk = points.reshape(-1, 3) @ ras_to_ijk[:3, :3].T + ras_to_ijk[:3, 3]
        values = trilinear(volume.array.astype(np.float64), ijk[:, ::-1])
        stacks.append(values.reshape(len(plan.offsets), plan.pixels, plan.pixels))
    return np.concatenate(stacks)


# Along the axes and next to them (the first of the hemisphere's 400), where a slice can graze a face of the content;
# and some across. 21 + 2 and 22 + 2 offsets leave runs of one and two slices.
NORMALS = np.concatenate([np.eye(3), hemisphere(400)[:8], hemisphere(23)])


@pytest.mark.parametrize("slices", [2, 21, 22, 42])
@pytest.mark.parametrize("fraction", [1.0, 0.4, 0.05])
def test_nothing_is_lost(fraction: float, slices: int) -> None:
    rng = np.random.default_rng(int(100 * fraction))
    shape = (14, 12, 16)
    array = rng.random(shape, dtype=np.float32) + 1.0
    if fraction < 1.0:  # content in a corner of the volume, ragged
        k, j, i = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
        array[k + j + 0.5 * i > 2.5 * fraction] = 0.0
    volume = Volume(array, grid_around((3, 2, 1), shape, (1.5, 2.0, 1.0), turn_degrees=(0, 0, 20)))
    plan = SlicePlan(physical_frame([2, 3, 1], 14.0), NORMALS, slices, 15)
    source = SliceSource.from_volume(volume, dtype=torch.float64)
    np.testing.assert_allclose(sample_slices(source, plan, slice(None)), every_sample(volume, plan), atol=1e-9)


@pytest.mark.parametrize("slices", [64, 100])
def test_no_slice_is_lost_in_400_directions(slices: int) -> None:
    # A full volume, so that every offset within 0.9 of the ball shows something in every direction.
    shape = (24, 24, 24)
    volume = Volume(np.ones(shape, dtype=np.float32), grid_around((0, 0, 0), shape, (1, 1, 1)))
    plan = SlicePlan(physical_frame([0, 0, 0], 11.5), hemisphere(400), slices, 8)
    found = sample_slices(SliceSource.from_volume(volume), plan, slice(None)).unflatten(0, (400, -1))
    inner = torch.as_tensor(np.abs(plan.offsets) < 0.9)
    assert found[:, inner].amax(dim=(2, 3)).min() > 0.99  # ones, but for rounding
