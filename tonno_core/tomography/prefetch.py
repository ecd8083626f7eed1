"""Prefetch on a GPU: the next batch is made on a stream of its own while the last one is in use."""

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
        """Send what is begun in a block to this queue.

        Returns:
            The context of the block.
        """

    def follow(self) -> None:
        """Make later work of this queue wait for what the caller's queue holds by now."""

    def join(self, tensors: Tensors) -> None:
        """Make later work of the caller's queue wait for what this one holds by now.

        Args:
            tensors: made in this queue, which the caller's may use from then on.
        """


class CudaStream:
    """A stream of a CUDA device that goes before the caller's work where both wait.

    The host waits for many of the small steps of slicing; behind the encoder's kernels each would take as long as one
    of those.
    """

    def __init__(self, device: torch.device) -> None:
        """Create the stream.

        Args:
            device: a CUDA device.
        """
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def working(self) -> AbstractContextManager[object]:
        """Send what is begun in a block to this stream.

        Returns:
            The context of the block.
        """
        return torch.cuda.stream(self._stream)

    def follow(self) -> None:
        """Make this stream wait for the current one; the host does not wait."""
        self._stream.wait_stream(torch.cuda.current_stream(self._device))

    def join(self, tensors: Tensors) -> None:
        """Make the current stream wait for this one; the host does not wait.

        Args:
            tensors: made in this stream; their memory is not used anew before the current stream is done with them.
        """
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._stream)
        for tensor in tensors:
            tensor.record_stream(current)


@lru_cache(maxsize=8)
def side_stream(device: torch.device) -> Stream | None:
    """Return a device's one stream for prefetching; torch keeps freed memory by stream.

    Args:
        device: any device.

    Returns:
        The stream, None where there are no streams.
    """
    return CudaStream(device) if device.type == "cuda" else None


class Prefetch:
    """Makes tensors for one range after another, one range early; without a stream, none.

    Use it in a ``with`` block; at its end nothing is left.
    """

    def __init__(self, make: Callable[[slice], tuple[slice, Tensors]], stream: Stream | None) -> None:
        """Prepare for ranges.

        Args:
            make: returns a range and its tensors. It may wait for its own work, which the caller's does not notice.
            stream: where to prefetch, None for nowhere.
        """
        self._make, self._stream = make, stream
        self._made: tuple[slice, Tensors] | None = None

    def __enter__(self) -> Prefetch:
        if self._stream is not None:
            self._stream.follow()  # the volume that slices are made from may still be on its way to the device
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def start(self, which: slice) -> None:
        """Begin the next range; the caller's work that was begun before goes on meanwhile.

        After a range that fails nothing is prefetched any more: memory for two may be lacking.

        Args:
            which: the range.
        """
        if self._stream is None:
            return
        try:
            with self._stream.working():
                self._made = self._make(which)
        except Exception:
            self._stop()

    def take(self) -> tuple[slice, Tensors] | None:
        """Take what was begun.

        Returns:
            The range and its tensors, None where none was begun.
        """
        if self._made is None or self._stream is None:
            return None
        made, self._made = self._made, None
        self._stream.join(made[1])
        return made

    def _stop(self) -> None:
        """End prefetching. What the caller does next, e.g. giving back the volume's memory, comes after it."""
        if self._stream is not None:
            self._stream.join(())
        self._made = self._stream = None
