"""Fixtures of the tests of pictures."""

from tests.figures import drawn, rendered, unrendered

__all__ = ["drawn", "rendered", "unrendered"]
