"""The worklist by clicks: studies run by a real process, opened, read, saved, and the next patient."""

from __future__ import annotations

import pytest
from ToNNOSlicerLib.logic.results import heatmapsOf

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
pytestmark = pytest.mark.slow


@pytest.fixture
def reading(qtHost, widget, tmp_path):
    """Three studies, of which one is no volume, done at a few planes with the shipped model."""
    from studies_on_disk import write
    from walk import RUN_S

    for seed in (1, 2):
        write(tmp_path / "studies" / f"patient-{seed}.nii.gz", seed)
    (tmp_path / "studies" / "patient-3.nii.gz").write_bytes(b"no volume")
    (tmp_path / "results").mkdir()
    session = widget.panel.session
    session.set(slices=8, directions=8, minMm3=0.0)
    qtHost.answers += [("folder", str(tmp_path / "studies")), ("folder", str(tmp_path / "results"))]
    widget.ui.worklistFolderButton.click()
    assert widget.ui.worklistCancelButton.enabled
    assert qtHost.process(RUN_S, lambda: not session.reading.isBusy), widget.ui.worklistLabel.text
    qtHost.process(0.1)
    return tmp_path / "results"


def rows(widget) -> list[list[str]]:
    table = widget.ui.worklistTable
    return [[table.item(row, column).text() for column in range(2)] for row in range(table.rowCount)]


def test_from_patient_to_patient(qtHost, widget, reading) -> None:
    import slicer.util
    from agreement import check
    from pythonqt import unwrap
    from ToNNOSlicerLib.logic import verdicts

    ui, session = widget.ui, widget.panel.session
    assert [state for _name, state in rows(widget)] == ["done", "done", "failed"]
    assert ui.worklistLabel.text.startswith("2 of 3 done, 0 read, 1 failed")
    unwrap(ui.worklistTable).cellActivated.emit(2, 0)
    assert "has no result" in ui.messageLabel.text

    ui.worklistNextButton.click()
    assert session.parameters.inputVolume.GetName().startswith("patient-1")
    check(widget)
    session.setThreshold(session.result.record["high"] / 2)  # so that there is something to judge
    assert session.result.findings
    session.select(0)
    ui.acceptButton.click()
    ui.worklistSaveButton.click()
    assert session.parameters.inputVolume.GetName().startswith("patient-2"), ui.messageLabel.text
    assert rows(widget)[0][1] == "read"
    names = [node.GetName() for node in heatmapsOf(widget.panel.logic.scene)]
    assert len(names) == 1 and names[0].startswith("patient-2")  # the first patient has left the scene
    check(widget)

    unwrap(ui.worklistTable).cellActivated.emit(0, 0)  # back to the first: as it was saved
    finding = session.result.findings[0]
    assert finding.verdict == verdicts.ACCEPT and session.selected == 0
    axial = slicer.util.getNode("vtkMRMLSliceNodeRed")  # at the finding, although another image came into the views
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(finding.peakRAS[2])
    check(widget)


def test_work_that_is_not_saved_is_asked_about(qtHost, widget, reading) -> None:
    session = widget.panel.session
    widget.ui.worklistNextButton.click()
    session.setThreshold(session.result.record["high"] / 2)
    qtHost.answers.append(("message", "Cancel"))
    widget.ui.worklistNextButton.click()
    assert session.parameters.inputVolume.GetName().startswith("patient-1")
    qtHost.answers.append(("message", "Close it without"))
    widget.ui.worklistNextButton.click()
    assert session.parameters.inputVolume.GetName().startswith("patient-2")


def test_after_the_last_patient_it_says_so(qtHost, widget, reading) -> None:
    for _n in range(2):
        widget.ui.worklistNextButton.click()
        widget.ui.worklistSaveButton.click()
    text = widget.ui.messageLabel.text
    assert text.startswith("The reading is saved; there is no further case to read.")  # no problem, as it was called
    assert "The list has been read" in text
    assert rows(widget)[1][1] == "read"
