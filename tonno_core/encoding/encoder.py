"""What tomography asks of an encoder, and the encoder whose answer is known: the sum of pixels."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

import torch
import torch.nn.functional as F

from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind

# Activation maps ``B h w`` by class index and stage.
ClassMaps = dict[tuple[int, int], torch.Tensor]


class Encoder(Protocol):
    """Slices to numbers. Slices are ``B V U``; K classes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""

    @property
    def stages(self) -> int:
        """Number of feature stages after the stem; stage 1 is the finest."""

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """One logit per slice and class: ``B K`` float32 (or the slices' own precision if finer)."""

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Logits ``B K``, and the activation maps asked for, each by its class index and stage, in one pass."""


def check_finite(logits: torch.Tensor) -> None:
    """Raise TonnoError for logits that are NaN or infinite. Waits for a GPU to have them, as encoders do not."""
    if not logits.isfinite().all():
        raise TonnoError(
            "the classifier's logits are not finite numbers; try `precision` float32, else look at its weights and its "
            "intensity normalization"
        )


class PixelSum:
    """The mean of a slice's pixels: with it the chain is the Radon transform, and the heatmap the input.

    Its "activation maps" are the slice average-pooled to S / 4, S / 8, S / 16 and S / 32 cells, the
    resolutions of a ResNet's stages (the paper's Fig. 4).
    """

    classes: tuple[str, ...] = ("pixel-sum",)
    stages: int = 4

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """``B V U`` to ``B 1``."""
        return slices.mean(dim=(1, 2))[:, None]

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind
    ) -> tuple[torch.Tensor, ClassMaps]:
        """``B V U`` to ``B 1`` and ``B h w`` of each stage, the mean of the pixels that each cell covers."""
        cells = {stage: max(1, round(slices.shape[-1] / 2 ** (stage + 1))) for _, stage in asked}
        maps = {(0, stage): F.adaptive_avg_pool2d(slices[:, None], count)[:, 0] for stage, count in cells.items()}
        return self.logits(slices), maps
