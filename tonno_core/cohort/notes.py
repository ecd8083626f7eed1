"""How a manifest was understood, where a person may have meant something else."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

from tonno_core.words import spelling, without_ending

_ONE_WORD = 0.9  # as tumour and tumor are alike
_SUBJECT = re.compile(r"(?:^|[/\\_])(sub-[A-Za-z0-9]+)")
_ROUNDED = re.compile(r"\d[.,]\d+E\+\d+", re.IGNORECASE)


def notes_on_names(classes: Sequence[str]) -> Iterator[str]:
    """Find names of classes that may be one.

    Args:
        classes: Their names, as labels have them.

    Yields:
        A line for each two.
    """
    for first, second in combinations(classes, 2):
        if difflib.SequenceMatcher(None, first.casefold(), second.casefold()).ratio() >= _ONE_WORD:
            yield f"classes {first!r} and {second!r} differ by little: spell one class one way"


def notes_on_patients(patients: Sequence[str], given: Sequence[bool], lines: Sequence[int]) -> Iterator[str]:
    """Find names of patients that may be of one person, or of several.

    Args:
        patients: Of each volume; the volume's own name, where none is given.
        given: Whether one is.
        lines: Of the manifest.

    Yields:
        A line for each kind.
    """
    spellings: dict[tuple[str, ...], dict[str, int]] = {}
    for name, line in zip(patients, lines, strict=True):
        spellings.setdefault(spelling(name), {}).setdefault(name, line)
    several = [names for names in spellings.values() if len(names) > 1]
    if several:
        shown = " and ".join(f"{name!r} (line {line})" for name, line in several[0].items())
        more = f", and {len(several) - 1} more such names" if len(several) > 1 else ""
        yield f"patients {shown} differ in spelling alone{more}: spell a person one way, or rename one of two"
    rounded = [
        f"{name!r} (line {line})" for name, line in zip(patients, lines, strict=True) if _ROUNDED.fullmatch(name)
    ]
    if rounded:
        yield f"patient {rounded[0]} looks like a long number that a spreadsheet rounded"
    without = [line for line, is_given in zip(lines, given, strict=True) if not is_given]
    if without and any(given):
        yield f"no patient in {len(without)} of {len(lines)} lines, such as {without[0]}: each is its own patient"
    subjects = Counter(match[1] for name in patients if (match := _SUBJECT.search(name)))
    if not any(given) and 1 < len(subjects) < subjects.total():
        name, count = subjects.most_common(1)[0]
        yield f"no column patient, but {count} volumes are of {name}: without it, each is its own patient"


def notes_on_files(volumes: Sequence[Path], lines: Sequence[int]) -> Iterator[str]:
    """Find volumes whose names differ in their endings alone, as of a file and its compressed copy.

    Args:
        volumes: Absolute paths.
        lines: Of the manifest.

    Yields:
        A line for each.
    """
    line_of: dict[str, int] = {}
    for volume, line in zip(volumes, lines, strict=True):
        first = line_of.setdefault(without_ending(str(volume)), line)
        if first != line:
            yield f"the volumes of lines {first} and {line} have one name but for the ending: is it one scan twice?"
