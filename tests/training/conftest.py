"""Fixtures of the tests of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tonno_core.bundle import calibration
from tonno_core.training import history


@pytest.fixture(autouse=True)
def no_presets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate for the model's own planes alone: those of presets take the longest, and have tests of their own."""
    monkeypatch.setattr(calibration, "CALIBRATED_PRESETS", ())


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty ``curves.png``: drawing it takes longer than all else of a toy run."""
    monkeypatch.setattr(history, "_draw", lambda path, epochs: Path(path).touch())
