"""How the caller of a long computation looks into it and ends it."""

from __future__ import annotations


class Cancelled(Exception):
    """The caller asked for an end without a result. No error: nothing was wrong."""
