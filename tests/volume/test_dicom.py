"""The slices of a folder: which files they are, and what is said of the others."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    BasicTextSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_header, read_volume

ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3  # 60 degrees around (1, 1, 1)
CT = str(CTImageStorage)


def affine(axes: npt.ArrayLike, origin: Sequence[float]) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = origin
    return matrix


def one_line(folder: Path) -> str:
    """Return the message with which a folder is refused, after its name: the same for header and voxels."""
    with pytest.raises(TonnoError) as caught:
        read_volume(folder)
    with pytest.raises(TonnoError) as by_header:
        read_header(folder)
    message = str(caught.value)
    assert message == str(by_header.value)
    assert "\n" not in message and message.startswith(f"{folder}")
    return message.removeprefix(f"{folder}: ")


def write_slice(
    path: Path,
    pixels: npt.NDArray[np.float64],
    position: Sequence[float],
    *,
    axes: npt.ArrayLike = (1, 0, 0, 0, 1, 0),
    series: str = "1.2.3.4",
    tags: Mapping[str, str] | None = None,
    slope: float = 1,
    compress: bool = False,
) -> None:
    """One slice of 0.7 x 1.3 mm pixels, stored as 16 bit integers times ``slope``."""
    image = sitk.GetImageFromArray(pixels.astype(np.float32))
    image.SetSpacing((0.7, 1.3))
    values = {
        "0008|0060": "CT",
        "0010|0010": "DOE^JANE",
        "0020|000d": "1.2.3",
        "0020|000e": series,
        "0020|0032": "\\".join(f"{x:.6f}" for x in position),
        "0020|0037": "\\".join(f"{x:.9f}" for x in np.ravel(axes)),
        "0028|0100": "16",
        "0028|0101": "16",
        "0028|0102": "15",
        "0028|0103": "1",
        "0028|1052": "0",
        "0028|1053": str(slope),
        **(tags or {}),
    }
    for tag, value in values.items():
        image.SetMetaData(tag, value)
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.KeepOriginalImageUIDOn()
    writer.SetUseCompression(compress)
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(path))
    writer.Execute(image)


def write_series(
    folder: Path,
    heights: Sequence[float],
    *,
    extra: Mapping[str, str] = MappingProxyType({}),
    suffix: str = "",
    **options: object,
) -> npt.NDArray[np.float64]:
    """An axial series, 6 rows and 7 columns, one slice at each height (mm); slices x rows x columns."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 1000, (len(heights), 6, 7)).astype(np.float64)
    for number, height in enumerate(heights):
        tags = {"0020|0013": str(number + 1), "0008|0016": CT, **extra}
        name = f"{number}{options.get('series', '')}{suffix}"
        write_slice(folder / name, pixels[number], (10, 20, height), tags=tags, **options)
    return pixels


def test_oblique_series_in_any_file_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (4, 6, 7)).astype(np.float64)
    names = ["c", "a", "d", "b"]  # names tell nothing about the order of the slices
    for k in range(4):
        position = np.array([10, 20, 30]) + 2.5 * k * ROTATION[:, 2]
        write_slice(tmp_path / names[k], pixels[k], position, axes=ROTATION[:, :2].T)
    (tmp_path / "README.txt").write_text("not a slice")
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, pixels)
    expected = np.diag([-1, -1, 1, 1]) @ affine(ROTATION * [0.7, 1.3, 2.5], (10, 20, 30))
    np.testing.assert_allclose(volume.ijk_to_ras, expected, rtol=0, atol=2e-6)  # decimals of the tags
    monkeypatch.setattr(Path, "read_bytes", None)  # a header is known without the voxels
    header = read_header(tmp_path)
    assert header.size_ijk == volume.size_ijk
    assert np.array_equal(header.ijk_to_ras, volume.ijk_to_ras)
    assert header.voxels == "16-bit signed integer"


def test_slopes_of_single_slices_are_not_rounded_to_integers(tmp_path: Path) -> None:
    stored = np.arange(42).reshape(6, 7) + 100.0
    for k, slope in enumerate((1, 0.25, 2.5)):
        write_slice(tmp_path / str(k), stored * slope, (0, 0, k), slope=slope)
    assert np.array_equal(read_volume(tmp_path).array, np.stack([stored, stored * 0.25, stored * 2.5]))


def test_tilted_gantry_is_a_sheared_affine(tmp_path: Path) -> None:
    for k in range(5):
        write_slice(tmp_path / str(k), np.arange(42.0).reshape(6, 7), (0, 0.5 * k, 2 * k))
    # Each slice lies 2 mm above and 0.5 mm behind the one before.
    assert read_volume(tmp_path).ijk_to_ras[:3, 2] == pytest.approx([0, -0.5, 2], abs=1e-6)


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([0, 2, 4, 8, 10, 16], "2 to 6 mm apart, mostly 2, 3 missing"),
        ([0, 2, 6], "2 to 4 mm apart"),
        ([0, 2, 4, 4.5, 6.5, 8.5], "0.5 to 2 mm apart, mostly 2, 0 missing"),
        ([0, 2, 4, 4, 6], "several slices lie at one position"),
        ([3, 3, 3], "several slices lie at one position"),
        ([0, 2, 4, 6, 106, 206, 306, 406], "not evenly spaced"),
        ([0, 200, 400], "voxels of 0.7 x 1.3 x 200 mm"),
        ([5], "a single slice, the third axis has one voxel (7 x 6 x 1)"),
    ],
)
def test_slices_that_are_no_stack(tmp_path: Path, heights: Sequence[float], expected: str) -> None:
    write_series(tmp_path / "ct", heights)
    message = one_line(tmp_path / "ct")
    assert expected in message
    assert "DOE" not in message


def test_positions_rounded_to_a_tenth_of_a_millimetre(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [round(0.625 * k, 1) for k in range(12)])
    # The ends are rounded by up to 0.05 mm each, over 11 steps.
    assert read_volume(tmp_path / "ct").ijk_to_ras[2, 2] == pytest.approx(0.625, abs=0.1 / 11)


@pytest.mark.skipif(sys.platform != "linux", reason="names of bytes that are no text are Linux's")
def test_a_slice_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, [0, 1, 2])
    first = sorted(tmp_path.iterdir())[0]
    first.rename(tmp_path / os.fsdecode(b"\xe9.dcm"))
    with pytest.raises(TonnoError, match=r"\\udce9.dcm: this name is not UTF-8; rename it"):
        read_volume(tmp_path)


def test_folder_without_one_series(tmp_path: Path) -> None:
    assert "no DICOM image" in one_line(tmp_path)
    for series, count in (("1.2.3.4", 3), ("1.2.3.5", 5), ("1.2.3.6", 1)):
        write_series(tmp_path, range(count), series=series)
    message = one_line(tmp_path)
    assert "3 series (5, 3, 1 slices); expected one" in message
    assert "DOE" not in message


def test_slices_of_different_orientation(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", [0, 1, 2])
    write_slice(tmp_path / "ct" / "x", np.ones((6, 7)), (10, 20, 3), axes=(1, 0, 0, 0, 0.8, 0.6))
    assert "slices differ in size, pixel spacing or orientation" in one_line(tmp_path / "ct")
    write_slice(tmp_path / "ct" / "x", np.ones((6, 8)), (10, 20, 3))
    assert "slices differ" in one_line(tmp_path / "ct")


@pytest.mark.parametrize("missing", [1, 20, 84])
def test_truncated_slice(tmp_path: Path, capfd: pytest.CaptureFixture[str], missing: int) -> None:
    write_series(tmp_path / "ct", [0, 1, 2])
    path = tmp_path / "ct" / "2"  # the last: without it the others look complete
    path.write_bytes(path.read_bytes()[:-missing])
    assert "1 of 3 files give no image: cut off in its pixels: 2; export or copy" in one_line(tmp_path / "ct")
    assert capfd.readouterr().err == ""


def test_truncated_compressed_slice(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (3, 64, 64)).astype(np.float64)
    for k in range(3):
        write_slice(tmp_path / str(k), pixels[k], (0, 0, k), compress=True)
    assert np.array_equal(read_volume(tmp_path).array, pixels)  # lossless JPEG
    whole = (tmp_path / "1").read_bytes()
    (tmp_path / "1").write_bytes(whole[: len(whole) // 2])
    assert "1 of 3 files give no image: cut off in its pixels: 1; export or copy them again" in one_line(tmp_path)


# -------------------- what is not read is said


def rewrite(path: Path, change: Callable[[Dataset], None]) -> None:
    """Change a file's header with pydicom."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def icon(dataset: Dataset) -> None:
    """Give a slice an icon of 2 x 2 pixels, which has pixel data of its own before the image's."""
    item = Dataset()
    item.Rows = item.Columns = 2
    item.SamplesPerPixel, item.BitsAllocated, item.BitsStored, item.HighBit, item.PixelRepresentation = 1, 8, 8, 7, 0
    item.PhotometricInterpretation = "MONOCHROME2"
    item.PixelData = bytes(4)
    dataset.IconImageSequence = [item]


def packed(path: Path, suffix: str = "") -> None:
    content = gzip.compress(path.read_bytes())
    path.unlink()
    path.with_name(path.name + suffix).write_bytes(content)


def cut_with_icon(path: Path) -> None:
    rewrite(path, icon)
    path.write_bytes(path.read_bytes()[:-100])  # 84 bytes of pixels, and more than their tag


def without_pixels(path: Path) -> None:
    rewrite(path, lambda dataset: dataset.__delitem__("PixelData"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "without pixels, or cut off before them": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "without pixels, or cut off before them ": cut_with_icon,
    "cut off in its pixels": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "without pixels, or cut off before them  ": without_pixels,
    "of fewer pixels than its header says": lambda path: rewrite(path, lambda d: setattr(d, "PixelData", bytes(42))),
    "packed by gzip": lambda path: packed(path, ".gz"),
    "packed by gzip ": packed,
    "no DICOM file": lambda path: path.write_text("<html>Gateway timeout</html>"),
    "no DICOM file ": lambda path: path.write_bytes(bytes(path.stat().st_size)),  # a copy that was only begun
}


@pytest.mark.parametrize("suffix", ["", ".dcm"])
@pytest.mark.parametrize("fault", DAMAGE)
def test_a_series_whose_last_files_give_no_image(tmp_path: Path, fault: str, suffix: str) -> None:
    write_series(tmp_path, range(20), suffix=suffix)
    for number in range(16, 20):
        DAMAGE[fault](tmp_path / f"{number}{suffix}")
    message = one_line(tmp_path)
    assert f"4 of 20 files give no image: {fault.strip()}: 16{suffix}" in message
    assert message.endswith("and 1 more; export or copy them again")


def test_nothing_but_packed_files(tmp_path: Path) -> None:
    write_series(tmp_path, range(5), suffix=".dcm")
    for path in list(tmp_path.iterdir()):
        packed(path, ".gz")
    expected = "no DICOM image in this folder (packed by gzip: 0.dcm.gz, 1.dcm.gz, 2.dcm.gz and 2 more); expected"
    assert expected in one_line(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_a_slice_that_cannot_be_opened(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", range(5), suffix=".dcm")
    (tmp_path / "ct" / "5.dcm").symlink_to(tmp_path / "absent")
    assert "1 of 6 files give no image: a link to nothing: 5.dcm; export or copy" in one_line(tmp_path / "ct")
    assert "no DICOM image in this folder; folders in it are not looked into (1); expected" in one_line(tmp_path)


def test_an_icon_is_no_image_and_does_no_harm(tmp_path: Path) -> None:
    pixels = write_series(tmp_path, range(5))
    for path in tmp_path.iterdir():
        rewrite(path, icon)
    assert np.array_equal(read_volume(tmp_path).array, pixels)


def report_object(path: Path, slice_of_series: Path) -> None:
    """Write a dose report that has the UID of the series."""
    dataset = pydicom.dcmread(slice_of_series)
    for name in ("PixelData", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient"):
        del dataset[name]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.save_as(path)


def test_what_was_left_aside_is_counted(tmp_path: Path) -> None:
    pixels = write_series(tmp_path, range(5), suffix=".dcm")
    assert read_volume(tmp_path).concerns == ()
    report_object(tmp_path / "dose.dcm", tmp_path / "0.dcm")
    (tmp_path / "notes.txt").write_text("a note")
    (tmp_path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "._0.dcm").write_bytes(b"\0\5\x16\7Mac OS X")
    (tmp_path / "later").mkdir()
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, pixels)
    assert volume.concerns == (
        "left aside in the folder: 1 file of DICOM without an image (dose.dcm, Basic Text SR), "
        "1 file of another kind (notes.txt)",
    )
    assert read_header(tmp_path).concerns == volume.concerns


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"0020|1002": "20"}, "16 slices are here, but their headers count 20 images in the acquisition: some may"),
        ({"0020|1002": "16"}, None),
        ({"0020|1002": "8"}, None),  # of each of two acquisitions, in one series
        ({"0054|0081": "18"}, "16 slices are here, but their headers count 18 slices: some may be missing"),
    ],
)
def test_the_headers_tell_that_slices_are_missing_at_an_end(
    tmp_path: Path, tags: dict[str, str], expected: str | None
) -> None:
    write_series(tmp_path, range(16), extra=tags)
    concerns = read_volume(tmp_path).concerns
    assert concerns == () if expected is None else concerns[0].startswith(expected)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (range(1, 6), None),
        (range(0, 5), None),
        (range(5, 0, -1), None),
        (range(2, 12, 2), None),  # the second of two echoes
        ([1, 1, 1, 1, 1], None),
        (range(5, 10), "their instance numbers begin at 5"),
        ([1, 2, 3, 5, 6], "1 instance numbers between 1 and 6 are absent"),
    ],
)
def test_instance_numbers_tell_that_slices_are_missing(
    tmp_path: Path, numbers: Sequence[int], expected: str | None
) -> None:
    for k, number in enumerate(numbers):
        write_slice(tmp_path / str(k), np.arange(42.0).reshape(6, 7), (0, 0, k), tags={"0020|0013": str(number)})
    concerns = read_header(tmp_path).concerns
    assert concerns == (() if expected is None else (f"5 slices are here, but {expected}: some may be missing",))


# -------------------- who is at fault


def test_copies_of_an_instance_are_left_out(tmp_path: Path) -> None:
    pixels = write_series(tmp_path, range(5))
    shutil.copy(tmp_path / "1", tmp_path / "1 (copy)")
    shutil.copy(tmp_path / "3", tmp_path / "x")
    pydicom.dcmread(tmp_path / "3").save_as(tmp_path / "x")  # the same in other bytes
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, pixels)
    assert volume.concerns == ("left out as identical copies of other slices: 1 (copy), x",)
    rewrite(tmp_path / "x", lambda dataset: setattr(dataset, "PixelData", bytes(84)))
    assert "x: states the same SOPInstanceUID as 3, but is another image" in one_line(tmp_path)


def test_a_slice_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, range(4))
    dataset = pydicom.dcmread(tmp_path / "2")
    dataset.compress(RLELossless, generate_instance_uid=False)  # of an odd number of columns, which GDCM refuses
    dataset.save_as(tmp_path / "2")
    with pytest.raises(TonnoError, match=r"2: cannot be read; .* RLE Lossless"):
        read_volume(tmp_path)
    dataset.file_meta.TransferSyntaxUID = "1.2.840.113619.5.99"  # a vendor's own
    dataset.save_as(tmp_path / "2", implicit_vr=False, little_endian=True)
    with pytest.raises(TonnoError, match=r"2: cannot be read; .* compressed as 1\.2\.840\.113619\.5\.99"):
        read_volume(tmp_path)


def test_another_kind_of_image_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, range(5))
    capture = {"0008|0016": "1.2.840.10008.5.1.4.1.1.7"}
    write_slice(tmp_path / "screen", np.arange(42.0).reshape(6, 7), (10, 20, 5), tags=capture)
    assert "screen: Secondary Capture Image, the other files CT Image; take it out of the folder" in one_line(tmp_path)
    write_slice(tmp_path / "screen", np.arange(42.0).reshape(6, 7), (10, 20, 5), tags=capture, series="1.9")
    assert "(not of the largest: Secondary Capture Image: screen)" in one_line(tmp_path)


@pytest.mark.parametrize(
    ("shape", "axes", "expected"),
    [
        ((6, 8), (1, 0, 0, 0, 1, 0), "expected one stack: take out b (most have 7 x 6 pixels)"),
        ((6, 7), (1, 0, 0, 0, 0, -1), "expected one stack: take out b (the others agree)"),
    ],
)
def test_a_slice_unlike_the_others_is_named(
    tmp_path: Path, shape: tuple[int, int], axes: tuple[int, ...], expected: str
) -> None:
    write_series(tmp_path, range(5))
    write_slice(
        tmp_path / "b", np.arange(np.prod(shape)).reshape(shape), (10, 20, 9), axes=axes, tags={"0008|0016": CT}
    )
    assert expected in one_line(tmp_path)


def test_what_tells_phases_apart_is_said(tmp_path: Path) -> None:
    for name, time in (("a", "10"), ("b", "80")):
        for k in range(4):
            pixels = np.full((6, 7), k + float(time))
            write_slice(tmp_path / f"{name}{k}", pixels, (0, 0, k), tags={"0018|0081": time, "0020|0013": str(k + 1)})
    assert "several slices lie at one position, such as a0 and b0 (EchoTime 10 and 80)" in one_line(tmp_path)


def test_the_neighbours_of_a_gap_are_named(tmp_path: Path) -> None:
    write_series(tmp_path, range(8))
    (tmp_path / "4").unlink()
    assert "1 missing, the widest gap between 3 and 5; export" in one_line(tmp_path)


def test_a_slice_without_a_position_is_named(tmp_path: Path) -> None:
    write_series(tmp_path, range(5, 11))
    rewrite(tmp_path / "2", lambda dataset: dataset.__delitem__("ImagePositionPatient"))
    assert "; without a position: 2; " in one_line(tmp_path)


# -------------------- transfer syntaxes


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
    ids=lambda uid: uid.name,
)
def test_every_way_to_write_the_same_series(tmp_path: Path, syntax: UID) -> None:
    pixels = np.random.default_rng(0).integers(0, 1000, (5, 32, 64)).astype(np.float64)
    for k in range(5):
        path = tmp_path / str(k)
        write_slice(path, pixels[k], (0, 0, k))
        read = pydicom.dcmread(path)
        dataset = Dataset()
        dataset.update(dict(read))
        dataset.file_meta, dataset.preamble = read.file_meta, bytes(128)
        icon(dataset)
        if syntax == RLELossless:
            dataset.compress(RLELossless, generate_instance_uid=False)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.PixelData = pixels[k].astype("<i2" if syntax.is_little_endian else ">i2").tobytes()
        dataset.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian)
    assert np.array_equal(read_volume(tmp_path).array, pixels)
    last = tmp_path / "4"
    last.write_bytes(last.read_bytes()[:-100])
    assert "1 of 5 files give no image: cut off" in one_line(tmp_path)


def test_slices_without_preamble(tmp_path: Path) -> None:
    pixels = write_series(tmp_path, range(5))
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset.file_meta
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
        assert path.read_bytes()[128:132] != b"DICM"
    assert np.array_equal(read_volume(tmp_path).array, pixels)
    path.write_bytes(path.read_bytes()[:-10])
    assert "1 of 5 files give no image: cut off in its pixels" in one_line(tmp_path)
