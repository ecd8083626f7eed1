"""Triton kernels where they prove to run; elsewhere the plain ways in torch remain."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any

import torch


@lru_cache(maxsize=32)
def proven(module: str, device: torch.device) -> Any | None:
    """A module of kernels, where Triton is and the module's ``works(device)`` says that they give what they should."""
    try:
        kernels = import_module(module)
        return kernels if kernels.works(device) else None
    except torch.OutOfMemoryError:
        raise
    except Exception:  # no Triton, no compiler for its launcher, a GPU that it does not know
        return None
