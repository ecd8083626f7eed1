"""Sums over directions on a voxel grid: the second half of the inverse Radon transform.

Streaming: a grid holds one sum per channel, whatever the number of directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.slicing.plan import SlicePlan
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
        self._map_sum: torch.Tensor | None = None
        self._profile_count = self._map_count = 0
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
        return self._map_sum.reshape(-1, *self.shape) / self._map_count

    def channel_mean(self, channel: int) -> torch.Tensor:
        """One channel of `map_mean`: ``Z Y X``."""
        if self._map_sum is None:
            raise ValueError("no maps were added")
        return self._map_sum[channel].reshape(self.shape) / self._map_count

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
            self._map_sum = torch.zeros(maps.shape[1], math.prod(self.shape), dtype=self._dtype, device=self._device)
        maps = maps.to(self._dtype)
        frame_to_slice = torch.as_tensor(plan.frame_to_slice(which), dtype=self._dtype, device=self._device)
        # With align_corners=False cell c of h is at (2 c + 1) / h - 1. Its centre, pixel (c + 1/2) S / h - 1/2
        # of those at 2 t / (S - 1) - 1, is at that times S / (S - 1); offset m of M likewise.
        shrink = torch.tensor([(n - 1.0) / n for n in (plan.pixels, plan.pixels, plan.slices)])
        each = max(1, _POINTS // max(len(points) for _, points in self._parts()))
        for index, points in self._parts():
            for start in range(0, len(maps), each):
                turns = frame_to_slice[start : start + each]
                at = points @ turns.transpose(1, 2)  # B P 3: (a, b, s)
                inside = (at.abs() <= 1.0 + ROUNDING).all(dim=-1)
                at *= shrink.to(at)
                values = F.grid_sample(
                    maps[start : start + each], at[:, None, None], padding_mode="border", align_corners=False
                )[:, :, 0, 0]
                self._map_sum[:, index] += (values * inside[:, None]).sum(dim=0)
        self._map_count += len(maps)

    def _profiles(self) -> Profiles:
        device = torch.device(self._device)
        like = torch.empty(0, dtype=self._dtype, device=device)
        if device.type == "cpu":
            return RowProfiles(self.shape, self._ijk_to_frame, self._wanted(), self._dtype)
        kernel = _kernel(device) if device.type == "cuda" and self._dtype == torch.float32 else None
        if kernel is not None:
            return kernel(self.shape, self._ijk_to_frame, self._wanted(), like)
        return PointProfiles(self._parts, math.prod(self.shape), like)

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


@lru_cache(maxsize=8)
def _kernel(device: torch.device) -> Callable[..., Profiles] | None:
    """The Triton kernel, where Triton is and the kernel runs on this device and gives what it should."""
    try:
        from tonno_core.tomography.kernel import KernelProfiles

        found = KernelProfiles((2, 2, 2), np.eye(4), None, torch.empty(0, device=device))
        found.add(torch.tensor([[1.0, 3.0, 5.0]], device=device), np.array([[1.0, 0.0, 0.0]]))
        right = torch.tensor([3.0, 5.0], device=device).repeat(4)  # at the profile's middle and its end
        return KernelProfiles if torch.allclose(found.total(), right) else None
    except torch.OutOfMemoryError:
        raise
    except Exception:  # no Triton, no compiler for its launcher, a GPU that it does not know: the plain way remains
        return None
