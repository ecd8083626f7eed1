"""Images of many values per voxel, as three readers see them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from tests.analytic import grid_around
from tonno_core.errors import TonnoError
from tonno_core.volume.channels import check_channels, write_channels
from tonno_core.volume.itk import affine_of

SHAPE = (3, 4, 5)
PLACES = {
    "straight": grid_around((10, -20, 30), SHAPE, (2.0, 2.0, 2.0)),
    "oblique": grid_around((10, -20, 30), SHAPE, (1.0, 2.0, 3.5), turn_degrees=(12, -25, 40)),
    "left-handed": grid_around((-100, 0, 5), SHAPE, (0.7, 0.7, 5.0), turn_degrees=(3, 0, 0), left_handed=True),
}


def numbers(count: int) -> np.ndarray:
    """D Z Y X."""
    values = np.random.default_rng(0).normal(size=(count, *SHAPE)).astype(np.float32)
    values[0, 0, 0] = [0.0, -0.0, np.float32(1e-38), np.float32(3e38), -1.5]
    return values


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("count", [1, 2, 3, 300])
def test_simpleitk_and_nibabel_read_the_same_numbers_at_the_same_place(place: str, count: int, tmp_path: Path) -> None:
    path, values, ijk_to_ras = tmp_path / "features.nii.gz", numbers(count), PLACES[place]
    write_channels(path, iter(values), count, SHAPE, ijk_to_ras)
    image = nibabel.load(path)
    assert image.shape == (5, 4, 3, 1, count)
    assert image.header.get_intent()[0] == "vector"
    np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, :, 0].transpose(3, 2, 1, 0), values)
    # NIfTI keeps affines and quaternions in float32: 1e-7 of some 100 mm, a few times.
    np.testing.assert_allclose(image.affine, ijk_to_ras, atol=1e-4)
    read = sitk.ReadImage(str(path))
    assert read.GetSize() == (5, 4, 3)
    assert read.GetNumberOfComponentsPerPixel() == count
    array = sitk.GetArrayFromImage(read).reshape(*SHAPE, count)
    np.testing.assert_array_equal(array.transpose(3, 0, 1, 2), values)
    np.testing.assert_allclose(affine_of(read), ijk_to_ras, atol=1e-4)


def test_channels_are_asked_for_one_after_the_other_and_the_same_numbers_are_the_same_file(tmp_path: Path) -> None:
    alive = []

    def channels() -> Iterator[np.ndarray]:
        for number in range(5):
            made = np.full(SHAPE, number, dtype=np.float32)
            alive.append(number)
            yield made

    write_channels(tmp_path / "one.nii.gz", channels(), 5, SHAPE, PLACES["oblique"])
    assert alive == [0, 1, 2, 3, 4]
    write_channels(tmp_path / "other.nii.gz", channels(), 5, SHAPE, PLACES["oblique"])
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()
    with gzip.open(tmp_path / "one.nii.gz") as file:
        assert len(file.read()) == 352 + 5 * 60 * 4


def test_a_sum_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "features.nii.gz"
    path.write_bytes(b"before")

    def interrupted() -> Iterator[np.ndarray]:
        yield np.zeros(SHAPE, dtype=np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_channels(path, interrupted(), 2, SHAPE, PLACES["straight"])
    with pytest.raises(ValueError, match="1 channels, 2 were announced"):
        write_channels(path, iter(numbers(1)), 2, SHAPE, PLACES["straight"])
    with pytest.raises(ValueError, match=r"a channel of shape \(3, 4, 4\)"):
        write_channels(path, iter([numbers(1)[0, :, :, :4]]), 1, SHAPE, PLACES["straight"])
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["features.nii.gz"]


def test_what_itk_cannot_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise RuntimeError("ITK ERROR: nifti library failed to write image")

    monkeypatch.setattr("tonno_core.volume.channels.sitk.WriteImage", refused)
    path = tmp_path / "features.nii.gz"
    with pytest.raises(TonnoError, match=f"{path.name}: cannot be written"):
        write_channels(path, iter([np.zeros((2, 3, 4))]), 1, (2, 3, 4), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_where_itk_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitk, "WriteImage", lambda image, name, **options: Path(name).touch())
    with pytest.raises(TonnoError, match=r"features.nii.gz: cannot be written .*No space left"):
        write_channels(tmp_path / "features.nii.gz", [np.ones((3, 4, 5), np.float32)], 1, (3, 4, 5), np.eye(4))
    assert not list(tmp_path.iterdir())


def test_what_nifti_cannot_hold_is_known_before(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"features.nrrd: cannot write this format; name it .nii.gz"):
        check_channels(tmp_path / "features.nrrd", PLACES["straight"], 3)
    with pytest.raises(TonnoError, match="40000 values per voxel, NIfTI holds 32767; write fewer `components`"):
        check_channels(tmp_path / "features.nii.gz", PLACES["straight"], 40000)
    sheared = PLACES["straight"].copy()
    sheared[0, 1] = 0.5
    with pytest.raises(TonnoError, match="degrees away from perpendicular"):
        check_channels(tmp_path / "features.nii.gz", sheared, 3)
