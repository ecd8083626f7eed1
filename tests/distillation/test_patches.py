"""Windows of volumes: balanced, repeatable, shared by processes, and with nothing known beyond a volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.distillation.toy import SETTINGS
from tonno_core.distillation.patches import PatchSampler, PseudoMask, crop, empty_mask, finding_weight, pseudo_mask
from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.volumes import WorkingVolume

STILL = replace(SETTINGS, rotation=0, scaling=0, intensity_scaling=0, intensity_shift=0, noise=0, gamma=1)
SHAPE, WINDOW = (12, 10, 6), (8, 8, 8)  # the volume is larger than the window along Z and Y, smaller along X
FILL = -1.0


def sampler(count: int = 4, **changes: object) -> PatchSampler:
    """Volumes that hold their voxels' numbers less fill, every second with a finding of one voxel."""
    volumes, masks = [], []
    for index in range(count):
        array = torch.arange(float(np.prod(SHAPE))).reshape(1, *SHAPE) + 1
        volumes.append(WorkingVolume(array - FILL, FILL, (index % 2,), f"{index}.nii.gz"))
        levels = torch.full((1, *SHAPE), BACKGROUND, dtype=torch.uint8)
        levels[0, 10, 3, 5] = FINDING
        rng = np.random.default_rng(0)
        masks.append(pseudo_mask(levels, rng) if index % 2 else empty_mask(SHAPE, 1))
    settings = replace(STILL, **changes)  # type: ignore[arg-type]
    return PatchSampler(volumes, masks, WINDOW, settings, (1.0, 1.0, 1.0), torch.device("cpu"))


def test_a_batch_depends_on_the_seed_and_the_step_alone() -> None:
    once, again, later = (sampler(volumes_per_batch=4).draw(step) for step in (3, 3, 4))
    assert torch.equal(once.images, again.images)
    assert torch.equal(once.levels, again.levels)
    assert not torch.equal(once.images, later.images)


def test_two_processes_share_the_batch_of_one() -> None:
    whole = sampler(volumes_per_batch=4).draw(5)
    parts = [sampler(volumes_per_batch=4).draw(5, rank=rank, world=2) for rank in range(2)]
    for rank, part in enumerate(parts):
        assert torch.equal(part.images, whole.images[rank::2])
        assert torch.equal(part.levels, whole.levels[rank::2])
        assert torch.equal(part.labels, whole.labels[rank::2])
        assert part.names == whole.names


def test_half_of_a_batch_is_without_the_finding() -> None:
    for step in range(5):
        labels = sampler(volumes_per_batch=4).draw(step).labels
        assert labels[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_a_centred_patch_holds_the_finding_and_voxels_keep_their_levels() -> None:
    for step in range(20):
        batch = sampler(centred=1.0).draw(step)
        image, levels = batch.images[1, 0], batch.levels[1, 0]
        assert (levels == FINDING).sum() == 1
        # The voxel's own number, wherever it went and however it was mirrored; float32 at whole numbers below 2^10.
        assert image[levels == FINDING].item() == pytest.approx(1 + 10 * 60 + 3 * 6 + 5, abs=1e-2)
        assert (batch.levels[0] != FINDING).all()


def test_nothing_is_known_beyond_a_volume_and_its_fill_goes_on() -> None:
    batch = sampler().draw(0)
    beyond = batch.levels == UNKNOWN
    assert beyond.flatten(1).sum(1).tolist() == [2 * 8 * 8] * 2  # two planes along X
    assert (batch.images[beyond] == FILL).all()
    assert (batch.images[~beyond] >= 1 - 1e-3).all()


def test_a_window_may_lie_anywhere() -> None:
    array = torch.arange(1.0, 25.0).reshape(1, 2, 3, 4)
    made = crop(array, (-1, 1, 2), (2, 3, 4))
    assert made[0, 1, :2, :2].tolist() == [[7.0, 8.0], [11.0, 12.0]]
    assert made.sum() == 7 + 8 + 11 + 12
    assert crop(array, (5, 0, 0), (2, 2, 2)).sum() == 0


def test_few_of_many_voxels_are_kept_as_centres() -> None:
    levels = torch.full((2, 20, 20, 20), FINDING, dtype=torch.uint8)
    levels[1] = UNKNOWN
    mask = pseudo_mask(levels, np.random.default_rng(0))
    assert [len(each) for each in mask.centres] == [4096, 0]
    assert len(set(mask.centres[0].tolist())) == 4096
    assert empty_mask((20, 20, 20), 2).levels.unique().tolist() == [BACKGROUND]


def test_a_volume_whose_finding_is_nowhere_shown_is_not_drawn() -> None:
    made = sampler(count=8, volumes_per_batch=4)
    blank = torch.full((1, *SHAPE), UNKNOWN, dtype=torch.uint8)
    masks = list(made.masks)
    masks[1] = masks[5] = pseudo_mask(blank, np.random.default_rng(0))
    names = {name for step in range(20) for name in replace(made, masks=masks).draw(step).names}
    assert names == {f"{index}.nii.gz" for index in (0, 2, 3, 4, 6, 7)}


def test_patches_are_mirrored_along_the_axes_that_are_asked_for() -> None:
    shape = (8, 8, 8)
    array = torch.arange(512.0).reshape(1, *shape)
    volume = WorkingVolume(array, 0.0, (0,), "0.nii.gz")
    for axes, dims in (("", ()), ("R", (3,)), ("AS", (1, 2))):
        settings = replace(STILL, mirrored=axes)
        drawn = PatchSampler([volume], [empty_mask(shape, 1)], shape, settings, (1.0, 1.0, 1.0), torch.device("cpu"))
        images = torch.cat([drawn.draw(step).images for step in range(24)])
        firsts = {
            tuple(index) for image in images for index in [np.unravel_index(round(float(image[0, 0, 0, 0])), shape)]
        }
        ends = [(0, 7) if axis + 1 in dims else (0,) for axis in range(3)]
        # Within 24 steps of two patches every combination comes up but for one seed in a thousand.
        assert firsts == {(z, y, x) for z in ends[0] for y in ends[1] for x in ends[2]}


def test_small_findings_count_as_if_they_filled_a_hundredth_of_a_patch() -> None:
    def mask(count: int) -> PseudoMask:
        levels = torch.full((1, 10, 10, 10), BACKGROUND, dtype=torch.uint8)
        levels.view(-1)[:count] = FINDING
        levels.view(-1)[-200:] = UNKNOWN  # of 1000, 800 are known
        return pseudo_mask(levels, np.random.default_rng(0))

    whole, empty = (10, 10, 10), empty_mask((10, 10, 10), 1)
    assert finding_weight([mask(4), empty], whole) == pytest.approx(0.01 / (4 / 800))
    assert finding_weight([mask(4), mask(8), mask(400), empty], whole) == pytest.approx(0.01 / (8 / 800))  # the median
    assert finding_weight([mask(4)], (5, 10, 8)) == pytest.approx(0.01 / (4 / 400))  # a patch holds but half
    assert finding_weight([mask(100)], whole) == 1.0
    assert finding_weight([mask(0), empty], whole) == 1.0
    assert finding_weight([mask(1)], (100, 100, 100)) == pytest.approx(8.0)
    both = PseudoMask(torch.cat([mask(4).levels, mask(100).levels]), (*mask(4).centres, *mask(100).centres))
    assert finding_weight([both], whole) == pytest.approx(2.0)  # by the rarer class
