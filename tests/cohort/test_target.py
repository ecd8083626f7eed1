"""Manifests of numbers: what is read, what is refused, and how patients are divided by it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tonno_core.cohort.manifest import Manifest, read_manifest, require_trainable, write_manifest
from tonno_core.cohort.split import split_patients
from tonno_core.errors import TonnoError

HEAD = "volume,load_ml"


@pytest.fixture(autouse=True)
def volumes(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / f"{number}.nii").touch()


def of(folder: Path, *cells: str, head: str = HEAD, target: str = "load_ml") -> Manifest:
    path = folder / "list.csv"
    path.write_text("\n".join([head, *(f"{number}.nii,{cell}" for number, cell in enumerate(cells))]))
    return read_manifest(path, target=target)


def refused(folder: Path, *cells: str, **more: str) -> str:
    with pytest.raises(TonnoError) as caught:
        of(folder, *cells, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_numbers_are_read_and_written_back(tmp_path: Path) -> None:
    numbers = ["0", "-1", "2.5", "1e-3", "+7."]
    manifest = of(tmp_path, *numbers)
    assert (manifest.classes, manifest.target) == (("load_ml",), "load_ml")
    assert [case.number for case in manifest.cases] == [0, -1, 2.5, 0.001, 7]
    assert all(case.labels == case.masks == () for case in manifest.cases)
    written = tmp_path / "again.csv"
    write_manifest(written, split_patients(manifest, seed=1))
    again = read_manifest(written, target="load_ml")
    assert again.has_split
    assert [case.number for case in again.cases] == [case.number for case in manifest.cases]


def test_a_label_column_of_numbers_and_a_name_in_capitals(tmp_path: Path) -> None:
    assert of(tmp_path, "1.5", "2", head="volume,label", target="label").classes == ("label",)
    assert of(tmp_path, "1.5", "2", head="Volume,Load_ML", target="Load_ML").classes == ("Load_ML",)


def test_zeros_and_ones_stay_a_classification_unless_numbers_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("volume,label\n0.nii,0\n1.nii,1\n")
    assert [case.labels for case in read_manifest(tmp_path / "list.csv").cases] == [(0,), (1,)]
    advice = "that is a class, not a quantity; leave `target` out"
    assert refused(tmp_path, "0", "1", "1.0").endswith(f"{advice}, and call the column label")
    (tmp_path / "list.csv").write_text("volume,label\n0.nii,0\n1.nii,1\n")
    with pytest.raises(TonnoError, match=f"{advice}$"):  # the column has that name
        read_manifest(tmp_path / "list.csv", target="label")


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (("1", ""), "line 3: load_ml is '', expected a number; leave out volumes whose value is not known"),
        (("1", "n/a"), "line 3: load_ml is 'n/a', expected a number; leave out volumes whose value"),
        (("1", "nan"), "line 3: load_ml is 'nan', expected a number; leave out volumes whose value"),
        (("inf", "1"), "line 2: load_ml is 'inf', expected a number"),
        (("1e999", "1"), "line 2: load_ml is '1e999', expected a finite number"),
        (("1", "large"), "line 3: load_ml is 'large', expected a number; name a column of numbers, or write one"),
        (("1", "12.5 ml"), "load_ml is '12.5 ml', expected a number; write it with digits and a decimal point alone"),
        (("1", '"1,250.5"'), "load_ml is '1,250.5', expected a number; write it with digits and a decimal point alone"),
        (("1_000", "1"), "line 2: load_ml is '1_000', expected a number"),
        (('"1,5"', "2"), "line 2: load_ml is '1,5', expected a number; write a decimal point"),
        (("3.5", "3.5", "3.5"), "load_ml is 3.5 in all 3 lines"),
        (("100000", "100001"), "or differs by less than a 10000th; there is nothing to learn"),
    ],
)
def test_what_is_no_quantity_is_refused(tmp_path: Path, cells: tuple[str, ...], said: str) -> None:
    assert said in refused(tmp_path, *cells)


def test_a_column_that_is_not_there_or_another_thing(tmp_path: Path) -> None:
    assert "no column load_mL2, which `target` names; did you mean load_ml?" in refused(
        tmp_path, "1", "2", target="load_mL2"
    )
    assert "no column age, which `target` names; found load_ml" in refused(tmp_path, "1", "2", target="age")
    assert "no column volumes, which `target` names; found load_ml" in refused(tmp_path, "1", "2", target="volumes")
    assert "`target` patient: is the column of something else" in refused(tmp_path, "1", "2", target="patient")


def test_numbers_without_the_option_are_told_of_it(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("volume,label\n0.nii,0.7\n1.nii,1\n")
    with pytest.raises(TonnoError, match="a column of numbers is learned with `target` label"):
        read_manifest(tmp_path / "list.csv")


def test_training_needs_numbers_that_differ(tmp_path: Path) -> None:
    cells = ["2,train", "2,train", "3,val"]
    with pytest.raises(TonnoError, match=r"load_ml is 2 in all 2 volumes in split train; there is nothing to learn"):
        require_trainable(of(tmp_path, *cells, head="volume,load_ml,split"))


def test_each_part_gets_small_and_large_numbers(tmp_path: Path) -> None:
    manifest = split_patients(of(tmp_path, *(str(number**2) for number in range(24))), seed=3)
    parts = {name: [case.number for case in manifest.split(name)] for name in ("train", "val", "test")}
    # Quarters of 6 patients: 4.2, 0.9 and 0.9 of each, and one at least in each part.
    quarters = {name: Counter(np.searchsorted([36, 144, 324], some, side="right")) for name, some in parts.items()}
    assert all(set(count) == {0, 1, 2, 3} for count in quarters.values())
    counts = manifest.counts("train")["load_ml"]
    assert (counts["volumes"], counts["least"], counts["most"]) == (
        len(parts["train"]), min(parts["train"]), max(parts["train"]),
    )  # fmt: skip
    assert counts["mean"] == pytest.approx(np.mean(parts["train"]))
