"""What a measurement ran on: device, versions, threads, and its memory and energy where they can be read."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

import tonno_core
from tonno_core.reporting import Timings

NOT_READABLE = "not readable"
_RAPL = Path("/sys/class/powercap")


def describe(device: torch.device) -> dict[str, Any]:
    """Device, versions and threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.platform(terse=True),
        "versions": {
            "tonno": tonno_core.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "timm": timm.__version__,
            "numpy": np.__version__,
        },
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def forget_peak(device: torch.device) -> None:
    """Start measuring the device's peak memory anew; a CPU's peak is that of the process's whole life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float | None:
    """Most memory in use so far in MB: of tensors on a GPU, resident of the process otherwise; None: not readable."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if platform.system() == "Darwin" else 1e3)


@dataclass
class Energy:
    """Joules of what was measured so far. source: the counter, or why none can be read."""

    joules: float | None
    source: str

    @contextmanager
    def measured(self, device: torch.device) -> Iterator[None]:
        """Add what the block uses. It counts everything that runs on the device, not this process alone."""
        before = read_joules(device)[0]
        yield
        after, self.source = read_joules(device)
        if before is not None and after is not None and after >= before:  # else the counter has wrapped
            self.joules = (self.joules or 0.0) + after - before


def read_joules(device: torch.device) -> tuple[float | None, str]:
    """An energy counter, and its name; None and the reason where there is none."""
    return _nvml_joules(device) if device.type == "cuda" else _rapl_joules()


def _rapl_joules(root: Path = _RAPL) -> tuple[float | None, str]:
    """The sum over the processors' packages."""
    packages = [path for path in root.glob("*rapl:*") if path.name.count(":") == 1] if root.is_dir() else []
    if not packages:
        return None, f"{NOT_READABLE}: {root} has no RAPL counter"
    try:
        return sum(int((one / "energy_uj").read_text()) for one in packages) / 1e6, "RAPL, processor packages"
    except (OSError, ValueError) as error:
        return None, f"{NOT_READABLE}: RAPL ({getattr(error, 'strerror', None) or error})"


def _nvml_joules(device: torch.device) -> tuple[float | None, str]:
    try:
        import pynvml
    except ImportError:
        return None, f"{NOT_READABLE}: the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode())
        return pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, "NVML, the GPU"
    except pynvml.NVMLError as error:
        return None, f"{NOT_READABLE}: NVML ({error})"


class EventTimings(Timings):
    """Seconds by step from CUDA events, which do not stop the device; read by `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the device's time between the block's first and last work to ``name``."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        try:
            yield
        finally:
            end.record()
            self._events.append((name, start, end))

    def finish(self) -> None:
        """Wait for the device and add up."""
        torch.cuda.synchronize()
        for name, start, end in self._events:
            self.seconds[name] += start.elapsed_time(end) / 1e3
        self._events.clear()
