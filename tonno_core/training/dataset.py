"""Random oblique slices of many volumes, each with its volume's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tonno_core.slicing.directions import plane_basis
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.cache import TrainingVolume
from tonno_core.volume.grid import affine_points, ijk_to_grid


@dataclass(frozen=True)
class Batch:
    """Slices with their labels.

    Attributes:
        slices: B S S, float32.
        labels: B C, float32.
        names: Names of the volumes of the whole batch, also those of other processes.
    """

    slices: torch.Tensor
    labels: torch.Tensor
    names: tuple[str, ...]


@dataclass(frozen=True)
class SliceSampler:
    """Draws batches: V volumes, as many with as without a finding, and K random slices of each.

    Directions are uniform on the whole sphere (a plane and its mirror image), offsets uniform over the
    foreground's extent along the direction, so that no slice is empty. A batch depends on the seed and the step alone:
    neither on what was drawn before, so that a resumed run is the same, nor on how many processes share it.

    Attributes:
        volumes: What to draw from.
        pixels: S.
        augmentation: Random changes of the slices; None for none.
        seed: Start of the random numbers.
        device: Where the slices are made.
    """

    volumes: Sequence[TrainingVolume]
    pixels: int
    augmentation: Augmentation | None
    seed: int
    device: torch.device

    def draw(self, step: int, volumes: int, slices_each: int, *, rank: int = 0, world: int = 1) -> Batch:
        """Draw a process's share of the batch of a step: every ``world``-th of its volumes.

        Args:
            step: Number of the step, from 0.
            volumes: V.
            slices_each: K.
            rank: Number of this process.
            world: Number of processes.

        Returns:
            V / world x K slices.
        """
        chosen = self._balanced(step, volumes)
        positions = range(rank, volumes, world)
        # Position 0 would be the same as none: a seed's trailing zeros do not count.
        rngs = [np.random.default_rng((self.seed, step, position + 1)) for position in positions]
        sources = [self.volumes[chosen[position]] for position in positions]
        slices = self._slices(sources, rngs, slices_each)
        if self.augmentation is not None:
            pairs = zip(slices, rngs, strict=True)
            slices = torch.stack([self.augmentation.intensities(several, rng) for several, rng in pairs])
        labels = torch.tensor([source.labels for source in sources], dtype=torch.float32, device=self.device)
        names = tuple(dict.fromkeys(self.volumes[index].name for index in chosen))
        return Batch(slices.flatten(0, 1), labels.repeat_interleave(slices_each, dim=0), names)

    def _slices(self, sources: list[TrainingVolume], rngs: list[np.random.Generator], slices_each: int) -> torch.Tensor:
        """Cut all slices in one grid_sample: V K S S."""
        array, size_ijk = _stack(sources, self.device)
        frame_to_grid = ijk_to_grid(size_ijk) @ np.stack([source.frame_to_ijk for source in sources])
        planes = [self._planes(rng, source, slices_each) for source, rng in zip(sources, rngs, strict=True)]
        theta = torch.as_tensor(frame_to_grid[:, None] @ np.stack(planes), dtype=torch.float32, device=self.device)
        points = affine_points(theta.flatten(0, 1), (1, self.pixels, self.pixels))
        points = points.reshape(len(sources), slices_each, self.pixels, self.pixels, 3)
        slices = F.grid_sample(array, points, padding_mode="zeros", align_corners=True)[:, 0]
        fill = torch.tensor([source.fill for source in sources], dtype=slices.dtype, device=self.device)
        return slices + fill[:, None, None, None]

    def _balanced(self, step: int, count: int) -> list[int]:
        """Choose volumes without and with a finding by turns; the findings take turns too, from step to step."""
        rng = np.random.default_rng((self.seed, step))
        labels = np.array([volume.labels for volume in self.volumes])
        chosen = []
        for position in range(count):
            finding = (step * (count // 2) + position // 2) % labels.shape[1]
            candidates = np.flatnonzero(labels[:, finding] == position % 2)
            chosen.append(int(rng.choice(candidates if len(candidates) else len(labels))))
        return chosen

    def _planes(self, rng: np.random.Generator, volume: TrainingVolume, count: int) -> np.ndarray:
        """Draw random planes, as slice_to_frame: K 4 4."""
        normals = rng.normal(size=(count, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        along = volume.foreground @ normals.T
        offsets = rng.uniform(along.min(axis=0), along.max(axis=0))
        basis = plane_basis(normals)
        if self.augmentation is not None:
            basis = self.augmentation.axes(basis, rng)
        matrix = np.zeros((count, 4, 4))
        matrix[:, :3, :3] = basis
        matrix[:, :3, 3] = normals * offsets[:, None]
        matrix[:, 3, 3] = 1.0
        return matrix


def _stack(volumes: list[TrainingVolume], device: torch.device) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """Stack volumes of different sizes with zeros around them: V 1 Z Y X float32, and its size along i, j, k."""
    z, y, x = (max(int(volume.array.shape[axis]) for volume in volumes) for axis in range(3))
    batch = torch.zeros(len(volumes), 1, z, y, x, device=device)
    for target, volume in zip(batch[:, 0], volumes, strict=True):
        d, h, w = volume.array.shape
        target[:d, :h, :w] = volume.array.to(device)
    return batch, (x, y, z)


def prefetch(draw: Callable[[int], Batch], steps: range, *, ahead: bool) -> Iterator[tuple[int, Batch]]:
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
