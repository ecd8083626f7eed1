"""Results as DICOM SEG and parametric map: each reader finds their voxels where the series has them."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from click.testing import CliRunner
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTDoseStorage, generate_uid

from tests.networks import write_random_bundle
from tonno_core.bundle.terminology import DEFAULT, check_terminology, terminology_of
from tonno_core.cli import cli
from tonno_core.commands import reconstruct as workflow
from tonno_core.errors import TonnoError
from tonno_core.settings import model_defaults
from tonno_core.volume.io import read_volume

highdicom = pytest.importorskip("highdicom", minversion="0.28")

SHAPE = (8, 15, 21)  # so that frames of a BINARY segmentation do not end with a byte
ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3  # 60 degrees around (1, 1, 1)
# What 16 characters of a decimal string keep of a place some 100 mm from the origin, in three coordinates.
DICOM_MM = 1e-6
COARSE = ("--slices", "10", "--directions", "6", "--slice-size", "16", "--device", "cpu", "--precision", "float32")
LESION = "SCT^49755003^Morphologically Altered Structure~SCT^52988006^Lesion~SCT^24028007^Right~SCT^12738006^Brain"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid(axes: npt.ArrayLike, spacing: Sequence[float], origin: Sequence[float]) -> npt.NDArray[np.float64]:
    """From (column, row, slice) to LPS mm; ``axes`` has their directions as columns."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.asarray(axes, dtype=np.float64) * spacing
    matrix[:3, 3] = origin
    return matrix


GRIDS = {
    "axial": grid(np.eye(3), (0.7, 0.8, 2.5), (-10, -20, -30)),
    "sagittal": grid([[0, 0, 1], [1, 0, 0], [0, -1, 0]], (0.6, 1.1, 1.9), (25, 6, 70)),
    "oblique": grid(ROTATION, (0.7, 1.3, 2.2), (10, 20, 30)),
    "feet first": grid(np.diag([1, 1, -1]), (0.9, 0.7, 3), (-10, -20, 80)),  # slices against the normal
}


def write_series(
    folder: Path, grid: npt.NDArray[np.float64] = GRIDS["axial"], *, backwards: bool = False, **values: Any
) -> Path:
    """A CT series of int16 with a slope, with a bright ball; its files' names run along the slices or backwards.

    ``values`` replace those of the headers; None removes one.
    """
    folder.mkdir(parents=True)
    z, y, x = np.indices(SHAPE)
    ball = (z - 3) ** 2 * 4 + (y - 6) ** 2 + (x - 13) ** 2 < 16
    pixels = np.random.default_rng(0).integers(-200, 200, SHAPE) + 3000 * ball
    spacing = np.linalg.norm(grid[:3, :3], axis=0)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k in range(SHAPE[0]):
        data, meta = Dataset(), FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        data.SOPClassUID = CTImageStorage
        data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
        data.StudyInstanceUID, data.SeriesInstanceUID, data.FrameOfReferenceUID = study, series, frame
        data.PatientID, data.PatientName, data.PatientBirthDate, data.PatientSex = "4711", "Doe^Jane", "19700101", "F"
        data.StudyDate = data.StudyTime = data.StudyID = data.AccessionNumber = data.ReferringPhysicianName = ""
        data.Modality, data.SeriesNumber, data.InstanceNumber = "CT", 1, k + 1
        data.ImagePositionPatient = [f"{mm:.9f}"[:16] for mm in (grid @ (0, 0, k, 1))[:3]]
        data.ImageOrientationPatient = [f"{c:.12f}"[:16] for a in (0, 1) for c in grid[:3, a] / spacing[a]]
        data.PixelSpacing, data.SliceThickness = [spacing[1], spacing[0]], "5"
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 1
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, (data.Rows, data.Columns) = 15, SHAPE[1:]
        data.RescaleIntercept, data.RescaleSlope = -1000, 0.5
        data.PixelData = pixels[k].astype(np.int16).tobytes()
        for name, value in values.items():
            if value is None:
                delattr(data, name)
            else:
                setattr(data, name, value)
        data.file_meta = meta
        number = SHAPE[0] - k if backwards else k
        pydicom.dcmwrite(folder / f"{number:03}.dcm", data, enforce_file_format=True)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of two classes, one of which has codes of its own."""
    folder = tmp_path_factory.mktemp("model") / "two"
    return write_random_bundle(folder, classes=("ill", "läsion"), about={"terminology/läsion": LESION})


def run(*arguments: object) -> str:
    """What `tonno reconstruct` says, which must succeed."""
    result = CliRunner().invoke(cli, ["reconstruct", *map(str, arguments), *COARSE], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return str(result.output)


def refused(*arguments: object) -> str:
    with pytest.raises(TonnoError) as error:
        run(*arguments)
    return str(error.value)


def points(voxels: npt.NDArray[np.bool_], ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return in_order(np.argwhere(voxels)[:, ::-1] @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3])


def in_order(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return points[np.lexsort(points.round(2).T)]


def frame_points(data: Any, shown: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """RAS of pixels, frame by frame as the standard says it (PS3.3, C.7.6.2.1.1)."""
    shared = data.SharedFunctionalGroupsSequence[0]
    x, y = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    found = []
    for frame, pixels in zip(data.PerFrameFunctionalGroupsSequence, shown, strict=True):
        row, column = np.nonzero(pixels)
        origin = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        found.append(origin + np.outer(column * between_columns, x) + np.outer(row * between_rows, y))
    return in_order(np.concatenate(found) * (-1, -1, 1))


def results(folder: Path, method: str = "tonno") -> tuple[Any, Any]:
    """The segmentation and the map, as pydicom reads them."""
    return tuple(pydicom.dcmread(folder / f"{what}-{method}.dcm") for what in ("segmentation", "heatmap"))  # type: ignore[return-value]


# -------------------- places and values


@pytest.fixture(scope="module", params=[(name, number % 2 == 1) for number, name in enumerate(GRIDS)], ids=str)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a series, and its results as DICOM and as NRRD."""
    name, backwards = request.param
    folder = tmp_path_factory.mktemp("both")
    write_series(folder / "scan", GRIDS[name], backwards=backwards)
    for form in ("dicom", "nrrd"):
        run(folder / "scan", "--model", "pixel-sum", "--format", form, "--output", folder / form)
    assert {path.name for path in (folder / "dicom").iterdir()} == {
        "heatmap-tonno.dcm", "segmentation-tonno.dcm", "overview.png", "report.json",
    }  # fmt: skip
    return folder


def test_each_frame_lies_where_the_other_formats_have_it(both: Path) -> None:
    heatmap, mask = (read_volume(both / "nrrd" / f"{what}-tonno.nrrd") for what in ("heatmap", "segmentation"))
    segmentation, map_ = results(both / "dicom")
    shown = mask.array > 0
    assert 20 < shown.sum() < shown.size / 2
    assert segmentation.SegmentationType == "BINARY"
    here = frame_points(segmentation, segmentation.pixel_array > 0)
    assert here == pytest.approx(points(shown, mask.ijk_to_ras), abs=DICOM_MM)
    assert np.array_equal(map_.pixel_array, heatmap.array)  # float32, slice by slice
    for level in (2.0, heatmap.array.max() * 0.9):
        here = frame_points(map_, map_.pixel_array > level)
        assert here == pytest.approx(points(heatmap.array > level, heatmap.ijk_to_ras), abs=DICOM_MM)


def test_each_frame_refers_to_the_slice_at_its_place(both: Path) -> None:
    slices = {data.SOPInstanceUID: data for data in map(pydicom.dcmread, (both / "scan").iterdir())}
    first = next(iter(slices.values()))
    for data in results(both / "dicom"):
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "PatientBirthDate"):
            assert data[name].value == first[name].value
        assert data.SeriesInstanceUID != first.SeriesInstanceUID
        (series,) = data.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == first.SeriesInstanceUID
        assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == slices.keys()
        frames = data.PerFrameFunctionalGroupsSequence
        assert len(frames) == len(slices)
        for frame in frames:
            (source,) = frame.DerivationImageSequence[0].SourceImageSequence
            referred = slices[source.ReferencedSOPInstanceUID]
            place = [data.ImagePositionPatient for data in (frame.PlanePositionSequence[0], referred)]
            assert place[0] == pytest.approx(place[1], abs=DICOM_MM)
        indices = [np.ravel(frame.FrameContentSequence[0].DimensionIndexValues)[-1] for frame in frames]
        assert indices == list(range(1, SHAPE[0] + 1))


def test_simpleitk_and_highdicom_read_the_same(both: Path) -> None:
    mask = sitk.ReadImage(str(both / "nrrd" / "segmentation-tonno.nrrd"))
    read = sitk.ReadImage(str(both / "dicom" / "segmentation-tonno.dcm"))
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(read, name)() == pytest.approx(getattr(mask, name)(), abs=DICOM_MM)
    assert np.array_equal(sitk.GetArrayFromImage(read) > 0, sitk.GetArrayFromImage(mask) > 0)
    heatmap = read_volume(both / "nrrd" / "heatmap-tonno.nrrd")
    volumes = (
        highdicom.seg.segread(both / "dicom" / "segmentation-tonno.dcm").get_volume(combine_segments=True),
        highdicom.pm.ParametricMap.from_file(both / "dicom" / "heatmap-tonno.dcm").get_volume(),
    )
    for volume, array in zip(volumes, (sitk.GetArrayFromImage(mask), heatmap.array), strict=True):
        # From its index (slice, row, column) to LPS; ours has them the other way round.
        to_ras = LPS_TO_RAS @ volume.affine
        at = np.rint(np.indices(array.shape).reshape(3, -1).T[:, ::-1] @ heatmap.ijk_to_ras[:3, :3].T * 1e6) / 1e6
        index = (at + heatmap.ijk_to_ras[:3, 3] - to_ras[:3, 3]) @ np.linalg.inv(to_ras[:3, :3]).T
        assert np.abs(index - np.rint(index)).max() < 1e-5
        theirs = volume.array[tuple(np.rint(index).astype(int).T)]
        assert np.array_equal(theirs.reshape(array.shape), array)


def dcmqi(command: str, file: Path, output: Path) -> sitk.Image:
    """What dcmqi reads, without a warning of its own."""
    pytest.importorskip("dcmqi")
    output.mkdir()
    call = f"import sys, dcmqi; sys.exit(dcmqi.{command}())"
    words = ("--inputDICOM", str(file), "--outputDirectory", str(output))
    done = subprocess.run([sys.executable, "-c", call, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "W:" not in done.stderr and "WARNING" not in done.stdout + done.stderr
    return sitk.ReadImage(str(next(output.glob("*.nrrd"))))


@pytest.mark.parametrize(("command", "what"), [("segimage2itkimage", "segmentation"), ("paramap2itkimage", "heatmap")])
def test_dcmqi_reads_the_same(both: Path, tmp_path: Path, command: str, what: str) -> None:
    """Also through 3D Slicer's Quantitative Reporting, which calls it."""
    ours = sitk.ReadImage(str(both / "nrrd" / f"{what}-tonno.nrrd"))
    read = dcmqi(command, both / "dicom" / f"{what}-tonno.dcm", tmp_path / "read")
    there = sitk.Resample(read, ours, sitk.Transform(), sitk.sitkNearestNeighbor, -1.0)
    assert np.array_equal(sitk.GetArrayFromImage(there), sitk.GetArrayFromImage(ours))
    # dcmqi keeps six digits of a direction and a spacing.
    assert sorted(read.GetSpacing()) == pytest.approx(sorted(ours.GetSpacing()), abs=1e-5)


def test_a_wrong_distance_of_slices_in_the_headers_goes_into_no_result(tmp_path: Path) -> None:
    """Some scanners state the gap; thickness is 5 mm, the positions are 2.5 mm apart."""
    write_series(tmp_path / "scan", SpacingBetweenSlices="1")
    run(tmp_path / "scan", "--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "out")
    for data in results(tmp_path / "out"):
        measures = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        assert (float(measures.SpacingBetweenSlices), float(measures.SliceThickness)) == (2.5, 5)
    assert sitk.ReadImage(str(tmp_path / "out" / "segmentation-tonno.dcm")).GetSpacing()[2] == 2.5
    for command, what in (("segimage2itkimage", "segmentation"), ("paramap2itkimage", "heatmap")):
        assert dcmqi(command, tmp_path / "out" / f"{what}-tonno.dcm", tmp_path / what).GetSpacing()[2] == 2.5


@pytest.mark.parametrize("away_mm", [0.001, 0.3])
def test_slices_that_are_not_quite_evenly_spaced_go_where_the_volume_has_them(tmp_path: Path, away_mm: float) -> None:
    """Of frames a micrometre off, SimpleITK says that they are 1 mm apart, with pixels of 1 x 1 mm."""
    write_series(tmp_path / "scan")
    rng = np.random.default_rng(0)
    for path in (tmp_path / "scan").iterdir():
        data = pydicom.dcmread(path)
        x, y, z = map(float, data.ImagePositionPatient)
        data.ImagePositionPatient = [f"{mm:.6f}" for mm in (x, y, z + rng.uniform(-away_mm, away_mm))]
        data.save_as(path)
    for form in ("dicom", "nrrd"):
        run(tmp_path / "scan", "--model", "pixel-sum", "--format", form, "--output", tmp_path / form)
    mask = sitk.ReadImage(str(tmp_path / "nrrd" / "segmentation-tonno.nrrd"))
    segmentation, map_ = (tmp_path / "dicom" / f"{what}-tonno.dcm" for what in ("segmentation", "heatmap"))
    for read in (
        lambda: sitk.ReadImage(str(segmentation)),
        lambda: dcmqi("segimage2itkimage", segmentation, tmp_path / "a"),
        lambda: dcmqi("paramap2itkimage", map_, tmp_path / "b"),
    ):
        image = read()
        assert image.GetSpacing() == pytest.approx(mask.GetSpacing(), abs=DICOM_MM)
        assert image.GetOrigin() == pytest.approx(mask.GetOrigin(), abs=DICOM_MM)


def test_where_nothing_is_found_all_frames_are_empty(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    threshold = ("--threshold", "1e9")
    run(tmp_path / "scan", "--model", "pixel-sum", *threshold, "--format", "dicom", "--output", tmp_path / "out")
    segmentation, _ = results(tmp_path / "out")
    assert segmentation.pixel_array.shape == SHAPE
    assert not segmentation.pixel_array.any()


# -------------------- what files say


def codes(sequence: Any) -> tuple[str, str, str]:
    (item,) = sequence
    return item.CodingSchemeDesignator, item.CodeValue, item.CodeMeaning


def test_codes_color_algorithm_and_tracking_of_each_class(model: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    made = {}
    for name, class_name in (("a", "läsion"), ("b", "läsion"), ("c", "ill")):
        choice = ("--class", class_name, "--threshold", "0.01", "--method", "matched-cam")
        run(tmp_path / "scan", "--model", model, *choice, "--format", "dicom", "--output", tmp_path / name)
        made[name] = results(tmp_path / name, "matched-cam")
    items = {name: segmentation.SegmentSequence[0] for name, (segmentation, _) in made.items()}
    assert all(len(segmentation.SegmentSequence) == 1 for segmentation, _ in made.values())
    lesion, mass = items["a"], items["c"]
    assert (lesion.SegmentLabel, mass.SegmentLabel) == ("läsion", "ill")
    altered = ("SCT", "49755003", "Morphologically Altered Structure")
    assert codes(lesion.SegmentedPropertyCategoryCodeSequence) == altered
    assert codes(mass.SegmentedPropertyCategoryCodeSequence) == altered
    kind = lesion.SegmentedPropertyTypeCodeSequence
    assert codes(kind) == ("SCT", "52988006", "Lesion")
    assert codes(kind[0].SegmentedPropertyTypeModifierCodeSequence) == ("SCT", "24028007", "Right")
    assert codes(lesion.AnatomicRegionSequence) == ("SCT", "12738006", "Brain")
    assert codes(mass.SegmentedPropertyTypeCodeSequence) == ("SCT", "4147007", "Mass")
    assert "AnatomicRegionSequence" not in mass
    for item in items.values():
        assert item.SegmentAlgorithmType == "SEMIAUTOMATIC"  # a person chose the threshold
        assert item.SegmentAlgorithmName == "ToNNO 0.1.0 matched-cam two"
        assert item.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion == "0.1.0"
        green = highdicom.color.CIELabColor.from_rgb(0x3D, 0xFF, 0x9E)
        assert list(item.RecommendedDisplayCIELabValue) == list(green.value)
        assert "model two, threshold 0.01; research use only" in item.SegmentDescription
    assert lesion.TrackingUID == items["b"].TrackingUID != mass.TrackingUID
    assert lesion.TrackingID == "ToNNO läsion"
    uids = [
        data[name].value for pair in made.values() for data in pair for name in ("SOPInstanceUID", "SeriesInstanceUID")
    ]
    assert len(set(uids)) == len(uids)  # another file each time
    anatomy = [pair[1].SharedFunctionalGroupsSequence[0].FrameAnatomySequence[0] for pair in (made["a"], made["c"])]
    assert codes(anatomy[0].AnatomicRegionSequence) == ("SCT", "12738006", "Brain")
    assert codes(anatomy[1].AnatomicRegionSequence) == ("SCT", "123037004", "Anatomical Structure")


def test_only_a_threshold_that_is_not_the_models_makes_a_segment_semiautomatic(tmp_path: Path) -> None:
    """As in the Slicer module."""
    write_series(tmp_path / "scan")
    choices = {"slices": 10, "directions": 6, "stage": 2}
    model = write_random_bundle(
        tmp_path / "model",
        defaults=model_defaults(**choices),
        thresholds={"matched-cam": {"threshold": 0.25, "settings": choices}},
    )
    expected = {"auto": "AUTOMATIC", "0.2505": "AUTOMATIC", "0.26": "SEMIAUTOMATIC", "otsu": "AUTOMATIC"}
    for name, (threshold, kind) in enumerate(expected.items()):
        common = ("--method", "matched-cam", "--threshold", threshold, "--format", "dicom")
        run(tmp_path / "scan", "--model", model, *common, "--output", tmp_path / str(name))
        segmentation, _ = results(tmp_path / str(name), "matched-cam")
        assert segmentation.SegmentSequence[0].SegmentAlgorithmType == kind, threshold


def test_dcmqi_reads_what_the_segment_is(model: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    choice = ("--class", "läsion", "--threshold", "0.01", "--method", "matched-cam", "--format", "dicom")
    run(tmp_path / "scan", "--model", model, *choice, "--output", tmp_path / "out")
    dcmqi("segimage2itkimage", tmp_path / "out" / "segmentation-matched-cam.dcm", tmp_path / "read")
    (((segment,),)) = json.loads((tmp_path / "read" / "meta.json").read_text(encoding="utf-8"))["segmentAttributes"]
    assert segment["SegmentLabel"] == "läsion"
    assert segment["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "52988006"
    assert segment["AnatomicRegionSequence"]["CodeMeaning"] == "Brain"
    assert segment["SegmentAlgorithmName"] == "ToNNO 0.1.0 matched-cam two"
    assert segment["recommendedDisplayRGBValue"] == pytest.approx([0x3D, 0xFF, 0x9E], abs=1)
    dcmqi("paramap2itkimage", tmp_path / "out" / "heatmap-matched-cam.dcm", tmp_path / "map")
    said = json.loads((tmp_path / "map" / "meta.json").read_text(encoding="utf-8"))
    assert said["AnatomicRegionSequence"]["CodeMeaning"] == "Brain"
    assert (said["MeasurementUnitsCode"]["CodeValue"], said["RealWorldValueSlope"]) == ("1", "1")


def test_a_map_states_its_values_and_that_it_is_research(model: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    run(tmp_path / "scan", "--model", model, "--class", "ill", "--format", "dicom", "--output", tmp_path / "out")
    (method,) = json.loads((tmp_path / "out" / "report.json").read_text())["methods"]
    segmentation, map_ = results(tmp_path / "out", method)
    values = map_.pixel_array
    (mapping,) = map_.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
    assert (mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept, mapping.LUTLabel) == (1, 0, "logit")
    assert mapping.DoubleFloatRealWorldValueFirstValueMapped == values.min()
    assert mapping.DoubleFloatRealWorldValueLastValueMapped == values.max()
    assert codes(mapping.MeasurementUnitsCodeSequence) == ("UCUM", "1", "no units")
    assert map_.ContentQualification == "RESEARCH"
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"  # Otsu's
    for data in (segmentation, map_):
        assert data.SeriesDescription.startswith(f"Research use: ill, ToNNO {method} ")
        assert data.ContentDescription.startswith("Research use")
        assert data.ContentCreatorName == ""


def test_headers_that_conform_badly_are_written_well_and_nothing_of_them_is_said(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    """What anonymizers leave out or write, another character set, orientations that differ in their last digit."""
    name = "Yamada^Tarou=山田^太郎"
    write_series(
        tmp_path / "scan",
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName=name,
        PatientSex="X",
        StudyDate=None,
        AccessionNumber=None,
        StudyID=None,
        ReferringPhysicianName=None,
        SliceThickness=None,
    )
    for number, path in enumerate(sorted((tmp_path / "scan").iterdir())):
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = ["1", "0", "0", "0", "1", f"{number}e-7"]
        data.save_as(path)
    said = run(tmp_path / "scan", "--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "out")
    for data in results(tmp_path / "out"):
        assert data.PatientName == name and data.SpecificCharacterSet == "ISO_IR 192"
        assert (data.PatientSex, data.StudyDate, data.AccessionNumber) == ("", "", "")
        assert float(data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == 2.5
    out, err = capfd.readouterr()
    report = (tmp_path / "out" / "report.json").read_text()
    logged = "".join(record.getMessage() for record in caplog.records) + "".join(str(w.message) for w in recwarn)
    for text in (said, out, err, report, logged):
        assert not any(word in text for word in ("Yamada", "4711", "1970"))


# -------------------- what cannot be written


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run may begin."""

    def execute(*_: object, **__: object) -> None:
        raise AssertionError("the run has begun")

    monkeypatch.setattr(workflow, "execute", execute)


@pytest.mark.usefixtures("no_run")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"FrameOfReferenceUID": None}, "states no FrameOfReferenceUID"),
        ({"StudyInstanceUID": None}, "states no StudyInstanceUID"),
        ({"SOPClassUID": RTDoseStorage}, "the package highdicom cannot refer to this series (Only one source image"),
    ],
    ids=str,
)
def test_a_series_that_cannot_be_referred_to_is_refused_before_the_run(
    tmp_path: Path, values: dict[str, Any], said: str
) -> None:
    scan = write_series(tmp_path / "scan", **values)
    message = refused(scan, "--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "out")
    assert said in message and message.startswith(str(scan))
    assert message.endswith("choose `file_format` nii.gz or nrrd, which hold the same voxels")
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_run")
def test_what_is_no_series_is_refused_before_the_run(tmp_path: Path) -> None:
    write_series(tmp_path / "scan")
    volume = sitk.GetImageFromArray(np.random.default_rng(0).random(SHAPE))
    sitk.WriteImage(volume, str(tmp_path / "a.nii.gz"))
    common = ("--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "out")
    assert "a.nii.gz: is no folder of DICOM files" in refused(tmp_path / "a.nii.gz", *common)
    tilted = GRIDS["axial"].copy()
    tilted[1, 2] = 2.5 * np.tan(np.radians(15))
    message = refused(write_series(tmp_path / "tilted", tilted), *common)
    # 7 steps of 2.5 mm, by 0.268 mm for each.
    assert "tilted by 15 degrees (gantry)" in message and "up to 4.7 mm off; choose `file_format` nrrd" in message
    (tmp_path / "scan" / "003.dcm").rename(tmp_path / "003.dcm")
    assert "not evenly spaced" in refused(tmp_path / "scan", *common)
    (tmp_path / "003.dcm").rename(tmp_path / "scan" / "003.dcm")
    other = pydicom.dcmread(tmp_path / "scan" / "003.dcm")
    other.FrameOfReferenceUID = generate_uid()
    other.save_as(tmp_path / "scan" / "003.dcm")
    assert "state different FrameOfReferenceUIDs" in refused(tmp_path / "scan", *common)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_run")
def test_results_do_not_go_among_the_slices(tmp_path: Path) -> None:
    scan = write_series(tmp_path / "scan")
    before = {path.name for path in scan.iterdir()}
    message = refused(scan, "--model", "pixel-sum", "--format", "dicom", "--output", scan, "--overwrite")
    assert "`output`" in message and "choose another" in message
    assert {path.name for path in scan.iterdir()} == before


def test_a_small_tilt_is_written_as_it_is(tmp_path: Path) -> None:
    tilted = GRIDS["axial"].copy()
    tilted[1, 2] = 0.04  # 7 of them are less than half a pixel
    write_series(tmp_path / "scan", tilted)
    for form in ("dicom", "nrrd"):
        run(tmp_path / "scan", "--model", "pixel-sum", "--format", form, "--output", tmp_path / form)
    mask = read_volume(tmp_path / "nrrd" / "segmentation-tonno.nrrd")
    segmentation, _ = results(tmp_path / "dicom")
    here = frame_points(segmentation, segmentation.pixel_array > 0)
    assert here == pytest.approx(points(mask.array > 0, mask.ijk_to_ras), abs=DICOM_MM)


@pytest.mark.parametrize(("version", "found"), [(None, "which is not installed"), ("0.27.0", "found 0.27.0")])
def test_without_highdicom_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None, found: str
) -> None:
    def known(name: str) -> str:
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", known)
    message = refused("absent", "--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "out")
    assert message == (
        f"`file_format` dicom: needs the package highdicom 0.28 or newer, {found}; pip install 'highdicom>=0.28'"
    )


def test_highdicom_is_not_imported_before_it_is_needed() -> None:
    """Nor is pydicom: functions alone import them."""
    for path in Path(workflow.__file__).parent.parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.partition(".")[0] for name in names} & {"highdicom", "pydicom"}, path


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"terminology": "a mass"}, "terminology 'a mass': expected category~type~modifier"),
        ({"terminology": "SCT^1^One"}, "and at least the first two"),
        ({"terminology": "SCT^1^One~SCT^^Two"}, "SCT^^Two is not complete"),
        ({"terminology": f"SCT^1^One~SCT^{17 * '2'}^Two"}, "does not fit into DICOM: at most 16 characters"),
        ({"terminology/il": DEFAULT}, "the model has no class 'il', expected one of ill, läsion"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_run")
def test_codes_that_cannot_be_read_are_refused(tmp_path: Path, about: dict[str, str], said: str) -> None:
    model = write_random_bundle(tmp_path / "wrong", classes=("ill", "läsion"), about=about)
    choice = ("--class", "ill", "--format", "dicom")
    message = refused("absent", "--model", model, *choice, "--output", tmp_path / "out")
    assert said in message and message.startswith(f"{model}: about terminology")
    (key, text), *_ = about.items()
    words = ["bundle", "--encoder", "resnet10t", "--weights", "none", "--slice-size", "32", "--about", f"{key}={text}"]
    if "/" not in key:  # a class is known once the bundle is read
        made = CliRunner().invoke(cli, [*words, "--output", str(tmp_path / "made")])
        assert isinstance(made.exception, TonnoError) and str(made.exception).startswith("--about terminology")
        assert not (tmp_path / "made").exists()


def test_codes_are_spelled_as_slicers_entries_with_or_without_its_lists() -> None:
    entry = "List - of Slicer~SCT^1^One~SCT^2^Two~^^~Anatomic - list~SCT^3^Three~^^"
    terms = terminology_of({"terminology": entry}, "any")
    assert terms == terminology_of({"terminology": "SCT^1^One~SCT^2^Two~^^~SCT^3^Three~^^"}, None)
    assert (str(terms.kind), terms.modifier, str(terms.region), terms.region_modifier) == (
        "SCT^2^Two", None, "SCT^3^Three", None,
    )  # fmt: skip
    check_terminology({"terminology": entry, "finding": "a~b"}, ("any",))


# -------------------- many series


def test_a_cohort_of_series_resumes_and_does_a_changed_one_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / "scans" / name, GRIDS["oblique" if name == "two" else "axial"])
    common = (tmp_path / "scans", "--model", "pixel-sum", "--format", "dicom", "--threshold", "otsu")
    run(*common, "--output", tmp_path / "out")
    cases = sorted((tmp_path / "out" / "cases").iterdir())
    assert [case.name.partition("-")[2] for case in cases] == ["one", "two"]
    before = [results(case)[0].SOPInstanceUID for case in cases]
    shutil.rmtree(tmp_path / "scans" / "two")
    write_series(tmp_path / "scans" / "two", GRIDS["sagittal"])
    run(*common, "--output", tmp_path / "out")
    after = [results(case)[0] for case in cases]
    assert after[0].SOPInstanceUID == before[0] and after[1].SOPInstanceUID != before[1]
    slices = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "scans" / "two").iterdir()}
    (series,) = after[1].ReferencedSeriesSequence
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == slices
    assert (tmp_path / "out" / "contact-sheet-1.png").is_file()


def test_the_contact_sheet_shows_what_that_of_other_formats_shows(tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / "one", GRIDS["feet first"])
    write_series(tmp_path / "scans" / "two", GRIDS["oblique"])
    for form in ("dicom", "nrrd"):
        common = (tmp_path / "scans", "--model", "pixel-sum", "--threshold", "otsu")
        run(*common, "--format", form, "--output", tmp_path / form)
    for path in (tmp_path / "nrrd" / "cases").glob("*/planes.npz"):
        with np.load(path) as ours, np.load(tmp_path / "dicom" / path.relative_to(tmp_path / "nrrd")) as theirs:
            assert ours.files == theirs.files
            for name in ours.files:
                assert np.array_equal(ours[name], theirs[name], equal_nan=ours[name].dtype.kind == "f"), name


def test_results_among_series_are_no_series(tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / "one")
    write_series(tmp_path / "scans" / "two")
    one = tmp_path / "scans" / "one"
    run(one, "--model", "pixel-sum", "--format", "dicom", "--output", tmp_path / "scans" / "result")
    common = (tmp_path / "scans", "--model", "pixel-sum", "--format", "dicom", "--threshold", "otsu")
    run(*common, "--output", tmp_path / "out")
    assert len(list((tmp_path / "out" / "cases").iterdir())) == 2


def test_a_file_that_is_no_series_is_a_case_that_failed(tmp_path: Path) -> None:
    write_series(tmp_path / "scans" / "one")
    volume = sitk.GetImageFromArray(np.random.default_rng(0).random(SHAPE))
    sitk.WriteImage(volume, str(tmp_path / "scans" / "two.nii.gz"))
    message = refused(
        tmp_path / "scans", "--model", "pixel-sum", "--format", "dicom", "--threshold", "otsu",
        "--output", tmp_path / "out",
    )  # fmt: skip
    assert "1 of 2" in message
    assert "is no folder of DICOM files" in (tmp_path / "out" / "summary.csv").read_text()
