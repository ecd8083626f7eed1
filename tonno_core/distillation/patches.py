"""Random windows of many volumes with their pseudo-masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.volumes import WorkingVolume
from tonno_core.segmenter.with_monai import Augmentation

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Patches:
    """Windows of volumes.

    Attributes:
        images: B C Z Y X, float32.
        levels: B K Z Y X, uint8.
        labels: Of the volumes: B K, float32.
        names: Names of the volumes of the whole batch, also those of other processes.
    """

    images: torch.Tensor
    levels: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class PseudoMask:
    """The levels of a volume.

    Attributes:
        levels: uint8 K Z Y X.
        centres: By class some voxels of the finding, as flat indices of Z Y X.
    """

    levels: torch.Tensor
    centres: tuple[torch.Tensor, ...]


# Share of a patch's voxels, and weight: see `finding_weight`.
_LEAST_SHARE, _MOST_WEIGHT = 0.01, 20.0
# Voxels of a finding, around which patches are laid, that are kept of a volume.
_MOST_CENTRES = 4096


def pseudo_mask(levels: torch.Tensor, rng: np.random.Generator) -> PseudoMask:
    """Find voxels of the finding, around which patches can be laid.

    Args:
        levels: uint8 K Z Y X.
        rng: Chooses some of many.

    Returns:
        The pseudo-mask.
    """
    centres = []
    for each in levels:
        voxels = torch.nonzero(each.flatten() == FINDING)[:, 0]
        if len(voxels) > _MOST_CENTRES:
            voxels = voxels[torch.as_tensor(rng.permutation(len(voxels))[:_MOST_CENTRES])]
        centres.append(voxels.to(torch.int64))
    return PseudoMask(levels, tuple(centres))


def empty_mask(shape: Shape, classes: int) -> PseudoMask:
    """Make the pseudo-mask of a volume without any finding, which takes no memory.

    Args:
        shape: Z Y X.
        classes: K.

    Returns:
        All of it is background.
    """
    one = torch.full((1, 1, 1, 1), BACKGROUND, dtype=torch.uint8)
    return PseudoMask(one.expand(classes, *shape), (torch.zeros(0, dtype=torch.int64),) * classes)


def finding_weight(masks: Sequence[PseudoMask], window: Shape) -> float:
    """Find what a voxel of the finding should count, so that a network learns of small ones as well.

    Where findings fill less than `_LEAST_SHARE` of a patch, an empty answer is nearly right in the mean over voxels,
    and a network stays with it. Their voxels then count as if they filled it, up to `_MOST_WEIGHT`.

    Args:
        masks: Of the volumes that are learned from.
        window: Z Y X of a patch.

    Returns:
        Factor from 1, by the rarest class.
    """
    shares: dict[int, list[float]] = {}
    for mask in masks:
        for index, levels in enumerate(mask.levels):
            if len(mask.centres[index]):
                voxels = min(int((levels != UNKNOWN).sum()), math.prod(window))
                shares.setdefault(index, []).append(int((levels == FINDING).sum()) / voxels)
    least = min((float(np.median(some)) for some in shares.values()), default=1.0)
    return min(max(_LEAST_SHARE / least, 1.0), _MOST_WEIGHT)


@dataclass(frozen=True)
class PatchSampler:
    """Draws batches: windows of as many volumes with as without a finding.

    A batch depends on the seed and the step alone: neither on what was drawn before, so that a resumed run is the same,
    nor on how many processes share it.

    Attributes:
        volumes: What to draw from.
        masks: Their pseudo-masks.
        window: Z Y X of a patch.
        settings: How to augment, the seed, and the share of patches that are laid around a finding.
        spacing_zyx: Of the working grid in mm, for rotations.
        device: Where patches are made.
        round: Number of the round, from 1.
    """

    volumes: Sequence[WorkingVolume]
    masks: Sequence[PseudoMask]
    window: Shape
    settings: DistillationSettings
    spacing_zyx: tuple[float, float, float]
    device: torch.device
    round: int = 1

    def draw(self, step: int, *, rank: int = 0, world: int = 1) -> Patches:
        """Draw a process's share of the batch of a step: every ``world``-th of its patches.

        Args:
            step: Number of the step, from 0.
            rank: Number of this process.
            world: Number of processes.

        Returns:
            B / world patches.
        """
        chosen = self._balanced(step, self.settings.volumes_per_batch)
        images, levels, labels = [], [], []
        for position in range(rank, len(chosen), world):
            number, finding = chosen[position]
            seed = (self.settings.seed, self.round, step, position + 1)
            image, level = self._patch(number, finding, np.random.default_rng(seed))
            images.append(image)
            levels.append(level)
            labels.append(self.volumes[number].labels)
        names = tuple(dict.fromkeys(self.volumes[number].name for number, _ in chosen))
        truth = torch.tensor(labels, dtype=torch.float32, device=self.device)
        return Patches(torch.stack(images), torch.stack(levels), truth, names)

    def _patch(self, number: int, finding: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Cut a window around a finding or anywhere, and change it at random."""
        volume, mask = self.volumes[number], self.masks[number]
        centres = mask.centres[finding]
        around = None
        if len(centres) and rng.random() < self.settings.centred:
            at = int(centres[int(rng.integers(len(centres)))])
            around = tuple(int(i) for i in np.unravel_index(at, volume.shape))
        larger = self._augmentation.reach(self.window)
        start = []
        for axis, (side, length) in enumerate(zip(self.window, volume.shape, strict=True)):
            # A window lies within the volume, or the volume within the window.
            low, high = min(0, length - side), max(0, length - side)
            if around is None:
                first = int(rng.integers(low, high + 1))
            else:
                shift = int(rng.integers(side // 4, side - side // 4))  # of the finding in the window
                first = min(max(around[axis] - shift, low), high)
            start.append(first - (larger[axis] - side) // 2)
        image = crop(volume.array, start, larger).to(self.device).float()
        levels = crop(mask.levels, start, larger).to(self.device)
        image, levels = self._augmentation.apply(image, levels, self.window, int(rng.integers(2**32)))
        return image + volume.fill, levels

    @cached_property
    def _augmentation(self) -> Augmentation:
        settings = self.settings
        return Augmentation(
            self.spacing_zyx, settings.rotation, settings.scaling, settings.intensity_scaling,
            settings.intensity_shift, settings.noise, settings.gamma, settings.mirrored,
        )  # fmt: skip

    @cached_property
    def _candidates(self) -> list[list[npt.NDArray[np.intp]]]:
        """Numbers of the volumes without each finding and of those that show where; all where there are none."""
        labels = np.array([volume.labels for volume in self.volumes])
        shown = np.array([[len(each) > 0 for each in mask.centres] for mask in self.masks])
        both = [
            [np.flatnonzero(column == 0), np.flatnonzero(shows)]
            for column, shows in zip(labels.T, shown.T, strict=True)
        ]
        return [[some if len(some) else np.arange(len(self.volumes)) for some in pair] for pair in both]

    def _balanced(self, step: int, count: int) -> list[tuple[int, int]]:
        """Choose volumes without and with a finding by turns; the findings take turns too, from step to step."""
        rng = np.random.default_rng((self.settings.seed, self.round, step))
        chosen = []
        for position in range(count):
            finding = (step * (count // 2) + position // 2) % len(self._candidates)
            candidates = self._candidates[finding][position % 2]
            chosen.append((int(candidates[rng.integers(len(candidates))]), finding))
        return chosen


def crop(array: torch.Tensor, start: Sequence[int], window: Sequence[int]) -> torch.Tensor:
    """Cut a window that may reach beyond an array.

    Args:
        array: ``C Z Y X``.
        start: Of the window along Z, Y, X; may be negative.
        window: Its sides.

    Returns:
        A copy, 0 (`UNKNOWN`) beyond the array.
    """
    result = torch.full((len(array), *window), UNKNOWN, dtype=array.dtype)
    inner, outer = [], []
    for first, side, length in zip(start, window, array.shape[1:], strict=True):
        low, high = max(first, 0), min(first + side, length)
        if low >= high:
            return result
        inner.append(slice(low, high))
        outer.append(slice(low - first, high - first))
    there, here = (slice(None), *outer), (slice(None), *inner)
    result[there] = array[here]
    return result
