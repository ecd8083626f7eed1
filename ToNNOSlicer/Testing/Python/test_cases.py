"""A finished case in the scene: as a run would have left it, no other one's, saved whole, closed without a trace."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from dicom_series import writeSeries
from scenes import GRIDS, RIGID, addHeatmap, addVolume, paint, segmentArray, setOverlay
from studies_on_disk import CHANGES, COMMAND, ended, states, until, worklist, write
from ToNNOSlicerLib.logic import EditedByHandError, ToNNOUserError, case_files, cases
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.geometry import ijkToNode, ijkToWorld
from ToNNOSlicerLib.logic.heatmap import calibrationOf, histogram, inputOf, recordOf
from ToNNOSlicerLib.logic.labelmap import cropOf
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.segmentation import SEGMENTATION_ROLE, isEditedByHand, segmentOf, thresholdOf
from ToNNOSlicerLib.models import shippedFolders
from ToNNOSlicerLib.worklist import Worklist, arguments

from tonno_core.volume.io import read_volume

WORLD_MM = 1e-3  # a NIfTI file's matrix has float32


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """Studies of every kind of file and grid, done by the engine; the tests work on copies."""
    home = tmp_path_factory.mktemp("finished")
    write(home / "set/a.nii.gz", 0, ijkToRAS=GRIDS["oblique"])
    write(home / "set/b.nrrd", 1, ijkToRAS=GRIDS["left-handed"])
    write(home / "set/c.nii.gz", 2, ijkToRAS=GRIDS["anisotropic"])
    (home / "set/d").mkdir()
    writeSeries(home / "set/d", reverse=True)
    (home / "set/d/README").write_text("hello")
    write(home / "set/e.nii.gz", 3, ijkToRAS=GRIDS["oblique"])
    write(home / "set/f.nii.gz", 4)
    listed = worklist(home / "set", home / "out")
    listed.start()
    assert states(until(listed, ended)) == ["done"] * 6
    return home


@pytest.fixture
def listed(finished, tmp_path) -> Worklist:
    """A list of its own; only the results are copied, as volumes are known by their place."""
    shutil.copytree(finished / "out/runs", tmp_path / "out/runs")
    result = worklist(finished / "set", tmp_path / "out")
    result.start()
    assert states(until(result, ended)) == ["done"] * 6
    return result


@pytest.fixture
def six(listed) -> tuple:
    """Cases sorted by name, not as they are listed: the files of a folder come before what is below it."""
    return tuple(sorted(listed.poll().cases, key=lambda case: case.name))


def contents(scene) -> set[str]:
    nodes = (scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes()))
    return {f"{node.GetID()} {node.GetName()}" for node in nodes}


def sceneItems(scene) -> int:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    return tree.GetNumberOfItems() if tree else 0


def heatmapFile(case):
    return read_volume(Path(case.folder) / "heatmap-tonno.nrrd")


def report(case) -> dict:
    return json.loads((Path(case.folder) / "report.json").read_text())


def sampled(node, points: np.ndarray) -> np.ndarray:
    """A node's voxels at points of the world (N x 3) that are centers of voxels."""
    ijk = points @ np.linalg.inv(ijkToWorld(node))[:3, :3].T + np.linalg.inv(ijkToWorld(node))[:3, 3]
    assert np.abs(ijk - ijk.round()).max() < 1e-3
    i, j, k = ijk.round().astype(int).T
    return slicer.util.arrayFromVolume(node)[k, j, i]


@pytest.mark.parametrize("number", range(6), ids="abcdef")
def test_a_case_opens_as_a_run_would_have_left_it(logic, six, number: int) -> None:
    case = six[number]
    heatmap = cases.openCase(logic, case)
    scan, facts = inputOf(heatmap), report(case)
    assert scan.GetName() == case.name
    # Grid and voxels, in the world: of the files, whatever the order of their voxels.
    np.testing.assert_allclose(ijkToNode(heatmap), ijkToNode(scan), atol=0)
    for node, volume in ((scan, read_volume(case.volume)), (heatmap, heatmapFile(case))):
        ijk = np.random.default_rng(0).integers(0, volume.size_ijk, (200, 3))
        points = ijk @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
        np.testing.assert_array_equal(sampled(node, points), volume.array[tuple(ijk[:, ::-1].T)])
    # The segment, its findings and what is known about the making.
    segmentation, segmentId = segmentOf(heatmap)
    threshold = facts["methods"]["tonno"]["threshold"]
    array = slicer.util.arrayFromVolume(heatmap)
    assert np.array_equal(segmentArray(segmentation, segmentId, scan), array >= threshold)
    assert not isEditedByHand(segmentation, segmentId) and thresholdOf(segmentation, segmentId) == threshold
    components = facts["methods"]["tonno"]["components"]
    findings = findingsOf(segmentation, segmentId, heatmap)
    assert [f.peak for f in findings] == [c["peak"] for c in components] and findings
    for finding, component in zip(findings, components, strict=True):
        assert finding.volumeMm3 == pytest.approx(component["volume_mm3"], rel=1e-4)
        assert finding.centroidRAS == pytest.approx(component["centroid_ras"], abs=WORLD_MM)
    record = recordOf(heatmap)
    assert (record["method"], record["className"], record["threshold"]) == ("tonno", facts["class"], None)
    assert (record["directions"], record["stopped"], record["zoom"]) == (6, False, False)
    assert record["model"]["name"] == "pixel-sum"
    assert recordOf(heatmap).get("score") == facts["score"]
    along = profileAlong(heatmap, (0, 0, 1))
    assert along.logits.tolist() == pytest.approx(facts["profiles"][2]["logits"])
    assert along.positionsMm.tolist() == pytest.approx(facts["profiles"][2]["offsets_mm"])
    assert len({node.GetAttribute(cases.CASE) for node in (scan, heatmap, segmentation)}) == 1
    assert not cases.isUnsaved(logic, case)


@pytest.mark.parametrize("number", [0, 1, 5], ids="abf")
def test_the_histogram_is_of_what_the_planes_cover(logic, six, number: int) -> None:
    """The engine's own function is the oracle."""
    from tonno_core.slicing.frame import within_ball

    heatmap = cases.openCase(logic, six[number])
    volume = heatmapFile(six[number])
    covered = within_ball(volume, np.array(report(six[number])["frame_to_ras"]))
    assert 0 < covered.sum() < covered.size
    _edges, counts = histogram(heatmap)
    assert counts.sum() == covered.sum()
    inside = case_files.inside(case_files.readReport(six[number]), inputOf(heatmap))
    back = case_files.ordered(covered, volume.ijk_to_ras, inputOf(heatmap))
    assert np.array_equal(inside, back)


def test_a_region_is_kept_in_the_record(logic, six) -> None:
    case = six[0]
    box = np.diag([12.0, 12, 12, 1])
    box[:3, 3] = (GRIDS["oblique"] @ (9, 8, 7, 1))[:3]
    region = {"box_to_ras": box.tolist(), "zoom": True}
    (Path(case.folder) / "report.json").write_text(json.dumps(report(case) | {"region": region}))
    heatmap = cases.openCase(logic, case)
    record = recordOf(heatmap)
    assert record["region"] == region and record["zoom"]
    inside = case_files.inside(case_files.readReport(case), inputOf(heatmap))
    volume = heatmapFile(case)
    ijk = np.argwhere(inside)[:, ::-1]
    points = ijk @ volume.ijk_to_ras[:3, :3].T + volume.ijk_to_ras[:3, 3]
    assert np.abs(points - box[:3, 3]).max() <= 12 + 1e-4 and len(ijk) > 100


# --- two patients


def test_two_cases_are_never_mixed(logic, host, six) -> None:
    """The two have the same size and grid: nothing but the identity tells them apart."""
    before, items = contents(host.scene), sceneItems(host.scene)
    first = cases.openCase(logic, six[0])
    between = contents(host.scene)
    second = cases.openCase(logic, six[4])
    for case, heatmap in ((six[0], first), (six[4], second)):
        assert cases.heatmapOf(logic, case) is heatmap
        assert inputOf(heatmap).GetName() == case.name
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(heatmap), heatmapFile(case).array)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(inputOf(heatmap)), read_volume(case.volume).array)
        segmentation, _segmentId = segmentOf(heatmap)
        assert {n.GetAttribute(cases.CASE) for n in (heatmap, inputOf(heatmap), segmentation)} == {
            heatmap.GetAttribute(cases.CASE)
        }
    assert segmentOf(first)[0] is not segmentOf(second)[0]
    setOverlay(second, 3.0)
    with pytest.raises(ToNNOUserError, match="is not the result of"):
        cases.save(logic, six[4], first)
    cases.closeCase(logic, six[4])
    assert contents(host.scene) == between
    assert cases.heatmapOf(logic, six[4]) is None and cases.heatmapOf(logic, six[0]) is first
    cases.closeCase(logic, six[0])
    assert (contents(host.scene), sceneItems(host.scene)) == (before, items)
    cases.closeCase(logic, six[0])  # nothing to close


def test_opened_twice_it_is_there_once(logic, host, six) -> None:
    heatmap = cases.openCase(logic, six[2])
    there = contents(host.scene)
    assert cases.openCase(logic, six[2]) is heatmap and contents(host.scene) == there


def test_another_cases_heatmap_is_refused(logic, host, six) -> None:
    """Files that were exchanged by hand: on another grid, and on the same one."""
    before = contents(host.scene)
    for other, words in ((six[2], "another grid"), (six[4], "is not the heatmap of its report")):
        shutil.copy(Path(other.folder) / "heatmap-tonno.nrrd", Path(six[0].folder) / "heatmap-tonno.nrrd")
        with pytest.raises(ToNNOUserError, match=words) as error:
            cases.openCase(logic, six[0])
        assert six[0].folder in error.value.nextStep
        assert contents(host.scene) == before
    (Path(six[0].folder) / "heatmap-tonno.nrrd").write_bytes(b"no image")
    with pytest.raises(ToNNOUserError, match="cannot be read"):
        cases.openCase(logic, six[0])
    assert contents(host.scene) == before
    host.messages.take()


def test_a_scan_that_has_changed_or_gone_is_refused(logic, host, finished, tmp_path) -> None:
    source = tmp_path / "set/a.nii.gz"
    source.parent.mkdir()
    shutil.copy(finished / "set/a.nii.gz", source)
    listed = worklist(source.parent, tmp_path / "out")
    listed.start()
    (case,) = until(listed, ended).cases
    before = contents(host.scene)
    write(source, 9, ijkToRAS=GRIDS["oblique"])  # another patient, same grid
    with pytest.raises(ToNNOUserError, match="is another than when its results were made") as error:
        cases.openCase(logic, case)
    assert "Start the list again" in error.value.nextStep
    source.unlink()
    with pytest.raises(ToNNOUserError, match="cannot be opened"):
        cases.openCase(logic, case)
    with pytest.raises(ToNNOUserError, match="has no results"):
        cases.openCase(logic, replace(case, folder=""))
    assert contents(host.scene) == before


@pytest.mark.parametrize("flips", list(itertools.product((1, -1), repeat=3)))
def test_voxels_in_another_order_are_turned_back(host, flips: tuple) -> None:
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    node = addVolume(GRIDS["oblique"], array)
    turn = np.diag([*flips, 1.0])
    turn[:3, 3] = [n - 1 if sign < 0 else 0 for sign, n in zip(flips, (6, 5, 4), strict=True)]
    turned = np.flip(array, [2 - axis for axis in range(3) if flips[axis] < 0])
    matrix = GRIDS["oblique"] @ turn
    np.testing.assert_array_equal(case_files.ordered(turned, matrix, node), array)
    for change in ((0, 3, 0.2 * 0.9), (1, 1, 0.1)):
        other = matrix.copy()
        other[change[:2]] += change[2]
        assert case_files.ordered(turned, other, node) is None
    assert case_files.ordered(turned[1:], matrix, node) is None
    exchanged = matrix[:, [1, 0, 2, 3]]
    assert case_files.ordered(array, exchanged, node) is None


# --- the reader


def brushed(heatmap) -> np.ndarray:
    voxels = np.zeros(slicer.util.arrayFromVolume(heatmap).shape, np.uint8)
    voxels[1:3, 1:4, 2:3] = 1
    return voxels


# As `logic.verdicts` keeps them.
VERDICTS = '[{"place": [0.0, 0.0, 0.0], "reach": 1.0, "verdict": "accept"}]'


def test_what_a_reader_has_saved_comes_back(logic, host, listed, six) -> None:
    case = six[1]
    heatmap = cases.openCase(logic, case)
    segmentation, segmentId = segmentOf(heatmap)
    other = logic.segments.writeNew(heatmap, 1e9, segmentationNode=segmentation)[1]  # the case's own is the last one
    threshold = 0.8 * recordOf(heatmap)["limit"]
    heatmap.SetAttribute(SEGMENTATION_ROLE, segmentId)
    logic.segments.write(heatmap, threshold)
    paint(segmentation, segmentId, brushed(heatmap), heatmap)
    heatmap.SetAttribute(cases.VERDICTS, VERDICTS)
    assert cases.isUnsaved(logic, case)
    with pytest.raises(EditedByHandError, match="not saved"):
        cases.closeCase(logic, case)
    assert segmentOf(heatmap) == (segmentation, segmentId) and other != segmentId
    voxels, place = segmentArray(segmentation, segmentId, heatmap), cropOf(segmentation, segmentId).fingerprint
    layers = segmentation.GetSegmentation().GetNumberOfLayers()
    cases.save(logic, case, heatmap, {"1": "accept"}, findingsOf(segmentation, segmentId, heatmap))
    assert segmentation.GetSegmentation().GetNumberOfLayers() == layers  # saving has not touched the scene's own
    assert not cases.isUnsaved(logic, case)
    reading = cases.readingOf(case)
    assert (reading["verdicts"], reading["editedByHand"]) == ({"1": "accept"}, True)
    assert reading["threshold"] == threshold and reading["findings"][0]["label"] == 1
    assert reading["time"][:2] == "20" and reading["source"] == case.source
    assert listed.refresh(case).state == "read"
    assert [c.name for c in listed.poll().cases if c.state == "read"] == ["b"]
    assert listed.nextUnread(six[0]) == six[2]
    cases.closeCase(logic, case)

    heatmap = cases.openCase(logic, listed.refresh(case))
    segmentation, segmentId = segmentOf(heatmap)
    np.testing.assert_array_equal(segmentArray(segmentation, segmentId, heatmap), voxels)
    assert cropOf(segmentation, segmentId).has(place)
    assert thresholdOf(segmentation, segmentId) == threshold
    assert isEditedByHand(segmentation, segmentId)  # and so it is not overwritten by the slider
    assert heatmap.GetAttribute(cases.VERDICTS) == VERDICTS
    assert not cases.isUnsaved(logic, case)
    # Another session, another Worklist: the files say so.
    listed.start()
    assert [c.state for c in until(listed, ended).cases].count("read") == 1


def test_no_finding_is_a_verdict_too(logic, six) -> None:
    case = six[0]
    heatmap = cases.openCase(logic, case)
    logic.segments.write(heatmap, 1e9)
    cases.save(logic, case, heatmap, [])
    assert cases.readingOf(case)["segmentation"] is None
    assert not list(Path(case.folder).glob("*.seg.nrrd"))
    cases.closeCase(logic, case)
    heatmap = cases.openCase(logic, case)
    assert findingsOf(*segmentOf(heatmap), heatmap) == []
    assert not cases.isUnsaved(logic, case)


def test_saved_again_only_the_last_stays(logic, six) -> None:
    case = six[0]
    heatmap = cases.openCase(logic, case)
    for n in range(3):
        paint(*segmentOf(heatmap), np.roll(brushed(heatmap), n, 0), heatmap)
        cases.save(logic, case, heatmap, n)
        assert len(list(Path(case.folder).glob("*.seg.nrrd"))) == 1
        assert cases.readingOf(case)["verdicts"] == n


@pytest.mark.parametrize("fails", ["segmentation", "verdicts"])
def test_saved_whole_or_not_at_all(logic, six, monkeypatch, fails: str) -> None:
    case = six[0]
    heatmap = cases.openCase(logic, case)
    cases.save(logic, case, heatmap, "first")
    before = {file.name: file.read_bytes() for file in Path(case.folder).iterdir()}
    paint(*segmentOf(heatmap), brushed(heatmap), heatmap)

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    if fails == "verdicts":
        monkeypatch.setattr(cases.worklist_files, "writeJson", full)
    else:
        monkeypatch.setattr(cases, "exportSegmentation", full)
    with pytest.raises(ToNNOUserError, match="No space left on device"):
        cases.save(logic, case, heatmap, "second")
    assert {file.name: file.read_bytes() for file in Path(case.folder).iterdir()} == before
    assert cases.readingOf(case)["verdicts"] == "first" and cases.isUnsaved(logic, case)


def test_a_reading_without_its_segmentation_is_none(logic, listed, six) -> None:
    case = six[0]
    heatmap = cases.openCase(logic, case)
    cases.save(logic, case, heatmap)
    next(Path(case.folder).glob("*.seg.nrrd")).unlink()
    assert cases.readingOf(case) == {} and listed.refresh(case).state == "done"


# --- what goes with a case, and what stays


def test_other_work_on_the_volume_is_not_lost_unasked(logic, host, six) -> None:
    case = six[0]
    before = contents(host.scene)
    heatmap = cases.openCase(logic, case)
    another = addHeatmap(logic, inputOf(heatmap), slicer.util.arrayFromVolume(heatmap) + 1, method="matched-cam")
    logic.segments.write(another, 3.0)
    assert cases.isUnsaved(logic, case)
    with pytest.raises(EditedByHandError):
        cases.closeCase(logic, case)
    cases.closeCase(logic, case, discard=True)
    assert contents(host.scene) == before


def test_a_segmentation_that_another_volume_uses_stays(logic, host, six) -> None:
    mine = addVolume(GRIDS["oblique"], read_volume(six[0].volume).array, "mine")
    own = addHeatmap(logic, mine, heatmapFile(six[0]).array)
    segmentation, segmentId = logic.segments.write(own, 3.0)
    before = contents(host.scene)
    heatmap = cases.openCase(logic, six[0])
    written = segmentOf(heatmap)
    own.SetNodeReferenceID("ToNNO.segmentation", written[0].GetID())  # the user has chosen the case's node for it
    own.SetAttribute("ToNNO.segmentation", logic.segments.writeNew(own, 3.0, segmentationNode=written[0])[1])
    cases.closeCase(logic, six[0], discard=True)
    left, leftId = segmentOf(own)
    assert left is written[0] and left.GetSegmentation().GetSegmentIDs() == (leftId,)
    assert segmentation.GetSegmentation().GetSegmentIDs() == (segmentId,)
    assert {name.split()[0] for name in contents(host.scene) - before} <= {
        left.GetID(), left.GetDisplayNodeID(), *(left.GetNthStorageNodeID(n) or "" for n in range(1)),
    }  # fmt: skip


def test_a_transform_above_a_case_is_the_users(logic, host, six) -> None:
    heatmap = cases.openCase(logic, six[0])
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    slicer.util.updateTransformMatrixFromArray(transform, RIGID)
    for node in (inputOf(heatmap), heatmap, segmentOf(heatmap)[0]):
        node.SetAndObserveTransformNodeID(transform.GetID())
    assert not cases.isUnsaved(logic, six[0])
    cases.closeCase(logic, six[0])
    assert transform.GetScene() is host.scene


def test_what_the_user_has_put_below_a_case_stays(logic, host, six) -> None:
    cases.openCase(logic, six[0])
    heatmap = cases.heatmapOf(logic, six[0])
    mine = addVolume(name="mine")
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(host.scene)
    item = tree.CreateItem(tree.GetItemByDataNode(inputOf(heatmap)), mine)
    cases.closeCase(logic, six[0])
    assert mine.GetScene() is host.scene and tree.GetItemDataNode(item) is mine


def test_after_saving_and_loading_the_scene_a_case_is_still_known(logic, host, six, tmp_path) -> None:
    heatmap = cases.openCase(logic, six[0])
    paint(*segmentOf(heatmap), brushed(heatmap), heatmap)
    host.load(host.save(tmp_path / "scene"))
    heatmap = cases.heatmapOf(logic, six[0])
    assert inputOf(heatmap).GetName() == six[0].name and cases.isUnsaved(logic, six[0])
    cases.save(logic, six[0], heatmap)
    assert not cases.isUnsaved(logic, six[0])


# --- the shipped model


@pytest.mark.slow
def test_the_models_calibration_goes_along(logic, finished, tmp_path) -> None:
    """The shipped model runs at few planes: a threshold that is the model's brings its noise floor."""
    (tmp_path / "set").mkdir()
    shutil.copy(finished / "set/f.nii.gz", tmp_path / "set")
    (model,) = shippedFolders()
    planes = {"slices": 16, "directions": 24}
    words = arguments("matched-cam", preset="fast", device="cpu", minMm3=1.5, options=planes)
    listed = Worklist(tmp_path / "set", tmp_path / "out", COMMAND, CHANGES, str(model / "brain-lesions"), words)
    listed.start()
    (case,) = until(listed, ended).cases
    assert case.state == "done", case.error
    heatmap = cases.openCase(logic, case)
    spec = json.loads((model / "brain-lesions/model.json").read_text())
    record = recordOf(heatmap)
    known = spec["thresholds"]["matched-cam"]
    assert record["threshold"]["negative_volumes"] == known["negative_volumes"]
    assert record["threshold"]["threshold"] == case_files.readReport(case).threshold("matched-cam")
    assert record["threshold"]["threshold"] < known["threshold"]  # scaled: fewer planes see less
    assert record["model"]["sha256"] == spec["sha256"] and record["model"]["name"] == "brain-lesions"
    assert (record["className"], record["directions"], record["quality"]) == ("lesion", 24, "fast")
    segmentation, segmentId = segmentOf(heatmap)
    assert thresholdOf(segmentation, segmentId) == calibrationOf(recordOf(heatmap)).get("threshold")
    assert case_files.readReport(case).smallestMm3 == 1.5
    os.utime(model / "brain-lesions/model.json")  # its place and time do not matter
    assert listed.poll().cases == worklist_again(listed).poll().cases


def worklist_again(listed: Worklist) -> Worklist:
    return Worklist(listed.source, listed.output, listed.command, listed.changes, listed.model, listed.arguments)
