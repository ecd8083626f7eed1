"""Images: what is written is read back, and whatever a header claims, an image comes out or one line."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import tonno_core as tonno
from tests.fuzz.strategies import attempt, cases, damaged
from tonno_core.settings import ReconstructionSettings
from tonno_core.slicing.roi import read_region
from tonno_core.volume.exchange import from_xyz, to_xyz
from tonno_core.volume.io import read_header, read_mask, read_volume, write_volume
from tonno_core.volume.orientation import coincide
from tonno_core.volume.volume import Volume

SHAPES = st.tuples(*[st.integers(2, 6)] * 3)
SPACINGS = st.tuples(*[st.floats(0.01, 50)] * 3)


@st.composite
def rotations(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Any orientation, left-handed ones too."""
    q = np.array(draw(st.tuples(*[st.floats(-1, 1)] * 4)))
    assume(np.linalg.norm(q) > 0.1)
    a, b, c, d = q / np.linalg.norm(q)
    axes = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    return axes * draw(st.sampled_from([(1, 1, 1), (1, 1, -1), (-1, 1, 1)]))


@st.composite
def affines(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """From voxels to RAS mm, at a sane place."""
    matrix = np.eye(4)
    matrix[:3, :3] = draw(rotations()) * draw(SPACINGS)
    matrix[:3, 3] = draw(st.tuples(*[st.floats(-1000, 1000)] * 3))
    return matrix


@st.composite
def any_affines(draw: st.DrawFn) -> npt.NDArray[np.float64]:
    """Sane, sheared, singular, of absurd spacing, or of no numbers."""
    matrix = draw(affines())
    if draw(st.booleans()):
        place = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        matrix[place] = draw(st.floats() | st.sampled_from([0.0, 1e-300, 1e300, -1.0]))
    return matrix


def voxels(dtype: str = "float32") -> st.SearchStrategy[npt.NDArray[Any]]:
    if dtype == "float32":
        return arrays.arrays(dtype, SHAPES, elements=st.floats(-1e6, 1e6, width=32))
    return arrays.arrays(dtype, SHAPES)


@cases(50)
@given(voxels(), affines(), st.sampled_from([".nii", ".nii.gz", ".nrrd"]))
def test_a_volume_comes_back_on_its_grid(
    folder: Path, array: npt.NDArray[np.float32], ijk_to_ras: npt.NDArray[np.float64], suffix: str
) -> None:
    assume(array.min() < array.max())
    path = folder / f"written{suffix}"
    attempt(lambda: write_volume(Volume(array, ijk_to_ras), path))
    found = attempt(lambda: read_volume(path))
    path.unlink(missing_ok=True)
    if found is not None:
        assert np.array_equal(found.array, array)
        assert coincide(ijk_to_ras, found.ijk_to_ras, found.size_ijk)


@cases(20)
@given(st.sampled_from(["uint8", "int8", "int16", "uint16", "int32", "float64", "bool"]).flatmap(voxels), any_affines())
def test_any_array_and_affine_from_elsewhere(
    folder: Path, array: npt.NDArray[Any], affine: npt.NDArray[np.float64]
) -> None:
    volume = attempt(lambda: from_xyz(array, affine))
    if volume is None:
        return
    back, matrix = to_xyz(volume)
    assert np.array_equal(back, array.astype(np.float32)) and np.array_equal(matrix, affine)
    attempt(lambda: write_volume(volume, folder / "elsewhere.nii.gz"))
    assert not list(folder.glob(".*"))


@cases(20)
@given(voxels(), any_affines(), st.integers(2, 12), st.integers(1, 6), st.booleans())
def test_any_volume_is_reconstructed_or_refused(
    array: npt.NDArray[np.float32], affine: npt.NDArray[np.float64], slices: int, directions: int, cube: bool
) -> None:
    settings = ReconstructionSettings(
        methods=("tonno",),
        slices=slices,
        directions=directions,
        slice_size=8,
        frame="normalized" if cube else "physical",
    )
    volume = attempt(lambda: from_xyz(array, affine))
    result = volume and attempt(lambda: tonno.reconstruct(volume, "pixel-sum", settings=settings, device="cpu"))
    if result:
        assert np.isfinite(result.heatmaps["tonno"].array).all()


def both(path: Path) -> None:
    """Header and voxels are read or refused; a mask too."""
    header = attempt(lambda: read_header(path))
    volume = attempt(lambda: read_volume(path, replace_nonfinite=True))
    attempt(lambda: read_mask(path))
    if volume is not None:
        assert header is not None and header.size_ijk == volume.size_ijk
        assert np.isfinite(volume.array).all()


@pytest.fixture(scope="module")
def image() -> sitk.Image:
    made = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(np.int16))
    made.SetSpacing((1.0, 2.0, 3.0))
    return made


@cases(70)
@given(st.data())
def test_damaged_nifti(folder: Path, image: sitk.Image, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from([sitk.sitkInt16, sitk.sitkFloat32, sitk.sitkFloat64]))
    sitk.WriteImage(sitk.Cast(image, kind), str(folder / "right.nii"))
    content = data.draw(damaged((folder / "right.nii").read_bytes(), 352))
    packed = data.draw(st.booleans())
    path = folder / f"damaged.nii{'.gz' * packed}"
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    both(path)
    path.unlink()


FIELDS = {
    ".nrrd": [
        "type: int16", "dimension: 3", "sizes: 5 4 3", "encoding: raw", "endian: little",
        "space: left-posterior-superior",
        "space directions: (1,0,0) (0,2,0) (0,0,3)", "kinds: domain domain domain", "space origin: (0,0,0)",
        "line skip: 0", "byte skip: 0",
    ],
    ".mha": [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False",
        "CompressedData = False",
        "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 0 0 0", "ElementSpacing = 1 2 3", "DimSize = 5 4 3",
        "HeaderSize = 0", "ElementNumberOfChannels = 1", "ElementType = MET_SHORT",
    ],
}  # fmt: skip
ODD = st.sampled_from(
    ["", "0", "-1", "1e400", "nan", "inf", "99999999999999999999", "1048576", "1099511627776 1 1", "65536 65536 65536",
     "1048576 1048576 1048576", "gzip", "bz2", "hex", "ascii", "double", "block", "x", "LIST",
     "(1,0,0) (1,0,0) (0,0,3)", "none",
     "(nan,0,0)", "%d.raw 0 99999999999 1", "../../../../etc/passwd", "MET_LONG_LONG", "True", "4"]
)  # fmt: skip


@cases(70)
@given(st.data(), st.sampled_from([".nrrd", ".nhdr", ".mha", ".mhd"]))
def test_damaged_text_headers(folder: Path, data: st.DataObject, suffix: str) -> None:
    meta = suffix.startswith(".m")
    sign = " = " if meta else ": "
    lines = [*FIELDS[".mha" if meta else ".nrrd"]]
    if suffix in (".nhdr", ".mhd"):
        lines += ["ElementDataFile = voxels.raw" if meta else "data file: voxels.raw"]
    for place in data.draw(st.lists(st.integers(0, len(lines) - 1), min_size=1, max_size=3)):
        name = lines[place].split(sign)[0]
        value = data.draw(ODD | st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12))
        lines[place] = data.draw(st.sampled_from(["", f"{name}{sign}{value}", f"{name}{sign}{value}", name]))
    if suffix == ".mha":
        lines += ["ElementDataFile = LOCAL"]
    text = "\n".join([*([] if meta else ["NRRD0005"]), *lines, *([] if meta else [""]), ""])
    pixels = np.arange(60, dtype="<i2").tobytes()
    (folder / "voxels.raw").write_bytes(pixels)
    path = folder / f"damaged{suffix}"
    path.write_bytes(text.encode() + (pixels if suffix in (".nrrd", ".mha") else b""))
    both(path)
    path.unlink()


@pytest.fixture(scope="module")
def series(folder: Path) -> Path:
    """A right series of three slices."""
    from tests.volume.test_dicom import write_slice

    place = folder / "series"
    place.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 100, (4, 5)).astype(np.float64)
        write_slice(place / f"{k}.dcm", pixels, (0, 0, 2.0 * k))
    return place


ELEMENTS = [
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
    "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept",
    "PhotometricInterpretation", "InstanceNumber", "SOPInstanceUID", "SeriesInstanceUID", "SOPClassUID", "PatientName",
    "SpecificCharacterSet", "EchoTime", "NumberOfSlices", "PixelData",
]  # fmt: skip


@cases(40)
@given(st.data())
def test_damaged_dicom(folder: Path, series: Path, data: st.DataObject) -> None:
    place = folder / "damaged"
    shutil.copytree(series, place)
    try:
        victim = place / "1.dcm"
        if data.draw(st.booleans()):
            victim.write_bytes(data.draw(damaged(victim.read_bytes())))
        else:
            content = victim.read_bytes()
            tag = pydicom.tag.Tag(data.draw(st.sampled_from(ELEMENTS)))
            at = content.find(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"))
            value = data.draw(st.binary(min_size=1, max_size=12))
            edited = bytearray(content)
            start = at + data.draw(st.sampled_from([4, 6, 8, 8, 8, 12]))
            edited[start : start + len(value)] = value
            victim.write_bytes(edited if at >= 0 else content)
        both(place)
    finally:
        shutil.rmtree(place)


@cases(20)
@given(st.text(st.sampled_from("-+.,:e0123456789 nainf"), max_size=30) | st.text(max_size=20))
def test_a_region_is_understood_or_refused(text: str) -> None:
    attempt(lambda: read_region(text))
