"""What a stranger, a slip of the pen or a broken disk makes of files and messages that were right."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tonno_core.errors import TonnoError

T = TypeVar("T")
Json = Any
# Cases, about. The same ones each time, but where somebody asks for more than usual.
USUAL = 500
CASES = int(os.environ.get("TONNO_FUZZ", USUAL))


def cases(share: float) -> Callable[[T], T]:
    """Give a test its share of `CASES`, in thousandths; all tests together have a third more."""
    return settings(  # type: ignore[return-value]
        max_examples=max(1, round(CASES * share / 1000)),
        derandomize=CASES <= USUAL,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )


def attempt(action: Callable[[], T]) -> T | None:
    """Do it, or be told in one line why not. Any other exception, or warning, is a fault and goes on."""
    try:
        return action()
    except TonnoError as error:
        assert str(error).strip() and "\n" not in str(error), repr(error)
        assert len(str(error)) < 12_000
        return None


# -------------------- bytes


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int | None = None) -> bytes:
    """Some bytes replaced, mostly among the first ``most``; sometimes cut off, or with more at the end."""
    data = bytearray(content)
    edits = st.tuples(st.integers(0, (most or len(data)) - 1), st.binary(min_size=1, max_size=8))
    for place, piece in draw(st.lists(edits, min_size=1, max_size=4)):
        data[place : place + len(piece)] = piece
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return bytes(data[: draw(st.integers(0, len(data)))])
    return bytes(data) + draw(st.binary(max_size=40)) if kind == 1 else bytes(data)


# -------------------- JSON

NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([8, 224, 2**31, 2**40, 2**63, -(2**63), 10**18, 10**400]),
    st.floats(),
    st.floats(-2, 2),
)
TEXTS = st.one_of(
    st.sampled_from(
        ["", "0", "none", "1+2", "../x", "/etc/passwd", "hf-hub:a/b", "a\0b", "\ud800", "9" * 5000, "x" * 5000]
    ),
    st.text(max_size=8),
)
JUNK: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(value: Json, most: int = 400) -> list[tuple[Any, ...]]:
    """The paths of all that is in a value, down to its leaves."""
    found: list[tuple[Any, ...]] = [()]
    for path in found:
        here = value
        for step in path:
            here = here[step]
        steps = list(here) if isinstance(here, dict) else range(len(here)) if isinstance(here, list) else ()
        found += [(*path, step) for step in steps][: most - len(found)]
    return found[1:]


@st.composite
def mutated(draw: st.DrawFn, value: Json, *, most: int = 3) -> Json:
    """Some of it replaced, removed, or something added."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        path = draw(st.sampled_from(places(changed) or [()]))
        if not path:
            return draw(JUNK)
        holder = changed
        for step in path[:-1]:
            holder = holder[step]
        kind = draw(st.integers(0, 9))
        if kind == 0:
            del holder[path[-1]]
        elif kind == 1 and isinstance(holder, dict):
            holder[draw(st.text(max_size=6))] = draw(JUNK)
        elif kind == 2 and isinstance(holder[path[-1]], str):
            holder[path[-1]] = draw(TEXTS)
        elif kind <= 4 and isinstance(holder[path[-1]], (int, float)):
            holder[path[-1]] = draw(NUMBERS)
        else:
            holder[path[-1]] = draw(JUNK)
    return changed


# What slips through a check of types alone.
ODD = st.sampled_from([float("nan"), float("inf"), -float("inf"), 10**400, 1e308, -1, 2, 0.5, None, "1", [], {}, True])


def without(value: Any, *path: Any) -> Any:
    """A copy of a JSON value without the last step of a path."""
    changed = json.loads(json.dumps(value))
    here = changed
    for step in path[:-1]:
        here = here[step]
    del here[path[-1]]
    return changed


def changed_to(value: Any, new: Any, *path: Any) -> Any:
    """A copy with another value at the end of a path."""
    changed = json.loads(json.dumps(value))
    here = changed
    for step in path[:-1]:
        here = here[step]
    here[path[-1]] = new
    return changed


@st.composite
def one_changed(draw: st.DrawFn, value: Any) -> Any:
    """One value or a few of it are others; mostly of the kind that slips through a check of types alone."""
    if draw(st.booleans()):
        return draw(mutated(value))
    return changed_to(value, draw(ODD | NUMBERS), *draw(st.sampled_from(places(value))))


def text_of(value: Any) -> bytes:
    return json.dumps(value).encode()
