"""All that comes from MONAI, and is imported here alone, when it is needed.

The network, the sliding window, and the random changes of what it is trained on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import GROUPS, SegmenterNetwork

# Share of a window that its neighbour has too, and standard deviation of Gaussian weights in sides of it: nnU-Net's.
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
        raise TonnoError("a segmenter needs MONAI, which is not installed: pip install 'monai>=1.4'")


def build_network(network: SegmenterNetwork, classes: int, channels: int = 1) -> nn.Module:
    """Build a network with random weights.

    Args:
        network: Its description.
        classes: Of which it has a logit each.
        channels: Of its input: the volumes', or the number of the intensity's windows.

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


def start_at(model: nn.Module, probability: float) -> None:
    """Have a network of random weights answer about one probability, so that it need not first unlearn others.

    Args:
        model: From `build_network`; changed in place.
        probability: Of each class, between 0 and 1.
    """
    layer: nn.Module = model.conv_final[-1].conv  # type: ignore[index, union-attr]
    assert isinstance(layer.bias, nn.Parameter)
    nn.init.constant_(layer.bias, math.log(probability / (1.0 - probability)))


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


def count_windows(shape: tuple[int, int, int], window: tuple[int, int, int]) -> int:
    """Count the windows of `slide`.

    Args:
        shape: Z Y X of the image.
        window: Z Y X.

    Returns:
        Their number.
    """
    along = [
        1 + max(0, math.ceil((count - side) / int(side * (1 - OVERLAP))))
        for count, side in zip(shape, window, strict=True)
    ]
    return math.prod(along)


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


class Augmentation:
    """Random changes of patches and their pseudo-masks: rotation, size, mirroring, contrast, brightness, noise, gamma.

    Args:
        spacing_zyx: Of the voxels in mm. An angle between axes of unlike spacing is smaller by their ratio, as voxels
            are turned, not millimeters.
        rotation: Largest angle about each axis, degrees.
        scaling: Largest share by which sizes change.
        intensity_scaling: Largest share by which contrasts change.
        intensity_shift: Largest shift of all intensities, in those of the network's input.
        noise: Largest standard deviation of white noise, in the same.
        gamma: Largest exponent of the brightness between a patch's extremes, and the inverse of the smallest.
        mirrored: Letters of the axes along which patches are mirrored.
    """

    # Share of the patches that undergo each change.
    _TURNED, _CHANGED, _MIRRORED = 1.0, 0.5, 0.5

    def __init__(
        self,
        spacing_zyx: tuple[float, float, float],
        rotation: float,
        scaling: float,
        intensity_scaling: float,
        intensity_shift: float,
        noise: float,
        gamma: float = 1.0,
        mirrored: str = "RAS",
    ) -> None:
        self._angles = []
        for axis in range(3):
            first, second = (spacing_zyx[other] for other in range(3) if other != axis)
            self._angles.append(math.radians(rotation) * min(first / second, second / first))
        self._mirrored = ["SAR".index(axis) for axis in mirrored]
        self._scaling, self._intensities = scaling, (intensity_scaling, intensity_shift, noise, gamma)

    def reach(self, window: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return the sides of the region of which a patch may be made.

        Args:
            window: Sides of the patch.

        Returns:
            Each larger than the patch's by an even number.
        """
        sides = []
        for axis, side in enumerate(window):
            half = side / 2.0
            for about, angle in enumerate(self._angles):
                if about != axis:
                    half += math.sin(angle) * window[3 - axis - about] / 2.0
            sides.append(side + 2 * math.ceil(half * (1.0 + self._scaling) - side / 2.0))
        return sides[0], sides[1], sides[2]

    def apply(
        self, image: torch.Tensor, levels: torch.Tensor, window: tuple[int, int, int], seed: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change a patch; the same seed makes the same change.

        Args:
            image: ``C Z Y X`` float32, as large as `reach` says.
            levels: ``K Z Y X`` uint8, likewise.
            window: Sides of the patch.
            seed: From 0 to 2^32 - 1.

        Returns:
            Both of the patch, from the middle of the region; 0 where they would lie beyond it.
        """
        transforms = self._transforms
        transforms.set_random_state(seed)
        for each in transforms.transforms[:1]:
            each.rand_affine.spatial_size = window
        made = transforms({"image": image, "levels": levels.float()})
        # Without MONAI's record of what was done to them.
        image, levels = (torch.as_tensor(made[name].as_tensor()) for name in ("image", "levels"))
        return image.contiguous(), levels.to(torch.uint8).contiguous()

    @cached_property
    def _transforms(self) -> Any:
        from monai import transforms as monai

        both = ("image", "levels")
        scaling, shift, noise, gamma = self._intensities
        return monai.Compose([
            monai.RandAffined(
                both, prob=self._TURNED, rotate_range=self._angles, scale_range=[self._scaling] * 3,
                mode=("bilinear", "nearest"), padding_mode="zeros",
            ),
            *(monai.RandFlipd(both, prob=self._MIRRORED, spatial_axis=axis) for axis in self._mirrored),
            monai.RandScaleIntensityd("image", factors=scaling, prob=self._CHANGED),
            monai.RandShiftIntensityd("image", offsets=shift, prob=self._CHANGED),
            monai.RandGaussianNoised("image", prob=self._CHANGED, std=noise),
            *([monai.RandAdjustContrastd("image", self._CHANGED, (1.0 / gamma, gamma))] if gamma > 1 else []),
        ])  # fmt: skip
