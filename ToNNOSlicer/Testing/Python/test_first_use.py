"""Nothing happens before a volume is there; what is missing is asked about once; what is chosen is what starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
from ToNNOSlicerLib import install, packages

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "ToNNOSlicer" / "Resources" / "requirements.txt"


def test_opening_the_module_imports_no_torch_and_starts_nothing_but_the_engine_once_there_is_a_volume() -> None:
    """A fresh Python in which torch, timm and a new process raise; the panel opens and the sample is drawn."""
    pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
    pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
    code = """
import subprocess, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "torchvision", "safetensors", "matplotlib", "pip"):
            raise AssertionError(f"{name} was imported")
sys.meta_path.insert(0, Blocked())
from qt_host import QtHost
host = QtHost()
started = []
def refuse(self, command, **more):
    started.append(command)
    raise OSError("no process can be started")
subprocess.Popen.__init__ = refuse
from ToNNOSlicerLib import install
install.missing = lambda path: install.Missing("", ("timm",))
from walk import MODULE
widget = host.loadModule(MODULE)
host.process(0.2)
widget.ui.sampleButton.click()
host.process(0.2)
assert not started, started
install.missing = lambda path: install.Missing("", ())
assert not started, started
widget.ui.sampleButton.click()
host.process(0.2)
(command,) = started
assert command[-1] == "--ahead" and "tonno_core.worker" in command
assert widget.panel.session.parameters.inputVolume is not None
assert not host.asked, host.asked
host.close()
print("opened")
"""
    path = os.pathsep.join(map(str, (ROOT / "ToNNOSlicer" / "Testing" / "Python", ROOT / "ToNNOSlicer", ROOT)))
    environment = {**os.environ, "PYTHONPATH": path}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.stdout.strip() == "opened", result.stderr[-3000:]


def test_the_modules_face_names_its_makers_and_links_its_documentation(qtHost) -> None:
    """What Slicer's Extensions Index asks for: a link in the help, and contributors as Name (Organization)."""
    from walk import MODULE

    qtHost.loadModule(MODULE)
    face = types.SimpleNamespace(path=str(MODULE))
    module = sys.modules["ToNNOSlicer"]
    module.ToNNOSlicer(face)
    links = re.findall(r'<a href="([^"]+)">[^<]+</a>', face.helpText + face.acknowledgementText)
    assert links == [module.DOCUMENTATION, module.PAPER]
    home, _blob, page = module.DOCUMENTATION.partition("/blob/main/")
    assert (ROOT / page).is_file() and f'"{home}"' in (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert all(re.fullmatch(r"[^()]+ \([^()]+\)", text) for text in face.contributors)
    assert "not for diagnosis" in face.helpText and "{" not in face.helpText + face.acknowledgementText


# --- what is missing


@pytest.fixture
def installed(monkeypatch):
    """A Python in which exactly these packages are: name to version, None where a broken-off pip left half a record."""
    there = {"torch": "2.9.0+cpu", "numpy": "2.0.2", "scipy": "1.15.0", "SimpleITK": "2.4"}
    there |= {"timm": "1.0.20", "safetensors": "0.5", "click": "8.2", "tqdm": "4.67", "tabulate": "0.9.0"}
    there |= {"pydicom": "3.0", "matplotlib": "3.10.1"}

    def version(name):
        if name not in there:
            raise packages.metadata.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(packages.metadata, "version", version)
    monkeypatch.setattr(packages, "find_spec", lambda name: object() if name in there else None)
    return there


def test_nothing_is_missing_where_everything_is(installed) -> None:
    assert not packages.missing(REQUIREMENTS)


def test_what_is_missing_is_listed_with_its_size(installed) -> None:
    del installed["timm"], installed["torch"]
    installed["scipy"] = "1.9.3"  # too old
    found = packages.missing(REQUIREMENTS)
    assert found == packages.Missing("missing", ("scipy>=1.11", "timm>=1.0.15"))
    rows = dict(found.rows())
    assert rows["timm>=1.0.15"] == "3 MB" and "200 MB" in rows["PyTorch"] and "3 GB" in rows["PyTorch"]


def test_half_a_torch_is_broken(installed) -> None:
    installed["torch"] = None  # the folder is there, its record is not whole
    assert packages.missing(REQUIREMENTS).torch == "broken"


def test_half_a_record_is_no_package(installed) -> None:
    installed["timm"] = None
    assert packages.missing(REQUIREMENTS).packages == ("timm>=1.0.15",)


def test_versions_compare_as_numbers(installed) -> None:
    installed["tqdm"] = "4.9"  # 9 < 66, though "9" > "66"
    assert packages.missing(REQUIREMENTS).packages == ("tqdm>=4.66",)


# --- what is started


def test_engine_is_started_with_slicers_python_or_the_chosen_one(tmp_path) -> None:
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.touch()
    expected = str(launcher) if os.name != "nt" else install.slicerPython(tmp_path)
    assert install.moduleCommand(None, tmp_path) == [expected, "-m"]
    assert install.moduleCommand("/opt/python", tmp_path)[0] == "/opt/python"


def test_another_python_gets_the_environment_from_before_slicer(monkeypatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/slicer/lib")
    monkeypatch.setenv("PYTHONPATH", "/slicer/python")
    monkeypatch.setenv("PYTHONHOME", "/slicer")
    changes = install.engineEnvironment(isOther=True, startup={"PATH": "/usr/bin"})
    assert changes["LD_LIBRARY_PATH"] is None and changes["PYTHONHOME"] is None
    assert changes["PATH"] == "/usr/bin"
    assert changes["PYTHONPATH"] == str(install.enginePackageFolder())
    own = install.engineEnvironment(isOther=False)
    assert "LD_LIBRARY_PATH" not in own  # stays as it is
    assert own["PYTHONPATH"] == os.pathsep.join((str(install.enginePackageFolder()), "/slicer/python"))


# --- the question


@pytest.fixture
def panel(qtHost, monkeypatch):
    from walk import opened

    widget = opened(qtHost)
    monkeypatch.setattr(install, "missing", lambda path: install.Missing("missing", ("timm>=1.0.15",)))
    return widget.panel


@pytest.fixture
def installation(monkeypatch, panel):
    """An installation that the test leads: `lines` come with the next turns, `error` ends it, `done` too."""
    made = SimpleNamespace(lines=[], error=None, done=False, canceled=False, wheels=None, count=0)

    class Led:
        restartFor = ()

        def __init__(self, lacking, requirements, wheels, onLine, temporaryPath=None):
            made.wheels, made.count, self._onLine = wheels, made.count + 1, onLine

        def start(self):
            """Nothing of it is known yet."""

        def poll(self):
            while made.lines:
                self._onLine(made.lines.pop(0))
            if made.error is not None:
                raise made.error
            return not made.done

        def cancel(self):
            made.canceled = True
            made.error = install.InstallError("The installation was canceled.", "Click Apply to try again.")

        def close(self):
            """The module ends."""

    monkeypatch.setattr(install, "Installation", Led)
    return made


def test_one_question_lists_everything_and_cancel_installs_nothing(qtHost, panel, installation) -> None:
    qtHost.answers.append(("message", "Cancel"))
    panel.ui.runButton.click()
    ((_kind, question),) = qtHost.asked
    assert "PyTorch: 200 MB for the CPU" in question and "timm>=1.0.15: 3 MB" in question
    assert not panel.session.running.isRunning and "Nothing was installed" in panel.ui.messageLabel.text
    assert installation.count == 0


def test_while_it_installs_the_panel_is_busy_and_shows_pips_lines(qtHost, panel, installation) -> None:
    qtHost.answers.append(("message", "Download and install"))
    panel.ui.runButton.click()
    installation.lines.append("Downloading timm")
    assert qtHost.process(5, lambda: "Downloading timm" in panel.ui.logText.plainText)
    ui = panel.ui
    assert ui.progressBar.isVisibleTo(ui.ToNNOSlicer) and ui.cancelButton.enabled and not ui.runButton.enabled
    assert "Installing packages" in ui.statusLabel.text
    panel.session.start()  # a script, or a shortcut: the button is off
    assert "An installation is under way" in ui.messageLabel.text and installation.count == 1
    qtHost.scene.Clear(0)  # nothing of it is in the scene
    installation.done = True
    assert qtHost.process(5, lambda: ui.runButton.enabled)
    assert "The packages are installed" in ui.messageLabel.text
    panel.ui.copyLogButton.click()
    import qt

    assert "Downloading timm" in qt.QApplication.clipboard().text()


def test_a_failed_installation_tells_pips_cause_and_the_way_out(qtHost, panel, installation) -> None:
    qtHost.answers.append(("message", "Download and install"))
    panel.ui.runButton.click()
    installation.error = install.InstallError("Could not find a version of timm", "See the log.")
    assert qtHost.process(5, lambda: panel.session.isIdle)
    assert panel.ui.messageLabel.text == "Problem: Could not find a version of timm\nSee the log."


def test_an_installation_is_canceled_by_the_button(qtHost, panel, installation) -> None:
    qtHost.answers.append(("message", "Download and install"))
    panel.ui.runButton.click()
    panel.ui.cancelButton.click()
    assert installation.canceled
    assert qtHost.process(5, lambda: panel.session.isIdle)
    assert "canceled" in panel.ui.messageLabel.text


def test_a_folder_of_wheels_is_handed_on(qtHost, panel, installation, tmp_path) -> None:
    qtHost.answers.extend([("message", "From a folder of wheels..."), ("folder", str(tmp_path))])
    panel.ui.runButton.click()
    assert installation.wheels == str(tmp_path)


def test_another_python_is_remembered_and_trusted(qtHost, panel) -> None:
    session = panel.session
    qtHost.answers.extend([("message", "Use another Python..."), ("open", sys.executable)])
    assert session.installing.hasPackages()
    session.refresh()
    assert session.choices.python == sys.executable == panel.ui.pythonPathLabel.text
    assert session.running.controller.client._command[0] == sys.executable
    assert session.installing.hasPackages()  # no second question
    assert len(qtHost.asked) == 2
