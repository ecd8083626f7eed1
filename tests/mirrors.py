"""Segmenters that answer their input, so that all geometry shows in their heatmaps; and random ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from tonno_core.bundle.file import save_bundle, segmenter_spec
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import build_network

NETWORK = SegmenterNetwork((2.0, 2.0, 2.0), (16, 16, 16), filters=8, blocks=(1, 1))


def mirror_network(network: SegmenterNetwork = NETWORK, classes: int = 1) -> nn.Module:
    """A network that gives (x - mean) / std of each window, for every class.

    Its blocks add nothing; two channels of the finest level hold x and -x, of which the last layers' norm and ReLU
    leave the positive and the negative part.
    """
    model: Any = build_network(network, classes)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        first = model.convInit.conv.weight
        first[0, 0, 1, 1, 1], first[1, 0, 1, 1, 1] = 1.0, -1.0
        norm, _, last = model.conv_final
        norm.weight.fill_(1.0)
        last.conv.weight[:, 0], last.conv.weight[:, 1] = 1.0, -1.0
    return model.eval()


def write_mirror(folder: Path, network: SegmenterNetwork = NETWORK, **described: Any) -> Path:
    """Write a segmenter that answers its input, of one class unless others are named."""
    values: dict[str, Any] = {
        "classes": ("finding",),
        "intensity": "none",
        "thresholds": {"segmenter": {"threshold": 2.0, "settings": {"smooth_mm": 0.0}}},
        "training": {"taught_by": "heatmaps"},
        **described,
    }
    spec = segmenter_spec(network, **values)
    save_bundle(folder, spec, mirror_network(network, len(spec.classes)).state_dict())
    return folder


def random_segmenter(network: SegmenterNetwork = NETWORK, classes: int = 1, seed: int = 0) -> nn.Module:
    """A network with random weights, also in its norms."""
    torch.manual_seed(seed)
    model = build_network(network, classes)
    for layer in model.modules():
        if isinstance(layer, nn.GroupNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    return model.eval()
