"""Work on a GPU beside that of its main stream: the next thing is made while the last one is in use."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Protocol

import torch

Tensors = tuple[torch.Tensor, ...]


class Stream(Protocol):
    """A queue of work beside the one that the caller's work goes to."""

    def working(self) -> AbstractContextManager[object]:
        """What is begun in the block goes to this queue."""

    def follow(self) -> None:
        """What goes to this queue from now on waits for what the caller's holds by now."""

    def join(self, tensors: Tensors) -> None:
        """What goes to the caller's queue from now on waits for what this one holds by now, and may use its tensors."""


class CudaStream:
    """On a CUDA device, before the caller's work where both wait.

    The host waits for many of the small steps of slicing; behind the encoder's kernels each would take as long as one
    of those.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def working(self) -> AbstractContextManager[object]:
        """What is begun in the block goes to this stream."""
        return torch.cuda.stream(self._stream)

    def follow(self) -> None:
        """Wait for the current stream; the host does not."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def join(self, tensors: Tensors) -> None:
        """Make the current stream wait; the host does not. The tensors' memory is not used anew before it is done."""
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for one in tensors:
            one.record_stream(current)


@lru_cache(maxsize=8)
def side_stream(device: torch.device) -> Stream | None:
    """A device's one stream for work ahead (torch keeps freed memory by stream), None where there are no streams."""
    return CudaStream(device) if device.type == "cuda" else None


class Ahead:
    """Makes tensors for one range after another, at most one range ahead; without a stream when they are taken.

    make: may wait for its own work, which the caller's does not notice. Within ``with``, at whose end nothing is left.
    """

    def __init__(self, make: Callable[[slice], Tensors], stream: Stream | None) -> None:
        self._make, self._stream = make, stream
        self._made: tuple[slice, Tensors] | None = None

    def __enter__(self) -> Ahead:
        if self._stream is not None:
            self._stream.follow()  # what is made from, as the volume, may still be on its way to the device
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(self, which: slice) -> None:
        """Begin the next range; the caller's work that was begun before goes on meanwhile.

        What fails is made again when it is taken, alone, and so is all that comes later: memory for two may be lacking.
        """
        if self._stream is None:
            return
        try:
            with self._stream.working():
                self._made = which, self._make(which)
        except Exception:
            self._stop()

    def take(self, which: slice) -> tuple[slice, Tensors]:
        """The range that was begun, else ``which``, made now; and its tensors."""
        if self._made is None or self._stream is None:
            return which, self._make(which)
        made, self._made = self._made, None
        self._stream.join(made[1])
        return made

    def _stop(self) -> None:
        """Not ahead any longer. What the caller does next, as giving back the volume's memory, comes after it."""
        if self._stream is not None:
            self._stream.join(())
        self._made = self._stream = None
