"""Sums over directions on a voxel grid: the second half of the inverse Radon transform.

Streaming: a grid holds one sum per channel, whatever the number of directions.
"""

from __future__ import annotations

import torch

from tonno_core import kernels
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.tomography.maps import AtlasMaps, MapBackprojection, ReferenceMaps
from tonno_core.tomography.profiles import ProfileBackprojection, ReferenceProfiles, RowProfiles


class Backprojector:
    """Accumulates profiles (``B M``) and maps (``B C M h w``) of directions on a grid.

    Values are interpolated linearly along n (and bilinearly along u and v); outside |s| <= 1 and outside a slice's
    window they are zero.
    """

    def __init__(self, grid: TargetGrid, like: torch.Tensor) -> None:
        """Start with empty sums.

        Args:
            grid: where to sum.
            like: any tensor on the device and in the precision in which to sum.
        """
        self.shape = grid.shape
        self._nodes = Nodes(grid, like)
        self._new_profiles, self._new_maps = _implementations(like)
        self._profile_sum: ProfileBackprojection | None = None
        self._map_sum: MapBackprojection | None = None
        self._profile_count = self._map_count = self._channels = 0

    @property
    def profile_mean(self) -> torch.Tensor:
        """Mean of the profiles over the directions so far: ``Z Y X``.

        Raises:
            ValueError: no profiles were added.
        """
        if self._profile_sum is None:
            raise ValueError("no profiles were added")
        return self._profile_sum.total().reshape(self.shape) / self._profile_count

    @property
    def map_mean(self) -> torch.Tensor:
        """Mean of the maps over the directions so far: ``C Z Y X``.

        Raises:
            ValueError: no maps were added.
        """
        if self._map_sum is None:
            raise ValueError("no maps were added")
        return torch.stack([self.channel_mean(channel) for channel in range(self._channels)])

    def channel_mean(self, channel: int) -> torch.Tensor:
        """Return one channel of `map_mean`.

        Args:
            channel: from 0.

        Returns:
            ``Z Y X``.

        Raises:
            ValueError: no maps were added.
        """
        if self._map_sum is None:
            raise ValueError("no maps were added")
        return self._map_sum.total(channel).reshape(self.shape) / self._map_count

    def add_profiles(self, profiles: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add q_l(x . n_l) of some directions of a plan.

        Args:
            profiles: ``B M``, values at offsets 2 m / (M - 1) - 1.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        if self._profile_sum is None:
            self._profile_sum = self._new_profiles(self._nodes)
        self._profile_sum.add(profiles.to(self._nodes.like.dtype), plan, which)
        self._profile_count += len(profiles)

    def add_maps(self, maps: torch.Tensor, plan: SlicePlan, which: slice) -> None:
        """Add the maps of some directions of a plan, whose slices they tile.

        A cell's centre lies at the centre of the S / h pixels that it covers; between the outermost
        centre and the window's edge the outermost value goes on.

        Args:
            maps: ``B C M h w``.
            plan: the planes.
            which: range of the plan's directions, B of them.
        """
        if self._map_sum is None:
            self._channels = maps.shape[1]
            self._map_sum = self._new_maps(self._nodes, self._channels)
        self._map_sum.add(maps.to(self._nodes.like.dtype), plan, which)
        self._map_count += len(maps)


def _implementations(like: torch.Tensor) -> tuple[type[ProfileBackprojection], type[MapBackprojection]]:
    """Choose the fastest classes for a device and precision; the references run everywhere."""
    if like.device.type == "cpu":
        return RowProfiles, AtlasMaps
    kernel = kernels.load("backprojection", like.device, like.dtype)
    if kernel is not None:
        return kernel.KernelProfiles, kernel.KernelMaps
    return ReferenceProfiles, ReferenceMaps
