"""What the buttons do to a result that is there, and what the choices become in a request; no engine computes."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


def test_request_is_what_the_panel_shows(widget) -> None:
    ui = widget.ui
    ui.methodSelector.currentIndex, ui.qualitySelector.currentIndex, ui.filterSelector.currentIndex = 1, 2, 2
    ui.slicesBox.value, ui.directionsBox.value, ui.stageBox.value, ui.sigmaBox.value = 40, 50, 3, 1.5
    ui.smallestBox.value, ui.opacitySlider.value = 70.0, 0.3
    request = widget.panel.input.request()
    assert (request.method, request.preset) == ("tonno", "paper")
    assert request.options == {"slices": 40, "directions": 50, "stage": 3, "sigma_scale": 1.5, "filter": "hann"}
    assert (request.minMm3, request.opacity) == (70.0, 0.3)
    assert request.threshold == widget.panel.input.model.threshold("tonno", request.className)
    assert request.threshold["threshold"] > 0  # the preview shows what the model holds for a finding


def test_buttons_follow_the_run(qtHost, widget) -> None:
    ui, controller = widget.ui, widget.panel.controller
    assert ui.runButton.enabled and not ui.cancelButton.isVisibleTo(ui.ToNNOSlicer)
    ui.runButton.click()
    qtHost.process(5, lambda: any(kind == "reconstruct" for kind, _fields in controller.client.requests))
    assert not ui.runButton.enabled and ui.cancelButton.enabled
    assert not ui.stopButton.enabled  # there is nothing to keep yet
    number = 1 + [kind for kind, _fields in controller.client.requests].index("reconstruct")
    progress = {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 4, "remaining_s": 9}
    controller.client.events.append(progress)
    qtHost.process(5, lambda: controller.state == "running")
    assert ui.stopButton.enabled
    assert (ui.progressBar.value, ui.progressBar.maximum) == (250, 1000)
    assert ui.statusLabel.text.startswith("Reconstructing, ") and ui.statusLabel.text.endswith(", 9 s left")
    ui.stopButton.click()
    assert not ui.stopButton.enabled and not ui.cancelButton.enabled
    assert ("stop", number) in controller.client.requests


def test_overlay_has_its_opacity_and_goes_away(widget, result) -> None:
    import slicer.util

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    widget.ui.opacitySlider.value = 0.25
    assert {view.GetForegroundOpacity() for view in views} == {0.25}
    assert {view.GetForegroundVolumeID() for view in views} == {result.GetID()}
    widget.ui.overlayCheck.checked = False
    assert all(view.GetForegroundVolumeID() != result.GetID() or view.GetForegroundOpacity() == 0 for view in views)


def test_smallest_component_by_the_number_box(widget, result) -> None:
    first, _second = widget.panel.findings.findings
    widget.ui.thresholdSlider.value = 6.5  # between the two peaks: the higher cube is whole, the other is gone
    volumes = [one.volumeMm3 for one in widget.panel.findings.findings]
    assert volumes[0] == pytest.approx(first.volumeMm3)
    widget.ui.smallestBox.value = first.volumeMm3 + 1
    assert widget.panel.findings.findings == []
    widget.ui.undoButton.click()
    assert [one.volumeMm3 for one in widget.panel.findings.findings] == volumes


def test_new_segment_by_the_button_leaves_the_old_one(widget, result) -> None:
    node, first = widget.panel.result.segment
    widget.ui.newSegmentButton.click()
    again, second = widget.panel.result.segment
    assert again is node and second != first
    assert list(node.GetSegmentation().GetSegmentIDs()) == [first, second]
    assert widget.panel.parameters.segmentId == second


def test_remove_without_a_choice_says_what_to_do(widget, result) -> None:
    widget.ui.removeFindingButton.click()
    assert widget.ui.messageLabel.text == "No finding is selected.\nClick one in the table."
    assert len(widget.panel.findings.findings) == 2


def test_no_effect_of_the_editor_stays_active_in_another_module(qtHost, widget, result) -> None:
    widget.ui.editorSection.collapsed = False
    (editor,) = qtHost.segmentEditors()
    editor.setActiveEffectByName("Paint")
    qtHost.exitModule()
    assert editor.activeEffect() is None


def test_copy_takes_the_log_and_the_engines_words(qtHost, widget) -> None:
    import qt

    widget.panel.log("said by the panel")
    widget.ui.copyLogButton.click()
    assert qt.QApplication.clipboard().text() == "said by the panel\na line of the log"


def test_a_heatmap_is_no_volume_to_start_with(widget, result) -> None:
    """Entering the module selects an image, never what was made of one."""
    parameters, scene = widget.panel.parameters, result.GetScene()
    for node in widget.panel.logic.scene.GetNodesByClass("vtkMRMLScalarVolumeNode"):
        if node is not result:
            scene.RemoveNode(node)
    parameters.inputVolume = None
    widget.exit()
    widget.enter()
    assert parameters.inputVolume is None


def test_another_python_starts_another_engine(qtHost, widget, tmp_path) -> None:
    python = tmp_path / "python3"
    python.touch()
    before = widget.panel.controller
    qtHost.answers.append(("open", str(python)))
    widget.ui.pythonButton.click()
    assert before.client.closed == 1 and widget.panel.controller is not before
    assert widget.ui.pythonPathLabel.text == str(python)
    assert widget.panel.python()[0] == [str(python), "-m"]
