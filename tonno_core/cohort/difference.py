"""In what two runs differ, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tonno_core.output import Json

# What is noted of a run beside what it is; and what earlier builds did not note.
_NOTED = ("manifest", "run", "cases")
_LATER = ("heatmaps",)
_SHOWN = 3
_ARGUMENTS = {"class": "class_name", "methods": "methods"}


def differences(kept: Json, asked: Json) -> str:
    """Say in what the run of a folder and the one that is asked for differ; their lists of cases do not matter.

    Args:
        kept: Content of the folder's ``settings.json``.
        asked: What it would be now.

    Returns:
        The first few values, with arguments in backquotes; "" where there is no difference.
    """
    later = [name for name in _LATER if name not in kept]
    one, other = ({key: value for key, value in run.items() if key not in (*_NOTED, *later)} for run in (kept, asked))
    said = list(dict.fromkeys(_differing(one, other, ())))
    if len(said) > 1:  # it follows from the others
        said = [text for text in said if not text.startswith("`cam_directions`")]
    if any(text.startswith("the model's network") for text in said):
        said = [text for text in said if not text.startswith(("the model's", "what the model")) or "network" in text]
    more = f"; and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
    return "; ".join(said[:_SHOWN]) + more


def _differing(kept: Any, asked: Any, place: tuple[str, ...]) -> Iterator[str]:
    """Say each difference below a place in the settings."""
    if not isinstance(kept, dict) or not isinstance(asked, dict):
        if kept != asked:
            yield _said(place, kept, asked)
        return
    for key in dict.fromkeys((*asked, *kept)):
        here = (*place, str(key))
        if key in kept and key in asked:
            yield from _differing(kept[key], asked[key], here)
        elif place == ("model", "about"):
            yield _said(here, kept.get(key), asked.get(key))
        else:
            yield f"{' '.join(here)} is only in {'this' if key in asked else 'that'} one"


def _said(place: tuple[str, ...], kept: Any, asked: Any) -> str:
    """Say a difference of two values that are there."""
    was_now = f"was {_text(kept)}, now {_text(asked)}"
    match place:
        case ("tonno",):
            return f"tonno's version {was_now}"
        case ("model",):
            return f"the model {was_now}"
        case ("model", "encoder"):
            return f"the model's network {was_now}"
        case ("model", "sha256"):
            return "the model's weights are others"
        case ("model", "about", *_):
            return f"what the model says of its {' '.join(place[2:]) or 'origin'} {was_now}"
        case ("heatmaps" | "rows", row, *rest):
            return f"the model's {' '.join(rest)} for {row} {was_now}"
        case ("region", *_):
            return f"the `region` {was_now}" if len(place) == 1 else "the `region` is another"
    name = place[-1]
    return f"`{_ARGUMENTS.get(name, name)}` {was_now}"


def _text(value: Any) -> str:
    """Write a value as a person would."""
    if isinstance(value, dict):
        return str(value.get("encoder", "given"))
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    words = {None: "not given", True: "on", False: "off"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
