"""Assign patients to training, validation and test."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tonno_core.cohort.manifest import SPLITS, Manifest
from tonno_core.errors import TonnoError
from tonno_core.words import spelling

DEFAULT_FRACTIONS = (0.7, 0.15, 0.15)


def split_patients(manifest: Manifest, *, seed: int, fractions: Sequence[float] = DEFAULT_FRACTIONS) -> Manifest:
    """Split a cohort at random by patient, so that each part has its share of every class.

    Iterative stratification (Sechidis et al., ECML 2011): the rarest class first, each of its patients to the
    part that lacks most of that class. Here a part without any patient of the class comes before, in the order
    train, val, test, so that three patients are enough for one in each. A patient with several volumes has the
    classes of all of them. With a target, the quarters of the patients by its size (of their volumes' means) stand in
    the classes' place.

    Args:
        manifest: The cohort; a split that it has is replaced.
        seed: The result depends on it and on patients and labels, not on the order of lines.
        fractions: Shares of the patients for train, val and test; 0 leaves a part empty.

    Returns:
        The manifest with a split.

    Raises:
        TonnoError: The fractions are not three shares whose sum is 1.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
        given = ", ".join(f"{fraction:g}" for fraction in fractions)
        raise TonnoError(f"fractions of train, val and test are {given}; expected three from 0 to 1 whose sum is 1")
    named: dict[tuple[str, ...], str] = {}  # spellings of one name are one patient
    for patient in sorted({case.patient for case in manifest.cases}):
        named.setdefault(spelling(patient), patient)
    patients = list(named.values())
    number = {patient: index for index, patient in enumerate(patients)}
    row = {case.patient: number[named[spelling(case.patient)]] for case in manifest.cases}
    labels: npt.NDArray[np.bool_] = np.zeros((len(patients), len(manifest.classes)), dtype=bool)
    if manifest.target:
        rows = [row[case.patient] for case in manifest.cases]
        labels = _by_size(np.bincount(rows, [case.number for case in manifest.cases]) / np.bincount(rows))
    else:
        for case in manifest.cases:
            labels[row[case.patient]] |= np.array(case.labels, dtype=bool)
    parts = _stratified(labels, np.array(fractions, dtype=float), np.random.default_rng(seed))
    cases = (dataclasses.replace(case, split=SPLITS[parts[row[case.patient]]]) for case in manifest.cases)
    return dataclasses.replace(manifest, cases=tuple(cases))


def _by_size(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Group numbers (P) by size into quarters, or fewer groups of five or more: bool (P, K)."""
    groups = max(1, min(4, len(values) // 5))
    rank = np.argsort(np.argsort(values, kind="stable"))
    return np.asarray((rank * groups // len(values))[:, None] == np.arange(groups))


def _stratified(
    labels: npt.NDArray[np.bool_], fractions: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """Return the part (P) of each patient by index; labels (P, K) are True for a class that the patient has."""
    groups = np.column_stack([labels, ~labels.any(axis=1)])  # patients without a finding are a group as well
    targets = groups.sum(axis=0) * fractions[:, None]
    room = len(groups) * fractions
    assigned = np.zeros_like(targets)
    parts = np.full(len(groups), -1)
    order = rng.permutation(len(groups))
    while (parts < 0).any():
        left = groups[parts < 0].sum(axis=0)
        group = int(np.argmin(np.where(left > 0, left, len(groups) + 1)))
        for patient in (p for p in order if parts[p] < 0 and groups[p, group]):
            lacking = (targets - assigned)[:, group]
            part = np.lexsort((-room, -lacking, assigned[:, group] > 0, fractions == 0))[0]  # the last key rules
            parts[patient] = part
            assigned[part] += groups[patient]
            room[part] -= 1
    return parts
