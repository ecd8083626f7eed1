"""On a build machine nobody answers: questions cancel themselves, and the module's own test says why it is skipped."""

from __future__ import annotations

import io
import sys
import time
import unittest
from pathlib import Path
from typing import Any

import pytest
import slicer
from ToNNOSlicerLib import install
from walk import MODULE, opened

MISSING = install.Missing("missing", ("timm>=1.0.15",))


@pytest.fixture
def unattended(qtHost: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The application as ``Slicer --testing`` starts it. A question fails the test: nothing is laid out to answer."""
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: True)
    yield qtHost
    assert qtHost.asked == []


def runUnitTest() -> tuple[unittest.TestResult, str]:
    """As ``slicer.testing.runUnitTest`` does, which CTest starts in the application: all tests of the module's file."""
    said = io.StringIO()
    suite = unittest.TestLoader().loadTestsFromModule(sys.modules["ToNNOSlicer"])
    return unittest.TextTestRunner(said, verbosity=2).run(suite), said.getvalue()


def test_the_modules_test_is_skipped_where_packages_are_missing(unattended: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(install, "missing", lambda file: MISSING)
    unattended.loadModule(MODULE)
    start = time.monotonic()
    result, said = runUnitTest()
    assert time.monotonic() - start < 5
    assert result.wasSuccessful(), said
    ((test, reason),) = result.skipped
    assert test.id().endswith("test_sampleToSegmentation")
    assert reason.startswith("the engine's packages are missing (PyTorch, timm>=1.0.15)")


def test_a_skipped_test_leaves_the_scene_alone(unattended: Any, monkeypatch: Any, caplog: Any) -> None:
    """Reload and Test has no runner, so that the module's test tells the reason itself."""
    monkeypatch.setattr(install, "missing", lambda file: MISSING)
    opened(unattended)
    sys.modules["ToNNOSlicer"].ToNNOSlicerTest().runTest()
    assert "skipped: the engine's packages are missing" in caplog.text
    assert unattended.scene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode") is not None


def test_a_python_of_the_users_own_is_trusted_by_the_test(unattended: Any, monkeypatch: Any) -> None:
    import qt
    from ToNNOSlicerLib.choices import Choices

    monkeypatch.setattr(install, "missing", lambda file: MISSING)
    qt.QSettings().setValue(Choices.PYTHON, sys.executable)
    widget = unattended.loadModule(MODULE)
    assert sys.modules["ToNNOSlicer"]._reasonToSkip(widget) == ""


def test_reconstruct_asks_nobody_and_installs_nothing(unattended: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(install, "missing", lambda file: MISSING)
    monkeypatch.setattr(install, "Installation", lambda *_arguments, **_more: pytest.fail("nobody agreed"))
    widget = opened(unattended)
    widget.ui.runButton.click()
    assert not widget.panel.session.running.isRunning


def test_every_question_answers_itself(unattended: Any) -> None:
    from ToNNOSlicerLib import ask
    from ToNNOSlicerLib.logic.errors import EditedByHandError

    assert ask.howToInstall([("PyTorch", "200 MB")]) == ask.CANCEL
    assert ask.aboutHandWork(EditedByHandError("changed", "do")) == ask.CANCEL
    assert ask.choose("title", "text", {"key": "Button"}) == ask.CANCEL
    assert not ask.otherModality("MR", "CT")
    assert ask.folder("title") == ask.openFile("title") == ask.saveFile("title", "name", "All (*)") == ""


def test_no_question_is_asked_past_the_one_place() -> None:
    """So that the answers above hold for questions to come."""
    library = Path(install.__file__).parent
    for file in library.rglob("*.py"):
        if file.name != "ask.py":
            text = file.read_text(encoding="utf-8")
            assert not any(name in text for name in ("QMessageBox", "QFileDialog", "QInputDialog", "exec_(")), file
