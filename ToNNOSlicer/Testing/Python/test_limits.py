"""A threshold in the noise makes a hundred thousand parts: the window goes on, and what is left undone is said."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import slicer
import slicer.util
from agreement import components, tag, visibleSegments
from scenes import SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, blobs
from scipy import ndimage
from ToNNOSlicerLib.logic import ToNNOUserError, diameters, findings, labelmap, segmentation
from ToNNOSlicerLib.logic.diameters import isDrawn
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.report import exportReport
from ToNNOSlicerLib.logic.results import resultOf
from ToNNOSlicerLib.logic.segmentation import isShown3D, segmentOf, show3D, thresholdOf

CPU_S = 0.3  # of one core, for any mask of 256^3 voxels
NOISE = 0.9  # a threshold in the noise of `blobs`, which is even between -1 and 1


def lattice() -> np.ndarray:
    """A heatmap whose mask at THRESHOLD has 7 x 9 x 11 parts of a voxel, no two of the same height."""
    array = np.zeros(SHAPE_ZYX, np.float32)
    array[::2, ::2, ::2] = np.random.default_rng(0).permutation(693).reshape(7, 9, 11) / 100 + THRESHOLD
    return array


@pytest.fixture
def scattered(logic: Any) -> Any:
    heatmap = addHeatmap(logic, addVolume(), lattice())
    logic.segments.write(heatmap, THRESHOLD)
    return heatmap


# --- findings


def test_of_many_parts_those_with_the_highest_peaks_are_listed(logic: Any, scattered: Any) -> None:
    listing = resultOf(scattered).listing
    highest = np.sort(lattice()[lattice() >= THRESHOLD])[::-1]
    assert [finding.peak for finding in listing.findings] == highest[:500].tolist()
    assert listing.parts == 693
    assert listing.gap == "The segment has 693 parts; listed are the 500 with the highest peaks."
    assert all(finding.pieces.labelOf(finding.place, 0.0) == finding.label for finding in listing.findings[::50])


def test_what_counts_all_of_them_is_refused_with_the_way_out(logic: Any, scattered: Any, tmp_path: Any) -> None:
    segment = segmentOf(scattered)
    other = addHeatmap(logic, addVolume(name="before"), blobs())
    for count in (
        lambda: findingsOf(*segment, scattered),
        lambda: exportReport(tmp_path / "report.html", scattered, *segment),
        lambda: compared(logic, other, scattered),
    ):
        with pytest.raises(ToNNOUserError, match="parts") as refused:
            count()
        assert "Raise the threshold" in refused.value.nextStep
    assert not list(tmp_path.iterdir())


def compared(logic: Any, heatmap: Any, prior: Any) -> Any:
    from ToNNOSlicerLib.logic import compare
    from ToNNOSlicerLib.logic.results import resultOf

    logic.segments.write(heatmap, THRESHOLD)
    return compare.changes(resultOf(heatmap), resultOf(prior))


def test_a_mask_of_too_many_runs_is_not_searched(logic: Any, scattered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(findings, "MOST_RUNS", 692)
    listing = resultOf(scattered).listing
    assert (listing.findings, listing.parts) == ((), None) and "scattered" in listing.gap
    monkeypatch.setattr(findings, "MOST_RUNS", 693)
    assert resultOf(scattered).listing.parts == 693


def test_a_finding_of_many_is_removed_and_no_other(logic: Any, scattered: Any) -> None:
    listed = resultOf(scattered).findings
    logic.removeFinding(scattered, listed[3])
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(*segmentOf(scattered), scattered).astype(bool)
    assert np.count_nonzero(mask) == 692 and lattice()[mask].max() == np.float32(listed[0].peak)
    assert np.float32(listed[3].peak) not in lattice()[mask]


# --- small parts


def test_small_parts_that_are_too_many_are_not_left_out_without_a_word(
    logic: Any, scattered: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = segmentOf(scattered), thresholdOf(*segmentOf(scattered))
    monkeypatch.setattr(segmentation, "MOST_FILTERED_RUNS", 692)
    with pytest.raises(ToNNOUserError, match="too many parts to leave out") as refused:
        logic.segments.write(scattered, THRESHOLD, 5.0)
    assert "set the smallest part to 0" in refused.value.nextStep
    assert (segmentOf(scattered), thresholdOf(*segmentOf(scattered))) == before
    assert resultOf(scattered).listing.parts == 693
    logic.segments.write(scattered, THRESHOLD, 0.0)  # without them nothing is refused
    monkeypatch.setattr(segmentation, "MOST_FILTERED_RUNS", 693)
    logic.segments.write(scattered, THRESHOLD, 5.0)
    assert resultOf(scattered).listing.parts == 0


# --- 3D


def test_too_many_parts_have_no_surface(logic: Any, scattered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    node = segmentOf(scattered)[0]
    monkeypatch.setattr(labelmap, "MOST_SURFACE_RUNS", 692)
    with pytest.raises(ToNNOUserError, match="for 3D views") as refused:
        show3D(node, True)
    assert "Raise the threshold" in refused.value.nextStep and not isShown3D(node)


def test_a_surface_is_given_up_when_its_segment_is_scattered(logic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heatmap = addHeatmap(logic, addVolume())
    node, _id = logic.segments.write(heatmap, THRESHOLD)
    show3D(node, True)
    runs = np.count_nonzero(np.diff(np.pad(blobs() >= NOISE, ((0, 0), (0, 0), (1, 0))).astype(int), axis=2) == 1)
    monkeypatch.setattr(labelmap, "MOST_SURFACE_RUNS", int(runs) - 1)
    logic.segments.write(heatmap, NOISE)
    assert not isShown3D(node)
    logic.segments.undo(heatmap)
    show3D(node, True)
    assert isShown3D(node)
    logic.segments.writeNew(heatmap, NOISE, segmentationNode=node)  # into the same node
    assert not isShown3D(node)


def test_the_diameters_of_many_findings_are_not_drawn(logic: Any, host: Any, scattered: Any) -> None:
    listed = resultOf(scattered).findings
    diameters.draw(logic.scene, scattered, listed[: diameters.MOST_DRAWN])
    count = host.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode")
    assert count == 2 * diameters.MOST_DRAWN
    with pytest.raises(ToNNOUserError, match="500 findings would cover"):
        diameters.draw(logic.scene, scattered, listed)
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 0 and not isDrawn(scattered)


# --- the panel


@pytest.fixture
def panel(qtHost: Any, widget: Any, result: Any) -> Any:
    """The widget with a result that is good at THRESHOLD and noise at NOISE."""
    widget.ui.smallestBox.value = 0.0
    return widget


def test_the_panel_says_what_it_does_not_list_and_goes_on(
    qtHost: Any, panel: Any, result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui = panel.ui
    monkeypatch.setattr(findings, "MOST_LISTED", 20)
    ui.thresholdSlider.value = NOISE
    parts = len(components(blobs() >= np.float32(NOISE)))
    assert parts > 20
    assert ui.findingsTable.rowCount == 20
    assert ui.sentenceLabel.text.startswith(f"The segment has {parts} parts; listed are the 20")
    assert "Raise the threshold" in ui.sentenceLabel.text
    ui.exportFindingsButton.click()  # asks for no file
    assert "parts" in ui.messageLabel.text
    ui.copyReportButton.click()
    assert "parts" in ui.messageLabel.text
    monkeypatch.setattr(findings, "MOST_RUNS", 10)
    ui.thresholdSlider.value = NOISE - 0.01
    assert ui.findingsTable.rowCount == 0 and "scattered" in ui.sentenceLabel.text
    assert visibleSegments(qtHost.scene)
    ui.thresholdSlider.value = THRESHOLD
    monkeypatch.setattr(findings, "MOST_RUNS", 1000)
    ui.thresholdSlider.value = THRESHOLD + 0.5
    assert ui.findingsTable.rowCount == 2 and ui.sentenceLabel.text.startswith("2 findings")


def test_a_refused_threshold_leaves_the_slider_where_it_was(
    panel: Any, result: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ui = panel.ui
    ui.smallestBox.value = 10.0
    monkeypatch.setattr(segmentation, "MOST_FILTERED_RUNS", 50)
    ui.thresholdSlider.value = NOISE
    assert "too many parts" in ui.messageLabel.text
    assert ui.thresholdSlider.value == THRESHOLD and ui.findingsTable.rowCount == 2
    node, segmentId = panel.panel.session.result.segment
    assert float(tag(node.GetSegmentation().GetSegment(segmentId), "ToNNO.Threshold")) == THRESHOLD


# --- time


def ball(side: int, radius: int) -> np.ndarray:
    k, j, i = np.ogrid[:side, :side, :side]
    middle = side // 2
    return (k - middle) ** 2 + (j - middle) ** 2 + (i - middle) ** 2 <= radius**2


def lone(count: int) -> np.ndarray:
    mask = np.zeros(256**3, bool)
    mask[np.random.default_rng(0).choice(256**3, count, replace=False)] = True
    return mask.reshape(256, 256, 256)


MASKS = {
    "a ball of 220 voxels across": lambda: ball(256, 110),
    "everything": lambda: np.ones((256, 256, 256), bool),
    "250,000 lone voxels": lambda: lone(250_000),
    "300,000 lone voxels": lambda: lone(300_000),
    "half of all voxels": lambda: lone(256**3 // 2),
    "smooth noise": lambda: ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(256,) * 3), 3) > 0.02,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKS)
def test_any_mask_is_read_within_the_time_of_a_click(logic: Any, name: str, figure: Any) -> None:
    mask = MASKS[name]()
    array = np.where(mask, np.float32(5), np.float32(0))
    array[0, 0, 0] += 1  # an image with contrast
    heatmap = addHeatmap(logic, addVolume(np.eye(4), array), array)
    logic.segments.write(heatmap, THRESHOLD)
    times = []
    for _n in range(3):
        start = time.process_time()
        listing = resultOf(heatmap).listing
        times.append(time.process_time() - start)
    figure(f"findings of {name} at 256^3: {1000 * min(times):.0f} ms of a core, {listing.parts} parts")
    assert min(times) < CPU_S
