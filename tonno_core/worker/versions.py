"""Versions of the packages that matter, without importing them."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import tonno_core


def light_versions() -> dict[str, str | None]:
    """Read the versions of Python, tonno_core, torch and timm.

    Returns:
        The version by name; None for a package that is not installed.
    """
    versions: dict[str, str | None] = {"python": platform.python_version(), "tonno_core": tonno_core.__version__}
    for name in ("torch", "timm"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return versions
