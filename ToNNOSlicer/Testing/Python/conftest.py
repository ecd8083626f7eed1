"""A fresh scene for every test; all of them are skipped, with the reason, where Slicer's libraries cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("triton"):
    # Of the two LLVMs, triton's must be loaded before Mesa's, else the process ends. They meet in tests alone: a user's
    # engine is a process of its own.
    import triton  # noqa: F401

if find_spec("slicer_core"):
    from slicer_host import provide_i18n

    provide_i18n()  # the module's files import it


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip("the package slicer-core (Slicer's MRML libraries) is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    return None if find_spec("slicer_core") else _Skipped.from_parent(parent, path=module_path)


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a measured figure, for the summary's end: it is to be seen where nothing fails, and from any process."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    for text in [value for report in reports for name, value in report.user_properties if name == "figure"]:
        terminalreporter.write_line(f"[{text}]")


@pytest.fixture
def host() -> Iterator[Any]:
    """A `slicer_host.Host`; the test fails if VTK or MRML report a warning or an error that it did not take."""
    from slicer_host import Host

    host = Host()
    yield host
    said = host.messages.text
    host.close()
    assert not said, said


@pytest.fixture
def logic(host: Any) -> Iterator[Any]:
    from ToNNOSlicerLib.logic import ToNNOLogic

    logic = ToNNOLogic(host.scene, host.applicationLogic)
    yield logic
    logic.cleanUp()


@pytest.fixture
def qtHost() -> Iterator[Any]:
    """A `qt_host.QtHost`; a question that was not asked, and what VTK or MRML say, fail the test."""
    pytest.importorskip("slicer_core", reason="the package slicer-core (Slicer's MRML libraries) is not installed here")
    pytest.importorskip("PySide6", reason="the package PySide6-Essentials (Qt) is not installed here")
    from qt_host import QtHost

    host = QtHost()
    yield host
    said, unused, errors = host.messages.text, list(host.answers), list(host.errors)
    host.close()
    assert not said, said
    assert not unused, f"never asked: {unused}"
    assert not errors, errors


@pytest.fixture
def widget(qtHost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module with the sample loaded, and an engine that only listens."""
    from listening import Answering
    from ToNNOSlicerLib import install
    from ToNNOSlicerLib.panel import Panel
    from walk import opened

    monkeypatch.setattr(install, "missing", lambda path: install.Missing("", ()))
    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: Answering(tmp_path)))
    return opened(qtHost)


@pytest.fixture
def result(widget: Any) -> Any:
    """A heatmap with two findings of 27 voxels (3.04 mm3 each) in the widget, as a run would have left it."""
    from scenes import THRESHOLD, addHeatmap, addVolume

    session = widget.panel.session
    session.set(minMm3=0.0)
    heatmap = addHeatmap(widget.panel.logic, addVolume())
    widget.panel.logic.segments.write(heatmap, THRESHOLD)
    session.set(heatmap=heatmap)
    return heatmap
