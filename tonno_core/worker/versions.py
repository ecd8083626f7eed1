"""Versions of what matters, without importing it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import tonno_core


def light_versions() -> dict[str, str | None]:
    """By name; None for what is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "tonno_core": tonno_core.__version__}
    for name in ("torch", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
