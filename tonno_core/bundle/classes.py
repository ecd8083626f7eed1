"""Which of a model's classes is meant where nobody named one. Imports nothing heavy: the Slicer module asks too."""

from __future__ import annotations

from collections.abc import Sequence

from tonno_core.errors import TonnoError
from tonno_core.words import findings_of


def class_of(asked: str | None, classes: Sequence[str]) -> str:
    """Return the class that is explained.

    Args:
        asked: Its name, None where nobody named one.
        classes: The model's.

    Returns:
        The class asked for; else the only one, or the only one that does not stand for the absence of a finding.

    Raises:
        TonnoError: The model has no such class, or several that may be meant.
    """
    known = ", ".join(classes)
    if asked is not None:
        if asked not in classes:
            raise TonnoError(f"`class_name` '{asked}' is unknown to this model, expected one of {known}")
        return asked
    findings = findings_of(classes)
    if len(findings) > 1:
        raise TonnoError(f"the model has {len(classes)} classes ({known}); give `class_name` to say which to look for")
    return findings[0]


def first_choice(classes: Sequence[str]) -> str:
    """Return the class that a list of classes starts at.

    Args:
        classes: The model's.

    Returns:
        The first that does not stand for the absence of a finding, else the first.
    """
    return findings_of(classes)[0]
