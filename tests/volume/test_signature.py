"""Why a file cannot be read: what it is and which data file is missing comes before any talk of damage."""

from __future__ import annotations

import bz2
import gzip
import struct
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tonno_core.cohort.duplicates import find_duplicates
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_header, read_volume
from tonno_core.volume.signature import odd_dimensions

ARRAY = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def image(path: Path) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))
    return path


def one_line(path: Path) -> str:
    """Return the message with which a file is refused, after its name: by its header already."""
    with pytest.raises(TonnoError) as caught:
        read_header(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    with pytest.raises(TonnoError) as caught:
        read_volume(path)
    assert str(caught.value) == message
    return message.removeprefix(f"{path}: ")


# -------------------- the named data file


HEADERS = {
    "a.mhd": "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\nElementType = MET_FLOAT\nElementDataFile = {}\n",
    "a.nhdr": "NRRD0004\ntype: float\ndimension: 3\nsizes: 7 6 5\nencoding: raw\nendian: little\ndata file: {}\n",
}
LIST = "LIST\n" + "\n".join(f"s{k:03d}.raw" for k in range(1, 6))
NAMED = {"one.raw": ["one.raw"], "s%03d.raw 1 5 1": [f"s{k:03d}.raw" for k in range(1, 6)]}
NAMED[LIST] = NAMED["s%03d.raw 1 5 1"]


@pytest.mark.parametrize("named", NAMED, ids=["one", "numbered", "listed"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_data_file_that_is_not_there_is_named(tmp_path: Path, name: str, named: str) -> None:
    path = tmp_path / name
    path.write_text(HEADERS[name].format(named))
    parts = np.split(ARRAY, len(NAMED[named]))
    for file, part in zip(NAMED[named], parts, strict=True):
        (tmp_path / file).write_bytes(part.tobytes())
    assert np.array_equal(read_volume(path).array, ARRAY)
    last = tmp_path / NAMED[named][-1]
    last.write_bytes(b"")
    assert one_line(path) == f"its data file {last} is empty"
    last.unlink()
    assert f"its data file {last} is not there: put it beside the header" in one_line(path)


@pytest.mark.parametrize("name", HEADERS)
def test_a_data_file_that_is_cut_off_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(HEADERS[name].format("one.raw"))
    (tmp_path / "one.raw").write_bytes(ARRAY.tobytes()[:-8])
    with pytest.raises(TonnoError, match=r"cannot be read; its data in .*one.raw are truncated or damaged"):
        read_volume(tmp_path / name)


def test_headers_of_listed_slices_are_compared_by_their_slices(tmp_path: Path) -> None:
    for name, value in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.mhd").write_text(HEADERS["a.mhd"].format(LIST))
        for k in range(1, 6):
            (tmp_path / name / f"s{k:03d}.raw").write_bytes((ARRAY[k - 1] + value * (k == 5)).tobytes())
    assert find_duplicates([tmp_path / name / "a.mhd" for name in "abc"], progress=False) == [[0, 1]]


# -------------------- first bytes


def write_nifti2(path: Path) -> None:
    nibabel.save(nibabel.Nifti2Image(ARRAY, np.eye(4)), path)


def write_mgh(path: Path) -> None:
    path.write_bytes(gzip.compress(nibabel.MGHImage(ARRAY, np.eye(4)).to_bytes()))


def write_datatype(path: Path) -> None:
    """A NIfTI file of 128 bit numbers."""
    content = bytearray(nibabel.Nifti1Image(ARRAY, np.eye(4)).to_bytes())
    content[70:74] = struct.pack("<hh", 1536, 128)
    path.write_bytes(bytes(content) + bytes(12 * ARRAY.size))


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("scan.nrrd", image(path.with_name("scan.nrrd")).read_bytes())


def write_nrrd_version(path: Path) -> None:
    path.write_bytes(b"NRRD0009" + image(path.with_name("b.nrrd")).read_bytes()[8:])


def write_lone_header(path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(ARRAY, np.eye(4)), path.with_suffix(".hdr"))
    path.with_suffix(".hdr").rename(path)


FOREIGN = {
    "gzip.nii": (
        lambda path: path.write_bytes(gzip.compress(image(path.with_name("b.nii")).read_bytes())),
        "it is packed by gzip: name it .nii.gz",
    ),
    "gzip.nrrd": (
        lambda path: path.write_bytes(gzip.compress(image(path.with_name("b.nrrd")).read_bytes())),
        "it is packed by gzip: unpack it",
    ),
    "bzip.mha": (
        lambda path: path.write_bytes(bz2.compress(image(path.with_name("b.mha")).read_bytes())),
        "it is packed by bzip2: unpack it",
    ),
    "zip.nii": (write_zip, "it is packed by zip: unpack it"),
    "nrrd.nii": (
        lambda path: path.write_bytes(image(path.with_name("b.nrrd")).read_bytes()),
        "it is NRRD, not NIfTI-1: give it its own suffix",
    ),
    "nifti.mha": (
        lambda path: path.write_bytes(image(path.with_name("b.nii")).read_bytes()),
        "it is NIfTI-1, not MetaImage: give it its own suffix",
    ),
    "second.nii": (write_nifti2, "it is NIfTI-2, not NIfTI-1: save it as NIfTI-1"),
    "second.nii.gz": (write_nifti2, "it is NIfTI-2, not NIfTI-1: save it as NIfTI-1"),
    "mgh.nii.gz": (write_mgh, "it is FreeSurfer's MGH, not NIfTI-1: export it as such"),
    "lfs.nii.gz": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "it is a pointer of Git LFS, not NIfTI-1: get the image with git lfs pull",
    ),
    "page.nrrd": (
        lambda path: path.write_text("<!DOCTYPE html><html>Sign in"),
        "it is a web page, not NRRD: download the image again",
    ),
    "zeros.nii": (lambda path: path.write_bytes(bytes(2000)), "it is nothing but zeros, as a copy"),
    "version.nrrd": (write_nrrd_version, "it is NRRD of version 0009; versions 1 to 5 are read"),
    "datatype.nii": (write_datatype, "its voxels are of NIfTI's datatype 1536, which ITK cannot read"),
    "pair.nii": (write_lone_header, "the header of a pair of files without its voxels (.img); save both as one .nii"),
    "scan.mgz": (write_mgh, "unknown format (packed by gzip); expected a file .nii,"),
    "damaged.nii": (lambda path: path.write_bytes(b"not an image"), "it is truncated, damaged or in another format"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_a_valid_file_of_another_kind_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    write, expected = FOREIGN[name]
    write(tmp_path / name)
    message = one_line(tmp_path / name)
    assert expected in message
    assert ("damaged" in message) == (name == "damaged.nii")


def test_a_file_of_another_suffix_that_itk_reads_is_read(tmp_path: Path) -> None:
    image(tmp_path / "plain.nii").rename(tmp_path / "plain.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "plain.nii.gz").array, ARRAY)


@pytest.mark.parametrize(
    "line", ["NDims = 99999999999999999999", "NDims = -1", "NDims = 11", "NDims: 0", "NDims =", ""]
)
@pytest.mark.parametrize("suffix", [".mhd", ".mha"])
def test_dimensions_that_itk_has_no_room_for_are_refused_before_it_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, suffix: str
) -> None:
    monkeypatch.setattr(sitk, "ImageFileReader", lambda: pytest.fail("ITK was asked"))
    path = tmp_path / f"a{suffix}"
    path.write_text(HEADERS["a.mhd"].replace("NDims = 3", line).format("LOCAL"))
    with pytest.raises(TonnoError, match=r"its header has NDims '.*', expected 3: repair it$"):
        read_header(path)


def test_a_file_under_metaimages_name_that_is_of_no_known_kind_never_reaches_itk(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    path.write_text("DimSize = 7 6 5\nElementType = MET_FLOAT\nElementDataFile = LOCAL\n")
    assert "in another format" in str(odd_dimensions(path))
