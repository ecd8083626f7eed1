"""Names of cases: new ones by their number in the list, known ones as they are, wherever they stand in it now."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tonno_core.cohort.source import content_of
from tonno_core.words import without_ending


def case_name(number: int, volume: Path) -> str:
    """Name a case for files and tables.

    Args:
        number: The volume's place in the manifest, from 1, which makes the name unique.
        volume: The volume's file or folder.

    Returns:
        Such as "0012-head" for ``head.nii.gz``.
    """
    stem = without_ending(volume.name)
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]}"


def is_case_name(text: str) -> bool:
    """Tell whether `case_name` can have made a name, so that no file of that name is outside of its folder.

    Args:
        text: As a file states it.

    Returns:
        Whether it can.
    """
    return re.fullmatch(r"[0-9]{4,18}-[A-Za-z0-9._-]*", text) is not None


def name_cases(
    volumes: Sequence[tuple[int, Path]], known: Mapping[str, str], content: Callable[[str], str | None]
) -> list[str]:
    """Name the cases of a list, whose results may be there from an earlier list.

    A volume is known by its place, or where it has moved by its own name and its bytes. No result of another volume is
    given up: a new case whose number is taken gets the next free one.

    Args:
        volumes: Of each case its number in the list, and its file or folder.
        known: Places of volumes by the names of their cases.
        content: Returns the hash of the volume that a case's results are of; None without results.

    Returns:
        A name for each, all different.
    """
    by_place = {place: name for name, place in known.items()}
    names = [by_place.get(str(volume)) for _, volume in volumes]
    taken = {name for name in names if name is not None}
    moved: dict[str, list[str]] = {}
    for name, place in known.items():
        if name not in taken:
            moved.setdefault(Path(place).name, []).append(name)
    for index, (_, volume) in enumerate(volumes):
        if names[index] is None and volume.name in moved:
            found = _same(volume, [name for name in moved[volume.name] if name not in taken], content)
            if found is not None:
                names[index] = found
                taken.add(found)
    used = {_number(name) for name in known if name in taken or content(name) is not None}
    new = [number for (number, _), name in zip(volumes, names, strict=True) if name is None]
    highest = max([*used, *(number for number in new if number not in used)], default=0)
    for index, (number, volume) in enumerate(volumes):
        if names[index] is None:
            highest += number in used
            names[index] = case_name(highest if number in used else number, volume)
    return [name for name in names if name is not None]


def _number(name: str) -> int:
    return int(name.partition("-")[0])


def _same(volume: Path, names: Sequence[str], content: Callable[[str], str | None]) -> str | None:
    """Find the case whose results are of the same bytes."""
    candidates = {found: name for name in reversed(names) if (found := content(name))}
    if not candidates:
        return None
    with suppress(OSError):
        return candidates.get(content_of(volume))
    return None
