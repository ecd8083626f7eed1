"""The descent of a network along its losses: optimizer, learning rate, and the moving average of the weights."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from tonno_core.distributed import Processes
from tonno_core.output import Json
from tonno_core.training.steps import MovingAverage, schedule

Weights = dict[str, torch.Tensor]


class Settings(Protocol):
    """What the settings of any training say of its steps."""

    @property
    def steps(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup(self) -> float: ...
    @property
    def ema(self) -> float: ...
    @property
    def seed(self) -> int: ...
    def epoch_end(self, epoch: int) -> int:
        """Return how many steps are done at the end of an epoch."""


class Descent:
    """Adam's steps for a network.

    Args:
        model: The network, on its device.
        parameters: What learns: tensors, or groups of them with factors on the learning rate (``share``).
        settings: How to train.
        precision: To which the network may be reduced.
        processes: The processes that share the batches.
    """

    def __init__(
        self, model: nn.Module, parameters: Any, settings: Settings, precision: torch.dtype, processes: Processes
    ) -> None:
        self.model, self.settings, self.processes = model, settings, processes
        device = processes.device.type
        # On a GPU one launch for many weights; on a CPU the bits of earlier builds, whose runs may go on.
        fused = True if device == "cuda" else None
        self.optimizer = torch.optim.Adam(parameters, lr=settings.learning_rate, fused=fused)
        self.average = MovingAverage(model, settings.ema) if settings.ema else None
        # Gradients in float16 would vanish; scaled they do not. bfloat16 has float32's range.
        self.scaler = torch.amp.GradScaler(device, enabled=precision == torch.float16)

    @property
    def trained(self) -> nn.Module:
        """Return the network with the moving average of the weights where there is one, else with the last weights."""
        return self.model if self.average is None else self.average.module

    def weights(self) -> Weights:
        """Return the weights of `trained`.

        Returns:
            Tensors by name.
        """
        return self.trained.state_dict()

    def rate(self, step: int) -> float:
        """Compute the learning rate of a step.

        Args:
            step: Its number, from 0.

        Returns:
            The rate, which each group takes its share of.
        """
        return self.settings.learning_rate * schedule(step, self.settings.steps, self.settings.warmup)

    def begin(self, step: int) -> None:
        """Set the learning rate of a step, and the random numbers of networks that drop units.

        Args:
            step: Its number, from 0.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(step) * group.get("share", 1.0)
        torch.manual_seed(self.settings.seed + step * self.processes.world + self.processes.rank)

    def follow(self, step: int, loss: torch.Tensor, longest: float | None = None) -> None:
        """Take a step down the gradient of a loss; nothing is waited for.

        Args:
            step: Its number, from 0.
            loss: Of this process's share of the batch.
            longest: Norm at which the gradient is cut off; None for no such norm.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        if longest is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(step)

    def state(self) -> Json:
        """Return what `load` needs.

        Returns:
            Tensors and plain values by name; ``state_dict`` has the weights that a model of this moment gets.
        """
        return {
            "state_dict": self.weights(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load(self, state: Json) -> None:
        """Go on from a state.

        Args:
            state: From `state`.
        """
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["state_dict"])
        for group in state["optimizer"]["param_groups"]:
            # As suits this device, where the run may not have begun.
            group["fused"] = self.optimizer.defaults["fused"]
        self.optimizer.load_state_dict(state["optimizer"])
        if state.get("scaler"):  # none in an earlier build's, nor where nothing is scaled
            self.scaler.load_state_dict(state["scaler"])
