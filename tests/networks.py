"""Untrained networks with nothing at its neutral value, and bundles of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tonno_core.bundle.file import BundleSpec, save_bundle
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.normalization import NormKind
from tonno_core.settings import model_defaults


def random_network(
    name: str,
    *,
    channels: int = 1,
    classes: int = 1,
    size: int = 32,
    norm: NormKind = "batch",
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A timm model in evaluation mode whose batch norms have scales, shifts and statistics of a trained one."""
    torch.manual_seed(seed)
    model = create_model(name, channels=channels, classes=classes, norm=norm, slice_size=size, arguments=arguments)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return model.eval()


def spec_of(name: str = "resnet10t", *, classes: tuple[str, ...] = ("finding",), **changes: object) -> BundleSpec:
    """The description of a network of one channel that looks at slices of 32 pixels."""
    values: dict[str, object] = {
        "encoder": name, "channels": 1, "classes": classes, "norm": "batch", "slice_size": 32, "pixel_mm": None,
        "intensity": "none", "frame": "physical", "defaults": model_defaults(slices=12, directions=6),
    }  # fmt: skip
    return BundleSpec(**{**values, **changes})  # type: ignore[arg-type]


def write_random_bundle(folder: Path, *, classes: tuple[str, ...] = ("finding",), **changes: object) -> Path:
    """A bundle of a random resnet10t."""
    model = random_network("resnet10t", classes=len(classes))
    save_bundle(folder, spec_of(classes=classes, **changes), model.state_dict())
    return folder


def efficientnet_as_lukemelas(model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors of timm's EfficientNet under the names of the package efficientnet_pytorch, in its order."""
    top = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    squeeze = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    separable = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2", **squeeze}
    inverted = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
        "conv_pwl": "_project_conv", "bn3": "_bn2", **squeeze,
    }  # fmt: skip
    renamed, blocks = {}, []
    for name, tensor in model.state_dict().items():
        layer, _, kind = name.rpartition(".")
        if layer.startswith("blocks."):
            _, stage, block, part = layer.split(".", 3)
            if (stage, block) not in blocks:
                blocks.append((stage, block))
            number = len(blocks) - 1
            renamed[f"_blocks.{number}.{(inverted if number else separable)[part]}.{kind}"] = tensor
        else:
            renamed[f"{top[layer]}.{kind}"] = tensor
    return renamed
