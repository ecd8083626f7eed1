"""The panel's words and choices, with an engine that only listens: models, classes, devices, questions, regions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")


def click(qtHost, widget, kind: str = "reconstruct") -> dict[str, Any]:
    """Click Apply; the request that reached the engine."""
    widget.ui.runButton.click()
    requests = widget.panel.session.running.controller.client.requests
    qtHost.process(5, lambda: any(one == kind for one, _fields in requests))
    return next(fields for one, fields in requests if one == kind)


def request(widget) -> Any:
    """The run that the panel would ask for."""
    return widget.panel.session.choices.request(widget.panel.session.parameters)


def describe(qtHost, widget, *devices: dict[str, Any]) -> None:
    widget.ui.deviceButton.click()
    client = widget.panel.session.running.controller.client
    number = max(n for n, (kind, _fields) in enumerate(client.requests, start=1) if kind == "describe")
    client.events.append({"type": "description", "id": number, "devices": list(devices), "torch": "2.9"})
    qtHost.process(5, lambda: not widget.panel.session.running.controller.isBusy)


CPU = {"name": "cpu", "kind": "cpu", "title": "CPU, 8 threads", "free_bytes": 16e9, "usable": True, "problem": None}
GPU = {"name": "cuda:0", "kind": "cuda", "title": "GPU X", "free_bytes": 7.5e9, "usable": True, "problem": None}


@pytest.fixture
def second_model(tmp_path) -> Path:
    """Another folder with the shipped weights, for CT and with two classes."""
    from ToNNOSlicerLib.models import findModels

    shipped = findModels()[0].folder
    folder = tmp_path / "two-classes"
    folder.mkdir()
    shutil.copy(shipped / "model.safetensors", folder)
    data = json.loads((shipped / "model.json").read_text(encoding="utf-8"))
    data["classes"], data["about"] = ["bleeding", "fracture"], {"finding": "trauma", "modality": "CT of the head"}
    (folder / "model.json").write_text(json.dumps(data), encoding="utf-8")
    return folder


def test_hovering_tells_what_the_model_is(widget) -> None:
    tip = widget.ui.modelSelector.toolTip
    for topic in (
        "finding: bright round lesions",
        "modality: T1",
        "license: Apache-2.0",
        "data: ",
        "calibration: on 12",
    ):
        assert topic in tip
    assert not widget.ui.classSelector.visible  # there is but one class


def test_opened_folder_is_selected_and_remembered(qtHost, widget, second_model, tmp_path) -> None:
    qtHost.answers.append(("folder", str(second_model)))
    widget.ui.openModelButton.click()
    assert widget.ui.modelSelector.currentText == "two-classes"
    assert widget.ui.modelInfoLabel.text == "Looks for trauma. CT of the head."
    assert [widget.ui.classSelector.itemText(n) for n in range(3)] == ["bleeding", "fracture", "all of them"]
    assert widget.ui.classSelector.isVisibleTo(widget.ui.inputSection)
    widget.ui.classSelector.currentIndex = 1
    assert click(qtHost, widget)["options"]["class_name"] == "fracture"
    widget.panel.session.running.controller.cancel()
    widget.exit()
    widget.enter()  # the list is read again
    assert widget.ui.modelSelector.count == 2
    qtHost.answers.append(("folder", str(tmp_path)))
    widget.ui.openModelButton.click()
    assert "model.json is missing" in widget.ui.messageLabel.text
    assert "Choose the folder" in widget.ui.messageLabel.text


def test_the_class_of_images_without_a_finding_is_not_what_is_looked_for(qtHost, widget, second_model) -> None:
    spec = second_model / "model.json"
    data = {**json.loads(spec.read_text(encoding="utf-8")), "classes": ["normal", "bleeding"], "about": {}}
    spec.write_text(json.dumps(data), encoding="utf-8")
    qtHost.answers.append(("folder", str(second_model)))
    widget.ui.openModelButton.click()
    assert widget.ui.classSelector.currentText == "bleeding"
    assert widget.ui.modelInfoLabel.text.startswith("Looks for bleeding.")
    assert click(qtHost, widget)["options"]["class_name"] == "bleeding"
    widget.panel.session.running.controller.cancel()


def test_another_kind_of_image_is_asked_about(qtHost, widget, second_model) -> None:
    import slicer

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(qtHost.scene)
    volume = widget.panel.session.parameters.inputVolume
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), volume)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "CT")
    qtHost.answers.append(("message", "Cancel"))
    widget.ui.runButton.click()
    assert qtHost.asked[-1][1].startswith("The model was made for T1-weighted MRI of the brain")
    assert not widget.panel.session.running.controller.client.requests
    qtHost.answers.append(("message", "Go on all the same"))
    click(qtHost, widget)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    widget.panel.session.running.controller.cancel()
    qtHost.process(5, lambda: widget.panel.session.running.controller.state == "idle")
    click(qtHost, widget)  # no question


def test_devices_have_names_memory_and_problems(qtHost, widget) -> None:
    old = GPU | {"name": "cuda:1", "title": "GPU Y", "usable": False, "problem": "this PyTorch has no code for sm_37"}
    describe(qtHost, widget, GPU, old, CPU)
    box = widget.ui.deviceSelector
    assert [box.itemText(n) for n in range(box.count)] == [
        "automatic",
        "GPU X, 7.5 GB free",
        "GPU Y, 7.5 GB free (not usable)",
        "CPU, 8 threads, 16.0 GB free",
    ]
    box.currentIndex = 2
    widget.ui.runButton.click()
    assert "sm_37" in widget.ui.messageLabel.text and "another device" in widget.ui.messageLabel.text
    assert widget.panel.session.running.controller.state == "idle"
    box.currentIndex = 1
    assert click(qtHost, widget)["device"] == "cuda:0"


def test_without_a_gpu_fast_is_offered_with_its_time(qtHost, widget) -> None:
    widget.ui.qualitySelector.currentIndex = 1
    widget.ui.slicesBox.value = widget.ui.directionsBox.value = 0
    describe(qtHost, widget, CPU)
    assert "No graphics card" in widget.ui.messageLabel.text
    assert "Fast is made for this (about 12 s)" in widget.ui.messageLabel.text  # 96 x 50 slices, 400 a second


def test_expected_time_follows_the_choices(widget) -> None:
    widget.ui.slicesBox.value = widget.ui.directionsBox.value = 0
    assert widget.ui.timeLabel.text == "about 12 s"
    widget.ui.directionsBox.value = 960
    assert widget.ui.timeLabel.text == "about 2 min 0 s"
    widget.panel.session.choices.times.record("resnet10t", "cpu", 96, 1000, 10.0)
    widget.ui.directionsBox.value = 96
    assert widget.ui.timeLabel.text == "about 48 s"


def test_region_of_interest_reaches_the_engine(qtHost, widget) -> None:
    import numpy as np

    box = qtHost.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetCenter(10, 20, -5)
    box.SetSize(40, 60, 80)
    widget.ui.roiSelector.setCurrentNode(box)
    ras_to_box = np.array(click(qtHost, widget)["roi"]["ras_to_box"])
    np.testing.assert_allclose(ras_to_box @ [30, 50, 35, 1], [1, 1, 1, 1])  # a corner of the box


def test_finer_in_the_region_is_for_a_region_alone(qtHost, widget) -> None:
    check, box = widget.ui.zoomCheck, qtHost.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetSize(40, 60, 80)
    assert not check.enabled and not check.checked
    widget.ui.roiSelector.setCurrentNode(box)
    assert check.enabled and not request(widget).zoom
    check.checked = True
    assert request(widget).zoom
    assert click(qtHost, widget)["zoom"] is True
    widget.panel.session.running.controller.cancel()
    qtHost.process(5, lambda: widget.panel.session.running.controller.state == "idle")
    widget.ui.roiSelector.setCurrentNode(None)
    assert not check.enabled
    assert not request(widget).zoom  # the tick waits for the next region
    widget.ui.roiSelector.setCurrentNode(box)
    qtHost.scene.RemoveNode(box)
    assert not check.enabled and not request(widget).zoom


def test_finer_in_the_region_is_saved_with_the_scene(qtHost, widget, tmp_path) -> None:
    from scenes import addHeatmap, addVolume

    box = qtHost.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    box.SetSize(40, 60, 80)
    widget.ui.roiSelector.setCurrentNode(box)
    widget.ui.zoomCheck.checked = True
    widget.panel.session.parameters.heatmap = addHeatmap(widget.panel.logic, addVolume(), zoom=True)
    qtHost.load(qtHost.save(tmp_path / "scene"))
    assert widget.ui.zoomCheck.enabled and widget.ui.zoomCheck.checked
    assert request(widget).roiNode.GetName() == "box" and request(widget).zoom
    assert widget.ui.heatmapSelector.currentNode().GetName().endswith("finer in region")
    assert "calibrated for the whole volume" in widget.ui.notesLabel.text


def test_a_result_says_where_its_threshold_is_from(widget) -> None:
    from scenes import addHeatmap, addVolume

    for zoom in (True, False):
        widget.panel.session.set(heatmap=addHeatmap(widget.panel.logic, addVolume(), zoom=zoom))
        assert ("calibrated for the whole volume" in widget.ui.notesLabel.text) == zoom
    widget.panel.session.set(heatmap=addHeatmap(widget.panel.logic, addVolume(), threshold=None))
    assert "no threshold for this method" in widget.ui.notesLabel.text
    assert not widget.ui.modelThresholdButton.enabled


@pytest.mark.parametrize(
    ("threshold", "share"),
    [
        (-0.5, "75%"),  # of the noise from -1 to 1; the histogram's bins are .02 wide
        (0.0, "50%"),
        (0.02, ""),
        (3.0, ""),
        (10.0, ""),
    ],
)
def test_a_segment_of_most_of_the_volume_or_of_a_threshold_at_zero_is_called_no_finding(
    widget, result, threshold: float, share: str
) -> None:
    widget.panel.session.setThreshold(threshold)
    said = [line for line in widget.ui.notesLabel.text.splitlines() if "no finding" in line]
    if not share:
        assert said == []
        return
    assert said == [f"The segment takes {share} of what was looked at: that is no finding. Raise the threshold."]


def test_the_segment_of_a_low_threshold_is_blamed_on_it_only_where_it_is_the_thresholds(widget, result) -> None:
    from scenes import addHeatmap, addVolume

    session, notes = widget.panel.session, widget.ui.notesLabel
    session.setThreshold(-0.5)
    assert "that is no finding" in notes.text
    session.select(0)
    widget.ui.removeFindingButton.click()  # nothing is left
    assert "that is no finding" not in notes.text
    # An image's own values, in which nothing is looked for: any threshold is the user's.
    image = addHeatmap(widget.panel.logic, addVolume(), result={"model": {"name": "pixel-sum"}})
    widget.panel.logic.segments.write(image, -0.5)
    session.set(heatmap=image)
    assert session.result.findings and "that is no finding" not in notes.text


def test_out_of_memory_names_cause_and_next_click(qtHost, widget) -> None:
    click(qtHost, widget)
    client = widget.panel.session.running.controller.client
    number = 1 + [kind for kind, _fields in client.requests].index("reconstruct")
    client.events.append(
        {"type": "error", "id": number, "kind": "out-of-memory", "message": "No memory.", "next": "Choose Fast."}
    )
    qtHost.process(5, lambda: widget.panel.session.running.controller.state == "idle")
    assert widget.ui.messageLabel.text == "Problem: No memory.\nChoose Fast."
    assert "a line of the log" in widget.ui.logText.plainText
    assert widget.ui.runButton.enabled
    click(qtHost, widget)
    assert not widget.ui.messageLabel.isVisibleTo(widget.ui.ToNNOSlicer)  # the old failure is gone


def test_volume_that_cannot_be_used_is_refused_with_the_way_out(qtHost, widget) -> None:
    node = qtHost.scene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", "colours")
    with pytest.raises(TypeError):  # it cannot even be selected... by hand
        widget.panel.session.parameters.inputVolume = qtHost.scene.AddNewNodeByClass("vtkMRMLModelNode")
    widget.ui.inputSelector.setCurrentNode(node)
    widget.ui.runButton.click()
    assert widget.ui.messageLabel.text.count("\n") == 1
    assert widget.panel.session.running.controller.state == "idle"


def test_an_error_in_the_timer_ends_the_run_with_words(qtHost, widget, monkeypatch) -> None:
    click(qtHost, widget)
    monkeypatch.setattr(widget.panel.session.running.controller.client, "poll", lambda: 1 / 0)
    qtHost.process(5, lambda: widget.panel.session.running.controller.state == "idle")
    assert "ZeroDivisionError" in widget.ui.messageLabel.text
    assert "Traceback" in widget.ui.logText.plainText


def test_a_volume_that_is_there_is_selected_on_entering(qtHost, widget) -> None:
    volume = widget.panel.session.parameters.inputVolume
    widget.panel.session.parameters.inputVolume = None
    widget.exit()
    widget.enter()
    assert widget.ui.inputSelector.currentNode() is volume
    assert widget.ui.runButton.enabled


def test_choices_are_kept_in_the_scene(qtHost, widget, tmp_path) -> None:
    widget.ui.methodSelector.currentIndex = 1
    widget.ui.stageBox.value = 3
    widget.ui.filterSelector.currentIndex = 2
    path = qtHost.save(tmp_path / "scene")
    qtHost.load(path)
    assert widget.ui.methodSelector.currentText == "From the score alone"
    assert (widget.ui.stageBox.value, widget.ui.filterSelector.currentText) == (3, "Hann")
    assert widget.ui.inputSelector.currentNode().GetName() == "ToNNO sample"


@pytest.mark.parametrize(
    ("method", "explained", "words"),
    [
        ("tonno", 0.87, "The heatmap explains 87 % of the classifier's output"),
        ("tonno", None, "No self-check: it needs the whole heatmap"),
        ("matched-cam", None, "do not add up to its logit"),
        ("averaged-cam", None, "do not add up to its logit"),
    ],
)
def test_why_tells_the_self_check_or_why_there_is_none(qtHost, widget, method, explained, words) -> None:
    from scenes import addHeatmap, addVolume

    result = {"score": 2.5, "explained": explained}
    widget.panel.session.parameters.heatmap = addHeatmap(widget.panel.logic, addVolume(), method=method, result=result)
    widget.ui.whySection.collapsed = False
    score, check, profile = widget.ui.whyLabel.text.split("\n")
    assert score == "Score of the volume: 2.5"
    assert words in check
    assert profile == "No answers were kept along this direction"


def test_reload_in_the_middle_of_a_run_ends_its_engine(qtHost, widget) -> None:
    click(qtHost, widget)
    client = widget.panel.session.running.controller.client
    widget.onReload()
    assert client.closed == 1 and not client.isRunning
    assert qtHost.widget is not widget and qtHost.widget.panel.session.running.controller.state == "idle"
    assert qtHost.widget.ui.runButton.enabled
    assert qtHost.widget.panel.session.parameters.inputVolume.GetName() == "ToNNO sample"


# An engine that starts as it should and then goes wrong as soon as it is asked for something.
WRONG = """
import sys, time
print('{"v": 1, "id": null, "type": "ready", "pid": 0}', flush=True)
sys.stdin.readline()
%s
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("print('a library greets you', flush=True)", "does not speak this module's language"),
        ('print(\'{"v": 99, "id": 1, "type": "progress"}\', flush=True)', "does not speak this module's language"),
        ("", "does not answer any more"),
        ("print('last words', file=sys.stderr, flush=True); sys.exit(7)", "exit code 7"),
    ],
    ids=["garbage", "another version", "hung", "ended"],
)
def test_an_engine_that_goes_wrong_is_told_and_replaced(qtHost, widget, monkeypatch, does, words) -> None:
    """A real process; each click on Reconstruct starts another."""
    import sys

    from ToNNOSlicerLib.engine import EngineClient
    from walk import engineFolder, isAlive

    pids: list[int] = []

    class Remembering(EngineClient):
        """The process may have gone wrong, and be gone, by the next turn of the event loop."""

        def start(self, isAhead: bool = False) -> None:
            super().start(isAhead)
            if self.pid not in pids:
                pids.append(self.pid)

    command = [sys.executable, "-c", WRONG % does]
    running = widget.panel.session.running
    monkeypatch.setattr(running, "_makeClient", lambda choices: Remembering(command, heartbeatTimeout=0.3))
    running.newEngine()
    for _click in range(2):
        started = len(pids)
        widget.ui.runButton.click()
        assert qtHost.process(20, lambda n=started: len(pids) > n and not running.isRunning)
        assert words in widget.ui.messageLabel.text and "Click Apply" in widget.ui.messageLabel.text
        assert qtHost.process(5, lambda: not any(isAlive(pid) for pid in pids))
        assert not any(engineFolder(widget).iterdir())
        assert widget.ui.runButton.enabled
    assert pids[0] != pids[1]
    if "last words" in does:
        assert "last words" in widget.ui.logText.plainText


def test_no_room_for_a_runs_files_is_told(qtHost, widget, monkeypatch) -> None:
    def full() -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(widget.panel.session.running.controller.client, "newFolder", full)
    widget.ui.runButton.click()
    assert "No space left on device" in widget.ui.messageLabel.text
    assert "Free space" in widget.ui.messageLabel.text
    assert widget.panel.session.running.controller.state == "idle" and widget.ui.runButton.enabled
