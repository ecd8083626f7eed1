"""The engine's packages that Slicer's Python has and lacks. The standard library only; imports none of the packages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# What the download of a package takes in MB, rounded up; packages not named here take less than 1.
_SIZES_MB = {"numpy": 20, "scipy": 40, "SimpleITK": 60, "timm": 3, "safetensors": 1, "matplotlib": 10}
_TORCH_MB = (200, 3000)  # for the CPU, and with all that CUDA needs
TORCH_MINIMUM = ">=2.5"


@dataclass(frozen=True)
class Missing:
    """What the engine needs and Slicer's Python lacks.

    Attributes:
        torch: "", "missing" or "broken".
        packages: Requirements, e.g. ``timm>=1.0.15``.
    """

    torch: str
    packages: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.torch or self.packages)

    def rows(self) -> list[tuple[str, str]]:
        """List what will be installed, and how large its download is.

        Returns:
            Pairs of name and size.
        """
        from slicer.i18n import tr as _

        rows = []
        if self.torch:
            size = _("{mb} MB for the CPU, up to {gb:.0f} GB for NVIDIA")
            rows.append(("PyTorch", size.format(mb=_TORCH_MB[0], gb=_TORCH_MB[1] / 1000)))
        for requirement in self.packages:
            name = nameOf(requirement)
            rows.append((requirement, _("{mb} MB").format(mb=_SIZES_MB.get(name, 1))))
        return rows


def missing(requirementsFile: str | Path) -> Missing:
    """Say what this Python lacks; import none of it, so that a broken package can do no harm here.

    Args:
        requirementsFile: The engine's requirements.

    Returns:
        What is missing.
    """
    lines = requirementsOf(requirementsFile)
    return Missing(torchState(), tuple(requirement for requirement in lines if not _isInstalled(requirement)))


def requirementsOf(path: str | Path) -> list[str]:
    """Read the lines of a requirements file, without its comments.

    Args:
        path: The file.

    Returns:
        Requirements, such as ``timm>=1.0.15``.
    """
    lines = (line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def torchState() -> str:
    """Look for PyTorch without importing it.

    Returns:
        "" where it is installed, else "missing", or "broken" where its record or its folder is there alone.
    """
    there, version = find_spec("torch") is not None, versionOf("torch")
    if version is None:
        return "broken" if there else "missing"
    if not there:
        return "broken"
    return "" if _isAtLeast(version, TORCH_MINIMUM.removeprefix(">=")) else "missing"


def _isInstalled(requirement: str) -> bool:
    name, _sign, least = requirement.partition(">=")
    version = versionOf(name)
    return version is not None and _isAtLeast(version, least) and find_spec(moduleOf(name)) is not None


def versionOf(name: str) -> str | None:
    """Read the version in a package's record.

    Args:
        name: The package.

    Returns:
        The version; None without a record, or with half of one, which an interrupted pip leaves.
    """
    try:
        return metadata.version(name.strip()) or None
    except (metadata.PackageNotFoundError, KeyError):
        return None


def _isAtLeast(version: str, least: str) -> bool:
    numbers = [[int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3]] for text in (version, least)]
    return numbers[0] >= numbers[1]


def nameOf(requirement: str) -> str:
    """Strip a requirement of its version and extras.

    Args:
        requirement: Such as ``timm>=1.0.15``.

    Returns:
        The package's name.
    """
    return re.split(r"[<>=!~\[ ]", requirement, maxsplit=1)[0]


def moduleOf(name: str) -> str:
    """Say under which name a package is imported.

    Args:
        name: The package.

    Returns:
        The module.
    """
    return name.strip().replace("-", "_")
