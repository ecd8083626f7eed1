"""Several processes, as ``torchrun`` starts them, that share every batch. One process needs nothing of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from tonno_core.encoding.device import choose_device
from tonno_core.errors import TonnoError


@dataclass(frozen=True)
class Processes:
    """This process' number ``rank`` of ``world``, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes, on all of them."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def gather(self, part: list[Any]) -> list[Any]:
        """The parts ``rank, rank + world, ...`` of a list put together, on all processes."""
        if self.world == 1:
            return part
        parts: list[list[Any]] = [[] for _ in range(self.world)]
        dist.all_gather_object(parts, part)
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, one in enumerate(parts):
            whole[rank :: self.world] = one
        return whole

    def share(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over the processes."""
        if self.world == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)

    def check(self, volumes_per_batch: int, norm: str) -> None:
        """Raise TonnoError for a batch that cannot be shared alike."""
        if volumes_per_batch % self.world:
            raise TonnoError(
                f"--volumes-per-batch is {volumes_per_batch}, expected a multiple of the {self.world} processes"
            )
        if self.world > 1 and norm == "batch":
            raise TonnoError(
                "--norm batch takes its statistics from a whole batch, which several processes share; "
                "choose --norm frozen-batch or group, or a single process"
            )


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, joined while the block runs; else this one alone.

    NCCL between CUDA devices, one per process of a machine; gloo otherwise.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Processes(0, 1, choose_device(device))
        return
    chosen = choose_device(device)
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()
