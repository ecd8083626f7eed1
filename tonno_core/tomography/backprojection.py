"""Sums over directions on a voxel grid: the second half of the inverse Radon transform.

Streaming: a grid holds one sum per channel, whatever the number of directions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tonno_core import kernels
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.maps import Maps, PointMaps, TileMaps
from tonno_core.tomography.profiles import ROUNDING, PointProfiles, Profiles, RowProfiles
from tonno_core.volume.grid import affine_points, affine_slab, slabs
from tonno_core.volume.volume import Matrix

# Sampled points in memory at once, over directions and voxels: 4 M are 48 MB of coordinates.
_POINTS = 4_000_000


class Backprojector:
    """Accumulates profiles (``B M``) and maps (``B C M h w``) of directions on a ``Z Y X`` grid.

    shape: of the grid. ijk_to_frame: 4 x 4, its voxel indices (i, j, k) to frame coordinates. radius: nodes
    farther from the frame's centre are left at zero, and so are those outside [-1, 1]^3 of frame_to_box. Values are
    interpolated linearly along n (and bilinearly along u and v); outside |s| <= 1 and outside a slice's window they
    are zero.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        ijk_to_frame: Matrix,
        device: torch.device | str,
        dtype: torch.dtype,
        radius: float = math.inf,
        frame_to_box: Matrix | None = None,
    ) -> None:
        self.shape = shape
        self._frame_to_box = frame_to_box
        self._ijk_to_frame = ijk_to_frame
        self._device, self._dtype, self._radius = device, dtype, radius
        self._profile_sum: Profiles | None = None
        self._map_sum: Maps | None = None
        self._profile_count = self._map_count = self._channels = 0
        # The nodes of a grid that fits in one slab are computed once.
        parts = list(slabs(shape, _POINTS))
        self._slabs = parts
        self._cached = [self._nodes(parts[0])] if len(parts) == 1 else None

    @property
    def profile_mean(self) -> torch.Tensor:
        """Mean over the directions so far: ``Z Y X``."""
        if self._profile_sum is None:
            raise ValueError("no profiles were added")
        return self._profile_sum.total().reshape(self.shape) / self._profile_count

    @property
    def map_mean(self) -> torch.Tensor:
        """Mean over the directions so far: ``C Z Y X``."""
        if self._map_sum is None:
            raise ValueError("no maps were added")
        return torch.stack([self.channel_mean(channel) for channel in range(self._channels)])

    def channel_mean(self, channel: int) -> torch.Tensor:
        """One channel of `map_mean`: ``Z Y X``."""
        if self._map_sum is None:
            raise ValueError("no maps were added")
        return self._map_sum.total(channel).reshape(self.shape) / self._map_count

    def add_profiles(self, profiles: torch.Tensor, normals: npt.NDArray[np.float64]) -> None:
        """Add q_l(x . n_l) of B directions; profiles ``B M`` at offsets 2 m / (M - 1) - 1, normals B 3."""
        if self._profile_sum is None:
            self._profile_sum = self._profiles()
        self._profile_sum.add(profiles.to(self._dtype), normals)
        self._profile_count += len(profiles)

    def add_maps(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add maps ``B C M h w`` of some directions of a plan, whose slices they tile.

        A cell's centre lies at the centre of the S / h pixels that it covers; between the outermost
        centre and the window's edge the outermost value goes on.
        """
        if self._map_sum is None:
            self._channels = maps.shape[1]
            self._map_sum = self._maps(self._channels)
        self._map_sum.add(maps.to(self._dtype), plan, which)
        self._map_count += len(maps)

    def _profiles(self) -> Profiles:
        like = torch.empty(0, dtype=self._dtype, device=self._device)
        if like.device.type == "cpu":
            return RowProfiles(self.shape, self._ijk_to_frame, self._wanted(), self._dtype)
        kernel = _kernel(like)
        if kernel is not None:
            profiles: Profiles = kernel.KernelProfiles(self.shape, self._ijk_to_frame, self._wanted(), like)
            return profiles
        return PointProfiles(self._parts, math.prod(self.shape), like)

    def _maps(self, channels: int) -> Maps:
        like = torch.empty(0, dtype=self._dtype, device=self._device)
        if like.device.type == "cpu":
            return TileMaps(self._parts, channels, math.prod(self.shape), like)
        kernel = _kernel(like)
        if kernel is not None:
            maps: Maps = kernel.KernelMaps(self.shape, self._ijk_to_frame, self._wanted(), channels, like)
            return maps
        return PointMaps(self._parts, channels, math.prod(self.shape), _POINTS, like)

    def _wanted(self) -> torch.Tensor | None:
        """Bool Z Y X, None for every node."""
        if not self._limited:
            return None
        wanted = torch.zeros(math.prod(self.shape), dtype=torch.bool, device=self._device)
        for index, _ in self._parts():
            wanted[index] = True
        return wanted.reshape(self.shape)

    @property
    def _limited(self) -> bool:
        return not math.isinf(self._radius) or self._frame_to_box is not None

    def _parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter(self._cached) if self._cached is not None else map(self._nodes, self._slabs)

    def _nodes(self, slab: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat indices P and frame coordinates P 3 of a slab's voxels within the radius."""
        _, y, x = self.shape
        matrix = affine_slab(self._ijk_to_frame, self.shape, slab)
        theta = torch.as_tensor(matrix, dtype=self._dtype, device=self._device)[None]
        points = affine_points(theta, (slab.stop - slab.start, y, x)).reshape(-1, 3)
        index = torch.arange(slab.start * y * x, slab.stop * y * x, device=self._device)
        if not self._limited:
            return index, points
        near = (points * points).sum(dim=1) <= self._radius**2
        if self._frame_to_box is not None:
            to_box = torch.as_tensor(self._frame_to_box, dtype=self._dtype, device=self._device)
            near &= ((points @ to_box[:3, :3].T + to_box[:3, 3]).abs() <= 1.0 + ROUNDING).all(dim=1)
        return index[near], points[near]


def _kernel(like: torch.Tensor) -> Any | None:
    """`tomography.kernel`, where it runs."""
    if like.device.type != "cuda" or like.dtype != torch.float32:
        return None
    return kernels.proven("tonno_core.tomography.kernel", like.device)
