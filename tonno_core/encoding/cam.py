"""Class activation maps from the activations of a stage and the gradient of a logit there.

LayerCAM: Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943. GradCAM: Selvaraju et al., ICCV 2017,
doi 10.1109/ICCV.2017.74. Maps are never min-max normalised: slices must stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tonno_core.settings import CamKind


def activation_map(activation: torch.Tensor, gradient: torch.Tensor, kind: CamKind) -> torch.Tensor:
    """Combine channels.

    activation: B C h w. gradient of the class's logit there: B C h w (or 1 C h w). Returns B h w.
    LayerCAM, ReLU(sum_k ReLU(g_k) A_k), weighs every cell by its own gradient. GradCAM,
    sum_k mean(g_k) A_k, stays signed: the ReLU of its paper would cut the evidence against the class.
    """
    if kind == "layercam":
        return (gradient.clamp_min(0) * activation).sum(1).clamp_min_(0)
    return (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(1)


def gradient_at(logits: torch.Tensor, activation: torch.Tensor) -> torch.Tensor:
    """Gradient of the sum of ``logits`` with respect to a stage's activations, back to that stage only.

    logits: B. activation: B C h w as timm's ``forward_intermediates`` gives it. Returns B C h w.

    In transformers this tensor is a rearranged copy that lies beside the path to the logit (tokens to a
    B C h w image), so its own gradient does not exist. The rearrangement's source, a few steps up its
    graph, is on the path: its gradient is taken and rearranged alike.
    """
    edge = get_gradient_edge(activation)
    for _ in range(8):  # permute, contiguous, reshape, slice: at most a handful
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            logits.sum(), edge, allow_unused=True, retain_graph=True
        )
        if found[0] is not None:
            return _to_image(found[0], activation)
        sources = [GradientEdge(node, output) for node, output in edge.node.next_functions if node is not None]
        if len(sources) != 1:
            break
        edge = sources[0]
    raise ValueError("the logit does not depend on this stage's activations")


def _to_image(gradient: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bring a gradient in B C h w, B h w C, or B tokens C (prefix tokens first) into B C h w."""
    batch, channels, height, width = like.shape
    if gradient.shape == like.shape:
        return gradient
    if gradient.ndim == 4 and gradient.shape[-1] == channels:
        return gradient.permute(0, 3, 1, 2)
    if gradient.ndim == 3 and gradient.shape[-1] == channels:
        tokens = gradient[:, gradient.shape[1] - height * width :]
        return tokens.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
    raise ValueError(f"a gradient of shape {tuple(gradient.shape)} for activations {tuple(like.shape)}")
