"""How far the host goes ahead of a GPU, and when it looks whether logits are numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from tonno_core.encoding.encoder import check_finite

# Batches between two looks on a GPU. The host is twice as many ahead at most: tenths of a second until a cancelled run
# ends.
_BATCHES = 4


def runs_behind(device: torch.device) -> bool:
    """Tell whether a device's work is best asked for ahead and never waited for.

    Args:
        device: any device.

    Returns:
        True for CUDA.
    """
    return device.type == "cuda"


class Pace:
    """Looks at the logits of a few batches at a time; on a GPU while it is busy with the next few.

    The host then waits for nothing that it has just asked for. Going ahead takes no memory: all work is in one stream,
    in which a tensor's memory is used anew as soon as the host is done with it.
    """

    def __init__(self, device: torch.device) -> None:
        """Begin.

        Args:
            device: of the logits.
        """
        self._behind = runs_behind(device)
        self._new: list[torch.Tensor] = []
        self._begun: list[Callable[[], None]] = []

    def add(self, logits: torch.Tensor) -> None:
        """Take the logits of the next batch.

        Args:
            logits: ``... B``.

        Raises:
            TonnoError: those of an earlier batch, or without a GPU these, are not finite.
        """
        self._new.append(logits)
        if not self._behind:
            self.catch_up()
        elif len(self._new) == _BATCHES:
            self._begin()
            self._end(but=1)

    def catch_up(self) -> None:
        """Wait for all logits so far and look at them.

        Raises:
            TonnoError: some are not finite.
        """
        if self._new:
            self._begin()
        self._end()

    def _begin(self) -> None:
        """Begin to look at the new logits: a number that is NaN where one of them is not finite is to be copied."""
        probe = torch.cat(self._new, dim=-1).mul_(0.0).sum()
        self._new = []
        self._begun.append(copied(probe) if self._behind else partial(check_finite, probe))

    def _end(self, but: int = 0) -> None:
        """End the looks that were begun, but for the last few."""
        while len(self._begun) > but:
            self._begun.pop(0)()


def copied(number: torch.Tensor) -> Callable[[], None]:
    """Begin to copy a number from a GPU.

    Args:
        number: on it.

    Returns:
        What waits for that alone, and raises a TonnoError where it is not finite.
    """
    here = torch.empty((), dtype=number.dtype, pin_memory=True)
    here.copy_(number, non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(number.device))

    def look() -> None:
        done.synchronize()
        check_finite(here)

    return look
