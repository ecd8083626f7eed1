"""Nothing heavy is imported into the application while somebody works with the panel: the window would wait for it.

A process of its own, in which none of the heavy libraries can be imported, opens the module, loads the sample, runs,
drags, corrects, compares, and writes what is written at once.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

HEAVY = ("torch", "timm", "scipy", "SimpleITK", "matplotlib", "pandas", "highdicom", "pydicom")
_USE = """
import sys
from pathlib import Path

HEAVY = set({heavy!r})


class Refusing:
    tried = []

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            self.tried.append(name)
            raise ImportError(f"{{name}} is heavy")


sys.meta_path.insert(0, Refusing())
from slicer_host import provide_i18n

provide_i18n()
import numpy as np
import slicer, slicer.util
from qt_host import QtHost

host = QtHost()
from computing import Computing
from pythonqt import unwrap
from walk import MODULE
from ToNNOSlicerLib import ask, install
from ToNNOSlicerLib.panel import Panel

folder = Path({folder!r})
install.missing = lambda path: install.Missing("", ())
ask.choose = lambda title, text, choices, details="": next(iter(choices))
Panel._client = staticmethod(lambda choices: Computing(folder))
widget = host.loadModule(MODULE)
ui = widget.ui


def done():
    return ui.runButton.enabled


def export(button, name):
    host.answers.append(("save", str(folder.parent / name)))
    button.click()
    assert (folder.parent / name).exists(), ui.messageLabel.text


ui.sampleButton.click()
host.process(0.2)
for method in (0, 1):
    ui.methodSelector.currentIndex = method
    ui.runButton.click()
    assert not done(), ui.messageLabel.text
    assert host.process(60, done), ui.statusLabel.text
assert ui.findingsTable.rowCount, ui.messageLabel.text
first, second = (ui.heatmapSelector.nodeFromIndex(n) for n in (0, 1))
unwrap(ui.thresholdSlider).drag([2.0, 3.5, 4.0])
ui.smallestBox.value = 10.0
ui.otsuButton.click()
ui.modelThresholdButton.click()
ui.undoButton.click()
ui.redoButton.click()
unwrap(ui.findingsTable).cellClicked.emit(0, 0)
ui.acceptButton.click()
ui.diametersCheck.checked = True
ui.newSegmentButton.click()
ui.whySection.collapsed = ui.editorSection.collapsed = ui.compareSection.collapsed = False
ui.priorSelector.setCurrentNode(first)
ui.surfaceCheck.checked = True
ui.show3DButton.click()
ui.show3DButton.click()
host.process(0.2)
export(ui.exportSegmentationButton, "s.seg.nrrd")
export(ui.exportSegmentationButton, "s.stl")
export(ui.exportFindingsButton, "f.csv")
ui.copyReportButton.click()
unwrap(ui.findingsTable).cellClicked.emit(0, 0)
ui.removeFindingButton.click()
host.process(0.2)
host.load(host.save(folder.parent / "scene"))
host.process(0.2)
widget.exit()
said = host.messages.text
host.close()
print("tried:", *Refusing.tried)
print("loaded:", *(HEAVY & set(sys.modules)))
print("said:", said)
"""


@pytest.fixture
def report(tmp_path: Path) -> dict[str, str]:
    """What the process printed, by topic."""
    here, module = Path(__file__).parent, Path(__file__).parents[2]
    folder = tmp_path / "engine"
    folder.mkdir()
    code = _USE.format(heavy=HEAVY, folder=str(folder))
    paths = f"import sys; sys.path[:0] = {[str(here), str(module), str(module.parent)]!r}\n"
    done = subprocess.run([sys.executable, "-c", paths + code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (line.partition(": ") for line in done.stdout.splitlines())
    return {topic.rstrip(":"): text.strip() for topic, _colon, text in lines}


def test_a_whole_session_imports_nothing_heavy(report: dict[str, str]) -> None:
    assert report["tried"] == "" and report["loaded"] == ""
    assert report["said"] == ""
