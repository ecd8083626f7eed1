"""The network that is trained: the weights it starts from, and how fast each of its stages learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from timm.models import group_parameters
from torch import nn

from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.convention import Convention
from tonno_core.encoding.device import choose_precision
from tonno_core.encoding.normalization import BATCH_NORMS, freeze_batch_norm, to_group_norm
from tonno_core.encoding.weights import classifier_layers, load_pretrained, weights_for
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.training.settings import TrainingSettings

# Standard deviation of the weights of a new last layer on pretrained ones. The standard start of some networks
# (EfficientNet: uniform up to 1 for a single class) gives a first loss of 8, whose gradients ruin what was pretrained.
_HEAD_STD = 0.01


def initial_model(settings: TrainingSettings, said: list[str] | None = None) -> Any:
    """Make the network with random weights, timm's ImageNet weights, or those of a file.

    Group norm in place of batch norm keeps the weights and loses the statistics.

    Args:
        settings: How to train.
        said: Gets what is worth saying of the file that the weights are from.

    Returns:
        timm model.
    """
    model = create_model(
        settings.encoder,
        channels=settings.channels,
        classes=len(settings.classes),
        norm="batch" if settings.pretrained else settings.norm,
        slice_size=settings.slice_size,
        imagenet=settings.weights == "imagenet",
    )
    new_head = True
    if settings.weights not in ("none", "imagenet"):
        path = Path(settings.weights)
        weights, taken = weights_for(model, path)
        new_head = load_pretrained(model, weights, channels=settings.channels, source=f"`weights` {path}")
        if said is not None:
            said += taken
    if settings.pretrained and new_head:
        _start_head(model)
    if settings.pretrained and settings.norm == "group":
        to_group_norm(model)
    return model


def _start_head(model: nn.Module) -> None:
    for layer in classifier_layers(model):
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.normal_(layer.weight, std=_HEAD_STD)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def parameter_groups(model: Any, settings: TrainingSettings) -> list[Json]:
    """Group the parameters by stage (timm's coarse grouping) for the optimizer.

    The last layer learns at the full rate, each stage before it ``stage_decay`` times as fast as the next; the first
    ``freeze`` stages (the stem counts) and frozen batch norms not at all: they need no gradient from here on.

    Args:
        model: timm model; layers that do not learn are frozen in it.
        settings: How to train.

    Returns:
        Parameters (``params``) and their factor on the learning rate (``share``) of each stage that learns.

    Raises:
        TonnoError: If all stages would be frozen.
    """
    if settings.norm == "frozen-batch":
        freeze_batch_norm(model)
    stages = list(group_parameters(model, model.group_matcher(coarse=True)).values())
    if settings.freeze >= len(stages):
        raise TonnoError(f"`freeze` {settings.freeze}: {settings.encoder} has {len(stages)} stages with its last layer")
    named = dict(model.named_parameters())
    for name in (name for stage in stages[: settings.freeze] for name in stage):
        named[name].requires_grad_(False)
    groups = []
    for position, stage in enumerate(stages):
        parameters = [named[name] for name in stage if named[name].requires_grad]
        if parameters:
            groups.append({"params": parameters, "share": settings.stage_decay ** (len(stages) - 1 - position)})
    return groups


def set_training_mode(model: nn.Module) -> None:
    """Set training mode, but for batch norms whose scale and shift are frozen: their statistics stay too.

    Args:
        model: The network.
    """
    model.train()
    for layer in model.modules():
        if isinstance(layer, BATCH_NORMS) and layer.affine and not layer.weight.requires_grad:
            layer.eval()


def training_precision(name: str, device: torch.device, *, dense: bool = False) -> torch.dtype:
    """Choose the precision of a training's network by name and hardware.

    Args:
        name: As for `choose_precision`.
        device: Where it is trained.
        dense: As for `choose_precision`.

    Returns:
        What `choose_precision` does, with bfloat16 in place of float16 but on a GPU without units for bfloat16 (before
        compute capability 8.0); there the loss has to be scaled.
    """
    precision = choose_precision(name, device, dense=dense)
    if precision != torch.float16:
        return precision
    old = device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0)
    return torch.float16 if old else torch.bfloat16


class SliceLogits(nn.Module):
    """Maps slices to logits: the body at reduced precision under autocast, the head in float32.

    Args:
        model: timm model.
        convention: What its input is made like.
        precision: Precision of the body.
    """

    def __init__(self, model: Any, convention: Convention, precision: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self._convention = convention
        self._precision = precision

    def compile_body(self) -> None:
        """Compile the network's body by `torch.compile`; what makes its input stays outside.

        Constants within a compiled function would be copied to a GPU in every step.
        """
        self.model.forward_features = torch.compile(self.model.forward_features)

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        """Classify slices.

        Args:
            slices: B V U.

        Returns:
            Logits: B C.
        """
        x = self._convention.input(slices).contiguous(memory_format=torch.channels_last)
        reduced = self._precision != torch.float32
        with torch.autocast(slices.device.type, dtype=self._precision, enabled=reduced):
            features = self.model.forward_features(x)
        several = isinstance(features, (list, tuple))  # of models with several branches
        logits: torch.Tensor = self.model.forward_head(
            [branch.float() for branch in features] if several else features.float()
        )
        return logits
