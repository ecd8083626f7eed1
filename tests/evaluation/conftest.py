"""Fixtures of the tests of evaluation."""

from tests.figures import drawn

__all__ = ["drawn"]
