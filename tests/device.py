"""Stand-ins for a GPU's memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class ToyMemory:
    """A device of ``available`` bytes where an encoder needs ``constant`` and ``each`` for a slice it is given."""

    available: int
    constant: int
    each: int
    limit: int = 10**9
    batches: list[int] = field(default_factory=list)
    peaks: int = 0

    def encode(self, slices: torch.Tensor) -> None:
        """Out of memory above ``limit`` slices."""
        self.batches.append(len(slices))
        if len(slices) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def free(self) -> int:
        return self.available

    def peak(self, action: Callable[[], object]) -> int:
        """Of the action's last batch; of none where this memory's own `encode` is not in it."""
        self.peaks += 1
        action()
        return self.constant + self.each * (self.batches[-1] if self.batches else 0)
