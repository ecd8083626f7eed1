"""How well a classifier in training recognizes the findings in scans that it does not learn from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from tonno_core.distributed import Processes
from tonno_core.segmentation.metrics import auc
from tonno_core.training.dataset import SliceSampler

# Slices of each volume.
SLICES_EACH = 64
# Volumes whose slices a GPU classifies at once.
_TOGETHER = 4


@dataclass(frozen=True)
class Validation:
    """Loss and areas under the ROC curve (AUC), means over the classes that some volumes have and others have not.

    Attributes:
        loss: Cross-entropy of slices; None without volumes.
        slice_auc: AUC of slices; None where no class tells volumes apart.
        volume_auc: AUC of volumes, by the mean of their highest tenth of logits; None likewise.
    """

    loss: float | None
    slice_auc: float | None
    volume_auc: float | None


def validate(network: nn.Module, sampler: SliceSampler, processes: Processes) -> Validation:
    """Measure on random slices, the same `SLICES_EACH` of each volume every time.

    Args:
        network: Slices B S S to logits B C.
        sampler: Draws slices of the volumes to measure on.
        processes: The processes that share the volumes.

    Returns:
        The measurements, the same in all processes.
    """
    volumes = sampler.volumes
    if not volumes:
        return Validation(None, None, None)
    logits = random_logits(network, sampler, processes)
    labels = np.array([volume.labels for volume in volumes])  # N C
    truth = torch.as_tensor(labels, dtype=torch.float32)[:, None].expand(-1, SLICES_EACH, -1)
    loss = float(F.binary_cross_entropy_with_logits(torch.as_tensor(logits), truth))
    both = [index for index in range(labels.shape[1]) if 0 < labels[:, index].sum() < len(labels)]
    if not both or not np.isfinite(logits).all():
        return Validation(loss, None, None)
    top = np.sort(logits, axis=1)[:, -max(1, SLICES_EACH // 10) :].mean(axis=1)
    of_slices = [auc(logits[..., index].ravel(), labels[:, index].repeat(SLICES_EACH)) for index in both]
    of_volumes = [auc(top[:, index], labels[:, index]) for index in both]
    return Validation(loss, float(np.mean(of_slices)), float(np.mean(of_volumes)))


@torch.no_grad()
def random_logits(network: nn.Module, sampler: SliceSampler, processes: Processes) -> npt.NDArray[np.float32]:
    """Answer random slices, the same `SLICES_EACH` of each volume every time.

    Args:
        network: Slices B S S to logits B C; is in evaluation mode afterwards.
        sampler: Draws slices of N volumes, one at least.
        processes: The processes that share the volumes.

    Returns:
        Logits N K C, the same in all processes.
    """
    volumes = sampler.volumes
    network.eval()
    own, answers = range(processes.rank, len(volumes), processes.world), []
    # A GPU is not filled by the slices of one volume, and is waited for once, at the end.
    together = 1 if sampler.device.type == "cpu" else _TOGETHER
    for some in (own[first : first + together] for first in range(0, len(own), together)):
        # Far from the steps of training, whose seeds count from 0.
        seeds = [(sampler.seed, 2**32 - 1 - number, 1) for number in some]
        answers.append(network(sampler.slices(some, seeds, SLICES_EACH)).float())
    share = list(torch.cat(answers).cpu().numpy().reshape(len(own), SLICES_EACH, -1)) if answers else []
    return np.stack(processes.gather(share))
