"""Fixtures of the tests of evaluation."""

from tests.figures import drawn, rendered, unrendered

__all__ = ["drawn", "rendered", "unrendered"]
