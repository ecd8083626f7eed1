"""Volumes of several channels, such as PET and CT: each is sliced as if it were alone, and a network sees all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tonno_core as tonno
from tests.analytic import grid_around
from tests.networks import random_network, spec_of
from tonno_core.bundle.decide import decide
from tonno_core.bundle.file import Bundle, load_bundle, save_bundle
from tonno_core.bundle.own import OwnClassifier, assumptions, describe
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.encoder import ClassMaps, PixelSum
from tonno_core.errors import TonnoError
from tonno_core.reconstruction import execute
from tonno_core.settings import CamKind, ReconstructionSettings
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import prepare_volume
from tonno_core.slicing.sampling import SliceCutter, SliceSource, sample_slices
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.dataset import SliceSampler
from tonno_core.volume.exchange import stack_channels
from tonno_core.volume.volume import Volume
from tonno_core.worker.models import _of_one_channel

SHAPE = (13, 12, 14)
PLAN = SlicePlan(physical_frame([1, 2, 3], 24.0), hemisphere(5), slices=9, pixels=20)
SETTINGS = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=12, directions=10, frame="normalized")


def noise(seed: int) -> Volume:
    """Noise without a voxel of 0, so that each has the same box."""
    array = np.random.default_rng(seed).uniform(1, 2, SHAPE).astype(np.float32)
    return Volume(array, grid_around((1, 2, 3), SHAPE, (3, 3.2, 2.9)))


FIRST, SECOND = noise(0), noise(1)
BOTH = stack_channels([FIRST, SECOND])


@pytest.mark.parametrize("with_atlas", [True, False])
def test_each_channel_is_sliced_as_if_it_were_alone(with_atlas: bool) -> None:
    def slices(volume: Volume, *fills: float) -> torch.Tensor:
        source = SliceSource.from_volume(volume, fills=fills, dtype=torch.float64)
        source = source if with_atlas else dataclasses.replace(source, atlas=None)
        return sample_slices(source, PLAN, slice(0, 5))

    both = slices(BOTH, 0.5, -0.25)
    assert both.shape == (5 * 11, 2, 20, 20)
    assert torch.equal(both[:, 0], slices(FIRST, 0.5)) and torch.equal(both[:, 1], slices(SECOND, -0.25))


def test_a_slice_is_blank_where_all_channels_are() -> None:
    small = np.zeros(SHAPE, dtype=np.float32)
    small[4:6, 4:6, 4:6] = 1.0
    left, right = FIRST.with_array(small), FIRST.with_array(small[:, :, ::-1])

    def cut(volume: Volume, *fills: float) -> tuple[SliceSource, SliceCutter, torch.Tensor]:
        source = SliceSource.from_volume(volume, fills=fills, dtype=torch.float64)
        cutter = SliceCutter(source, PLAN, blank=True)
        return source, cutter, cutter.cut(slice(0, 5))

    source, cutter, both = cut(stack_channels([left, right]), 0.0, 0.0)
    alone = [cut(volume, 0.0)[2] for volume in (left, right)]
    # Their boxes differ, and with them the order in which coordinates are added up.
    torch.testing.assert_close(both, torch.stack(alone, dim=1), rtol=0, atol=1e-12)
    blank = (both == 0).flatten(1).all(dim=1)
    assert torch.equal(source.shows_nothing(both), blank) and 0 < blank.sum() < len(blank)
    assert bool(source.shows_nothing(cutter.blank()))


def test_a_kernel_is_asked_for_one_channel_after_the_other() -> None:
    source = SliceSource.from_volume(BOTH, fills=(0.5, -0.25))

    def kernel(voxels: torch.Tensor, affines: torch.Tensor, pixels: int, fill: float) -> torch.Tensor:
        return torch.full((len(affines), pixels, pixels), fill) + voxels.mean()

    slices = sample_slices(dataclasses.replace(source, kernel=kernel), PLAN, slice(0, 5))
    assert slices.shape == (5 * 11, 2, 20, 20)
    for channel, volume in enumerate((FIRST, SECOND)):  # less fill, and with it again
        torch.testing.assert_close(slices[:, channel], torch.full_like(slices[:, channel], float(volume.array.mean())))


def bundle_of(folder: Path, channels: int, weights: dict[str, torch.Tensor], intensity: str) -> Bundle:
    schema = 3 if "/" in intensity else 1
    save_bundle(folder, spec_of(channels=channels, intensity=intensity, schema=schema), weights)
    return load_bundle(folder)


def test_a_network_that_reads_the_second_channel_alone_sees_what_one_of_that_channel_sees(tmp_path: Path) -> None:
    alone = random_network("resnet10t").state_dict()
    weights = random_network("resnet10t", channels=2).state_dict() | {
        name: tensor for name, tensor in alone.items() if name != "conv1.0.weight"
    }
    kernels = alone["conv1.0.weight"]
    weights["conv1.0.weight"] = torch.cat([torch.zeros_like(kernels), kernels], dim=1)
    one = bundle_of(tmp_path / "one", 1, alone, "zscore")
    two = bundle_of(tmp_path / "two", 2, weights, "window:0:3/zscore")
    expected, found = (
        tonno.reconstruct(volume, model, SETTINGS, device="cpu", precision="float32", progress=False)
        for volume, model in ((SECOND, one), (BOTH, two))
    )
    for method, heatmap in expected.heatmaps.items():
        # The first layer adds a term of zeros: roundings.
        scale = np.abs(heatmap.array).max()
        assert np.abs(found.heatmaps[method].array - heatmap.array).max() < 1e-4 * scale and scale > 0
    assert np.array_equal(found.image.array, FIRST.array)  # what pictures show
    assert found.window == (0.0, 3.0)


class MeanOfChannels(PixelSum):
    """The mean of a slice's pixels, in all channels."""

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        return slices.mean(dim=(1, 2, 3))[:, None]

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        maps = {(0, stage): F.adaptive_avg_pool2d(slices.mean(dim=1, keepdim=True), 4)[:, 0] for _, stage in asked}
        return self.logits(slices), maps


def test_the_mean_of_the_channels_gives_the_mean_of_their_heatmaps() -> None:
    def heatmap(volume: Volume, encoder: PixelSum, intensity: str) -> np.ndarray:
        spec = spec_of(classes=encoder.classes, channels=len(volume.channels), intensity=intensity)
        model = ReadyModel(encoder, spec, 32, torch.device("cpu"), torch.float32)
        return execute(volume, encoder, decide(asked, model)).heatmaps["tonno"].array

    asked = dataclasses.replace(SETTINGS, methods=("tonno",))
    both = heatmap(BOTH, MeanOfChannels(), "none/none")
    alone = [heatmap(volume, PixelSum(), "none") for volume in (FIRST, SECOND)]
    np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=0, atol=1e-4 * np.abs(both).max())


@pytest.mark.parametrize("kernel", [False, True])
def test_training_slices_of_a_channel_are_those_of_it_alone(kernel: bool) -> None:
    def sampler(volume: Volume, intensity: str) -> SliceSampler:
        prepared = prepare_volume(volume, frame="normalized", intensity=intensity, slice_size=16)
        made = TrainingVolume.from_prepared(prepared, (1,), np.random.default_rng(0))
        made = dataclasses.replace(made, foreground=np.array([[-0.5, 0, 0], [0.5, 0, 0]]))
        return SliceSampler([made], 16, Augmentation(), 0, torch.device("cpu"))

    both, alone = sampler(BOTH, "zscore/none"), [sampler(FIRST, "zscore"), sampler(SECOND, "none")]
    if kernel:  # that of CUDA, as far as its place in the batch goes

        class Fake:
            def random_slices(
                self, volumes: Any, planes: Any, fills: list[float], pixels: int, *changes: Any
            ) -> torch.Tensor:
                return torch.full((1, 4, pixels, pixels), fills[0]) + volumes[0].mean()

        for each in (both, *alone):
            vars(each)["_kernel"] = Fake()
    slices = both.draw(1, 1, 4).slices
    first, second = (each.draw(1, 1, 4).slices for each in alone)
    assert slices.shape == (4, 2, 16, 16) and torch.equal(slices[:, 0], first)
    # All changes but the white noise of 0.1 at most are the same.
    assert torch.equal(slices[:, 1], second) == kernel
    assert (slices[:, 1] - second).abs().max() < 1.5


def test_a_model_of_several_channels_is_of_a_schema_that_earlier_versions_refuse(tmp_path: Path) -> None:
    weights = random_network("resnet10t", channels=2).state_dict()
    bundle_of(tmp_path / "model", 2, weights, "window:0:20/zscore")
    path = tmp_path / "model" / "model.json"
    data = json.loads(path.read_text())
    assert (data["schema"], data["kind"], data["channels"], data["intensity"]) == (
        3,
        "classifier",
        2,
        "window:0:20/zscore",
    )
    for changes, said in (
        ({"schema": 1}, "key 'intensity' is 'window:0:20/zscore' in schema 1, expected one for each of several"),
        ({"intensity": "zscore"}, "key 'intensity' is 'zscore' in schema 3"),
        ({"intensity": "window:0:1,1:2/zscore"}, "key 'intensity' is"),
        ({"channels": 3}, "key 'intensity' is"),
        ({"kind": "other"}, "key 'kind' is 'other'"),
        ({"neighbor_mm": 2.0}, "key 'neighbor_mm' is 2.0"),
    ):
        path.write_text(json.dumps(data | changes))
        with pytest.raises(TonnoError) as caught:
            load_bundle(tmp_path / "model")
        assert said in str(caught.value) and "\n" not in str(caught.value)
    path.write_text(json.dumps(data))
    model = load_bundle(tmp_path / "model")
    told = dict(assumptions(model.spec))
    assert told["channels"] == "2, those of the volumes in their order, such as a 4D NIfTI has"
    assert told["intensities"].startswith("channel 1: 0 to 20 become 0 to 1")
    with pytest.raises(TonnoError, match="is for volumes of 2 channels, here a volume has one; use it with"):
        _of_one_channel(model)


def test_volumes_of_other_channels_are_refused_in_a_line(tmp_path: Path) -> None:
    two = bundle_of(tmp_path / "two", 2, random_network("resnet10t", channels=2).state_dict(), "zscore/zscore")
    tonno.write_volume(BOTH, tmp_path / "both.nii.gz")
    options: Any = {"device": "cpu", "precision": "float32", "progress": False}
    with pytest.raises(TonnoError, match=r"^the volume has one channel, the model's intensities \(zscore/zscore\) are"):
        tonno.reconstruct(FIRST, two, SETTINGS, **options)
    with pytest.raises(TonnoError, match=r"^the volume has 2 channels, and this model looks at one; extract that"):
        tonno.reconstruct(BOTH, "pixel-sum", SETTINGS, **options)
    with pytest.raises(TonnoError, match=r"both.nii.gz: the volume has 2 channels, .* `intensity` zscore/zscore$"):
        tonno.read_volume(tmp_path / "both.nii.gz", intensity="window:0:1")
    moved = dataclasses.replace(SECOND, ijk_to_ras=np.diag([1.0, 1, 1, 1]))
    with pytest.raises(TonnoError, match=r"^channel 2, Volume\(.* lies on another grid than channel 1"):
        stack_channels([FIRST, moved])
    own = OwnClassifier("resnet10t", "none", 32, channels=3, intensity="zscore/zscore")
    with pytest.raises(TonnoError, match="`channels` is 3, expected 2: `intensity` zscore/zscore is of volumes of 2"):
        describe(own)
    with pytest.raises(TonnoError, match="this classifier has the volumes' own channels in them"):
        describe(dataclasses.replace(own, channels=2, neighbor_mm=1.0))
    with pytest.raises(TonnoError, match="has several windows, expected one for each channel of the volumes"):
        describe(dataclasses.replace(own, channels=2, intensity="window:0:1,1:2/zscore"))
