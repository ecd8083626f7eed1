"""Every viewer lays a result over its scan, whichever of the header's forms it believes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk

from tonno_core.volume.header import same_grid
from tonno_core.volume.io import read_header, read_mask, read_volume, write_volume

ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3  # 60 degrees around (1, 1, 1)
# Header in float32: 6e-8 of 100 mm, through a quaternion.
ROUNDING_MM = 2e-5

Matrix = npt.NDArray[np.float64]


def affine(axes: npt.ArrayLike, origin: tuple[float, float, float] = (-12.3, 45.6, 78.9)) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = axes, origin
    return matrix


QFORM = affine(np.diag([1.0, 2, 3]))
MOVED = affine(np.diag([1.0, 2, 3]), (-2.3, 50.6, 81.9))  # by 10, 5 and 3 mm: 11.6 mm
MIRRORED = affine(np.diag([-1.0, 2, 3]), (-6.3, 45.6, 78.9))
SHEARED = QFORM @ affine([[1, np.tan(np.radians(0.01)), 0], [0, 1, 0], [0, 0, 1]], (0, 0, 0))
OBLIQUE = affine(ROTATION * [-1, 2, 3])
SCANS = {
    "moved": (QFORM, 1, MOVED, 2),
    "mirrored": (QFORM, 1, MIRRORED, 2),
    "sform of scanner": (QFORM, 2, MOVED, 1),
    "sform sheared": (QFORM, 1, SHEARED, 1),
    "oblique and left-handed": (OBLIQUE, 2, OBLIQUE, 4),
    "sform alone": (QFORM, 0, OBLIQUE, 4),
    "qform alone": (OBLIQUE, 3, QFORM, 0),
    "nothing": (QFORM, 0, MOVED, 0),
}
scans = pytest.mark.parametrize("name", SCANS)


def scan(path: Path, name: str, *, big_endian: bool = False, units: str = "mm") -> Path:
    qform, qcode, sform, scode = SCANS[name]
    array = np.random.default_rng(0).normal(size=(7, 6, 5)).astype(np.float32)
    image = nibabel.Nifti1Image(array, None, nibabel.Nifti1Header(endianness=">" if big_endian else "<"))
    image.header.set_zooms((1, 2, 3))
    image.header.set_qform(qform, 1)
    image.header.set_sform(sform, 1)
    image.header["qform_code"], image.header["sform_code"] = qcode, scode
    image.header.set_xyzt_units(units, "sec")
    # nibabel.save would choose the codes itself.
    with path.open("wb") as stream:
        image.header["magic"], image.header["vox_offset"] = b"n+1", 352
        stream.write(image.header.binaryblock + bytes(4) + array.astype(image.get_data_dtype()).tobytes("F"))
    return path


def by_itk(path: Path) -> list[float]:
    image = sitk.ReadImage(str(path))
    return [*image.GetDirection(), *image.GetSpacing(), *image.GetOrigin()]


def by_vtk(path: Path) -> list[Matrix | None]:
    """Return what VTK's reader gives, none of whose code is shared with ITK or nibabel."""
    reader = pytest.importorskip("vtkmodules.vtkIOImage", reason="vtk is not installed").vtkNIFTIImageReader()
    reader.SetFileName(str(path))
    reader.Update()
    matrices = (reader.GetQFormMatrix(), reader.GetSFormMatrix())
    return [m and np.array([[m.GetElement(i, j) for j in range(4)] for i in range(4)]) for m in matrices]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@scans
def test_results_carry_the_forms_of_the_scan(tmp_path: Path, name: str, suffix: str) -> None:
    volume = read_volume(scan(tmp_path / "scan.nii", name))
    mask = volume.with_array(volume.array > 0)
    write_volume(volume.with_array(volume.array * 2), tmp_path / f"map{suffix}")
    write_volume(mask, tmp_path / f"mask{suffix}", dtype="uint8")
    theirs = nibabel.load(tmp_path / "scan.nii")
    for file in (tmp_path / f"map{suffix}", tmp_path / f"mask{suffix}"):
        ours = nibabel.load(file)
        for field in ("qform_code", "sform_code"):
            assert ours.header[field] == theirs.header[field]
        np.testing.assert_array_equal(ours.affine, theirs.affine)
        np.testing.assert_array_equal(ours.get_qform(), theirs.get_qform())
        np.testing.assert_array_equal(ours.get_sform(), theirs.get_sform())
        assert by_itk(file) == by_itk(tmp_path / "scan.nii")
        for given, expected in zip(by_vtk(file), by_vtk(tmp_path / "scan.nii"), strict=True):
            assert (given is None) == (expected is None)
            assert given is None or np.array_equal(given, expected)
    assert np.array_equal(nibabel.load(tmp_path / f"map{suffix}").get_fdata(dtype=np.float32).T, volume.array * 2)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"map{suffix}", f"mask{suffix}", "scan.nii"]


@pytest.mark.parametrize(("big_endian", "units"), [(True, "mm"), (False, "meter"), (False, "micron")])
def test_forms_in_other_bytes_and_units(tmp_path: Path, big_endian: bool, units: str) -> None:
    path = scan(tmp_path / "scan.nii", "moved", big_endian=big_endian, units=units)
    if units != "mm":  # spacings that are sane in millimetres
        factor = {"meter": 1e-3, "micron": 1e3}[units]
        image = nibabel.load(path)
        scaled = np.diag([factor, factor, factor, 1.0])
        image.header.set_zooms(np.array([1, 2, 3]) * factor)
        content = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header)
        content.set_qform(scaled @ QFORM, 1)
        content.set_sform(scaled @ MOVED, 2)
        path = tmp_path / "scaled.nii"  # nibabel still maps the other one
        nibabel.save(content, path)
    volume = read_volume(path)
    write_volume(volume, tmp_path / "map.nii.gz")
    assert by_itk(tmp_path / "map.nii.gz") == by_itk(path)
    np.testing.assert_array_equal(nibabel.load(tmp_path / "map.nii.gz").affine, nibabel.load(path).affine)
    assert "a corner 11.6 mm apart" in volume.concerns[0]


def test_another_grid_gets_forms_of_its_own(tmp_path: Path) -> None:
    volume = read_volume(scan(tmp_path / "scan.nii", "moved"))
    write_volume(replace(volume, ijk_to_ras=OBLIQUE), tmp_path / "map.nii")
    ours = nibabel.load(tmp_path / "map.nii")
    np.testing.assert_allclose(ours.get_qform(), OBLIQUE, rtol=0, atol=ROUNDING_MM)
    np.testing.assert_allclose(ours.get_sform(), OBLIQUE, rtol=0, atol=ROUNDING_MM)


@scans
def test_what_is_doubtful_is_said_once(tmp_path: Path, name: str) -> None:
    path = scan(tmp_path / "scan.nii", name)
    expected = {
        "moved": "a corner 11.6 mm apart: here the qform counts",
        "mirrored": "a corner 6 mm apart: here the qform counts",
        "sform of scanner": "a corner 11.6 mm apart: here the sform counts",
        "nothing": "states no orientation",
    }.get(name)
    concerns = read_volume(path).concerns
    assert len(concerns) == (expected is not None)
    assert expected is None or expected in concerns[0]
    assert read_header(path).concerns == concerns


def test_other_formats_without_orientation(tmp_path: Path) -> None:
    body = np.random.default_rng(0).normal(size=(5, 6, 7)).astype("<f4").tobytes()
    nrrd = "NRRD0004\ntype: float\ndimension: 3\nsizes: 7 6 5\nencoding: raw\nendian: little\n"
    meta = "ObjectType = Image\nNDims = 3\nDimSize = 7 6 5\n"
    end = "ElementType = MET_FLOAT\nElementDataFile = LOCAL\n"
    space = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    for name, header, doubtful in (
        ("a.nrrd", f"{nrrd}spacings: 1 1 1\n\n", True),
        ("b.nrrd", f"{nrrd}{space}\n", False),
        ("a.mha", f"{meta}{end}", True),
        ("b.mha", f"{meta}TransformMatrix = 1 0 0 0 1 0 0 0 1\n{end}", False),
    ):
        (tmp_path / name).write_bytes(header.encode() + body)
        assert any("states no orientation" in text for text in read_volume(tmp_path / name).concerns) == doubtful


@scans
def test_masks_of_nibabel_and_of_itk_lie_on_the_grid_of_their_scan(tmp_path: Path, name: str) -> None:
    path = scan(tmp_path / "scan.nii", name)
    theirs = nibabel.load(path)
    mask = (theirs.get_fdata() > 0).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(mask, theirs.affine), tmp_path / "nibabel.nii.gz")
    image = sitk.ReadImage(str(path))
    sitk.WriteImage(image > 0, str(tmp_path / "itk.nii.gz"))
    sitk.WriteImage(image > 0, str(tmp_path / "itk.nrrd"))
    moved = nibabel.Nifti1Image(mask, affine(np.eye(3), (0, 0, 0.3)) @ theirs.affine @ np.diag([1, 1, 1.3, 1]))
    nibabel.save(moved, tmp_path / "other.nii.gz")
    for file, same in (("nibabel.nii.gz", True), ("itk.nii.gz", True), ("itk.nrrd", True), ("other.nii.gz", False)):
        assert same_grid(read_header(path), read_header(tmp_path / file)) == same, file
        assert same_grid(read_volume(path), read_mask(tmp_path / file)) == same, file


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e38])
def test_an_sform_of_no_numbers_leaves_the_qform(number: float, tmp_path: Path) -> None:
    path = scan(tmp_path / "a.nii", "moved")
    header = bytearray(path.read_bytes())
    header[280:284] = np.float32(number).tobytes()
    path.write_bytes(header)
    found = read_volume(path)
    np.testing.assert_allclose(found.ijk_to_ras, QFORM, atol=ROUNDING_MM)
    assert "here the qform counts" in found.concerns[0]
