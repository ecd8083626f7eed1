"""How many slices an encoder takes at once on a GPU: as many as fit in its memory, by a measurement.

An encoder needs a constant amount (a library's workspace) and an amount per slice (its activations); two batches tell
both. The batch is a power of two, so that other programs' memory rarely changes it: outputs of batches of
other sizes differ in rounding. Only CUDA tells a peak; on Apple's GPUs the standard batch stays, and is halved when
memory runs out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from tonno_core.errors import is_out_of_memory

# Share of the free memory to use; the rest is for the backprojection's sums and coordinates, and fragmentation.
SHARE = 0.8
# What a batch takes at most, however large the device: a tenth more fills a GPU no better, and a CT of 512 x 512 x 600
# voxels with its sums stays below 4 GB in all.
MOST_BYTES = 2.9e9
# Copies of each input slice alive at once beside what the encoder makes of it.
HELD = 1
# Slices of the smaller of the two batches; the other has twice as many.
_TRIAL = 16


class Memory(Protocol):
    """The memory of a device, in bytes."""

    def free(self) -> int:
        """Measure what can still be allocated.

        Returns:
            Bytes.
        """

    def peak(self, action: Callable[[], object]) -> int:
        """Measure the most in use during an action, beyond what was in use before it.

        Args:
            action: called once.

        Returns:
            Bytes.
        """


class CudaMemory:
    """The memory of a CUDA device as torch's allocator counts it. Measuring resets the allocator's peak."""

    def __init__(self, device: torch.device) -> None:
        """Choose a device.

        Args:
            device: a CUDA device.
        """
        self._device = device

    def free(self) -> int:
        """Measure the device's free memory, with what torch keeps of it without using it.

        Returns:
            Bytes.
        """
        on_device, _ = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(on_device + kept)

    def peak(self, action: Callable[[], object]) -> int:
        """Measure the most in use during an action, beyond what was in use before it.

        The allocator works at the host's pace, so there is nothing to wait for.

        Args:
            action: called once.

        Returns:
            Bytes.
        """
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        action()
        return int(torch.cuda.max_memory_allocated(self._device) - before)


def memory_of(device: torch.device) -> Memory | None:
    """Return how to measure a device's memory.

    Args:
        device: any device.

    Returns:
        Its memory, None where a peak cannot be measured.
    """
    return CudaMemory(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class Need:
    """The memory that a batch needs.

    Attributes:
        constant: bytes for a batch of any size.
        each: bytes per slice.
    """

    constant: float
    each: float

    @staticmethod
    def between(count: int, peak: int, twice: int) -> Need:
        """Solve for both amounts.

        Args:
            count: number of slices.
            peak: bytes that they took.
            twice: bytes that twice as many took.

        Returns:
            The need.
        """
        if twice <= peak:  # a library took less workspace for the larger batch: all of it counts as activations
            return Need(0.0, peak / count)
        each = (twice - peak) / count
        return Need(max(0.0, peak - count * each), each)

    def of(self, batch: int) -> float:
        """Add up what a batch needs.

        Args:
            batch: number of slices.

        Returns:
            Bytes.
        """
        return self.constant + self.each * batch


def measure(
    memory: Memory,
    encode: Callable[[torch.Tensor], object],
    blank: torch.Tensor,
    most: int = 16 * _TRIAL,
    room: float = math.inf,
) -> Need | None:
    """Measure what an encoder needs, by two batches of which one is twice as large.

    Some moments need much for any batch (weights in half precision, a workspace) and little for a slice, others the
    reverse (the first maps): the peak is the greatest of several lines. Both batches are doubled until the constant is
    at most a 16th of what the larger needs. No line lies above that there, nor begins below zero: so none needs more
    than 16/15 of what is foretold for any larger batch.

    Args:
        memory: of its device.
        encode: the encoder.
        blank: a slice, ``1 V U`` or ``1 C V U``.
        most: slices of the largest batch that is of interest.
        room: bytes that are there for it.

    Returns:
        The need, None where memory does not suffice for two slices.
    """
    trial, need, peak = max(1, min(_TRIAL, most // 2)), None, 0
    while trial:
        try:
            slices = blank.expand(2 * trial, *blank.shape[1:]).contiguous()
            if need is None:
                encode(slices)  # what is kept from the first time on does not count
                peak = memory.peak(partial(encode, slices[:trial]))
            twice = memory.peak(partial(encode, slices))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if need is not None:
                return need
            most, trial = 2 * trial - 1, trial // 2
            continue
        need = Need.between(trial, peak, twice)
        if need.constant <= twice / 16 or 4 * trial > most or need.of(4 * trial) > room:
            return need
        trial, peak = 2 * trial, twice
    return None


def largest_batch(need: Need, slice_bytes: int, room: float, most: int, least: int) -> int:
    """Find the greatest power of two for which memory suffices.

    Args:
        need: of the encoder.
        slice_bytes: of one input slice.
        room: bytes that are there for it.
        most: the largest batch.
        least: slices that are sampled at once even where fewer are encoded.

    Returns:
        Number of slices, at least 1.
    """
    batch = 1 << (max(1, most).bit_length() - 1)
    while batch > 1 and need.of(batch) + HELD * slice_bytes * max(batch, least) > room:
        batch //= 2
    return batch


def fitting_batch(
    memory: Memory, encode: Callable[[torch.Tensor], object], blank: torch.Tensor, most: int, least: int
) -> int:
    """Measure an encoder and find its largest batch.

    Args:
        memory: of its device.
        encode: the encoder.
        blank: a slice, ``1 V U``.
        most: the largest batch.
        least: slices that are sampled at once even where fewer are encoded.

    Returns:
        A power of two; 1 where memory did not suffice to measure.
    """
    room = min(SHARE * memory.free(), MOST_BYTES)
    need = measure(memory, encode, blank, most, room)
    return 1 if need is None else largest_batch(need, blank.nbytes, min(SHARE * memory.free(), MOST_BYTES), most, least)
