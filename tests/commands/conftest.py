"""Fixtures of the commands' tests: those of training."""

from tests.figures import drawn
from tests.training.conftest import no_curves, no_presets

__all__ = ["drawn", "no_curves", "no_presets"]
