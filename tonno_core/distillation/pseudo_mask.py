"""Pseudo-masks: what of a volume is taken for the finding, what for none, and what is left out of the loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from scipy import ndimage

from tonno_core.distillation.settings import DistillationSettings

# Levels of a voxel. What lies beyond a volume is unknown, too.
UNKNOWN, BACKGROUND, FINDING = 0, 1, 2


def mean_map(maps: torch.Tensor, units: Sequence[float]) -> torch.Tensor | None:
    """Average heatmaps of different methods, each in its own unit.

    Args:
        maps: ``M Z Y X``.
        units: What each is divided by: its peak in the volume, or its threshold.

    Returns:
        ``Z Y X``; None where a unit is not above 0: that heatmap says neither where the finding is nor where not.
    """
    if min(units) <= 0:
        return None
    divisors = torch.as_tensor(units, dtype=torch.float32, device=maps.device)
    return (maps.float() / divisors[:, None, None, None]).mean(dim=0)


def is_trusted(peaks: Sequence[float], thresholds: Sequence[float | None], least: float) -> bool:
    """Say whether the heatmaps of a volume reach far enough to say where its finding is.

    Thresholds are what volumes without the finding hardly reach. A peak below them is one that these have as well.

    Args:
        peaks: Of the heatmaps.
        thresholds: The model's own for them.
        least: The least mean of the peaks in units of the thresholds.

    Returns:
        Also true where the model brings no threshold above 0 for one of them, so that nothing can be said.
    """
    known = [each for each in thresholds if each is not None and each > 0]
    if len(known) < len(peaks):
        return True
    return sum(peak / each for peak, each in zip(peaks, known, strict=True)) / len(peaks) >= least


def levels_by_heatmaps(
    maps: torch.Tensor,
    units: Sequence[float],
    image: torch.Tensor,
    foreground: torch.Tensor,
    settings: DistillationSettings,
) -> torch.Tensor:
    """Divide the voxels of a volume with the finding into levels by its heatmaps, and by its own brightness.

    Heatmaps are blurred: they say where the finding is, not where it ends. So they give its core and its surroundings,
    and where these differ in brightness that divides what lies between, and the core itself.

    In the unit ``peak`` the mean of the heatmaps is again divided by its own peak: where their peaks lie apart it does
    not reach 1.

    Args:
        maps: ``M Z Y X``.
        units: What each is divided by.
        image: The volume, ``C Z Y X``; the channel counts in which core and surroundings differ most.
        foreground: Where a peak and the surroundings count, bool Z Y X.
        settings: The levels.

    Returns:
        uint8 Z Y X; all unknown where the heatmaps show no finding.
    """
    mean = mean_map(maps, units)
    if mean is not None and settings.unit == "peak":
        peak = float(mean[foreground].max()) if foreground.any() else float(mean.max())
        mean = mean / peak if peak > 0 else None
    levels = _levels(mean, maps.shape[1:], settings.finding, settings.background)
    if mean is None or not (levels == FINDING).any():
        return levels
    share = _likeness(image, levels == FINDING, (levels == BACKGROUND) & foreground, foreground, settings)
    if share is not None:
        levels[levels != BACKGROUND] = UNKNOWN
        zone = levels == UNKNOWN
        levels[zone & (share > settings.bright)] = FINDING
        levels[zone & (share < settings.dark)] = BACKGROUND
    return levels


def _likeness(
    image: torch.Tensor,
    core: torch.Tensor,
    surroundings: torch.Tensor,
    foreground: torch.Tensor,
    settings: DistillationSettings,
) -> torch.Tensor | None:
    """Say how near each voxel's brightness is to the core's: 1 as that, 0 as the surroundings'; None without contrast.

    Brighter and darker findings are alike.
    """
    if not surroundings.any():
        return None
    best, share = settings.contrast, None
    for channel in image.float():
        smooth = torch.as_tensor(ndimage.gaussian_filter(channel.numpy(), settings.smoothing, mode="nearest"))
        inside, outside = float(smooth[core].median()), float(smooth[surroundings].median())
        contrast = abs(inside - outside) / max(float(channel[foreground].std()), 1e-6)
        if contrast > best:
            best, share = contrast, (smooth - outside) / (inside - outside)
    return share


def levels_by_answer(logits: torch.Tensor, settings: DistillationSettings) -> torch.Tensor:
    """Divide the voxels of a volume with the finding into levels by a network's answer.

    Args:
        logits: Z Y X.
        settings: The levels.

    Returns:
        uint8 Z Y X; all unknown where the network found nothing.
    """
    return _levels(torch.sigmoid(logits), logits.shape, settings.own_finding, settings.own_background)


def _levels(values: torch.Tensor | None, shape: Sequence[int], finding: float, background: float) -> torch.Tensor:
    levels = torch.full(tuple(shape), UNKNOWN, dtype=torch.uint8)
    if values is not None and bool((values >= finding).any()):
        levels[values.cpu() < background] = BACKGROUND
        levels[values.cpu() >= finding] = FINDING
    return levels
