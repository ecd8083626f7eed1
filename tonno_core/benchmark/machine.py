"""What a measurement ran on: device, versions, threads, and its memory and energy where they can be read."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch

import tonno_core
from tonno_core.output import Json
from tonno_core.reporting import Timings

NOT_READABLE = "not readable"
_RAPL = Path("/sys/class/powercap")


def describe(device: torch.device) -> Json:
    """Describe the machine for a report.

    Args:
        device: Where the encoder runs.

    Returns:
        Device, threads, cores, system and versions.
    """
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


def reset_peak(device: torch.device) -> None:
    """Reset the device's peak memory. A CPU's cannot be reset: it is that of the process's whole life.

    Args:
        device: Where the encoder runs.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_mb(device: torch.device) -> float | None:
    """Read the peak memory.

    Args:
        device: Where the encoder runs.

    Returns:
        MB of tensors on a GPU, else of the process in main memory; None where it cannot be read.
    """
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device)) / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes / (1e6 if platform.system() == "Darwin" else 1e3)


@dataclass(frozen=True)
class Energy:
    """Energy of all that ran on a device, not of this process alone.

    Attributes:
        joules: None where it cannot be read.
        source: Name of the counter, or why there is none.
    """

    joules: float | None
    source: str

    def since(self, earlier: Energy) -> Energy:
        """Subtract an earlier reading of the counter.

        Args:
            earlier: The earlier reading.

        Returns:
            Energy between the two; None joules where the counter has wrapped around.
        """
        if self.joules is None or earlier.joules is None or self.joules < earlier.joules:
            return Energy(None, self.source)
        return Energy(self.joules - earlier.joules, self.source)


def read_energy(device: torch.device) -> Energy:
    """Read the energy counter of a GPU (NVML) or of the processor (RAPL).

    Args:
        device: Where the encoder runs.

    Returns:
        Energy since some moment in the past.
    """
    return _read_nvml(device) if device.type == "cuda" else _read_rapl()


def _read_rapl(root: Path = _RAPL) -> Energy:
    """Add up the counters of the processor's packages."""
    packages = [path for path in root.glob("*rapl:*") if path.name.count(":") == 1] if root.is_dir() else []
    if not packages:
        return Energy(None, f"{NOT_READABLE}: {root} has no RAPL counter")
    try:
        joules = sum(int((package / "energy_uj").read_text()) for package in packages) / 1e6
    except (OSError, ValueError) as error:
        return Energy(None, f"{NOT_READABLE}: RAPL ({getattr(error, 'strerror', None) or error})")
    return Energy(joules, "RAPL, processor packages")


def _read_nvml(device: torch.device) -> Energy:
    try:
        import pynvml
    except ImportError:
        return Energy(None, f"{NOT_READABLE}: the package nvidia-ml-py is not installed")
    try:
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode())
        return Energy(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3, "NVML, the GPU")
    except pynvml.NVMLError as error:
        return Energy(None, f"{NOT_READABLE}: NVML ({error})")


class EventTimings(Timings):
    """Seconds by step from CUDA events, which do not stop the device; read by `finish`."""

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the device's time between the block's first and last work to a step.

        Args:
            name: Name of the step.

        Yields:
            None.
        """
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
