"""Codes that say what a segment is. Imports nothing heavy: the Slicer module asks too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tonno_core.errors import TonnoError
from tonno_core.words import findings_of

KEY = "terminology"
# An entry of 3D Slicer's General Anatomy list and of DICOM's master list; a lesion (52988006) is in neither.
DEFAULT = "SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass"
_EXPECTED = "expected category~type~modifier~region~its modifier, each SCHEME^CODE^MEANING, and at least the first two"
# Characters that DICOM has for a code and its scheme (SH), and for its meaning (LO).
_SHORT, _LONG = 16, 64


@dataclass(frozen=True)
class Code:
    """A coded concept.

    Attributes:
        scheme: Such as ``SCT`` (SNOMED CT).
        value: The code.
        meaning: In words.
    """

    scheme: str
    value: str
    meaning: str

    def __str__(self) -> str:
        return f"{self.scheme}^{self.value}^{self.meaning}"


@dataclass(frozen=True)
class Terminology:
    """What a segment is.

    Attributes:
        category: Such as Morphologically Altered Structure.
        kind: The type, such as Mass.
        modifier: Of the type, such as Right.
        region: Where it is, such as Brain.
        region_modifier: Of the region.
    """

    category: Code
    kind: Code
    modifier: Code | None = None
    region: Code | None = None
    region_modifier: Code | None = None


def terminology_of(about: Mapping[str, object], class_name: str | None) -> Terminology:
    """Return the codes of a class.

    Args:
        about: Facts of a model; ``terminology/CLASS`` holds the codes of a class, ``terminology`` those of the others.
        class_name: Of the model's classes; None where the model names none.

    Returns:
        The model's codes, else `DEFAULT`.

    Raises:
        TonnoError: The text is no codes.
    """
    key = f"{KEY}/{class_name}" if f"{KEY}/{class_name}" in about else KEY
    return _parse(key, str(about.get(key, DEFAULT)))


def check_terminology(about: Mapping[str, object], classes: Iterable[str] | None = None) -> None:
    """Check all codes of a model.

    Args:
        about: Facts of the model.
        classes: Of the model; None where they are not known yet.

    Raises:
        TonnoError: A text is no codes, or of a class that the model does not have.
    """
    names = None if classes is None else tuple(classes)
    for key in about:
        topic, slash, name = key.partition("/")
        if topic != KEY:
            continue
        if slash and names is not None and name not in names:
            raise TonnoError(f"{key}: the model has no class '{name}', expected one of {', '.join(findings_of(names))}")
        _parse(key, str(about[key]))


def _parse(key: str, text: str) -> Terminology:
    """Read codes as 3D Slicer's terminology entries spell them, with or without the names of its lists."""
    parts = [part.split("^") for part in text.split("~") if "^" in part]
    if not 2 <= len(parts) <= 5 or any(len(part) != 3 for part in parts):
        raise TonnoError(f"{key} '{text}': {_EXPECTED}, such as {DEFAULT}")
    codes = [Code(*(word.strip() for word in part)) if any(part) else None for part in parts]
    for code in filter(None, codes):
        if not (code.scheme and code.value and code.meaning):
            raise TonnoError(f"{key} '{text}': {code} is not complete; {_EXPECTED}")
        if max(len(code.scheme), len(code.value)) > _SHORT or len(code.meaning) > _LONG or "\\" in str(code):
            raise TonnoError(
                f"{key} '{text}': {code} does not fit into DICOM: at most {_SHORT} characters for scheme and code, "
                f"{_LONG} for the meaning, no backslash"
            )
    category, kind, *more = codes
    if category is None or kind is None:
        raise TonnoError(f"{key} '{text}': {_EXPECTED}, such as {DEFAULT}")
    return Terminology(category, kind, *more)
