"""`PointProfiles` in one Triton kernel: all directions of a batch, and every node read and written once.

For CUDA, where Triton is (not on Windows); imported only there. Never run on a GPU yet: tests run it in Triton's
interpreter, against the plain way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from tonno_core.tomography.profiles import ROUNDING
from tonno_core.volume.volume import Matrix

_BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator]
def _add_profiles(
    total: Any,
    profiles: Any,
    steps: Any,
    directions: Any,
    offsets: Any,
    nodes: Any,
    y: Any,
    x: Any,
    margin: Any,
    block: tl.constexpr,
) -> None:
    """total += sum over l of q_l(steps_l . (i, j, k, 1)). profiles: L M. steps: L 4, to positions in a profile."""
    index = tl.program_id(0) * block + tl.arange(0, block)
    there = index < nodes
    i = (index % x).to(tl.float32)
    j = ((index // x) % y).to(tl.float32)
    k = (index // (x * y)).to(tl.float32)
    value = tl.load(total + index, mask=there, other=0.0)
    for one in range(directions):
        step = steps + one * 4
        at = tl.load(step) * i + tl.load(step + 1) * j + tl.load(step + 2) * k + tl.load(step + 3)
        below = tl.minimum(tl.maximum(tl.floor(at), 0.0), offsets - 2.0)
        place = profiles + one * offsets + below.to(tl.int32)
        low = tl.load(place, mask=there, other=0.0)
        high = tl.load(place + 1, mask=there, other=0.0)
        inside = (at >= -margin) & (at <= offsets - 1 + margin)
        value += tl.where(inside, low + (high - low) * (at - below), 0.0)
    tl.store(total + index, value, mask=there)


class KernelProfiles:
    """As `RowProfiles`, on the device of ``like``, in float32. wanted: bool Z Y X, None for every node."""

    def __init__(
        self, shape: tuple[int, int, int], ijk_to_frame: Matrix, wanted: torch.Tensor | None, like: torch.Tensor
    ) -> None:
        self._shape, self._ijk_to_frame, self._wanted = shape, ijk_to_frame, wanted
        self._sum = torch.zeros(shape, dtype=torch.float32, device=like.device)

    def add(self, profiles: torch.Tensor, normals: npt.NDArray[np.float64]) -> None:
        """Add q_l(x . n_l): profiles ``B M`` over [-1, 1], normals B 3."""
        count, offsets = profiles.shape
        half = (offsets - 1) / 2.0
        steps = half * normals @ self._ijk_to_frame[:3]
        steps[:, 3] += half
        _, y, x = self._shape
        nodes = self._sum.numel()
        on_device = torch.as_tensor(steps, dtype=torch.float32).contiguous().to(self._sum.device)
        _add_profiles[(triton.cdiv(nodes, _BLOCK),)](
            self._sum, profiles.float().contiguous(), on_device, count, offsets, nodes, y, x,
            ROUNDING * (offsets - 1), block=_BLOCK,
        )  # fmt: skip

    def total(self) -> torch.Tensor:
        """The sum at all nodes, flat."""
        return (self._sum if self._wanted is None else self._sum * self._wanted).flatten()
