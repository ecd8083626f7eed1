"""What a user is told: what is wrong, and what to click next."""

from __future__ import annotations


class ToNNOUserError(Exception):
    """message: what is wrong, in one line. nextStep: the way out, in one line, or empty."""

    def __init__(self, message: str, nextStep: str = "") -> None:
        super().__init__(f"{message} {nextStep}".strip())
        self.message = message
        self.nextStep = nextStep


class EditedByHandError(ToNNOUserError):
    """The segment holds work by hand that the step would overwrite; ask, then repeat it with ``overwrite=True``."""
