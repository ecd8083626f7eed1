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
    """``auto`` (CUDA, else Apple's MPS, else the CPU) or a named one, which must be there (TonnoError)."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.split(":")[0]
    if kind not in available:
        raise TonnoError(f"`device` '{name}' is unknown, expected one of {', '.join(DEVICES)}")
    if not available[kind]:
        found = [k for k, there in available.items() if there]
        raise TonnoError(
            f"`device` {name} was asked for, but this torch ({torch.__version__}) finds only {', '.join(found)}; "
            "use `device` cpu, or install a torch build and driver that support it"
        )
    try:
        return torch.device(name)
    except RuntimeError:
        raise TonnoError(f"`device` '{name}' is unknown, expected a number after '{kind}:' or '{kind}' alone") from None


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is float16 on CUDA, bfloat16 on a CPU with matrix units for it (AMX), else float32."""
    if name == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if device.type == "cpu" and cpu_has_bfloat16_units() else torch.float32
    if name not in PRECISIONS:
        raise TonnoError(f"`precision` '{name}' is unknown, expected one of {', '.join(PRECISIONS)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def cpu_has_bfloat16_units() -> bool:
    """Whether this machine has AMX."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(supported is not None and supported())
