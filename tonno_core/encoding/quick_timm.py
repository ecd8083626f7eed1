"""Imports timm without torch's compiler, whose import takes as long as all the rest.

Two of timm's imports want the compiler before anybody compiles: torchvision takes a function from it, and a decorator
in timm asks it to leave a method alone. Both can wait until they are called, or until somebody compiles. The room's
``__init__`` imports this, so that it comes before any other import of timm.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_UTILS = "torch._dynamo.utils"


class _Later(ModuleType):
    """The compiler's module of helpers as torchvision wants it; anything else is taken from the module itself."""

    @staticmethod
    def is_compile_supported(device_type: str) -> Any:
        """Call the module's own function."""
        return importlib.import_module(_UTILS).is_compile_supported(device_type)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import machinery asks of any module
            raise AttributeError(name)
        _drop(self)
        return getattr(importlib.import_module(_UTILS), name)


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Put off what is wanted of the compiler; nothing changes where it is there, or torch does not know how."""
    later, now = getattr(torch, "_disable_dynamo", None), torch.compiler.disable
    if later is None or "torch._dynamo" in sys.modules:
        yield
        return

    def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
        return later(fn, recursive)

    helpers = sys.modules[_UTILS] = _Later(_UTILS)
    torch.compiler.disable = disable
    try:
        yield
    finally:
        torch.compiler.disable = now
        _drop(helpers)


def _drop(helpers: ModuleType) -> None:
    """Make the import machinery forget a stand-in."""
    if sys.modules.get(_UTILS) is helpers:
        del sys.modules[_UTILS]


with _without_compiler():
    import timm  # noqa: F401 - for its side effect
