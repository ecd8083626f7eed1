"""Files in, files out: what was written is read, and what is wrong is said in one line."""

from __future__ import annotations

import gzip
import os
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from tonno_core.errors import TonnoError
from tonno_core.volume.io import check_writable, read_header, read_mask, read_volume, write_volume
from tonno_core.volume.volume import Volume

FORMATS = [".nii", ".nii.gz", ".nrrd"]
ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3  # 60 degrees around (1, 1, 1)


def affine(axes: npt.ArrayLike, origin: Sequence[float] = (-12.3, 45.6, 78.9)) -> npt.NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3, :3] = axes
    matrix[:3, 3] = origin
    return matrix


OBLIQUE = affine(ROTATION * [0.7, 1.3, 2.9])
LEFT_HANDED = affine(ROTATION * [-0.7, 1.3, 2.9])
SHEARED = affine([[1, 0.2, 0], [0, 1, 0], [0, 0, 1]])


def noise(ijk_to_ras: npt.NDArray[np.float64] = OBLIQUE) -> Volume:
    array = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    return Volume(array, ijk_to_ras)


def write_text_header(path: Path, header: str, voxels: int = 7 * 6 * 5) -> Path:
    path.write_bytes(header.encode() + np.arange(voxels, dtype="<f4").tobytes())
    return path


def meta_image(path: Path, size: str = "7 6 5", **fields: str) -> Path:
    fields = {"TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "0 0 0", "ElementSpacing": "1 1 1"} | fields
    lines = ["ObjectType = Image", f"NDims = {len(size.split())}", f"DimSize = {size}"]
    lines += [f"{name} = {value}" for name, value in fields.items()]
    header = "\n".join([*lines, "ElementType = MET_FLOAT", "ElementDataFile = LOCAL\n"])
    return write_text_header(path, header, int(np.prod([int(n) for n in size.split()])))


def one_line(path: Path, *, replace_nonfinite: bool = False) -> str:
    """Return the message with which a file is refused, after its name."""
    with pytest.raises(TonnoError) as caught:
        read_volume(path, replace_nonfinite=replace_nonfinite)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")  # pytest names the folder after the test


# -------------------- what is read is what was there


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("ijk_to_ras", [OBLIQUE, LEFT_HANDED], ids=["right-handed", "left-handed"])
def test_round_trip_keeps_voxels_and_their_places(
    tmp_path: Path, suffix: str, ijk_to_ras: npt.NDArray[np.float64]
) -> None:
    volume = noise(ijk_to_ras)
    write_volume(volume, tmp_path / f"a{suffix}")
    found = read_volume(tmp_path / f"a{suffix}")
    assert found.array.dtype == np.float32
    assert np.array_equal(found.array, volume.array)
    # NIfTI keeps the affine in float32: 6e-8 of at most 79 mm, through a quaternion.
    np.testing.assert_allclose(found.ijk_to_ras, ijk_to_ras, rtol=0, atol=2e-5)
    assert [p.name for p in tmp_path.iterdir()] == [f"a{suffix}"]


def test_sheared_axes_survive_in_nrrd_and_are_refused_in_nifti(tmp_path: Path) -> None:
    write_volume(noise(SHEARED), tmp_path / "a.nrrd")
    # float64 as text of 17 digits
    np.testing.assert_allclose(read_volume(tmp_path / "a.nrrd").ijk_to_ras, SHEARED, rtol=0, atol=1e-12)
    with pytest.raises(TonnoError, match=r"a\.nii\.gz: .* 11 degrees away .* write \.nrrd"):  # atan 0.2
        write_volume(noise(SHEARED), tmp_path / "a.nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]


def test_shear_that_nifti_would_straighten_far_away(tmp_path: Path) -> None:
    sheared = affine([[1, 0, 0.9e-4], [0, 1, 0], [0, 0, 1]])
    write_volume(Volume(noise().array, sheared), tmp_path / "short.nii")
    # Half of the angle goes to each axis: 0.45e-4 of 3000 mm.
    with pytest.raises(TonnoError, match=r"would move the image by 0\.13 mm; write \.nrrd$"):
        write_volume(Volume(np.ones((3000, 2, 2), np.float32), sheared), tmp_path / "long.nii")


def test_lps_header_becomes_ras(tmp_path: Path) -> None:
    path = meta_image(tmp_path / "a.mha", Offset="10 20 30", ElementSpacing="1 2 3")
    volume = read_volume(path)
    # Voxel (1, 1, 1) lies at LPS (11, 22, 33), which is 11 mm to the right and 22 mm to the front.
    assert volume.ijk_to_ras @ [1, 1, 1, 1] == pytest.approx([-11, -22, 33, 1])
    assert volume.array[1, 2, 3] == 1 * 42 + 2 * 7 + 3  # the file counts along i first


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_slicer_and_itk_formats_are_read(tmp_path: Path, suffix: str) -> None:
    volume = noise()
    write_volume(volume, tmp_path / "a.nrrd")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nrrd")), str(tmp_path / f"b{suffix}"), True)
    found = read_volume(tmp_path / f"b{suffix}")
    assert np.array_equal(found.array, volume.array)
    np.testing.assert_allclose(found.ijk_to_ras, OBLIQUE, rtol=0, atol=1e-9)  # decimal text


@pytest.mark.parametrize("ijk_to_ras", [OBLIQUE, LEFT_HANDED], ids=["right-handed", "left-handed"])
def test_nibabel_agrees(tmp_path: Path, ijk_to_ras: npt.NDArray[np.float64]) -> None:
    volume = noise(ijk_to_ras)
    nibabel.save(nibabel.Nifti1Image(volume.array.T, ijk_to_ras), tmp_path / "theirs.nii.gz")
    found = read_volume(tmp_path / "theirs.nii.gz")
    np.testing.assert_allclose(found.ijk_to_ras, ijk_to_ras, rtol=0, atol=2e-5)  # float32 header
    assert np.array_equal(found.array, volume.array)

    write_volume(volume, tmp_path / "ours.nii.gz")
    ours = nibabel.load(tmp_path / "ours.nii.gz")
    np.testing.assert_allclose(ours.affine, ijk_to_ras, rtol=0, atol=2e-5)
    np.testing.assert_allclose(ours.get_qform(), ijk_to_ras, rtol=0, atol=2e-5)
    assert np.array_equal(ours.get_fdata(dtype=np.float32).T, volume.array)


def test_the_same_image_is_the_same_file_at_another_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nibabel.save(nibabel.Nifti1Image(noise().array.T, OBLIQUE), tmp_path / "scan.nii.gz")
    scan = read_volume(tmp_path / "scan.nii.gz")  # with forms, as every scan's results have
    for hour, name in ((1e9, "first"), (2e9, "second")):
        monkeypatch.setattr(time, "time", lambda hour=hour: hour)
        (tmp_path / name).mkdir()
        write_volume(scan, tmp_path / name / "a.nii.gz")
    assert (tmp_path / "first/a.nii.gz").read_bytes() == (tmp_path / "second/a.nii.gz").read_bytes()


def test_a_compressed_file_beside_its_uncompressed_namesake(tmp_path: Path) -> None:
    """ITK's NIfTI library looks for the voxels of x.nii.gz in x.nii first."""
    arrays = {
        name: np.random.default_rng(seed).normal(size=(5, 6, 7)) for seed, name in enumerate(("x.nii", "x.nii.gz"))
    }
    for name, array in arrays.items():
        nibabel.save(nibabel.Nifti1Image(array.astype(np.float32), OBLIQUE), tmp_path / name)
    for name, array in arrays.items():
        assert np.array_equal(read_volume(tmp_path / name).array.T, array.astype(np.float32))


def test_scaled_integers_and_mni_brain_agree_with_nibabel() -> None:
    path = Path(pytest.importorskip("nilearn").__file__).parent / "datasets" / "data"
    path /= "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    volume, theirs = read_volume(path), nibabel.load(path)
    np.testing.assert_allclose(volume.ijk_to_ras, theirs.affine, rtol=0, atol=1e-5)
    # scl_slope is applied in float32 by one and in float64 by the other
    np.testing.assert_allclose(volume.array, theirs.get_fdata(dtype=np.float32).T, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_files_are_compressed(tmp_path: Path, suffix: str) -> None:
    write_volume(Volume(np.zeros((20, 50, 50), np.float32), OBLIQUE), tmp_path / f"a{suffix}")
    assert (tmp_path / f"a{suffix}").stat().st_size < 2000  # of 200,000 bytes of zeros


def test_masks_are_written_as_bytes(tmp_path: Path) -> None:
    mask = noise().with_array(noise().array > 0)
    write_volume(mask, tmp_path / "mask.nii.gz", dtype="uint8")
    assert nibabel.load(tmp_path / "mask.nii.gz").get_data_dtype() == np.uint8
    assert np.array_equal(read_volume(tmp_path / "mask.nii.gz").array, mask.array)
    for wrong in (0.5, 256, -1, np.nan):
        with pytest.raises(ValueError, match="uint8"):
            write_volume(noise().with_array(np.full((5, 6, 7), wrong)), tmp_path / "b.nrrd", dtype="uint8")
        with pytest.raises(ValueError, match="uint8"):  # as a caller without types may say it
            write_volume(noise().with_array(np.full((5, 6, 7), wrong)), tmp_path / "b.nrrd", dtype=np.uint8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype is no type, expected float32 or uint8"):
        write_volume(noise(), tmp_path / "b.nrrd", dtype="no type")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype is int8, expected float32 or uint8"):
        write_volume(noise(), tmp_path / "b.nrrd", dtype="int8")  # type: ignore[arg-type]
    assert not (tmp_path / "b.nrrd").exists()


def test_standard_error_is_back_after_a_noisy_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = meta_image(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes()[:-4])
    one_line(path)
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


# -------------------- what is refused


@pytest.mark.parametrize("part", [0.999, 0.5, 0.05])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "raw.nrrd", "a.nrrd", "raw.mha", "a.mha"])
def test_truncated_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, part: float) -> None:
    image = sitk.GetImageFromArray(np.random.default_rng(0).normal(size=(10, 20, 30)).astype(np.float32))
    path = tmp_path / name
    sitk.WriteImage(image, str(path), useCompression=not name.startswith("raw"))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    assert "truncated" in one_line(path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_damaged_compressed_file(tmp_path: Path, name: str) -> None:
    array = np.random.default_rng(0).normal(size=(10, 20, 30)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), useCompression=True)
    damaged = bytearray((tmp_path / name).read_bytes())
    damaged[len(damaged) * 2 // 3] ^= 0xFF
    (tmp_path / name).write_bytes(damaged)
    assert "damaged" in one_line(tmp_path / name)


def test_truncated_before_compression(tmp_path: Path) -> None:
    write_volume(noise(), tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()[:-4]))
    assert "1188 bytes, its header asks for 1192" in one_line(tmp_path / "a.nii.gz")  # 352 + 7 * 6 * 5 * 4


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_empty_or_foreign_file(tmp_path: Path, capfd: pytest.CaptureFixture[str], suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"")
    assert "empty" in one_line(path)
    path.write_bytes(b"no image at all\n" * 100)
    assert "another format" in one_line(path)
    assert capfd.readouterr().err == ""


def test_missing_file_and_unknown_format(tmp_path: Path) -> None:
    assert "no such file" in one_line(tmp_path / "a.nii.gz")
    (tmp_path / "a.png").write_bytes(b"png")
    assert "unknown format; expected a file .nii, " in one_line(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 6), "a 2D image of 7 x 6 voxels; expected 3D"),
        ((7, 6, 5, 20), "a 4D image of 7 x 6 x 5 x 20 voxels; expected 3D, or up to 16 channels along a fourth axis"),
        ((7, 6, 1), "a single slice, the third axis has one voxel (7 x 6 x 1)"),
        ((7, 1, 5), "a single slice, the second axis has one voxel (7 x 1 x 5)"),
        ((1, 6, 5), "a single slice, the first axis has one voxel (1 x 6 x 5)"),
    ],
)
def test_wrong_shape(tmp_path: Path, shape: tuple[int, ...], expected: str) -> None:
    nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / "a.nii")
    assert expected in one_line(tmp_path / "a.nii")


def test_zero_voxels(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "empty (7 x 6 x 0 voxels)" in one_line(meta_image(tmp_path / "a.mha", size="7 6 0"))
    write_volume(noise(), tmp_path / "a.nii")
    header = bytearray((tmp_path / "a.nii").read_bytes())
    header[42:44] = struct.pack("<h", 0)  # dim[1]
    (tmp_path / "a.nii").write_bytes(header)
    one_line(tmp_path / "a.nii")
    assert capfd.readouterr().err == ""


def test_colour_and_complex(tmp_path: Path) -> None:
    colour = np.zeros((7, 6, 5), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nibabel.save(nibabel.Nifti1Image(colour, np.eye(4)), tmp_path / "rgb.nii")
    assert "3 values per voxel, a color" in one_line(tmp_path / "rgb.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((7, 6, 5), np.complex64), np.eye(4)), tmp_path / "c.nii")
    assert "complex numbers" in one_line(tmp_path / "c.nii")


def test_nonfinite_voxels_are_counted_and_replaced_only_on_request(tmp_path: Path) -> None:
    array = noise().array
    array[0, 0, :3] = [np.nan, np.inf, -np.inf]
    write_volume(Volume(array, OBLIQUE), tmp_path / "a.nrrd")
    message = one_line(tmp_path / "a.nrrd")
    assert "3 of 210 voxels are NaN or infinite" in message
    assert "`replace_nonfinite`" in message

    found = read_volume(tmp_path / "a.nrrd", replace_nonfinite=True).array
    assert (found[0, 0, :3] == array.flat[3:].min()).all()
    assert np.array_equal(found.flat[3:], array.flat[3:])

    write_volume(Volume(np.full_like(array, np.nan), OBLIQUE), tmp_path / "b.nrrd")
    assert "no finite voxel" in one_line(tmp_path / "b.nrrd", replace_nonfinite=True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8"])
def test_nonfinite_voxels_of_nifti_which_itk_would_make_0(tmp_path: Path, suffix: str, kind: str) -> None:
    array = noise().array.astype(kind)
    array[1, 2, 3], array[0, 0, 0] = np.nan, np.inf
    header = nibabel.Nifti1Header(endianness=kind[0])
    nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4), header, dtype=kind), tmp_path / f"a{suffix}")
    path = tmp_path / f"a{suffix}"
    assert "2 of 210 voxels are NaN or infinite" in one_line(path)
    found = read_volume(path, replace_nonfinite=True).array
    finite = np.isfinite(array)
    assert (found[~finite] == array[finite].min().astype(np.float32)).all()
    assert np.array_equal(found[finite], array[finite].astype(np.float32))


def test_numbers_beyond_float32_count_as_infinite(tmp_path: Path) -> None:
    array = np.ones((5, 6, 7))
    array[0, 0, 0] = 1e300
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / "a.nrrd"))
    assert "1 of 210 voxels" in one_line(tmp_path / "a.nrrd")


def test_constant_volume(tmp_path: Path) -> None:
    write_volume(noise().with_array(np.full((5, 6, 7), 3.5)), tmp_path / "a.nrrd")
    assert "every voxel is 3.5" in one_line(tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ElementSpacing": "1 2 0"}, "voxels of 1 x 2 x 0 mm"),
        ({"ElementSpacing": "1 2 101"}, "voxels of 1 x 2 x 101 mm; expected 0.001 to 100"),
        ({"ElementSpacing": "1 2 0.0009"}, "voxels of 1 x 2 x 0.0009 mm"),
        ({"TransformMatrix": "1 0 0 1 0 0 0 0 1"}, "singular"),
        ({"Offset": "0 0 1000001"}, "origin (0, 0, 1000001) mm; expected within 1e+06"),
    ],
)
def test_absurd_geometry(tmp_path: Path, fields: dict[str, str], expected: str) -> None:
    assert expected in one_line(meta_image(tmp_path / "a.mha", **fields))


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        (np.diag([0.0, 1, 1]), "sheared or singular"),
        (np.diag([np.nan, 1, 1]), "not finite"),
        (SHEARED[:3, :3], "sheared or singular"),
        (np.diag([3.0, 1, 1]), "sform and pixdim give different spacings"),  # pixdim stays 1
    ],
)
def test_absurd_nifti_affine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], axes: npt.NDArray[np.float64], expected: str
) -> None:
    image = nibabel.Nifti1Image(noise().array.T, None)
    image.header["sform_code"] = 1
    for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
        image.header[name] = [*axes[row], 0]
    nibabel.save(image, tmp_path / "a.nii")
    assert expected in one_line(tmp_path / "a.nii")
    assert capfd.readouterr().err == ""


# -------------------- writing: all or nothing


@pytest.mark.parametrize("suffix", FORMATS)
def test_full_disk_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    resource = pytest.importorskip("resource", reason="file size limits are POSIX")
    path = tmp_path / f"a{suffix}"
    write_volume(noise(), path)
    before = path.read_bytes()
    large = np.random.default_rng(0).normal(size=(20, 50, 50)).astype(np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))  # 200 kB are needed
    try:
        with pytest.raises(TonnoError) as caught:
            write_volume(Volume(large, OBLIQUE), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    message = f"{path}: cannot be written: File too large (about 0.2 MB needed); check the folder"
    assert str(caught.value).startswith(message)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_interrupt_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(noise(), path)
    before = path.read_bytes()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sitk, "ReadImage", interrupt)  # written, not yet compared
    with pytest.raises(KeyboardInterrupt):
        write_volume(noise(LEFT_HANDED), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_places(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd").mkdir()
    places = {
        "none/a.nrrd": "No such file or directory",
        "a.nrrd": "Is a directory",
        "a.png": r"name it \.nii or \.nii\.gz or \.nrrd",
    }
    for name, expected in places.items():
        with pytest.raises(TonnoError, match=rf"{name}: cannot .*{expected}"):
            write_volume(noise(), tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nrrd"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(TonnoError, match="Permission denied"):
            write_volume(noise(), tmp_path / "a.nrrd")
    finally:
        tmp_path.chmod(0o700)


def test_check_writable_answers_before_the_work(tmp_path: Path) -> None:
    check_writable(LEFT_HANDED, tmp_path / "a.nii.gz")
    check_writable(SHEARED, tmp_path / "a.nrrd")
    with pytest.raises(TonnoError, match="perpendicular"):
        check_writable(SHEARED, tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


def test_channels_are_read_from_a_fourth_axis_and_from_vectors(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(7, 6, 5, 3)).astype(np.float32)
    affine = np.array([[0, -2.0, 0, 5], [3, 0, 0, -4], [0, 0, 4, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "4d.nii.gz")
    vector = nibabel.Nifti1Image(array[:, :, :, None], affine)
    vector.header.set_intent("vector")
    nibabel.save(vector, tmp_path / "vector.nii")
    for name in ("4d.nii.gz", "vector.nii"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(np.stack(volume.channels).T, array) and np.allclose(volume.ijk_to_ras, affine)
        header = read_header(tmp_path / name)
        assert (header.size_ijk, header.channels, header.voxels) == ((7, 6, 5), 3, "32-bit float")
        for ending in (".nii.gz", ".nrrd"):
            write_volume(volume, tmp_path / f"again{ending}")
            again = read_volume(tmp_path / f"again{ending}")
            assert all(map(np.array_equal, again.channels, volume.channels))
            assert np.allclose(again.ijk_to_ras, affine)
        with pytest.raises(TonnoError, match="has 3 channels; expected a mask, of one: extract it first"):
            read_mask(tmp_path / name)
    array[1, 2, 3, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / "4d.nii.gz")
    assert "channel 2: 1 of 210 voxels are NaN or infinite" in one_line(tmp_path / "4d.nii.gz")
    repaired = read_volume(tmp_path / "4d.nii.gz", replace_nonfinite=True)
    assert repaired.further[0][3, 2, 1] == np.nanmin(array[..., 1])


@pytest.mark.skipif(sys.platform != "linux", reason="has no files in memory")
def test_a_scan_is_read_where_no_temporary_file_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a full disk: what is read needs none."""
    nibabel.save(nibabel.Nifti1Image(noise().array.T, OBLIQUE), tmp_path / "scan.nii.gz")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert np.array_equal(read_volume(tmp_path / "scan.nii.gz").array, noise().array)
