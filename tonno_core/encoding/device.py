"""Device and precision by name. Chosen by what the hardware is, never by a timing: results stay repeatable.

The batch on a GPU follows from its free memory (`encoding.memory`), in powers of two.
"""

from __future__ import annotations

from typing import Literal

import torch

from tonno_core.errors import TonnoError

PrecisionName = Literal["auto", "float32", "bfloat16", "float16"]
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS: tuple[PrecisionName, ...] = ("auto", "float32", "bfloat16", "float16")


def choose_device(name: str) -> torch.device:
    """Choose a device by name.

    Args:
        name: ``auto`` (CUDA, else Apple's MPS, else the CPU), or a device, such as ``cpu`` or ``cuda:1``.

    Returns:
        The device.

    Raises:
        TonnoError: the name is unknown, or this torch does not find such a device.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if kind not in available:
        raise TonnoError(f"`device` '{name}' is unknown, expected one of {', '.join(DEVICES)}")
    if not available[kind]:
        present = [k for k, there in available.items() if there]
        raise TonnoError(
            f"`device` {name} was asked for, but this torch ({torch.__version__}) finds only {', '.join(present)}; "
            "use `device` cpu, or install a torch build and driver that support it"
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise TonnoError(f"`device` '{name}' is unknown, expected a number after '{kind}:' or '{kind}' alone") from None


def choose_precision(name: str, device: torch.device, *, dense: bool = False) -> torch.dtype:
    """Choose a precision by name.

    Args:
        name: ``auto`` (float16 on CUDA; bfloat16 on a CPU with matrix units for it (AMX), and for dense networks on one
            that has instructions for it (AVX-512); else float32), or one of `PRECISIONS`.
        device: where the encoder runs.
        dense: whether its convolutions are no depthwise ones, whose gradients those instructions slow down.

    Returns:
        The type of the body's numbers.

    Raises:
        TonnoError: the name is unknown.
    """
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        fast = device.type == "cpu" and (_cpu_has("amx_tile") or (dense and _cpu_has("avx512_bf16")))
        return torch.bfloat16 if fast else torch.float32
    if name not in PRECISIONS:
        raise TonnoError(f"`precision` '{name}' is unknown, expected one of {', '.join(PRECISIONS)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _cpu_has(feature: str) -> bool:
    """Tell whether this machine's CPU has something, as far as torch knows."""
    supported = getattr(torch.cpu, f"_is_{feature}_supported", None)
    return bool(supported is not None and supported())
