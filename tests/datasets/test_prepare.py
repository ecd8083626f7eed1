"""`tonno prepare` of data sets in their publishers' layouts; what it wrote is read back by csv and nibabel."""

from __future__ import annotations

import gzip
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes

from tests.datasets.trees import (
    AFFINE,
    COLUMNS,
    ROWS,
    SLICES,
    STUDY,
    body,
    lesion,
    manifest_rows,
    write_autopet,
    write_clinical,
    write_duke,
    write_mosmed,
    write_nifti,
    write_rows,
    write_study,
)
from tonno_core import cli
from tonno_core.cohort.check import check_cohort, report
from tonno_core.cohort.manifest import read_manifest
from tonno_core.commands.prepare import Asked, prepare_dataset
from tonno_core.datasets import found as looking
from tonno_core.datasets.intensity import Statistics, choose_intensity
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_volume

LEFT, RIGHT = (3, 6, 9, 12, 2, 4), (4, 5, 2, 5, 5, 8)  # boxes: columns run to the patient's left
BOXES = {f"Breast_MRI_{number:03d}": (LEFT, RIGHT)[number % 2] for number in range(1, 9)}


def prepare(name: str, source: Path, output: Path, *, partial: bool = False, **asked: Any) -> str:
    return prepare_dataset(name, source, output, Asked(**asked), partial=partial, progress=False)


def refused(name: str, source: Path, output: Path, **options: Any) -> str:
    """The message with which a data set is refused; nothing that could be taken for a result is there."""
    with pytest.raises(TonnoError) as caught:
        prepare(name, source, output, **options)
    assert "\n" not in str(caught.value)
    assert not (output / "manifest.csv").exists() and not (output / "dataset.json").exists()
    return str(caught.value)


def column(output: Path, name: str) -> list[str]:
    return [row[name] for row in manifest_rows(output)]


def located(output: Path, cell: str) -> Path:
    return output / cell  # an absolute one stays as it is


def splits_of(output: Path) -> dict[str, set[str]]:
    """Splits by patient."""
    splits: dict[str, set[str]] = {}
    for row in manifest_rows(output):
        splits.setdefault(row["patient"], set()).add(row["split"])
    return splits


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Volumes that are read from now on."""
    read: list[Path] = []
    real = looking.read_volume

    def reading(path: Path) -> Any:
        read.append(path)
        return real(path)

    monkeypatch.setattr(looking, "read_volume", reading)
    return read


# -------------------- AutoPET


def test_autopet_has_pet_and_ct_as_two_channels_and_labels_by_the_masks(tmp_path: Path) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    text = prepare("autopet", tmp_path / "data", output)
    rows = manifest_rows(output)
    assert len(rows) == 9 and set(rows[0]) == {"volume", "label", "mask", "patient", "split"}
    for row in rows:
        mask = nibabel.load(located(output, row["mask"]))
        volume, study = read_volume(output / row["volume"]), located(output, row["mask"]).parent
        for array, name in zip(volume.channels, ("SUV.nii.gz", "CTres.nii.gz"), strict=True):
            assert np.array_equal(array, read_volume(study / name).array)
            # NIfTI keeps the affine as float32.
            assert np.allclose(volume.ijk_to_ras, read_volume(study / name).ijk_to_ras, rtol=0, atol=1e-5)
        assert row["label"] == str(int(np.asarray(mask.dataobj).any()))
        assert row["patient"] == study.parent.name
    assert column(output, "label").count("1") == 4
    splits = splits_of(output)
    assert all(len(each) == 1 for each in splits.values()) and len(splits) == 8
    assert set().union(*splits.values()) == {"train", "val", "test"}
    assert "CC BY 4.0" in text and "10.7937/gkr0-xv29" in text and "10.1038/s41597-022-01718-3" in text
    stated = json.loads((output / "dataset.json").read_text())["intensity"]
    for channel, alone in (("suv", stated.split("/")[0]), ("ct", stated.split("/")[1])):  # each as if it were alone
        one = tmp_path / channel
        prepare("autopet", root, one, channel=channel)
        assert column(one, "split") == column(output, "split")
        assert json.loads((one / "dataset.json").read_text())["intensity"] == alone
    assert column(tmp_path / "ct", "volume")[0].endswith("CTres.nii.gz")
    checked = check_cohort(read_manifest(output / "manifest.csv"), progress=False)
    assert checked.usable and "\nchannels: 2 (9); training takes" in report(checked)
    again = output / rows[0]["volume"]
    before = again.read_bytes()
    again.unlink()
    prepare("autopet", root, output)
    assert again.read_bytes() == before


def test_what_is_prepared_may_be_moved_and_is_itself_by_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record of an earlier run, and a folder that is spelled in another way, made absolute paths of its own files."""
    root, output, copy = write_autopet(tmp_path / "data", patients=4), tmp_path / "out", tmp_path / "copy"
    prepare("autopet", root, output)
    volumes = column(output, "volume")
    assert not any(Path(cell).is_absolute() for cell in volumes)
    read = count_reads(monkeypatch)
    shutil.copytree(output, copy)
    prepare("autopet", root, copy)
    (tmp_path / "link").symlink_to(output)
    prepare("autopet", root, tmp_path / "link")
    monkeypatch.chdir(root)
    prepare("autopet", root, Path("../" * len(root.relative_to(tmp_path).parts)) / "out")
    assert not read  # nothing was made again
    assert column(copy, "volume") == column(output, "volume") == volumes


def test_a_cohort_of_unlike_channels_is_not_usable(tmp_path: Path) -> None:
    root = write_autopet(tmp_path / "data", patients=2)
    study = next((root / "PETCT_0000000001").iterdir())
    prepare("autopet", root, tmp_path / "out")
    path = tmp_path / "out" / "manifest.csv"
    path.write_text(path.read_text() + f"{study / 'CTres.nii.gz'},0,,other,train\n")
    checked = check_cohort(read_manifest(path), progress=False)
    (problem,) = [problem for problem in checked.problems if "channels" in problem.text]
    assert problem.stops and problem.text.startswith("volume: channels: 1, mostly 2; a model looks at")
    for subject, count in (("a", 1), ("b", 2)):
        place = tmp_path / "own" / subject
        write_nifti(place / "image.nii.gz", np.stack([body(1), body(2)][:count], axis=-1))
        write_nifti(place / "mask.nii.gz", lesion() if count == 1 else np.zeros((12, 10, 8)), dtype="uint8")
    assert re.search(
        r"image.nii.gz: channels: 2, but .*image.nii.gz has 1", refused("folder", tmp_path / "own", tmp_path / "b")
    )


def test_a_column_of_channels_is_told_to_be_unread(tmp_path: Path) -> None:
    root = write_autopet(tmp_path / "data", patients=2)
    study = next((root / "PETCT_0000000001").iterdir())
    path = tmp_path / "manifest.csv"
    path.write_text(f"volume,label,volume:CT\n{study / 'SUV.nii.gz'},0,{study / 'CTres.nii.gz'}\n")
    (note,) = read_manifest(path).notes
    assert note == "column volume:CT is not read: channels are read from one file, such as a 4D NIfTI"


def test_intensities_are_chosen_by_the_training_split_alone(tmp_path: Path) -> None:
    write_autopet(tmp_path / "data")
    prepare("autopet", tmp_path / "data", tmp_path / "out", channel="suv")
    rows = manifest_rows(tmp_path / "out")
    training = [nibabel.load(row["volume"]).get_fdata().ravel() for row in rows if row["split"] == "train"]
    low, high = (float(np.median([np.percentile(one, share) for one in training])) for share in (0.5, 99.5))
    stated = json.loads((tmp_path / "out" / "dataset.json").read_text())["intensity"]
    assert stated == f"window:{float(f'{low:.4g}'):g}:{float(f'{high:.4g}'):g}"
    for row in rows:  # other scans cannot change it
        if row["split"] != "train":
            image = nibabel.load(row["volume"])
            nibabel.Nifti1Image(1000 * image.get_fdata(), image.affine).to_filename(row["volume"])
    prepare("autopet", tmp_path / "data", tmp_path / "out", channel="suv")
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["intensity"] == stated


def test_without_units_each_volume_has_its_own_scale_and_ct_is_told_by_its_air() -> None:
    mri, ct = Statistics(0, 100, 900), Statistics(-1000, -200, 400)
    assert choose_intensity([mri], has_units=False)[0] == "zscore"
    assert choose_intensity([ct, Statistics(-1020, -100, 600), ct], has_units=False)[0] == "window:-1000:400"


@pytest.mark.parametrize("name", ["SUV.nii.gz", "CTres.nii.gz", "SEG.nii.gz"])
def test_a_study_with_a_part_missing_is_named_and_may_be_left_out(tmp_path: Path, name: str) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    study = root / "PETCT_0000000003" / f"{STUDY}3"
    (study / name).unlink()
    message = refused("autopet", root, output)
    assert f"{study}: no {name}; found CT.nii.gz" in message and "download or convert the study again" in message
    assert not output.exists()  # not even begun
    text = prepare("autopet", root, output, partial=True)
    assert len(manifest_rows(output)) == 8 and "PETCT_0000000003" not in splits_of(output)
    assert f"1 part is missing or damaged, left out: {study}: no {name}" in text


def test_damage_is_found_before_training_and_what_is_read_stays_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    bad = root / "PETCT_0000000005" / f"{STUDY}5" / "SUV.nii.gz"
    whole = bad.read_bytes()
    bad.write_bytes(whole[: len(whole) // 2])
    assert f"1 of 9 cases failed: 0007-SUV: {bad}: truncated or damaged gzip data" in refused(
        "autopet", root, output, channel="suv"
    )
    bad.write_bytes(whole)
    read = count_reads(monkeypatch)
    prepare("autopet", root, output, channel="suv")
    assert read == [bad] and len(manifest_rows(output)) == 9


def test_channel_and_mask_must_lie_on_the_grid_of_the_volume(tmp_path: Path) -> None:
    root = write_autopet(tmp_path / "data", patients=2)
    for name in ("CTres.nii.gz", "SEG.nii.gz"):
        path = root / "PETCT_0000000001" / f"{STUDY}1" / name
        before = path.read_bytes()
        write_nifti(path, lesion((24, 20, 8)), np.diag([-1.5, 1.5, 4.0, 1.0]))
        message = refused("autopet", root, tmp_path / "out")
        assert (
            f"{path}: on another grid (24 x 20 x 8 voxels of 1.5 x 1.5 x 4 mm) than its volume (12 x 10 x 8" in message
        )
        path.write_bytes(before)


def test_a_second_run_reads_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    prepare("autopet", root, output, channel="suv")
    read = count_reads(monkeypatch)
    prepare("autopet", root, output, channel="suv")
    assert read == []
    study = root / "PETCT_0000000001" / f"{STUDY}1"
    write_nifti(study / "SEG.nii.gz", lesion(), dtype="uint8")  # was empty
    write_study(root / "PETCT_00000000ff" / "01-01-2004-NA-PET-CT Ganzkoerper-1", 20, True)  # downloaded since
    prepare("autopet", root, output, channel="suv")
    assert [path.parent.parent.name for path in read] == ["PETCT_0000000001", "PETCT_00000000ff"]
    assert column(output, "label").count("1") == 6


def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    real = looking.read_volume
    read: list[Path] = []

    def interrupted(path: Path) -> Any:
        if len(read) == 4:
            raise KeyboardInterrupt
        read.append(path)
        return real(path)

    monkeypatch.setattr(looking, "read_volume", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare("autopet", root, output, channel="suv")
    assert not (output / "manifest.csv").exists()
    monkeypatch.setattr(looking, "read_volume", real)
    again = count_reads(monkeypatch)
    prepare("autopet", root, output, channel="suv")
    assert len(again) == 5 and not set(again) & set(read)
    prepare("autopet", root, tmp_path / "whole", channel="suv")
    for name in ("manifest.csv", "dataset.json"):
        assert (output / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_patients_that_change_their_split_are_told(tmp_path: Path) -> None:
    root, output = write_autopet(tmp_path / "data"), tmp_path / "out"
    study = next(root.glob("PETCT_*/*"))
    study.rename(tmp_path / "study")
    prepare("autopet", root, output, partial=True, channel="suv")
    before = splits_of(output)
    (tmp_path / "study").rename(study)
    text = prepare("autopet", root, output, channel="suv")
    moved = sum(before[patient] != splits for patient, splits in splits_of(output).items() if patient in before)
    assert moved > 1
    said = f"{moved} patients are in another split than in the manifest that this one replaces: train models anew"
    assert said in text
    assert "another split" not in prepare("autopet", root, output, channel="suv")


def test_other_layouts_of_autopet_are_named(tmp_path: Path) -> None:
    (tmp_path / "psma" / "imagesTr").mkdir(parents=True)
    assert (
        "found imagesTr, the nnU-Net layout of the later autoPET challenges; expected FDG-PET-CT-Lesions/PETCT_*"
        in (refused("autopet", tmp_path / "psma", tmp_path / "out"))
    )
    series = tmp_path / "dicom" / "FDG-PET-CT-Lesions" / "PETCT_0011f3deaf" / STUDY / "4.000000-GK p.v.3-58263"
    series.mkdir(parents=True)
    (series / "1-001.dcm").touch()
    assert "found DICOM series: convert them by the publisher's tcia_dicom_to_nifti.py" in (
        refused("autopet", tmp_path / "dicom", tmp_path / "out")
    )


# -------------------- MosMedData


@pytest.mark.parametrize("below", ["", "COVID19_1110", "COVID19_1110/studies"])
def test_mosmed_labels_by_folder_and_all_masks_in_validation(tmp_path: Path, below: str) -> None:
    write_mosmed(tmp_path / "data")
    output = tmp_path / "out"
    text = prepare("mosmed", tmp_path / "data" / below, output)
    rows = manifest_rows(output)
    assert [row["severity"] for row in rows] == ["CT-0"] * 9 + ["CT-1"] * 12 + ["CT-2"] * 3 + ["CT-3"] * 2 + ["CT-4"]
    assert all((row["label"] == "0") == (row["severity"] == "CT-0") for row in rows)
    masked = [row for row in rows if row["mask"]]
    assert [Path(row["mask"]).name for row in masked] == [f"study_{number:04d}_mask.nii.gz" for number in range(10, 14)]
    assert all(Path(row["volume"]).name == Path(row["mask"]).name.replace("_mask", "") for row in masked)
    assert {row["split"] for row in masked} == {"val"}
    assert {(row["split"], row["label"]) for row in rows if not row["mask"]} >= {
        ("train", "0"), ("train", "1"), ("val", "0"), ("test", "0"), ("test", "1"),
    }  # fmt: skip
    assert "27 studies and 4 masks are here; the publisher lists 1110 and 50" in text
    assert "CC BY-NC-ND 3.0" in text and "arXiv 2005.06465" in text
    assert json.loads((output / "dataset.json").read_text())["intensity"].startswith("window:-1024:")


def test_mosmed_says_what_is_missing(tmp_path: Path) -> None:
    root, output = write_mosmed(tmp_path / "data"), tmp_path / "out"
    (root / "studies" / "CT-1" / "study_0011.nii.gz").unlink()
    shutil.rmtree(root / "studies" / "CT-4")
    message = refused("mosmed", tmp_path / "data", output)
    assert message.startswith(f"{tmp_path / 'data'}: 2 parts are missing: {root / 'studies' / 'CT-4'}: no such folder")
    assert f"{root / 'masks' / 'study_0011_mask.nii.gz'}: no study study_0011 for this mask" in message
    assert message.endswith("Or give `partial` to leave them out")
    prepare("mosmed", tmp_path / "data", output, partial=True)
    assert len(manifest_rows(output)) == 25 and sum(map(bool, column(output, "mask"))) == 3
    shutil.rmtree(root / "masks")
    assert f"{root / 'masks'}: no masks there; expected 50" in refused("mosmed", tmp_path / "data", tmp_path / "other")
    shutil.rmtree(root / "studies")
    assert "no folder CT-0 in it, nor in studies in it; expected COVID19_1110/studies/CT-0 to CT-4 with study_NNNN" in (
        refused("mosmed", root, tmp_path / "other")
    )


# -------------------- Duke


def breasts(output: Path, patient: str) -> dict[str, dict[str, str]]:
    return {row["side"]: row for row in manifest_rows(output) if row["patient"] == patient}


def in_ras(image: Any) -> tuple[Any, Any]:
    """Voxels along R, A, S, and the x of each plane of them."""
    canonical = nibabel.as_closest_canonical(image)
    x = canonical.affine[0, 0] * np.arange(canonical.shape[0]) + canonical.affine[0, 3]
    return np.asarray(canonical.dataobj), x


@pytest.mark.parametrize("axes", [(1, 0, 0, 0, 1, 0), (-1, 0, 0, 0, -1, 0)], ids=["LPS", "RAS"])
@pytest.mark.parametrize("upwards", [True, False], ids=["up", "down"])
def test_duke_breasts_are_cut_apart_and_the_box_is_where_the_table_has_it(
    tmp_path: Path, axes: Sequence[float], upwards: bool
) -> None:
    arrays = write_duke(tmp_path / "data", BOXES, axes=axes, upwards=upwards)
    output = tmp_path / "out"
    text = prepare("duke", tmp_path / "data", output)
    assert "CC BY-NC 4.0" in text and "10.7937/TCIA.e3sv-re93" in text and "LICENSE" in text
    assert len(manifest_rows(output)) == 16
    for patient, box in BOXES.items():
        top, bottom, first, last, start, end = box
        sides = breasts(output, patient)
        # Columns run to the patient's left, or in the turned scanner to the right.
        positive = ("left", "right")[(box == RIGHT) ^ (axes[0] < 0)]
        assert {side: row["label"] for side, row in sides.items()} == {
            side: str(int(side == positive)) for side in ("left", "right")
        }
        assert {row["split"] for row in sides.values()} == splits_of(output)[patient]
        left, left_x = in_ras(nibabel.load(output / sides["left"]["volume"]))
        right, right_x = in_ras(nibabel.load(output / sides["right"]["volume"]))
        assert left_x.max() < right_x.min()  # x grows to the right
        # Together they are the scanner's pixels, of the sequence asked for: slices x rows x columns in LPS, turned.
        pixels = arrays[patient].astype(np.float32)
        pixels = pixels if upwards else pixels[::-1]
        pixels = pixels if axes[0] > 0 else pixels[:, ::-1, ::-1]
        assert np.array_equal(np.concatenate([left, right]), pixels.transpose(2, 1, 0)[::-1, ::-1])
        mask, _ = in_ras(nibabel.load(output / sides[positive]["mask"]))
        whole = np.zeros((SLICES, ROWS, COLUMNS))
        whole[start - 1 : end, top - 1 : bottom, first - 1 : last] = 1
        whole = whole if upwards else whole[::-1]
        whole = whole if axes[0] > 0 else whole[:, ::-1, ::-1]
        expected = whole.transpose(2, 1, 0)[::-1, ::-1]
        expected = expected[: len(left)] if positive == "left" else expected[len(left) :]
        assert np.array_equal(mask, expected) and mask.sum() == np.prod(np.diff(np.reshape(box, (3, 2))) + 1)
        # Its corners in mm: 3 x 3 x 2 mm voxels, first centre at LPS (-20, -30, +-2).
        low, high = (np.array(list(map(float, text.split(",")))) for text in sides[positive]["box"].split(":"))
        assert np.allclose(
            high - low, [3 * (last - first + 1), 3 * (bottom - top + 1), 2 * (end - start + 1)], atol=2e-3
        )
        heights = np.array([start - 0.5, end + 0.5]) * 2 * (1 if upwards else -1)
        assert np.allclose([low[2], high[2]], np.sort(heights), atol=1e-3)  # as 1e-3 mm are written
        assert sides[{"left": "right", "right": "left"}[positive]]["box"] == ""
        assert sides[{"left": "right", "right": "left"}[positive]]["mask"] == ""


def test_the_sequence_is_chosen_by_the_publishers_table(tmp_path: Path) -> None:
    write_duke(tmp_path / "data", {"Breast_MRI_001": LEFT, "Breast_MRI_002": RIGHT})
    prepare("duke", tmp_path / "data", tmp_path / "pre", sequence="pre")
    prepare("duke", tmp_path / "data", tmp_path / "post")
    pre, post = (
        nibabel.load(folder / manifest_rows(folder)[0]["volume"]) for folder in (tmp_path / "pre", tmp_path / "post")
    )
    assert not np.array_equal(np.asarray(pre.dataobj), np.asarray(post.dataobj))
    assert "choose among post_1, pre" in refused("duke", tmp_path / "data", tmp_path / "none", sequence="post_9")


def test_spreadsheets_are_read_as_the_publisher_gives_them(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    write_duke(tmp_path / "csv", BOXES)
    write_duke(tmp_path / "xlsx", BOXES, workbooks=True)
    for name in ("csv", "xlsx"):
        prepare("duke", tmp_path / name, tmp_path / f"out-{name}")
    assert manifest_rows(tmp_path / "out-csv") == manifest_rows(tmp_path / "out-xlsx")


def test_a_spreadsheet_without_openpyxl_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_duke(tmp_path / "data", {"Breast_MRI_001": LEFT})
    table = tmp_path / "data" / "Annotation_Boxes.xlsx"
    (tmp_path / "data" / "Annotation_Boxes.csv").rename(table)
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    message = refused("duke", tmp_path / "data", tmp_path / "out")
    assert message.startswith(f"{table}: ") and "pip install openpyxl, or save the table as CSV beside it" in message


def test_breasts_that_may_hold_a_second_tumour_are_no_negatives(tmp_path: Path) -> None:
    crossing = (3, 6, 5, 9, 2, 4)  # the middle is between columns 7 and 8; more of it is on the right
    write_duke(tmp_path / "data", {**BOXES, "Breast_MRI_009": crossing})
    told = {name: ("L" if box == LEFT else "R", int(name.endswith("4"))) for name, box in BOXES.items()}
    told["Breast_MRI_001"] = ("L", 0)  # its box is on the right
    told["Breast_MRI_009"] = ("R", "NC")
    write_clinical(tmp_path / "data", told)
    text = prepare("duke", tmp_path / "data", tmp_path / "out")
    assert {side: row["label"] for side, row in breasts(tmp_path / "out", "Breast_MRI_004").items()} == {"left": "1"}
    assert {side: row["label"] for side, row in breasts(tmp_path / "out", "Breast_MRI_009").items()} == {"right": "1"}
    assert "cancer in both breasts: the one without a box is left out (2: Breast_MRI_004; Breast_MRI_006)" in text
    assert "the box crosses the middle: the other breast is left out (1: Breast_MRI_009)" in text
    assert "the box lies in the other breast than the clinical table says (1: Breast_MRI_001)" in text
    (tmp_path / "data" / "Clinical_and_Other_Features.csv").unlink()
    text = prepare("duke", tmp_path / "data", tmp_path / "out")  # what the tables say has changed: done again
    assert set(breasts(tmp_path / "out", "Breast_MRI_004")) == {"left", "right"}
    assert "no Clinical_and_Other_Features.xlsx or .csv beside the other tables" in text


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda data: (data / "Annotation_Boxes.csv").unlink(),
            "no Annotation_Boxes.xlsx or .csv in it; expected Duke",
        ),
        (
            lambda data: (data / "Breast-Cancer-MRI-filepath_filename-mapping.csv").unlink(),
            "no Breast-Cancer-MRI-filepath_filename-mapping.xlsx or .csv in it; expected",
        ),
        (
            lambda data: write_rows(
                data / "Annotation_Boxes.csv", [["Patient ID", "Start Row"], ["Breast_MRI_001", 3]]
            ),
            "no column End Row and Start Column and End Column and Start Slice and End Slice; found Patient ID, "
            "Start Row",
        ),
        (
            lambda data: shutil.rmtree(next(data.glob("*/*/Breast_MRI_003"))),
            "1 part is missing: {data}: no folder Breast_MRI_003, which Annotation_Boxes has a box for; download",
        ),
        (
            lambda data: shutil.rmtree(next(data.glob("*/*/Breast_MRI_003/*/3*"))),
            "Breast_MRI_003: none of its 1 DICOM series is post_1 by Breast-Cancer-MRI-filepath_filename-mapping; ",
        ),
        (lambda data: next(data.glob("*/*/Breast_MRI_003/*/3*/1-08.dcm")).unlink(), "7 slices, Breast-Cancer"),
        (lambda data: next(data.glob("*/*/Breast_MRI_003/*/3*/1-05.dcm")).unlink(), "Breast_MRI_003"),
    ],
    ids=["boxes", "mapping", "columns", "patient", "series", "slice", "gap"],
)
def test_duke_says_what_is_missing(tmp_path: Path, harm: Callable[[Path], object], said: str) -> None:
    write_duke(tmp_path / "data", {name: BOXES[name] for name in list(BOXES)[:4]})
    harm(tmp_path / "data")
    assert said.format(data=tmp_path / "data") in refused("duke", tmp_path / "data", tmp_path / "out")


def test_a_box_outside_of_the_volume_is_refused(tmp_path: Path) -> None:
    write_duke(tmp_path / "data", {"Breast_MRI_001": (3, 60, 9, 12, 2, 4), "Breast_MRI_002": LEFT})
    assert (
        "the box of Breast_MRI_001 in Annotation_Boxes is rows 3 to 60, columns 9 to 12, slices 2 to 4 in 10 rows"
        in (refused("duke", tmp_path / "data", tmp_path / "out"))
    )


# -------------------- halves


def write_halves(folder: Path, *, laterality: str = "laterality", flipped: bool = False) -> Path:
    """Twelve scans whose finding is left, right, on both sides or nowhere; every second stored the other way round."""
    rows: list[list[object]] = [["volume", laterality, "mask", "patient"]]
    for number, side in enumerate(["left", "R", "none", "both"] * 3):
        scan, mask = body(number, size=(13, 10, 8)), np.zeros((13, 10, 8))  # i runs to the left: LAS
        if side in ("left", "both"):
            mask[8:10, 4:6, 3:5] = 1
        if side in ("R", "both"):
            mask[3:5, 4:6, 3:5] = 1
        affine = AFFINE
        if number % 2 and flipped:
            scan, mask, affine = scan[::-1], mask[::-1], AFFINE.copy()
            affine[0, 0], affine[0, 3] = 3.0, -36.0
        write_nifti(folder / f"{number}.nii.gz", scan, affine)
        write_nifti(folder / f"{number}-mask.nii.gz", mask, affine, "uint8")
        rows.append([f"{number}.nii.gz", side, f"{number}-mask.nii.gz", f"p{number}"])
    write_rows(folder / "manifest.csv", rows)
    return folder / "manifest.csv"


@pytest.mark.parametrize("flipped", [False, True])
def test_halves_have_the_label_of_their_side_and_keep_their_place(tmp_path: Path, flipped: bool) -> None:
    table = write_halves(tmp_path / "data", flipped=flipped)
    prepare("halves", tmp_path / "data", tmp_path / "out")
    rows = manifest_rows(tmp_path / "out")
    assert len(rows) == 24 and all(len(each) == 1 for each in splits_of(tmp_path / "out").values())
    for row in rows:
        number = int(row["patient"][1:])
        side = ["left", "R", "none", "both"][number % 4]
        assert row["label"] == str(int(side == "both" or side[0].lower() == row["side"][0]))
        half, mask = (nibabel.load(tmp_path / "out" / row[name]) for name in ("volume", "mask"))
        assert int(row["finding_voxels"]) == np.asarray(mask.dataobj).sum() == 8 * int(row["label"])
        whole = nibabel.load(table.parent / f"{number}.nii.gz")
        # Each voxel is found at its place in the whole scan.
        ijk = np.argwhere(np.ones(half.shape))
        there = np.rint(nibabel.affines.apply_affine(np.linalg.inv(whole.affine) @ half.affine, ijk)).astype(int)
        assert np.array_equal(np.asarray(half.dataobj).ravel(), np.asarray(whole.dataobj)[tuple(there.T)])
        x = nibabel.affines.apply_affine(half.affine, ijk)[:, 0]
        # The middle of 13 voxels of 3 mm is at x = -18; its own plane goes with the side of higher index.
        assert x.max() <= -18 + 1e-3 if row["side"] == "left" else x.min() >= -18 - 1e-3
        assert aff2axcodes(half.affine) == aff2axcodes(whole.affine)


def test_halves_of_the_patient_not_of_the_image(tmp_path: Path) -> None:
    scan = np.zeros((40, 10, 8))
    scan[4:16, 2:-2, 1:-1] = np.random.default_rng(0).uniform(
        1, 2, (12, 6, 6)
    )  # the head lies at one side of the image
    write_nifti(tmp_path / "data" / "a.nii.gz", scan)
    write_rows(tmp_path / "data" / "manifest.csv", [["volume", "laterality"], ["a.nii.gz", "left"]])
    prepare("halves", tmp_path / "data", tmp_path / "out")
    shapes = {
        row["side"]: nibabel.load(tmp_path / "out" / row["volume"]).shape[0] for row in manifest_rows(tmp_path / "out")
    }
    assert shapes == {"right": 10, "left": 30}  # 4 + 12 / 2 voxels


def test_masks_that_contradict_the_side_are_told_and_change_no_label(tmp_path: Path) -> None:
    table = write_halves(tmp_path / "data")
    table.write_text(table.read_text().replace("0.nii.gz,left", "0.nii.gz,right"))
    text = prepare("halves", table, tmp_path / "out")
    assert {row["side"]: row["label"] for row in manifest_rows(tmp_path / "out") if row["patient"] == "p0"} == {
        "left": "0", "right": "1",
    }  # fmt: skip
    assert "a half is labelled negative, but the mask reaches into it (1: p0)" in text


def test_halves_refuses_what_no_side_is(tmp_path: Path) -> None:
    table = write_halves(tmp_path / "data", laterality="hemisphere")
    message = refused("halves", table, tmp_path / "out")
    assert "no column laterality; found volume, hemisphere, mask, patient" in message
    assert message.endswith("name the columns so, or say by `label` which has the side")
    table.write_text(table.read_text().replace("R", "unknown"))
    message = refused("halves", table, tmp_path / "out", label="hemisphere")
    assert "hemisphere of 1.nii.gz is 'unknown'; expected left, right, both or none" in message
    table.write_text(table.read_text().replace("unknown", "right").replace("5.nii.gz", "55.nii.gz"))
    message = refused("halves", table, tmp_path / "out", label="hemisphere")
    assert "1 part is missing" in message and "55.nii.gz does not exist" in message


def test_a_scan_that_is_there_twice_and_a_table_that_would_be_overwritten(tmp_path: Path) -> None:
    table = write_halves(tmp_path / "data")
    table.write_text(table.read_text() + "0.nii.gz,left,,p99\n")
    assert refused("halves", table, tmp_path / "out") == (
        f"{table.parent / '0.nii.gz'}: stands twice in the list; leave one of them out"
    )
    before = table.read_bytes()
    with pytest.raises(TonnoError, match="lies in the data set's folder"):
        prepare_dataset("halves", table, table.parent, Asked(), overwrite=True, progress=False)
    assert table.read_bytes() == before
    (tmp_path / "data" / "link.nii.gz").symlink_to("1.nii.gz")
    table.write_text(table.read_text().replace("0.nii.gz,left,,p99", "link.nii.gz,left,,p99"))
    assert f"link.nii.gz: is {table.parent / '1.nii.gz'} again" in refused("halves", table, tmp_path / "out")


# -------------------- folder


def write_bids(folder: Path, *, masks: bool = True, table: bool = True) -> Path:
    """Ten people, two of them with two sessions; lesion masks in derivatives."""
    rows: list[list[object]] = [["participant_id", "group"]]
    for number in range(1, 11):
        person = f"sub-{number:02d}"
        rows.append([person, "MS" if number % 2 else "control"])
        sessions = ["ses-01", "ses-02"] if number <= 2 else [""]
        for session in sessions:
            parts = [person, *([session] if session else [])]
            stem = "_".join(parts)
            place = folder.joinpath(*parts, "anat")
            write_nifti(place / f"{stem}_FLAIR.nii.gz", body(number))
            write_nifti(place / f"{stem}_T1w.nii.gz", body(number, 5))
            if masks:
                inside = folder.joinpath("derivatives", "lesion-masks", *parts, "anat")
                name = f"{stem}_space-orig_label-lesion_mask.nii.gz"
                write_nifti(inside / name, lesion() if number % 2 else np.zeros((12, 10, 8)), dtype="uint8")
    if table:
        write_rows(folder / "participants.tsv", rows, "\t")
    described = {"Name": "MS of one clinic", "License": "CC0", "HowToAcknowledge": "Cite us", "BIDSVersion": "1.8.0"}
    (folder / "dataset_description.json").write_text(json.dumps(described))
    return folder


def test_bids_with_labels_of_its_table(tmp_path: Path) -> None:
    write_bids(tmp_path / "data")
    text = prepare("folder", tmp_path / "data", tmp_path / "out", image="flair", label="group")
    rows = manifest_rows(tmp_path / "out")
    assert len(rows) == 12 and all(row["volume"].endswith("_FLAIR.nii.gz") for row in rows)
    assert all(row["label"] == str(int(row["patient"][-2:]) % 2) for row in rows)
    for row in rows:
        stem = Path(row["volume"]).name.removesuffix("_FLAIR.nii.gz")
        assert Path(row["mask"]).name == f"{stem}_space-orig_label-lesion_mask.nii.gz"
    assert all(len(each) == 1 for each in splits_of(tmp_path / "out").values())
    assert "MS of one clinic\nlicence: CC0\ncite: Cite us" in text
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["intensity"] == "zscore"


def test_bids_with_labels_by_its_masks(tmp_path: Path) -> None:
    write_bids(tmp_path / "data", table=False)
    text = prepare("folder", tmp_path / "data", tmp_path / "out", image="FLAIR")
    assert all(row["label"] == str(int(row["patient"][-2:]) % 2) for row in manifest_rows(tmp_path / "out"))
    assert "positive means that the mask is not empty" in text


def test_one_folder_for_each_case(tmp_path: Path) -> None:
    for number in range(8):
        case = tmp_path / "data" / f"case{number}"
        write_nifti(case / "image.nii.gz", body(number))
        write_nifti(case / "lesion_seg.nii.gz", lesion() * (number % 2), dtype="uint8")
    prepare("folder", tmp_path / "data", tmp_path / "out")
    rows = manifest_rows(tmp_path / "out")
    assert [row["label"] for row in rows] == ["0", "1"] * 4
    assert [row["patient"] for row in rows] == [f"case{number}" for number in range(8)]
    table = tmp_path / "labels.csv"
    write_rows(
        table,
        [
            ["case", "label", "split"],
            *([f"Case {n}", 1 - n % 2, "train" if n < 6 else "val"] for n in range(8)),
            ["Case-099", 0, "train"],
        ],
    )
    text = prepare("folder", tmp_path / "data", tmp_path / "other", table=table)
    assert column(tmp_path / "other", "label") == ["1", "0"] * 4
    assert column(tmp_path / "other", "split") == ["train"] * 6 + ["val"] * 2
    assert "labelled positive, but the mask is empty (4: case0; case2; case4; case6)" in text
    assert "rows of the table without a folder, left out: Case-099" in text
    table.write_text(table.read_text().replace("label", "diagnosis", 1))
    message = refused("folder", tmp_path / "data", tmp_path / "more", table=table)
    assert message.endswith("expected label; name the column so, or say by `label` which it is")


def test_a_folder_says_what_is_missing_or_open(tmp_path: Path) -> None:
    data, out = write_bids(tmp_path / "data", masks=False), tmp_path / "out"
    message = refused("folder", data, out, label="group")
    assert (
        f"{data / 'sub-01' / 'ses-01'}: 2 images: sub-01_ses-01_FLAIR.nii.gz, sub-01_ses-01_T1w.nii.gz; choose one"
        in message
    )
    next(data.glob("sub-03/anat/*FLAIR*")).unlink()
    message = refused("folder", data, out, label="group", image="FLAIR")
    assert f"{data / 'sub-03'}: no image with 'FLAIR' in its name in it; found sub-03_T1w.nii.gz" in message
    assert f"{data / 'sub-01' / 'ses-01'}: no mask in it, and no table" in refused("folder", data, out, image="T1w")
    assert "no column diagnosis; found participant_id, group" in refused("folder", data, out, label="diagnosis")
    write_rows(data / "participants.tsv", [["participant_id", "group"], ["sub-01", "MS"], ["sub-02", "n/a"]], "\t")
    assert "group is 'MS' of sub-01, 'n/a' of sub-02; expected 0 and 1, or one name" in refused(
        "folder", data, out, label="group", image="T1w"
    )
    write_rows(data / "participants.tsv", [["participant_id", "group"], ["sub-01", "MS"], ["sub-02", "control"]], "\t")
    message = refused("folder", data, out, label="group", image="T1w")
    assert "8 parts are missing" in message and "sub-03 has no row with a label in the table" in message


# -------------------- all


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    root, out = write_autopet(tmp_path / "data", patients=2), tmp_path / "out"
    assert "no such file or folder; expected the data set's folder" in refused("autopet", tmp_path / "nowhere", out)
    (tmp_path / "data.zip").touch()
    assert "is a file; expected the data set's folder (unpack an archive first)" in refused(
        "mosmed", tmp_path / "data.zip", out
    )
    assert "lies in the data set's folder" in refused("autopet", tmp_path / "data", tmp_path / "data" / "out")
    assert "`sequence` is for duke; leave it out for autopet" in refused("autopet", root, out, sequence="pre")
    prepare("autopet", root, out)
    write_mosmed(tmp_path / "covid")
    with pytest.raises(TonnoError, match="holds another preparation"):
        prepare("mosmed", tmp_path / "covid", out)
    assert "SUV" in (out / "manifest.csv").read_text()  # stays


def test_the_command_prints_licence_citation_and_the_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_autopet(tmp_path / "data")
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "autopet", str(tmp_path / "data"), "--output", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith("FDG-PET-CT-Lesions (AutoPET)\nlicence: CC BY 4.0")
    assert re.search(r"then tonno train \S+manifest.csv with --intensity window:0:\d", said)
    (tmp_path / "data" / "FDG-PET-CT-Lesions" / "PETCT_0000000001" / f"{STUDY}1" / "SEG.nii.gz").unlink()
    with pytest.raises(SystemExit) as ended:
        cli.main(["prepare", "autopet", str(tmp_path / "data"), "--output", str(tmp_path / "other")])
    captured = capsys.readouterr()
    assert ended.value.code == 2 and captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.endswith("Or give --partial to leave them out\n")


def test_a_packed_file_that_is_none_stops_nothing_else(tmp_path: Path) -> None:
    root = write_mosmed(tmp_path / "data")
    bad = root / "studies" / "CT-0" / "study_0002.nii.gz"
    with gzip.open(bad, "wb") as file:
        file.write(b"no image")
    assert "1 of 27 cases failed" in refused("mosmed", tmp_path / "data", tmp_path / "out")
    text = prepare("mosmed", tmp_path / "data", tmp_path / "out", partial=True)
    assert len(manifest_rows(tmp_path / "out")) == 26 and f"left out: {bad}" in text
