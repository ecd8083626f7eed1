"""The eleven faults that were seen at the bedside (issue 9, section A), each by its number: none of them comes back.

A user clicks, an engine of the tests answers, and everything is looked at from outside: views, outlines, legends,
table, labels and files, never the session. Whatever order things are clicked in is for test_sequences.py.

(1) a result over another patient's image; (2) another volume under the old result; (3) another result beside the old
numbers; (4) a stopped run that is taken for a whole one; (5) outlines of earlier runs; (6) numbers from before the work
by hand; (7) Show 3D that stays pressed; (8) messages that outlive their cause; (9) a threshold that was calibrated for
other planes; (10) nothing above the threshold; (11) texts of the command line.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")

import slicer
import slicer.util
from agreement import components, heatmapsIn, nodes, shownHeatmaps, visibleSegments
from computing import PLANNED, THRESHOLD, Computing
from scenes import GRIDS, SHAPE_ZYX, addVolume, image, paint, segmentArray

RUN_S = 30  # longest that a run may take on a busy machine; it takes half a second
MATCHED, TONNO = 0, 1  # rows of the method's box


class Engine(Computing):
    """Answers as a test wants it.

    threshold: replaces what the model's record holds for the method. array: the heatmap, in place of a random one.
    error: said in place of a result.
    """

    threshold: dict[str, Any] | None = None
    array: np.ndarray | None = None
    error: str = ""

    def _result(self) -> dict[str, Any]:
        event = super()._result()
        if self.error:
            return {"type": "error", "id": event["id"], "kind": "user", "message": self.error, "next": ""}
        for entry in event["heatmaps"].values():
            if self.array is not None:
                np.save(entry["array"], self.array)
            if self.threshold is not None:
                entry["threshold"] = self.threshold
        return event


class Desk:
    """A user before the panel. said: the questions; toHandWork: the answer to that about work by hand."""

    def __init__(self, host: Any, widget: Any, engine: Engine, folder: Path) -> None:
        self.host, self.widget, self.ui, self.engine, self.folder = host, widget, widget.ui, engine, folder
        self.scene = host.scene
        self.said: list[str] = []
        self.toHandWork = ""

    def choose(self, _title: str, text: str, choices: dict[str, str], _details: str = "") -> str:
        """In place of the question's window."""
        self.said.append(text)
        return "go" if "go" in choices else self.toHandWork

    # --- what the user does

    def load(self, name: str, grid: str = "oblique", seed: int = 0) -> Any:
        """As Slicer does it: what was loaded last is shown in all views."""
        volume = addVolume(GRIDS[grid], image(seed=seed), name=name)
        slicer.util.setSliceViewerLayers(background=volume)
        self.host.process(0.1)
        return volume

    def pick(self, volume: Any) -> None:
        self.ui.inputSelector.setCurrentNode(volume)
        self.host.process(0.1)

    def pickResult(self, heatmap: Any) -> None:
        self.ui.heatmapSelector.setCurrentNode(heatmap)
        self.host.process(0.1)

    def run(self, method: int = MATCHED) -> Any:
        """Click Apply and wait; returns the heatmap that is selected then."""
        self.begin(method)
        assert self.host.process(RUN_S, self.isIdle), self.ui.statusLabel.text
        return self.ui.heatmapSelector.currentNode()

    def begin(self, method: int = MATCHED) -> None:
        self.ui.methodSelector.currentIndex = method
        self.ui.runButton.click()
        assert not self.isIdle(), self.ui.messageLabel.text

    def stopEarly(self, method: int = MATCHED) -> Any:
        """Stop and keep what is there once there is a preview."""
        self.begin(method)
        isPreview = lambda: "(preview)" in self.ui.statusLabel.text  # noqa: E731
        assert self.host.process(RUN_S, isPreview), self.ui.statusLabel.text
        self.ui.stopButton.click()
        assert self.host.process(RUN_S, self.isIdle), self.ui.statusLabel.text
        return self.ui.heatmapSelector.currentNode()

    def export(self, name: str = "findings.csv") -> list[dict[str, str]]:
        """The findings, as the file has them."""
        target = self.folder / name
        self.host.answers.append(("save", str(target)))
        self.ui.exportFindingsButton.click()
        with target.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def paint(self, heatmap: Any, ijk: tuple[int, int, int]) -> None:
        """A voxel more in the result's segment, as the Segment Editor leaves it; the panel has not looked yet."""
        voxels = np.zeros(SHAPE_ZYX, np.uint8)
        voxels[ijk[::-1]] = 1
        paint(*segmentOf(heatmap), voxels, heatmap)

    # --- what the user sees

    def isIdle(self) -> bool:
        return bool(self.ui.runButton.enabled)

    def views(self) -> list[Any]:
        return nodes(self.scene, "vtkMRMLSliceCompositeNode")

    def images(self) -> set[str]:
        """Names of the images in the background of the views."""
        return {self.scene.GetNodeByID(view.GetBackgroundVolumeID() or "").GetName() for view in self.views()}

    def results(self) -> list[Any]:
        volumes = nodes(self.scene, "vtkMRMLScalarVolumeNode")
        return [node for node in volumes if node.GetAttribute("ToNNO.Record")]

    def canExport(self) -> bool:
        names = "exportFindingsButton", "exportHeatmapButton", "exportReportButton", "exportSegmentationButton"
        return any(getattr(self.ui, name).enabled for name in names)


@pytest.fixture
def desk(qtHost: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The module with an engine that answers within half a second, and an empty scene."""
    from walk import MODULE

    folder = tmp_path / "engine"
    folder.mkdir()
    engine = Engine(folder)
    useEngine(monkeypatch, engine)
    made = Desk(qtHost, qtHost.loadModule(MODULE), engine, tmp_path)
    from ToNNOSlicerLib import ask

    monkeypatch.setattr(ask, "choose", made.choose)
    return made


def useEngine(monkeypatch: pytest.MonkeyPatch, engine: Engine) -> None:
    from ToNNOSlicerLib import install
    from ToNNOSlicerLib.panel import Panel

    monkeypatch.setattr(install, "missing", lambda path: install.Missing("", ()))
    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: engine))


def named(ui: Any) -> str:
    """What stands above the findings: whose result they are."""
    return ui.identityLabel.text if ui.identityLabel.isVisibleTo(ui.ToNNOSlicer) else ""


def sentence(ui: Any) -> str:
    return ui.sentenceLabel.text


def notes(ui: Any) -> str:
    return ui.notesLabel.text if ui.notesLabel.isVisibleTo(ui.ToNNOSlicer) else ""


def message(ui: Any) -> str:
    return ui.messageLabel.text if ui.messageLabel.isVisibleTo(ui.ToNNOSlicer) else ""


def recordOf(heatmap: Any) -> dict[str, Any]:
    return json.loads(heatmap.GetAttribute("ToNNO.Record"))


def segmentOf(heatmap: Any) -> tuple[Any, str]:
    """The segment that was written from a heatmap."""
    return heatmap.GetNodeReference("ToNNO.segmentation"), heatmap.GetAttribute("ToNNO.segmentation")


def maskOf(heatmap: Any) -> np.ndarray:
    return segmentArray(*segmentOf(heatmap), heatmap)


def sizesOf(heatmap: Any) -> list[int]:
    """Voxels of each part of its segment, falling; by SciPy."""
    return components(maskOf(heatmap))


def peaksOf(heatmap: Any) -> list[float]:
    """The highest value of each part of its segment, falling; by SciPy."""
    from scipy import ndimage

    labels, count = ndimage.label(maskOf(heatmap), np.ones((3, 3, 3)))
    values = ndimage.maximum(slicer.util.arrayFromVolume(heatmap), labels, np.arange(1, count + 1))
    return sorted(np.atleast_1d(values).tolist(), reverse=True) if count else []


def legends(scene: Any) -> set[str]:
    """IDs of the heatmaps whose legend is shown."""
    shown = set()
    for node in nodes(scene, "vtkMRMLScalarVolumeNode"):
        legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(node)
        if legend is not None and legend.GetVisibility():
            shown.add(node.GetID())
    return shown


def heightOver(scene: Any, view: Any, point: np.ndarray) -> float:
    """How far a point (RAS mm) lies over the plane of a view."""
    sliceNode = scene.GetNodeByID(f"vtkMRMLSliceNode{view.GetLayoutName()}")
    matrix = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    return float(matrix[:3, 2] @ (point - matrix[:3, 3]))


def quiet(peak: float) -> np.ndarray:
    """Noise with a single voxel that stands out."""
    array = np.random.default_rng(3).uniform(-0.5, 0.5, SHAPE_ZYX).astype(np.float32)
    array[9, 12, 15] = peak
    return array


# --- (1) A and B loaded, B chosen, Apply: B's heatmap over A's image, the finding outside of A's head


def test_01_a_result_lies_over_its_own_image(desk: Desk) -> None:
    b = desk.load("B", "as DICOM has it", seed=1)
    desk.load("A")
    desk.pick(b)
    heatmap = desk.run()
    assert heatmap.GetNodeReference("ToNNO.input") is b
    assert desk.images() == {"B"}
    assert all(heatmapsIn(view) == {heatmap.GetID()} for view in desk.views())


def test_01_a_finding_is_gone_to_in_its_own_image(desk: Desk) -> None:
    from pythonqt import unwrap

    b = desk.load("B", "as DICOM has it", seed=1)
    desk.load("A")
    desk.pick(b)
    desk.run()
    unwrap(desk.ui.findingsTable).cellClicked.emit(0, 0)
    for view in desk.views():
        bounds = np.zeros(6)
        desk.scene.GetNodeByID(view.GetBackgroundVolumeID()).GetRASBounds(bounds)
        corners = np.stack(np.meshgrid(*bounds.reshape(3, 2)), axis=-1).reshape(-1, 3)
        heights = [heightOver(desk.scene, view, corner) for corner in corners]
        assert min(heights) <= 0 <= max(heights)  # the plane cuts the image


def test_01_a_result_that_nobody_waits_for_does_not_take_the_views(desk: Desk) -> None:
    """A run goes on while the user looks at the next patient."""
    a = desk.load("A")
    b = desk.load("B", "as DICOM has it", seed=1)
    desk.pick(a)
    desk.begin()
    desk.pick(b)
    assert desk.host.process(RUN_S, desk.isIdle)
    desk.host.process(0.1)
    assert desk.images() == {"B"} and not shownHeatmaps(desk.scene) and not visibleSegments(desk.scene)
    assert desk.ui.inputSelector.currentNode() is b


# --- (2) another volume chosen: the old findings, overlay, outline and exports stay under the new name


def test_02_another_volume_shows_nothing_of_the_one_before(desk: Desk) -> None:
    a, b = desk.load("A"), desk.load("B", seed=1)
    desk.pick(a)
    desk.run()
    assert desk.ui.findingsTable.rowCount and visibleSegments(desk.scene)
    desk.pick(b)
    assert desk.images() == {"B"}
    assert not shownHeatmaps(desk.scene) and not legends(desk.scene) and not visibleSegments(desk.scene)
    assert desk.ui.findingsTable.rowCount == 0
    assert not desk.canExport()


def test_01_a_preview_that_somebody_removes_is_shown_no_more(desk: Desk) -> None:
    """In the module Data, while the run goes on; the result comes all the same."""
    desk.pick(desk.load("A"))
    desk.begin()
    assert desk.host.process(RUN_S, lambda: "(preview)" in desk.ui.statusLabel.text)
    (preview,) = (node for node in nodes(desk.scene, "vtkMRMLScalarVolumeNode") if node.GetAttribute("ToNNO.Record"))
    desk.scene.RemoveNode(preview)
    desk.widget.panel.session.refresh()
    assert not shownHeatmaps(desk.scene) and not legends(desk.scene)
    assert desk.host.process(RUN_S, desk.isIdle)
    assert shownHeatmaps(desk.scene) == {desk.ui.heatmapSelector.currentNode().GetID()}


def test_02_the_crosshair_marks_no_place_of_the_patient_before(desk: Desk) -> None:
    crosshair = desk.scene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    a, b = desk.load("A"), desk.load("B", seed=1)
    desk.pick(a)
    desk.run()
    assert crosshair.GetCrosshairMode() != slicer.vtkMRMLCrosshairNode.NoCrosshair
    desk.pick(b)
    assert crosshair.GetCrosshairMode() == slicer.vtkMRMLCrosshairNode.NoCrosshair



def test_02_a_volume_comes_back_with_its_own_result(desk: Desk) -> None:
    a, b = desk.load("A"), desk.load("B", seed=1)
    desk.pick(a)
    ofA = desk.run()
    desk.pick(b)
    ofB = desk.run()
    for volume, heatmap in ((a, ofA), (b, ofB), (a, ofA)):
        desk.pick(volume)
        assert desk.images() == {volume.GetName()} and volume.GetName() in named(desk.ui)
        assert shownHeatmaps(desk.scene) == legends(desk.scene) == {heatmap.GetID()}
        assert visibleSegments(desk.scene) == {(segmentOf(heatmap)[0].GetID(), segmentOf(heatmap)[1])}
        assert desk.ui.findingsTable.rowCount == len(sizesOf(heatmap))
        rows = desk.export(f"{volume.GetName()}.csv")
        assert [float(row["peak"]) for row in rows] == pytest.approx(peaksOf(heatmap), rel=1e-5)  # six digits
        assert {row["volume"] for row in rows} == {volume.GetName()}


# --- (3) another heatmap chosen: table, selector, legend stay; Findings... exports the other method's numbers; Remove
#     and New segment act on the wrong node


def twoMethods(desk: Desk) -> tuple[Any, Any]:
    """Two results of an image, the first of which is shown again."""
    desk.pick(desk.load("A"))
    first, second = desk.run(MATCHED), desk.run(TONNO)
    assert first is not second and peaksOf(first) != peaksOf(second)
    desk.pickResult(first)
    return first, second


def test_03_another_result_brings_its_own_numbers(desk: Desk) -> None:
    for heatmap in twoMethods(desk):
        desk.pickResult(heatmap)
        assert legends(desk.scene) == shownHeatmaps(desk.scene) == {heatmap.GetID()}
        assert desk.ui.findingsTable.rowCount == len(sizesOf(heatmap))
        rows = desk.export(f"{recordOf(heatmap)['method']}.csv")
        assert [float(row["peak"]) for row in rows] == pytest.approx(peaksOf(heatmap), rel=1e-5)
        assert len({row["method"] for row in rows}) == 1 and "ToNNO" in rows[0]["method"]
        assert ("Matched CAM" in rows[0]["method"]) == (recordOf(heatmap)["method"] == "matched-cam")


def test_03_diameters_follow_beside_a_scan_that_cannot_be_compared(desk: Desk) -> None:
    """The comparison's error is said; what is drawn is of the findings that are listed all the same."""
    a, b = desk.load("A"), desk.load("B", seed=1)
    far = desk.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    slicer.util.updateTransformMatrixFromArray(far, np.array([
        [1.0, 0, 0, 1e4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],
    ]))  # fmt: skip
    b.SetAndObserveTransformNodeID(far.GetID())
    desk.pick(b)
    prior = desk.run()
    desk.pick(a)
    heatmap = desk.run()
    desk.ui.diametersCheck.checked = True
    desk.ui.priorSelector.setCurrentNode(prior)
    assert "share no space" in desk.ui.messageLabel.text
    desk.ui.thresholdSlider.value = 1.01 * max(peaksOf(heatmap))
    assert desk.ui.findingsTable.rowCount == len(nodes(desk.scene, "vtkMRMLMarkupsLineNode")) == 0


def test_03_a_finding_is_removed_from_the_result_that_is_shown(desk: Desk) -> None:
    from pythonqt import unwrap

    first, second = twoMethods(desk)
    before, other = sizesOf(first), sizesOf(second)
    unwrap(desk.ui.findingsTable).cellClicked.emit(0, 0)
    desk.ui.findingsTable.selectRow(0)
    desk.ui.removeFindingButton.click()
    assert len(sizesOf(first)) == len(before) - 1 and sizesOf(second) == other


def test_03_a_new_segment_is_of_the_result_that_is_shown(desk: Desk) -> None:
    first, second = twoMethods(desk)
    before, other = segmentOf(first), segmentOf(second)
    count = other[0].GetSegmentation().GetNumberOfSegments()
    desk.ui.newSegmentButton.click()
    assert segmentOf(first)[0] is before[0] and segmentOf(first)[1] != before[1]
    assert segmentOf(second) == other and other[0].GetSegmentation().GetNumberOfSegments() == count
    assert (segmentOf(first)[0].GetID(), segmentOf(first)[1]) in visibleSegments(desk.scene)


# --- (4) Stop and keep, then Apply: the same directions are returned for ever, and nothing says "stopped"


def test_04_a_stopped_run_says_so_and_goes_on_to_its_end(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    stopped = recordOf(desk.stopEarly())
    assert 0 < stopped["directions"] < PLANNED
    assert f"stopped at {stopped['directions']} of {PLANNED}" in named(desk.ui) and notes(desk.ui)
    whole = recordOf(desk.run())
    assert whole["directions"] == PLANNED and not whole.get("stopped")
    assert "stopped" not in named(desk.ui) + notes(desk.ui)
    assert [kind for kind, _fields in desk.engine.requests].count("reconstruct") == 1  # no plane was looked at twice


def test_04_nor_is_it_taken_for_a_whole_one_by_another_method(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    desk.stopEarly(MATCHED)
    record = recordOf(desk.run(TONNO))
    assert record["method"] == "tonno" and record["directions"] == PLANNED and not record.get("stopped")


def test_04_a_file_of_a_stopped_run_says_so(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    directions = recordOf(desk.stopEarly())["directions"]
    rows = desk.export()
    assert rows and {row["stopped"] for row in rows} == {f"stopped at {directions} of {PLANNED}"}


# --- (5) each run adds nodes, old outlines stay visible in the same green; "Findings (0)" beside another's outline


def test_05_a_run_that_is_repeated_replaces_its_predecessor(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    for _n in range(3):
        desk.run()
    assert len(desk.results()) == 1
    (segmentation,) = nodes(desk.scene, "vtkMRMLSegmentationNode")
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_05_work_by_hand_on_a_predecessor_is_kept(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    first = desk.run()
    desk.paint(first, (1, 1, 1))
    painted = sizesOf(first)
    second = desk.run()
    assert second is not first and sizesOf(first) == painted


def test_05_outlines_of_other_results_are_hidden_and_have_other_colors(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    first, second = desk.run(MATCHED), desk.run(TONNO)
    assert visibleSegments(desk.scene) == {(segmentOf(second)[0].GetID(), segmentOf(second)[1])}
    colors = [node.GetSegmentation().GetSegment(name).GetColor() for node, name in map(segmentOf, (first, second))]
    assert colors[0] != colors[1]


def test_05_no_findings_means_no_outline(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    first = desk.run(MATCHED)
    desk.engine.array = quiet(0.6)
    second = desk.run(TONNO)
    assert desk.ui.findingsTable.rowCount == 0 and sizesOf(first)
    assert not any(sizesOf(second)) and (segmentOf(first)[0].GetID(), segmentOf(first)[1]) not in visibleSegments(
        desk.scene
    )


# --- (6) a stale findings file while Correct by hand is open; a box and a segment that differ after Cancel


def test_06_a_file_has_what_was_painted_a_moment_ago(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    heatmap = desk.run()
    before = len(sizesOf(heatmap))
    desk.ui.editorSection.collapsed = False
    far = np.argwhere(~maskOf(heatmap).astype(bool))[0][::-1]
    desk.paint(heatmap, tuple(int(n) for n in far))
    assert len(sizesOf(heatmap)) == before + 1
    assert len(desk.export()) == before + 1
    desk.host.process(0.2)
    assert desk.ui.findingsTable.rowCount == before + 1


def test_06_after_cancel_boxes_show_what_the_segment_has(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    heatmap = desk.run()
    smallest, threshold = desk.ui.smallestBox.value, desk.ui.thresholdSlider.value
    desk.paint(heatmap, (1, 1, 1))
    desk.host.process(0.2)
    painted = maskOf(heatmap)
    desk.ui.smallestBox.value = 200.0
    desk.ui.thresholdSlider.value = threshold + 1
    assert len([text for text in desk.said if "changed by hand" in text]) == 2
    assert np.array_equal(maskOf(heatmap), painted)
    assert (desk.ui.smallestBox.value, desk.ui.thresholdSlider.value) == (smallest, threshold)


# --- (7) Show 3D stays pressed


def is3D(heatmap: Any) -> bool:
    node = segmentOf(heatmap)[0]
    hasSurface = node.GetSegmentation().ContainsRepresentation("Closed surface")
    return bool(hasSurface and node.GetDisplayNode().GetVisibility3D())


def test_07_show_3d_is_pressed_while_the_surfaces_are_shown(desk: Desk) -> None:
    a, b = desk.load("A"), desk.load("B", seed=1)
    desk.pick(a)
    heatmap = desk.run()
    button = desk.ui.show3DButton
    if not button.checked:
        button.click()
    assert is3D(heatmap)
    desk.pick(b)
    assert not button.checked  # there is nothing to show
    desk.pick(a)
    assert button.checked == is3D(heatmap)
    slicer.mrmlScene.Clear(0)
    desk.host.process(0.1)
    assert not button.checked


# --- (8) red and green messages outlive their cause


def test_08_a_refusal_goes_with_its_cause(desk: Desk) -> None:
    desk.pick(None)
    desk.ui.runButton.click()
    assert "No volume" in message(desk.ui)
    desk.pick(addVolume(name="A"))
    assert message(desk.ui) == ""


def test_08_an_engines_error_goes_when_something_else_is_chosen(desk: Desk) -> None:
    a, b = desk.load("A"), desk.load("B", seed=1)
    desk.pick(a)
    desk.engine.error = "every slice was blank"
    desk.run()
    assert "blank" in message(desk.ui)
    desk.pick(b)
    assert message(desk.ui) == ""


def test_08_good_news_goes_with_the_next_click(desk: Desk) -> None:
    desk.pick(desk.load("A"))
    desk.run()
    desk.export()
    assert "findings.csv" in message(desk.ui)
    desk.ui.thresholdSlider.value = THRESHOLD + 0.5
    assert message(desk.ui) == ""


# --- (9) the default quality uses a threshold that was calibrated for other planes, without a word


CALIBRATION = {"threshold": THRESHOLD, "noise_floor": 1.0, "negative_volumes": 12, "volume_quantile": 0.95}
NOTE = "The threshold is scaled from the model's calibration with 96 directions; this heatmap has 48."


@pytest.mark.parametrize("source", ["scaled", "unscaled"])
def test_09_a_threshold_for_other_planes_says_so(desk: Desk, source: str) -> None:
    desk.engine.threshold = CALIBRATION | {"source": source, "note": NOTE}
    desk.pick(desk.load("A"))
    desk.run()
    assert NOTE in notes(desk.ui)
    words = [desk.ui.findingsTable.item(row, 5).text() for row in range(desk.ui.findingsTable.rowCount)]
    assert set(words) == {"above the model's threshold"}  # nothing of the calibration's scans, which had other planes


def test_09_a_threshold_for_just_these_planes_says_what_it_is_worth(desk: Desk) -> None:
    desk.engine.threshold = CALIBRATION | {"source": "calibrated", "note": ""}
    desk.pick(desk.load("A"))
    desk.run()
    assert notes(desk.ui) == ""
    words = [desk.ui.findingsTable.item(row, 5).text() for row in range(desk.ui.findingsTable.rowCount)]
    assert set(words) == {"above at least 11 of 12 negative scans"}


@pytest.mark.parametrize("quality", ["fast", "balanced", "paper"])
def test_09_the_shipped_model_has_a_threshold_for_each_quality_or_says_that_it_has_none(quality: str) -> None:
    from tonno_core.bundle.calibration import threshold_for
    from tonno_core.settings import combine

    root = Path(__file__).parents[3]
    for path in (root / "tonno_core" / "models").glob("*/model.json"):
        described = json.loads(path.read_text(encoding="utf-8"))
        for method in described["thresholds"]:
            settings = combine(defaults=described["defaults"], preset=quality, explicit={"methods": (method,)})
            found = threshold_for(described["thresholds"], method, settings)
            assert found.source == "calibrated" or found.note, (path.parent.name, method, found.changed)


# --- (10) a brain full of lesions gives "Findings (0)" without a word, as its peak is a little below the threshold


def test_10_nothing_above_the_threshold_says_how_near_the_highest_is(desk: Desk) -> None:
    desk.engine.array = quiet(0.88 * THRESHOLD + 1e-3)
    desk.pick(desk.load("A"))
    heatmap = desk.run()
    said = sentence(desk.ui)
    assert desk.ui.findingsTable.rowCount == 0
    assert said.startswith("Nothing above the model's threshold.") and "(88 % of it)" in said and "2.64" in said
    assert desk.ui.highestButton.isVisibleTo(desk.ui.ToNNOSlicer)
    desk.ui.highestButton.click()
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    heatmap.GetIJKToRASMatrix(matrix)
    place = slicer.util.arrayFromVTKMatrix(matrix) @ (15, 12, 9, 1)
    for view in desk.views():
        assert heightOver(desk.scene, view, place[:3]) == pytest.approx(0, abs=1e-3)


def test_10_below_the_noise_floor_it_says_so(desk: Desk) -> None:
    desk.engine.array = quiet(0.7)
    desk.pick(desk.load("A"))
    desk.run()
    assert "below the noise floor" in sentence(desk.ui)


def test_10_otsu_below_the_noise_floor_is_refused_with_a_sentence(desk: Desk) -> None:
    """The engine's Otsu is 2.5; scans without the finding reach 2.9."""
    desk.engine.threshold = {"threshold": THRESHOLD, "noise_floor": 2.9}
    desk.pick(desk.load("A"))
    heatmap = desk.run()
    before = maskOf(heatmap)
    desk.ui.otsuButton.click()
    assert "noise floor" in message(desk.ui)
    assert desk.ui.thresholdSlider.value == THRESHOLD and np.array_equal(maskOf(heatmap), before)


# --- (11) texts of the command line in the panel


COMMANDS = ("--", "`", "slice_size", "radius_mm", "None")


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("`slices` is 5, expected 8 to 1024; `slices` must hold the classifier's field of view", "Slices"),
        ("`stage` 9 does not exist, expected 1 to 4; give `stage` or leave it out", "Stage"),
        ("`device` cuda:7 is not here; use `device` auto", "Device"),
        ("`min_volume_mm3` is -1, expected 0 or more", "Smallest part"),
    ],
)
def test_11_an_error_is_about_the_panels_controls(desk: Desk, said: str, word: str) -> None:
    desk.engine.error = said
    desk.pick(desk.load("A"))
    desk.run()
    assert word in message(desk.ui)
    assert not [text for text in COMMANDS if text in message(desk.ui)]


def test_11_so_is_a_warning(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    warning = "slices have pixels of 1.2 mm, the model was trained at 0.8 mm; give `radius_mm` or `slice_size` 39"
    original = Engine._result
    monkeypatch.setattr(Engine, "_result", lambda engine: original(engine) | {"warnings": [warning]})
    desk.pick(desk.load("A"))
    desk.run()
    shown = notes(desk.ui) + message(desk.ui)
    assert "1.2 mm" in shown and "0.8 mm" in shown and "Region" in shown
    assert not [text for text in COMMANDS if text in shown]
