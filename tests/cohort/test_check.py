"""`tonno check`: what a cohort holds, and each thing that is wrong with it, once and on its line."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from tonno_core.cohort.check import CohortCheck, Problem, as_trained, check_cohort, outlying, report
from tonno_core.cohort.manifest import read_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.errors import TonnoError
from tonno_core.volume.header import same_grid
from tonno_core.volume.io import read_header
from tonno_core.volume.volume import Volume

SHAPE = (6, 7, 8)  # Z Y X


def scan(path: Path, seed: int = 0, *, shape: Sequence[int] = SHAPE, diagonal: Sequence[float] = (1, 1, 2)) -> Path:
    """A float32 NIfTI of noise, axes along the patient's."""
    array = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([*diagonal, 1.0])), path)
    return path


def mask(path: Path, *values: int, diagonal: Sequence[float] = (1, 1, 2)) -> Path:
    """A uint8 NIfTI on the grid of `scan`, with two voxels of each value."""
    array = np.zeros(SHAPE, np.uint8)
    array.flat[: 2 * len(values)] = np.repeat(values, 2)
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([*diagonal, 1.0])), path)
    return path


def scans(folder: Path, count: int) -> None:
    """Volumes 0.nii, 1.nii, ... of one grid."""
    for index in range(count):
        scan(folder / f"{index}.nii", index)


def checked(folder: Path, *lines: str, header: str = "volume,label") -> CohortCheck:
    (folder / "list.csv").write_text("\n".join([header, *lines]) + "\n")
    return check_cohort(read_manifest(folder / "list.csv"), progress=False)


def problems(check: CohortCheck) -> list[tuple[int, str]]:
    """Lines and texts, the texts of errors with a "!" before them, but for what is said of every list so short."""
    return [(problem.line, ("!" if problem.stops else "") + problem.text) for problem in long_enough(check)]


def long_enough(check: CohortCheck) -> list[Problem]:
    """The problems that a longer list would have too."""
    return [
        problem for problem in check.problems
        if "too few to choose" not in problem.text and "that training will make" not in problem.text
    ]  # fmt: skip


# -------------------- what is usual


def test_a_sound_cohort_is_counted_and_measured(tmp_path: Path) -> None:
    scans(tmp_path, 4)
    scan(tmp_path / "4.nii", 4, shape=(6, 7, 9), diagonal=(1.1, 1, 2))
    lines = ["0.nii,1,P0,train", "1.nii,1,P0,train", "2.nii,0,P1,train", "3.nii,1,P2,val", "4.nii,0,P3,val"]
    check = checked(tmp_path, *lines, header="volume,label,patient,split")
    assert check.usable
    assert problems(check) == []
    text = report(check)
    assert re.search(r"train +finding +3 +2 +1 +2 +1\n", text)
    assert re.search(r"val +finding +2 +1 +1 +2 +1\n", text)
    assert re.search(r"spacing in mm +1 x 1 x 2 +1 x 1 x 2 +1\.1 x 1 x 2\n", text)
    assert re.search(r"size in voxels +8 x 7 x 6 +8 x 7 x 6 +9 x 7 x 6\n", text)
    assert re.search(r"extent in mm +8 x 7 x 12 +8 x 7 x 12 +9\.9 x 7 x 12\n", text)
    assert "orientation: RAS (5)\nvoxel type: 32-bit float (5)\n" in text
    assert text.endswith("\n\nusable: 0 errors, 1 warning")


def test_no_voxel_is_decoded(tmp_path: Path) -> None:
    scans(tmp_path, 2)
    for name in ("0.nii", "1.nii"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:352] + bytes([int(name[0])]))  # the header and one byte
    assert problems(checked(tmp_path, "0.nii,0", "1.nii,1")) == []


def test_volumes_of_other_orientation_are_measured_along_the_same_axes(tmp_path: Path) -> None:
    scans(tmp_path, 4)
    image = nibabel.load(scan(tmp_path / "4.nii", 4))
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt("SLA"))
    nibabel.save(turned, tmp_path / "4.nii")
    check = checked(tmp_path, *(f"{index}.nii,{index % 2}" for index in range(5)))
    # as_reoriented's letters say where its input's axes go: the test takes nibabel's word for the result.
    code = "".join(nibabel.aff2axcodes(turned.affine))
    assert problems(check) == [(6, f"orientation is {code}, mostly RAS")]
    assert re.search(r"size in voxels +8 x 7 x 6 +8 x 7 x 6 +8 x 7 x 6\n", report(check))


# -------------------- what is not


def test_doubtful_orientation_is_a_warning_and_nibabels_mask_fits(tmp_path: Path) -> None:
    scans(tmp_path, 2)
    image = nibabel.load(tmp_path / "1.nii")
    moved = image.affine.copy()
    moved[:3, 3] += 10, 5, 3
    twofold = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), None, image.header)
    twofold.set_qform(image.affine, 1)
    twofold.set_sform(moved, 2)
    nibabel.save(twofold, tmp_path / "2.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones(image.shape, np.uint8), moved), tmp_path / "mask.nii")
    check = checked(tmp_path, "0.nii,0,", "2.nii,1,mask.nii", header="volume,label,mask")
    assert check.usable
    ((line, text),) = problems(check)
    assert line == 3
    assert text.startswith("volume: the file's qform and sform place a corner 11.6 mm apart")


def test_what_training_could_not_read_is_an_error(tmp_path: Path) -> None:
    scans(tmp_path, 2)
    (tmp_path / "bad.nii").write_bytes(b"not an image")
    sitk.WriteImage(sitk.Image([4, 4, 4, 20], sitk.sitkFloat32), str(tmp_path / "4d.nii"))
    sitk.WriteImage(sitk.Image([4, 4, 4], sitk.sitkVectorUInt8, 20), str(tmp_path / "colour.nii"))
    (tmp_path / "empty").mkdir()
    check = checked(tmp_path, "bad.nii,0", "0.nii,0", "4d.nii,0", "1.nii,1", "colour.nii,1", "empty,1")
    texts = dict(problems(check))
    assert list(texts) == [2, 4, 6, 7]
    assert texts[2].startswith("!volume: cannot be read; it is truncated, damaged or in another format")
    assert texts[4].startswith(
        "!volume: a 4D image of 4 x 4 x 4 x 20 voxels; expected 3D, or up to 16 channels along a"
    )
    assert texts[6].startswith(
        "!volume: 20 values per voxel (color or vector image); expected at most 16: extract a few"
    )
    assert texts[7].startswith("!volume: no DICOM image in this folder")
    assert not check.usable
    assert f"{tmp_path / 'list.csv'}, line 4: error: volume: a 4D image" in report(check)
    assert report(check).endswith("not usable for training: 4 errors, 1 warning")


def test_nothing_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.nii").touch()
    check = checked(tmp_path, "a.nii,0")
    assert [line for line, _ in problems(check)] == [0, 2]
    assert report(check).endswith("not usable for training: 2 errors, 0 warnings")


def test_all_volumes_that_are_missing_are_listed(tmp_path: Path) -> None:
    scans(tmp_path, 3)
    lines = ("0.nii,0", "x/gone.nii,1", "1.nii,1", "2.NII,0")
    (tmp_path / "list.csv").write_text("\n".join(["volume,label", *lines, ""]))
    check = check_cohort(read_manifest(tmp_path / "list.csv", absent=True), progress=False)
    assert [text for text in problems(check) if text[1].startswith("!")] == [
        (3, "!volume 'x/gone.nii' does not exist (paths are relative to the manifest)"),
        (5, "!volume '2.NII' does not exist (did you mean '2.nii'?)"),
    ]
    # Training begins with all volumes or not at all; it lists them too.
    with pytest.raises(TonnoError, match=r"2 of 4 volumes are missing: line 3: .*'x/gone\.nii'.*; line 5: .*'2\.NII'"):
        read_manifest(tmp_path / "list.csv")


def test_missing_classes(tmp_path: Path) -> None:
    scans(tmp_path, 3)
    header = "volume,label:x,label:y,split"
    check = checked(tmp_path, "0.nii,1,0,train", "1.nii,0,0,train", "2.nii,1,1,val", header=header)
    assert problems(check) == [
        (0, "!no volume in split train has label 1 of class 'y', all 2 have 0; training needs both: move one to train"),
        (0, "no volume in split val has label 0 of class 'x': no threshold can be calibrated"),
        (0, "no volume in split val has label 0 of class 'y': no threshold can be calibrated"),
    ]
    assert f"{tmp_path / 'list.csv'}: error: no volume in split train" in report(check)
    check = checked(tmp_path, "0.nii,1,train", "1.nii,0,train", "2.nii,0,val", header="volume,label,split")
    assert check.usable
    assert problems(check) == [(0, "no volume in split val has label 1 of class 'finding': no settings can be chosen")]


@pytest.mark.parametrize(
    ("made", "texts"),
    [
        (
            {"diagonal": (1, 1, 5)},
            [
                "spacing in mm is 1 x 1 x 5 along R x A x S, the median 1 x 1 x 2",
                "extent in mm is 8 x 7 x 30 along R x A x S, the median 8 x 7 x 12",
            ],
        ),
        ({"shape": (6, 7, 2), "diagonal": (4, 1, 2)}, [
            "spacing in mm is 4 x 1 x 2 along R x A x S, the median 1 x 1 x 2",
            "size in voxels is 2 x 7 x 6 along R x A x S, the median 8 x 7 x 6",
        ]),
        ({"diagonal": (-1, -1, 2)}, ["orientation is LPS, mostly RAS"]),
    ],
)  # fmt: skip
def test_geometry_unlike_the_rest(made: dict[str, Sequence[float]], texts: list[str], tmp_path: Path) -> None:
    scans(tmp_path, 4)
    scan(tmp_path / "x.nii", 9, **made)  # type: ignore[arg-type]
    check = checked(tmp_path, "0.nii,0", "1.nii,1", "x.nii,0", "2.nii,1", "3.nii,1")
    assert problems(check) == [(4, text) for text in texts]
    assert check.usable


def test_voxels_of_another_type(tmp_path: Path) -> None:
    scans(tmp_path, 3)
    image = sitk.ReadImage(str(tmp_path / "2.nii"))
    sitk.WriteImage(sitk.Cast(image, sitk.sitkInt16), str(tmp_path / "2.nii"))
    check = checked(tmp_path, "0.nii,0", "1.nii,1", "2.nii,0")
    assert problems(check) == [(4, "voxel type is 16-bit signed integer, mostly 32-bit float")]
    assert "voxel type: 32-bit float (2), 16-bit signed integer (1)\n" in report(check)


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ([1, 1, 1, 2], [3]),
        ([1, 1, 1, 0.5], [3]),
        ([1, 1, 1, 1.26], [3]),  # the others are all alike
        ([1, 1, 1, 1.24], []),
        ([0.8, 0.9, 1, 1.1, 1.2, 1.6], []),  # s of the logarithms is about 0.2
        ([0.98, 0.99, 1, 1.01, 1.02, 1.4], [5]),  # s is about 0.02
        ([0.9, 0.95, 1, 1 / 0.95, 1.44], []),  # s is 1.4826 log(1 / 0.95), and exp(5 s) is 1.463
        ([0.9, 0.95, 1, 1 / 0.95, 1.48], [4]),
        ([0.6, 0.8, 1, 1.25, 1.9999999], [4]),  # twice the median, however wide the others are spread
        ([0.6, 0.8, 1, 1.25, 1.99], []),
        ([3, 3.0000001], []),
        ([5], []),
        ([], []),
    ],
)
def test_what_is_far_from_the_median(values: list[float], far: list[int]) -> None:
    outliers = outlying(np.array(values, dtype=np.float64).reshape(-1, 1))
    assert np.flatnonzero(outliers).tolist() == far
    # The same at any scale and for the inverse, since only ratios count.
    np.testing.assert_array_equal(outlying(7 / np.array(values, dtype=np.float64).reshape(-1, 1)), outliers)


# -------------------- masks


def test_masks_must_be_readable_and_on_the_grid_of_their_volume(tmp_path: Path) -> None:
    scans(tmp_path, 4)
    mask(tmp_path / "right.nii", 1)
    mask(tmp_path / "other.nii", 1, diagonal=(1, 1, 2.2))
    lines = ["0.nii,1,right.nii", "1.nii,1,other.nii", "2.nii,0,absent.nii", "3.nii,0,"]
    check = checked(tmp_path, *lines, header="volume,label,mask")
    assert problems(check) == [
        (
            3,
            "mask: on another grid, 8 x 7 x 6 voxels of 1 x 1 x 2.2 mm RAS from (0, 0, 0), "
            "than its volume, 8 x 7 x 6 voxels of 1 x 1 x 2 mm RAS from (0, 0, 0); take this scan's, or resample it",
        ),
        (4, "mask: no such file or folder; check the path"),
    ]
    assert check.usable  # training opens no mask
    check = checked(tmp_path, "0.nii,1,0,absent.nii", "1.nii,0,1,", header="volume,label:x,label:y,mask:x")
    assert problems(check) == [(2, "mask of x: no such file or folder; check the path")]


def test_values_of_masks_are_looked_at(tmp_path: Path) -> None:
    scans(tmp_path, 6)
    for name, values in {"1": (1,), "2": (2,), "12": (1, 2), "none": ()}.items():
        mask(tmp_path / f"{name}.nii.gz", *values)
    lines = ["0.nii,1,1.nii.gz", "1.nii,1,12.nii.gz", "2.nii,0,none.nii.gz", "3.nii,0,1.nii.gz", "4.nii,1,none.nii.gz"]
    check = checked(tmp_path, *lines, "5.nii,1,2.nii.gz", header="volume,label,mask")
    assert problems(check) == [
        (
            3,
            "mask: holds the values 1 (2 voxels), 2 (2 voxels); which mean the finding? In the manifest, write FILE#2 "
            "for 2 alone, FILE#1+2 for both, FILE#any for all that are not 0, or the same in a column mask_label",
        ),
        (5, "mask: label is 0, but it holds values 1"),
        (6, "mask: label is 1, but it holds nothing"),
        (7, "mask: holds 2, mostly 1; if both mean the finding, write FILE#any in all lines"),
    ]
    lines = ["0.nii,1,12.nii.gz", "1.nii,1,2.nii.gz", "2.nii,0,1.nii.gz", "3.nii,1,1.nii.gz"]
    check = checked(tmp_path, *(f"{line}#2" for line in lines), header="volume,label,mask")
    assert problems(check) == [(5, "mask: label is 1, but it holds values 1, and 2 means the finding")]
    assert problems(checked(tmp_path, *(f"{line},any" for line in lines), header="volume,label,mask,mask_label")) == [
        (4, "mask: label is 0, but it holds values 1")
    ]


def test_how_the_file_was_understood_is_said(tmp_path: Path) -> None:
    scans(tmp_path, 2)
    check = checked(tmp_path, "0.nii,1,P01", "1.nii,0,p1", header="volume,label,patient")
    text = "patients 'P01' (line 2) and 'p1' (line 3) differ in spelling alone: spell a person one way, or rename one "
    assert problems(check) == [(0, f"{text}of two")]


def test_grids_are_the_same_up_to_a_tenth_of_a_voxel(tmp_path: Path) -> None:
    base = read_header(scan(tmp_path / "a.nii"))

    def moved(mm: float, spacing: float = 1.0) -> npt.NDArray[np.float64]:
        matrix = np.diag([spacing, 1.0, 2.0, 1.0])
        matrix[0, 3] = mm
        return matrix

    def with_grid(matrix: npt.NDArray[np.float64]) -> bool:
        return same_grid(base, type(base)(base.size_ijk, matrix, "8-bit unsigned integer"))

    assert with_grid(moved(0.09))
    assert not with_grid(moved(0.11))
    assert with_grid(moved(0, 1.014))  # 7 steps of 0.014 mm
    assert not with_grid(moved(0, 1.02))
    assert not same_grid(base, type(base)((8, 7, 5), base.ijk_to_ras, base.voxels))


# -------------------- headers


def test_headers_agree_with_nibabel(tmp_path: Path) -> None:
    rotation = Rotation.from_euler("xyz", (20, -15, 30), degrees=True).as_matrix()
    for axes in (rotation * [0.7, 1.3, 2.9], rotation[:, [1, 2, 0]] * [-0.7, 1.3, -2.9], np.diag([-1.0, -1, 1])):
        affine = np.eye(4)
        affine[:3, :3], affine[:3, 3] = axes, (1, 2, 3)
        nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE[::-1], np.uint8), affine), tmp_path / "a.nii.gz")
        header = read_header(tmp_path / "a.nii.gz")
        assert header.size_ijk == SHAPE[::-1]
        # NIfTI keeps the affine in float32, through a quaternion.
        np.testing.assert_allclose(header.ijk_to_ras, affine, rtol=0, atol=1e-5)
        np.testing.assert_allclose(header.spacing_mm, Volume(np.zeros(SHAPE, np.float32), affine).spacing_mm, atol=1e-5)
        assert header.orientation == "".join(nibabel.aff2axcodes(affine))
        assert header.voxels == "8-bit unsigned integer"


def test_a_mask_of_another_patient_or_an_image_in_its_place_is_named(tmp_path: Path) -> None:
    scans(tmp_path, 6)
    mask(tmp_path / "m.nii", 1)
    mask(tmp_path / "none.nii")
    lines = ["0.nii,1,P,m.nii", "1.nii,1,P,m.nii", "2.nii,1,Q,m.nii", "3.nii,0,R,none.nii", "4.nii,1,S,0.nii"]
    lines.append("5.nii,0,T,none.nii")
    check = checked(tmp_path, *(f"{line},any" for line in lines), header="volume,label,patient,mask,mask_label")
    assert problems(check) == [  # two scans of one patient may have one, all scans without the finding an empty one
        (4, "mask: is also that of line 2, of another patient"),
        (6, "mask: 336 voxels are no whole numbers, such as 0.12573; expected a mask"),
        (6, "mask: is the volume of line 2; expected a mask"),
    ]


# -------------------- duplicates


def test_identical_files_are_named_with_what_differs(tmp_path: Path) -> None:
    scans(tmp_path, 4)
    for index in (4, 5, 6):
        shutil.copy(tmp_path / "0.nii", tmp_path / f"{index}.nii")
    lines = ["0.nii,1,P,train", "1.nii,0,Q,train", "2.nii,0,S,val", "3.nii,1,T,val"]
    lines += ["4.nii,1,P,train", "5.nii,0,P,train", "6.nii,1,R,val"]
    check = checked(tmp_path, *lines, header="volume,label,patient,split")
    assert problems(check) == [
        (6, "the same bytes as the volume of line 2"),
        (7, "the same bytes as the volume of line 2, with other labels"),
        (8, "the same bytes as the volume of line 2, which is in split train and this in val, of another patient"),
    ]
    assert check.usable


def test_files_that_differ_in_one_byte_are_no_duplicates(tmp_path: Path) -> None:
    content = bytearray(scan(tmp_path / "0.nii", shape=(40, 40, 40)).read_bytes())  # far longer than the middle part
    (tmp_path / "1.nii").write_bytes(content)
    assert len(problems(checked(tmp_path, "0.nii,0", "1.nii,1"))) == 1
    for position in (400, len(content) // 2, len(content) - 1):
        content[position] ^= 1
        (tmp_path / "1.nii").write_bytes(content)
        content[position] ^= 1
        assert problems(checked(tmp_path, "0.nii,0", "1.nii,1")) == []


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_detached_headers_are_compared_by_their_data(tmp_path: Path, suffix: str) -> None:
    for index, seed in enumerate((0, 1, 0)):
        (tmp_path / f"p{index}").mkdir()
        image = sitk.ReadImage(str(scan(tmp_path / "a.nii", seed)))
        sitk.WriteImage(image, str(tmp_path / f"p{index}" / f"a{suffix}"))
    lines = [f"p{index}/a{suffix},{index % 2}" for index in range(3)]
    assert (tmp_path / "p0" / f"a{suffix}").read_bytes() == (tmp_path / "p1" / f"a{suffix}").read_bytes()
    check = checked(tmp_path, *lines)
    assert problems(check) == [(4, "the same bytes as the volume of line 2, of another patient")]


def test_series_are_compared_whatever_their_files_are_called(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, slices in (("a", ["1", "2"]), ("b", ["y", "x"]), ("c", ["1", "2"])):
        (tmp_path / name).mkdir()
        if name == "b":
            for old, new in zip(("1", "2"), slices, strict=True):
                shutil.copy(tmp_path / "a" / old, tmp_path / "b" / new)
            continue
        for k, slice_name in enumerate(slices):
            image = sitk.GetImageFromArray(rng.integers(0, 1000, (6, 7)).astype(np.int16))
            for tag, value in (("0020|000e", "1.2"), ("0020|0032", f"0\\0\\{k}"), ("0020|0037", "1\\0\\0\\0\\1\\0")):
                image.SetMetaData(tag, value)
            writer = sitk.ImageFileWriter()
            writer.SetImageIO("GDCMImageIO")
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(tmp_path / name / slice_name))
            writer.Execute(image)
    check = checked(tmp_path, "a,1", "b,0", "c,0")
    assert problems(check) == [(3, "the same bytes as the volume of line 2, with other labels, of another patient")]
    assert "orientation: LPS (3)" in report(check)


# -------------------- the split


def test_the_split_that_training_will_make_is_shown_and_what_it_is_too_small_for(tmp_path: Path) -> None:
    scans(tmp_path, 12)
    check = checked(tmp_path, *[f"{index}.nii,{index % 2}" for index in range(12)])
    text = report(check)
    divided = split_patients(check.manifest, seed=0)
    assert as_trained(check.manifest) == divided
    for split in ("train", "val", "test"):
        labels = [case.labels[0] for case in divided.split(split)]
        assert re.search(rf"{split} +finding +{len(labels)} +{sum(labels)} +{len(labels) - sum(labels)} ", text)
    assert "training makes this one" in text
    (found,) = [each.text for each in check.problems if "too few to choose" in each.text]
    counts = [sum(case.labels[0] == label for case in divided.split("val")) for label in (1, 0)]
    assert counts == [1, 1] and "1 volume with and 1 without" in found
    lines = [f"{index}.nii,{index % 2},val" for index in range(10)] + ["10.nii,0,train", "11.nii,1,train"]
    assert not checked(tmp_path, *lines, header="volume,label,split").problems  # five of each
