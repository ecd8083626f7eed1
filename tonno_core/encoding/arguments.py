"""What a model's file or a source says of its network beside timm's name, as its pooling. Nothing in it is trusted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch

from tonno_core.errors import TonnoError, first_line

# Arguments of `timm.create_model` that are said elsewhere, read other files, or make something else than a classifier.
_FIXED = (
    "model_name", "in_chans", "num_classes", "img_size", "checkpoint_path", "cache_dir", "features_only", "scriptable",
    "exportable", "no_jit", "device", "dtype",
)  # fmt: skip
# The largest network of timm has 7 * 10^9 weights, the largest that anybody would slice with 3 * 10^8.
_MOST_WEIGHTS = 10**9


def check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Check what timm is to make a network with, before it takes memory or opens anything.

    Args:
        name: timm's name of the network.
        arguments: By their names.

    Raises:
        TonnoError: One of them is not for a file to choose, or the network would not fit into a machine.
    """
    for argument in arguments:
        if argument in _FIXED or argument.startswith("pretrained"):
            raise TonnoError(f"encoder {name}: the argument '{argument}' cannot be chosen")
    if not arguments:
        return
    try:
        with torch.device("meta"):  # shapes without memory
            network = timm.create_model(name, **arguments)
    except Exception as error:  # assertions of the network
        raise TonnoError(f"encoder {name} cannot be made with its arguments ({first_line(error)})") from error
    count = sum(weight.numel() for weight in network.parameters())
    if count > _MOST_WEIGHTS:
        raise TonnoError(f"encoder {name}: its arguments make {count:,} weights, expected at most {_MOST_WEIGHTS:,}")
