"""Class activation maps from the activations of a stage and the gradient of a logit there.

LayerCAM: Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943. GradCAM: Selvaraju et al., ICCV 2017,
doi 10.1109/ICCV.2017.74. Maps are never min-max normalised: slices must stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tonno_core.settings import CamKind

_NO_GRADIENT = "the logit does not depend on this stage's activations"


def activation_map(activation: torch.Tensor, gradient: torch.Tensor, kind: CamKind) -> torch.Tensor:
    """Combine the channels of a stage to a class activation map.

    LayerCAM, ReLU(sum_k ReLU(g_k) A_k), weighs every cell by its own gradient. GradCAM,
    sum_k mean(g_k) A_k, stays signed: the ReLU of its paper would cut the evidence against the class.

    Args:
        activation: ``B C h w``.
        gradient: of the class's logit with respect to the activation, ``B C h w`` or ``1 C h w``.
        kind: how they are combined.

    Returns:
        ``B h w``.
    """
    if kind == "layercam":
        return (gradient.clamp_min(0) * activation).sum(1).clamp_min_(0)
    return (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(1)


def gradients_at(logits: torch.Tensor, activations: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Compute the gradients of the sum of logits with respect to some stages' activations in one backward pass.

    The pass ends at the finest of the stages and collects the others' gradients on its way.

    In transformers timm's activation is a rearranged copy that lies beside the path to the logit (tokens to a
    ``B C h w`` image) and has no gradient. The rearrangement's source, a few steps up its graph, is on the path: its
    gradient is taken and rearranged alike.

    Args:
        logits: B.
        activations: ``B C h w`` each, from timm's ``forward_intermediates``.

    Returns:
        ``B C h w`` each, in the order of the activations.

    Raises:
        ValueError: the logits do not depend on a stage's activations.
    """
    images: dict[int, torch.Tensor] = {}
    edges = {index: get_gradient_edge(activation) for index, activation in enumerate(activations)}
    for _ in range(8):  # permute, contiguous, reshape, slice: at most a handful
        gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(
            logits.sum(), list(edges.values()), allow_unused=True, retain_graph=True
        )
        for index, gradient in zip(list(edges), gradients, strict=True):
            if gradient is None:
                edges[index] = _source(edges[index])
            else:
                images[index] = _to_image(gradient, activations[index])
                del edges[index]
        if not edges:
            return [images[index] for index in range(len(activations))]
    raise ValueError(_NO_GRADIENT)


def _source(edge: GradientEdge) -> GradientEdge:
    """Go one step up the graph, where it does not branch."""
    sources = [GradientEdge(node, output) for node, output in edge.node.next_functions if node is not None]
    if len(sources) != 1:
        raise ValueError(_NO_GRADIENT)
    return sources[0]


def _to_image(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring a gradient in ``B C h w``, ``B h w C`` or ``B tokens C`` (prefix tokens first) into ``B C h w``."""
    batch, channels, height, width = like.shape
    if gradient.shape == like.shape:
        return gradient
    if gradient.ndim == 4 and gradient.shape[-1] == channels:
        return gradient.permute(0, 3, 1, 2)
    if gradient.ndim == 3 and gradient.shape[-1] == channels:
        tokens = gradient[:, gradient.shape[1] - height * width :]
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    raise ValueError(f"a gradient of shape {tuple(gradient.shape)} for activations {tuple(like.shape)}")
