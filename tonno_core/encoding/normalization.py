"""Normalisation layers: converted to group norm, frozen, or folded into convolutions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal

import torch
from timm.layers import BatchNormAct2d, Conv2dSame, GroupNorm, GroupNorm1, GroupNormAct
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

NormKind = Literal["batch", "frozen-batch", "group"]
NORM_KINDS: tuple[NormKind, ...] = ("batch", "frozen-batch", "group")
# Of images and of tokens.
BATCH_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)
_GROUPS = 32
# Other kinds may do something else before or after.
_GROUP_NORMS = (nn.GroupNorm, GroupNorm, GroupNorm1, GroupNormAct)
# Other convolutions may compute their kernel anew from the weight (weight standardisation).
_FOLDABLE = (nn.Conv2d, Conv2dSame)


def to_group_norm(model: nn.Module) -> int:
    """Replace every batch norm by a group norm with the same scale and shift, in place (paper, Table 1).

    All other weights stay. A norm has 32 groups, or as many as their greatest common divisor with the channels.

    Args:
        model: any model.

    Returns:
        How many layers were replaced.
    """
    norms = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    for name, layer in norms:
        model.set_submodule(name, _group_norm_like(layer))
    return len(norms)


def _group_norm_like(layer: nn.BatchNorm2d) -> nn.Module:
    """Make a group norm with a batch norm's scale, shift and activation."""
    groups = math.gcd(_GROUPS, layer.num_features)
    norm: nn.GroupNorm
    if isinstance(layer, BatchNormAct2d):
        norm = GroupNormAct(layer.num_features, num_groups=groups, eps=layer.eps, apply_act=False)
        norm.drop, norm.act = layer.drop, layer.act
    else:
        norm = nn.GroupNorm(groups, layer.num_features, eps=layer.eps)
    norm.load_state_dict({"weight": layer.weight, "bias": layer.bias}, strict=True)
    return norm.to(layer.weight)  # its precision and device


def exact_group_norm(
    input: torch.Tensor,
    num_groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> torch.Tensor:
    """Normalise groups of channels as torch does, and exactly where it does not: float32, channels last, on a CPU.

    Torch's kernel for these takes the variance as the mean square less the squared mean, added up one by one. Where
    slices are blank little is left of that, and outputs are off by a hundredth.

    Args:
        input: ``B C ...``.
        num_groups: of the channels.
        weight: C factors, None for 1.
        bias: C terms, None for 0.
        eps: added to the variance.
        cudnn_enabled: as torch has it.

    Returns:
        The same shape, in the same memory format.
    """
    last = input.ndim == 4 and input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    if not last or input.device.type != "cpu" or input.dtype != torch.float32:
        return torch.group_norm(input, num_groups, weight, bias, eps, cudnn_enabled)
    mean = _of_groups(input, num_groups)
    apart = input - mean
    variance = _of_groups(apart.square() if apart.requires_grad else apart.square_(), num_groups)
    factor = torch.rsqrt(variance + eps) * (1.0 if weight is None else weight[:, None, None])
    return torch.addcmul((0.0 if bias is None else bias[:, None, None]) - mean * factor, input, factor)


def _of_groups(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Average over each group of channels: ``B C 1 1``."""
    means = x.mean(dim=(2, 3)).view(len(x), groups, -1).mean(dim=2)
    return means.repeat_interleave(x.shape[1] // groups, dim=1)[:, :, None, None]


class ExactGroupNorm(nn.Module):
    """A group norm that is exact in every memory format, and the activation that belongs to it."""

    def __init__(self, layer: nn.GroupNorm) -> None:
        """Take the place of a layer.

        Args:
            layer: whose weights are used.
        """
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = layer.num_groups, layer.eps, layer.weight, layer.bias
        self.after = nn.Sequential(*([layer.drop, layer.act] if isinstance(layer, GroupNormAct) else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise and activate.

        Args:
            x: ``B C ...``.

        Returns:
            The same shape.
        """
        y: torch.Tensor = self.after(exact_group_norm(x, self.groups, self.weight, self.bias, self.eps))
        return y


def use_exact_group_norm(model: nn.Module) -> None:
    """Replace group norms by exact ones of the same weights, in place.

    Args:
        model: any model; layers of somebody's own kind stay.
    """
    for name, layer in list(model.named_modules()):
        if type(layer) in _GROUP_NORMS:
            model.set_submodule(name, ExactGroupNorm(layer))


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep batch norms in evaluation mode and their scale and shift fixed; call after ``model.train()``.

    Args:
        model: any model, changed in place.
    """
    for layer in model.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.eval()
            for parameter in layer.parameters():
                parameter.requires_grad_(False)


class Tracer(torch.fx.Tracer):
    """A tracer that stops at convolutions and batch norms, timm's own subclasses included."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell whether to go on within a module.

        Args:
            m: the module.
            module_qualified_name: its path.

        Returns:
            Whether a call of it is one step of the graph.
        """
        return isinstance(m, (nn.Conv2d, nn.BatchNorm2d, ExactGroupNorm)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Look through modules that exist for a moment alone (a slice of a sequence) into those that they hold.

        Args:
            m: the module that is called.
            forward: calls it.
            args: with which it is called.
            kwargs: by name.

        Returns:
            What it puts out, in symbols.
        """
        try:
            self.path_of_module(m)
        except NameError:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)


class _Tapped(nn.Module):
    """A timm model that also returns its feature stages, so that a trace shows where they are read."""

    def __init__(self, model: Any, head: bool) -> None:
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features, stages = self.model.forward_intermediates(x)
        return self.model.forward_head(features) if self.head else features, stages


def trace(model: nn.Module, *, head: bool = True) -> tuple[nn.Module, torch.fx.Graph] | None:
    """Trace the data flow of a model, from its input to its outputs and, of a timm model, its feature stages.

    Args:
        model: in evaluation mode.
        head: also pooling and last layer of a timm model; left out where they cannot be traced.

    Returns:
        The module of which the graph's modules are parts, and the graph; None for models that cannot be traced.
    """
    tapped = hasattr(model, "forward_intermediates")
    for root in [_Tapped(model, each) for each in dict.fromkeys((head, False))] if tapped else [model]:
        # torch.fx raises whatever the model's own code raises on symbolic input.
        with suppress(Exception):
            return root, Tracer().trace(root)
    return None


def fold_batch_norm(model: nn.Module) -> int:
    """Fold each batch norm that follows a convolution into it, in place; exact up to rounding.

    Which norm follows which convolution is read from the traced data flow. A convolution whose output is read
    elsewhere, as a feature stage too, stays: a folded norm would change what is read there.

    Args:
        model: in evaluation mode.

    Returns:
        How many norms were folded; 0 for models that cannot be traced (vision transformers, which have none).
    """
    traced = trace(model)
    if traced is None:
        return 0
    root, graph = traced
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], torch.fx.Node):
            continue
        norm, before = root.get_submodule(str(node.target)), node.args[0]
        if not isinstance(norm, nn.BatchNorm2d) or before.op != "call_module" or len(before.users) != 1:
            continue
        convolution = root.get_submodule(str(before.target))
        once = calls[str(node.target)] == calls[str(before.target)] == 1  # else another call would get this norm too
        if once and isinstance(convolution, nn.Conv2d) and type(convolution) in _FOLDABLE:
            root.set_submodule(str(before.target), fuse_conv_bn_eval(convolution, norm))
            activation = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
            root.set_submodule(str(node.target), activation)
            folded += 1
    return folded
