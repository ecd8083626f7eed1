"""Activations and gradients of a timm model's stages by plain hooks, which know nothing of the product's shortcuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tonno_core.encoding.classifier import create_model

Layout = Callable[[torch.Tensor], torch.Tensor]


def exact_network(name: str, size: int, *, channels: int = 1) -> nn.Module:
    """A timm model of two classes in float64 and evaluation mode with random weights, none at its neutral value."""
    torch.manual_seed(0)
    model = create_model(name, channels=channels, classes=2, norm="batch", slice_size=size)
    stir(model)
    return model.double().eval()


def stir(model: nn.Module) -> None:
    """Give norms the statistics of trained ones, and numbers to heads and layer scales that start near zero."""
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(layer.running_mean, std=0.3)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    for weight in model.parameters():
        if weight.ndim <= 1 and torch.equal(weight, torch.ones_like(weight)):  # of norms
            nn.init.uniform_(weight, 0.5, 1.5)
        elif not weight.any():
            nn.init.normal_(weight, std=0.1)
        elif weight.max() == weight.min() and weight.abs().max() < 0.1:  # of layer scales
            nn.init.uniform_(weight, 0.3, 1.0)


def stages_by_hooks(
    model: Any, inputs: torch.Tensor, features: Sequence[int], index: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Feature stages ``B C h w`` and the logit's gradient at each, zeros if it has none, by hooks on all modules.

    A stage is the output of the module that timm names for it, or else the first of any module, that holds in some
    layout exactly the numbers of timm's feature. The hooks hand on copies, so that no later layer changes it in place.

    Args:
        model: In float64 and evaluation mode.
        inputs: ``B C V U``.
        features: timm's indices of the stages, ascending.
        index: Of the class.
    """
    with torch.no_grad(), copied_outputs(model):
        _, images = model.forward_intermediates(inputs, indices=list(features), stop_early=False)
    with copied_outputs(model) as outputs:
        logit = model(inputs.clone().requires_grad_(True))[:, index].sum()
    for feature, image in zip(features, images, strict=True):
        named = model.feature_info[feature]["module"]
        found = next(
            (
                (output, layout)
                for _, output in sorted(outputs, key=lambda pair: pair[0] != named)
                for layout in layouts(model, output, image)
                # The same operations in the same order, but for fused attention and the like.
                if torch.allclose(layout(output), image, rtol=1e-9, atol=1e-12)
            ),
            None,
        )
        assert found is not None, f"no module puts out feature {feature}"
        output, layout = found
        (gradient,) = torch.autograd.grad(logit, output, allow_unused=True, retain_graph=True)
        yield layout(output).detach(), torch.zeros_like(image) if gradient is None else layout(gradient)


@contextmanager
def copied_outputs(model: nn.Module) -> Iterator[list[tuple[str, torch.Tensor]]]:
    """The floating-point outputs of all modules by name in the order of their calls; each module hands on a copy."""
    outputs: list[tuple[str, torch.Tensor]] = []

    def copies(name: str, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            outputs.append((name, value))
            return value.clone()
        if type(value) in (list, tuple):
            return type(value)(copies(name, each) for each in value)
        return value

    hooks = [
        layer.register_forward_hook(lambda *call, name=name: copies(name, call[-1]))
        for name, layer in model.named_modules()
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def layouts(model: Any, output: torch.Tensor, image: torch.Tensor) -> Iterator[Layout]:
    """The ways to see an output as the image ``B C h w``, as far as its number of values allows."""
    batch, channels, height, width = image.shape
    if output.shape == image.shape:
        yield lambda values: values
    if output.shape == (batch, height, width, channels):
        yield lambda values: values.permute(0, 3, 1, 2)
    if output.ndim == 3 and output.shape[0] == batch and output.shape[2] == channels:
        tokens = height * width
        if output.shape[1] >= tokens:  # prefix tokens first
            yield (
                lambda values: (
                    values[:, values.shape[1] - tokens :].reshape(batch, height, width, -1).permute(0, 3, 1, 2)
                )
            )
        if hasattr(model, "reroll"):  # Hiera's own order of tokens, by the network's own way back
            for block, (_, size) in model.reroll.schedule.items():
                if list(size) == [height, width] and output.shape[1] == tokens:
                    yield lambda values, block=block: model.reroll(values, block).permute(0, 3, 1, 2)
    if output.shape == (batch, channels, height * width):
        yield lambda values: values.reshape(image.shape)
