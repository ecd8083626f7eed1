"""The loss of a segmenter whose labels are partly wrong and partly unknown.

Its parts are means over samples, or of sums over the whole batch, so that processes which share a batch compute what
one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from tonno_core.distillation.pseudo_mask import FINDING, UNKNOWN
from tonno_core.distillation.settings import DistillationSettings

# Added to both sides of a Dice, in voxels: that of a few voxels is no matter of one or two of them.
_SMOOTH = 10.0


@dataclass(frozen=True)
class Losses:
    """The parts of a loss, each without its weight and a mean over classes.

    Attributes:
        voxels: Robust cross-entropy of known voxels, mean over samples.
        dice: One less the soft Dice of all known voxels of the batch. Were each sample without the finding rewarded for
            an empty answer, an empty answer to all would be hard to leave.
        volumes: Cross-entropy of the soft highest logit, mean over samples.
    """

    voxels: torch.Tensor
    dice: torch.Tensor
    volumes: torch.Tensor

    def total(self, settings: DistillationSettings) -> torch.Tensor:
        """Add up the parts.

        Args:
            settings: Whose weights count.

        Returns:
            Scalar.
        """
        voxels, dice = settings.voxel_weight * self.voxels, settings.dice_weight * self.dice
        return voxels + dice + settings.volume_weight * self.volumes


def losses_of(
    logits: torch.Tensor,
    levels: torch.Tensor,
    labels: torch.Tensor,
    settings: DistillationSettings,
    robustness: float,
    whole: Callable[[torch.Tensor], torch.Tensor] = lambda sums: sums,
) -> Losses:
    """Compute the parts of the loss.

    Args:
        logits: B K Z Y X, float32.
        levels: Pseudo-masks, uint8 B K Z Y X: `UNKNOWN`, `BACKGROUND` or `FINDING`.
        labels: Of the volumes, 0 or 1: B K.
        settings: What the finding counts, and the share that is the highest.
        robustness: q of the cross-entropy.
        whole: Adds up sums over the processes that share the batch.

    Returns:
        The parts.
    """
    logits, levels = logits.flatten(2), levels.flatten(2)
    known, finding = (levels != UNKNOWN).float(), (levels == FINDING).float()
    present = finding.amax(dim=2)  # B K: whether the patch shows any of it
    weights = known * (1.0 + ((settings.finding_weight or 1.0) - 1.0) * finding)
    each = generalized_cross_entropy(logits, finding, robustness)
    voxels = (each * weights).sum(2) / weights.sum(2).clamp(min=1.0)
    probability = torch.sigmoid(logits) * known
    sums = torch.stack([(probability * finding).sum((0, 2)), probability.sum((0, 2)) + finding.sum((0, 2))])
    common, both = whole(sums)
    dice = 1.0 - (2.0 * common + _SMOOTH) / (both + _SMOOTH)
    highest = soft_highest(logits, settings.highest)
    # A patch of a volume with the finding need not hold it.
    counts = torch.where(labels > 0, present, 1.0)
    volumes = F.binary_cross_entropy_with_logits(highest, labels.float(), reduction="none") * counts
    return Losses(voxels.mean(), dice.mean(), volumes.mean())


def generalized_cross_entropy(logits: torch.Tensor, target: torch.Tensor, robustness: float) -> torch.Tensor:
    """Compute (1 - p^q) / q, p the probability of the label (Z. Zhang, M. Sabuncu, NeurIPS 2018).

    Args:
        logits: Any shape.
        target: 0 or 1, of the same shape.
        robustness: q, from 0, where it is the cross-entropy, to 1.

    Returns:
        The loss of each.
    """
    log_probability = F.logsigmoid(torch.where(target > 0, logits, -logits))
    if robustness == 0:
        return -log_probability
    return -torch.expm1(robustness * log_probability) / robustness


def soft_highest(logits: torch.Tensor, share: float) -> torch.Tensor:
    """Average the highest logits of a volume; its highest alone would teach one voxel a step.

    Args:
        logits: ... N.
        share: Of the N that are averaged, one at least.

    Returns:
        One number for each: ...
    """
    count = max(1, round(share * logits.shape[-1]))
    return logits.topk(count, dim=-1).values.mean(dim=-1)
