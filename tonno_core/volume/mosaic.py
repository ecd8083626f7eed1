"""Trilinear sampling at the speed of torch's bilinear kernel, for the CPU.

torch's 3D ``grid_sample`` handles one sample at a time on the CPU, its 2D one sixteen. So the planes of a
volume are laid out as the tiles of one large picture with two channels, plane z and plane z + 1: one
bilinear sample gives both, and the fraction of z between them the trilinear value.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.volume.grid import unit_range
from tonno_core.volume.volume import Matrix

# Pixels along a picture's side: float32 coordinates are then exact to 1 / 4000 of a voxel.
LARGEST_SIDE = 4096


class Mosaic:
    """A ``Z Y X`` volume that is sampled as by ``grid_sample(..., padding_mode="zeros")``."""

    def __init__(self, array: torch.Tensor) -> None:
        z, y, x = array.shape
        self._size = z, y, x
        # Planes -1 and Z are empty, so that values fall off to zero within a voxel beyond the ends. A square
        # layout keeps the coordinates, and with them their rounding, small.
        self._columns = _columns(z)
        rows = math.ceil((z + 2) / self._columns)
        # Neighbouring tiles share one empty row or column.
        planes = F.pad(array, (1, 0, 1, 0, 1, rows * self._columns - z - 1))
        following = torch.cat([planes[1:], torch.zeros_like(planes[:1])])
        tiles = torch.stack([planes, following]).reshape(2, rows, self._columns, y + 1, x + 1)
        canvas = tiles.permute(0, 1, 3, 2, 4).reshape(2, rows * (y + 1), self._columns * (x + 1))
        self._canvas = F.pad(canvas, (0, 1, 0, 1))[None]

    @staticmethod
    def fits(shape: tuple[int, ...]) -> bool:
        """Whether a volume's picture is small enough for exact coordinates."""
        z, y, x = shape
        columns = _columns(z)
        return columns * (x + 1) < LARGEST_SIDE and math.ceil((z + 2) / columns) * (y + 1) < LARGEST_SIDE

    def sample(self, unit_to_ijk: Matrix, shape: tuple[int, int, int]) -> torch.Tensor:
        """Values on an affine block: unit_to_ijk is 4 x 4, from its [-1, 1]^3 to voxel indices. ``T V U``."""
        z, y, x = self._size
        height, width = self._canvas.shape[2:]
        columns = self._columns
        wide, high = 2.0 / (width - 1), 2.0 / (height - 1)  # of a pixel in grid_sample's coordinates
        i, j, k = (np.asarray(row) for row in unit_to_ijk[:3])
        one = np.array([0.0, 0.0, 0.0, 1.0])  # a plane's, row's and column's index -1 is at 0
        level = self._coordinate(k + one, shape, 0.0, z + 1.0)
        below = level.floor()
        fraction = level.sub_(below)
        row = below.mul(1.0 / columns).add_(0.5 / columns).floor_()
        column = below.sub_(row, alpha=columns)
        # The place in a tile is brought to the picture's coordinates before it is a tensor: fewer passes over memory.
        across = self._coordinate((i + one) * wide - one, shape, -1.0, (x + 1.0) * wide - 1.0)
        down = self._coordinate((j + one) * high - one, shape, -1.0, (y + 1.0) * high - 1.0)
        points = torch.empty(*shape, 2, dtype=level.dtype, device=level.device)
        torch.add(across, column, alpha=(x + 1.0) * wide, out=points[..., 0])
        torch.add(down, row, alpha=(y + 1.0) * high, out=points[..., 1])
        # grid_sample runs one thread per batch entry, so the slices are the batch.
        pair = F.grid_sample(self._canvas.expand(shape[0], -1, -1, -1), points, align_corners=True)
        return torch.lerp(pair[:, 0], pair[:, 1], fraction)

    def _coordinate(
        self, affine: npt.NDArray[np.float64], shape: tuple[int, int, int], low: float, high: float
    ) -> torch.Tensor:
        t, v, u = (unit_range(n, self._canvas) for n in shape)
        row = affine.tolist()
        in_plane = v[:, None] * row[1] + u * row[0]
        points: torch.Tensor = (t * row[2] + row[3])[:, None, None] + in_plane
        return points.clamp_(low, high)


def _columns(planes: int) -> int:
    return math.ceil(math.sqrt(planes + 2))
