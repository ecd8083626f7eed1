"""Splits: no patient on two sides, and every class on all of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tonno_core.cohort.manifest import SPLITS, Case, Manifest
from tonno_core.cohort.split import split_patients
from tonno_core.errors import TonnoError


def cohort(patients: Sequence[str]) -> Manifest:
    """Patients with their volumes, as "10 00": two volumes, the first with class x alone."""
    cases = [
        Case(Path(f"/{p}-{v}.nii"), tuple(int(digit) for digit in digits), (None,) * len(digits), f"p{p}", "")
        for p, volumes in enumerate(patients)
        for v, digits in enumerate(volumes.split())
    ]
    return Manifest(Path("list.csv"), ("x", "y")[: len(cases[0].labels)], tuple(cases))


def patients_of(manifest: Manifest, split: str) -> set[str]:
    return {case.patient for case in manifest.split(split)}


def with_class(manifest: Manifest, index: int) -> list[int]:
    """Patients that have the class, in train, val and test."""
    return [len({case.patient for case in manifest.split(s) if case.labels[index]}) for s in SPLITS]


def test_no_patient_is_in_two_parts_and_all_are_in_one() -> None:
    divided = split_patients(cohort(["1 0 0", "0 0", "1", "0 1"] * 10), seed=0)
    parts = [patients_of(divided, split) for split in SPLITS]
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 40
    assert all(case.split for case in divided.cases)
    assert [replace(case, split="") for case in divided.cases] == list(cohort(["1 0 0", "0 0", "1", "0 1"] * 10).cases)


@pytest.mark.parametrize("seed", range(5))
def test_parts_and_classes_have_their_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    divided = split_patients(cohort([f"{int(a)}{int(b)}" for a, b in rng.random((200, 2)) < (0.3, 0.1)]), seed=seed)
    total = [len(patients_of(divided, split)) for split in SPLITS]
    sizes = 200 * np.array([0.7, 0.15, 0.15])
    # Each of x, y and none is rounded by at most one patient, and patients with both classes count for both.
    assert np.abs(np.array(total) - sizes).max() <= 3
    for index in range(2):
        having = np.array(with_class(divided, index))
        assert np.abs(having - having.sum() * np.array([0.7, 0.15, 0.15])).max() <= 2


@pytest.mark.parametrize(("positives", "parts"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (10, [7, 2, 1])])
@pytest.mark.parametrize("seed", range(3))
def test_few_patients_with_a_finding_are_shared(positives: int, parts: list[int], seed: int) -> None:
    assert with_class(split_patients(cohort(["1"] * positives + ["0"] * 30), seed=seed), 0) == parts


def test_what_cannot_be_shared_evenly_goes_where_most_is_missing() -> None:
    # Of 6 patients 3, 1.5 and 1.5: the one over goes to val for one class and to test for the other.
    divided = split_patients(cohort(["10"] * 6 + ["01"] * 6), seed=0, fractions=(0.5, 0.25, 0.25))
    assert [len(patients_of(divided, split)) for split in SPLITS] == [6, 3, 3]


def test_a_patient_has_the_classes_of_all_volumes() -> None:
    # By volumes, x would be rare among patients of many volumes; by patients all three parts get one of the three.
    divided = split_patients(cohort(["0 1 0 0"] * 3 + ["0 0"] * 20), seed=3)
    assert with_class(divided, 0) == [1, 1, 1]


def test_the_seed_decides_and_the_order_of_lines_does_not() -> None:
    manifest = cohort(["1", "0 0"] * 20)
    first = split_patients(manifest, seed=7)
    shuffled = list(manifest.cases)
    random.Random(0).shuffle(shuffled)
    again = split_patients(replace(manifest, cases=tuple(shuffled)), seed=7)
    assert [patients_of(first, s) for s in SPLITS] == [patients_of(again, s) for s in SPLITS]
    assert [patients_of(first, s) for s in SPLITS] != [patients_of(split_patients(manifest, seed=8), s) for s in SPLITS]


def test_parts_of_fraction_zero_stay_empty_and_an_old_split_is_replaced() -> None:
    manifest = split_patients(cohort(["1", "0"] * 10), seed=0)
    divided = split_patients(manifest, seed=1, fractions=(0.8, 0.2, 0))
    assert [len(patients_of(divided, split)) for split in SPLITS] == [16, 4, 0]
    assert with_class(divided, 0) == [8, 2, 0]
    assert not split_patients(manifest, seed=1, fractions=(0, 0, 1)).split("train")


@pytest.mark.parametrize("fractions", [(0.7, 0.3), (0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5)])
def test_fractions_that_are_none(fractions: tuple[float, ...]) -> None:
    with pytest.raises(TonnoError, match=r"expected three from 0 to 1 whose sum is 1"):
        split_patients(cohort(["1"]), seed=0, fractions=fractions)


def test_spellings_of_a_patient_are_one_patient() -> None:
    whole = cohort(["1", "0"] * 15)
    cases = [replace(case, patient=f"{int(case.patient[1:]) // 3}") for case in whole.cases]
    spelled = [replace(case, patient=f"{'0' * (n % 3)}{case.patient}{'.0' * (n % 2)}") for n, case in enumerate(cases)]
    together = split_patients(replace(whole, cases=tuple(cases)), seed=0)
    apart = split_patients(replace(whole, cases=tuple(spelled)), seed=0)
    parts: dict[int, set[str]] = {}
    for case in apart.cases:
        parts.setdefault(int(float(case.patient)), set()).add(case.split)
    assert [len(splits) for splits in parts.values()] == [1] * 10
    assert len(patients_of(apart, "train")) > len(patients_of(together, "train"))  # in several spellings
