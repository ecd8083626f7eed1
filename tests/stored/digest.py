"""What is kept of arrays and answers, and how two of them are compared. Numpy alone: both builds use this file."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_PLACES = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4)


def digest(array: Any) -> dict[str, Any]:
    """Shape, extremes, mean, standard deviation, and the values at five places along the diagonal."""
    values = np.asarray(array, dtype=np.float64)
    places = [tuple(int(place * size) for size in values.shape) for place in _PLACES] if values.size else []
    return {
        "shape": list(values.shape),
        "min": float(values.min()),
        "max": float(values.max()),
        "mean": float(values.mean()),
        "std": float(values.std()),
        "voxels": [float(values[place]) for place in places],
    }


def json_hash(content: Any) -> str:
    """The rule of commit 350c810 for what tells two runs apart: the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def rows_of(text: str) -> list[dict[str, Any]]:
    """A CSV file's rows, numbers as numbers."""
    return [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(io.StringIO(text))]


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def differences(
    now: Any, then: Any, *, rel: float, skip: Mapping[str, float | None] | None = None, where: str = ""
) -> list[str]:
    """Say in which places a JSON value is not what it was.

    Args:
        now: The value to judge. It may have more keys than ``then``, never fewer.
        then: What was stored.
        rel: Of numbers, allowed relative to the number; in lists of numbers and in digests, to the largest of them.
        skip: By key, a tolerance of its own; None for values that may be others altogether, of any type.
        where: The path to ``now``, for the sentences.
    """
    return list(_differences(now, then, rel, skip or {}, where))


def _differences(now: Any, then: Any, rel: float, skip: Mapping[str, float | None], where: str) -> Iterator[str]:
    if isinstance(then, dict):
        yield from _of_objects(now, then, rel, skip, where)
    elif isinstance(then, list):
        yield from _of_lists(now, then, rel, skip, where)
    elif _is_number(then) and _is_number(now):
        if not abs(now - then) <= rel * abs(then) + 1e-12:  # NaN is no number's equal
            yield f"{where} was {then}, is {now}"
    elif now != then:
        yield f"{where} was {then!r}, is {now!r}"


def _of_objects(
    now: Any, then: dict[str, Any], rel: float, skip: Mapping[str, float | None], where: str
) -> Iterator[str]:
    if not isinstance(now, dict):
        yield f"{where} was an object, is {now!r}"
        return
    if {"shape", "min", "max"} <= then.keys():
        yield from _of_digests(now, then, rel, where)
        return
    for name, value in then.items():
        place = f"{where}.{name}" if where else name
        if name not in now:
            yield f"{place} is missing"
        elif skip.get(name, rel) is not None:
            yield from _differences(now[name], value, skip.get(name) or rel, skip, place)


def _of_lists(now: Any, then: list[Any], rel: float, skip: Mapping[str, float | None], where: str) -> Iterator[str]:
    if not isinstance(now, list) or len(now) != len(then):
        yield f"{where} was {_short(then)}, is {_short(now)}"
    elif then and all(map(_is_number, then)) and all(map(_is_number, now)):
        error = np.abs(np.subtract(now, then)).max()
        if not error <= rel * np.abs(then).max():
            yield f"{where} was {_short(then)}, is {_short(now)} (apart by {error:.3g})"
    else:
        for number, (value, stored) in enumerate(zip(now, then, strict=True)):
            yield from _differences(value, stored, rel, skip, f"{where}[{number}]")


def _of_digests(now: dict[str, Any], then: dict[str, Any], rel: float, where: str) -> Iterator[str]:
    if now["shape"] != then["shape"]:
        yield f"{where}.shape was {then['shape']}, is {now['shape']}"
        return
    scale = max(abs(then["min"]), abs(then["max"]))
    for name in ("min", "max", "mean", "std", "voxels"):
        error = np.abs(np.subtract(now[name], then[name])).max()
        if not error <= rel * scale + np.finfo(np.float32).tiny:  # what a 0 inside of the planes is written as
            yield f"{where}.{name} was {then[name]}, is {now[name]} (apart by {error:.3g}, peak {scale:.3g})"


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:117]}..."
