"""Nothing happens before a click; what is missing is asked about once; what is chosen is what starts."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
from ToNNOSlicerLib import install

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = ROOT / "ToNNOSlicer" / "Resources" / "requirements.txt"


def test_opening_the_module_imports_no_torch_and_starts_nothing() -> None:
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
def refuse(*arguments, **more):
    raise AssertionError("a process was started")
subprocess.Popen.__init__ = refuse
from walk import MODULE
widget = host.loadModule(MODULE)
host.process(0.2)
widget.ui.sampleButton.click()
host.process(0.2)
assert widget.panel.parameters.inputVolume is not None
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


# --- what is missing


@pytest.fixture
def installed(monkeypatch):
    """A Python in which exactly these packages are: name to version, None for a folder without a record."""
    packages = {"torch": "2.9.0+cpu", "numpy": "2.0.2", "scipy": "1.15.0", "SimpleITK": "2.4"}
    packages |= {"timm": "1.0.20", "safetensors": "0.5", "click": "8.2", "tqdm": "4.67", "tabulate": "0.9.0"}
    packages |= {"matplotlib": "3.10.1"}

    def version(name):
        if packages.get(name) is None:
            raise install.metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(install.metadata, "version", version)
    monkeypatch.setattr(install, "find_spec", lambda name: object() if name in packages else None)
    return packages


def test_nothing_is_missing_where_everything_is(installed) -> None:
    assert not install.missing(REQUIREMENTS)


def test_what_is_missing_is_listed_with_its_size(installed) -> None:
    del installed["timm"], installed["torch"]
    installed["scipy"] = "1.9.3"  # too old
    found = install.missing(REQUIREMENTS)
    assert found == install.Missing("missing", ("scipy>=1.11", "timm>=1.0.15"))
    rows = dict(found.rows())
    assert rows["timm>=1.0.15"] == "3 MB" and "200 MB" in rows["PyTorch"] and "3 GB" in rows["PyTorch"]


def test_half_a_torch_is_broken(installed) -> None:
    installed["torch"] = None  # the folder is there, its record is not
    assert install.missing(REQUIREMENTS).torch == "broken"


def test_versions_compare_as_numbers(installed) -> None:
    installed["tqdm"] = "4.9"  # 9 < 66, though "9" > "66"
    assert install.missing(REQUIREMENTS).packages == ("tqdm>=4.66",)


# --- what is installed


@pytest.fixture
def slicer_tools(monkeypatch, installed):
    """Stand-ins for PyTorchUtils, slicer.packaging and pip, that remember their calls and do as told."""
    calls: list[tuple] = []

    class Logic:
        def installTorch(self, askConfirmation, torchVersionRequirement):
            calls.append(("torch", torchVersionRequirement))
            installed["torch"] = "2.9.0"
            return object()

        def uninstallTorch(self):
            calls.append(("uninstall torch",))

    def pip_install(arguments):
        calls.append(("pip", arguments))
        installed.update({"timm": "1.0.20", "torch": "2.9.0"})

    def pip_ensure(requirements, requester, prompt_install):
        calls.append(("ensure", requirements, requester, prompt_install))
        installed["timm"] = "1.0.20"

    slicer = types.ModuleType("slicer")
    slicer.util = types.ModuleType("slicer.util")
    slicer.util.pip_install = pip_install
    packaging = types.ModuleType("slicer.packaging")
    packaging.pip_ensure, packaging.load_requirements = pip_ensure, lambda path: [Path(path).name]
    torch = types.ModuleType("PyTorchUtils")
    torch.PyTorchUtilsLogic = Logic
    for name, module in (("slicer", slicer), ("slicer.util", slicer.util), ("PyTorchUtils", torch)):
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(calls=calls, slicer=slicer, packaging=packaging, monkeypatch=monkeypatch)


def test_slicer_512_installs_by_packaging(slicer_tools, installed) -> None:
    slicer_tools.slicer.packaging = slicer_tools.packaging
    slicer_tools.monkeypatch.setitem(sys.modules, "slicer.packaging", slicer_tools.packaging)
    del installed["torch"], installed["timm"]
    install.install(install.missing(REQUIREMENTS), REQUIREMENTS)
    assert slicer_tools.calls == [("torch", ">=2.5"), ("ensure", ["requirements.txt"], "ToNNO", False)]


def test_slicer_510_installs_by_pip(slicer_tools, installed) -> None:
    slicer_tools.monkeypatch.setitem(sys.modules, "slicer.packaging", None)  # ImportError
    del installed["timm"]
    install.install(install.missing(REQUIREMENTS), REQUIREMENTS)
    assert slicer_tools.calls == [("pip", '"timm>=1.0.15"')]


def test_broken_torch_is_removed_first(slicer_tools, installed) -> None:
    installed["torch"] = None
    install.install(install.missing(REQUIREMENTS), REQUIREMENTS)
    assert slicer_tools.calls == [("uninstall torch",), ("torch", ">=2.5")]


def test_wheels_of_a_folder_need_no_network(slicer_tools, installed, tmp_path) -> None:
    del installed["torch"], installed["timm"]
    with pytest.raises(RuntimeError, match="no wheel files"):
        install.install(install.missing(REQUIREMENTS), REQUIREMENTS, tmp_path)
    (tmp_path / "timm-1.0.20-py3-none-any.whl").touch()
    install.install(install.missing(REQUIREMENTS), REQUIREMENTS, tmp_path)
    expected = f'--no-index --find-links "{tmp_path}" "torch>=2.5" "timm>=1.0.15"'
    assert slicer_tools.calls == [("pip", expected)]


def test_an_installation_that_left_something_out_says_what(slicer_tools, installed) -> None:
    slicer_tools.monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    del installed["click"]
    with pytest.raises(RuntimeError, match=r"still missing.*click>=8\.1"):
        install.install(install.missing(REQUIREMENTS), REQUIREMENTS)


def test_without_the_extension_pytorch_it_says_where_to_get_it(slicer_tools, installed) -> None:
    slicer_tools.monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    del installed["torch"]
    with pytest.raises(RuntimeError, match="Extensions Manager"):
        install.install(install.missing(REQUIREMENTS), REQUIREMENTS)


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


def test_one_question_lists_everything_and_cancel_installs_nothing(qtHost, panel, monkeypatch) -> None:
    monkeypatch.setattr(install, "install", lambda *_arguments: pytest.fail("nobody agreed"))
    qtHost.answers.append(("message", "Cancel"))
    panel.ui.runButton.click()
    ((_kind, question),) = qtHost.asked
    assert "PyTorch: 200 MB for the CPU" in question and "timm>=1.0.15: 3 MB" in question
    assert panel.controller.state == "idle" and "Nothing was installed" in panel.ui.messageLabel.text


def test_a_failed_installation_shows_the_last_line_and_the_way_out(qtHost, panel, monkeypatch) -> None:
    def fail(found, requirements, wheels):
        raise RuntimeError("a long story\nCould not find a version of timm")

    monkeypatch.setattr(install, "install", fail)
    qtHost.answers.append(("message", "Download and install"))
    panel.ui.runButton.click()
    assert "Could not find a version of timm" in panel.ui.messageLabel.text
    assert "[" not in panel.ui.messageLabel.text  # text, no list of Python's
    assert "a long story" in panel.ui.logText.plainText
    panel.ui.copyLogButton.click()
    import qt

    assert "a long story" in qt.QApplication.clipboard().text()


def test_a_folder_of_wheels_is_handed_on(qtHost, panel, monkeypatch, tmp_path) -> None:
    seen = []
    monkeypatch.setattr(install, "install", lambda found, requirements, wheels: seen.append(wheels))
    qtHost.answers.extend([("message", "From a folder of wheels..."), ("folder", str(tmp_path))])
    assert panel._hasPackages()
    assert seen == [str(tmp_path)]


def test_another_python_is_remembered_and_trusted(qtHost, panel) -> None:
    qtHost.answers.extend([("message", "Use another Python..."), ("open", sys.executable)])
    assert panel._hasPackages()
    assert panel.input.python == sys.executable == panel.ui.pythonPathLabel.text
    assert panel.controller.client._command[0] == sys.executable
    assert panel._hasPackages()  # no second question
    assert len(qtHost.asked) == 2


class SampleDataLogic:
    """The static method that a module's template calls when the application has started, by its documentation."""

    sources: ClassVar[list] = []

    @staticmethod
    def registerCustomSampleDataSource(
        category="Custom",
        sampleName=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileType="VolumeFile",
        loadFiles=None,
        loadFileProperties=None,
        checksums=None,
    ) -> None:
        # One of each, or lists of one length; None for the address is no list there.
        assert all(isinstance(one, str) for one in (uris, fileNames, nodeNames))
        source = SimpleNamespace(category=category, name=sampleName, thumbnail=thumbnailFileName, load=customDownloader)
        SampleDataLogic.sources.append(source)


def test_sample_is_listed_in_sample_data(qtHost, monkeypatch) -> None:
    """And the panel's own button works without it; see the tests of the panel."""
    import slicer.util
    from walk import MODULE

    module = ModuleType("SampleData")
    module.SampleDataLogic = SampleDataLogic
    monkeypatch.setitem(sys.modules, "SampleData", module)
    monkeypatch.setattr(SampleDataLogic, "sources", [])
    qtHost.loadModule(MODULE)
    assert not SampleDataLogic.sources  # nothing at import
    qtHost.completeStartup()
    (source,) = SampleDataLogic.sources
    assert (source.category, source.name) == ("ToNNO", "ToNNO sample")
    assert Path(source.thumbnail).is_file()
    source.load(source)  # as the button in Sample Data calls it
    (node,) = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
    assert node.GetName() == "ToNNO sample"
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert view.GetBackgroundVolumeID() == node.GetID()


def test_without_sample_data_the_application_starts(qtHost, monkeypatch) -> None:
    from walk import MODULE

    monkeypatch.setitem(sys.modules, "SampleData", None)  # its import fails
    qtHost.loadModule(MODULE)
    qtHost.completeStartup()
