"""Training of a regressor: the loss of its slices, and how well it tells the quantity of scans that it has not seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from tonno_core.distributed import Processes
from tonno_core.training.dataset import SliceSampler
from tonno_core.training.validation import random_logits


def regression_loss(outputs: torch.Tensor, targets: torch.Tensor, slices_each: int, bag: float) -> torch.Tensor:
    """Compute the squared error of a batch: of its slices, and of its bags, the slices of one volume each.

    A squared error is least where the answer is the mean of what it may be, and means add up: over the slices of a
    volume, and in the reconstruction, which is linear. A robust loss would give medians, which do not. The bag's answer
    is the mean of its slices, so that each slice need only tell its share.

    Args:
        outputs: B 1, the K slices of a volume one after the other.
        targets: B 1, in standard deviations of the training volumes.
        slices_each: K.
        bag: Weight of the bags' error, from 0 to 1; the slices' has the rest.

    Returns:
        The mean, a scalar.
    """
    of_slices = F.mse_loss(outputs, targets)
    if bag == 0.0:
        return of_slices
    each = outputs.shape[0] // slices_each, slices_each, outputs.shape[1]
    of_bags = F.mse_loss(outputs.view(each).mean(dim=1), targets.view(each).mean(dim=1))
    return (1.0 - bag) * of_slices + bag * of_bags


@dataclass(frozen=True)
class Agreement:
    """How well a regressor's answer, the mean of a volume's slices, agrees with the volume's number.

    Attributes:
        loss: Mean squared error of slices, in standard deviations; None without volumes.
        pearson: Correlation of the numbers; None where either does not vary.
        spearman: Correlation of their ranks; None likewise.
        mae: Mean absolute error, in the quantity's unit; None without volumes.
        r2: Share of the numbers' variance that the answer explains, 0 for their mean; None where they do not vary.
        slope: By how much the answer rises where the number rises by 1: below 1 where it keeps to the mean; None
            likewise.
    """

    loss: float | None
    pearson: float | None = None
    spearman: float | None = None
    mae: float | None = None
    r2: float | None = None
    slope: float | None = None


def validate_numbers(network: nn.Module, sampler: SliceSampler, processes: Processes, unit: float) -> Agreement:
    """Measure on random slices, the same of each volume every time.

    Args:
        network: Slices B S S to outputs B 1.
        sampler: Draws slices of the volumes to measure on.
        processes: The processes that share the volumes.
        unit: What a standard deviation is in the quantity's unit.

    Returns:
        The measurements, the same in all processes.
    """
    if not sampler.volumes:
        return Agreement(None)
    outputs = random_logits(network, sampler, processes)[..., 0]  # N K
    truth = np.array([volume.labels[0] for volume in sampler.volumes])
    return agreement(outputs, truth, unit)


def agreement(outputs: npt.NDArray[np.floating], truth: npt.NDArray[np.floating], unit: float = 1.0) -> Agreement:
    """Compare answers with the truth.

    Args:
        outputs: N K, of the slices of N volumes.
        truth: N.
        unit: Of both.

    Returns:
        The agreement; its loss alone where an answer is no number.
    """
    from scipy.stats import pearsonr, spearmanr

    loss = float(np.mean((outputs - truth[:, None]) ** 2))
    answers = outputs.mean(axis=1, dtype=np.float64)
    if not np.isfinite(answers).all():
        return Agreement(loss)
    error, spread = answers - truth, ((truth - truth.mean()) ** 2).sum()
    vary = len(truth) > 2 and np.ptp(truth) > 0
    both = vary and np.ptp(answers) > 0
    return Agreement(
        loss=loss,
        pearson=float(pearsonr(answers, truth)[0]) if both else None,
        spearman=float(spearmanr(answers, truth)[0]) if both else None,
        mae=float(np.abs(error).mean()) * unit,
        r2=float(1.0 - (error**2).sum() / spread) if vary else None,
        slope=float((answers * (truth - truth.mean())).sum() / spread) if vary else None,
    )
