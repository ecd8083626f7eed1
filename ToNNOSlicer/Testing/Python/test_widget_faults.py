"""What goes wrong in the middle of a run, with the real engine's process: a clear message, and a module that works."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc to see which processes are left"),
]


@pytest.fixture(scope="module")
def path():
    from qt_host import QtHost
    from walk import opened

    host = QtHost()
    widget = opened(host)
    widget.ui.directionsBox.value = 24
    yield SimpleNamespace(host=host, widget=widget, panel=widget.panel, ui=widget.ui)
    host.close()


@pytest.fixture(autouse=True)
def silent(path):
    """VTK and MRML have nothing to say about any of it."""
    yield
    said = path.host.messages.take()
    assert not said, said


def volumes() -> list[str]:
    import slicer.util

    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]


def test_killed_engine_is_told_and_replaced(path) -> None:
    from walk import begin, enginePids, isAlive

    begin(path.host, path.widget)
    (pid,) = enginePids(path.widget)
    os.kill(pid, signal.SIGKILL)
    assert path.host.process(5, lambda: path.panel.session.running.controller.state == "idle")
    assert "exit code -9" in path.ui.messageLabel.text and "Click Apply" in path.ui.messageLabel.text
    assert not isAlive(pid)
    assert volumes() == ["ToNNO sample"]  # no half heatmap
    assert path.ui.runButton.enabled and not path.ui.progressBar.visible


def test_cancel_answers_within_a_second(path, figure) -> None:
    """At three random moments of a run; the first of them starts the new engine."""
    from walk import begin

    rng, longest = random.Random(4), 0.0
    for _n in range(3):
        begin(path.host, path.widget, percent=rng.uniform(1, 40))
        assert not path.ui.messageLabel.text  # the last failure is forgotten
        start = time.monotonic()
        path.ui.cancelButton.click()
        assert path.host.process(5, lambda: path.panel.session.running.controller.state == "idle")
        longest = max(longest, time.monotonic() - start)
        assert volumes() == ["ToNNO sample"]
    figure(f"longest answer to Cancel: {longest:.2f} s")
    assert longest < 1.0


def test_stop_keeps_what_is_there(path) -> None:
    from walk import begin

    begin(path.host, path.widget, percent=40)
    start = time.monotonic()
    path.ui.stopButton.click()
    assert path.host.process(10, lambda: path.panel.session.running.controller.state == "idle")
    assert time.monotonic() - start < 3
    assert path.panel.session.result.heatmapNode is not None and path.panel.session.result.segment is not None
    path.host.scene.RemoveNode(path.panel.session.result.segment[0])
    path.host.scene.RemoveNode(path.panel.session.result.heatmapNode)
    path.host.process()


def test_volume_deleted_in_the_middle(path) -> None:
    from walk import begin

    begin(path.host, path.widget)
    path.host.scene.RemoveNode(path.panel.session.parameters.inputVolume)
    assert path.host.process(2, lambda: path.panel.session.running.controller.state == "idle")
    assert "removed from the scene" in path.ui.messageLabel.text
    assert path.panel.session.parameters.inputVolume is None and volumes() == []
    path.ui.runButton.click()
    assert path.ui.messageLabel.text == "Problem: No volume is selected.\nSelect one, or click Load sample."


def test_two_volumes_in_a_row(path) -> None:
    """The second is selected while the first still runs; each gets its own heatmap, and none is shown on the other."""
    from walk import run

    path.ui.sampleButton.click()
    first = path.panel.session.parameters.inputVolume
    first.SetName("first")
    path.ui.runButton.click()
    path.ui.sampleButton.click()
    second = path.panel.session.parameters.inputVolume
    second.SetName("second")
    assert path.host.process(100, lambda: path.panel.session.running.controller.state == "idle")
    assert path.panel.session.parameters.inputVolume is second and path.panel.session.result is None
    assert "The result of first is ready" in path.ui.messageLabel.text
    run(path.host, path.widget)
    assert path.panel.session.result.heatmapNode.GetNodeReference("ToNNO.input") is second
    assert volumes() == ["first", "second", "first ToNNO Matched CAM", "second ToNNO Matched CAM"]


def test_scene_closed_in_the_middle(path) -> None:
    from walk import begin, coarse, enginePids, run

    path.ui.directionsBox.value = path.ui.directionsBox.value + 1  # nothing to take from what is kept
    begin(path.host, path.widget)
    (pid,) = enginePids(path.widget)
    path.host.scene.Clear(0)
    path.host.process(1.0)
    assert path.panel.session.running.controller.state == "idle" and volumes() == []
    assert not path.ui.messageLabel.text
    assert path.ui.findingsTable.rowCount == 0
    coarse(path.widget)  # the choices went with the scene
    path.ui.sampleButton.click()
    run(path.host, path.widget)
    assert enginePids(path.widget) == [pid]  # still warm
    assert len(path.panel.session.result.findings) == 3


def test_quit_in_the_middle_leaves_nothing(path) -> None:
    """Last: the module is gone afterwards."""
    from walk import begin, engineFolder, enginePids, isAlive

    path.ui.directionsBox.value = path.ui.directionsBox.value + 1
    begin(path.host, path.widget)
    (pid,) = enginePids(path.widget)
    folder = engineFolder(path.widget)
    assert folder.is_dir()
    path.host.widget.cleanup()
    path.host.widget = None
    assert not isAlive(pid)
    assert not folder.exists()
