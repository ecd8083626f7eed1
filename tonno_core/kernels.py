"""Optional Triton kernels: used on CUDA where they pass a self-test; elsewhere the same is done by torch.

The self-test runs the code that a reconstruction runs, so that one compilation serves both. Triton keeps what it has
compiled in the user's folder (``~/.triton``, or ``TRITON_CACHE_DIR``), by source, device and version; what is left for
every process is importing Triton, hashing its library and running the test, which `prove_ahead` does meanwhile. That a
test was passed is not remembered: it would save milliseconds.
"""

from __future__ import annotations

import threading
from contextlib import suppress
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
# One test at a time: Triton compiles in one thread, and who needs a kernel that is being tested waits for it.
_TESTING = threading.Lock()


def import_ahead() -> None:
    """Import the kernels, and let Triton hash its own library, which any process must do: nothing is put on a GPU.

    Does nothing without Triton, or where this torch finds no CUDA.
    """
    with suppress(Exception):  # `import_tested` tells
        if torch.cuda.is_available():
            for name in _REPORTED:
                import_module(_MODULES[name])
            import_module("triton.runtime.cache").triton_key()  # remembered; older ones have it elsewhere


def prove_ahead(device: torch.device) -> None:
    """Begin the self-tests in the background, where a model is loaded and a volume prepared before kernels are needed.

    A process that ends before them waits for them: the compiler's libraries do not bear being left in the middle.

    Args:
        device: of a reconstruction; nothing happens unless it is CUDA.
    """
    if device.type == "cuda":
        threading.Thread(target=_prove, args=(device,), name="proof of kernels").start()


def _prove(device: torch.device) -> None:
    """Test the kernels of a reconstruction; whatever is wrong with the device is told to who uses it."""
    for name in _REPORTED:
        with suppress(Exception):
            import_tested(name, device)


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


def import_tested(name: KernelName, device: torch.device) -> tuple[Any | None, str]:
    """Import a kernel module if Triton is installed and its self-test passes on a device, which is found out once.

    Args:
        name: of the step that it is for.
        device: where it is to run.

    Returns:
        The module or None, and how `status` reports that.
    """
    if device == torch.device("cuda"):  # without a number
        device = torch.device("cuda", torch.cuda.current_device())
    with _TESTING:
        return _tested(name, device)


@lru_cache(maxsize=32)
def _tested(name: KernelName, device: torch.device) -> tuple[Any | None, str]:
    try:
        kernel = import_module(_MODULES[name])
        if kernel.works(device):
            return kernel, "triton"
        return None, "torch (the kernel's self-test gave wrong numbers)"
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no Triton, no compiler for its launcher, a GPU that it does not know
        return None, f"torch ({first_line(error)})"
