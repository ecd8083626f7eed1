"""The row of exports by clicks: progress and end in the background, DICOM SEG, and what is said when it cannot be."""

from __future__ import annotations

import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
from ToNNOSlicerLib.logic.heatmap import Heatmap, showHeatmap
from ToNNOSlicerLib.logic.inputs import inputFor

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


@pytest.fixture
def onSample(widget):
    """A heatmap of the sample's size, whose three findings are its lesions."""
    from ToNNOSlicerLib.sample import LESIONS

    volume, logic = widget.panel.session.parameters.inputVolume, widget.panel.logic
    given = inputFor(volume)
    k, j, i = np.indices(given.array.shape)
    ras = np.stack([i, j, k], axis=-1) @ given.ijkToRAS[:3, :3].T + given.ijkToRAS[:3, 3]
    distances = (np.linalg.norm((ras - centre) / radii, axis=-1) for centre, radii, _brightness in LESIONS)
    array = sum(10 * np.exp(-(distance**2)) for distance in distances).astype(np.float32)
    inside = np.ones(array.shape, dtype=bool)
    made = Heatmap(array, given.ijkToRAS, "matched-cam", "lesion", {"threshold": 4.0}, inside)
    heatmap = showHeatmap(volume, made)
    logic.segments.write(heatmap, 4.0)
    widget.panel.session.set(heatmap=heatmap)
    return heatmap


def test_report_is_written_without_holding_the_window(qtHost, widget, onSample, tmp_path, figure) -> None:
    """Progress rises to the end; the longest block is some node's work and not that of the pictures."""
    from walk import Gaps

    qtHost.answers.append(("save", str(tmp_path / "report.html")))
    gaps, seen = Gaps(), []
    widget.ui.exportReportButton.click()
    assert widget.ui.exportCancelButton.isVisibleTo(widget.ui.exportSection)
    assert not widget.ui.exportReportButton.enabled and widget.ui.exportFindingsButton.enabled

    def ended() -> bool:
        seen.append(widget.ui.exportProgressBar.value)
        return not widget.panel.session.exports.isBusy

    assert qtHost.process(60, ended)
    longest = gaps.stop()
    figure(f"longest block of the GUI's thread while a report is written: {longest:.0f} ms")
    # The aim is 100 ms on a quiet machine; drawn in this process, the pictures would hold the window for seconds.
    assert longest < 500
    assert widget.ui.messageLabel.text == f"Written: {tmp_path / 'report.html'}"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<figure>") == 3
    assert len(set(seen[:-1])) > 2 and seen[:-1] == sorted(seen[:-1])
    assert widget.ui.exportReportButton.enabled
    assert not widget.ui.exportCancelButton.isVisibleTo(widget.ui.exportSection)


def test_report_is_cancelled_and_leaves_nothing(qtHost, widget, onSample, tmp_path, monkeypatch) -> None:
    import slicer

    monkeypatch.setattr(slicer.app, "temporaryPath", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    qtHost.answers.append(("save", str(tmp_path / "report.html")))
    widget.ui.exportReportButton.click()
    assert qtHost.process(60, lambda: widget.ui.exportProgressBar.value > 0)  # the process has begun to write
    assert any((tmp_path / "temporary").iterdir())
    start = time.monotonic()
    widget.ui.exportCancelButton.click()
    assert time.monotonic() - start < 1.0
    assert widget.ui.statusLabel.text == "The export was canceled"
    assert not any((tmp_path / "temporary").iterdir())
    assert [file.name for file in tmp_path.iterdir()] == ["temporary"]


def test_export_that_cannot_be_written_says_so(qtHost, widget, onSample, tmp_path) -> None:

    qtHost.answers.append(("save", str(tmp_path / "no such folder" / "h.nrrd")))
    widget.ui.exportHeatmapButton.click()
    assert qtHost.process(60, lambda: not widget.panel.session.exports.isBusy)
    assert widget.ui.messageLabel.text.count("\n") == 1  # the cause, and the next click
    assert not widget.ui.messageLabel.text.startswith("Written")
    qtHost.answers.append(("save", ""))  # changed their mind
    widget.ui.exportHeatmapButton.click()


def test_an_export_ends_with_the_scene(qtHost, widget, result, tmp_path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    qtHost.answers.append(("save", str(folder / "report.html")))
    widget.ui.exportReportButton.click()
    qtHost.process(0.3)
    assert widget.panel.session.exports.isBusy and any(folder.iterdir())
    assert not widget.ui.exportReportButton.enabled and not widget.ui.exportHeatmapButton.enabled  # one at a time
    qtHost.scene.Clear(0)
    assert not widget.panel.session.exports.isBusy and not any(folder.iterdir())
    assert not widget.ui.exportCancelButton.isVisibleTo(widget.ui.exportSection)


def test_an_export_ends_with_the_module(qtHost, widget, result, tmp_path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    qtHost.answers.append(("save", str(folder / "report.html")))
    widget.ui.exportReportButton.click()
    qtHost.process(0.3)
    assert any(folder.iterdir())
    widget.cleanup()
    assert not any(folder.iterdir())


def test_an_export_without_packages_says_where_to_get_them(qtHost, widget, result, tmp_path, monkeypatch) -> None:
    import sys

    command = [sys.executable, "-c", "import no_such_package"], {"PYTHONPATH": ""}
    monkeypatch.setattr(widget.panel.session.choices, "command", lambda: command)
    qtHost.answers.append(("save", str(tmp_path / "h.nrrd")))
    widget.ui.exportHeatmapButton.click()
    assert qtHost.process(20, lambda: not widget.panel.session.exports.isBusy)
    assert "No module named 'no_such_package'" in widget.ui.messageLabel.text
    assert "click Apply once" in widget.ui.messageLabel.text
    assert widget.ui.exportHeatmapButton.enabled and not (tmp_path / "h.nrrd").exists()


def test_a_fault_of_an_export_ends_it_with_words(qtHost, widget, result, tmp_path, monkeypatch) -> None:
    used = import_module(type(widget.panel.session.exports).__module__).Export
    monkeypatch.setattr(used, "fields", lambda export, folder: 1 / 0)
    qtHost.answers.append(("save", str(tmp_path / "h.nrrd")))
    widget.ui.exportHeatmapButton.click()
    assert qtHost.process(20, lambda: not widget.panel.session.exports.isBusy)
    assert "ZeroDivisionError" in widget.ui.messageLabel.text
    assert not widget.ui.messageLabel.text.startswith("Written")
    assert "Traceback" in widget.ui.logText.plainText


@pytest.fixture
def fromDicom(widget, tmp_path, monkeypatch):
    """A result on a volume of a DICOM series that Slicer's database knows; clicks then write to the path given."""
    import pydicom
    import slicer
    from dicom_series import writeSeries
    from scenes import THRESHOLD, addHeatmap, addVolume

    files = {pydicom.dcmread(path).SOPInstanceUID: str(path) for path in writeSeries(tmp_path, reverse=False)}
    monkeypatch.setattr(slicer, "dicomDatabase", SimpleNamespace(fileForInstance=files.get), raising=False)
    volume = addVolume()
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    heatmap = addHeatmap(widget.panel.logic, volume)
    widget.panel.logic.segments.write(heatmap, THRESHOLD)
    widget.panel.session.set(heatmap=heatmap)
    return files


@pytest.mark.filterwarnings("default")  # pydicom's and highdicom's own, about values that a phantom lacks
def test_dicom_seg_is_exported_by_a_click(qtHost, widget, fromDicom, tmp_path) -> None:
    highdicom = pytest.importorskip("highdicom")
    from scenes import mask

    qtHost.answers.append(("save", str(tmp_path / "a.dcm")))
    widget.ui.exportSegmentationButton.click()
    assert widget.ui.messageLabel.text == f"Written: {tmp_path / 'a.dcm'}"
    read = highdicom.seg.segread(tmp_path / "a.dcm")
    pixels = read.get_pixels_by_source_instance(list(fromDicom), assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels[..., 0], mask())


@pytest.mark.filterwarnings("default")
def test_dicom_seg_without_an_exporter_says_what_to_install(qtHost, widget, fromDicom, tmp_path, monkeypatch) -> None:
    # The module that the panel will import, also after a test that has loaded the library again.
    monkeypatch.setattr(import_module("ToNNOSlicerLib.logic.dicom_seg"), "find_spec", lambda name: None)
    qtHost.answers.append(("save", str(tmp_path / "a.dcm")))
    widget.ui.exportSegmentationButton.click()
    cause, nextStep = widget.ui.messageLabel.text.split("\n")
    assert cause == "Problem: Slicer's exporter for DICOM SEG is not installed."
    assert "Quantitative Reporting" in nextStep and ".seg.nrrd" in nextStep
    assert not (tmp_path / "a.dcm").exists()


def test_dicom_seg_of_what_was_no_dicom_says_so(qtHost, widget, result, tmp_path) -> None:
    qtHost.answers.append(("save", str(tmp_path / "a.dcm")))
    widget.ui.exportSegmentationButton.click()
    assert "not loaded from one" in widget.ui.messageLabel.text
    assert "DICOM module" in widget.ui.messageLabel.text
    assert not (tmp_path / "a.dcm").exists()


def test_without_a_segment_there_is_no_report(widget) -> None:
    from scenes import addHeatmap, addVolume

    session = widget.panel.session
    session.set(heatmap=addHeatmap(widget.panel.logic, addVolume()))
    assert session.result is not None and session.result.segment is None
    for button in (widget.ui.exportReportButton, widget.ui.copyReportButton):
        assert not button.enabled
