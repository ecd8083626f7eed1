"""Fixtures of the commands' tests: those of training, and of pictures."""

import pytest

from tests.figures import drawn, rendered, unrendered
from tests.training.conftest import no_curves, no_presets

__all__ = ["drawn", "no_curves", "no_presets", "rendered", "unrendered"]


@pytest.fixture(autouse=True)
def pixels(unrendered: None) -> None:
    """What pictures show is for tests of their own; commands put them together."""
