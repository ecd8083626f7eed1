"""How many slices an encoder takes at once on a GPU: as many as there is memory for, found by measuring.

What an encoder needs is a constant (a library's workspace) and so much for each slice (its activations): two small
batches tell both. The batch is a power of two, so that other programs' memory rarely changes it: answers to batches of
other sizes differ in rounding. Only CUDA tells a peak; on Apple's GPUs the standard batch stays, and is halved when
memory runs out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from tonno_core.errors import is_out_of_memory

# Of the free memory; the rest is for the sums of the backprojection, its coordinates, and fragmentation.
SHARE = 0.8
# Slices in memory for each one of the batch: itself, its copy without the blank ones, and the batch that is cut ahead.
HELD = 3
# Slices of the smaller of the two batches; the other has twice as many.
_TRIAL = 16


class Memory(Protocol):
    """Of a device, in bytes."""

    def free(self) -> int:
        """What can still be had."""

    def peak(self, action: Callable[[], object]) -> int:
        """The most in use during an action, beyond what was in use before it."""


class CudaMemory:
    """By torch's allocator. Its peak, which others may read, is measured anew."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Of the device, and what torch keeps of it without using it."""
        on_device, _ = torch.cuda.mem_get_info(self._device)
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(on_device + kept)

    def peak(self, action: Callable[[], object]) -> int:
        """The allocator works as the host goes, so nothing needs to be waited for."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        action()
        return int(torch.cuda.max_memory_allocated(self._device) - before)


def memory_of(device: torch.device) -> Memory | None:
    """None where a peak cannot be measured."""
    return CudaMemory(device) if device.type == "cuda" else None


@dataclass(frozen=True)
class Need:
    """Bytes for a batch: ``constant``, and ``each`` for every slice."""

    constant: float
    each: float

    @staticmethod
    def between(count: int, peak: int, twice: int) -> Need:
        """By the peaks of ``count`` and of twice as many slices."""
        if twice <= peak:  # a library took less workspace for the larger batch: all of it counts as activations
            return Need(0.0, peak / count)
        each = (twice - peak) / count
        return Need(max(0.0, peak - count * each), each)

    def of(self, batch: int) -> float:
        """Of so many slices."""
        return self.constant + self.each * batch


def measure(
    memory: Memory, encode: Callable[[torch.Tensor], object], blank: torch.Tensor, trial: int = _TRIAL
) -> Need | None:
    """What ``encode`` needs. blank: a slice, ``1 V U``. None where memory does not suffice for two of them."""
    try:
        slices = blank.expand(2 * trial, -1, -1).contiguous()
        encode(slices)  # what is kept from the first time on does not count
        peak = memory.peak(lambda: encode(slices[:trial]))
        return Need.between(trial, peak, memory.peak(lambda: encode(slices)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    return measure(memory, encode, blank, trial // 2) if trial > 1 else None


def largest_batch(need: Need, slice_bytes: int, free: int, most: int, least: int) -> int:
    """The greatest power of two up to ``most`` for which a share of the free bytes suffices; at least 1.

    least: slices that are cut at once even where fewer are encoded.
    """
    batch = 1 << (max(1, most).bit_length() - 1)
    while batch > 1 and need.of(batch) + HELD * slice_bytes * max(batch, least) > SHARE * free:
        batch //= 2
    return batch


def fitting_batch(
    memory: Memory, encode: Callable[[torch.Tensor], object], blank: torch.Tensor, most: int, least: int
) -> int:
    """`largest_batch` by what `measure` finds; 1 where it finds nothing."""
    need = measure(memory, encode, blank, max(1, min(_TRIAL, most // 2)))
    return 1 if need is None else largest_batch(need, blank.nbytes, memory.free(), most, least)
