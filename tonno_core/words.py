"""Names and labels as people write them: words for a finding, for none, for not knowing; spellings; image files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Endings of the image files that can be read.
IMAGE_ENDINGS = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")

_NO_FINDING = frozenset(
    {
        "0", "none", "no", "not", "nil", "false", "negative", "negativ", "neg", "absent", "absence", "healthy",
        "normal", "control", "controls", "hc", "unremarkable", "unaffected", "background", "bg", "clear", "wnl",
        "within normal limits",
    }
)  # fmt: skip
_FINDING = frozenset({"1", "yes", "true", "positive"})
_NOT_KNOWN = frozenset(
    {
        "-1", "nan", "na", "n a", "n/a", "n.a", "null", "missing", "pending", "tbd", "tba", "tbc", "todo",
        "unknown", "unk", "unclear", "uncertain", "unsure", "undetermined", "unspecified", "unlabelled", "unlabeled",
        "unread", "indeterminate", "inconclusive", "equivocal", "doubtful", "questionable", "maybe", "possible",
        "possibly", "don't know", "dont know",
    }
)  # fmt: skip
# What a word for not may stand before without a space: normal pressure hydrocephalus and a node are findings.
_ANY_FINDING = (
    "findings?|lesions?|tumou?rs?|cancers?|masses|mass|disease|diseased|pathology|abnormality|abnormalities|nodules?|"
    "ha?emorrhages?|bleed|bleeding|fractures?|infarcts?|metastas[ie]s|abnormal|sick|ill|present"
)
_SUBJECT = "scans?|images?|stud(?:y|ies)|subjects?|patients?|volunteers?|controls?|persons?|people|donors?|appearance"
_NOT_KNOWN_FORMS = re.compile(
    r"(?:not (?:known|available|applicable|assessed|assessable|done|evaluated|evaluable|reported|read|sure|specified|"
    r"determined|labell?ed|annotated|given|stated|recorded|tested|yet.*)|"
    r"no (?:data|labels?|answers?|reports?|information|info|images?|scans?|readings?|consensus|diagnosis))"
)
_NO_FINDING_FORMS = re.compile(
    rf"(?:no|without|w/o|free of|negative for|absence of|healthy) .+|(?:no|non|not) ?(?:{_ANY_FINDING})|"
    rf"normal (?:{_SUBJECT}|brain|head|chest|lungs?|liver|abdomen|pelvis|spine|heart|tissue)|.+ (?:free|absent)"
)
_WHOLE_NUMBER = re.compile(r"(\d+)[.,]0+")
# Numbers, and what stands between them and separators; a sign at the end is a part: HER2+ and HER2- are two.
_PARTS = re.compile(r"\d+|[^\d\s_.,;:/\\-]+|-$")
# But the joiners of Persian and Indian scripts, which are letters' business.
_SHOWS_NOTHING = re.compile("[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def count_of(number: int, noun: str) -> str:
    """Say how many there are of something.

    Args:
        number: How many.
        noun: In the singular, whose plural ends with "s".

    Returns:
        Such as "1 volume" or "3 volumes".
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def is_no_finding(text: str) -> bool:
    """Tell whether a label or the name of a class says that there is no finding.

    Args:
        text: Such as "0", "Neg.", "No Finding", "notumor", "healthy".

    Returns:
        Whether it does.
    """
    word = _plain(text)
    return word in _NO_FINDING or (bool(_NO_FINDING_FORMS.fullmatch(word)) and not is_not_known(text))


def is_finding(text: str) -> bool:
    """Tell whether a label says that there is a finding, without a name of it.

    Args:
        text: Such as "1", "1.0", "yes".

    Returns:
        Whether it does.
    """
    return _plain(text) in _FINDING


def is_not_known(text: str) -> bool:
    """Tell whether a label says that nobody knows.

    Args:
        text: Such as "", "n/a", "unknown", "?", "-1".

    Returns:
        Whether it does.
    """
    word = _plain(text)
    return not any(map(str.isalnum, word)) or word in _NOT_KNOWN or bool(_NOT_KNOWN_FORMS.fullmatch(word))


def findings_of(classes: Sequence[str]) -> tuple[str, ...]:
    """Return the classes of a model that are findings; label 1 can only mean that one, if it is alone.

    Args:
        classes: Such as ("normal", "lesion").

    Returns:
        Those whose names do not say that there is no finding; all where each says so.
    """
    return tuple(name for name in classes if not is_no_finding(name)) or tuple(classes)


def spelling(name: str) -> tuple[str, ...]:
    """Reduce a name to what its spellings have in common.

    Letters in any case and Unicode form, numbers with and without leading zeros, and any sign between them:
    "P-007", "p_7" and "P7" are one; so are "001", "1" and "1.0".

    Args:
        name: Of a patient or a class.

    Returns:
        The same for all spellings of a name; the name itself where it is that of an image file.
    """
    if is_image_file(name):
        return (name,)
    parts = _PARTS.findall(_plain(name))
    return tuple(str(int(part)) if part.isdecimal() else part for part in parts) or (name,)


def is_image_file(name: str) -> bool:
    """Tell whether a name is that of an image file.

    Args:
        name: With or without folders.

    Returns:
        Whether it has one of `IMAGE_ENDINGS`, in any case.
    """
    return name.lower().endswith(IMAGE_ENDINGS)


def without_ending(name: str) -> str:
    """Remove the ending of an image file from its name.

    Args:
        name: With or without folders.

    Returns:
        Such as "head" for "head.nii.gz"; the name itself where it is none of an image file.
    """
    longest = max((ending for ending in IMAGE_ENDINGS if name.lower().endswith(ending)), key=len, default="")
    return name[: len(name) - len(longest)]


def visible(text: str) -> str:
    """Remove spaces around a text, and characters in it that show nothing, such as a zero-width space.

    Args:
        text: A cell of a table.

    Returns:
        What a person sees.
    """
    return _SHOWS_NOTHING.sub("", text).strip()


def _plain(text: str) -> str:
    """Return a text in lower case and one Unicode form, with single spaces, and no full stop at its end."""
    text = unicodedata.normalize("NFKC", visible(text)).casefold()
    text = _WHOLE_NUMBER.sub(r"\1", text) if _WHOLE_NUMBER.fullmatch(text) else text
    return re.sub(r"(?<=\w)[\s_-]+(?=\w)", " ", text).strip(" .<>()[]#")
