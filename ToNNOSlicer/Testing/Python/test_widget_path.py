"""The whole path by clicks: the real engine's process, the shipped model, the sample, real MRML, Qt's stand-in.

One scene, walked through once from top to bottom, as a user would; each test leaves it fit for the next.
"""

from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram, otsuThreshold, recordOf
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.logic.segmentation import isShown3D, thresholdOf

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
pytest.importorskip("torch")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the clock of the GUI's thread reads Linux's /proc"),
]

THREE = 3  # lesions of the sample
ROUNDED = 5e-4  # the slider shows three decimals


@pytest.fixture(scope="module")
def path():
    """The module after its first run, with what was seen on the way."""
    from qt_host import QtHost
    from walk import Gaps, opened, run

    host = QtHost()
    widget = opened(host)
    seen = SimpleNamespace(percents=[], previews=0, texts=set(), begun=None)
    controller = widget.panel.session.running.controller
    listener = controller._listener

    def onProgress(progress):
        seen.percents.append(progress.percent)
        if seen.begun is None and progress.percent is not None:
            seen.begun = progress.elapsedS
        seen.texts.add(progress.text)
        listener.onProgress(progress)

    def onPreview(node):
        seen.previews += 1
        seen.previewed = node
        listener.onPreview(node)

    controller._listener = SimpleNamespace(
        onProgress=onProgress,
        onPreview=onPreview,
        onOutcome=listener.onOutcome,
        onFailure=listener.onFailure,
        onDescription=listener.onDescription,
    )
    gaps = Gaps()
    seconds = run(host, widget)
    longest = gaps.stop()
    controller._listener = listener
    yield SimpleNamespace(
        host=host, widget=widget, panel=widget.panel, ui=widget.ui, seen=seen, seconds=seconds, longest=longest
    )
    host.close()


def test_progress_rises_to_the_end_and_a_preview_came_first(path) -> None:
    known = [percent for percent in path.seen.percents if percent is not None]
    assert len(known) > 5 and known == sorted(known) and known[-1] > 90
    assert path.seen.previews >= 1
    assert path.seen.previewed is path.panel.session.result.heatmapNode  # it sharpened; it is no second node


def test_no_call_holds_the_window_while_the_engine_works(path, figure) -> None:
    figure(f"longest block of the GUI's thread during the run: {path.longest:.0f} ms")
    # The bar is 100 ms, measured on a quiet machine (docs/slicer.md). No test is timed so closely, since a busy machine
    # stretches any call; a call that waited for the engine would take the seconds of a run.
    assert path.longest <= 1000


def test_heatmap_lies_on_the_volume(path) -> None:
    import slicer
    import slicer.util
    from ToNNOSlicerLib.logic.geometry import ijkToWorld

    volume, heatmap = path.panel.session.parameters.inputVolume, path.panel.session.result.heatmapNode
    assert heatmap.GetName() == "ToNNO sample ToNNO Matched CAM"
    assert slicer.util.arrayFromVolume(heatmap).shape == slicer.util.arrayFromVolume(volume).shape
    np.testing.assert_allclose(ijkToWorld(heatmap), ijkToWorld(volume), atol=1e-9)  # the same grid
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        assert view.GetForegroundVolumeID() == heatmap.GetID()
        assert view.GetForegroundOpacity() == path.panel.session.parameters.opacity


def test_findings_are_the_samples_lesions(path) -> None:
    from ToNNOSlicerLib.sample import LESIONS

    found = path.panel.session.result.findings
    assert len(found) == THREE == path.ui.findingsTable.rowCount
    for centre, radii, _brightness in LESIONS:
        nearest = min(np.linalg.norm(np.subtract(one.centroidRAS, centre)) for one in found)
        assert nearest < min(radii)  # inside of the lesion
    assert path.ui.findingsSection.text == "Findings (3)"
    assert path.ui.sentenceLabel.text.startswith("3 findings, ")
    assert isShown3D(path.panel.session.result.segmentationNode)  # within the patient's surface
    assert path.panel.session.selected == 0


def test_slider_starts_at_the_models_threshold(path) -> None:
    record = path.panel.session.result.record["threshold"]  # of these planes, which the model was not calibrated for
    assert record["source"] == "scaled" and record["note"] in path.ui.notesLabel.text
    assert path.ui.thresholdSlider.value == pytest.approx(record["threshold"], abs=ROUNDED)
    assert not path.ui.histogramLabel.pixmap.isNull()


def test_dragging_previews_and_letting_go_writes(path) -> None:
    from pythonqt import unwrap

    node, segment = path.panel.session.result.segment
    before = sum(one.volumeMm3 for one in path.panel.session.result.findings)
    start = path.ui.thresholdSlider.value
    written = thresholdOf(node, segment)
    path.panel.session.drag(start * 1.1)
    assert thresholdOf(node, segment) == written  # an outline, no segment yet
    unwrap(path.ui.thresholdSlider).drag([start * 1.05, start * 1.1])
    assert path.panel.session.result.segment == (node, segment)
    assert thresholdOf(node, segment) == pytest.approx(start * 1.1)
    assert sum(one.volumeMm3 for one in path.panel.session.result.findings) < before
    path.ui.undoButton.click()
    assert path.ui.thresholdSlider.value == pytest.approx(start)
    assert sum(one.volumeMm3 for one in path.panel.session.result.findings) == pytest.approx(before)


def test_otsu_and_back_to_the_models(path) -> None:
    path.ui.otsuButton.click()
    assert path.ui.thresholdSlider.value == pytest.approx(
        otsuThreshold(path.panel.session.result.heatmapNode), abs=ROUNDED
    )
    path.ui.modelThresholdButton.click()
    assert path.ui.thresholdSlider.value == pytest.approx(
        calibrationOf(recordOf(path.panel.session.result.heatmapNode)).get("threshold"), abs=ROUNDED
    )


def test_what_was_painted_is_asked_about(path) -> None:
    from pythonqt import unwrap
    from qt_host import QtHost
    from walk import paint

    node, segment = path.panel.session.result.segment
    start = path.ui.thresholdSlider.value
    paint(node, segment, (0, 0, 0))
    painted = findingsOf(node, segment, path.panel.session.result.heatmapNode)
    QtHost.answers.append(("message", "Cancel"))
    unwrap(path.ui.thresholdSlider).drag([start * 0.95])
    assert path.ui.thresholdSlider.value == pytest.approx(start)  # back to what the segment is
    assert findingsOf(node, segment, path.panel.session.result.heatmapNode) == painted
    QtHost.answers.append(("message", "Write a new segment"))
    unwrap(path.ui.thresholdSlider).drag([start * 0.95])
    assert findingsOf(node, segment, path.panel.session.result.heatmapNode) == painted
    assert path.panel.session.result.segment[0] is node and path.panel.session.result.segment[1] != segment
    path.ui.modelThresholdButton.click()
    assert len(path.panel.session.result.findings) == THREE


def test_click_moves_the_views_and_remove_removes(path) -> None:
    import slicer.util
    from pythonqt import unwrap

    finding = path.panel.session.result.findings[1]
    unwrap(path.ui.findingsTable).setCurrentCell(1, 0)
    unwrap(path.ui.findingsTable).cellClicked.emit(1, 0)
    for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
        m = view.GetSliceToRAS()
        normal, point = [np.array([m.GetElement(r, c) for r in range(3)]) for c in (2, 3)]
        assert normal @ (np.array(finding.peakRAS) - point) == pytest.approx(0, abs=1e-3)
    path.ui.removeFindingButton.click()
    assert len(path.panel.session.result.findings) == THREE - 1
    path.ui.undoButton.click()
    assert len(path.panel.session.result.findings) == THREE


def test_why_draws_the_profile_of_the_view(path) -> None:
    path.ui.whySection.collapsed = False
    path.ui.viewSelector.currentIndex = 0
    from ToNNOSlicerLib.sections.why import WhySection

    view = path.panel.section(WhySection).view
    assert view is not None
    assert "Score" in path.ui.whyLabel.text
    first = path.ui.profilePlotLabel.pixmap.toImage()
    view.SetSliceOffset(view.GetSliceOffset() + 20)  # the mark of the current plane moves
    assert path.ui.profilePlotLabel.pixmap.toImage() != first
    path.ui.whySection.collapsed = True


def test_editor_gets_the_segment(path) -> None:
    path.ui.editorSection.collapsed = False
    (editor,) = path.host.segmentEditors()
    node, segment = path.panel.session.result.segment
    assert editor.segmentationNode() is node
    assert editor.sourceVolumeNode() is path.panel.session.parameters.inputVolume
    assert editor.currentSegmentID() == segment
    editor.setActiveEffectByName("Paint")
    path.ui.editorSection.collapsed = True
    assert editor.activeEffect() is None


def test_show_3d(path) -> None:
    node = path.panel.session.result.segment[0]
    assert path.ui.show3DButton.segmentationNode() is node  # Slicer's own button shows and hides it


@pytest.mark.parametrize("name", ["s.seg.nrrd", "s.nii.gz", "s.stl"])
def test_segmentation_is_exported_by_a_click(path, tmp_path, name) -> None:
    """Read back: the same voxels, or a surface around them."""
    import slicer
    import vtk
    from qt_host import QtHost
    from ToNNOSlicerLib.logic.geometry import ijkToWorld

    QtHost.answers.append(("save", str(tmp_path / name)))
    path.ui.exportSegmentationButton.click()
    assert path.ui.messageLabel.text == f"Written: {tmp_path / name}"
    node, segment = path.panel.session.result.segment
    voxels = segmentVoxels(node, segment, path.panel.session.result.heatmapNode)
    if name.endswith(".stl"):
        reader = vtk.vtkSTLReader()
        reader.SetFileName(str(tmp_path / name))
        reader.Update()
        # LPS. The surface of voxels of 2 mm lies half a voxel around their centres; smoothing may take a voxel of that.
        ijkToRAS = ijkToWorld(path.panel.session.result.heatmapNode)
        all_ = voxels
        lps = (np.argwhere(all_)[:, ::-1] @ ijkToRAS[:3, :3].T + ijkToRAS[:3, 3]) * (-1, -1, 1)
        bounds = np.reshape(reader.GetOutput().GetBounds(), (3, 2))
        np.testing.assert_allclose(bounds, np.stack([lps.min(axis=0) - 1, lps.max(axis=0) + 1], axis=1), atol=2.0)
        return
    storage, read = slicer.vtkMRMLSegmentationStorageNode(), slicer.vtkMRMLSegmentationNode()
    if name.endswith(".nii.gz"):
        import SimpleITK as sitk

        labels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
        np.testing.assert_array_equal(labels, voxels)  # what is hidden is not written
        return
    path.host.scene.AddNode(read)
    storage.SetFileName(str(tmp_path / name))
    assert storage.ReadData(read)
    np.testing.assert_array_equal(segmentVoxels(read, segment, path.panel.session.result.heatmapNode), voxels)
    path.host.scene.RemoveNode(read)


def segmentVoxels(node, segment, volume) -> np.ndarray:
    import slicer.util

    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segment, volume)


def test_findings_are_exported_by_a_click(path, tmp_path) -> None:
    from qt_host import QtHost

    QtHost.answers.append(("save", str(tmp_path / "f.csv")))
    path.ui.exportFindingsButton.click()
    assert path.ui.messageLabel.text == f"Written: {tmp_path / 'f.csv'}"
    assert len((tmp_path / "f.csv").read_text().splitlines()) == 1 + path.ui.findingsTable.rowCount


@pytest.mark.parametrize("name", ["h.nrrd", "h.nii.gz"])
def test_heatmap_is_exported_by_a_click(path, tmp_path, name) -> None:
    import SimpleITK as sitk
    import slicer.util
    from qt_host import QtHost

    QtHost.answers.append(("save", str(tmp_path / name)))
    path.ui.exportHeatmapButton.click()
    assert path.host.process(60, lambda: not path.panel.session.exports.isBusy)
    assert path.ui.messageLabel.text == f"Written: {tmp_path / name}"
    read = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / name)))
    np.testing.assert_array_equal(read, slicer.util.arrayFromVolume(path.panel.session.result.heatmapNode))


def test_second_run_begins_sooner(path, figure) -> None:
    """No process to start, no import, no model to load. The planes take as long as the machine lets them."""
    from walk import RUN_S

    path.ui.directionsBox.value = path.ui.directionsBox.value + 1  # so that nothing can be taken from what is kept
    start = time.monotonic()
    path.ui.runButton.click()
    assert path.host.process(RUN_S, lambda: path.ui.progressBar.maximum == 1000)
    seconds = time.monotonic() - start
    assert path.host.process(RUN_S, lambda: path.panel.session.running.controller.state == "idle")
    figure(
        f"first run {path.seconds:.1f} s; its planes began after {path.seen.begun:.1f} s, the second's {seconds:.1f} s"
    )
    assert seconds < path.seen.begun / 2


def test_time_label_knows_the_last_run(path) -> None:
    assert path.panel.session.choices.times._speeds
    assert path.ui.timeLabel.text.startswith("about ")


def test_sigma_needs_no_new_pass(path, figure) -> None:
    from walk import run

    path.ui.sigmaBox.value = 1.5
    speeds = dict(path.panel.session.choices.times._speeds)
    seconds = run(path.host, path.widget)
    assert (
        path.panel.session.choices.times._speeds == speeds
    )  # the network was not asked: this tells nothing about its speed
    figure(f"another sigma: {seconds:.1f} s")
    assert path.panel.session.running.controller._kept is not None
    path.ui.sigmaBox.value = 0.0


def boxAround(path, centre, halfMm):
    box = path.host.scene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    box.SetCenter(*centre)
    box.SetSize(*(2 * half for half in halfMm))
    return box


def test_a_region_needs_no_new_pass(path, figure) -> None:
    """Around one lesion: that one is found, the others are not looked at; without the box all are back."""
    from ToNNOSlicerLib.sample import LESIONS
    from walk import run

    centre, radii, _brightness = LESIONS[1]
    path.ui.roiSelector.setCurrentNode(boxAround(path, centre, [2 * radius for radius in radii]))
    speeds = dict(path.panel.session.choices.times._speeds)
    figure(f"a region of what is kept: {run(path.host, path.widget):.1f} s")
    assert path.panel.session.choices.times._speeds == speeds  # no pass through the network
    (found,) = path.panel.session.result.findings
    assert np.linalg.norm(np.subtract(found.centroidRAS, centre)) < min(radii)
    path.ui.roiSelector.setCurrentNode(None)
    run(path.host, path.widget)
    assert path.panel.session.choices.times._speeds == speeds
    assert len(path.panel.session.result.findings) == THREE


def test_finer_in_the_region_is_a_pass_of_its_own(path, figure) -> None:
    """All planes in a box that the sample is much larger than: told by warnings, name and record."""
    import slicer.util
    from ToNNOSlicerLib.logic.geometry import ijkToWorld
    from ToNNOSlicerLib.sample import LESIONS
    from walk import DIRECTIONS, run

    centre, radii, _brightness = LESIONS[1]
    half = np.array([2.0 * radius for radius in radii])
    path.ui.roiSelector.setCurrentNode(boxAround(path, centre, half))
    path.ui.zoomCheck.checked = True
    path.ui.directionsBox.value = 8
    speeds = dict(path.panel.session.choices.times._speeds)
    figure(f"finer in a region, eight directions: {run(path.host, path.widget):.1f} s")
    assert path.panel.session.choices.times._speeds != speeds  # the network was asked
    words = path.ui.notesLabel.text
    assert "it was trained at 2.19 mm" in words and "calibrated for the whole volume" in words
    heatmap = path.panel.session.result.heatmapNode
    assert heatmap.GetName().endswith("finer in region")
    k, j, i = np.nonzero(slicer.util.arrayFromVolume(heatmap))
    there = ijkToWorld(heatmap)[:3] @ [i, j, k, np.ones(len(i))]
    assert there.size and (np.abs(there.T - centre) <= half + 1e-4).all()
    # Offsets of the whole head, 103 mm, in a ball around a box of 26 mm and what the filter reaches beyond it.
    along = [profileAlong(one, (1, 0, 0)) for one in (heatmap, heatmapsOf(path.panel.logic.scene)[0])]
    near, far = (np.diff(profile.positionsMm).max() for profile in along)
    assert near < 0.6 * far
    path.ui.zoomCheck.checked = False
    path.ui.roiSelector.setCurrentNode(None)
    path.ui.directionsBox.value = DIRECTIONS


def test_scene_is_saved_and_loaded_with_everything(path, tmp_path) -> None:
    """The slider works on a loaded scene, without a run."""
    from pythonqt import unwrap

    path.ui.heatmapSelector.setCurrentNode(heatmapsOf(path.panel.logic.scene)[0])
    path.ui.modelThresholdButton.click()
    threshold, findings = path.ui.thresholdSlider.value, len(path.panel.session.result.findings)
    edges = histogram(path.panel.session.result.heatmapNode)[0]
    saved = path.host.save(tmp_path / "scene")
    path.host.load(saved)
    path.host.process()
    panel = path.widget.panel
    assert panel.session.result.heatmapNode is not None
    assert panel.session.parameters.heatmap is path.ui.heatmapSelector.currentNode()
    np.testing.assert_array_equal(histogram(panel.session.result.heatmapNode)[0], edges)
    assert path.ui.thresholdSlider.value == pytest.approx(threshold)
    assert len(panel.session.result.findings) == findings
    unwrap(path.ui.thresholdSlider).drag([threshold * 1.2])
    assert thresholdOf(*panel.session.result.segment) == pytest.approx(threshold * 1.2)


def test_the_modules_own_test_passes(path) -> None:
    from walk import DIRECTIONS, SLICES

    test = path.host._module.ToNNOSlicerTest()
    test.OPTIONS = {"slices": SLICES, "directions": DIRECTIONS}
    test.runTest()


def test_reload_works(path) -> None:
    from walk import engineFolder, enginePids, isAlive

    (pid,), folder = enginePids(path.widget), engineFolder(path.widget)
    old = sys.modules["ToNNOSlicerLib.controller"]
    path.widget.onReload()
    path.widget = path.host.widget
    assert sys.modules["ToNNOSlicerLib.controller"] is not old
    assert not isAlive(pid) and not folder.exists()
    path.host.process()
    panel = path.widget.panel
    assert panel.session.parameters.inputVolume is not None  # the choices are in the scene
    assert panel.session.result.heatmapNode is not None
