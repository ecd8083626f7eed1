"""Stand-ins for a GPU's memory and for operations of cuDNN."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def cudnn_on_a_cpu() -> Iterator[list[tuple[int, ...]]]:
    """torch's two fused operations of cuDNN, on a CPU, as plain torch has them; yields the outputs' shapes.

    They are called through torch's own dispatcher, which checks number, order and types of their arguments.
    """
    shapes: list[tuple[int, ...]] = []

    def checked(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, layout: tuple[object, ...]) -> None:
        assert x.dtype == weight.dtype and layout[3] == 1
        assert all(x.shape[side] > 1 or x.is_contiguous() for side in (2, 3))
        assert bias is None or bias.dtype == x.dtype

    def relu(x, weight, bias, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        checked(x, weight, bias, (stride, padding, dilation, groups))
        y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        shapes.append(tuple(y.shape))
        return y.relu()

    def add_relu(x, weight, z, alpha, bias, stride, padding, dilation, groups):  # type: ignore[no-untyped-def]
        checked(x, weight, bias, (stride, padding, dilation, groups))
        y = torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
        assert z.shape == y.shape and z.dtype == y.dtype and alpha == 1.0
        shapes.append(tuple(y.shape))
        return (y + z).relu()

    library = torch.library.Library("aten", "IMPL")
    library.impl("cudnn_convolution_relu", relu, "CPU")
    library.impl("cudnn_convolution_add_relu", add_relu, "CPU")
    try:
        yield shapes
    finally:
        library._destroy()
