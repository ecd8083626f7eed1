"""DICOM SEG: places, names, colors and codes, read back with other libraries than wrote them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import slicer
import slicer.util
from dicom_series import writeSeries
from scenes import GRIDS, RIGID, SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, affine, blobs, image, mask, paint, tilted
from ToNNOSlicerLib.logic import ToNNOLogic, ToNNOUserError
from ToNNOSlicerLib.logic.export import exportSegmentation
from ToNNOSlicerLib.logic.geometry import toVTK
from ToNNOSlicerLib.logic.labelmap import GREEN
from ToNNOSlicerLib.logic.provenance import ALGORITHM_NAME, ALGORITHM_TYPE
from ToNNOSlicerLib.logic.segmentation import segmentOf

# pydicom's and highdicom's own warnings, about values that a phantom lacks
pytestmark = pytest.mark.filterwarnings("default")
# What 16 characters of a decimal string keep of a place some 300 mm from the origin.
DICOM_MM = 1e-6
CT = {"model": {"name": "demo"}}
NODULE = (
    "Segmentation category and type - DICOM master list"
    "~SCT^49755003^Morphologically Altered Structure~SCT^27925004^Nodule~SCT^24028007^Right"
    "~Anatomic codes - DICOM master list~SCT^39607008^Lung~SCT^45653009^Upper lobe"
)


@pytest.fixture
def series(host, tmp_path):
    """Makes (logic, heatmap, UIDs) of a volume that was loaded from a DICOM series; `logic` has it read its files."""
    import pydicom

    made = []

    def make(ijkToRAS=GRIDS["oblique"], reverse: bool = False, **options):
        paths = writeSeries(tmp_path, reverse, ijkToRAS)
        files = {pydicom.dcmread(path).SOPInstanceUID: str(path) for path in paths}
        logic = ToNNOLogic(host.scene, dicomFile=files.get)
        made.append(logic)
        volume = addVolume(ijkToRAS, **options)
        volume.SetAttribute("DICOM.instanceUIDs", " ".join(files))
        return SimpleNamespace(
            logic=logic,
            volume=volume,
            heatmap=addHeatmap(logic, volume, result=CT),
            files=files,
            path=tmp_path / "a.dcm",
        )

    yield make
    for logic in made:
        logic.cleanUp()


def written(made, node):
    """The data set that highdicom wrote of a node, as pydicom reads it, and the sentences about it."""
    pytest.importorskip("highdicom")
    import pydicom

    notes = exportSegmentation(node, made.path, made.files.get)
    return pydicom.dcmread(made.path), notes


def framePoints(data, number: int) -> np.ndarray:
    """RAS (N 3) of a segment's pixels, frame by frame as the standard says it (PS3.3, C.7.6.2.1.1)."""
    shared = data.SharedFunctionalGroupsSequence[0]
    x, y = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    betweenRows, betweenColumns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    points = []
    for frame, pixels in zip(data.PerFrameFunctionalGroupsSequence, data.pixel_array, strict=True):
        group = frame if "SegmentIdentificationSequence" in frame else shared
        if group.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number:
            row, column = np.nonzero(pixels)
            origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
            points.append(origin + np.outer(column * betweenColumns, x) + np.outer(row * betweenRows, y))
    return inOrder(np.concatenate(points) * (-1, -1, 1))


def gridPoints(voxels: np.ndarray, ijkToRAS: np.ndarray) -> np.ndarray:
    return inOrder(np.argwhere(voxels)[:, ::-1] @ ijkToRAS[:3, :3].T + ijkToRAS[:3, 3])


def inOrder(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(2).T)]


# Places


@pytest.mark.parametrize("transforms", [(), (RIGID,)], ids=["bare", "rigid"])
@pytest.mark.parametrize("reverse", [False, True], ids=["along k", "against k"])
def test_each_segment_lies_on_the_pixels_it_was_made_from(series, reverse: bool, transforms) -> None:
    highdicom = pytest.importorskip("highdicom")
    made = series(reverse=reverse, transforms=transforms)
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    made.logic.segments.writeNew(made.heatmap, 7.5, segmentationNode=segmentation)
    data, notes = written(made, segmentation)
    assert not notes
    assert data.SegmentationType == "BINARY"  # others are mirrored, scaled or refused by some readers
    assert [segment.SegmentLabel for segment in data.SegmentSequence] == ["lesion", "lesion 2"]
    for number, expected in ((1, mask()), (2, blobs() >= 7.5)):
        assert framePoints(data, number) == pytest.approx(gridPoints(expected, GRIDS["oblique"]), abs=DICOM_MM)
    read = highdicom.seg.segread(made.path)
    pixels = read.get_pixels_by_source_instance(list(made.files), assert_missing_frames_are_empty=True)
    assert np.array_equal((pixels[::-1] if reverse else pixels)[..., 0], mask())


def test_a_part_of_the_series_is_written_where_it_lies(series) -> None:
    """The volume is what Slicer's voxel-based Crop Volume leaves."""
    made = series()
    part = (slice(2, 12), slice(3, 16), slice(1, 20))
    shift = affine(np.eye(3), (1, 3, 2))
    volume = addVolume(GRIDS["oblique"] @ shift, image()[part])
    volume.SetAttribute("DICOM.instanceUIDs", " ".join(made.files))
    segmentation, _id = made.logic.segments.write(addHeatmap(made.logic, volume, blobs()[part]), THRESHOLD)
    data, _notes = written(made, segmentation)
    assert framePoints(data, 1) == pytest.approx(gridPoints(mask(), GRIDS["oblique"]), abs=DICOM_MM)


@pytest.mark.parametrize(
    "move",
    [affine(np.eye(3), (0.0, 0.0, 13.0)), affine(np.eye(3), (0.4, 0.7, 0.0)), RIGID],
    ids=["by five slices", "by half a pixel", "turned"],
)
def test_a_volume_that_was_moved_since_is_refused(series, move) -> None:
    """A registration that was hardened, say: its mask would be written to pixels from which it was not made."""
    made = series(GRIDS["anisotropic"])
    made.volume.SetIJKToRASMatrix(toVTK(move @ GRIDS["anisotropic"]))
    segmentation, _id = made.logic.segments.write(addHeatmap(made.logic, made.volume), THRESHOLD)
    with pytest.raises(ToNNOUserError, match="CT does not lie on the slices of its DICOM series") as error:
        exportSegmentation(segmentation, made.path, made.files.get)
    assert ".seg.nrrd" in error.value.nextStep and "disk" not in str(error.value)
    assert not made.path.exists()


def test_a_volume_with_slices_missing_is_refused(series) -> None:
    """A reader has spaced evenly what is not."""
    made = series()
    uids = list(made.files)
    made.volume.SetAttribute("DICOM.instanceUIDs", " ".join(uids[:5] + uids[6:]))
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    with pytest.raises(ToNNOUserError, match="does not lie on the slices"):
        exportSegmentation(segmentation, made.path, made.files.get)


@pytest.mark.parametrize("degrees", [-15.0, 15.0, 3.0])
def test_a_tilted_series_is_refused(series, degrees: float) -> None:
    """dcmqi, and Slicer by it, straighten its frames without a word (at -15 degrees 4.9 mm), or show nothing."""
    made = series(tilted(degrees))
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    with pytest.raises(ToNNOUserError, match=f"tilted by {abs(degrees):.2g} degrees") as error:
        exportSegmentation(segmentation, made.path, made.files.get)
    assert ".seg.nrrd" in error.value.nextStep and "disk" not in str(error.value)


def test_a_tilt_of_less_than_a_pixel_is_written_as_it_is(series) -> None:
    made = series(tilted(0.5))
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    data, _notes = written(made, segmentation)
    assert framePoints(data, 1) == pytest.approx(gridPoints(mask(), tilted(0.5)), abs=DICOM_MM)


# Names, colors, codes


def rgb255(item) -> np.ndarray:
    """Convert by scikit-image, from DICOM's 16 bits (PS3.3, C.10.7.1.1)."""
    color = pytest.importorskip("skimage.color")
    lightness, a, b = item.RecommendedDisplayCIELabValue
    return 255 * color.lab2rgb([lightness / 65535 * 100, a / 65535 * 255 - 128, b / 65535 * 255 - 128])


def codes(sequence) -> tuple[str, str, str]:
    item = sequence[0]
    return item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning


def test_color_terminology_algorithm_and_tracking_of_each_segment(series) -> None:
    made = series()
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    _node, other = made.logic.segments.writeNew(made.heatmap, 5.0, segmentationNode=segmentation)
    segment = segmentation.GetSegmentation().GetSegment(other)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), NODULE)
    segment.SetColor(0.8, 0.4, 0.2)
    data, _notes = written(made, segmentation)
    first, second = data.SegmentSequence
    # A 16-bit step of a or b is 255 / 65535, and moves no channel by more than a hundredth of 255.
    assert rgb255(first) == pytest.approx([0x3D, 0xFF, 0x9E], abs=0.05)
    assert rgb255(second) == pytest.approx([204, 102, 51], abs=0.05)
    for item, kind in ((first, ("4147007", "SCT", "Mass")), (second, ("27925004", "SCT", "Nodule"))):
        category = codes(item.SegmentedPropertyCategoryCodeSequence)
        assert category == ("49755003", "SCT", "Morphologically Altered Structure")
        assert codes(item.SegmentedPropertyTypeCodeSequence) == kind
        assert item.SegmentAlgorithmName == "ToNNO 0.1.0 matched-cam demo"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.1.0"
    modifier = second.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence
    region = second.AnatomicRegionSequence
    assert codes(modifier) == ("24028007", "SCT", "Right")
    assert codes(region) == ("39607008", "SCT", "Lung")
    assert codes(region[0].AnatomicRegionModifierSequence) == ("45653009", "SCT", "Upper lobe")
    assert "AnatomicRegionSequence" not in first
    assert [item.SegmentAlgorithmType for item in (first, second)] == ["AUTOMATIC", "SEMIAUTOMATIC"]
    assert first.TrackingUID != second.TrackingUID and first.TrackingID == "ToNNO lesion"


def test_the_models_codes_are_those_that_the_command_line_writes(series) -> None:
    """Also after the segment was removed and brought back; a model whose codes cannot be read has those of a mass."""
    codesOfLesion = (
        "SCT^49755003^Morphologically Altered Structure~SCT^52988006^Lesion~SCT^24028007^Right~SCT^12738006^Brain"
    )
    made = series()
    model = {"name": "demo", "about": {"terminology/lesion": codesOfLesion, "terminology": "of no use"}}
    heatmap = addHeatmap(made.logic, made.volume, result={"model": model})
    made.logic.segments.write(heatmap, 5.0)
    segmentation, _id = made.logic.segments.writeNew(heatmap, THRESHOLD)
    for _step in ("as written", "brought back"):
        item = written(made, segmentation)[0].SegmentSequence[0]
        kind = item.SegmentedPropertyTypeCodeSequence
        assert codes(kind) == ("52988006", "SCT", "Lesion")
        assert codes(kind[0].SegmentedPropertyTypeModifierCodeSequence) == ("24028007", "SCT", "Right")
        assert codes(item.AnatomicRegionSequence) == ("12738006", "SCT", "Brain")
        made.logic.segments.undo(heatmap)
        made.logic.segments.redo(heatmap)
        assert segmentOf(heatmap)[0] is segmentation
    other = addHeatmap(made.logic, made.volume, result={"model": {"name": "demo", "about": {"terminology": "x"}}})
    node, _id = made.logic.segments.write(other, THRESHOLD)
    kind = written(made, node)[0].SegmentSequence[0].SegmentedPropertyTypeCodeSequence
    assert codes(kind) == ("4147007", "SCT", "Mass")


def test_the_first_segment_has_the_color_that_the_command_line_writes() -> None:
    from tonno_core.commands.dicom import COLOR

    assert tuple(channel / 255 for channel in COLOR) == pytest.approx(GREEN)


def test_the_file_says_of_what_it_is(series) -> None:
    made = series()
    segmentation, _id = made.logic.segments.write(made.heatmap, 4.0)
    data, _notes = written(made, segmentation)
    assert data.SegmentSequence[0].SegmentDescription == "CT, lesion, ToNNO Matched CAM, model demo, threshold 4"
    assert data.ContentDescription == data.SegmentSequence[0].SegmentDescription[:64]
    assert data.SoftwareVersions == "0.1.0" and data.ContentCreatorName == ""


def test_what_was_edited_by_hand_is_semiautomatic(series) -> None:
    made = series()
    segmentation, segmentId = made.logic.segments.write(made.heatmap, THRESHOLD)
    speck = np.zeros(SHAPE_ZYX, np.uint8)
    speck[12, 2, 3] = 1
    paint(segmentation, segmentId, speck, made.heatmap)
    data, _notes = written(made, segmentation)
    assert data.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    assert data.SegmentSequence[0].SegmentDescription.endswith("edited by hand")


def test_a_segment_is_tracked_from_export_to_export_and_through_a_saved_scene(series, host, tmp_path) -> None:
    made = series()
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    uids = {written(made, segmentation)[0].SegmentSequence[0].TrackingUID for _ in range(2)}
    host.load(host.save(tmp_path / "scene"))
    segmentation = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    uids.add(written(made, segmentation)[0].SegmentSequence[0].TrackingUID)
    assert len(uids) == 1 and uids.pop().startswith("2.25.")


def test_a_segment_of_another_hand_is_manual(series) -> None:
    made = series()
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    theirs = segmentation.GetSegmentation().AddEmptySegment("", "Läsion")
    segmentation.GetSegmentation().GetSegment(theirs).RemoveTag(slicer.vtkSegment.GetTerminologyEntryTagName())
    paint(segmentation, theirs, mask(), made.heatmap)
    data, _notes = written(made, segmentation)
    item = data.SegmentSequence[1]
    assert item.SegmentLabel == "Läsion" and item.SegmentAlgorithmType == "MANUAL"
    assert "SegmentAlgorithmName" not in item
    assert codes(item.SegmentedPropertyTypeCodeSequence) == ("85756007", "SCT", "Tissue")  # as Slicer has it by default
    segment = segmentation.GetSegmentation().GetSegment(theirs)
    segment.SetTag(ALGORITHM_TYPE, "AUTOMATIC")
    segment.SetTag(ALGORITHM_NAME, "somebody's")
    item = written(made, segmentation)[0].SegmentSequence[1]
    assert (item.SegmentAlgorithmType, item.SegmentAlgorithmName) == ("AUTOMATIC", "somebody's")
    assert "SegmentationAlgorithmIdentificationSequence" not in item


def test_an_empty_segment_is_left_out_and_named(series) -> None:
    """Slicer's exporter asks about it in the middle; dcmqi makes a file of zeros of it."""
    made = series()
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    made.logic.segments.writeNew(made.heatmap, 100.0, segmentationNode=segmentation)
    data, notes = written(made, segmentation)
    assert [item.SegmentLabel for item in data.SegmentSequence] == ["lesion"]
    assert notes == ["Left out, being empty: lesion 2."]


# What is missing


def test_it_says_what_it_needs(host, tmp_path, monkeypatch) -> None:
    logic = ToNNOLogic(host.scene, dicomFile={}.get)
    volume = addVolume()
    segmentation, _id = logic.segments.write(addHeatmap(logic, volume), THRESHOLD)
    with pytest.raises(ToNNOUserError, match="not loaded from one"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    volume.SetAttribute("DICOM.instanceUIDs", "1.2.3 1.2.4")
    with pytest.raises(ToNNOUserError, match="2 of the series' 2 DICOM files"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    monkeypatch.setattr("ToNNOSlicerLib.logic.dicom_seg.find_spec", lambda name: None)
    with pytest.raises(ToNNOUserError, match=r"5\.12 and newer bring it.* 5\.10 .*Quantitative Reporting"):
        logic.exportSegmentation(segmentation, tmp_path / "a.dcm")
    assert not any(tmp_path.iterdir())
    logic.cleanUp()


@pytest.mark.parametrize("lacking", ["FrameOfReferenceUID", "ImagePositionPatient"])
def test_a_series_that_cannot_be_referred_to_is_named(series, lacking: str) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    made = series()
    for path in made.files.values():
        data = pydicom.dcmread(path)
        del data[lacking]
        data.save_as(path)
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    with pytest.raises(ToNNOUserError, match=r"cannot refer to this series|several slices in a file"):
        exportSegmentation(segmentation, made.path, made.files.get)
    assert not made.path.exists()


# Slicer's own exporter

EXPORTER = """
import json, pathlib, vtk

class DICOMSegmentationExporter:
    def __init__(self, segmentationNode, contentCreatorName=None):
        self.node = segmentationNode

    def export(self, outputDirectory, segFileName, metadata, segmentIDs=None, skipEmpty=False):
        if PROBLEM:
            raise ValueError(PROBLEM)
        segments = [self.segment(n) for n in segmentIDs]
        (pathlib.Path(outputDirectory) / segFileName).write_text(json.dumps([metadata, segments]))

    def segment(self, segmentID):
        segment = self.node.GetSegmentation().GetSegment(segmentID)
        values = {"name": segment.GetName()}
        for tag, default in (("DICOM.SegmentAlgorithmType", "MANUAL"), ("DICOM.SegmentAlgorithmName", None)):
            value = vtk.mutable("")
            values[tag] = str(value) if segment.GetTag(tag, value) else default
        return values

    def cleanup(self):
        pass
"""


@pytest.mark.parametrize("problem", ["", "no luck"])
def test_slicers_exporter_is_told_of_the_algorithm(series, tmp_path, monkeypatch, problem: str) -> None:
    """A stand-in that reads the tags as Slicer 5.12's DICOMSegmentationPlugin.py does; docs/interchange.md has a run
    of the real one.
    """
    import json

    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "DICOMSegmentationPlugin.py").write_text(f"PROBLEM = {problem!r}\n{EXPORTER}")
    monkeypatch.syspath_prepend(plugins)
    monkeypatch.delitem(sys.modules, "DICOMSegmentationPlugin", raising=False)
    made, stored = series(), []
    database = SimpleNamespace(
        fileForInstance=made.files.get, insert=lambda path: stored.append(Path(path).read_text())
    )
    monkeypatch.setattr(slicer, "dicomDatabase", database, raising=False)
    segmentation, _id = made.logic.segments.write(made.heatmap, THRESHOLD)
    made.logic.segments.writeNew(made.heatmap, 5.0, segmentationNode=segmentation)
    made.logic.segments.writeNew(made.heatmap, 100.0, segmentationNode=segmentation)  # empty: the real one would ask
    if problem:
        with pytest.raises(ToNNOUserError, match="no luck"):
            exportSegmentation(segmentation, made.path)
        assert not made.path.exists() and not stored
    else:
        notes = exportSegmentation(segmentation, made.path)
        metadata, segments = json.loads(made.path.read_text())
        assert metadata["SeriesDescription"] == "CT ToNNO Matched CAM segmentation"
        assert [segment["name"] for segment in segments] == ["lesion", "lesion 2"]
        assert [segment[ALGORITHM_TYPE] for segment in segments] == ["AUTOMATIC", "SEMIAUTOMATIC"]
        assert {segment[ALGORITHM_NAME] for segment in segments} == {"ToNNO 0.1.0 matched-cam demo"}
        assert notes == ["Left out, being empty: lesion 3.", "Slicer's DICOM database holds a copy of the file."]
        assert stored == [made.path.read_text()]
    sys.modules.pop("DICOMSegmentationPlugin", None)  # not by monkeypatch, which would bring it back
