"""Profiles along the patient's axes and along any normal."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.slicing.profile import Profile


@pytest.mark.parametrize(("axis", "normal"), [("R", [1, 0, 0]), ("A", [0, 1, 0]), ("S", [0, 0, 1])])
def test_an_axis_of_the_patient_is_its_own_normal(axis: str, normal: list[int]) -> None:
    assert Profile(axis, np.arange(3.0), np.zeros(3)).normal_ras.tolist() == normal


def test_another_direction_has_a_normal_and_no_letter() -> None:
    profile = Profile("", np.arange(3.0), np.zeros(3), np.array([0.6, 0.0, 0.8]))
    assert profile.normal_ras.tolist() == [0.6, 0.0, 0.8]
    with pytest.raises(ValueError, match="axis ''"):
        Profile("", np.arange(3.0), np.zeros(3))
