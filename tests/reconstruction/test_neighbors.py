"""Classifiers whose channels are neighbouring slices."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch

import tonno_core as tonno
from tests.analytic import grid_around, make_blobs
from tests.networks import random_network, spec_of
from tests.training.toy import toy_scan
from tonno_core.bundle.file import Bundle, BundleSpec, load_bundle, save_bundle
from tonno_core.bundle.own import assumptions
from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind, ReconstructionSettings
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource
from tonno_core.tomography.projection import Maps, Projector


def model_of_three_channels(folder: Path) -> Bundle:
    save_bundle(folder, spec_of(channels=3, pixel_mm=2.0), random_network("resnet10t", channels=3).state_dict())
    return load_bundle(folder)


SETTINGS = ReconstructionSettings(methods=("tonno", "matched-cam"), slices=12, directions=10)


class Channels:
    """An encoder whose logit of class c is the mean of channel c."""

    classes = ("before", "here", "after")
    stages = 1

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        return slices.mean(dim=(2, 3))

    def cam(self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind) -> tuple[torch.Tensor, dict]:
        raise NotImplementedError

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        return ()


def test_channels_are_slices_before_at_and_after_the_plane() -> None:
    # By a step of the offsets: what one channel sees, the next saw a plane before.
    shape = (40, 36, 44)
    volume = make_blobs(2, 3, reach=8.0, sigmas=(4.0, 6.0)).on_grid(shape, grid_around((1, 2, 3), shape, (1, 1.2, 0.9)))
    plan = SlicePlan(physical_frame([1, 2, 3], 24.0), hemisphere(7), slices=15, pixels=20)
    projector = Projector(
        Channels(), SliceSource.from_volume(volume, dtype=torch.float64), Maps({0: (), 1: (), 2: ()}),  # type: ignore[arg-type]
        shifts=(-plan.step, 0.0, plan.step),
    )  # fmt: skip
    batches = list(projector.project(plan))
    before, here, after = (torch.cat([batch[index].logits for batch in batches]) for index in range(3))
    assert here.std() > 0.01
    # The same points of the same volume in float64, at coordinates that are computed in another order.
    torch.testing.assert_close(before[:, 1:], here[:, :-1], rtol=0, atol=1e-9)
    torch.testing.assert_close(after[:, :-1], here[:, 1:], rtol=0, atol=1e-9)


def test_neighbors_that_are_the_same_slice_change_nothing(tmp_path: Path) -> None:
    model = model_of_three_channels(tmp_path / "model")
    near = dataclasses.replace(model, spec=dataclasses.replace(model.spec, neighbor_mm=1e-4))
    far = dataclasses.replace(model, spec=dataclasses.replace(model.spec, neighbor_mm=8.0))
    scan = toy_scan(0, 1)
    # In bfloat16 such a difference would turn roundings of single numbers.
    same, close, other = (
        tonno.reconstruct(scan, each, SETTINGS, device="cpu", precision="float32") for each in (model, near, far)
    )
    for method, heatmap in same.heatmaps.items():
        scale = np.abs(heatmap.array).max()
        # A ten-thousandth of a millimeter, of voxels of 4: 2.5e-5 of the difference of neighbours.
        np.testing.assert_allclose(close.heatmaps[method].array, heatmap.array, rtol=0, atol=1e-2 * scale)
        assert np.abs(other.heatmaps[method].array - heatmap.array).max() > 0.05 * scale


def test_what_is_assumed_is_said_and_the_frame_is_in_mm(tmp_path: Path) -> None:
    model = model_of_three_channels(tmp_path / "model")
    spec: BundleSpec = dataclasses.replace(model.spec, neighbor_mm=2.5)
    assert dict(assumptions(spec))["channels"] == "3, neighbouring slices 2.5 mm apart, the middle one in its place"
    assert spec.shifts_mm == (-2.5, 0.0, 2.5)
    with pytest.raises(TonnoError, match="`frame` normalized: the model's channels are slices some mm apart"):
        tonno.reconstruct(
            toy_scan(0, 1), dataclasses.replace(model, spec=spec), dataclasses.replace(SETTINGS, frame="normalized"),
            device="cpu",
        )  # fmt: skip
