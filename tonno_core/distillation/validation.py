"""How far a network in training is, on volumes that it does not learn from. No mask is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from tonno_core.distillation.loss import losses_of, soft_highest
from tonno_core.distillation.patches import PseudoMask, Shape
from tonno_core.distillation.pseudo_mask import FINDING, UNKNOWN
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.volumes import WorkingVolume
from tonno_core.distributed import Processes
from tonno_core.segmentation.metrics import auc
from tonno_core.segmenter.with_monai import slide


@dataclass(frozen=True)
class Validation:
    """How a network answers whole volumes.

    Attributes:
        loss: As in training, without augmentation; None without volumes.
        agreement: Mean Dice of the voxels at which the finding is likelier than not with the pseudo-masks, among
            known voxels of volumes with the finding; None without such volumes.
        volume_auc: Area under the ROC curve of volumes by their soft highest logit, mean over the classes that some
            volumes have and others have not; None where there is none.
    """

    loss: float | None
    agreement: float | None
    volume_auc: float | None


@torch.no_grad()
def validate(
    network: nn.Module,
    volumes: Sequence[WorkingVolume],
    masks: Sequence[PseudoMask],
    window: Shape,
    settings: DistillationSettings,
    processes: Processes,
) -> Validation:
    """Answer whole volumes, and compare the answers with labels and pseudo-masks.

    Args:
        network: Patches B C Z Y X to logits B K Z Y X.
        volumes: To measure on.
        masks: Their pseudo-masks.
        window: Z Y X that the network answers at once.
        settings: Of the loss.
        processes: That share the volumes.

    Returns:
        The measurements, the same in all processes.
    """
    if not volumes:
        return Validation(None, None, None)
    network.eval()
    own = []
    for number in range(processes.rank, len(volumes), processes.world):
        volume, levels = volumes[number], masks[number].levels
        logits = answer(network, volume, window, processes.device).cpu()
        labels = torch.tensor([volume.labels])
        loss = losses_of(logits[None], levels[None], labels, settings, settings.robustness).total(settings)
        highest = soft_highest(logits.flatten(1), settings.highest)
        known, finding, found = levels != UNKNOWN, levels == FINDING, logits > 0
        common = (found & finding).sum(dim=(1, 2, 3))
        both = (found & known).sum(dim=(1, 2, 3)) + finding.sum(dim=(1, 2, 3))
        dice = torch.where(finding.any(dim=(1, 2, 3)), 2 * common / both.clamp(min=1), torch.nan)
        own.append((float(loss), highest.tolist(), dice.tolist()))
    losses, peaks, agreements = zip(*processes.gather(own), strict=True)
    labels_of, scores = np.array([volume.labels for volume in volumes]), np.array(peaks)
    some = [k for k in range(labels_of.shape[1]) if 0 < labels_of[:, k].sum() < len(labels_of)]
    finite = bool(np.isfinite(scores).all())
    areas = [auc(scores[:, k], labels_of[:, k]) for k in some] if finite else []
    dices = np.array(agreements)
    agreement = float(np.nanmean(dices)) if np.isfinite(dices).any() else None
    return Validation(float(np.mean(losses)), agreement, float(np.mean(areas)) if areas else None)


@torch.no_grad()
def answer(network: nn.Module, volume: WorkingVolume, window: Shape, device: torch.device) -> torch.Tensor:
    """Answer a whole volume.

    Args:
        network: Patches B C Z Y X to logits B K Z Y X, in the mode for use.
        volume: On its working grid.
        window: Z Y X that the network answers at once.
        device: Of the network.

    Returns:
        Logits K Z Y X on that device.
    """
    image = volume.array.to(device).float() + volume.fill
    return slide(image, network, window, fill=volume.fill)
