"""The paper's encoders: each is trained, written and read, and every method agrees with the float64 reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.hooks import stages_by_hooks
from tests.networks import random_network
from tests.reference import Array, Chain, hemisphere_lattice, physical_to_index
from tests.runs import executed
from tests.training.toy import toy_scan, train_toy, write_toy_set
from tonno_core import ReconstructionSettings
from tonno_core.bundle.file import load_bundle, save_bundle
from tonno_core.encoding.classifier import stage_modules
from tonno_core.settings import CAM_METHODS, SLICEWISE_METHODS, Variant

METHODS = ("tonno", *CAM_METHODS, *SLICEWISE_METHODS)
SLICES, DIRECTIONS, RADIUS_MM = 8, 5, 20.0


@dataclass(frozen=True)
class Trained:
    """How an encoder is trained here.

    Attributes:
        encoder: timm's name.
        norm: of the training.
        size: Pixels along a slice's side.
        pretrained: Whether training starts from a file of weights.
        stages: That are compared; none for all.
    """

    encoder: str
    norm: str = "batch"
    size: int = 32
    pretrained: bool = False
    stages: tuple[int, ...] = ()


ENCODERS = {
    "ResNet-10-T, batch norm": Trained("resnet10t", pretrained=True),
    "ResNet-10-T, frozen batch norm": Trained("resnet10t", "frozen-batch", pretrained=True),
    "ResNet-10-T, group norm": Trained("resnet10t", "group", pretrained=True),
    "ResNet-10-T, not pretrained": Trained("resnet10t"),
    "ResNet-50, group norm": Trained("resnet50_gn", "group"),
    "EfficientNet": Trained("efficientnet_b0", "frozen-batch", pretrained=True),
    "ConvNeXt": Trained("convnext_atto"),
    "ViT": Trained("vit_tiny_patch16_224", size=64, stages=(1, 6, 11)),
    "Swin": Trained("swin_tiny_patch4_window7_224", size=64),
}
QUICK = ("ResNet-10-T, frozen batch norm", "ResNet-10-T, group norm")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in QUICK)) for name in ENCODERS]
)
@pytest.mark.usefixtures("no_curves")
def test_an_encoder_trains_and_every_method_reconstructs_what_it_sees(name: str, tmp_path: Path) -> None:
    how = ENCODERS[name]
    weights = "none"
    if how.pretrained:  # of three channels and a thousand classes, as ImageNet's are
        weights = str(tmp_path / "weights.pth")
        torch.save(random_network(how.encoder, channels=3, classes=1000, size=how.size).state_dict(), weights)
    model = train_toy(
        write_toy_set(tmp_path / "set"), tmp_path / "run", encoder=how.encoder, norm=how.norm, slice_size=how.size,
        weights=weights, steps=2, epochs=1, volumes_per_batch=2, slices_per_volume=2, intensity="none",
    )  # fmt: skip
    save_bundle(tmp_path / "model", model.spec, model.weights)
    bundle = load_bundle(tmp_path / "model")
    assert (bundle.spec.encoder, bundle.spec.norm) == (how.encoder, how.norm)
    assert bundle.spec.training["settings"]["norm"] == how.norm

    exact = plain_network(how, bundle.weights)
    answers = Answers(exact, [feature for feature, _ in stage_modules(exact)])
    stages = how.stages or tuple(range(1, len(answers.features) + 1))
    variants = {"tonno": Variant("tonno")} | {
        f"{method}@{stage}": Variant(method, (stage,)) for method in METHODS[1:] for stage in stages
    }
    # Noise: in blank slices, whose cells are alike, torch's group norm in channels last loses digits of the variance.
    volume = toy_scan(1, 1)
    volume = volume.with_array(volume.array + np.random.default_rng(0).uniform(0, 50, volume.array.shape).astype("f4"))
    settings = ReconstructionSettings(
        methods=METHODS, slices=SLICES, directions=DIRECTIONS, filter="second-difference", grid="volume",
        radius_mm=RADIUS_MM,
    )  # fmt: skip
    result = executed(volume, bundle, settings, variants=variants)
    voxels = np.argwhere(result.inside)
    voxels = np.random.default_rng(3).choice(voxels, 40, replace=False)
    to_index = physical_to_index(volume.ijk_to_ras, result.frame_to_ras[:3, 3], RADIUS_MM)
    points = np.linalg.solve(to_index[:, :3], voxels.T - to_index[:, 3:]).T
    normals, axes = hemisphere_lattice(DIRECTIONS), np.eye(3)
    errors = {}
    for stage in stages:
        chain = Chain(volume.array.astype(np.float64), to_index, SLICES, how.size, answers.at(stage))
        expected = chain.heatmaps(normals, points)
        fine = replace(chain, slices=11)  # 40 mm in steps of a voxel, 4 mm
        expected["slicewise-cam"] = fine.slicewise(axes[2:], points)
        expected["slicewise-cam-3axes"] = fine.slicewise(axes, points)
        for method in METHODS:
            row = "tonno" if method == "tonno" else f"{method}@{stage}"
            found = result.heatmaps[row].array[tuple(voxels.T)]
            largest = float(np.abs(expected[method]).max())
            # LayerCAM of a few steps' network may be zero everywhere.
            errors[row] = float(np.abs(found - expected[method]).max()) / (largest or 1e-6)
    # The project's bar. float32 against float64 through up to fifty layers, magnified by the second derivative.
    assert max(errors.values()) < 1e-3, errors


def plain_network(how: Trained, weights: dict[str, torch.Tensor]) -> nn.Module:
    """timm's network in float64, made by timm alone: of torch's own group norms where that is asked for."""
    options: dict[str, Any] = {"img_size": how.size} if how.size != 32 else {}
    if how.encoder == "resnet10t" and how.norm == "group":
        options["norm_layer"] = lambda channels, **more: nn.GroupNorm(math.gcd(32, channels), channels, **more)
    network: nn.Module = timm.create_model(how.encoder, in_chans=1, num_classes=1, **options)
    network.load_state_dict(weights)
    return network.double().eval()


class Answers:
    """What a network answers to slices at all of its stages, by hooks, computed once for each batch of slices."""

    def __init__(self, model: nn.Module, features: list[int]) -> None:
        self.model, self.features = model, features
        self._known: dict[bytes, tuple[Array, list[Array]]] = {}

    def at(self, stage: int) -> Callable[[Array], tuple[Array, Array]]:
        """Logits and LayerCAM's maps at a stage."""

        def answer(images: Array) -> tuple[Array, Array]:
            logits, maps = self._all(images)
            return logits, maps[stage - 1]

        return answer

    def _all(self, images: Array) -> tuple[Array, list[Array]]:
        key = images.tobytes()
        if key not in self._known:
            x = torch.from_numpy(images)[:, None]
            with torch.no_grad():
                logits = self.model(x)[:, 0].numpy()
            found = stages_by_hooks(self.model, x, self.features, 0)
            self._known[key] = logits, [layercam(a.numpy(), g.detach().numpy()) for a, g in found]
        return self._known[key]


def layercam(activation: Array, gradient: Array) -> Array:
    """ReLU(sum_k ReLU(g_k) A_k), cell by cell."""
    return np.maximum((np.maximum(gradient, 0) * activation).sum(axis=1), 0)
