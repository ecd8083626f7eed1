"""The loss of random slices: each by its own label, and those of a volume together by what the label really says."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def training_loss(logits: torch.Tensor, labels: torch.Tensor, slices_each: int, bag: float) -> torch.Tensor:
    """Compute the cross-entropy of a batch: of its slices, and of its bags, the slices of one volume each.

    A volume's label says that at least one of its slices shows the finding, or that none does. The bag's logit is their
    smooth maximum, log(mean(exp(logits))): the slice's own where there is one.

    Args:
        logits: B C, the K slices of a volume one after the other.
        labels: B C, from 0 to 1; the highest of a volume's slices is the bag's.
        slices_each: K.
        bag: Weight of the bags' cross-entropy, from 0 to 1; the slices' has the rest.

    Returns:
        The mean, a scalar.
    """
    of_slices = F.binary_cross_entropy_with_logits(logits, labels)
    if bag == 0.0:
        return of_slices
    each = logits.shape[0] // slices_each, slices_each, logits.shape[1]
    pooled = torch.logsumexp(logits.view(each), dim=1) - math.log(slices_each)
    of_bags = F.binary_cross_entropy_with_logits(pooled, labels.view(each).amax(dim=1))
    return (1.0 - bag) * of_slices + bag * of_bags
