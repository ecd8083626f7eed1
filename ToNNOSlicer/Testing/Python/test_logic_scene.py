"""Saved and loaded, closed and removed: the results go with the scene, and nothing stays behind."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import (
    GRIDS,
    RIGID,
    SHAPE_ZYX,
    THRESHOLD,
    addHeatmap,
    addVolume,
    blobs,
    mask,
    paint,
    record,
    segmentArray,
    setOverlay,
)
from test_logic_findings import RESULT
from test_logic_heatmap import WORLD_MM, shown
from test_logic_inputs import world
from ToNNOSlicerLib.logic import EditedByHandError, ToNNOLogic
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram, otsuThreshold, recordOf
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, segmentOf, thresholdOf

ROOT = Path(__file__).parents[3]


def saved(host, folder: Path, ending: str) -> Path:
    if ending == ".mrml":
        return host.save(folder / "scene")
    assert host.scene.WriteToMRB(str(folder / "scene.mrb"))
    return folder / "scene.mrb"


@pytest.mark.parametrize("ending", [".mrml", ".mrb"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed"])
def test_after_loading_the_slider_works_without_a_new_run(logic, host, tmp_path, ending: str, grid: str) -> None:
    volume = addVolume(GRIDS[grid], transforms=(RIGID,))
    heatmap = addHeatmap(logic, volume, result=RESULT, threshold=record(floor=0.0))  # Otsu's is not refused
    setOverlay(heatmap, THRESHOLD, 0.6)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    before = findingsOf(segmentation, segmentId, heatmap)
    counted, otsu = histogram(heatmap), otsuThreshold(heatmap)
    del heatmap, segmentation, volume
    host.load(saved(host, tmp_path, ending))

    (heatmap,) = heatmapsOf(logic.scene)
    segmentation, segmentId = segmentOf(heatmap)
    assert not isEditedByHand(segmentation, segmentId)
    assert not logic.segments.canUndo(heatmap)  # the steps were of the other scene, though its nodes had the same IDs
    assert thresholdOf(segmentation, segmentId) == THRESHOLD
    after = findingsOf(segmentation, segmentId, heatmap)
    assert [f.peak for f in after] == [f.peak for f in before]
    for finding, loaded in zip(before, after, strict=True):
        assert loaded.peakRAS == pytest.approx(finding.peakRAS, abs=WORLD_MM)
        assert loaded.volumeMm3 == pytest.approx(finding.volumeMm3, rel=1e-6)  # the text of a file's header
    assert [a.tolist() for a in histogram(heatmap)] == [a.tolist() for a in counted]
    assert otsuThreshold(heatmap) == otsu
    calibration = calibrationOf(recordOf(heatmap))
    assert (calibration["threshold"], calibration["noise_floor"]) == (THRESHOLD, 0.0)
    assert recordOf(heatmap).get("score") == RESULT["score"]
    assert profileAlong(heatmap, (0, 0, 1)).logits.tolist() == [1, 5, 2]
    # The colours are those that were saved, also before the module has touched them.
    assert ((shown(heatmap)[..., 3] > 0)[slicer.util.arrayFromVolume(heatmap) >= 0] > 0).sum() == mask().sum()
    # And the slider moves the segment that is there.
    setOverlay(heatmap, 5.0)
    logic.preview.show(heatmap, 5.0)
    logic.preview.hide()
    assert logic.segments.write(heatmap, 5.0) == (segmentation, segmentId)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), slicer.util.arrayFromVolume(heatmap) >= 5)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def test_work_by_hand_is_protected_after_loading(logic, host, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    voxels = np.zeros(SHAPE_ZYX, np.uint8)
    voxels[12, 2, 3] = 1
    paint(segmentation, segmentId, voxels, heatmap)
    host.load(host.save(tmp_path / "scene"))
    (heatmap,) = heatmapsOf(logic.scene)
    with pytest.raises(EditedByHandError):
        logic.segments.write(heatmap, 5.0)
    segmentation, segmentId = segmentOf(heatmap)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask() | voxels)


def test_a_scene_is_added_to_another(logic, host, tmp_path) -> None:
    """Importing gives the nodes new IDs; references follow them."""
    heatmap = addHeatmap(logic, addVolume())
    logic.segments.write(heatmap, THRESHOLD)
    path = host.save(tmp_path / "scene")
    host.scene.SetURL(str(path))
    assert host.scene.Import()
    heatmaps = heatmapsOf(logic.scene)
    assert len(heatmaps) == 2
    segmentations = {segmentOf(node)[0].GetID() for node in heatmaps}
    assert len(segmentations) == 2


def test_a_closed_scene_leaves_nothing_to_undo(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume())
    logic.segments.write(heatmap, THRESHOLD)
    logic.preview.show(heatmap, 5.0)
    setOverlay(heatmap, 5.0)
    host.scene.Clear(0)
    again = addHeatmap(logic, addVolume())
    assert not logic.segments.canUndo(again) and not logic.segments.undo(again)
    logic.preview.show(again, THRESHOLD)
    assert logic.segments.write(again, THRESHOLD)[0] is not None


def test_the_volume_may_go_and_its_results_stay(logic, host) -> None:
    heatmap = addHeatmap(logic, volume := addVolume(transforms=(RIGID,)))
    place = world(heatmap, (3, 4, 5))
    host.scene.RemoveNode(volume)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())
    assert world(heatmap, (3, 4, 5)) == pytest.approx(place, abs=WORLD_MM)


def test_the_segmentation_may_go_and_is_made_again(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    host.scene.RemoveNode(segmentation)
    assert segmentOf(heatmap) is None
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    assert np.array_equal(segmentArray(segmentation, segmentId, heatmap), mask())


def test_cleaning_up_ends_all_observation(host) -> None:
    logic = ToNNOLogic(host.scene)
    heatmap = addHeatmap(logic, addVolume())
    setOverlay(heatmap, THRESHOLD)
    logic.preview.show(heatmap, THRESHOLD)
    gone = weakref.ref(logic)
    logic.cleanUp()
    assert not slicer.util.getNodes("ToNNO preview*")
    assert slicer.util.arrayFromVolume(heatmap).tolist() == blobs().tolist()
    logic.cleanUp()
    del logic
    gc.collect()
    assert gone() is None, "something still holds the logic"
    host.scene.Clear(0)


def test_importing_the_logic_loads_nothing_heavy_and_asks_no_application() -> None:
    """In a Python of its own: no torch, no Qt, no scipy or SimpleITK before they are needed, no slicer.app."""
    code = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "ToNNOSlicer")!r}, {str(Path(__file__).parent)!r}]
from slicer_host import provide_i18n
provide_i18n()
import slicer
assert not hasattr(slicer, "app") and not hasattr(slicer, "mrmlScene")
import ToNNOSlicerLib.logic
heavy = "torch timm qt PySide6 PythonQt ctk matplotlib SimpleITK scipy highdicom pydicom"
print(sorted(set(heavy.split()) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_line_of_the_logic_names_qt() -> None:
    for file in (ROOT / "ToNNOSlicer/ToNNOSlicerLib/logic").glob("*.py"):
        imports = [line for line in file.read_text(encoding="utf-8").splitlines() if "import " in line]
        assert not [line for line in imports if "qt" in line.lower().split() or "ctk" in line], file
