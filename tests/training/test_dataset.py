"""Random slices: where they lie, what they show, and whose label they carry."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.toy import toy_scan
from tonno_core.errors import TonnoError
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.dataset import SliceSampler, TrainingVolume
from tonno_core.volume.volume import Volume

CPU = torch.device("cpu")


def ball(radius: float, *, fill: float = 0.0, size: int = 32) -> PreparedVolume:
    """A ball of 1, ``radius`` voxels wide around the centre, in a frame whose unit ball fills the volume."""
    half = (size - 1) / 2
    k, j, i = np.indices((size, size, size)) - half
    array = np.where(k**2 + j**2 + i**2 <= radius**2, 1.0, fill).astype(np.float32)
    frame_to_ras = np.diag([half, half, half, 1.0])
    frame_to_ras[:3, 3] = half
    return PreparedVolume(Volume(array, np.eye(4)), fill, frame_to_ras, half)


def volume_of(prepared: PreparedVolume, label: int = 1) -> TrainingVolume:
    return TrainingVolume.from_prepared(prepared, label, np.random.default_rng(0))


def bright_ball(value: float, label: int) -> TrainingVolume:
    prepared = ball(8.0)
    return volume_of(replace(prepared, volume=prepared.volume.with_array(prepared.volume.array * value)), label)


@pytest.mark.parametrize("fill", [0.0, -3.0])
def test_slices_of_a_ball_are_discs(fill: float) -> None:
    radius, pixels = 8.0, 33
    sampler = SliceSampler([volume_of(ball(radius, fill=fill))], pixels, None)
    slices, labels = sampler.draw(np.random.default_rng(1), 1, 200, CPU)
    assert slices.shape == (200, pixels, pixels)
    assert labels.tolist() == [1.0] * 200
    # Outside of the ball, and of the volume, there is the fill value.
    assert slices[:, 0, 0].tolist() == pytest.approx([fill] * 200, abs=1e-6)
    # A plane at distance s cuts a disc of pi (r^2 - s^2): with s uniform over [-r, r], 2/3 of the largest on average.
    area = ((slices - fill) / (1 - fill)).sum(dim=(1, 2)) * (31 / (pixels - 1)) ** 2
    largest = np.pi * radius**2
    assert area.max() == pytest.approx(largest, rel=0.1)  # a voxelised ball of 8 voxels' radius
    # The standard deviation of one is 0.3 of the largest, of the mean of 200 0.02.
    assert area.mean() == pytest.approx(2 / 3 * largest, rel=0.1)
    assert area.min() > 0  # no slice misses the foreground


def test_slices_are_centred_on_the_frame() -> None:
    slices, _ = SliceSampler([volume_of(ball(8.0))], 33, None).draw(np.random.default_rng(1), 1, 100, CPU)
    steps = torch.arange(33.0) - 16
    mass = slices.sum(dim=(1, 2))
    for axis in (1, 2):
        centre = (slices.sum(dim=3 - axis) * steps).sum(dim=1) / mass
        # The disc's centre is the plane's point nearest to the frame's centre; half a pixel for voxelised rims.
        assert centre[mass > 20].abs().max() < 0.5


def test_half_of_the_volumes_have_each_label_and_each_slice_its_volumes() -> None:
    # Brightnesses tell the volumes apart; only one of four is positive.
    volumes = [bright_ball(10.0**power, int(power == 3)) for power in range(4)]
    slices, labels = SliceSampler(volumes, 16, None).draw(np.random.default_rng(0), 64, 3, CPU)
    assert labels.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0] * 32
    powers = slices.amax(dim=(1, 2)).log10().round()
    whole = (slices > 0).sum(dim=(1, 2)) > 9  # not those that only touch a ball and show a part of its brightness
    assert set(powers[whole & (labels == 1)].tolist()) == {3.0}
    assert set(powers[whole & (labels == 0)].tolist()) == {0.0, 1.0, 2.0}
    brightest = powers.reshape(64, 3).amax(dim=1).repeat_interleave(3)
    assert torch.equal(powers[whole], brightest[whole])


def test_volumes_of_different_sizes_share_a_batch() -> None:
    small, large = volume_of(ball(6.0, size=16), 0), volume_of(ball(12.0, size=31), 1)
    sampler = SliceSampler([small, large], 17, None)
    slices, labels = sampler.draw(np.random.default_rng(0), 2, 100, CPU)
    # In their own frames both are balls of 0.8: their discs are alike, though one is padded to the other's size.
    means = [float(slices[labels == label].mean()) for label in (0, 1)]
    assert means[0] == pytest.approx(means[1], rel=0.15)  # voxelised balls, and 100 random planes


def test_one_seed_one_batch() -> None:
    sampler = SliceSampler([volume_of(ball(8.0), 0), volume_of(ball(9.0), 1)], 16, Augmentation())
    draws = [sampler.draw(np.random.default_rng(seed), 2, 3, CPU)[0] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_single_volume_may_be_drawn_from() -> None:
    _, labels = SliceSampler([bright_ball(1.0, 0)], 8, None).draw(np.random.default_rng(0), 2, 1, CPU)
    assert labels.tolist() == [0.0, 0.0]


def test_intensities_beyond_half_precision_stay_finite() -> None:
    scan = toy_scan(0, 1)
    bright = Volume(scan.array * 1000, scan.ijk_to_ras)  # up to 3e5; float16 ends at 65504
    prepared = prepare_volume(bright, frame="physical", intensity="none", slice_size=16)
    slices, _ = SliceSampler([volume_of(prepared)], 16, None).draw(np.random.default_rng(0), 1, 20, CPU)
    assert slices.isfinite().all()
    assert slices.max() > 1e5


def test_a_window_that_shows_nothing_is_refused() -> None:
    prepared = prepare_volume(toy_scan(0, 1), frame="physical", intensity="window:5000:6000", slice_size=16)
    with pytest.raises(TonnoError, match="after --intensity all of it equals the space outside"):
        volume_of(prepared)
