"""What the panel tells the user."""

from __future__ import annotations

from dataclasses import dataclass

ERROR, NOTE, DONE = "error", "note", "done"


@dataclass(frozen=True)
class Message:
    """What the panel tells the user.

    Attributes:
        kind: ERROR, NOTE or DONE.
        text: What has happened.
        nextStep: What to do about it, or empty.
    """

    kind: str
    text: str
    nextStep: str = ""
