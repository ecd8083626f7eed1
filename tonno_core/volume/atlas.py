"""Trilinear sampling at the speed of torch's bilinear kernel, for the CPU.

torch's 3D ``grid_sample`` handles one sample at a time on the CPU, its 2D one sixteen. An atlas lays the planes of a
stack out as the tiles of one image, whose channels are plane n and plane n + 1. One bilinear sample then gives the
values on both planes, and the fraction of n between them the trilinear value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

# Pixels along an atlas's side: float32 coordinates are then exact to 1 / 4000 of a voxel.
LARGEST_SIDE = 4096


class Atlas:
    """Stacks of planes ``B C N h w`` as the tiles of B images with 2 C channels.

    Attributes:
        scale: 3, from a column, row and plane of a stack to the coordinates that `sample` takes.
        origin: 3, those coordinates of column, row and plane 0.
    """

    def __init__(self, stacks: torch.Tensor, margin: int = 0) -> None:
        """Lay out the tiles.

        Args:
            stacks: ``B C N h w`` on the CPU, with the border around each plane that samples beyond its ends meet.
            margin: rows and columns of zeros after the last tiles. With 1, planes that begin with a row and a column
                of zeros have such a border at their other ends too: that of the next tile.
        """
        count, self._channels, planes, height, width = stacks.shape
        # A square image keeps the coordinates, and with them their rounding, small.
        self._columns = _columns(planes)
        rows = math.ceil(planes / self._columns)
        padded = F.pad(stacks, (0, 0, 0, 0, 0, rows * self._columns - planes))
        # What follows the last plane is never seen: the fraction beyond it is 0.
        pairs = torch.cat([padded, padded.roll(-1, dims=2)], dim=1)
        tiles = pairs.reshape(count, 2 * self._channels, rows, self._columns, height, width)
        image = tiles.transpose(3, 4).reshape(count, 2 * self._channels, rows * height, -1)
        self._image = F.pad(image, (0, margin, 0, margin)) if margin else image
        # grid_sample's coordinates run over [-1, 1] from the first pixel to the last.
        wide, high = 2.0 / (self._image.shape[3] - 1), 2.0 / (self._image.shape[2] - 1)
        self._tile = width * wide, height * high
        self.scale, self.origin = np.array([wide, high, 1.0]), np.array([-1.0, -1.0, 0.0])
        self._ends = self.scale * [width - 1.0 + margin, height - 1.0 + margin, planes - 1.0] + self.origin

    @staticmethod
    def of_volume(array: torch.Tensor) -> Atlas:
        """Lay out a volume's planes, to be sampled as by ``grid_sample(..., padding_mode="zeros")``.

        Args:
            array: ``C Z Y X`` on the CPU.

        Returns:
            Its atlas, for the coordinates of `from_ijk`.
        """
        # An empty voxel around, so that values fall off to zero within a voxel beyond the ends.
        return Atlas(F.pad(array, (1, 0, 1, 0, 1, 1))[None], margin=1)

    @staticmethod
    def fits(shape: Sequence[int]) -> bool:
        """Tell whether a volume's atlas is small enough for exact coordinates.

        Args:
            shape: Z, Y, X.

        Returns:
            False where the sides would exceed `LARGEST_SIDE` pixels.
        """
        z, y, x = shape
        columns = _columns(z + 2)
        return columns * (x + 1) < LARGEST_SIDE and math.ceil((z + 2) / columns) * (y + 1) < LARGEST_SIDE

    def from_ijk(self, to_ijk: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Bring affines to a volume's voxel indices to its atlas's coordinates.

        Args:
            to_ijk: ``... 3 N``, of numbers the last of which is 1.

        Returns:
            ``... 3 N``, to columns, rows and planes as `sample` takes them, once they are `clamped`.
        """
        matrix: npt.NDArray[np.float64] = to_ijk * self.scale[:, None]
        matrix[..., :, -1] += self.scale + self.origin  # voxel 0 is column, row and plane 1
        return matrix

    def clamped(self, points: torch.Tensor) -> list[torch.Tensor]:
        """Move what lies beyond a volume's ends to the zeros around it, in place.

        Args:
            points: ``3 ...``, columns, rows and planes in the atlas's coordinates.

        Returns:
            Columns, rows and planes.
        """
        ends = zip(points, self.origin.tolist(), self._ends.tolist(), strict=True)
        return [each.clamp_(low, high) for each, low, high in ends]

    def sample(self, across: torch.Tensor, down: torch.Tensor, plane: torch.Tensor) -> torch.Tensor:
        """Interpolate trilinearly.

        Args:
            across: ``B P Q``, columns in the atlas's coordinates.
            down: ``B P Q``, rows in the atlas's coordinates.
            plane: ``B P Q``, from 0 to N - 1; overwritten.

        Returns:
            Values ``B C P Q``. A single stack is sampled by any number B.
        """
        below = plane.floor()
        fraction = plane.sub_(below)
        row = below.mul(1.0 / self._columns).add_(0.5 / self._columns).floor_()
        column = below.sub_(row, alpha=self._columns)
        points = torch.empty(*plane.shape, 2, dtype=plane.dtype)
        torch.add(across, column, alpha=self._tile[0], out=points[..., 0])
        torch.add(down, row, alpha=self._tile[1], out=points[..., 1])
        # grid_sample runs one thread per batch entry.
        pairs = F.grid_sample(self._image.expand(len(points), -1, -1, -1), points, align_corners=True)
        return torch.lerp(pairs[:, : self._channels], pairs[:, self._channels :], fraction[:, None])


def _columns(planes: int) -> int:
    return math.ceil(math.sqrt(planes))
