"""Voxels in half precision: when they may be, and that a network does not notice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.analytic import correlation, grid_around, make_blobs
from tests.networks import random_network, spec_of
from tonno_core import Bundle, ReconstructionSettings, Volume, kernels, reconstruct
from tonno_core.settings import CAM_METHODS
from tonno_core.slicing.sampling import SliceSource, half_will_do
from tonno_core.volume.atlas import Atlas

SETTINGS = ReconstructionSettings(methods=("tonno", *CAM_METHODS), slices=20, directions=16, stages=(2,), slice_size=32)


def head() -> Volume:
    shape = (30, 34, 32)
    blobs = make_blobs(3, 6, reach=14.0, sigmas=(4.0, 7.0)).on_grid(shape, grid_around((0, 0, 0), shape, (2, 2, 2)))
    noise = 0.02 * np.random.default_rng(0).random(shape, dtype=np.float32)
    return blobs.with_array(blobs.array + noise)


def bundle() -> Bundle:
    spec = spec_of(intensity="zscore")
    return Bundle(spec, random_network("resnet10t").state_dict(), Path("random-weights"))


def test_a_network_does_not_see_that_voxels_are_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    original = SliceSource.from_volume

    def rounded(volume: Volume, **options: object) -> SliceSource:
        source = original(volume, **options)  # type: ignore[arg-type]
        array = source.array.half().float()
        assert not torch.equal(array, source.array)
        return replace(source, array=array, atlas=Atlas.of_volume(array))

    expected = reconstruct(head(), bundle(), SETTINGS, device="cpu", precision="float32").heatmaps
    monkeypatch.setattr(SliceSource, "from_volume", rounded)
    found = reconstruct(head(), bundle(), SETTINGS, device="cpu", precision="float32").heatmaps
    for method in SETTINGS.methods:
        assert correlation(found[method].array, expected[method].array) >= 0.9999, method


@pytest.mark.parametrize(
    ("model", "precision", "half"),
    [("network", "float32", False), ("network", "bfloat16", True), ("pixel-sum", "auto", False)],
)
def test_half_is_for_networks_in_half_precision(
    model: str, precision: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = SliceSource.from_volume, []

    def noted(volume: Volume, **options: object) -> SliceSource:
        asked.append(options.get("half", False))
        source = original(volume, **options)  # type: ignore[arg-type]
        assert source.array.dtype == torch.float32  # on a CPU, whatever was asked for
        return source

    monkeypatch.setattr(SliceSource, "from_volume", noted)
    few = replace(SETTINGS, methods=("tonno",), directions=4)
    reconstruct(head(), bundle() if model == "network" else model, few, device="cpu", precision=precision)
    # The last is that of the self-check: integrals of the heatmap, whatever its magnitude.
    assert asked == [half, False]


@pytest.mark.parametrize(
    ("low", "high", "will_do"),
    [
        (0.0, 1.0, True),  # a window
        (0.0, 12.0, True),  # z-score less its minimum
        (-1000.0, 2000.0, True),
        (-1000.0, 3000.0, False),  # whole numbers above 2048 would be rounded
        (-70000.0, 10.0, False),
        (0.0, 1e5, False),  # float16 ends at 65504
        (0.0, 1e-3, False),
        (0.0, 0.0, False),
        (0.0, np.inf, False),
        (0.0, np.nan, False),
    ],
)
def test_only_intensities_that_float16_holds_well(low: float, high: float, will_do: bool) -> None:
    assert half_will_do(np.array([[[low, 0.0, high]]], dtype=np.float32)) is will_do


@pytest.mark.parametrize(("scale", "half", "expected"), [(1.0, True, torch.float16), (1.0, False, torch.float32),
                                                         (1e4, True, torch.float32)])  # fmt: skip
def test_only_the_kernel_takes_float16(
    scale: float, half: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on CUDA, but the array stays where it is: "meta" has no memory at all.
    kernel = object()
    module = SimpleNamespace(sample_planes=kernel)
    monkeypatch.setattr(kernels, "load", lambda name, device, dtype: module)
    volume = head().with_array(head().array * np.float32(scale))
    source = SliceSource.from_volume(volume, device="meta", half=half)
    assert source.array.dtype == expected
    assert source.kernel is kernel
    monkeypatch.setattr(kernels, "load", lambda name, device, dtype: None)
    assert SliceSource.from_volume(volume, device="meta", half=half).array.dtype == torch.float32
