"""Each format is read back, by Slicer's reader or another's, and holds the same voxels at the same place."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, blobs, image, mask, segmentArray
from test_logic_findings import RESULT
from test_logic_heatmap import WORLD_MM
from test_logic_segmentation import voxelCentres
from ToNNOSlicerLib.logic import ToNNOLogic, ToNNOUserError, summary, verdicts
from ToNNOSlicerLib.logic.export import exportFindings
from ToNNOSlicerLib.logic.geometry import ijkToNode

# What a NIfTI header (float32) keeps of a place some 100 mm from the origin.
NIFTI_MM = 1e-4
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["oblique", "left-handed", "as DICOM has it"])
def results(request, logic):
    """(heatmap, segmentation, segment ID)"""
    heatmap = addHeatmap(logic, addVolume(GRIDS[request.param]), result=RESULT)
    return heatmap, *logic.writeSegment(heatmap, THRESHOLD)


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
    _node, inner = logic.newSegment(heatmap, 5.0, segmentationNode=segmentation)  # overlaps the first
    logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    read = host.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", "read")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(tmp_path / "a.seg.nrrd"))
    assert storage.ReadData(read)
    assert voxelCentres(read, segmentId) == pytest.approx(before, abs=WORLD_MM)
    assert np.array_equal(segmentArray(read, segmentId, heatmap), mask())
    assert np.array_equal(segmentArray(read, inner, heatmap), blobs() >= 5.0)
    assert read.GetSegmentation().GetSegment(segmentId).GetName() == "lesion"
    assert not logic.isEditedByHand(read, segmentId)  # the tag is in the file
    assert only(tmp_path) == ["a.seg.nrrd"]
    assert segmentation.GetStorageNode() is None  # where the scene saves it is not our business


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_nifti_labelmap(logic, results, tmp_path, ending: str) -> None:
    heatmap, segmentation, _id = results
    logic.newSegment(heatmap, 5.0, segmentationNode=segmentation)
    logic.exportSegmentation(segmentation, tmp_path / f"a{ending}")
    array, ijkToRAS = readImage(tmp_path / f"a{ending}")
    assert array.shape == SHAPE_ZYX and set(np.unique(array)) == {0, 1, 2}
    for label, expected in ((2, blobs() >= 5.0), (1, (blobs() >= THRESHOLD) & (blobs() < 5.0))):
        assert places(array == label, ijkToRAS) == pytest.approx(places(expected, ijkToNode(heatmap)), abs=NIFTI_MM)


def test_stl(logic, results, tmp_path) -> None:
    import vtk

    _heatmap, segmentation, segmentId = results
    logic.exportSegmentation(segmentation, tmp_path / "a.stl")
    assert not segmentation.GetSegmentation().ContainsRepresentation("Closed surface")  # nothing shown that was not
    assert b"SPACE=LPS" in (tmp_path / "a.stl").read_bytes()[:80]
    reader = vtk.vtkSTLReader()
    reader.SetFileName(str(tmp_path / "a.stl"))
    reader.Update()
    segmentation.CreateClosedSurfaceRepresentation()
    shown = segmentation.GetClosedSurfaceInternalRepresentation(segmentId)
    r0, r1, a0, a1, s0, s1 = shown.GetBounds()
    assert reader.GetOutput().GetBounds() == pytest.approx((-r1, -r0, -a1, -a0, s0, s1), abs=1e-4)  # float32
    properties = [vtk.vtkMassProperties() for _ in range(2)]
    for property_, surface in zip(properties, (reader.GetOutput(), shown), strict=True):
        property_.SetInputData(surface)
    assert properties[0].GetVolume() == pytest.approx(properties[1].GetVolume(), rel=1e-5)  # its sign: faces look out


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".nii"])
def test_heatmap(logic, results, tmp_path, ending: str) -> None:
    heatmap, _segmentation, _id = results
    logic.exportHeatmap(heatmap, tmp_path / f"h{ending}")
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
    segmentation, _id = logic.writeSegment(heatmap, THRESHOLD)
    own = places(mask(), ijkToNode(volume))
    logic.exportSegmentation(segmentation, tmp_path / "a.nii.gz")
    assert places(*readImage(tmp_path / "a.nii.gz")) == pytest.approx(own, abs=NIFTI_MM)
    logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert places(*readImage(tmp_path / "a.seg.nrrd")) == pytest.approx(own, abs=WORLD_MM)
    logic.exportHeatmap(heatmap, tmp_path / "h.nrrd")
    array, ijkToRAS = readImage(tmp_path / "h.nrrd")
    assert places(array >= THRESHOLD, ijkToRAS) == pytest.approx(own, abs=WORLD_MM)


def test_findings_csv(logic, results, tmp_path) -> None:
    heatmap, segmentation, segmentId = results
    listed = logic.findings(segmentation, segmentId, heatmap)
    logic.exportFindings(listed, tmp_path / "f.csv")
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
    segmentation, segmentId = logic.writeSegment(heatmap, THRESHOLD)
    verdicts.setVerdict(heatmap, logic.findings(segmentation, segmentId, heatmap)[1], verdicts.REJECT)
    listed = logic.findings(segmentation, segmentId, heatmap)
    identity = summary.identityOf(heatmap, segmentation, segmentId) | {"stopped": "stopped at 38 of 96"}
    exportFindings(listed, tmp_path / "f.csv", identity)
    text = (tmp_path / "f.csv").read_text(encoding="utf-8")
    assert text.startswith(f"{FIRST_COLUMNS},ml,longest_mm,perpendicular_mm,side,confidence,verdict,volume,")
    rows = list(csv.DictReader(text.splitlines()))
    assert [row["verdict"] for row in rows] == ["", "reject"]
    for row in rows:
        assert row["volume"] == 'CT; "first", axial' and row["method"] == "ToNNO Matched CAM"
        assert (row["threshold"], row["stopped"]) == ("3", "stopped at 38 of 96")
    exportFindings(listed, tmp_path / "g.csv")  # of nothing that is known
    rows = list(csv.DictReader((tmp_path / "g.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["volume"] for row in rows] == ["", ""]


# Whole or not at all


def test_the_wrong_ending_and_the_empty_segmentation_are_refused(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    segmentation, _id = logic.writeSegment(heatmap, THRESHOLD)
    with pytest.raises(ToNNOUserError, match=r"\.seg\.nrrd"):
        logic.exportSegmentation(segmentation, tmp_path / "a.png")
    with pytest.raises(ToNNOUserError, match=r"\.nrrd"):
        logic.exportHeatmap(heatmap, tmp_path / "a.mp4")
    logic.writeSegment(heatmap, 100.0)
    with pytest.raises(ToNNOUserError, match="empty"):
        logic.exportSegmentation(segmentation, tmp_path / "a.seg.nrrd")
    assert only(tmp_path) == []


def test_a_folder_that_is_not_there_is_named(logic, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume())
    with pytest.raises(ToNNOUserError, match="missing") as error:
        logic.exportHeatmap(heatmap, tmp_path / "missing" / "h.nrrd")
    assert "choose another place" in error.value.nextStep


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = {paths!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from slicer_host import Host
host = Host()
from scenes import *
from ToNNOSlicerLib.logic import ToNNOUserError
logic = ToNNOLogic(host.scene)
heatmap = addHeatmap(logic, addVolume())
segmentation, segmentId = logic.writeSegment(heatmap, -0.9)
# No file grows beyond 1 kB: to a program that is a full disk, but for the name of the error.
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
for name in {names!r}:
    try:
        path = {folder!r} + "/" + name
        if name == "report.html":
            logic.exportReport(path, heatmap, segmentation, segmentId)
        elif name.startswith("h"):
            logic.exportHeatmap(heatmap, path)
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


# DICOM SEG


def writeSeries(folder: Path, reverse: bool) -> list[Path]:
    """A CT series of the oblique grid's slices; the files run along k, or against it."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    lps = np.diag([-1, -1, 1, 1]) @ GRIDS["oblique"]
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    paths = []
    for k in range(SHAPE_ZYX[0])[:: -1 if reverse else 1]:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientID, data.PatientName = "phantom", "phantom^"
        data.PatientBirthDate = data.PatientSex = data.StudyDate = data.StudyTime = data.StudyID = ""
        data.AccessionNumber = data.ReferringPhysicianName = data.PositionReferenceIndicator = data.Manufacturer = ""
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, len(paths) + 1
        data.ImagePositionPatient = [f"{mm:.9f}"[:16] for mm in (lps @ (0, 0, k, 1))[:3]]
        data.ImageOrientationPatient = [f"{c:.12f}"[:16] for a in (0, 1) for c in lps[:3, a] / spacing[a]]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, (data.Rows, data.Columns) = 15, SHAPE_ZYX[1:]
        data.RescaleIntercept, data.RescaleSlope = 0, 1
        data.PixelData = image()[k].astype(np.uint16).tobytes()
        paths.append(folder / f"{k:03}.dcm")
        pydicom.dcmwrite(paths[-1], data, enforce_file_format=True)
    return paths


@pytest.mark.filterwarnings("default")  # pydicom's and highdicom's own, about values that a phantom lacks
@pytest.mark.parametrize("transforms", [(), (RIGID,)], ids=["bare", "rigid"])
@pytest.mark.parametrize("reverse", [False, True], ids=["along k", "against k"])
def test_dicom_seg(host, tmp_path, reverse: bool, transforms) -> None:
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    files = {pydicom.dcmread(path).SOPInstanceUID: str(path) for path in writeSeries(tmp_path, reverse)}
    logic = ToNNOLogic(host.scene, dicomFile=files.get)
    volume = addVolume(transforms=transforms)
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(files))
    heatmap = addHeatmap(logic, volume)
    segmentation, _id = logic.writeSegment(heatmap, THRESHOLD)
    logic.newSegment(heatmap, 7.5, segmentationNode=segmentation)
    logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    read = highdicom.seg.segread(tmp_path / "a.dcm")
    assert [read.get_segment_description(n).segment_label for n in (1, 2)] == ["lesion", "lesion 2"]
    assert read.get_segment_description(1).segmented_property_type.value == "52988006"
    pixels = read.get_pixels_by_source_instance(list(files), assert_missing_frames_are_empty=True)
    along = pixels[::-1] if reverse else pixels
    assert np.array_equal(along[..., 0], mask())
    assert np.array_equal(along[..., 1], blobs() >= 7.5)
    logic.cleanUp()


def test_dicom_seg_says_what_it_needs(host, tmp_path, monkeypatch) -> None:
    logic = ToNNOLogic(host.scene, dicomFile={}.get)
    volume = addVolume()
    segmentation, _id = logic.writeSegment(addHeatmap(logic, volume), THRESHOLD)
    with pytest.raises(ToNNOUserError, match="not loaded from one"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    with pytest.raises(ToNNOUserError, match="2 of the series' 2 DICOM files"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    monkeypatch.setattr("ToNNOSlicerLib.logic.dicom_seg.find_spec", lambda name: None)
    with pytest.raises(ToNNOUserError, match="Quantitative Reporting"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    assert only(tmp_path) == []
    logic.cleanUp()


PLUGIN = """
import pathlib

class DICOMSegmentationPluginClass:
    def examineForExport(self, item):
        import types
        return [types.SimpleNamespace(item=item, directory=None)]

    def export(self, exportables):
        folder = pathlib.Path(exportables[0].directory) / "series"
        folder.mkdir()
        (folder / "subject.dcm").write_text(f"item {exportables[0].item}")
        return PROBLEM
"""


@pytest.mark.parametrize("problem", ["", "no luck"])
def test_dicom_seg_by_slicers_exporter(logic, host, tmp_path, monkeypatch, problem: str) -> None:
    """A stand-in with the exporter's manners as its users know them; the real one needs the application."""
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "DICOMSegmentationPlugin.py").write_text(f"PROBLEM = {problem!r}\n{PLUGIN}")
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.delitem(sys.modules, "DICOMSegmentationPlugin", raising=False)
    volume = addVolume()
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    segmentation, _id = logic.writeSegment(addHeatmap(logic, volume), THRESHOLD)
    path = tmp_path / "a.dcm"
    if problem:
        with pytest.raises(ToNNOUserError, match="no luck"):
            logic.exportSegmentation(segmentation, path)
        assert not path.exists()
    else:
        logic.exportSegmentation(segmentation, path)
        tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(host.scene)
        assert path.read_text() == f"item {tree.GetItemByDataNode(segmentation)}"
    sys.modules.pop("DICOMSegmentationPlugin", None)  # not by monkeypatch, which would bring it back
