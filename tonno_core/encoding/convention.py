"""What a classifier expects of its input, and what its outputs mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import timm
import torch

from tonno_core.errors import TonnoError

Activation = Literal["sigmoid", "softmax"]
ACTIVATIONS: tuple[Activation, ...] = ("sigmoid", "softmax")
TIMM = "timm"
# What white is in the input of a classifier: of numbers from 0 to 1, or of the bytes of a picture.
WHITES = (1, 255)


@dataclass(frozen=True)
class Convention:
    """How slices become a classifier's input, and its outputs logits.

    Attributes:
        channels: Of the input.
        windows: By channel the bounds of its window, as shares of the range that the slices hold from 0 to 1; empty
            where every channel gets the slice as it is.
        white: Factor on the slices' intensities: 1, or 255.
        mean: By channel, subtracted then; empty for none.
        std: By channel, by which that is divided; empty for none.
        activation: ``softmax`` where the classes exclude each other, ``sigmoid`` where each is a question of its own.
        scale: Factor on the outputs, 1 but for a regressor's: its answer is then in the unit of its quantity.
        offset: Added to them then; 0 likewise.
    """

    channels: int = 1
    windows: tuple[tuple[float, float], ...] = ()
    white: float = 1
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    activation: Activation = "sigmoid"
    scale: float = 1.0
    offset: float = 0.0

    def input(self, slices: torch.Tensor) -> torch.Tensor:
        """Make the network's input.

        Args:
            slices: ``B V U``, or ``B C V U`` where channels are neighbouring slices.

        Returns:
            ``B C V U``; a view where every channel gets the slice as it is.
        """
        values = slices if slices.ndim == 4 else slices[:, None].expand(-1, self.channels, -1, -1)
        if self.windows:
            low, high = (self._by_channel(bounds, slices) for bounds in zip(*self.windows, strict=True))
            values = ((values - low) / (high - low)).clamp_(0, 1)
        if self.white != 1:
            values = values * self.white
        if self.mean:
            values = values - self._by_channel(self.mean, slices)
        return values / self._by_channel(self.std, slices) if self.std else values

    def logits(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return the logarithm of each class's odds.

        Args:
            outputs: ``B K``, of the network's last layer.

        Returns:
            ``B K``. The outputs themselves for ``sigmoid``. For ``softmax`` the output of class k less the
            log-sum-exp of the others': log(p / (1 - p)) of its probability p, whatever is added to all outputs. Of a
            regressor its answer.
        """
        if (self.scale, self.offset) != (1.0, 0.0):
            return outputs * self.scale + self.offset
        if self.activation == "sigmoid":
            return outputs
        count = outputs.shape[1]
        if count == 2:
            return outputs - outputs.flip(1)
        own = torch.eye(count, dtype=torch.bool, device=outputs.device)
        return outputs - outputs[:, None].expand(-1, count, -1).masked_fill(own, -math.inf).logsumexp(2)

    def linear(self, classes: int) -> bool:
        """Tell whether logits depend linearly on the outputs.

        Args:
            classes: K.

        Returns:
            False for a softmax of three classes or more.
        """
        return self.activation == "sigmoid" or classes == 2

    def _by_channel(self, values: Sequence[float], like: torch.Tensor) -> torch.Tensor:
        return _constants(tuple(values), like.dtype, like.device)


@lru_cache(maxsize=32)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Make a number for each channel, once: a GPU would be waited for in every batch."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def timm_statistics(encoder: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation of the inputs that a timm model's own weights were trained with.

    Args:
        encoder: timm's name.
        channels: Of the network's input; where timm's are others, each gets the average of timm's.

    Returns:
        Means and standard deviations by channel, of intensities from 0 to 1.

    Raises:
        TonnoError: timm does not know them.
    """
    config: Any = timm.get_pretrained_cfg(encoder) if timm.is_model(encoder) else None
    if config is None or not config.mean or not config.std:
        raise TonnoError(f"`mean` timm: timm knows no mean and standard deviation of {encoder}; give numbers")
    return _each(config.mean, channels), _each(config.std, channels)


def _each(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Give each channel its value, or all of them the average where these are others."""
    if len(values) == channels:
        return tuple(float(value) for value in values)
    return (round(sum(values) / len(values), 6),) * channels


def parse_statistics(name: str, text: str | None, channels: int) -> tuple[float, ...]:
    """Read a mean or standard deviation.

    Args:
        name: ``mean`` or ``std``, for messages.
        text: A number, or one for each channel separated by commas; None for none.
        channels: Of the input.

    Returns:
        By channel; empty for none.

    Raises:
        TonnoError: It is anything else.
    """
    if text is None:
        return ()
    try:
        values = tuple(float(word) for word in text.split(","))
    except ValueError:
        values = ()
    values = values * channels if len(values) == 1 else values
    above_zero = name == "mean" or all(value > 0 for value in values)
    if len(values) != channels or not all(map(math.isfinite, values)) or not above_zero:
        kind = "a number" if name == "mean" else "a number above 0"
        several = f", or {channels} of them separated by commas" if channels > 1 else ""
        raise TonnoError(f"`{name}` '{text}': expected timm, {kind}{several}")
    return values
