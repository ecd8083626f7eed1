"""A run's states without Qt and without an engine: events come from a list, the scene is a real one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from listening import Client
from ToNNOSlicerLib.logic.heatmap import recordOf
from ToNNOSlicerLib.logic.patient import showSurface
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, segmentOf, thresholdOf

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")


@pytest.fixture
def made(host, tmp_path):
    """A controller with its client, what it told, and a volume."""
    import slicer.util
    from ToNNOSlicerLib.controller import RunController
    from ToNNOSlicerLib.logic import ToNNOLogic
    from ToNNOSlicerLib.run import RunRequest

    array = np.random.default_rng(0).normal(size=(12, 14, 16)).astype(np.float32)
    volume = slicer.util.addVolumeFromArray(array, name="scan")
    client, logic, clock = Client(tmp_path), ToNNOLogic(host.scene), SimpleNamespace(now=0.0)
    told = SimpleNamespace(progress=[], previews=[], outcomes=[], failures=[], devices=[])
    controller = RunController(
        client,
        logic,
        SimpleNamespace(
            onProgress=told.progress.append,
            onPreview=told.previews.append,
            onOutcome=told.outcomes.append,
            onFailure=told.failures.append,
            onDescription=told.devices.append,
        ),
        clock=lambda: clock.now,
    )
    request = RunRequest(volume, "model-folder", "tonno", "lesion", {"slices": 8}, "fast")
    yield SimpleNamespace(
        controller=controller, client=client, told=told, request=request, volume=volume, clock=clock, host=host
    )
    controller.close()
    logic.cleanUp()


def begin(made) -> int:
    """Start, and let the volume's file be written; returns the request's number."""
    made.controller.start(made.request)
    run = made.controller._run
    if run.writer is not None:
        run.writer.join()
        while run.writer is not None:
            made.controller.tick()
    return run.id


def tick(made, *events: dict[str, Any]) -> None:
    """The events come, and everything that they put off is done."""
    made.client.events = list(events)
    for _n in range(8):
        made.controller.tick()
        if made.controller._run is not None and made.controller._run.reader is not None:
            made.controller._run.reader.join()


def heatmap_file(made, name: str = "a") -> str:
    path = made.client.folder / f"{name}.npy"
    np.save(path, np.linspace(-1, 9, 12 * 14 * 16, dtype=np.float32).reshape(12, 14, 16))
    return str(path)


def result(made, number: int, **more: Any) -> dict[str, Any]:
    inside = made.client.folder / "inside.npy"
    np.save(inside, np.ones((12, 14, 16), dtype=np.uint8))
    found = {"array": heatmap_file(made, "result"), "variant": {}, "threshold": {"threshold": 4.0}, "otsu": 2.0}
    return {"type": "result", "id": number, "heatmaps": {"tonno": found}, "inside": str(inside), "slices": 10, **more}


def threshold(made, outcome) -> float:
    """Of the segment that an outcome's first heatmap has."""
    return thresholdOf(*segmentOf(outcome.heatmapNodes[0]))


def names(made) -> list[str]:
    import slicer.util

    return [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]


def test_request_says_what_was_asked(made) -> None:
    number = begin(made)
    kind, fields = made.client.requests[number - 1]
    assert kind == "reconstruct"
    assert np.load(fields["volume"]["array"]).shape == (12, 14, 16)
    assert fields["volume"]["ijk_to_ras"] == np.eye(4).tolist()
    assert fields["options"] == {"slices": 8, "methods": ["tonno"], "class_name": "lesion"}
    assert (fields["model"], fields["preset"], fields["roi"], fields["zoom"], fields["device"]) == (
        "model-folder",
        "fast",
        None,
        False,
        "auto",
    )


def test_progress_has_percent_and_times(made) -> None:
    from ToNNOSlicerLib.run import RUNNING, STARTING

    number = begin(made)
    assert made.told.progress[-1].state == STARTING and made.told.progress[-1].percent is None
    made.clock.now = 5.0
    tick(
        made, {"type": "progress", "id": number, "step": "reconstructing", "done": 30, "total": 120, "remaining_s": 15}
    )
    last = made.told.progress[-1]
    assert (last.state, last.percent, last.elapsedS, last.remainingS) == (RUNNING, 25.0, 5.0, 15)


def test_preview_and_result_are_one_heatmap_and_a_segment(made) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    assert names(made) == ["scan", "scan ToNNO"]
    tick(made, result(made, number))
    (outcome,) = made.told.outcomes
    assert outcome.heatmapNodes == (made.told.previews[0],)
    assert names(made) == ["scan", "scan ToNNO"]
    assert threshold(made, outcome) == 4.0
    segmentation, _segmentId = segmentOf(outcome.heatmapNodes[0])
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert made.controller.state == "idle" and len(made.client.released) == 1


@pytest.mark.parametrize(("record", "value"), [({"threshold": None}, 2.0), ({"threshold": None, "otsu": None}, 4.5)])
def test_without_a_models_threshold_otsus_or_half_of_the_maximum(made, record, value) -> None:
    event = result(made, begin(made))
    event["heatmaps"]["tonno"] |= record
    tick(made, event)
    assert threshold(made, made.told.outcomes[0]) == value


def test_cancel_leaves_nothing_of_the_run(made) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    made.controller.cancel()
    assert made.client.requests[-1] == ("cancel", number) and made.controller.state == "stopping"
    tick(made, {"type": "cancelled", "id": number})
    assert names(made) == ["scan"] and made.controller.state == "idle" and not made.told.failures


def test_result_that_was_on_its_way_is_not_kept_after_cancel(made) -> None:
    number = begin(made)
    made.controller.cancel()
    tick(made, result(made, number))
    assert names(made) == ["scan"] and not made.told.outcomes and made.controller.state == "idle"


def test_cancel_that_is_not_answered_ends_the_engine(made) -> None:
    begin(made)
    made.controller.cancel()
    made.clock.now = 4.0
    tick(made)
    assert made.client.closed == 1 and made.controller.state == "idle"


def test_cancel_keeps_the_heatmap_of_an_earlier_run(made) -> None:
    tick(made, result(made, begin(made)))
    made.volume.Modified()  # so that there is nothing to refine
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    assert len(names(made)) == 3
    made.controller.cancel()
    tick(made, {"type": "cancelled", "id": number})
    assert names(made) == ["scan", "scan ToNNO"]


def test_stop_keeps_what_is_there(made) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    made.controller.stop()
    assert made.client.requests[-1] == ("stop", number)
    tick(made, result(made, number, stopped=True))
    assert made.told.outcomes[0].record["stopped"] is True


def test_another_filter_needs_no_new_pass(made) -> None:
    from dataclasses import replace

    tick(made, result(made, begin(made)))
    made.request = replace(made.request, options={**made.request.options, "filter": "hann"})
    begin(made)
    assert [kind for kind, _fields in made.client.requests] == ["reconstruct", "refine"]
    tick(made, {"type": "error", "id": 2, "kind": "not-kept", "message": "", "next": ""})
    run = made.controller._run
    if run.writer is not None:
        run.writer.join()
    tick(made)
    assert [kind for kind, _fields in made.client.requests] == ["reconstruct", "refine", "reconstruct"]
    assert not made.told.failures


@pytest.mark.parametrize("change", ["slices", "voxels", "image", "transform", "motion", "device", "preset", "engine"])
def test_what_changes_the_projections_needs_a_new_pass(made, change) -> None:
    from dataclasses import replace

    import slicer

    parent, outer = (made.host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode") for _n in range(2))
    parent.SetAndObserveTransformNodeID(outer.GetID())
    if change == "motion":
        made.volume.SetAndObserveTransformNodeID(parent.GetID())
    tick(made, result(made, begin(made)))
    if change == "slices":
        made.request = replace(made.request, options={"slices": 9})
    elif change == "voxels":
        slicer.util.arrayFromVolume(made.volume)[0] += 1
        slicer.util.arrayFromVolumeModified(made.volume)
    elif change == "image":  # a filter has written into it, and nobody told the node
        made.volume.GetImageData().Modified()
    elif change == "transform":
        slicer.util.updateTransformMatrixFromArray(parent, np.diag([1.0, 1.0, 2.0, 1.0]))
        made.volume.SetAndObserveTransformNodeID(parent.GetID())
    elif change == "motion":
        slicer.util.updateTransformMatrixFromArray(outer, np.diag([1.0, 1.0, 2.0, 1.0]))
    elif change in ("device", "preset"):
        made.request = replace(made.request, **{change: "another"})
    else:
        made.client.isRunning = False  # it has ended meanwhile, and with it what it kept
    begin(made)
    assert made.client.requests[-1][0] == "reconstruct"


def test_what_is_shown_of_a_volume_and_its_name_need_no_new_pass(made) -> None:
    """The surface of the patient, say, which is made when the first result is there."""
    tick(made, result(made, begin(made)))
    showSurface(made.volume, True)
    made.volume.SetName("renamed")
    made.volume.CreateDefaultDisplayNodes()
    begin(made)
    assert made.client.requests[-1][0] == "refine"


def region(made, size: float):
    box = made.host.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetCenter(5, 5, 5)
    box.SetSize(size, size, size)
    return box


def asked(made) -> tuple[str, Any]:
    """The last request: its kind, and the half sizes of its region or None."""
    kind, fields = made.client.requests[-1]
    roi = fields["roi"]
    return kind, None if roi is None else (1 / np.diag(np.array(roi["ras_to_box"]))[:3]).tolist()


def test_a_region_is_taken_from_what_is_kept_of_the_whole(made) -> None:
    """And another one, and the whole again: the projections stay those of the first run."""
    from dataclasses import replace

    tick(made, result(made, begin(made)))
    for size in (8.0, 4.0, None):
        made.request = replace(made.request, roiNode=None if size is None else region(made, size))
        number = begin(made)
        assert asked(made) == ("refine", None if size is None else pytest.approx([size / 2] * 3))
        tick(made, result(made, number))
    assert len(made.told.outcomes) == 4
    assert [outcome.kind for outcome in made.told.outcomes] == ["reconstruct", "refine", "refine", "refine"]


def test_of_a_region_only_its_parts_are_kept(made) -> None:
    from dataclasses import replace

    whole = made.request
    made.request = replace(whole, roiNode=region(made, 8.0))
    tick(made, result(made, begin(made)))
    made.request = replace(made.request, options={**whole.options, "filter": "hann"})
    tick(made, result(made, begin(made)))
    assert asked(made) == ("refine", None)  # the same region: all that is kept
    made.request = replace(made.request, roiNode=region(made, 4.0))
    tick(made, result(made, begin(made)))
    assert asked(made)[0] == "refine" and asked(made)[1] == pytest.approx([2.0] * 3)  # the engine knows whether it can
    made.request = whole
    begin(made)
    assert asked(made) == ("reconstruct", None)


def test_of_a_zoomed_run_its_own_region_alone_is_kept(made) -> None:
    """A part of the region, the whole, or the region without zoom: each is another pass through the network."""
    from dataclasses import replace

    def run(request) -> tuple[str, bool | None]:
        made.request = request
        tick(made, result(made, begin(made)))
        kind, fields = made.client.requests[-1]
        return kind, fields.get("zoom")

    whole, box = made.request, region(made, 8.0)
    plain, zoomed = replace(whole, roiNode=box), replace(whole, roiNode=box, zoom=True)
    assert run(plain) == ("reconstruct", False)
    assert run(zoomed) == ("reconstruct", True)
    assert run(replace(zoomed, options={**whole.options, "filter": "hann"}))[0] == "refine"
    assert asked(made) == ("refine", None)
    assert run(replace(zoomed, roiNode=region(made, 4.0))) == ("reconstruct", True)
    assert run(plain) == ("reconstruct", False)
    assert run(whole) == ("reconstruct", False)
    assert run(zoomed) == ("reconstruct", True)  # the whole is kept, but not as fine
    assert [outcome.kind for outcome in made.told.outcomes].count("refine") == 1


def test_a_zoomed_result_is_told_by_its_name(made) -> None:
    from dataclasses import replace

    made.request = replace(made.request, roiNode=region(made, 8.0), zoom=True)
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    tick(made, result(made, number, warnings=["a line of the engine's"]))
    (outcome,) = made.told.outcomes
    assert recordOf(outcome.heatmapNodes[0])["warnings"] == ["A line of the engine's."]
    assert names(made) == ["scan", "scan ToNNO finer in region"]


def test_a_stopped_run_goes_on_and_is_never_taken_for_a_whole_one(made) -> None:
    """Also with another filter: the directions that are missing come first."""
    from dataclasses import replace

    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    made.controller.stop()
    tick(made, result(made, number, stopped=True, directions=15, planned=48))
    made.request = replace(made.request, options={**made.request.options, "filter": "hann"})
    number = begin(made)
    kind, fields = made.client.requests[-1]
    assert kind == "resume" and fields["options"]["filter"] == "hann" and fields["preview"] is True
    tick(made, result(made, number, stopped=False, directions=48, planned=48))
    begin(made)
    assert made.client.requests[-1][0] == "refine"  # now it is whole
    assert [outcome.kind for outcome in made.told.outcomes] == ["reconstruct", "resume"]


def test_a_resumed_run_that_was_stopped_again_goes_on_again(made) -> None:
    for kind in ("reconstruct", "resume", "resume"):
        number = begin(made)
        assert made.client.requests[-1][0] == kind
        tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
        made.controller.stop()
        tick(made, result(made, number, stopped=True, directions=5, planned=48))


def test_a_run_by_the_same_settings_takes_its_predecessors_place(made) -> None:
    """With what the reader decided on it; work by hand stays beside the new result."""
    import scenes

    logic = made.controller.logic
    tick(made, result(made, begin(made)))
    (first,) = made.told.outcomes[0].heatmapNodes
    logic.segments.write(first, 5.0, 10.0)
    made.volume.Modified()  # nothing to refine
    tick(made, result(made, begin(made)))
    (second,) = made.told.outcomes[1].heatmapNodes
    assert names(made) == ["scan", "scan ToNNO_1"] and first.GetScene() is None
    assert thresholdOf(*segmentOf(second)) == 5.0
    voxels = np.zeros((12, 14, 16), dtype=np.uint8)
    voxels[3, 3, 3] = 1
    scenes.paint(*segmentOf(second), voxels, second)
    made.volume.Modified()
    tick(made, result(made, begin(made)))
    assert len(names(made)) == 3 and isEditedByHand(*segmentOf(second))


def test_all_classes_have_a_heatmap_and_a_segment_each(made) -> None:
    from dataclasses import replace

    made.request = replace(made.request, className="")
    number = begin(made)
    assert made.client.requests[-1][1]["classes"] == "all"
    event = result(made, number)
    event["classes"] = {
        name: {"heatmaps": {"tonno": {**event["heatmaps"]["tonno"], "threshold": {"threshold": value}}}, "score": value}
        for name, value in (("bleeding", 2.0), ("fracture", 6.0))
    }
    tick(made, event)
    (outcome,) = made.told.outcomes
    segments = [segmentOf(node) for node in outcome.heatmapNodes]
    assert [thresholdOf(*segment) for segment in segments] == [2.0, 6.0]
    assert segments[0][0] is segments[1][0] and segments[0][1] != segments[1][1]  # one node, a segment each
    names = [segments[0][0].GetSegmentation().GetSegment(name).GetName() for _node, name in segments]
    assert names == ["bleeding", "fracture"]


@pytest.mark.parametrize(
    ("event", "words", "next_step"),
    [
        ({"type": "exited", "code": -9, "ids": [1], "log": ["last words"]}, "exit code -9", "new engine"),
        ({"type": "hung", "ids": [1]}, "does not answer", "new engine"),
        ({"type": "garbage", "message": "a line that is not JSON", "ids": [1]}, "not JSON", "new engine"),
        (
            {"type": "error", "id": 1, "kind": "out-of-memory", "message": "no memory", "next": "Fast"},
            "no memory",
            "Fast",
        ),
    ],
)
def test_failures_name_the_cause_and_the_next_click(made, event, words, next_step) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    tick(made, {"id": None, **event})
    (failure,) = made.told.failures
    assert words in failure.message and next_step in failure.nextStep
    assert made.controller.state == "idle" and names(made) == ["scan"]
    begin(made)  # the next click works
    tick(made, result(made, made.controller._run.id))
    assert len(made.told.outcomes) == 1


def test_an_engine_that_cannot_start_says_so(made) -> None:
    made.client.cannotStart = True
    made.controller.start(made.request)
    made.controller._run.writer.join()
    tick(made)
    assert "could not be started" in made.told.failures[0].message and made.controller.state == "idle"


def test_a_volume_that_cannot_be_written_says_so(made) -> None:
    made.client.newFolder = lambda: made.client.folder / "no such folder"
    made.controller.start(made.request)
    made.controller._run.writer.join()
    tick(made)
    (failure,) = made.told.failures
    assert "could not be handed to the engine" in failure.message and "Free space" in failure.nextStep
    assert made.controller.state == "idle" and not made.client.requests


def test_an_idle_engine_may_go_without_a_word(made) -> None:
    made.client.isRunning = True
    tick(made, {"type": "exited", "id": None, "code": 0, "ids": [], "log": []})
    assert not made.told.failures


def test_volume_that_is_removed_ends_the_run(made) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    made.host.scene.RemoveNode(made.volume)
    tick(made, result(made, number))
    assert ("cancel", number) in made.client.requests
    assert "scan was removed" in made.told.failures[0].message
    assert not made.told.outcomes and names(made) == [] and made.controller.state == "idle"


def test_closed_scene_ends_the_run_without_a_word(made) -> None:
    number = begin(made)
    made.controller.forget()
    made.host.scene.Clear(0)
    tick(made, result(made, number))
    assert not made.told.outcomes and not made.told.failures and names(made) == []
    assert made.client.closed == 0  # the engine stays warm


def test_a_second_start_is_refused(made) -> None:
    from ToNNOSlicerLib.logic import ToNNOUserError

    begin(made)
    with pytest.raises(ToNNOUserError, match="under way"):
        made.controller.start(made.request)


def test_close_ends_the_engine_and_drops_the_preview(made) -> None:
    number = begin(made)
    tick(made, {"type": "progress", "id": number, "step": "reconstructing", "done": 1, "total": 9})
    tick(made, {"type": "preview", "id": number, "heatmaps": {"tonno": heatmap_file(made)}})
    made.controller.close()
    assert made.client.closed == 1 and names(made) == ["scan"] and not made.controller.isBusy


def test_result_that_cannot_be_read_is_told(made) -> None:
    event = result(made, begin(made))
    Path(event["heatmaps"]["tonno"]["array"]).unlink()
    tick(made, event)
    assert "cannot be read" in made.told.failures[0].message and made.controller.state == "idle"
