"""Verdicts belong to places: they survive the slider, merging, vanishing, work by hand, the scene's file."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SHAPE_ZYX, addHeatmap, addVolume, image, replace
from ToNNOSlicerLib.logic import verdicts
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.logic.verdicts import ACCEPT, NONE, REJECT, UNSURE

# A ridge along i with two summits; below 4 they are a single component. A third summit stands apart.
HIGH, LOW, APART = (5, 6, 4), (13, 6, 4), (15, 13, 10)
PEAKS = {HIGH: 9.0, LOW: 7.0, APART: 5.0}
TOGETHER, EACH, HIGHEST, NOTHING = 3.5, 4.5, 8.0, 20.0


def mountains() -> np.ndarray:
    k, j, i = np.indices(SHAPE_ZYX)
    array = np.full(SHAPE_ZYX, -1, np.float32)
    for (ci, cj, ck), peak in PEAKS.items():
        away = np.sqrt((i - ci) ** 2 + (j - cj) ** 2 + (k - ck) ** 2)
        array = np.maximum(array, peak - 1.25 * away)
    array[4, 6, 5:14] = np.maximum(array[4, 6, 5:14], 4.0)
    return array.astype(np.float32)


@pytest.fixture(params=["oblique", "left-handed"])
def scene(request, logic):
    """The heatmap, and what the slider does: from a threshold to the findings."""
    heatmap = addHeatmap(logic, addVolume(GRIDS[request.param], transforms=(RIGID,)), mountains())

    def at(threshold: float, overwrite: bool = True) -> list:
        segmentation, segmentId = logic.segments.write(heatmap, threshold, overwrite=overwrite)
        return findingsOf(segmentation, segmentId, heatmap)

    return heatmap, at


def byPeak(findings: list) -> dict[float, str]:
    return {round(finding.peak): finding.verdict for finding in findings}


def judge(heatmap, findings: list, words: dict[float, str]) -> None:
    for finding in findings:
        if round(finding.peak) in words:
            verdicts.setVerdict(heatmap, finding, words[round(finding.peak)])


def test_at_first_nothing_is_judged(scene) -> None:
    heatmap, at = scene
    assert byPeak(at(EACH)) == {9: NONE, 7: NONE, 5: NONE}
    assert verdicts.judged(heatmap, []) == [] and heatmap.GetAttribute(verdicts.ATTRIBUTE) is None


def test_a_verdict_is_kept_changed_and_taken_back(scene) -> None:
    heatmap, at = scene
    findings = at(EACH)
    judge(heatmap, findings, {9: ACCEPT, 5: REJECT})
    # without another look at the segment
    assert byPeak(verdicts.judged(heatmap, findings)) == byPeak(at(EACH)) == {9: ACCEPT, 7: NONE, 5: REJECT}
    judge(heatmap, findings, {9: UNSURE, 5: NONE})
    assert byPeak(at(EACH)) == {9: UNSURE, 7: NONE, 5: NONE}
    judge(heatmap, findings, {9: NONE})
    assert heatmap.GetAttribute(verdicts.ATTRIBUTE) is None
    with pytest.raises(ValueError, match="maybe"):
        verdicts.setVerdict(heatmap, findings[0], "maybe")


def test_the_slider_takes_verdicts_along(scene) -> None:
    heatmap, at = scene
    judge(heatmap, at(EACH), {9: ACCEPT, 7: REJECT, 5: UNSURE})
    for threshold in (4.9, 4.2, 6.0, EACH):
        assert byPeak(at(threshold)).items() <= {9: ACCEPT, 7: REJECT, 5: UNSURE}.items()
    assert byPeak(at(NOTHING)) == {}
    assert byPeak(at(HIGHEST)) == {9: ACCEPT}  # and the one beside it, which is gone, has no say
    assert byPeak(at(EACH)) == {9: ACCEPT, 7: REJECT, 5: UNSURE}


def test_findings_that_merge_are_of_one_mind_or_unsure(scene) -> None:
    heatmap, at = scene
    judge(heatmap, at(EACH), {9: ACCEPT, 7: ACCEPT})
    assert byPeak(at(TOGETHER)) == {9: ACCEPT, 5: NONE}
    assert not at(TOGETHER)[0].isDivided
    judge(heatmap, at(EACH), {7: REJECT})
    merged = at(TOGETHER)
    assert byPeak(merged) == {9: UNSURE, 5: NONE} and [f.isDivided for f in merged] == [True, False]
    assert byPeak(at(EACH)) == {9: ACCEPT, 7: REJECT, 5: NONE}  # each has its own again


def test_a_verdict_about_merged_findings_is_about_each(scene) -> None:
    heatmap, at = scene
    judge(heatmap, at(EACH), {9: ACCEPT, 7: REJECT})
    judge(heatmap, at(TOGETHER), {9: REJECT})
    assert not at(TOGETHER)[0].isDivided
    assert byPeak(at(EACH)) == {9: REJECT, 7: REJECT, 5: NONE}
    judge(heatmap, at(TOGETHER), {9: NONE})
    assert byPeak(at(EACH)) == {9: NONE, 7: NONE, 5: NONE}


def test_one_who_is_gone_does_not_judge_its_neighbor(logic) -> None:
    """A small summit inside of the bounding box of a ring: where it vanishes, the ring is not rejected in its place."""
    array = np.full(SHAPE_ZYX, -1, np.float32)
    array[5, 4:13, 4:13] = 9.0
    array[5, 5:12, 5:12] = -1.0
    array[5, 8, 8] = 5.0
    heatmap = addHeatmap(logic, addVolume(), array)
    _ring, summit = findingsOf(*logic.segments.write(heatmap, 4.0), heatmap)
    verdicts.setVerdict(heatmap, summit, REJECT)
    assert byPeak(findingsOf(*logic.segments.write(heatmap, 6.0), heatmap)) == {9: NONE}
    assert byPeak(findingsOf(*logic.segments.write(heatmap, 4.0), heatmap)) == {9: NONE, 5: REJECT}


def test_what_is_left_of_a_finding_without_its_peak_keeps_the_verdict(scene, logic) -> None:
    heatmap, at = scene
    findings = at(EACH)
    judge(heatmap, findings, {9: REJECT})
    segmentation, segmentId = logic.segments.write(heatmap, EACH)
    mask = (mountains() >= EACH).astype(np.uint8)
    i, j, k = HIGH
    mask[k, j, i] = 0  # by the eraser
    replace(segmentation, segmentId, mask, heatmap)
    assert sorted(f.verdict for f in findingsOf(segmentation, segmentId, heatmap)) == [NONE, NONE, REJECT]


def test_a_peak_that_moves_a_little_keeps_the_verdict(scene, logic) -> None:
    """Another filter, the same node: other values, and the summit two voxels farther."""
    heatmap, at = scene
    judge(heatmap, at(EACH), {9: ACCEPT})
    slicer.util.arrayFromVolume(heatmap)[:] = np.roll(mountains(), 2, axis=2)
    heatmap.Modified()
    assert byPeak(at(EACH)) == {9: ACCEPT, 7: NONE, 5: NONE}


def test_verdicts_go_where_the_patient_goes(scene, host) -> None:
    heatmap, at = scene
    judge(heatmap, at(EACH), {7: REJECT})
    slicer.util.updateTransformMatrixFromArray(heatmap.GetParentTransformNode(), np.diag([1.0, 1.0, 1.0, 1.0]))
    assert byPeak(at(EACH)) == {9: NONE, 7: REJECT, 5: NONE}


def test_verdicts_are_saved_with_the_scene(scene, host, logic, tmp_path) -> None:
    heatmap, at = scene
    judge(heatmap, at(EACH), {9: ACCEPT, 7: REJECT})
    del heatmap, at
    host.load(host.save(tmp_path / "scene"))
    (heatmap,) = heatmapsOf(logic.scene)
    segmentation, segmentId = logic.segments.write(heatmap, EACH)
    assert byPeak(findingsOf(segmentation, segmentId, heatmap)) == {9: ACCEPT, 7: REJECT, 5: NONE}


def test_verdicts_stay_with_a_segment_on_another_grid(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(np.eye(4)), mountains())
    fine = addVolume(np.diag([0.5, 0.5, 0.5, 1]), array=image([2 * n for n in SHAPE_ZYX]), name="fine")
    other = addHeatmap(logic, fine, np.kron(mountains(), np.ones((2, 2, 2), np.float32)))
    segmentation, segmentId = logic.segments.write(other, EACH)
    verdicts.setVerdict(heatmap, findingsOf(segmentation, segmentId, heatmap)[0], ACCEPT)
    assert byPeak(findingsOf(segmentation, segmentId, heatmap)) == {9: ACCEPT, 7: NONE, 5: NONE}
    assert byPeak(findingsOf(segmentation, segmentId, other)) == {9: NONE, 7: NONE, 5: NONE}  # another result
