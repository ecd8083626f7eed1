"""Several processes, as ``torchrun`` starts them, that share one piece of work. One process needs nothing of it."""

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
from tonno_core.errors import TonnoError, first_line


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
            with _others():
                dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over the processes, on all of them, in place."""
        if self.world > 1:
            with _others():
                dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes, on all of them, in place."""
        self.sum(values)
        if self.world > 1:
            values /= self.world
        return values

    def gather(self, part: list[Any]) -> list[Any]:
        """The parts ``rank, rank + world, ...`` of a list put together, on all processes."""
        if self.world == 1:
            return part
        parts: list[list[Any]] = [[] for _ in range(self.world)]
        with _others():
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


# Where there is no launcher: this process alone, on the CPU.
ALONE = Processes(0, 1, torch.device("cpu"))


def world_size() -> int:
    """How many processes the launcher started."""
    return _whole("WORLD_SIZE", 1)


def share_of_cases() -> tuple[int, int]:
    """Number of this process and how many there are, for work that needs no talk among them.

    Any launcher, or array of jobs, may set RANK and WORLD_SIZE.
    """
    rank, world = (_whole(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if not 0 <= rank < world:
        raise TonnoError(f"the environment's RANK is {rank} of WORLD_SIZE {world}, expected 0 to {world - 1}")
    return rank, world


def device_of_process(name: str) -> str:
    """The name of the device that is this process's own, where the launcher started several on a machine.

    Raises TonnoError for a device that is not there, and for more processes than devices.
    """
    chosen = choose_device(name)
    if chosen.type == "cuda" and ":" not in name and "LOCAL_RANK" in os.environ:
        chosen = _own_device(_whole("LOCAL_RANK", 0))
    return str(chosen)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """The processes that torchrun started, joined while the block runs; else this one alone.

    NCCL between CUDA devices, one per process of a machine; gloo otherwise. Raises TonnoError where the launcher
    says too little, or more processes than devices are on a machine.
    """
    world, chosen = world_size(), choose_device(device)
    if world == 1:
        yield Processes(0, 1, chosen)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise TonnoError(
            f"the environment's WORLD_SIZE is {world}, but {', '.join(missing)} missing; start with torchrun, "
            "or unset WORLD_SIZE"
        )
    if chosen.type == "cuda":
        chosen = _own_device(_whole("LOCAL_RANK", 0))
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


@contextmanager
def _others() -> Iterator[None]:
    """Around what all processes do together: where one of them ended, the others end with one line."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)
        raise TonnoError(f"another process of this run ended, its own message says why ({reason})") from error


def _whole(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise TonnoError(f"the environment's {name} is '{text}', expected a whole number") from None


def _own_device(local_rank: int) -> torch.device:
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise TonnoError(f"`device` cuda: more processes than this machine's {count} devices; start one for each")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
