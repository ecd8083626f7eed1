"""Installs what the engine lacks into Slicer's Python, and says how the engine is started there.

No Qt: the panel asks the question and polls an `Installation`; this module knows what pip has to do, and tells why it
failed. Nothing happens before somebody asks.

PyTorch comes by way of the extension PyTorch, as everywhere in Slicer: its light-the-torch picks the build for the
graphics card. Its own `installTorch` would stop the window while gigabytes arrive, and import torch into Slicer's
process. Slicer's own `pip_install` would stop the window in 5.10, and cannot be canceled in 5.12; of all three the
exception does not say what pip said. So pip runs in a process of ours, alike in every version.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.packages import TORCH_MINIMUM, Missing, missing, moduleOf, nameOf, torchState, versionOf
from ToNNOSlicerLib.pip_process import PipProcess, causeOf

# What pip may not replace behind the user's back: Slicer has it loaded, or another extension has chosen its build.
_KEPT = ("numpy", "SimpleITK", "torch", "torchvision")
# A version that pip takes as a requirement; what is built from source may call itself otherwise.
_PLAIN_VERSION = re.compile(r"\d+(\.\d+)*((a|b|rc)\d+)?(\.post\d+)?(\.dev\d+)?(\+[A-Za-z0-9.]+)?")
_LOG_LINES = 500


class InstallError(ToNNOUserError):
    """Says why an installation was refused, canceled, or failed; of a failure in pip's own words."""


class Installation:
    """Missing packages on their way into Slicer's Python, one command of pip after another.

    Nothing blocks, but for some seconds the extension PyTorch while it gets its light-the-torch. ::

        installation = Installation(lacking, requirementsFile, wheels, onLine)
        installation.start()
        installation.poll()  # from a timer, until it returns False

    The scene plays no part in it: it can be closed meanwhile, and whoever waits must look at it anew afterwards.

    Args:
        lacking: What `missing` has returned.
        requirementsFile: The file that `missing` was asked about; it is asked again at the end.
        wheels: A folder of wheel files, from which everything is taken; None for the network.
        onLine: Called with each line that pip writes, inside of `start` and `poll`.
        command: What runs a module whose name is to follow; by default PythonSlicer.
        temporaryPath: Where pip may unpack; by default the application's temporary folder.
    """

    def __init__(
        self,
        lacking: Missing,
        requirementsFile: str | Path,
        wheels: str | Path | None = None,
        onLine: Callable[[str], None] = print,
        command: list[str] | None = None,
        temporaryPath: str | Path | None = None,
    ) -> None:
        self._lacking, self._requirementsFile, self._onLine = lacking, requirementsFile, onLine
        self._wheels = None if wheels is None else str(wheels)
        self._command, self._temporaryPath = command, temporaryPath
        self._process: PipProcess | None = None
        self._folder: Path | None = None
        self._said: list[str] = []
        self._isPolling = self._isCanceled = False
        # A module that Slicer has loaded keeps its old version until Slicer starts again.
        self.restartFor = tuple(name for name in map(nameOf, lacking.packages) if moduleOf(name) in sys.modules)

    def start(self) -> None:
        """Begin; `isRunning` from here.

        Raises:
            InstallError: Where an installation is under way, or this one cannot begin.
        """
        global _running
        if _running is not None or _isSlicerInstalling():
            raise InstallError(_("An installation is under way."), _("Wait until it has ended."))
        self._refuse()
        self._commands = self._steps()
        place = self._temporaryPath or slicer.app.temporaryPath
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="tonno-pip-", dir=place))
        except OSError as error:
            raise InstallError(
                _("The temporary folder {folder} cannot be used ({error}).").format(folder=place, error=error.strerror),
                _("Choose another in Edit > Application Settings > Modules."),
            ) from None
        _running = self

    def poll(self) -> bool:
        """Hand new lines on, and start the next command when the last has ended.

        Returns:
            Whether the installation goes on. False once, at its end; everything is there then.

        Raises:
            InstallError: Where a command failed, `cancel` was called, or something is still missing at the end.
        """
        if self._isPolling:  # a callback handles events, and a timer is one of them
            return True
        self._isPolling, goesOn = True, False
        try:
            goesOn = self._turn()
        finally:
            self._isPolling = False
            if not goesOn:
                self._end()
        return goesOn

    def cancel(self) -> None:
        """Give up: `poll` raises InstallError, at once or when the files that are being placed are whole."""
        self._isCanceled = True

    def close(self) -> None:
        """End now, because the module or the application ends. Files that are being placed are placed to the end."""
        self._isCanceled = True
        self._end()

    # --- what pip has to do

    def _steps(self) -> Iterator[list[str]]:
        """Yield the commands one by one, each when the one before has succeeded."""
        torch, packages = self._lacking.torch, self._lacking.packages
        asked = [f"torch{TORCH_MINIMUM}", "torchvision"] if torch else []  # timm needs torchvision of the same build
        if torch == "broken":
            yield ["pip", "uninstall", "--yes", "torch", "torchvision"]
        if self._wheels is not None:
            offline = ["--no-index", "--find-links", self._wheels]
            yield ["pip", "install", *offline, *asked, *packages, *self._kept(*asked)]
            return
        if torch:
            self._getLightTheTorch()
        if torch and torchState():
            yield ["light_the_torch", "install", *asked, *self._kept(*asked)]
        if packages:
            yield ["pip", "install", *packages, *self._kept()]

    def _kept(self, *asked: str) -> list[str]:
        """Pin the versions that are there and are not asked to change."""
        changing = {nameOf(requirement) for requirement in (*self._lacking.packages, *asked)}
        versions = {name: versionOf(name) for name in _KEPT if name not in changing}
        return [f"{name}=={text}" for name, text in versions.items() if text and _PLAIN_VERSION.fullmatch(text)]

    def _refuse(self) -> None:
        """Raise InstallError where the first command would fail anyway."""
        if self._wheels is not None and not any(Path(self._wheels).glob("*.whl")):
            raise InstallError(
                _("{folder} holds no wheel files (*.whl).").format(folder=self._wheels),
                _("Choose the folder that holds them; docs/slicer.md says how to fill one."),
            )
        if self._wheels is None and self._lacking.torch and not _hasLightTheTorch() and _extension() is None:
            raise InstallError(
                _("The extension PyTorch is not installed."),
                _("Install it in the Extensions Manager, restart Slicer, and click Apply again."),
            )

    def _getLightTheTorch(self) -> None:
        """Let the extension PyTorch install its tool, as it alone knows from where.

        Takes some seconds, in which Slicer handles events.
        """
        if _hasLightTheTorch():
            return
        logic = _extension().PyTorchUtilsLogic()
        try:
            with contextlib.redirect_stdout(_Lines(self._tell)):
                if hasattr(logic, "_installLightTheTorch"):
                    logic._installLightTheTorch()
                else:  # an extension to come: then all of it by its own way
                    logic.installTorch(askConfirmation=False, torchVersionRequirement=TORCH_MINIMUM)
        except Exception as error:  # pip, the network, the disk; its text is only that a process has failed
            raise self._failure(str(error)) from error
        importlib.invalidate_caches()

    # --- turns

    def _turn(self) -> bool:
        process = self._process
        if process is not None:
            code = process.code
            for line in process.lines():
                self._tell(line)
            if code is None and not (self._isCanceled and process.canBreak):
                return True
            if code and not self._isCanceled:
                raise self._failure(f"exit code {code}")
            self._drop()
        if self._isCanceled:
            raise _canceled()
        arguments = next(self._commands, None)
        if self._isCanceled:  # or closed, in the events that the step before has handled
            raise _canceled()
        if arguments is None:
            self._check()
            return False
        self._begin(arguments)
        return True

    def _begin(self, arguments: list[str]) -> None:
        self._said.clear()
        command = [*(self._command or moduleCommand(None, slicer.app.slicerHome)), *arguments]
        try:
            self._process = PipProcess(command, self._folder)
        except OSError as error:
            raise InstallError(
                _("Slicer's Python cannot be started ({error}).").format(error=error),
                _("Install Slicer again, or choose another Python under Advanced."),
            ) from None

    def _drop(self) -> bool:
        """End the command, unless it places files: then it goes on without us. Returns whether it has ended."""
        process, self._process = self._process, None
        if process is None:
            return True
        if not process.canBreak:
            process.close()
            return False
        process.kill()
        importlib.invalidate_caches()
        return True

    def _tell(self, line: str) -> None:
        self._said.append(line)
        del self._said[:-_LOG_LINES]
        self._onLine(line)

    def _check(self) -> None:
        left = missing(self._requirementsFile)
        if left:
            names = ", ".join(name for name, _size in left.rows())
            raise InstallError(
                _("Still missing after the installation: {names}.").format(names=names),
                _("Restart Slicer and click Apply again, or choose another Python under Advanced."),
            )

    def _failure(self, otherwise: str) -> InstallError:
        cause = causeOf(self._said) or otherwise
        return InstallError(cause, _nextStep("\n".join((*self._said, otherwise)), self._wheels is not None))

    def _end(self) -> None:
        global _running
        if _running is self:
            _running = None
        folder, self._folder = self._folder, None
        if self._drop() and folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


_running: Installation | None = None


def enginePackageFolder() -> Path:
    """Find the folder that holds the package tonno_core, for the engine's PYTHONPATH.

    Returns:
        The folder.

    Raises:
        RuntimeError: If the package is not there.
    """
    spec = find_spec("tonno_core")
    if spec is None:
        raise RuntimeError("the package tonno_core is not beside the module; install the extension again")
    return Path(next(iter(spec.submodule_search_locations))).parent


def moduleCommand(python: str | None, slicerHome: str | Path) -> list[str]:
    """Say how to run a module, whose name is to follow.

    Args:
        python: The chosen interpreter; None for PythonSlicer.
        slicerHome: Slicer's folder.

    Returns:
        The command before the module's name.
    """
    return [python or slicerPython(slicerHome), "-m"]


def slicerPython(slicerHome: str | Path) -> str:
    """Find PythonSlicer, the launcher of Slicer's own Python.

    Args:
        slicerHome: Slicer's folder.

    Returns:
        The path.
    """
    suffix = ".exe" if os.name == "nt" else ""
    beside = Path(slicerHome) / "bin" / f"PythonSlicer{suffix}"
    return str(beside) if beside.is_file() else shutil.which("PythonSlicer") or sys.executable


def engineEnvironment(isOther: bool, startup: dict[str, str] | None = None) -> dict[str, str | None]:
    """List the changes to this process' variables that the engine needs. The engine itself never downloads.

    Args:
        isOther: Whether the interpreter is not Slicer's, so that Slicer's libraries would break it.
        startup: The variables from before Slicer's launcher, which another interpreter gets.

    Returns:
        Values by name; None removes a variable.
    """
    changes: dict[str, str | None] = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    if isOther and startup is not None:
        changes = {name: None for name in os.environ if name not in startup} | dict(startup) | changes
        changes["PYTHONHOME"] = None
    inherited = "" if isOther else os.environ.get("PYTHONPATH", "")
    changes["PYTHONPATH"] = os.pathsep.join(filter(None, (str(enginePackageFolder()), inherited)))
    return changes


def _extension():
    """Import the extension PyTorch's module; None where it is not installed."""
    try:
        import PyTorchUtils
    except ImportError:
        return None
    return PyTorchUtils


def _hasLightTheTorch() -> bool:
    return find_spec("light_the_torch") is not None


def _isSlicerInstalling() -> bool:
    """Whether another module has asked Slicer (5.12 and newer) for packages that are still on their way."""
    try:
        import slicer.packaging
    except ImportError:
        return False
    return slicer.packaging.isPipInstallInProgress()


def _canceled() -> InstallError:
    return InstallError(_("The installation was canceled."), _("Click Apply when you want to be asked again."))


def _nextStep(said: str, isOffline: bool) -> str:
    """What helps against the usual causes, by the words in which pip and Python report them."""
    steps = {
        r"No space left|\[Errno 28\]|not enough space": _("Free space on the disk; PyTorch needs up to 8 GB."),
        r"Permission denied|Access is denied|\[WinError (5|32)\]|\[Errno 13\]|Read-only": _(
            "Close other Slicer windows, restart Slicer, and try again; Slicer's folder must be writable."
        ),
        r"connection broken|NewConnectionError|NameResolution|ProxyError|SSLError|timed out|Max retries exceeded": _(
            "No package index answers: check network and proxy, or choose a folder of wheels, or another Python."
        ),
    }
    for words, step in steps.items():
        if re.search(words, said):
            return step
    if isOffline and "No matching distribution" in said:
        return _("Add that wheel, for this system and for Python {version}, to the folder.").format(
            version=".".join(map(str, sys.version_info[:2]))
        )
    return _("See the log below; then click Apply to try again, or choose another Python under Advanced.")


class _Lines(io.TextIOBase):
    """A standard output that hands whole lines on."""

    def __init__(self, onLine: Callable[[str], None]) -> None:
        self._onLine, self._rest = onLine, ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        for line in whole:
            if line.strip():
                self._onLine(line.rstrip())
        return len(text)
