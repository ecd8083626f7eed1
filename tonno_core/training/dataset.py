"""Random oblique slices of many volumes, each with its volume's label."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tonno_core.errors import TonnoError
from tonno_core.slicing.directions import plane_basis
from tonno_core.slicing.preparation import PreparedVolume
from tonno_core.training.augmentation import Augmentation
from tonno_core.volume.grid import affine_points, ijk_to_grid
from tonno_core.volume.volume import Matrix

# Enough points to know the foreground's extent along any direction to about a voxel.
_FOREGROUND_POINTS = 2048


@dataclass(frozen=True)
class TrainingVolume:
    """One cached volume.

    array: Z Y X, less the fill value; float16, or float32 where that would overflow. foreground: P 3 in
    frame coordinates.
    """

    array: torch.Tensor
    fill: float
    frame_to_ijk: Matrix
    foreground: np.ndarray
    label: int

    @staticmethod
    def from_prepared(prepared: PreparedVolume, label: int, rng: np.random.Generator) -> TrainingVolume:
        """Keep what slicing needs, at half the memory. Raises TonnoError if there is nothing to see."""
        volume = prepared.volume
        array = torch.as_tensor(volume.array - prepared.fill)
        if array.abs().max() <= torch.finfo(torch.float16).max:
            array = array.to(torch.float16)
        frame_to_ijk = np.linalg.inv(volume.ijk_to_ras) @ prepared.frame_to_ras
        # What differs from the surroundings by a tenth of the brightest difference is foreground.
        strength = np.abs(volume.array - prepared.fill)
        kji = np.argwhere(strength > 0.1 * np.quantile(strength, 0.999))
        if not len(kji):
            raise TonnoError("after --intensity all of it equals the space outside; expected contrast in the window")
        chosen = kji[rng.permutation(len(kji))[:_FOREGROUND_POINTS]]
        ijk_to_frame = np.linalg.inv(frame_to_ijk)
        points = chosen[:, ::-1] @ ijk_to_frame[:3, :3].T + ijk_to_frame[:3, 3]
        return TrainingVolume(array, prepared.fill, frame_to_ijk, points, label)


@dataclass(frozen=True)
class SliceSampler:
    """Draws batches: V volumes, half of each label, and K random slices of each.

    Directions are uniform on the whole sphere (a plane and its mirror image), offsets uniform over the
    foreground's extent along the direction, so that no slice is empty.
    """

    volumes: list[TrainingVolume]
    pixels: int
    augmentation: Augmentation | None

    def draw(
        self, rng: np.random.Generator, volumes: int, slices_each: int, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slices ``B S S`` float32 and labels ``B`` float32, B = volumes x slices_each, in one grid_sample."""
        chosen = [self.volumes[i] for i in self._balanced(rng, volumes)]
        array, size_ijk = _stack(chosen, device)
        frame_to_grid = ijk_to_grid(size_ijk) @ np.stack([volume.frame_to_ijk for volume in chosen])
        planes = np.stack([self._planes(rng, volume, slices_each) for volume in chosen])
        theta = torch.as_tensor(frame_to_grid[:, None] @ planes, dtype=torch.float32, device=device)
        points = affine_points(theta.flatten(0, 1), (1, self.pixels, self.pixels))
        points = points.reshape(volumes, slices_each, self.pixels, self.pixels, 3)
        slices = F.grid_sample(array, points, padding_mode="zeros", align_corners=True)[:, 0]
        fill = torch.tensor([volume.fill for volume in chosen], device=device)
        slices = (slices + fill[:, None, None, None]).flatten(0, 1)
        labels = torch.tensor([float(volume.label) for volume in chosen], device=device)
        if self.augmentation is not None:
            slices = self.augmentation.intensities(slices, rng)
        return slices, labels.repeat_interleave(slices_each)

    def _balanced(self, rng: np.random.Generator, count: int) -> Iterable[int]:
        labels = np.array([volume.label for volume in self.volumes])
        for position in range(count):
            candidates = np.flatnonzero(labels == position % 2)
            yield int(rng.choice(candidates if len(candidates) else len(labels)))

    def _planes(self, rng: np.random.Generator, volume: TrainingVolume, count: int) -> np.ndarray:
        """slice_to_frame of random planes: K 4 4."""
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
    """Volumes of different sizes in one zero-padded batch ``V 1 Z Y X`` float32, and its size along i, j, k."""
    z, y, x = (max(int(volume.array.shape[axis]) for volume in volumes) for axis in range(3))
    batch = torch.zeros(len(volumes), 1, z, y, x, device=device)
    for target, volume in zip(batch[:, 0], volumes, strict=True):
        d, h, w = volume.array.shape
        target[:d, :h, :w] = volume.array.to(device)
    return batch, (x, y, z)
