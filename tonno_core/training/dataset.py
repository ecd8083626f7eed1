"""Random oblique slices of many volumes, each with its volume's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core import kernels
from tonno_core.slicing.directions import plane_basis
from tonno_core.training.augmentation import Augmentation, change_intensities
from tonno_core.training.cache import TrainingVolume
from tonno_core.training.evidence import Evidence
from tonno_core.training.voxels import DeviceVoxels, on_device
from tonno_core.volume.grid import affine_points, ijk_to_grid

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Batch:
    """Slices with their labels.

    Attributes:
        slices: B S S, or B C S S of volumes of several channels, float32.
        labels: B C, float32.
        names: Names of the volumes of the whole batch, also those of other processes.
    """

    slices: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class SliceSampler:
    """Draws batches: V volumes, as many with as without a finding, and K random slices of each.

    Where the labels are numbers of a quantity, volumes are drawn evenly: the squared error's answer is a mean over what
    is drawn, and is to be that over the volumes.

    Directions are uniform on the whole sphere (a plane and its mirror image), offsets uniform over the
    foreground's extent along the direction, so that no slice is empty. A batch depends on the seed and the step alone:
    neither on what was drawn before, so that a resumed run is the same, nor on how many processes share it.

    Attributes:
        volumes: What to draw from.
        pixels: S.
        augmentation: Random changes of the slices; None for none.
        seed: Start of the random numbers.
        device: Where the slices are made.
        room: Bytes of voxels that may stay on the device; the others come there whenever they are used.
        balanced: Whether labels are of classes.
    """

    volumes: Sequence[TrainingVolume]
    pixels: int
    augmentation: Augmentation | None
    seed: int
    device: torch.device
    room: int = 0
    balanced: bool = True

    def draw(
        self,
        step: int,
        volumes: int,
        slices_each: int,
        *,
        rank: int = 0,
        world: int = 1,
        evidence: Evidence | None = None,
    ) -> Batch:
        """Draw a process's share of the batch of a step: every ``world``-th of its volumes.

        Args:
            step: Number of the step, from 0.
            volumes: V.
            slices_each: K.
            rank: Number of this process.
            world: Number of processes.
            evidence: Says how much of their labels slices keep; None for all.

        Returns:
            V / world x K slices.
        """
        chosen = self._balanced(step, volumes) if self.balanced else self._even(step, volumes)
        share = chosen[rank::world]
        # Position 0 would be the same as none: a seed's trailing zeros do not count.
        seeds = [(self.seed, step, position + 1) for position in range(rank, volumes, world)]
        labels = on_device(np.repeat(self._labels[share], slices_each, axis=0).astype(np.float32), self.device)
        names = tuple(dict.fromkeys(self.volumes[index].name for index in chosen))
        if evidence is not None:
            labels *= evidence.kept(share, self.planes(share, seeds, slices_each)).flatten(0, 1)
        return Batch(self.slices(share, seeds, slices_each), labels, names)

    def slices(self, chosen: Sequence[int], seeds: Sequence[tuple[int, ...]], slices_each: int) -> torch.Tensor:
        """Cut random slices of some volumes, each by random numbers of its own.

        Args:
            chosen: Numbers of V volumes.
            seeds: Start of the random numbers of each.
            slices_each: K.

        Returns:
            V x K slices: V K S S, or V K C S S of several channels, with the first two as one.
        """
        numbers = _RandomNumbers.draw(seeds, slices_each, augmented=self.augmentation is not None)
        sources = [self.volumes[number] for number in chosen]
        arrays = {number: self._voxels.of(number) for number in dict.fromkeys(chosen)}
        voxels = [arrays[number] for number in chosen]
        planes = self._planes(sources, numbers)
        changes = None if self.augmentation is None else self.augmentation.changes(numbers.intensities)
        count = len(sources[0].fills)
        # Channels change alike, but for their noise.
        seeds_of = [[seed ^ channel for seed in numbers.noise] for channel in range(count)]
        made: list[torch.Tensor] = []
        if self._kernel is None:
            cut = self._cut(sources, voxels, planes)
            for channel, noise in enumerate(seeds_of):
                slices = cut[:, :, channel].contiguous()
                made.append(slices if changes is None else change_intensities(slices, changes, noise))
        else:
            plane_to_ijk = _frame_to_ijk(sources)[:, None] @ planes[..., [0, 1, 3]]
            plane_to_ijk[..., :2] *= 2.0 / max(self.pixels - 1, 1)  # from pixels
            for channel, noise in enumerate(seeds_of):
                own = voxels if count == 1 else [each[channel] for each in voxels]
                fills = [source.fills[channel] for source in sources]
                made.append(self._kernel.random_slices(own, plane_to_ijk[:, :, :3], fills, self.pixels, changes, noise))
        return (made[0] if count == 1 else torch.stack(made, dim=2)).flatten(0, 1)

    def planes(
        self, chosen: Sequence[int], seeds: Sequence[tuple[int, ...]], slices_each: int
    ) -> npt.NDArray[np.float64]:
        """Place the planes of the slices that `slices` cuts.

        Args:
            chosen: Numbers of V volumes.
            seeds: Start of the random numbers of each.
            slices_each: K.

        Returns:
            slice_to_frame, V K 4 4.
        """
        numbers = _RandomNumbers.draw(seeds, slices_each, augmented=self.augmentation is not None)
        return self._planes([self.volumes[number] for number in chosen], numbers)

    @cached_property
    def _kernel(self) -> Any | None:
        return kernels.load("training", self.device, torch.float32)

    @cached_property
    def _voxels(self) -> DeviceVoxels:
        halves = self._kernel is not None and all(volume.array.dtype == torch.float16 for volume in self.volumes)
        return DeviceVoxels(self.volumes, self.device, torch.float16 if halves else torch.float32, self.room)

    @cached_property
    def _labels(self) -> npt.NDArray[np.float64]:
        return np.array([volume.labels for volume in self.volumes])

    @cached_property
    def _candidates(self) -> list[list[npt.NDArray[np.intp]]]:
        """By finding, the numbers of the volumes without and with it; of all volumes where there are none."""
        both = [[np.flatnonzero(column == label) for label in (0, 1)] for column in self._labels.T]
        return [[some if len(some) else np.arange(len(self.volumes)) for some in pair] for pair in both]

    def _cut(
        self, sources: list[TrainingVolume], voxels: list[torch.Tensor], planes: npt.NDArray[np.float64]
    ) -> torch.Tensor:
        """Cut slices with torch's grid_sample, volume by volume: V K C S S."""
        sizes_zyx = [tuple(source.channels.shape[1:]) for source in sources]
        to_grid = np.stack([ijk_to_grid((x, y, z)) for z, y, x in sizes_zyx]) @ _frame_to_ijk(sources)
        theta = torch.as_tensor(to_grid[:, None] @ planes, dtype=torch.float32, device=self.device)
        points = affine_points(theta.flatten(0, 1), (1, self.pixels, self.pixels))
        size = (*theta.shape[:2], len(sources[0].fills), self.pixels, self.pixels)
        slices = torch.empty(size, device=self.device)
        for target, source, array, several in zip(
            slices, sources, voxels, torch.split(points, len(slices[0])), strict=True
        ):
            at = several.transpose(0, 1)  # the slices of a volume are the planes of one grid
            channels = array if array.ndim == 4 else array[None]
            sampled = F.grid_sample(channels[None], at, padding_mode="zeros", align_corners=True)[0]
            for channel, fill in enumerate(source.fills):
                torch.add(sampled[channel], fill, out=target[:, channel])
        return slices

    def _balanced(self, step: int, count: int) -> list[int]:
        """Choose volumes without and with a finding by turns; the findings take turns too, from step to step."""
        rng = np.random.default_rng((self.seed, step))
        chosen = []
        for position in range(count):
            finding = (step * (count // 2) + position // 2) % len(self._candidates)
            candidates = self._candidates[finding][position % 2]
            chosen.append(int(candidates[rng.integers(len(candidates))]))
        return chosen

    def _even(self, step: int, count: int) -> list[int]:
        """Choose volumes at random, none twice in a batch where there are enough."""
        rng = np.random.default_rng((self.seed, step))
        return [int(number) for number in rng.choice(len(self.volumes), count, replace=count > len(self.volumes))]

    def _planes(self, sources: list[TrainingVolume], numbers: _RandomNumbers) -> npt.NDArray[np.float64]:
        """Place random planes, as slice_to_frame: V K 4 4."""
        along = [source.foreground @ normals.T for source, normals in zip(sources, numbers.normals, strict=True)]
        low, high = (np.stack([reduce(values, axis=0) for values in along]) for reduce in (np.min, np.max))
        offsets = low + (high - low) * numbers.offsets
        basis = plane_basis(numbers.normals.reshape(-1, 3))
        if self.augmentation is not None:
            basis = self.augmentation.axes(basis, numbers.axes.reshape(-1, 4))
        matrix = np.zeros((*offsets.shape, 4, 4))
        matrix[..., :3, :3] = basis.reshape(*offsets.shape, 3, 3)
        matrix[..., :3, 3] = numbers.normals * offsets[..., None]
        matrix[..., 3, 3] = 1.0
        return matrix


@dataclass(frozen=True)
class _RandomNumbers:
    """What is random about K slices of each of V volumes; from 0 to 1 where nothing else is said.

    Attributes:
        normals: Of the planes, unit vectors: V K 3.
        offsets: V K.
        axes: For `Augmentation.axes`: V K 4.
        noise: Seeds of the white noise: V.
        intensities: For `Augmentation.changes`: V K 4.
    """

    normals: npt.NDArray[np.float64]
    offsets: npt.NDArray[np.float64]
    axes: npt.NDArray[np.float64]
    noise: list[int]
    intensities: npt.NDArray[np.float64]

    @staticmethod
    def draw(seeds: Sequence[tuple[int, ...]], slices_each: int, *, augmented: bool) -> _RandomNumbers:
        """Draw them; `normals` and `offsets` alone unless slices are augmented.

        Their order in each volume's stream must stay: a training that goes on draws what it would have drawn.

        Args:
            seeds: Of each volume's random numbers.
            slices_each: K.
            augmented: Whether slices are.

        Returns:
            The numbers.
        """
        count = slices_each
        normals, uniform, noise = np.empty((len(seeds), count, 3)), np.empty((len(seeds), 9 * count)), []
        for target, numbers, seed in zip(normals, uniform, seeds, strict=True):
            rng = np.random.default_rng(seed)
            rng.standard_normal(out=target)
            if not augmented:
                rng.random(out=numbers[:count])
                continue
            rng.random(out=numbers[: 5 * count])
            noise.append(int(rng.integers(2**63)))
            rng.random(out=numbers[5 * count :])
        normals /= np.linalg.norm(normals, axis=2, keepdims=True)
        scale, shear = (uniform[:, at * count : (at + 2) * count].reshape(-1, count, 2) for at in (1, 3))
        axes, intensities = np.concatenate([scale, shear], axis=2), uniform[:, 5 * count :].reshape(-1, 4, count)
        return _RandomNumbers(normals, uniform[:, :count], axes, noise, np.swapaxes(intensities, 1, 2))


def _frame_to_ijk(sources: list[TrainingVolume]) -> npt.NDArray[np.float64]:
    return np.stack([source.frame_to_ijk for source in sources])


def prefetch(draw: Callable[[int], Drawn], steps: range, *, ahead: bool) -> Iterator[tuple[int, Drawn]]:
    """Draw the batches of some steps in order.

    Args:
        draw: Draws the batch of a step.
        steps: The steps.
        ahead: Draw the next batch in a thread while this one is used. It pays where another device computes; on a CPU
            the thread would only compete with the network.

    Yields:
        Steps and their batches.
    """
    if not ahead:
        yield from ((step, draw(step)) for step in steps)
        return
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = executor.submit(draw, steps[0]) if steps else None
        for step in steps:
            assert pending is not None
            batch = pending.result()
            if step + 1 < steps.stop:
                pending = executor.submit(draw, step + 1)
            yield step, batch
