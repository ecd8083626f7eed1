"""Class activation maps from the activations of a stage and the gradient of a logit there, or logits of masked slices.

LayerCAM: Jiang et al., IEEE TIP 2021, doi 10.1109/TIP.2021.3089943. GradCAM: Selvaraju et al., ICCV 2017,
doi 10.1109/ICCV.2017.74. GradCAM++: Chattopadhay et al., WACV 2018, doi 10.1109/WACV.2018.00097. ScoreCAM: Wang et al.,
CVPR Workshops 2020, doi 10.1109/CVPRW50498.2020.00020. Maps are never min-max normalised: slices must stay comparable.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch.autograd.graph import GradientEdge, get_gradient_edge

from tonno_core.settings import CamKind

# Operations, as autograd names them, that move values and change none. Beyond any other there is no map rather than a
# wrong one.
_REARRANGEMENTS = (
    "Alias", "AsStrided", "Clone", "Permute", "ReshapeAlias", "Select", "Slice", "Split", "SplitWithSizes", "Squeeze",
    "T", "ToCopy", "Transpose", "Unbind", "UnsafeView", "Unsqueeze", "View",
)  # fmt: skip


def activation_map(activation: torch.Tensor, gradient: torch.Tensor, kind: CamKind) -> torch.Tensor:
    """Combine the channels of a stage to a class activation map.

    LayerCAM, ReLU(sum_k ReLU(g_k) A_k), weighs every cell by its own gradient. GradCAM,
    sum_k mean(g_k) A_k, stays signed: the ReLU of its paper would cut the evidence against the class.
    GradCAM++ is ReLU(sum_k w_k A_k), w_k = sum_ij ReLU(g) / (2 + g sum_ab A): its paper's weights for the score
    exp(logit), without the factor exp(logit) that all of them have in common. Its sum over A is of activations behind
    a ReLU; the positive ones are taken where there is none, because the denominator could be zero.

    Args:
        activation: ``B C h w``.
        gradient: of the class's logit with respect to the activation, ``B C h w`` or ``1 C h w``.
        kind: how they are combined; any but ``scorecam``.

    Returns:
        ``B h w``.
    """
    if kind == "gradcam":
        return (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(1)
    positive = gradient.clamp_min(0)
    if kind == "layercam":
        return (positive * activation).sum(1).clamp_min_(0)
    if kind == "gradcam++":
        whole = activation.clamp_min(0).sum(dim=(2, 3), keepdim=True)
        return score_map(activation, (positive / (2 + positive * whole)).sum(dim=(2, 3)))
    raise ValueError(f"{kind} takes no gradient")


def channel_masks(channels: torch.Tensor, size: int, precision: torch.dtype) -> torch.Tensor:
    """Enlarge channels to slices, each brought to 0..1: ScoreCAM's masks.

    Args:
        channels: ``N h w``.
        size: S, pixels along a slice's side.
        precision: in which the channels were computed; what varies by no more than its rounding is constant.

    Returns:
        ``N S S``; 0 where a channel is constant, as it says nothing of where.
    """
    large = F.interpolate(channels[:, None], (size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = large.amin(dim=(1, 2), keepdim=True), large.amax(dim=(1, 2), keepdim=True)
    # Of the channels before: enlarging a constant rounds it here and there.
    least, most = channels.amin(dim=(1, 2), keepdim=True), channels.amax(dim=(1, 2), keepdim=True)
    rounding = max(torch.finfo(precision).eps, 8 * torch.finfo(channels.dtype).eps)
    varies = most - least > rounding * torch.maximum(most.abs(), least.abs())
    return torch.where(varies, (large - low) / torch.where(varies, high - low, 1.0), 0.0)


def score_map(activation: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Add channels up by their weights, and keep what speaks for the class.

    Args:
        activation: ``B C h w``.
        weights: ``B C``.

    Returns:
        ReLU(sum_k w_k A_k), ``B h w``.
    """
    return (weights[:, :, None, None] * activation).sum(1).clamp_min_(0)


def gradients_at(logits: torch.Tensor, activations: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
    """Compute the gradients of the sum of logits with respect to some stages' activations in one backward pass.

    The pass ends at the finest of the stages and collects the others' gradients on its way.

    Some of timm's activations are rearranged copies (tokens or ``B h w C`` to a ``B C h w`` image) that lie beside the
    path to the logit and have no gradient. The tensor that was rearranged, a few steps up the graph, is on the path:
    its gradient is taken and sent through the very same steps, so that no layout is ever guessed.

    Args:
        logits: B.
        activations: ``B C h w`` each, from timm's ``forward_intermediates``.

    Returns:
        ``B C h w`` each, in the order of the activations; None where the logits do not depend on these numbers.
    """
    edges: list[GradientEdge | None] = [get_gradient_edge(activation) for activation in activations]
    found: list[torch.Tensor | None] = [None] * len(edges)
    while missing := {index: edge for index, edge in enumerate(edges) if edge is not None and found[index] is None}:
        gradients: Sequence[torch.Tensor | None] = torch.autograd.grad(
            logits.sum(), list(missing.values()), allow_unused=True, retain_graph=True
        )
        for (index, edge), gradient in zip(missing.items(), gradients, strict=True):
            if gradient is None:
                edges[index] = _source(edge)
            else:
                found[index] = _rearranged(gradient, edge, activations[index])
    return found


def _source(edge: GradientEdge) -> GradientEdge | None:
    """Go one step up the graph, if that step moved values without changing them; else return None."""
    name = edge.node.name().removesuffix("0").removesuffix("Backward")
    sources = [GradientEdge(node, output) for node, output in edge.node.next_functions if node is not None]
    return sources[0] if name in _REARRANGEMENTS and len(sources) == 1 else None


def _rearranged(gradient: torch.Tensor, source: GradientEdge, like: torch.Tensor) -> torch.Tensor:
    """Bring a gradient at the source of an activation into the activation's layout, as the activation was brought."""
    here = get_gradient_edge(like)
    if source.node is here.node and source.output_nr == here.output_nr:  # edges are never equal at a function of ours
        return gradient
    # The steps are linear. The graph holds their transpose, and the derivative of that is the steps themselves.
    image = torch.zeros_like(like, requires_grad=True)
    (transposed,) = torch.autograd.grad(like, source, image, create_graph=True)
    (rearranged,) = torch.autograd.grad(transposed, image, gradient)
    return rearranged
