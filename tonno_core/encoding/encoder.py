"""What tomography asks of an encoder, and the encoder whose output is known: the mean of a slice's pixels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind

# Activation maps ``B h w`` by class index and stage.
ClassMaps = dict[tuple[int, int], torch.Tensor]


class Encoder(Protocol):
    """A function of slices ``B V U``: a logit for each of K classes, and activation maps."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the K classes."""

    @property
    def stages(self) -> int:
        """Number of feature stages after the stem; stage 1 is the finest."""

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        """List the stages on whose cells a class's logit depends; `cam` refuses the others.

        Args:
            class_index: the class's number, from 0.
            size: S, pixels along a slice's side.

        Returns:
            Numbers of the stages, ascending.
        """

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """Compute one logit per slice and class.

        Args:
            slices: ``B V U``.

        Returns:
            ``B K`` in float32, or in the slices' own precision if finer.
        """

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Compute logits and activation maps in one pass, those of ScoreCAM in several.

        Args:
            slices: ``B V U``.
            asked: pairs of class index and stage.
            kind: how activations and gradients are combined.
            at_once: masked slices of ScoreCAM that go through the network together; 0 for as many as are given.

        Returns:
            Logits ``B K``, and maps ``B h w`` by class index and stage.
        """

    def passes(self, stages: Collection[int], size: int) -> int:
        """Count how often the network looks at a slice for ScoreCAM's maps.

        Args:
            stages: whose maps are wanted.
            size: S, pixels along a slice's side.

        Returns:
            Once as it is, and once for each channel of each stage.
        """


def check_finite(logits: torch.Tensor) -> None:
    """Check that logits are numbers. Waits until a GPU has computed them, which encoders do not.

    Args:
        logits: of any shape.

    Raises:
        TonnoError: some are NaN or infinite.
    """
    if not logits.isfinite().all():
        raise TonnoError(
            "the classifier's logits are not finite numbers; try `precision` float32, else look at its weights and its "
            "intensity normalization"
        )


def without_map(stage: int, class_name: str, usable: Sequence[int]) -> TonnoError:
    """Make the error about a stage that gives no map.

    Args:
        stage: the stage.
        class_name: of the class.
        usable: stages that give maps.

    Returns:
        The error.
    """
    if not usable:
        return TonnoError(
            f"`stage` {stage}: the logit of class '{class_name}' does not depend on any stage's cells, so all maps "
            "would be empty; choose a classifier that was trained, or `method` tonno, which needs no maps"
        )
    first, last = usable[0], usable[-1]
    whole = len(usable) == last - first + 1 > 1
    return TonnoError(
        f"`stage` {stage}: the logit of class '{class_name}' does not depend on this stage's cells, so its map would "
        "be empty (after a transformer's last block only the class token counts); choose a `stage` "
        f"{f'from {first} to {last}' if whole else 'of ' + ', '.join(map(str, usable))}"
    )


def no_features() -> TonnoError:
    """Make the error about an encoder whose last layer weighs no feature vector.

    Returns:
        The error.
    """
    return TonnoError("this encoder has no pooled feature vector before its last layer; choose another, as resnet10t")


class PixelSum:
    """An encoder that returns the mean of a slice's pixels: planes become the Radon transform, the heatmap the input.

    Its "activation maps" are the slice average-pooled to S / 4, S / 8, S / 16 and S / 32 cells, the
    resolutions of a ResNet's stages (the paper's Fig. 4).

    Attributes:
        classes: its only class.
        stages: number of resolutions.
    """

    classes: tuple[str, ...] = ("pixel-sum",)
    stages: int = 4

    def stages_with_maps(self, class_index: int, size: int) -> tuple[int, ...]:
        """List all stages.

        Args:
            class_index: of no effect.
            size: of no effect.

        Returns:
            Their numbers.
        """
        return tuple(range(1, self.stages + 1))

    def logits(self, slices: torch.Tensor) -> torch.Tensor:
        """Average the pixels of each slice.

        Args:
            slices: ``B V U``.

        Returns:
            ``B 1``.
        """
        return slices.mean(dim=(1, 2))[:, None]

    def passes(self, stages: Collection[int], size: int) -> int:
        """Count how often a slice is looked at for maps of any kind.

        Args:
            stages: of no effect.
            size: of no effect.

        Returns:
            1.
        """
        return 1

    def cam(
        self, slices: torch.Tensor, asked: Collection[tuple[int, int]], kind: CamKind, at_once: int = 0
    ) -> tuple[torch.Tensor, ClassMaps]:
        """Average the pixels of each slice, and those that each cell of a stage covers.

        Args:
            slices: ``B V U``.
            asked: pairs of class index (0) and stage.
            kind: of no effect.
            at_once: of no effect.

        Returns:
            ``B 1``, and ``B h w`` by class index and stage.
        """
        cells = {stage: max(1, round(slices.shape[-1] / 2 ** (stage + 1))) for _, stage in asked}
        maps = {(0, stage): F.adaptive_avg_pool2d(slices[:, None], count)[:, 0] for stage, count in cells.items()}
        return self.logits(slices), maps
