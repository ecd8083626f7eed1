"""Several processes, started by ``torchrun``, that share one piece of work. A single process works without them."""

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
    """This process among those that share the work.

    Attributes:
        rank: number of this process, from 0.
        world: how many processes there are.
        device: of this process.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.world > 1:
            with _together():
                dist.barrier()

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the processes, in place.

        Args:
            values: of the same shape on all processes.

        Returns:
            ``values``, the sum on every process.
        """
        if self.world > 1:
            with _together():
                dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Average a tensor over the processes, in place.

        Args:
            values: of the same shape on all processes.

        Returns:
            ``values``, the mean on every process.
        """
        self.sum(values)
        if self.world > 1:
            values /= self.world
        return values

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is set in any process; no device is waited for.

        Args:
            flag: this process's.

        Returns:
            The same in all processes.
        """
        return bool(self.sum(torch.tensor([int(flag)])).item()) if self.world > 1 else flag

    def gather(self, part: list[Any]) -> list[Any]:
        """Put a list together of which each process holds the items ``rank, rank + world, ...``.

        Args:
            part: this process's items.

        Returns:
            The whole list, on every process.
        """
        if self.world == 1:
            return part
        parts: list[list[Any]] = [[] for _ in range(self.world)]
        with _together():
            dist.all_gather_object(parts, part)
        whole: list[Any] = [None] * sum(map(len, parts))
        for rank, items in enumerate(parts):
            whole[rank :: self.world] = items
        return whole

    def share(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that its gradients are averaged over the processes.

        Args:
            model: on this process's device.

        Returns:
            The wrapped model; the model itself where this process is alone.
        """
        if self.world == 1:
            return model
        devices = [self.device.index] if self.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(model, device_ids=devices)


# This process without others, on the CPU.
ALONE = Processes(0, 1, torch.device("cpu"))


def world_size() -> int:
    """Read how many processes the launcher started.

    Returns:
        The environment's WORLD_SIZE, 1 where it is not set.
    """
    return _whole_number("WORLD_SIZE", 1)


def share_of_cases() -> tuple[int, int]:
    """Read which share of some cases is this process's, for work in which processes need not communicate.

    Any launcher, or array of jobs, may set RANK and WORLD_SIZE.

    Returns:
        Number of this process, from 0, and how many there are.

    Raises:
        TonnoError: the number is not one of that many.
    """
    rank, world = (_whole_number(name, default) for name, default in (("RANK", 0), ("WORLD_SIZE", 1)))
    if not 0 <= rank < world:
        raise TonnoError(f"the environment's RANK is {rank} of WORLD_SIZE {world}, expected 0 to {world - 1}")
    return rank, world


def device_of_process(name: str) -> str:
    """Choose this process's device where the launcher started several processes on a machine.

    Args:
        name: as `choose_device` takes it.

    Returns:
        The device's name, with its number where processes share the machine's CUDA devices out.

    Raises:
        TonnoError: the device does not exist, or there are more processes than devices.
    """
    chosen = choose_device(name)
    if chosen.type == "cuda" and ":" not in name and "LOCAL_RANK" in os.environ:
        chosen = _local_device(_whole_number("LOCAL_RANK", 0))
    return str(chosen)


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started while a block runs; without a launcher there is this one alone.

    NCCL connects CUDA devices, one per process of a machine; gloo all others, and what the hosts have to agree on.

    Args:
        device: as `choose_device` takes it.

    Yields:
        The processes.

    Raises:
        TonnoError: the launcher sets too few variables, or a machine has more processes than devices.
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
        chosen = _local_device(_whole_number("LOCAL_RANK", 0))
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


@contextmanager
def _together() -> Iterator[None]:
    """Run what all processes do together; raises TonnoError, one line, where another process has ended."""
    try:
        yield
    except RuntimeError as error:
        reason = first_line(error)
        raise TonnoError(f"another process of this run ended, its own message says why ({reason})") from error


def _whole_number(name: str, default: int) -> int:
    """Read a variable of the environment; raises TonnoError where it is no whole number."""
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise TonnoError(f"the environment's {name} is '{text}', expected a whole number") from None


def _local_device(local_rank: int) -> torch.device:
    """Make the CUDA device with a process's number on its machine the current one."""
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise TonnoError(f"`device` cuda: more processes than this machine's {count} devices; start one for each")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
