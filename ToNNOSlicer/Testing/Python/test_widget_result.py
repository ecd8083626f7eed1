"""What the buttons do to a result that is there, and what the choices become in a request; no engine computes."""

from __future__ import annotations

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


def test_request_is_what_the_panel_shows(widget) -> None:
    ui, session = widget.ui, widget.panel.session
    ui.methodSelector.currentIndex, ui.qualitySelector.currentIndex, ui.filterSelector.currentIndex = 1, 2, 2
    ui.slicesBox.value, ui.directionsBox.value, ui.stageBox.value, ui.sigmaBox.value = 40, 50, 3, 1.5
    ui.smallestBox.value = 70.0
    request = session.choices.request(session.parameters)
    assert (request.method, request.preset) == ("tonno", "paper")
    assert request.options == {"slices": 40, "directions": 50, "stage": 3, "sigma_scale": 1.5, "filter": "hann"}
    assert request.minMm3 == 70.0
    assert request.threshold == session.choices.modelOf(session.parameters).threshold("tonno", request.className)
    assert request.threshold["threshold"] > 0  # the preview shows what the model holds for a finding


def test_buttons_follow_the_run(qtHost, widget) -> None:
    ui, controller = widget.ui, widget.panel.session.running.controller
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


def test_a_run_of_another_volume_says_whose_it_is(qtHost, widget) -> None:
    """Its progress stands above the result of the patient who is looked at meanwhile."""
    from scenes import addVolume

    ui, session = widget.ui, widget.panel.session
    sample, other = session.parameters.inputVolume, addVolume(name="Patient B")
    ui.runButton.click()
    qtHost.process(5, lambda: any(kind == "reconstruct" for kind, _ in session.running.controller.client.requests))
    assert sample.GetName() not in ui.statusLabel.text
    ui.inputSelector.setCurrentNode(other)
    assert ui.statusLabel.text.startswith("ToNNO sample: ")
    ui.inputSelector.setCurrentNode(sample)
    assert sample.GetName() not in ui.statusLabel.text


def test_a_result_that_is_deleted_leaves_its_volume_shown(qtHost, widget, result) -> None:
    """The list of results would go on to a neighbor, and all views with it to another patient."""
    import slicer
    from scenes import THRESHOLD, addHeatmap, addVolume

    session = widget.panel.session
    volume, write = session.parameters.inputVolume, widget.panel.logic.segments.write
    write(addHeatmap(widget.panel.logic, addVolume(name="Patient B")), THRESHOLD)
    second = addHeatmap(widget.panel.logic, volume, method="tonno")
    write(second, THRESHOLD)
    for deleted, left in ((result, second), (second, None)):
        slicer.mrmlScene.RemoveNode(deleted)
        qtHost.process(0.1)
        assert session.parameters.inputVolume is volume
        assert session.parameters.heatmap is left
        assert widget.ui.heatmapSelector.currentNode() is left
    assert widget.ui.sentenceLabel.text.startswith("No result yet")


def test_overlay_has_its_opacity_and_goes_away(widget, result) -> None:
    import slicer.util

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    widget.ui.opacitySlider.value = 0.25
    assert {view.GetForegroundOpacity() for view in views} == {0.25}
    assert {view.GetForegroundVolumeID() for view in views} == {result.GetID()}
    widget.ui.overlayCheck.checked = False
    assert all(view.GetForegroundVolumeID() != result.GetID() or view.GetForegroundOpacity() == 0 for view in views)


def test_smallest_component_by_the_number_box(widget, result) -> None:
    first, _second = widget.panel.session.result.findings
    widget.ui.thresholdSlider.value = 6.5  # between the two peaks: the higher cube is whole, the other is gone
    volumes = [one.volumeMm3 for one in widget.panel.session.result.findings]
    assert volumes[0] == pytest.approx(first.volumeMm3)
    widget.ui.smallestBox.value = first.volumeMm3 + 1
    assert widget.panel.session.result.findings == ()
    widget.ui.undoButton.click()
    assert [one.volumeMm3 for one in widget.panel.session.result.findings] == volumes


def test_weak_parts_by_the_check_box(widget, result) -> None:
    from scenes import THRESHOLD, addHeatmap, addVolume, record

    ui, session = widget.ui, widget.panel.session
    assert not ui.weakCheck.enabled  # its model says nothing of peaks
    heatmap = addHeatmap(widget.panel.logic, addVolume(), threshold=record() | {"min_peak": 6.5})
    widget.panel.logic.segments.write(heatmap, THRESHOLD, minPeak=6.5)
    session.set(heatmap=heatmap)
    assert (ui.weakCheck.enabled, ui.weakCheck.checked) == (True, True)
    assert len(session.result.findings) == 1
    assert "Parts that reach 6.5 nowhere are left out" in ui.notesLabel.text
    ui.weakCheck.checked = False
    assert len(session.result.findings) == 2
    assert (session.result.minPeak, session.parameters.dropWeak) == (-float("inf"), False)
    assert "left out" not in ui.notesLabel.text
    assert not session.choices.request(session.parameters).dropWeak  # nor of the coming run
    ui.thresholdSlider.value = 2.5
    assert len(session.result.findings) == 2
    ui.weakCheck.checked = True
    assert len(session.result.findings) == 1
    assert session.result.threshold == 2.5
    ui.undoButton.click()
    assert len(session.result.findings) == 2
    assert not ui.weakCheck.checked


def test_new_segment_by_the_button_leaves_the_old_one(widget, result) -> None:
    node, first = widget.panel.session.result.segment
    widget.ui.newSegmentButton.click()
    again, second = widget.panel.session.result.segment
    assert again is node and second != first
    assert list(node.GetSegmentation().GetSegmentIDs()) == [first, second]
    display = node.GetDisplayNode()
    assert (display.GetSegmentVisibility(first), display.GetSegmentVisibility(second)) == (False, True)


def test_remove_without_a_choice_says_what_to_do(widget, result) -> None:
    assert not widget.ui.removeFindingButton.enabled
    widget.panel.session.removeFinding()
    assert widget.ui.messageLabel.text == "Problem: No finding is selected.\nClick one in the table."
    assert len(widget.panel.session.result.findings) == 2


def test_what_hands_have_done_is_not_put_down_to_the_threshold(widget, result) -> None:
    ui, session = widget.ui, widget.panel.session
    for _finding in range(2):
        session.select(0)
        ui.removeFindingButton.click()
    assert session.result.findings == () and ui.sentenceLabel.text == "No finding"
    while ui.undoButton.enabled:
        ui.undoButton.click()
    assert len(session.result.findings) == 2
    node, segmentId = session.result.segment
    node.GetSegmentation().RemoveSegment(segmentId)
    session.refresh()
    assert session.result.segment is None
    assert ui.sentenceLabel.text == "There is no segment. Move the threshold to write one."
    ui.thresholdSlider.value = 6.5
    assert ui.sentenceLabel.text.startswith("1 finding, ")


def test_no_effect_of_the_editor_stays_active_in_another_module(qtHost, widget, result) -> None:
    widget.ui.editorSection.collapsed = False
    (editor,) = qtHost.segmentEditors()
    editor.setActiveEffectByName("Paint")
    qtHost.exitModule()
    assert editor.activeEffect() is None


def test_undo_of_the_editor_takes_back_one_thing_at_a_time(qtHost, widget, result) -> None:
    """It restores whole segmentations: a segment that none of its states has would go with the last stroke."""
    import numpy as np
    from scenes import SHAPE_ZYX, paint
    from ToNNOSlicerLib.logic.segmentation import segmentOf, thresholdOf

    widget.ui.editorSection.collapsed = False
    (editor,) = qtHost.segmentEditors()
    node, segmentId = widget.panel.session.result.segment
    stroke = np.zeros(SHAPE_ZYX, np.uint8)
    stroke[1, 1, 1] = 1
    editor.saveStateForUndo()
    paint(node, segmentId, stroke, result)
    widget.ui.newSegmentButton.click()
    widget.ui.thresholdSlider.value = 6.5
    written = segmentOf(result)
    assert written[0] is node and thresholdOf(*written) == 6.5
    editor.undo()
    assert segmentOf(result) == written and thresholdOf(*written) == 3.0
    editor.undo()
    assert list(node.GetSegmentation().GetSegmentIDs()) == [segmentId]
    qtHost.process(0.2)


def test_copy_takes_the_log_and_the_engines_words(qtHost, widget) -> None:
    import qt

    widget.panel.session.log("said by the panel")
    widget.ui.copyLogButton.click()
    assert qt.QApplication.clipboard().text() == "said by the panel\na line of the log"


def test_a_heatmap_is_no_volume_to_start_with(widget, result) -> None:
    """Entering the module selects an image, never what was made of one."""
    parameters, scene = widget.panel.session.parameters, result.GetScene()
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
    before = widget.panel.session.running.controller
    qtHost.answers.append(("open", str(python)))
    widget.ui.pythonButton.click()
    assert before.client.closed == 1 and widget.panel.session.running.controller is not before
    assert widget.ui.pythonPathLabel.text == str(python)
    assert widget.panel.session.choices.command()[0] == [str(python), "-m"]


def drawnLines() -> list[tuple[str, bool]]:
    """Name and visibility of the diameters in the scene."""
    import slicer.util

    nodes = slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")
    return [(node.GetName(), bool(node.GetDisplayNode().GetVisibility())) for node in nodes]


def test_diameters_are_those_of_the_findings_as_they_are(widget, result) -> None:
    """Two findings by the first threshold, one by the second; the lines of the other would be of no finding."""
    import slicer.util

    widget.ui.diametersCheck.checked = True
    assert len(drawnLines()) == 4
    widget.ui.thresholdSlider.value = 6.5
    widget.panel.session.tick()
    (finding,) = widget.panel.session.result.findings
    assert [name for name, _visible in drawnLines()] == ["Finding 1 longest", "Finding 1 perpendicular"]
    line = slicer.util.getNode("Finding 1 longest")
    assert line.GetLineLengthWorld() == pytest.approx(finding.longestMm)
    widget.ui.undoButton.click()
    widget.panel.session.tick()
    assert len(drawnLines()) == 4


def test_diameters_are_not_shown_over_another_patient(widget, result) -> None:
    from scenes import addVolume

    widget.ui.diametersCheck.checked = True
    first = widget.panel.session.parameters.inputVolume
    widget.panel.session.set(inputVolume=addVolume())
    assert len(drawnLines()) == 4 and not any(visible for _name, visible in drawnLines())
    widget.panel.session.set(inputVolume=first)
    assert all(visible for _name, visible in drawnLines()) and widget.ui.diametersCheck.checked


def test_with_diameters_the_views_show_the_plane_in_which_they_are(widget, result) -> None:
    import slicer.util

    widget.ui.findingsTable.selectRow(0)
    widget.panel.session.select(0)
    widget.ui.diametersCheck.checked = True
    finding = widget.panel.session.result.findings[0]
    axial = slicer.util.getNode("vtkMRMLSliceNodeRed")
    assert axial.GetSliceToRAS().GetElement(2, 3) == pytest.approx(finding.longestRAS[0][2])


def test_the_patients_surface_comes_back_with_the_patient(widget, result) -> None:
    from scenes import addVolume
    from ToNNOSlicerLib.logic.patient import ROLE

    first = widget.panel.session.parameters.inputVolume
    widget.panel.session.show3D(True)
    surface = first.GetNodeReference(ROLE)
    assert surface.GetDisplayNode().GetVisibility()
    widget.panel.session.set(inputVolume=addVolume())
    assert not surface.GetDisplayNode().GetVisibility()
    widget.panel.session.set(inputVolume=first)
    assert surface.GetDisplayNode().GetVisibility()
    widget.ui.surfaceCheck.checked = False
    assert not surface.GetDisplayNode().GetVisibility()
