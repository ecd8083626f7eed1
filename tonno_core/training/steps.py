"""What the steps of any training share: how fast they learn, the average of their weights, requests to end."""

from __future__ import annotations

import functools
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from timm.utils import ModelEmaV3
from torch import nn

from tonno_core.errors import TonnoError
from tonno_core.signals import drop_terminal, ending_signals


class TrainingInterrupted(TonnoError):
    """Raised on Ctrl-C, or another signal that asks for an end; the checkpoint holds the last step."""


class MovingAverage:
    """The moving average of a network's weights and buffers, as timm's, in two launches for all of them.

    Attributes:
        module: A copy of the network, which holds the average.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with a network's weights as they are.

        Args:
            model: The network.
            decay: What of the average stays in a step, at most; less at first.
        """
        self._timm = ModelEmaV3(model, decay=decay, use_warmup=True)
        self.module = self._timm.module
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        # Whole numbers, as batch norm's count of batches, are copied.
        self._numbers, self._counts = (
            [pair for pair in pairs if pair[0].is_floating_point() == floating] for floating in (True, False)
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move it by the weights after a step.

        Args:
            step: Number of the step, from 0.
        """
        weight = 1.0 - self._timm.get_decay(step)
        for pairs, move in ((self._numbers, functools.partial(torch._foreach_lerp_, weight=weight)),
                            (self._counts, torch._foreach_copy_)):  # fmt: skip
            if pairs:
                averages, values = zip(*pairs, strict=True)
                move(list(averages), list(values))


def schedule(step: int, steps: int, warmup: float) -> float:
    """Compute the factor on the learning rate: linear from 0, then half a cosine to 0.

    Args:
        step: Number of the step, from 0.
        steps: Steps in all.
        warmup: Share of the steps in which it rises.

    Returns:
        Factor from 0 to 1.
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Take Ctrl-C, and what else asks for an end, as a request: no step is torn, but by a second Ctrl-C.

    Yields:
        An event that the request sets.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield stop
        return

    def asked(number: int, frame: FrameType | None) -> None:
        drop_terminal(number)
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, *ending_signals())}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
