"""Optional Triton kernels: used on CUDA where they pass a self-test; elsewhere the same is done by torch."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import torch

from tonno_core.errors import first_line

KernelName = Literal["slicing", "backprojection", "training"]
_MODULES: dict[KernelName, str] = {
    "slicing": "tonno_core.slicing.kernel",
    "backprojection": "tonno_core.tomography.kernel",
    "training": "tonno_core.training.kernel",
}
# The steps of a reconstruction.
_REPORTED: tuple[KernelName, ...] = ("slicing", "backprojection")


def load(name: KernelName, device: torch.device, dtype: torch.dtype) -> Any | None:
    """Return a kernel module for some values, or None where torch has to do.

    Args:
        name: of the step that it is for.
        device: where the values are.
        dtype: of the values; kernels exist for float32.

    Returns:
        The module, or None: not on CUDA, not float32, no Triton, or a self-test that failed.
    """
    if device.type != "cuda" or dtype != torch.float32:
        return None
    return import_tested(name, device)[0]


def status(device: torch.device) -> dict[str, str]:
    """Tell what runs each step on a device in float32, for a report.

    Args:
        device: of a reconstruction.

    Returns:
        By step ``triton`` or ``torch``; the latter followed by the reason where a kernel failed on CUDA.
    """
    if device.type != "cuda":
        return dict.fromkeys(_REPORTED, "torch")
    return {name: import_tested(name, device)[1] for name in _REPORTED}


@lru_cache(maxsize=32)
def import_tested(name: KernelName, device: torch.device) -> tuple[Any | None, str]:
    """Import a kernel module if Triton is installed and its self-test passes on a device.

    Args:
        name: of the step that it is for.
        device: where it is to run.

    Returns:
        The module or None, and how `status` reports that.
    """
    try:
        kernel = import_module(_MODULES[name])
        if kernel.works(device):
            return kernel, "triton"
        return None, "torch (the kernel's self-test gave wrong numbers)"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no compiler for its launcher, a GPU that it does not know
        return None, f"torch ({first_line(error)})"
