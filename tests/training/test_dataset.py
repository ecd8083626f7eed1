"""Random slices: where they lie, what they show, whose label they carry, and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.toy import toy_scan
from tonno_core.errors import TonnoError
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.dataset import Batch, SliceSampler, _RandomNumbers, prefetch
from tonno_core.training.voxels import DeviceVoxels
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


def volume_of(prepared: PreparedVolume, *labels: int, name: str = "") -> TrainingVolume:
    return TrainingVolume.from_prepared(prepared, labels or (1,), np.random.default_rng(0), name)


def bright_ball(value: float, *labels: int) -> TrainingVolume:
    prepared = ball(8.0)
    scaled = replace(prepared, volume=prepared.volume.with_array(prepared.volume.array * value))
    return volume_of(scaled, *labels, name=f"{value:g}")


def sampler_of(
    volumes: Sequence[TrainingVolume], pixels: int, *, seed: int = 0, augmentation: Augmentation | None = None
) -> SliceSampler:
    return SliceSampler(volumes, pixels, augmentation, seed, CPU)


# -------------------- what slices show


@pytest.mark.parametrize("fill", [0.0, -3.0])
def test_slices_of_a_ball_are_discs(fill: float) -> None:
    radius, pixels = 8.0, 33
    batch = sampler_of([volume_of(ball(radius, fill=fill))], pixels).draw(1, 1, 200)
    slices = batch.slices
    assert slices.shape == (200, pixels, pixels)
    assert batch.labels.tolist() == [[1.0]] * 200
    # Outside of the ball, and of the volume, there is the fill value.
    assert slices[:, 0, 0].tolist() == pytest.approx([fill] * 200, abs=1e-6)
    # A plane at distance s cuts a disc of pi (r^2 - s^2): with s uniform over [-r, r], 2/3 of the largest on average.
    area = ((slices - fill) / (1 - fill)).sum(dim=(1, 2)) * (31 / (pixels - 1)) ** 2
    largest = np.pi * radius**2
    assert area.max() == pytest.approx(largest, rel=0.1)  # a voxelised ball of 8 voxels' radius
    # The standard deviation of one is 0.3 of the largest, of the mean of 200 0.02.
    assert area.mean() == pytest.approx(2 / 3 * largest, rel=0.1)


def test_slices_are_centred_on_the_frame() -> None:
    slices = sampler_of([volume_of(ball(8.0))], 33).draw(1, 1, 100).slices
    steps = torch.arange(33.0) - 16
    mass = slices.sum(dim=(1, 2))
    for axis in (1, 2):
        centre = (slices.sum(dim=3 - axis) * steps).sum(dim=1) / mass
        # The disc's centre is the plane's point nearest to the frame's centre; half a pixel for voxelised rims.
        assert centre[mass > 20].abs().max() < 0.5


def test_no_slice_misses_the_foreground() -> None:
    # A small head in the corner of a large scan: most planes through the whole scan would miss it.
    prepared = ball(3.0, size=32)
    array = np.roll(prepared.volume.array, (9, 9, -9), axis=(0, 1, 2))
    corner = volume_of(replace(prepared, volume=prepared.volume.with_array(array)))
    slices = sampler_of([corner], 48).draw(0, 1, 300).slices
    assert (slices.amax(dim=(1, 2)) > 0).all()


def test_volumes_of_different_sizes_share_a_batch() -> None:
    small, large = volume_of(ball(6.0, size=16), 0), volume_of(ball(12.0, size=31), 1)
    batch = sampler_of([small, large], 17).draw(0, 2, 100)
    # In their own frames both are balls of 0.8: their discs are alike, though one is padded to the other's size.
    means = [float(batch.slices[batch.labels[:, 0] == label].mean()) for label in (0, 1)]
    assert means[0] == pytest.approx(means[1], rel=0.15)  # voxelised balls, and 100 random planes


def test_intensities_beyond_half_precision_stay_finite() -> None:
    scan = toy_scan(0, 1)
    bright = Volume(scan.array * 1000, scan.ijk_to_ras)  # up to 3e5; float16 ends at 65504
    volume = volume_of(prepare_volume(bright, frame="physical", intensity="none", slice_size=16))
    assert volume.array.dtype == torch.float32
    slices = sampler_of([volume], 16).draw(0, 1, 20).slices
    assert slices.isfinite().all()
    assert slices.max() > 1e5


def test_a_window_that_shows_nothing_is_refused() -> None:
    prepared = prepare_volume(toy_scan(0, 1), frame="physical", intensity="window:5000:6000", slice_size=16)
    with pytest.raises(TonnoError, match="after `intensity` all of it equals the space outside"):
        volume_of(prepared)


# -------------------- whose label they carry


def test_half_of_the_volumes_have_each_label_and_each_slice_its_volumes() -> None:
    # Brightnesses tell the volumes apart; only one of four is positive.
    volumes = [bright_ball(10.0**power, int(power == 3)) for power in range(4)]
    batch = sampler_of(volumes, 16).draw(0, 64, 3)
    labels = batch.labels[:, 0]
    assert labels.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0] * 32
    powers = batch.slices.amax(dim=(1, 2)).log10().round()
    # Not those that only touch a ball and show a part of its brightness.
    whole = (batch.slices > 0).sum(dim=(1, 2)) > 9
    assert set(powers[whole & (labels == 1)].tolist()) == {3.0}
    assert set(powers[whole & (labels == 0)].tolist()) == {0.0, 1.0, 2.0}
    brightest = powers.reshape(64, 3).amax(dim=1).repeat_interleave(3)
    assert torch.equal(powers[whole], brightest[whole])


@pytest.mark.parametrize("count", [2, 4, 6, 8])
def test_each_of_several_classes_has_its_share_of_positives(count: int) -> None:
    # 20 healthy volumes, and one of each of three classes, the second of them with the first.
    labels = [(0, 0, 0)] * 20 + [(1, 0, 0), (1, 1, 0), (0, 0, 1)]
    sampler = sampler_of([bright_ball(1.0 + i, *label) for i, label in enumerate(labels)], 4)
    drawn = torch.cat([sampler.draw(step, count, 1).labels for step in range(60)])
    # A sixth of the volumes is drawn for each class; the first class comes with the second as well, and each by the
    # way among the volumes without another (3 of 23).
    share = drawn.mean(dim=0)
    assert share[0] == pytest.approx(1 / 6 + 1 / 12, abs=0.13)
    assert share[1] == pytest.approx(1 / 6, abs=0.13)
    assert share[2] == pytest.approx(1 / 6, abs=0.13)
    assert share.min() > 0.14


def test_a_single_volume_may_be_drawn_from() -> None:
    assert sampler_of([bright_ball(1.0, 0)], 8).draw(0, 2, 1).labels.tolist() == [[0.0], [0.0]]


# -------------------- what they depend on


def some_volumes() -> list[TrainingVolume]:
    return [volume_of(ball(8.0 + index), index % 2, name=f"v{index}") for index in range(5)]


def test_a_batch_depends_on_seed_and_step_and_not_on_what_was_drawn_before() -> None:
    sampler, fresh = (sampler_of(some_volumes(), 16, augmentation=Augmentation()) for _ in range(2))
    for step in range(3):
        sampler.draw(step, 4, 3)
    assert torch.equal(sampler.draw(3, 4, 3).slices, fresh.draw(3, 4, 3).slices)
    other_step, other_seed = fresh.draw(4, 4, 3), replace(fresh, seed=1).draw(3, 4, 3)
    assert not torch.equal(fresh.draw(3, 4, 3).slices, other_step.slices)
    assert not torch.equal(fresh.draw(3, 4, 3).slices, other_seed.slices)


def test_the_first_batches_of_neighbouring_seeds_and_steps_share_no_plane() -> None:
    sampler = sampler_of([volume_of(ball(8.0))], 16)
    planes = [replace(sampler, seed=seed).draw(step, 2, 2).slices for seed in range(3) for step in range(3)]
    seen = {plane.numpy().tobytes() for batch in planes for plane in batch}
    assert len(seen) == 3 * 3 * 4


@pytest.mark.parametrize("world", [2, 4])
def test_the_shares_of_several_processes_are_the_batch_of_one(world: int) -> None:
    sampler = sampler_of(some_volumes(), 16, augmentation=Augmentation())
    whole = sampler.draw(7, 8, 3)
    shares = [sampler.draw(7, 8, 3, rank=rank, world=world) for rank in range(world)]
    slices, labels = whole.slices.reshape(8, 3, 16, 16), whole.labels.reshape(8, 3, 1)
    for rank, share in enumerate(shares):
        assert torch.equal(share.labels, labels[rank::world].flatten(0, 1))
        # float32, whose sums a convolution of fewer slices may order otherwise.
        assert torch.allclose(share.slices, slices[rank::world].flatten(0, 1), rtol=0, atol=1e-6)
        assert share.names == whole.names  # an error names all volumes of the batch


def test_a_batch_names_its_volumes_once() -> None:
    names = sampler_of(some_volumes()[:2], 8).draw(0, 6, 1).names
    assert sorted(names) == ["v0", "v1"]


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("steps", [range(0), range(3, 4), range(2, 6)])
def test_batches_come_in_order_whether_drawn_ahead_or_not(steps: range, ahead: bool) -> None:
    drawn = []

    def draw(step: int) -> Batch:
        drawn.append(step)
        return Batch(torch.full((1,), float(step)), torch.empty(0), ())

    batches = [(step, float(batch.slices)) for step, batch in prefetch(draw, steps, ahead=ahead)]
    assert batches == [(step, float(step)) for step in steps]
    assert drawn == list(steps)


def test_as_many_volumes_stay_on_the_device_as_there_is_room_for() -> None:
    volumes = some_volumes()
    size = volumes[0].array.numel() * 4
    voxels = DeviceVoxels(volumes, CPU, torch.float32, 2 * size)
    first, second, third = (voxels.of(number) for number in (3, 0, 1))
    assert voxels.of(3) is first
    assert voxels.of(0) is second
    again = voxels.of(1)
    assert again is not third  # no room was left
    assert torch.equal(again, third)
    assert torch.equal(first, volumes[3].array.float())
    none = DeviceVoxels(volumes, CPU, torch.float32, 0)
    assert none.of(0) is not none.of(0)
    sampler = sampler_of(volumes, 16, augmentation=Augmentation())
    kept = replace(sampler, room=2**30)
    for _ in range(2):  # what stays changes no number
        assert torch.equal(kept.draw(3, 4, 3).slices, sampler.draw(3, 4, 3).slices)


def test_random_numbers_are_drawn_in_the_order_of_earlier_builds() -> None:
    # A run that an earlier build began goes on with the planes and changes that it would have drawn.
    numbers = _RandomNumbers.draw([(3, 5, 1), (3, 5, 2)], 4, augmented=True)
    for position in range(2):
        rng = np.random.default_rng((3, 5, position + 1))
        normals = rng.normal(size=(4, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        assert np.array_equal(numbers.normals[position], normals)
        assert np.array_equal(numbers.offsets[position], rng.uniform(0.0, 1.0, 4))
        scale, shear = rng.uniform(0.0, 1.0, (4, 2)), rng.uniform(0.0, 1.0, (4, 2))
        assert np.array_equal(numbers.axes[position], np.concatenate([scale, shear], axis=1))
        assert numbers.noise[position] == int(rng.integers(2**63))
        changes = [rng.uniform(0.0, 1.0, 4) for _ in range(4)]
        assert np.array_equal(numbers.intensities[position], np.stack(changes, axis=1))


def test_an_error_while_drawing_ahead_is_the_training_s() -> None:
    def draw(step: int) -> Batch:
        raise TonnoError("no such slice")

    with pytest.raises(TonnoError, match="no such slice"):
        list(prefetch(draw, range(2), ahead=True))
