"""What of a folder, a pattern or a DICOM tree is a volume."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tonno_core.cohort.find import find_volumes, is_cohort
from tonno_core.errors import TonnoError


def files(folder: Path, *names: str) -> Path:
    """Files that are called images; nobody reads them."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")
    return folder


def series(folder: Path, uid: str) -> Path:
    """Two slices of a DICOM series, written by ITK."""
    folder.mkdir(parents=True)
    for number in range(2):
        image = sitk.GetImageFromArray(np.full((1, 4, 5), number, np.int16))
        for tag, value in (("0020|000e", uid), ("0020|0032", f"0\\0\\{number}"), ("0008|0018", f"{uid}.{number + 1}")):
            image.SetMetaData(tag, value)
        sitk.WriteImage(image, str(folder / f"{number}.dcm"))
    return folder


def found(*places: Path) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    return [volume.volume.name for volume in find_volumes(places, notes)], notes


def test_a_folder_has_its_images_without_masks_results_and_hidden_files(tmp_path: Path) -> None:
    files(tmp_path, "b/t1.nii.gz", "a/scan.NRRD", "c.mha", "notes.txt", ".hidden/x.nii", ".y.nii")
    files(tmp_path, "b/t1-mask.nii.gz", "labelsTr/t1.nii.gz", "heatmap-tonno.nii.gz", "a/scan.seg.nrrd")
    files(tmp_path, "results/settings.json", "results/cases/0001-c/overview.nii")
    names, notes = found(tmp_path)
    assert names == ["c.mha", "scan.NRRD", "t1.nii.gz"]
    assert notes == [f"{tmp_path}: 2 left out by name as masks, such as t1-mask.nii.gz; a list (CSV) can have them"]
    assert is_cohort([tmp_path])


def test_a_tree_of_dicom_is_its_folders_of_series(tmp_path: Path) -> None:
    for number, name in enumerate(("p1/t1", "p1/t2", "p2/deep/t1")):
        series(tmp_path / name, f"1.2.{number + 1}")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    assert found(tmp_path) == (["t1", "t2", "t1"], [])
    assert is_cohort([tmp_path])
    # One series is one volume, whatever lies below or beside its files: as it was.
    files(tmp_path / "p1/t1", "more/x.nii.gz", "y.nii.gz")
    assert not is_cohort([tmp_path / "p1/t1"])


def test_folders_that_are_links_are_followed_once_and_what_cannot_be_read_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path / "data", "x/t1.nii.gz", "locked/t2.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "link").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    scan = os.scandir

    def denied(place: str) -> object:
        if Path(place).name == "locked":
            raise PermissionError(13, "Permission denied", place)
        return scan(place)

    monkeypatch.setattr(os, "scandir", denied)  # a test that runs as root may read all
    names, notes = found(tmp_path / "set")
    assert names == ["t1.nii.gz"]
    assert notes == [f"{tmp_path / 'set' / 'link' / 'locked'}: cannot be read (Permission denied)"]


def test_patterns_and_several_files(tmp_path: Path) -> None:
    files(tmp_path, "a1.nii.gz", "a2.nii.gz", "b.nii.gz", "c/t1.nii.gz", "d/t1.nii.gz", "odd[1].nii.gz")
    pattern = tmp_path / "a*.nii.gz"
    assert is_cohort([pattern])
    assert found(pattern)[0] == ["a1.nii.gz", "a2.nii.gz"]
    assert found(tmp_path / "**" / "t1.nii.gz")[0] == ["t1.nii.gz", "t1.nii.gz"]
    assert is_cohort([tmp_path / "b.nii.gz", tmp_path / "a1.nii.gz"])
    assert found(tmp_path / "b.nii.gz", pattern, tmp_path / "b.nii.gz")[0] == ["b.nii.gz", "a1.nii.gz", "a2.nii.gz"]
    for single in ("b.nii.gz", "odd[1].nii.gz", "none.nii.gz"):
        assert not is_cohort([tmp_path / single])
    (absent,) = find_volumes([tmp_path / "none.nii.gz"], [])
    assert absent.absent == str(tmp_path / "none.nii.gz")


def test_places_without_volumes(tmp_path: Path) -> None:
    files(tmp_path, "x/t1-mask.nii.gz", "x/readme.txt")
    assert not is_cohort([tmp_path / "x"])  # the reader of a single volume says what it expected
    for place, message in (("x", "1 left out by name as masks"), ("*.nii.gz", "no image file and no DICOM series")):
        with pytest.raises(TonnoError, match=message):
            find_volumes([tmp_path / place], [])
