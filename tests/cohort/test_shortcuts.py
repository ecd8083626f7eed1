"""Headers that predict the label, against what is true by construction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.cohort.test_check import checked, problems, scan
from tonno_core.cohort.shortcuts import SHORTCUT_AUC, find_shortcuts

LABELS = [0, 1] * 20


def test_what_follows_the_label_is_found_in_either_direction() -> None:
    noise = np.random.default_rng(0).normal(size=40)
    measured = {
        "up": [label + 0.1 * x for label, x in zip(LABELS, noise, strict=True)],
        "down": [-label + 0.1 * x for label, x in zip(LABELS, noise, strict=True)],
        "noise": noise.tolist(),
        "constant": [1.0] * 40,
    }
    shortcuts = dict(find_shortcuts(measured, LABELS))
    assert shortcuts == {"up": pytest.approx(1.0), "down": pytest.approx(1.0)}


def test_a_few_volumes_prove_nothing_and_one_label_neither() -> None:
    assert not list(find_shortcuts({"size": [1.0, 2.0, 1.0, 2.0]}, [0, 1, 0, 1]))
    assert not list(find_shortcuts({"size": [1.0, 2.0]}, [1, 1]))


def test_chance_is_seldom_taken_for_a_shortcut() -> None:
    rng = np.random.default_rng(1)
    cohorts = [{str(k): rng.normal(size=40).tolist() for k in range(12)} for _ in range(200)]
    # At most 1 in 100 cohorts by the test's level; 6 of 200 would be three standard deviations more.
    assert sum(bool(list(find_shortcuts(measured, LABELS))) for measured in cohorts) < 6
    assert SHORTCUT_AUC == 0.75


def test_check_warns_of_a_spacing_that_predicts_the_label(tmp_path: Path) -> None:
    lines = []
    for index, label in enumerate(LABELS):
        scan(tmp_path / f"{index}.nii.gz", index, diagonal=(1, 1, 2.2 if label else 2))
        lines.append(f"{index}.nii.gz,{label}")
    texts = [text for line, text in problems(checked(tmp_path, *lines)) if line == 0]
    assert any(
        text.startswith("spacing in mm along S alone tells the labels of class 'finding' apart") for text in texts
    )
    assert not any("along R" in text for text in texts)
