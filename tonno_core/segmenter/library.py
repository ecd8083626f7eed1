"""All that comes from MONAI, and is imported here alone, when it is needed: the network and the sliding window."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import GROUPS, SegmenterNetwork

# Of neighbouring windows, and the standard deviation of their Gaussian weights in sides of a window: nnU-Net's.
OVERLAP, SIGMA = 0.5, 0.125


class _Exact(nn.Sequential):
    """Computes in float32, also under autocast: a logit of 4 in bfloat16 has steps of 0.03."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        with torch.autocast(values.device.type, enabled=False):
            values = values.float()
            for layer in self:
                values = layer(values)
        return values


def require_monai() -> None:
    """Check that MONAI is installed.

    Raises:
        TonnoError: It is not.
    """
    if find_spec("monai") is None:
        raise TonnoError("a segmenter needs MONAI, which is not installed: pip install 'tonno-core[segmenter]'")


def build_network(network: SegmenterNetwork, classes: int, channels: int = 1) -> nn.Module:
    """Build a network with random weights.

    Args:
        network: Its description.
        classes: Of which it has a logit each.
        channels: Of its input: 1, or the number of the intensity's windows.

    Returns:
        Takes ``B C Z Y X``, whose sides are multiples of `SegmenterNetwork.step`, and gives logits ``B K Z Y X`` in
        float32, also under autocast.

    Raises:
        TonnoError: MONAI is not installed.
    """
    require_monai()
    from monai.networks.nets import SegResNet

    model: nn.Module = SegResNet(
        spatial_dims=3,
        init_filters=network.filters,
        in_channels=channels,
        out_channels=classes,
        norm=("GROUP", {"num_groups": GROUPS}),
        blocks_down=network.blocks,
        blocks_up=(1,) * (len(network.blocks) - 1),
    )
    model.conv_final = _Exact(*model.conv_final)  # type: ignore[misc]  # the weights' names stay
    return model


def slide(
    image: torch.Tensor,
    predict: Callable[[torch.Tensor], torch.Tensor],
    window: tuple[int, int, int],
    *,
    fill: float,
    at_once: int = 1,
    device: torch.device | None = None,
) -> torch.Tensor:
    """Answer an image by overlapping windows, whose answers are averaged with Gaussian weights.

    Args:
        image: ``C Z Y X``, of any size.
        predict: Gives ``B K Z Y X`` for windows ``B C Z Y X``.
        window: Voxels along Z, Y, X.
        fill: What an image smaller than a window is surrounded with.
        at_once: Windows in a batch.
        device: Where windows are answered; None for the image's. The answer is gathered where the image is.

    Returns:
        ``K Z Y X``.
    """
    from monai.inferers import sliding_window_inference

    answer: torch.Tensor = sliding_window_inference(
        image[None],
        window,
        at_once,
        predict,
        overlap=OVERLAP,
        roi_weight_map=_window_weights(window).to(image.device if device is None else device),
        cval=fill,
        sw_device=device,
        device=image.device,
    )
    return answer[0]


def _window_weights(window: tuple[int, int, int]) -> torch.Tensor:
    """Compute a window's Gaussian weights, ``Z Y X``.

    MONAI's own end at 0.001, whereby along an image's edges the face of one window counts as much as the middle of
    another.
    """
    sides = []
    for count in window:
        at = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
        sides.append(torch.exp(-0.5 * (at / (SIGMA * count)) ** 2))
    z, y, x = sides
    return (z[:, None, None] * y[:, None] * x).float()
