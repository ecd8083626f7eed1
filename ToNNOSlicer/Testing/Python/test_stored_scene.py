"""A scene that the module of commit 350c810 saved, opened by the present one: see tests/stored/README.md.

Only `Opened` and the imports know names of the present module.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram, otsuThreshold, recordOf
from ToNNOSlicerLib.logic.profile import profileAlong

STORED = Path(__file__).resolve().parents[3] / "tests" / "stored"
THEN = json.loads((STORED / "scene.json").read_text(encoding="utf-8"))
FIRST, SECOND, STOPPED = THEN["results"]
REL = 1e-6  # numbers that a file holds as text
MM = 1e-3  # of places, whose matrices are text in the scene's file


class Opened:
    """The module with the scene, by what a user sees and does."""

    def __init__(self, host: Any, widget: Any) -> None:
        self.host, self.ui = host, widget.ui
        self._session, self.logic = widget.panel.session, widget.panel.logic

    @property
    def heatmap(self) -> Any:
        return self._session.result.heatmapNode

    @property
    def segment(self) -> tuple[Any, str]:
        return self._session.result.segment

    @property
    def threshold(self) -> float:
        return self._session.result.threshold

    @property
    def smallestMm3(self) -> float:
        return self._session.result.smallestMm3

    @property
    def isEdited(self) -> bool:
        return self._session.result.isEdited

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [
            {"volume": each.volumeMm3, "peak": each.peak, "mean": each.mean, "at": each.peakRAS,
             "centroid": each.centroidRAS, "extent": each.extentMm}
            for each in self._session.result.findings
        ]  # fmt: skip

    @property
    def parameters(self) -> Any:
        return self._session.parameters

    @property
    def modelName(self) -> str:
        return self._session.choices.modelOf(self.parameters).name

    def request(self) -> Any:
        """What Apply would ask for."""
        return self._session.choices.request(self.parameters)

    def select(self, name: str) -> None:
        import slicer.util

        self.ui.heatmapSelector.setCurrentNode(slicer.util.getNode(name))
        self.host.process()

    @property
    def name(self) -> str:
        """In words."""
        return self._session.result.name

    def compareWith(self, name: str) -> None:
        import slicer.util

        self._session.set(priorHeatmap=slicer.util.getNode(name))

    def clipboard(self) -> str:
        return self.host.application.clipboard().text()

    def drag(self, value: float) -> None:
        from pythonqt import unwrap

        unwrap(self.ui.thresholdSlider).drag([value])
        self.host.process()


@pytest.fixture
def opened(request: pytest.FixtureRequest, qtHost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    from listening import Answering
    from ToNNOSlicerLib import install
    from ToNNOSlicerLib.panel import Panel
    from walk import MODULE

    monkeypatch.setattr(install, "missing", lambda path: install.Missing("", ()))
    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: Answering(tmp_path)))
    if getattr(request, "param", "") == "the module first":
        widget = qtHost.loadModule(MODULE)
        qtHost.load(STORED / "scene.mrb")
    else:
        qtHost.load(STORED / "scene.mrb")
        widget = qtHost.loadModule(MODULE)
    qtHost.process()
    return Opened(qtHost, widget)


def check(opened: Opened, then: dict[str, Any]) -> None:
    """The selected result is that one, with its segment, its threshold and its findings."""
    node, segment = opened.segment
    assert opened.heatmap.GetName() == then["name"]
    assert node.GetName() == then["segmentation"]
    assert node.GetSegmentation().GetSegment(segment).GetName() == then["segment"]
    assert opened.threshold == then["threshold"]
    assert opened.isEdited == then["edited"]
    assert len(opened.findings) == len(then["findings"])
    for now, finding in zip(opened.findings, then["findings"], strict=True):
        for name in ("volume", "peak", "mean"):
            assert now[name] == pytest.approx(finding[name], rel=REL), name
        for name in ("at", "centroid", "extent"):
            assert now[name] == pytest.approx(finding[name], abs=MM), name


@pytest.mark.parametrize("opened", ["the module first", "the scene first"], indirect=True)
def test_the_result_that_was_selected_is_shown(opened: Opened) -> None:
    check(opened, FIRST)
    assert opened.ui.thresholdSlider.value == pytest.approx(FIRST["threshold"], abs=5e-4)  # it shows three decimals
    assert opened.ui.findingsTable.rowCount == len(FIRST["findings"])
    assert opened.ui.messageLabel.text == ""


def test_the_views_show_it_as_they_did(opened: Opened) -> None:
    import slicer.util

    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    names = {node.GetID(): node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")}
    shown = [
        [names[view.GetBackgroundVolumeID()], names[view.GetForegroundVolumeID()], view.GetForegroundOpacity()]
        for view in views
    ]
    assert shown == THEN["shown"]


def test_only_its_outline_is_seen(opened: Opened) -> None:
    import slicer.util

    def seen() -> list[str]:
        nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        return [
            node.GetName() for node in nodes for segment in node.GetSegmentation().GetSegmentIDs()
            if node.GetDisplayNode().GetVisibility() and node.GetDisplayNode().GetSegmentVisibility(segment)
        ]  # fmt: skip

    assert seen() == [FIRST["segmentation"]]
    opened.select(SECOND["name"])
    assert seen() == [SECOND["segmentation"]]


def test_only_its_legend_is_seen(opened: Opened) -> None:
    import slicer.util

    nodes = slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode")
    assert [node.GetDisplayableNode().GetName() for node in nodes if node.GetVisibility()] == [FIRST["name"]]


@pytest.mark.parametrize("then", THEN["results"], ids=["selected", "painted", "stopped"])
def test_what_was_known_of_each_result_is_known(opened: Opened, then: dict[str, Any]) -> None:
    import slicer.util

    opened.select(then["name"])
    check(opened, then)
    heatmap = opened.heatmap
    assert float(slicer.util.arrayFromVolume(heatmap).max()) == then["heatmap"]["max"]
    assert calibrationOf(recordOf(heatmap)).get("threshold") == then["model"]
    assert calibrationOf(recordOf(heatmap)).get("noise_floor") == then["floor"]
    if then["otsu"] < then["floor"]:  # that was taken without a word
        with pytest.raises(Exception, match="below the noise floor"):
            otsuThreshold(heatmap)
        assert json.loads(heatmap.GetAttribute("ToNNO.Record"))["otsu"] == then["otsu"]
    else:
        assert otsuThreshold(heatmap) == then["otsu"]
    edges, counts = histogram(heatmap)
    assert [edges[0], edges[-1], counts.sum()] == pytest.approx(then["histogram"])
    assert [recordOf(heatmap).get("score"), recordOf(heatmap).get("explained")] == then["why"]
    assert profileAlong(heatmap, (0, 0, 1)).logits.tolist() == pytest.approx(then["profile"], abs=1e-6)


def test_a_stopped_run_is_told_to_be_one(opened: Opened) -> None:
    opened.select(STOPPED["name"])
    assert STOPPED["record"]["stopped"]
    assert "stopped" in opened.name


def test_what_is_done_with_a_result_can_be_done_with_it(opened: Opened) -> None:
    """Going through the findings, judging, measuring, comparing with another, the report as text."""
    ui = opened.ui
    for button in (ui.nextButton, ui.acceptButton, ui.nextButton, ui.rejectButton):
        button.click()
    ui.diametersCheck.checked = True
    opened.compareWith(SECOND["name"])
    opened.host.process()
    assert ui.messageLabel.text == ""
    ui.copyReportButton.click()
    assert ui.messageLabel.text == "The report is in the clipboard."
    assert "Matched CAM" in opened.clipboard()


def test_the_slider_moves_the_segment_that_is_there(opened: Opened) -> None:
    node, segment = opened.segment
    before = sum(finding["volume"] for finding in opened.findings)
    opened.drag(FIRST["threshold"] * 1.2)
    assert opened.segment == (node, segment)
    assert 0 < sum(finding["volume"] for finding in opened.findings) < before
    assert opened.smallestMm3 == 10.0  # as it was written
    opened.ui.undoButton.click()
    opened.host.process()
    check(opened, FIRST)


def test_what_was_painted_is_asked_about(opened: Opened) -> None:
    from qt_host import QtHost

    opened.select(SECOND["name"])
    QtHost.answers.append(("message", "Cancel"))
    opened.drag(SECOND["threshold"] * 2)
    check(opened, SECOND)


def test_choices_are_as_they_were(opened: Opened) -> None:
    then, node = THEN["parameters"], opened.parameters.parameterNode
    # Where the model lay is not there any more; the threshold and the segment's ID are of the result now.
    for name in set(then) - {"modelFolder", "threshold", "segmentId", "segmentation", "inputVolume", "heatmap"}:
        assert node.GetParameter(name) == then[name], name
    for role in ("inputVolume", "heatmap"):
        assert node.GetNodeReference(role).GetName() == then[role]
    request = opened.request()
    assert (request.method, request.preset, request.device) == ("tonno", "balanced", "cpu")
    assert {name: value for name, value in request.options.items() if value is not None} == {
        "slices": 16, "directions": 24, "filter": "hann",
    }  # fmt: skip
    assert request.minMm3 == 10.0
    assert opened.modelName == FIRST["record"]["model"]["name"]
