"""Fixtures of the tests of pictures."""

from tests.figures import drawn

__all__ = ["drawn"]
