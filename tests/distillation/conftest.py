"""Fixtures of the tests of distillation."""

from __future__ import annotations

from pathlib import Path

import pytest

from tonno_core.distillation import history


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty ``curves.png``: drawing it takes longer than all else of a toy run."""
    monkeypatch.setattr(history, "_draw", lambda path, epochs, steps: Path(path).touch())
