"""What the engine needs, what of it is missing, and how it is installed; nothing happens before somebody asks.

No Qt: the panel asks the question, this module knows its text and does what was answered.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

# What the download of a package takes in MB, rounded up; packages not named here take less than 1.
_SIZES_MB = {"numpy": 20, "scipy": 40, "SimpleITK": 60, "timm": 3, "safetensors": 1, "matplotlib": 10}
_TORCH_MB = (200, 3000)  # for the CPU, and with all that CUDA needs
_TORCH_MINIMUM = ">=2.5"
_MODULE_OF = {"SimpleITK": "SimpleITK"}


@dataclass(frozen=True)
class Missing:
    """torch: "", "missing" or "broken". packages: requirements, e.g. ``timm>=1.0.15``."""

    torch: str
    packages: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.torch or self.packages)

    def rows(self) -> list[tuple[str, str]]:
        """What will be installed, and how large it is."""
        rows = []
        if self.torch:
            rows.append(("PyTorch", f"{_TORCH_MB[0]} MB for the CPU, up to {_TORCH_MB[1] / 1000:.0f} GB for NVIDIA"))
        for requirement in self.packages:
            name = _nameOf(requirement)
            rows.append((requirement, f"{_SIZES_MB.get(name, 1)} MB"))
        return rows


def missing(requirementsFile: str | Path) -> Missing:
    """What this Python lacks. Imports none of it, so that a broken package can do no harm here."""
    torch = _torchState()
    return Missing(torch, tuple(one for one in requirementsOf(requirementsFile) if not _isInstalled(one)))


def requirementsOf(path: str | Path) -> list[str]:
    """The lines of a requirements file."""
    lines = (line.partition("#")[0].strip() for line in Path(path).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def install(found: Missing, requirementsFile: str | Path, wheels: str | Path | None = None) -> None:
    """Install what is missing into Slicer's Python; the question was asked before.

    wheels: a folder of wheel files; then nothing is downloaded. Raises RuntimeError with what went wrong.
    """
    if wheels is not None:
        _installFrom(Path(wheels), found)
    else:
        if found.torch:
            _installTorch(found.torch)
        if found.packages:
            _installPackages(found.packages, requirementsFile)
    importlib.invalidate_caches()
    left = missing(requirementsFile)
    if left:
        names = ", ".join(name for name, _size in left.rows())
        raise RuntimeError(f"still missing after the installation: {names}")


def enginePackageFolder() -> Path:
    """The folder that holds the package tonno_core, for the engine's PYTHONPATH."""
    spec = find_spec("tonno_core")
    if spec is None:
        raise RuntimeError("the package tonno_core is not beside the module; install the extension again")
    return Path(next(iter(spec.submodule_search_locations))).parent


def moduleCommand(python: str | None, slicerHome: str | Path) -> list[str]:
    """How to run a module, whose name is to follow: with the chosen interpreter, else with PythonSlicer."""
    return [python or slicerPython(slicerHome), "-m"]


def slicerPython(slicerHome: str | Path) -> str:
    """PythonSlicer, the launcher of Slicer's own Python."""
    suffix = ".exe" if os.name == "nt" else ""
    beside = Path(slicerHome) / "bin" / f"PythonSlicer{suffix}"
    return str(beside) if beside.is_file() else shutil.which("PythonSlicer") or sys.executable


def engineEnvironment(isOther: bool, startup: dict[str, str] | None = None) -> dict[str, str | None]:
    """Changes to this process' variables for the engine's. None removes a variable.

    isOther: for an interpreter that is not Slicer's: it gets the variables from before Slicer's launcher (`startup`),
    as Slicer's libraries would break it. The engine itself never downloads.
    """
    changes: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if isOther and startup is not None:
        changes = {name: None for name in os.environ if name not in startup} | dict(startup) | changes
        changes["PYTHONHOME"] = None
    inherited = "" if isOther else os.environ.get("PYTHONPATH", "")
    changes["PYTHONPATH"] = os.pathsep.join(filter(None, (str(enginePackageFolder()), inherited)))
    return changes


def _torchState() -> str:
    """Both, the package's record and its folder, or it is half an installation."""
    there = find_spec("torch") is not None
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "broken" if there else "missing"
    if not there:
        return "broken"
    return "" if _isAtLeast(version, _TORCH_MINIMUM.removeprefix(">=")) else "missing"


def _isInstalled(requirement: str) -> bool:
    name, _sign, least = requirement.partition(">=")
    try:
        version = metadata.version(name.strip())
    except metadata.PackageNotFoundError:
        return False
    return _isAtLeast(version, least) and find_spec(_MODULE_OF.get(name, name).replace("-", "_")) is not None


def _isAtLeast(version: str, least: str) -> bool:
    numbers = [[int(n) for n in re.findall(r"\d+", text.split("+")[0])[:3]] for text in (version, least)]
    return numbers[0] >= numbers[1]


def _nameOf(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ]", requirement, maxsplit=1)[0]


def _installTorch(state: str) -> None:
    try:
        import PyTorchUtils
    except ImportError:
        raise RuntimeError(
            "the extension PyTorch is not installed: install it in the Extensions Manager and restart Slicer"
        ) from None
    logic = PyTorchUtils.PyTorchUtilsLogic()
    if state == "broken":
        logic.uninstallTorch()
    if logic.installTorch(askConfirmation=False, torchVersionRequirement=_TORCH_MINIMUM) is None:
        raise RuntimeError("PyTorch was not installed: open the module PyTorch Util to see why")


def _installPackages(packages: tuple[str, ...], requirementsFile: str | Path) -> None:
    try:
        import slicer.packaging
    except ImportError:  # Slicer 5.10
        import slicer.util

        slicer.util.pip_install(" ".join(f'"{one}"' for one in packages))
        return
    # The panel has asked already.
    slicer.packaging.pip_ensure(
        slicer.packaging.load_requirements(str(requirementsFile)), requester="ToNNO", prompt_install=False
    )


def _installFrom(wheels: Path, found: Missing) -> None:
    import slicer.util

    if not any(wheels.glob("*.whl")):
        raise RuntimeError(f"{wheels} holds no wheel files (*.whl)")
    wanted = [f"torch{_TORCH_MINIMUM}"] if found.torch else []
    names = " ".join(f'"{one}"' for one in (*wanted, *found.packages))
    again = "--force-reinstall " if found.torch == "broken" else ""
    slicer.util.pip_install(f'--no-index --find-links "{wheels}" {again}{names}')
