"""An installation: pip's lines while it runs, its own words when it fails, one at a time, canceled without harm."""

from __future__ import annotations

import json
import os
import sys
import time
import types
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import slicer
from ToNNOSlicerLib import install, packages
from ToNNOSlicerLib.install import Installation, InstallError
from ToNNOSlicerLib.packages import Missing
from ToNNOSlicerLib.pip_process import causeOf

REQUIREMENTS = Path(__file__).resolve().parents[2] / "Resources" / "requirements.txt"
PATIENCE_S = 30.0
TIMM = Missing("", ("timm>=1.0.15",))
# What a person may call a folder; the last as Windows names one on a server.
FOLDERS = ("two words", "it's", 'the "new" wheels', "Räder 车轮", "a & b; $HOME", r"\\server\share\my wheels")


class FakePip:
    """Stands in for PythonSlicer: writes down what it is called with and does what a test says.

    command: starts it. calls: the arguments of each call. go: lets it go on where `act` says ``wait()``.
    """

    SCRIPT = """
import json, os, pathlib, subprocess, sys, time
home = pathlib.Path(os.environ["FAKE_PIP"])
with (home / "calls").open("a", encoding="utf-8") as calls:
    calls.write(json.dumps(sys.argv[1:]) + chr(10))
def wait():
    while not (home / "go").exists():
        time.sleep(0.005)
exec((home / "act.py").read_text(encoding="utf-8"))
"""

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir()
        (home / "fake.py").write_text(self.SCRIPT, encoding="utf-8")
        self.command = [sys.executable, str(home / "fake.py"), "-m"]
        self.act("print('Successfully', sys.argv[3] + 'ed', *sys.argv[4:])")

    def act(self, source: str) -> None:
        (self._home / "act.py").write_text(source, encoding="utf-8")

    @property
    def calls(self) -> list[list[str]]:
        file = self._home / "calls"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [json.loads(line)[1:] for line in lines]  # without -m

    def go(self) -> None:
        (self._home / "go").touch()

    def has(self, name: str) -> bool:
        return (self._home / name).exists()


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePip:
    fake = FakePip(tmp_path / "fake")
    monkeypatch.setenv("FAKE_PIP", str(tmp_path / "fake"))
    return fake


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> dict[str, str | None]:
    """A Python in which exactly these packages are: name to version, None for a folder without a record."""
    names = ("numpy", "scipy", "SimpleITK", "pydicom", "timm", "safetensors", "click", "tqdm", "tabulate", "matplotlib")
    there: dict[str, str | None] = dict.fromkeys((*names, "torch", "torchvision", "light_the_torch"), "99.0")

    def version(name: str) -> str:
        if there.get(name) is None:
            raise packages.metadata.PackageNotFoundError(name)
        return str(there[name])

    monkeypatch.setattr(packages.metadata, "version", version)
    for module in (packages, install):
        monkeypatch.setattr(module, "find_spec", lambda name: object() if name in there else None)
    return there


@pytest.fixture
def make(pip: FakePip, python: dict[str, str | None], tmp_path: Path) -> Any:
    """Makes an `Installation` by the fake pip; what pip says it has installed, is there. Leaves nothing behind."""
    place = tmp_path / "temporary"
    place.mkdir()
    made: list[Any] = []

    def make(found: Missing, wheels: Any = None) -> Any:
        lines: list[str] = []

        def onLine(line: str) -> None:
            lines.append(line)
            if line.startswith("Successfully installed"):
                python.update({packages.nameOf(name): "99.0" for name in line.split()[2:] if name[0] != "-"})

        installation = Installation(found, REQUIREMENTS, wheels, onLine, pip.command, place)
        installation.said = lines
        made.append(installation)
        return installation

    yield make
    assert install._running is None
    assert list(place.iterdir()) == []


def finish(installation: Any) -> None:
    until(lambda: not installation.poll())


def until(done: Any) -> None:
    end = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def hears(installation: Any, text: str) -> None:
    """Poll until a line holds the text."""

    def heard() -> bool:
        assert installation.poll()
        return any(text in line for line in installation.said)

    until(heard)


# --- while it runs


def test_lines_arrive_while_pip_runs_and_nothing_waits(make: Any, pip: FakePip, python: Any) -> None:
    del python["timm"]
    pip.act("print('Downloading timm (2.4 MB)'); wait(); print('Successfully installed timm')")
    installation = make(TIMM)
    installation.start()
    hears(installation, "Downloading timm (2.4 MB)")
    start = time.monotonic()
    assert installation.poll()  # pip waits, we do not
    assert time.monotonic() - start < 0.5
    pip.go()
    finish(installation)
    assert installation.said == ["Downloading timm (2.4 MB)", "Successfully installed timm"]


def test_pips_letters_arrive_whole(make: Any, pip: FakePip, python: Any) -> None:
    """In any language of the system, with a line that is written in two halves, and without the last line's end."""
    del python["timm"]
    pip.act("""
out = sys.stdout.buffer
out.write("Räd".encode()); out.flush(); time.sleep(0.1); out.write("er 车轮\\r\\n\\n".encode())
out.write(b"\\xff broken\\nSuccessfully installed timm"); out.flush()
""")
    installation = make(TIMM)
    installation.start()
    finish(installation)
    assert installation.said == ["Räder 车轮", "\N{REPLACEMENT CHARACTER} broken", "Successfully installed timm"]


def test_a_second_click_starts_no_second_installation(make: Any, pip: FakePip, python: Any) -> None:
    del python["timm"]
    pip.act("wait(); print('Successfully installed timm')")
    first, second = make(TIMM), make(TIMM)
    assert install._running is None
    first.start()
    assert install._running is not None
    with pytest.raises(InstallError, match="An installation is under way"):
        second.start()
    assert first.poll() and install._running is not None
    pip.go()
    finish(first)
    assert len(pip.calls) == 1


def test_events_inside_of_a_line_do_no_harm(make: Any, pip: FakePip, python: Any, monkeypatch: Any) -> None:
    """The panel's log may handle events: its timer polls again, its button starts again, its scene closes."""
    del python["timm"]
    installation = make(TIMM)
    seen = []

    def onLine(line: str) -> None:
        python["timm"] = "99.0"
        seen.append(installation.poll())
        with pytest.raises(InstallError, match="under way"):
            make(TIMM).start()

    monkeypatch.setattr(installation, "_onLine", onLine)
    installation.start()
    finish(installation)
    assert seen == [True]


def test_the_panel_that_closes_inside_of_a_line_ends_it(make: Any, pip: FakePip, monkeypatch: Any) -> None:
    pip.act("print('Collecting timm'); sys.stdout.flush(); wait()")
    installation = make(TIMM)
    monkeypatch.setattr(installation, "_onLine", lambda line: installation.close())
    installation.start()
    with pytest.raises(InstallError, match="canceled"):
        finish(installation)


def test_slicers_own_installations_are_not_disturbed(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    packaging = types.ModuleType("slicer.packaging")
    packaging.isPipInstallInProgress = lambda: True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    with pytest.raises(InstallError, match="under way"):
        make(TIMM).start()


# --- an end before the end


def test_cancel_while_it_downloads_ends_pip_and_its_children(make: Any, pip: FakePip) -> None:
    """PythonSlicer is a launcher: what it has started must end too."""
    child = "import time; time.sleep(100)"
    pip.act(f"p = subprocess.Popen([sys.executable, '-c', {child!r}]); print('child', p.pid, flush=True); wait()")
    installation = make(TIMM)
    installation.start()
    hears(installation, "child")
    pid = int(installation.said[0].split()[1])
    assert installation._process.canBreak
    installation.cancel()
    with pytest.raises(InstallError, match="canceled"):
        installation.poll()
    until(lambda: not _isAlive(pid))


def test_cancel_waits_for_files_that_are_being_placed(make: Any, pip: FakePip) -> None:
    pip.act("print('Installing collected packages: timm', flush=True); wait(); (home / 'placed').touch()")
    installation = make(Missing("", ("timm>=1.0.15", "click>=8.1")))
    installation.start()
    hears(installation, "Installing collected")
    assert not installation._process.canBreak
    installation.cancel()
    assert installation.poll()
    pip.go()
    with pytest.raises(InstallError, match="canceled"):
        finish(installation)
    assert pip.has("placed")


def test_quitting_leaves_no_half_package(
    pip: FakePip, python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer closes while files are being placed: pip places them to the end, though nobody reads its lines."""
    pip.act("print('Installing collected packages: timm', flush=True); wait(); print('x'); (home / 'placed').touch()")
    installation = Installation(TIMM, REQUIREMENTS, None, lambda line: None, pip.command, tmp_path)
    installation.start()
    until(lambda: installation.poll() and not installation._process.canBreak)
    process = installation._process
    installation.close()
    assert install._running is None
    pip.go()
    until(lambda: process.code == 0)
    assert pip.has("placed")


def test_closing_while_it_downloads_ends_it(make: Any, pip: FakePip) -> None:
    pip.act("print('Downloading', flush=True); wait()")
    installation = make(TIMM)
    installation.start()
    hears(installation, "Downloading")
    installation.close()
    installation.close()


# --- a failure


def test_a_failure_says_what_pip_said(make: Any, pip: FakePip) -> None:
    pip.act("""
print("Collecting timm>=1.0.15")
print("ERROR: Could not find a version that satisfies the requirement timm>=1.0.15 (from versions: none)")
print("ERROR: No matching distribution found for timm>=1.0.15")
print("WARNING: There was an error checking the latest version of pip.")
sys.exit(1)
""")
    installation = make(TIMM)
    installation.start()
    with pytest.raises(InstallError) as error:
        finish(installation)
    assert error.value.message == "No matching distribution found for timm>=1.0.15"
    assert "See the log" in error.value.nextStep
    assert len(installation.said) == 4


@pytest.mark.parametrize(
    ("said", "step"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "Free space"),
        ("ERROR: Could not install packages due to an OSError: [WinError 5] Access is denied: 'x.pyd'", "Close other"),
        ("WARNING: connection broken by 'NewConnectionError'\nERROR: No matching", "No package index answers"),
    ],
)
def test_usual_causes_come_with_the_way_out(make: Any, pip: FakePip, said: str, step: str) -> None:
    pip.act(f"print({said!r}); sys.exit(1)")
    installation = make(TIMM)
    installation.start()
    with pytest.raises(InstallError) as error:
        finish(installation)
    assert error.value.nextStep.startswith(step)


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["ERROR: first", "ERROR: last", "note: a hint"], "last"),
        (["error: subprocess-exited-with-error", "  x Failed", "  error: no compiler", "╰─> See above"], "no compiler"),
        (["Traceback:", "OSError: no driver", "WARNING: retry", "[notice] new pip", "  "], "OSError: no driver"),
        ([], ""),
    ],
)
def test_the_cause_is_the_line_that_says_something(lines: list[str], cause: str) -> None:
    assert causeOf(lines) == cause


def test_what_is_still_missing_is_named(make: Any, python: Any) -> None:
    del python["click"]
    installation = make(TIMM)
    installation.start()
    with pytest.raises(InstallError, match=r"Still missing.*click>=8\.1"):
        finish(installation)


def test_a_python_that_cannot_be_started_is_told(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    installation = make(TIMM)
    monkeypatch.setattr(installation, "_command", ["/nowhere/PythonSlicer", "-m"])
    installation.start()
    with pytest.raises(InstallError, match="cannot be started"):
        installation.poll()


def test_a_temporary_folder_that_is_gone_is_told(pip: FakePip, tmp_path: Path) -> None:
    installation = Installation(TIMM, REQUIREMENTS, None, print, pip.command, tmp_path / "gone")
    with pytest.raises(InstallError, match=r"gone cannot be used \(No such file"):
        installation.start()
    assert install._running is None


# --- what pip is asked for


def test_slicers_numpy_and_the_torch_of_another_extension_stay(make: Any, pip: FakePip, python: Any) -> None:
    """pip may replace neither what Slicer has loaded nor a build of PyTorch that another extension chose."""
    del python["timm"]
    python.update({"numpy": "2.0.2", "torch": "2.9.0+cu126", "torchvision": None, "SimpleITK": "2.5.0"})
    installation = make(TIMM)
    installation.start()
    finish(installation)
    assert pip.calls == [["pip", "install", "timm>=1.0.15", "numpy==2.0.2", "SimpleITK==2.5.0", "torch==2.9.0+cu126"]]


@pytest.mark.parametrize(
    ("version", "isPinned"), [("2.5.0.dev3+gab12", True), ("2.9.0a0+git", True), ("2.5-g7", False)]
)
def test_a_version_that_pip_would_refuse_stops_nothing(make: Any, python: Any, version: str, isPinned: bool) -> None:
    python["SimpleITK"] = version
    assert (f"SimpleITK=={version}" in make(TIMM)._kept()) == isPinned


def test_torch_comes_by_the_extensions_tool_and_not_into_this_process(
    make: Any, pip: FakePip, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logic:
        @staticmethod
        def _installLightTheTorch() -> None:
            print("Collecting light-the-torch")  # as Slicer's pip_install does
            python["light_the_torch"] = "0.8"

        def installTorch(self, **arguments: Any) -> None:
            pytest.fail("it would stop the window for minutes, and import torch here")

    for name in ("torch", "torchvision", "light_the_torch", "timm"):
        del python[name]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    installation = make(Missing("missing", ("timm>=1.0.15",)))
    installation.start()
    finish(installation)
    ours = ["torch>=2.5", "torchvision", "numpy==99.0", "SimpleITK==99.0"]
    theirs = ["timm>=1.0.15", "numpy==99.0", "SimpleITK==99.0", "torch==99.0", "torchvision==99.0"]
    assert pip.calls == [["light_the_torch", "install", *ours], ["pip", "install", *theirs]]
    assert installation.said[0] == "Collecting light-the-torch"


def test_an_extension_without_that_tool_does_all_by_itself(
    make: Any, pip: FakePip, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logic:
        def installTorch(self, askConfirmation: bool, torchVersionRequirement: str) -> None:
            assert not askConfirmation and torchVersionRequirement == ">=2.5"
            python["torch"] = "99.0"

    del python["torch"], python["light_the_torch"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    installation = make(Missing("missing", ()))
    installation.start()
    finish(installation)
    assert pip.calls == []


def test_a_failure_of_the_extensions_tool_says_what_pip_said(
    make: Any, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Logic:
        @staticmethod
        def _installLightTheTorch() -> None:
            print("ERROR: No matching distribution found for light-the-torch")
            raise RuntimeError("Command '['PythonSlicer', '-m', 'pip']' returned non-zero exit status 1.")

    del python["torch"], python["light_the_torch"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=Logic))
    installation = make(Missing("missing", ()))
    installation.start()
    with pytest.raises(InstallError) as error:
        finish(installation)
    assert error.value.message == "No matching distribution found for light-the-torch"


def test_half_a_torch_is_removed_first(make: Any, pip: FakePip, python: Any) -> None:
    python["torch"] = None  # its folder is there, its record is not
    assert packages.torchState() == "broken"
    installation = make(packages.missing(REQUIREMENTS))
    installation.start()
    finish(installation)
    assert [call[:2] for call in pip.calls] == [["pip", "uninstall"], ["light_the_torch", "install"]]
    assert "--yes" in pip.calls[0]


def test_without_the_extension_pytorch_it_says_where_to_get_it(
    make: Any, pip: FakePip, python: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    del python["light_the_torch"]
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)  # its import fails
    with pytest.raises(InstallError, match="extension PyTorch is not installed") as error:
        make(Missing("broken", ())).start()
    assert "Extensions Manager" in error.value.nextStep and pip.calls == []


def test_a_loaded_package_that_is_replaced_asks_for_a_restart(make: Any) -> None:
    assert make(Missing("", ("numpy>=1.26", "no-such-package>=1"))).restartFor == ("numpy",)  # the test has it loaded


# --- from a folder of wheels


@pytest.mark.parametrize("name", FOLDERS)
def test_any_folder_of_wheels_reaches_pip_as_it_is_called(
    make: Any, pip: FakePip, python: Any, tmp_path: Path, name: str
) -> None:
    wheels = tmp_path / name
    wheels.mkdir()
    del python["timm"]
    with pytest.raises(InstallError, match=r"no wheel files \(\*\.whl\)"):
        make(TIMM, wheels).start()
    (wheels / "timm-1.0.20-py3-none-any.whl").touch()
    installation = make(TIMM, wheels)
    installation.start()
    finish(installation)
    assert pip.calls[0][:5] == ["pip", "install", "--no-index", "--find-links", str(wheels)]


def test_wheels_need_neither_network_nor_extension(
    make: Any, pip: FakePip, python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timm.whl").touch()
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    del python["torch"], python["light_the_torch"], python["timm"]
    installation = make(Missing("missing", ("timm>=1.0.15",)), tmp_path)
    installation.start()
    finish(installation)
    (call,) = pip.calls
    assert call[4:] == [
        str(tmp_path), "torch>=2.5", "torchvision", "timm>=1.0.15", "numpy==99.0", "SimpleITK==99.0",
    ]  # fmt: skip


@pytest.mark.skipif(not any(metadata.distributions(name="pip")), reason="pip is not installed here")
def test_real_pip_finds_wheels_in_any_folder_and_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip itself, without network; it only says what it would install."""
    monkeypatch.setenv("PIP_DRY_RUN", "1")
    monkeypatch.setattr(install, "missing", lambda file: Missing("", ()))
    wheels = tmp_path / "Räder 'n' \"wheels\" \\ 车轮"
    _wheel(wheels, "tonnotiny", "1.5")
    lines: list[str] = []

    def installation(requirement: str) -> Any:
        more = {"command": [sys.executable, "-m"], "temporaryPath": tmp_path}
        made = Installation(Missing("", (requirement,)), REQUIREMENTS, wheels, lines.append, **more)
        made.start()
        return made

    finish(installation("tonnotiny>=1"))
    assert "Would install tonnotiny-1.5" in lines
    with pytest.raises(InstallError) as error:
        finish(installation("tonnotiny>=2"))
    assert error.value.message == "No matching distribution found for tonnotiny>=2"
    assert error.value.nextStep.startswith("Add that wheel, for this system and for Python 3.")
    assert not list(tmp_path.glob("tonno-pip-*"))


def _wheel(folder: Path, name: str, version: str) -> None:
    folder.mkdir()
    record = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{record}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{record}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{record}/RECORD", "")


def _isAlive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
