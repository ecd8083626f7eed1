"""Nothing heavy is imported into the application while somebody works with the panel: the window would wait for it."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

HEAVY = ("torch", "scipy", "SimpleITK", "matplotlib", "pandas")


@pytest.fixture
def nothingHeavy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who imports one of these gets an ImportError, also where a test before has imported it."""
    loaded = [name for name in sys.modules if name.partition(".")[0] in HEAVY]
    for name in {*HEAVY, "scipy.ndimage", "scipy.sparse", "scipy.sparse.csgraph", *loaded}:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def heatmap(nothingHeavy: None, logic: Any) -> Any:
    from scenes import addHeatmap, addVolume

    return addHeatmap(logic, addVolume())


def test_segments_findings_and_their_changes(logic: Any, heatmap: Any) -> None:
    from scenes import THRESHOLD

    logic.previewMask(heatmap, THRESHOLD, 50.0)
    segment = logic.writeSegment(heatmap, THRESHOLD, 50.0)
    findings = logic.findings(*segment, heatmap)
    assert len(findings) == 2
    logic.removeFinding(*segment, findings[1])
    assert len(logic.findings(*segment, heatmap)) == 1
    logic.undo()
    logic.newSegment(heatmap, THRESHOLD)
    logic.show3D(segment[0], True)


def test_numbers_and_small_files(logic: Any, heatmap: Any, tmp_path: Any) -> None:
    from scenes import THRESHOLD

    segment = logic.writeSegment(heatmap, THRESHOLD)
    logic.exportFindings(logic.findings(*segment, heatmap), tmp_path / "findings.csv")
    logic.exportSegmentation(segment[0], tmp_path / "surface.stl")
    assert logic.why(heatmap) is not None and logic.modelThreshold(heatmap) == THRESHOLD


def test_the_panels_slider_table_and_plots(nothingHeavy: None, widget: Any, result: Any) -> None:
    from pythonqt import unwrap

    slider = unwrap(widget.ui.thresholdSlider)
    slider.drag([2.0, 2.5, 3.5])
    widget.ui.smallestBox.value = 10.0
    assert widget.ui.findingsTable.rowCount == 2
    widget.ui.findingsTable.selectRow(1)
    widget.ui.removeFindingButton.click()
    widget.ui.whySection.collapsed = False
    assert widget.ui.findingsTable.rowCount == 1
