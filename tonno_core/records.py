"""JSON that the engine wrote and reads back: whatever has become of a file meanwhile, it is as written, or refused."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tonno_core.output import Json
from tonno_core.settings import is_finite_number

T = TypeVar("T")
# No number of a record is larger; sums and differences of such numbers are finite.
_LARGEST = 1e100


def read_record(path: Path) -> Json:
    """Read a JSON object as the engine writes them.

    Args:
        path: The file.

    Returns:
        The object.

    Raises:
        OSError: The file cannot be read, or there is none.
        ValueError: It holds something else, or a number that is not finite, which the engine never writes.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refused, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, expected an object")
    return content


def made_of(kind: type[T], value: object, place: str = "the file", *, others: bool = False) -> T:
    """Make a value of a type from what JSON holds.

    Args:
        kind: A class of `dataclasses`, or a type of its fields: numbers, texts, words of `Literal`, lists and
            dictionaries of such, or `Any`, which may be anything. Whole numbers are 0 and up, numbers finite, and texts
            have UTF-8 without NUL.
        value: From `read_record`.
        place: How a message calls it.
        others: Whether objects may have other keys than their class, which are passed over: where other builds keep
            more, or less is asked for than is kept.

    Returns:
        The value.

    Raises:
        ValueError: It is something else, or lacks a key; says which.
    """
    return cast(T, _made(kind, value, place, others))


def _made(kind: Any, value: Any, place: str, others: bool) -> Any:
    outer, inner = get_origin(kind) or kind, get_args(kind)
    if kind is Any:
        return value
    if outer in (Union, UnionType):
        return _made_one_of(inner, value, place, others)
    if is_dataclass(kind) and isinstance(value, dict):
        return _made_class(kind, value, place, others)
    if outer in (tuple, list, Sequence) and isinstance(value, list):
        return _made_list(outer, inner, value, place, others)
    if outer in (dict, Mapping) and isinstance(value, dict):
        return {_made(str, name, place, others): _made(inner[1], each, place, others) for name, each in value.items()}
    if outer is float and is_finite_number(value) and abs(value) <= _LARGEST:
        return float(value)
    if outer is str and isinstance(value, str) and "\0" not in value:  # which no file's name has
        value.encode()  # what has no UTF-8 cannot be written to a table
        return value
    if (outer is bool and isinstance(value, bool)) or (outer is int and type(value) is int and 0 <= value < _LARGEST):
        return value
    if outer is Literal and isinstance(value, str) and value in inner:
        return value
    raise ValueError(f"{place} is {json.dumps(value)[:30]}")


def _made_one_of(kinds: Sequence[Any], value: Any, place: str, others: bool) -> Any:
    """Make a value of the first of some types that it can be; None is tried first."""
    if value is None and NoneType in kinds:
        return None
    *first, last = (kind for kind in kinds if kind is not NoneType)
    for kind in first:
        try:
            return _made(kind, value, place, others)
        except ValueError:
            continue
    return _made(last, value, place, others)


def _made_class(kind: Any, value: Json, place: str, others: bool) -> Any:
    hints, needed = _fields(kind)
    lacking, odd = needed - value.keys(), value.keys() - hints.keys()
    if lacking or (odd and not others):
        raise ValueError(f"{place} {'lacks' if lacking else 'has'} {json.dumps(min(lacking or odd))[:30]}")
    return kind(**{name: _made(hints[name], value[name], name, others) for name in hints.keys() & value.keys()})


def _made_list(outer: Any, inner: tuple[Any, ...], value: list[Any], place: str, others: bool) -> Any:
    """Make a list or a tuple, of any length unless the type has a kind for each place."""
    fixed = outer is tuple and (len(inner) < 2 or inner[1] is not Ellipsis)
    if fixed and len(value) != len(inner):
        raise ValueError(f"{place} has {len(value)} values, expected {len(inner)}")
    kinds = inner if fixed else inner[:1] * len(value)
    made = (
        _made(kind, each, f"{place}[{at}]", others) for at, (kind, each) in enumerate(zip(kinds, value, strict=True))
    )
    return list(made) if outer is list else tuple(made)


@lru_cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """Return the types of a class's fields, and the names of those that must be there."""
    missing = dataclasses.MISSING
    needed = (each.name for each in dataclasses.fields(kind) if each.default is each.default_factory is missing)
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}, frozenset(needed)


def _refused(text: str) -> float:
    raise ValueError(f"a number is {text}")


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refused(text)
