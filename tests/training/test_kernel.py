"""The Triton kernels of random slices, in Triton's interpreter (on the CPU), against the plain way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_dataset import sampler_of, volume_of
from tests.triton_kernels import interpreted, machine_code, needs_triton
from tonno_core import kernels
from tonno_core.slicing.preparation import PreparedVolume
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.dataset import SliceSampler, _RandomNumbers
from tonno_core.volume.volume import Volume

SEED, PIXELS, VOLUMES, EACH = 3, 31, 4, 2  # neither a row of programs nor a column of them is full
NOISELESS = replace(Augmentation(), noise=0.0)
SHAPES = ((9, 5, 12), (16, 20, 11), (2, 30, 7))


def some_volumes(largest: float = 1.0) -> list[TrainingVolume]:
    """Of different sizes and fills, full of noise."""
    volumes = []
    for number, shape in enumerate(SHAPES):
        array = largest * np.random.default_rng(number).normal(size=shape).astype(np.float32)
        size = np.array(shape[::-1])
        frame_to_ras = np.diag([*(size / 2), 1.0])
        frame_to_ras[:3, 3] = (size - 1) / 2
        prepared = PreparedVolume(Volume(array, np.eye(4)), 0.5 * number, frame_to_ras, 1.0)
        volumes.append(volume_of(prepared, number % 2, name=str(number)))
    return volumes


DRAW = """
import torch
from tests.training.test_kernel import *
from tonno_core import kernels
found["works"] = kernels.import_tested("training", torch.device("cpu"))[1] == "triton"
kernels.load = lambda name, device, dtype: kernels.import_tested(name, device)[0]
for name, largest in (("half", 1.0), ("single", 1e5)):
    ways = (("cut", None), ("changed", NOISELESS), ("noisy", Augmentation()))
    for way, augmentation in ways if name == "half" else ways[:1]:
        sampler = sampler_of(some_volumes(largest), PIXELS, seed=SEED, augmentation=augmentation)
        assert sampler._kernel is not None
        found[f"{name} {way}"] = sampler.draw(5, VOLUMES, EACH).slices.numpy()
    if name == "half":
        found["share"] = sampler.draw(5, VOLUMES, EACH, rank=1, world=2).slices.numpy()
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return interpreted(DRAW, tmp_path_factory.mktemp("drawn"))


@needs_triton
def test_slices_are_those_of_the_plain_way(drawn: dict[str, np.ndarray]) -> None:
    assert drawn["works"]
    for name, largest in (("half", 1.0), ("single", 1e5)):
        volumes = some_volumes(largest)
        assert {volume.array.dtype for volume in volumes} == {torch.float16 if name == "half" else torch.float32}
        for way, augmentation in (("cut", None), ("changed", NOISELESS))[: 2 if name == "half" else 1]:
            plain = sampler_of(volumes, PIXELS, seed=SEED, augmentation=augmentation).draw(5, VOLUMES, EACH).slices
            # float32 positions up to 30 voxels are good to 30 * 6e-8, twice rounded; neighbours differ by about 5.
            np.testing.assert_allclose(drawn[f"{name} {way}"], plain.numpy(), rtol=0, atol=3e-5 * largest)
            assert plain.std() > 0.1 * largest
    # Every second volume of the batch, to the last bit: also its noise.
    noisy = drawn["half noisy"].reshape(VOLUMES, EACH, PIXELS, PIXELS)
    assert np.array_equal(drawn["share"], noisy[1::2].reshape(-1, PIXELS, PIXELS))


@needs_triton
def test_noise_is_white_and_of_the_strength_that_was_drawn(drawn: dict[str, np.ndarray]) -> None:
    noise = (drawn["half noisy"] - drawn["half changed"]).reshape(VOLUMES * EACH, -1)
    seeds = [(SEED, 5, position + 1) for position in range(VOLUMES)]
    stds = Augmentation().changes(_RandomNumbers.draw(seeds, EACH, augmented=True).intensities)[..., 2].ravel()
    # Of 961 independent values a standard deviation is known to 2.3 %: four of these.
    np.testing.assert_allclose(noise.std(axis=1), stds, rtol=0.09)
    normal = noise / stds[:, None]
    assert np.abs(normal.mean(axis=1)).max() < 4 / PIXELS  # four standard errors
    assert np.abs(normal).max() < 6
    between = np.corrcoef(
        normal
    )  # of slices, and with the same moved by a pixel: a standard error is 1 / 31, of 7680 pairs 0.011
    assert np.abs(between - np.eye(len(normal))).max() < 4.5 / PIXELS
    assert abs(np.corrcoef(normal[:, 1:].ravel(), normal[:, :-1].ravel())[0, 1]) < 0.045


@needs_triton
@pytest.mark.parametrize("voxel", ["float16", "float32"])
def test_the_kernels_compile_for_a_gpu(voxel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import triton.language as tl

    from tonno_core.training import kernel

    tables = {"places": "*i64", "pixels": "i32", "each": "i32"}
    blocks = {"rows": 16, "columns": 32}
    cut = {"slices": "*fp32", "affines": "*fp32", **tables, "voxel": getattr(tl, voxel), **blocks}
    assert machine_code(kernel._cut, tmp_path, monkeypatch, **cut)
    change = {"changed": "*fp32", "slices": "*fp32", "changes": "*fp32", **tables, "reach": 3, **blocks}
    assert machine_code(kernel._change, tmp_path, monkeypatch, **change)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("room", [0, 2**20])
def test_slices_on_a_gpu_are_those_of_the_cpu(room: int) -> None:
    volumes, cuda = some_volumes(), torch.device("cuda")
    assert kernels.load("training", cuda, torch.float32) is not None
    for augmentation in (None, NOISELESS):
        expected = sampler_of(volumes, PIXELS, seed=SEED, augmentation=augmentation).draw(5, VOLUMES, EACH)
        sampler = SliceSampler(volumes, PIXELS, augmentation, SEED, cuda, room)
        for _ in range(3):
            batch = sampler.draw(5, VOLUMES, EACH)
        torch.testing.assert_close(batch.slices.cpu(), expected.slices, rtol=0, atol=3e-5)
        assert torch.equal(batch.labels.cpu(), expected.labels)
