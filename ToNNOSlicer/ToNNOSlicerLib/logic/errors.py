"""Errors for a user: what is wrong, and what to click next."""

from __future__ import annotations


class ToNNOUserError(Exception):
    """Says what is wrong, and what to click next.

    Attributes:
        message: The cause, in one line.
        nextStep: The way out, in one line, or "".
    """

    def __init__(self, message: str, nextStep: str = "") -> None:
        super().__init__(f"{message} {nextStep}".strip())
        self.message = message
        self.nextStep = nextStep


class EditedByHandError(ToNNOUserError):
    """Says that a step would overwrite work by hand; ask, then repeat it with ``overwrite=True``."""
