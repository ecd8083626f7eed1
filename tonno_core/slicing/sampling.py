"""Slices of a volume along oblique planes (paper, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.grid import affine_points, ijk_to_grid
from tonno_core.volume.volume import Matrix, Volume


@dataclass(frozen=True)
class SliceSource:
    """A preprocessed volume on the device, ready to be sliced.

    array: 1 Z Y X, voxel values less ``fill``, so that grid_sample's zeros outside the volume are the
    fill value. ras_to_grid: 4 x 4 from RAS mm to grid_sample coordinates.
    """

    array: torch.Tensor
    ras_to_grid: Matrix
    fill: float = 0.0

    @staticmethod
    def from_volume(
        volume: Volume, *, fill: float = 0.0, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> SliceSource:
        """Put a volume (already intensity-normalised) on the device."""
        array = torch.as_tensor(volume.array, device=device).to(dtype)[None] - fill
        ras_to_grid = ijk_to_grid(volume.size_ijk) @ np.linalg.inv(volume.ijk_to_ras)
        return SliceSource(array, ras_to_grid, fill)

    def sample(self, unit_to_ras: np.ndarray, shape: tuple[int, int, int]) -> torch.Tensor:
        """Trilinear values on B affine grids, in one grid_sample.

        unit_to_ras: B 4 4, from (x, y, z, 1) in [-1, 1]^3 over a ``T V U`` block to RAS mm.
        Returns B T V U.
        """
        theta = torch.as_tensor(self.ras_to_grid @ unit_to_ras, dtype=self.array.dtype, device=self.array.device)
        points = affine_points(theta, shape)
        # On the CPU grid_sample runs one thread per batch entry, so the directions are the batch.
        volumes = self.array.expand(len(theta), 1, *self.array.shape[1:])
        values = F.grid_sample(volumes, points, padding_mode="zeros", align_corners=True)[:, 0]
        return values.add_(self.fill) if self.fill else values


def sample_slices(source: SliceSource, plan: SlicePlan, which: slice) -> torch.Tensor:
    """All M + 2 slices of some of a plan's directions: B T V U, rows along u, columns along v."""
    unit_to_ras = plan.frame_to_ras @ plan.slice_to_frame(which)
    return source.sample(unit_to_ras, (plan.slices + 2, plan.pixels, plan.pixels))
