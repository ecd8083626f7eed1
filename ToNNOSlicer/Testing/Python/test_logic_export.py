"""Each format is read back, by Slicer's reader or another's, and holds the same voxels at the same place."""

from __future__ import annotations

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import (
    BLOBS,
    GRIDS,
    RIGID,
    SHAPE_ZYX,
    THRESHOLD,
    addHeatmap,
    addVolume,
    affine,
    blobs,
    mask,
    rotation,
    segmentArray,
    tilted,
)
from test_logic_findings import RESULT
from test_logic_heatmap import WORLD_MM
from test_logic_segmentation import VOXEL_MM3, voxelCentres
from ToNNOSlicerLib.logic import ToNNOUserError, summary, verdicts
from ToNNOSlicerLib.logic.export import cannotWrite, exportFindings, exportHeatmap, exportSegmentation
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.geometry import transformPoint as transformed
from ToNNOSlicerLib.logic.labelmap import cropped, setCrop, tiltDegrees
from ToNNOSlicerLib.logic.segmentation import isEditedByHand, show3D

# What a NIfTI header (float32) keeps of a place some 100 mm from the origin.
NIFTI_MM = 1e-4
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["oblique", "left-handed", "as DICOM has it"])
def results(request, logic):
    """(heatmap, segmentation, segment ID)"""
    heatmap = addHeatmap(logic, addVolume(GRIDS[request.param]), result=RESULT)
    return heatmap, *logic.segments.write(heatmap, THRESHOLD)


def places(array: np.ndarray, ijkToRAS: np.ndarray) -> np.ndarray:
    """RAS (N 3) of the nonzero voxels, in an order of their own."""
    ijk = np.argwhere(array)[:, ::-1]
    points = ijk @ ijkToRAS[:3, :3].T + ijkToRAS[:3, 3]
    return points[np.lexsort(points.round(2).T)]


def readImage(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array and ijkToRAS by ITK, which is not Slicer's reader."""
    import SimpleITK as sitk

    read = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(read.GetDirection(), (3, 3)) * read.GetSpacing()
    matrix[:3, 3] = read.GetOrigin()
    return sitk.GetArrayFromImage(read), np.diag([-1, -1, 1, 1]) @ matrix


def only(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.rglob("*"))


def test_seg_nrrd(logic, host, results, tmp_path) -> None:
    heatmap, segmentation, segmentId = results
    before = voxelCentres(segmentation, segmentId)
    _node, inner = logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)  # overlaps the first
    logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    read = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "read")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.ReadData(read)
    assert voxelCentres(read, segmentId) == pytest.approx(before, abs=WORLD_MM)
    assert np.array_equal(segmentArray(read, segmentId, heatmap), mask())
    assert np.array_equal(segmentArray(read, inner, heatmap), blobs() >= 5.0)
    assert read.GetSegmentation().GetSegment(segmentId).GetName() == "lesion"
    assert not isEditedByHand(read, segmentId)  # the tag is in the file
    assert only(tmp_path) == ["a.seg.nrrd"]
    assert segmentation.GetStorageNode() is None  # where the scene saves it is not our business


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_labelmap(logic, results, tmp_path, ending: str) -> None:
    heatmap, segmentation, _id = results
    logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)
    logic.exportSegmentation(segmentation, tmp_path / f"a{ending}")
    array, ijkToRAS = readImage(tmp_path / f"a{ending}")
    assert array.shape == SHAPE_ZYX and set(np.unique(array)) == {0, 1, 2}
    for label, expected in ((2, blobs() >= 5.0), (1, (blobs() >= THRESHOLD) & (blobs() < 5.0))):
        assert places(array == label, ijkToRAS) == pytest.approx(places(expected, ijkToNode(heatmap)), abs=NIFTI_MM)


def readSTL(path: Path) -> tuple[bytes, np.ndarray]:
    """Header, and corners (triangles 3 3) in RAS mm of a binary file that says it is LPS; by numpy alone."""
    content = path.read_bytes()
    kind = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    assert b"SPACE=LPS" in content[:80]
    return content[:80], np.frombuffer(content, kind, offset=84)["corners"].astype(float) * (-1, -1, 1)


def enclosed(triangles: np.ndarray) -> float:
    """Volume by the divergence theorem: positive where the faces look outward."""
    a, b, c = np.moveaxis(triangles - triangles.mean(axis=(0, 1)), 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def test_stl(logic, results, tmp_path) -> None:
    _heatmap, segmentation, segmentId = results
    exportSegmentation(segmentation, tmp_path / "a.stl")
    assert not segmentation.GetSegmentation().ContainsRepresentation("Closed surface")  # nothing shown that was not
    header, triangles = readSTL(tmp_path / "a.stl")
    assert header.startswith(b"ToNNO. SPACE=LPS. CT, lesion, ToNNO Matched CAM")
    show3D(segmentation, True)
    bounds = np.reshape(segmentation.GetClosedSurfaceInternalRepresentation(segmentId).GetBounds(), (3, 2))
    corners = triangles.reshape(-1, 3)
    assert np.stack([corners.min(axis=0), corners.max(axis=0)], axis=1) == pytest.approx(bounds, abs=1e-4)  # float32
    # Two cubes of 27 voxels keep 88 % (test_logic_surface.py); of a left-handed grid, too, the faces look outward.
    assert enclosed(triangles) == pytest.approx(0.88 * 54 * VOXEL_MM3, rel=0.01)


@pytest.mark.parametrize("ending", ["seg.nrrd", "nii.gz", "stl"])
def test_an_export_leaves_the_segmentation_as_it_was_shown(logic, tmp_path, ending: str) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, hidden = logic.segments.write(heatmap, THRESHOLD)
    logic.segments.writeNew(heatmap, THRESHOLD, 0.0, segmentation)
    display = segmentation.GetDisplayNode()
    display.SetSegmentVisibility(hidden, False)
    nodes = logic.scene.GetNumberOfNodes()
    for number in (1, 2):
        logic.exportSegmentation(segmentation, str(tmp_path / f"{number}.{ending}"))
        assert segmentation.GetDisplayNode() is display and display.GetScene() is logic.scene
        assert not display.GetSegmentVisibility(hidden)
        assert logic.scene.GetNumberOfNodes() == nodes


def test_stl_says_where_its_volume_is_not_the_voxels(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    assert exportSegmentation(segmentation, tmp_path / "a.stl") == [
        "lesion: the surface encloses 0.144 ml, its voxels are 0.164 ml."  # .88 x .164
    ]
    array = np.full(SHAPE_ZYX, -1.0, np.float32)
    array[3:11, 4:12, 5:13] = 5.0
    large, _id = logic.segments.write(addHeatmap(logic, addVolume(name="MR"), array), THRESHOLD)
    assert exportSegmentation(large, tmp_path / "a.stl") == []  # a cube of 512 voxels keeps 98 %
    assert enclosed(readSTL(tmp_path / "a.stl")[1]) == pytest.approx(512 * VOXEL_MM3, rel=0.03)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".nii"])
def test_heatmap(logic, results, tmp_path, ending: str) -> None:
    heatmap, _segmentation, _id = results
    exportHeatmap(heatmap, tmp_path / f"h{ending}")
    array, ijkToRAS = readImage(tmp_path / f"h{ending}")
    assert array.dtype == np.float32
    for low in (0.0, 5.0):
        expected = places(blobs() > low, ijkToNode(heatmap))
        assert places(array > low, ijkToRAS) == pytest.approx(expected, abs=NIFTI_MM)
    assert np.array_equal(np.sort(array, axis=None), np.sort(blobs(), axis=None))
    assert heatmap.GetStorageNode() is None


def test_files_fit_the_volumes_file_also_under_a_transform(logic, tmp_path) -> None:
    volume = addVolume(transforms=(RIGID,))
    heatmap = addHeatmap(logic, volume)
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    expected = places(mask(), ijkToNode(volume))
    logic.exportSegmentation(segmentation, tmp_path / "a.nii.gz")
    assert places(*readImage(tmp_path / "a.nii.gz")) == pytest.approx(expected, abs=NIFTI_MM)
    logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert places(*readImage(tmp_path / "a.seg.nrrd")) == pytest.approx(expected, abs=WORLD_MM)
    exportHeatmap(heatmap, tmp_path / "h.nrrd")
    array, ijkToRAS = readImage(tmp_path / "h.nrrd")
    assert places(array >= THRESHOLD, ijkToRAS) == pytest.approx(expected, abs=WORLD_MM)


def test_findings_csv(logic, results, tmp_path) -> None:
    heatmap, segmentation, segmentId = results
    listed = findingsOf(segmentation, segmentId, heatmap)
    exportFindings(listed, tmp_path / "f.csv")
    with (tmp_path / "f.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row, finding in zip(rows, listed, strict=True):
        assert int(row["label"]) == finding.label
        assert float(row["volume_mm3"]) == finding.volumeMm3 and float(row["peak"]) == finding.peak
        assert tuple(float(row[f"extent_{axis}_mm"]) for axis in "ijk") == finding.extentMm
        assert tuple(float(row[f"peak_{axis}_mm"]) for axis in "ras") == finding.peakRAS
        assert tuple(float(row[f"centroid_{axis}_mm"]) for axis in "ras") == finding.centroidRAS
        assert float(row["ml"]) == finding.volumeMm3 / 1000
        assert float(row["longest_mm"]) == finding.longestMm
        assert float(row["perpendicular_mm"]) == finding.perpendicularMm
        assert (row["side"], row["confidence"]) == (finding.side, finding.confidence)


# What a program reads that was written for the files of before.
FIRST_COLUMNS = (
    "label,volume_mm3,peak,mean,extent_i_mm,extent_j_mm,extent_k_mm,"
    "centroid_r_mm,centroid_a_mm,centroid_s_mm,peak_r_mm,peak_a_mm,peak_s_mm"
)


def test_findings_csv_names_its_result_and_the_verdicts(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume(name='CT; "first", axial'), result=RESULT)
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    verdicts.setVerdict(heatmap, findingsOf(segmentation, segmentId, heatmap)[1], verdicts.REJECT)
    listed = findingsOf(segmentation, segmentId, heatmap)
    identity = replace(summary.identityOf(heatmap, segmentation, segmentId), stopped="stopped at 38 of 96")
    exportFindings(listed, tmp_path / "f.csv", identity)
    text = (tmp_path / "f.csv").read_text(encoding="utf-8")
    assert text.startswith(f"{FIRST_COLUMNS},ml,longest_mm,perpendicular_mm,side,confidence,verdict,volume,")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["verdict"] for row in rows] == ["", "rejected"]  # as the panel says it
    for row in rows:
        assert row["volume"] == 'CT; "first", axial' and row["method"] == "ToNNO Matched CAM"
        assert (row["threshold"], row["stopped"]) == ("3", "stopped at 38 of 96")
    exportFindings(listed, tmp_path / "g.csv")  # of nothing that is known
    rows = list(csv.DictReader((tmp_path / "g.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["volume"] for row in rows] == ["", ""]


@pytest.mark.parametrize("name", ["f.xlsx", "f"])
def test_findings_are_written_into_a_csv_file_alone(name: str, logic, results, tmp_path) -> None:
    """A spreadsheet refuses to open a .xlsx that holds CSV."""
    heatmap, segmentation, segmentId = results
    with pytest.raises(ToNNOUserError, match=r"(?s)not written.*\.csv"):
        exportFindings(findingsOf(segmentation, segmentId, heatmap), tmp_path / name)
    assert not any(tmp_path.iterdir())


# What a format cannot hold


@pytest.mark.parametrize("degrees", [-15.0, 15.0, 0.02])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_of_a_tilted_grid_is_refused(logic, tmp_path, ending: str, degrees: float) -> None:
    """Slicer's writer straightened a segmentation in silence: 3.6 mm over 14 slices at 15 degrees."""
    heatmap = addHeatmap(logic, addVolume(tilted(degrees)))
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    for export, thing, instead in (
        (exportSegmentation, segmentation, ".seg.nrrd"),
        (exportHeatmap, heatmap, ".nrrd"),
    ):
        with pytest.raises(ToNNOUserError, match=f"tilted by {abs(degrees):.2g} degrees") as error:
            export(thing, tmp_path / f"a{ending}")
        assert f"Export {instead}," in error.value.nextStep and "disk" not in str(error.value)
    assert only(tmp_path) == []


@pytest.mark.parametrize("degrees", [-15.0, 15.0, 0.02])
def test_the_other_formats_keep_a_tilted_grid(logic, tmp_path, degrees: float) -> None:
    grid = tilted(degrees)
    heatmap = addHeatmap(logic, addVolume(grid))
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    expected = places(mask(), grid)
    exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert places(*readImage(tmp_path / "a.seg.nrrd")) == pytest.approx(expected, abs=WORLD_MM)
    exportHeatmap(heatmap, tmp_path / "h.nrrd")
    array, ijkToRAS = readImage(tmp_path / "h.nrrd")
    assert places(array >= THRESHOLD, ijkToRAS) == pytest.approx(expected, abs=WORLD_MM)
    exportSegmentation(segmentation, tmp_path / "a.stl")
    triangles = readSTL(tmp_path / "a.stl")[1]
    apart = triangles.reshape(-1, 3) - expected.mean(axis=0)
    first = triangles[(apart @ (0, 0, 1) < 0).reshape(-1, 3).all(axis=1)]  # the lower of the two findings
    centre = transformed(grid, min(BLOBS, key=lambda ijk: ijk[2]))
    assert first.reshape(-1, 3).mean(axis=0) == pytest.approx(centre, abs=0.1)  # a tilt ignored: 1.2 to 3 mm


def test_a_tilt_that_nifti_bears_is_the_engines(tmp_path) -> None:
    """Two writers, one rule: what the one refuses, the other does."""
    from tonno_core.errors import TonnoError
    from tonno_core.volume.io import check_writable

    for degrees, isRefused in ((0.0, False), (0.005, False), (0.0065, True), (15.0, True)):
        assert (tiltDegrees(tilted(degrees)) > 0) == isRefused
        try:
            check_writable(tilted(degrees), tmp_path / "a.nii")
            assert not isRefused
        except TonnoError:
            assert isRefused


def test_a_refusal_of_the_engines_writer_gives_its_own_advice() -> None:
    from tonno_core.errors import TonnoError

    cause, nextStep = cannotWrite(TonnoError("a.nii: this format would move the image by 3 mm; write .nrrd"))
    assert cause == "The files cannot be written: a.nii: this format would move the image by 3 mm."
    assert nextStep == "Write .nrrd."


def test_labels_and_what_they_cannot_tell_are_said(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume(), result=RESULT)
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    assert exportSegmentation(segmentation, tmp_path / "a.nii") == []
    logic.segments.writeNew(heatmap, 5.0, segmentationNode=segmentation)
    covered = int(np.count_nonzero(blobs() >= 5.0))
    assert exportSegmentation(segmentation, tmp_path / "a.nii") == [
        "Labels: 1 lesion, 2 lesion 2.",
        f"lesion: {covered} of its 54 voxels are also a later segment's, and have its label.",
    ]
    assert exportSegmentation(segmentation, tmp_path / "a.seg.nrrd") == []  # which has room for both


def test_nifti_says_of_what_it_is(logic, tmp_path) -> None:
    nibabel = pytest.importorskip("nibabel")
    segmentation, _id = logic.segments.write(addHeatmap(logic, addVolume(name="Kopf ä")), THRESHOLD)
    exportSegmentation(segmentation, tmp_path / "a.nii.gz")
    described = bytes(nibabel.load(tmp_path / "a.nii.gz").header["descrip"]).decode("ascii").rstrip("\0")
    assert described == "Kopf ?, lesion, ToNNO Matched CAM, threshold 3"


@pytest.fixture
def onOtherGrid(logic):
    """A segment whose voxels have half the size: a block of them, and a speck between two centers of the reference."""
    segmentation, segmentId = logic.segments.write(addHeatmap(logic, addVolume()), THRESHOLD)

    def fill(block: bool):
        fine = np.zeros((12, 12, 12), np.uint8)
        fine[1, 1, 1] = 1
        fine[4:8, 4:8, 4:8] = block
        toFine = affine(np.diag([0.5, 0.5, 0.5]), (5.2, 6.2, 4.2))
        setCrop(segmentation, segmentId, cropped(fine, GRIDS["oblique"] @ toFine))
        return segmentation

    return fill


def test_voxels_that_a_label_map_cannot_hold_are_told(onOtherGrid, tmp_path) -> None:
    """The speck is lost, the block is not: its 64 eighths hold the centers of 8 voxels, 1.6 % less than 65 / 8."""
    segmentation = onOtherGrid(block=True)
    assert exportSegmentation(segmentation, tmp_path / "a.nii.gz") == [
        "lesion: 0.0243 ml in the file, 0.0247 ml in the scene: its voxels lie on another grid, or beyond it."
    ]
    assert np.count_nonzero(readImage(tmp_path / "a.nii.gz")[0]) == 8
    assert exportSegmentation(segmentation, tmp_path / "a.seg.nrrd") == []  # which takes the finer grid
    assert np.count_nonzero(readImage(tmp_path / "a.seg.nrrd")[0]) == 65


def test_a_label_map_that_would_be_empty_is_refused_for_its_reason(onOtherGrid, tmp_path) -> None:
    with pytest.raises(ToNNOUserError, match="between or beyond") as error:
        exportSegmentation(onOtherGrid(block=False), tmp_path / "a.nii")
    assert "disk" not in str(error.value) and only(tmp_path) == []


def test_voxels_that_slicers_own_file_resamples_are_told(logic, host, tmp_path) -> None:
    """A turned grid beside the reference's: Slicer resamples to the latter what it saves."""
    segmentation, segmentId = logic.segments.write(addHeatmap(logic, addVolume()), THRESHOLD)
    turned = GRIDS["oblique"] @ affine(rotation((1, 1, 1), 20) * 0.9, (5, 6, 4))
    setCrop(segmentation, segmentId, cropped(np.eye(6, dtype=np.uint8)[np.newaxis], turned))
    notes = exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    array, ijkToRAS = readImage(tmp_path / "a.seg.nrrd")
    held = np.count_nonzero(array) * abs(np.linalg.det(ijkToRAS[:3, :3])) / 1000
    assert notes and f"lesion: {held:.3g} ml in the file" in notes[0]


# Whole or not at all


def test_the_wrong_ending_and_the_empty_segmentation_are_refused(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.segments.write(heatmap, THRESHOLD)
    with pytest.raises(ToNNOUserError, match=r"\.seg\.nrrd"):
        logic.exportSegmentation(segmentation, tmp_path / "a.png")
    with pytest.raises(ToNNOUserError, match=r"\.nrrd"):
        exportHeatmap(heatmap, tmp_path / "a.mp4")
    logic.segments.write(heatmap, 100.0)
    with pytest.raises(ToNNOUserError, match="empty"):
        logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert only(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    with pytest.raises(ToNNOUserError, match="missing") as error:
        exportHeatmap(heatmap, tmp_path / "missing" / "h.nrrd")
    assert "choose another place" in error.value.nextStep


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = {paths!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from slicer_host import Host
host = Host()
from scenes import *
from ToNNOSlicerLib.logic import ToNNOUserError
from ToNNOSlicerLib.logic.export import exportHeatmap
from ToNNOSlicerLib.logic.report import exportReport
logic = ToNNOLogic(host.scene)
heatmap = addHeatmap(logic, addVolume())
segmentation, segmentId = logic.segments.write(heatmap, -0.9)
# No file grows beyond 1 kB: to a program that is a full disk, but for the name of the error.
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
for name in {names!r}:
    try:
        path = {folder!r} + "/" + name
        if name == "report.html":
            exportReport(path, heatmap, segmentation, segmentId)
        elif name.startswith("h"):
            exportHeatmap(heatmap, path)
        else:
            logic.exportSegmentation(segmentation, path)
        print(name, "was written")
    except ToNNOUserError as error:
        assert error.nextStep
host.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on a file's size there")
def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path) -> None:
    names = ["h.nrrd", "h.nii.gz", "a.seg.nrrd", "a.nii", "a.stl", "report.html"]
    for name in names[:-1]:
        (tmp_path / name).write_text("old")
    paths = [str(ROOT), str(ROOT / "ToNNOSlicer"), str(Path(__file__).parent)]
    code = FULL_DISK.format(paths=paths, names=names, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert only(tmp_path) == sorted(names[:-1])
    assert {(tmp_path / name).read_text() for name in names[:-1]} == {"old"}
