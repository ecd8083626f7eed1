"""Fixtures of the commands' tests: those of training."""

from tests.training.conftest import no_curves, no_presets

__all__ = ["no_curves", "no_presets"]
