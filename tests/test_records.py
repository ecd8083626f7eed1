"""What the engine wrote is read back as it was, or refused with what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from tonno_core.records import made_of, read_record


@dataclass(frozen=True)
class Point:
    """A place with a name."""

    at: tuple[float, float]
    name: str = ""


@dataclass(frozen=True)
class Kept:
    """A field of each kind."""

    count: int
    done: bool
    kind: Literal["a", "b"]
    size: float | None
    model: str | dict[str, Any]
    points: tuple[Point, ...]
    columns: Mapping[str, str]
    values: Sequence[float] = ()
    more: list[int] = field(default_factory=list)


KEPT = Kept(1, True, "b", None, {"x": [1]}, (Point((0.5, 1.0), "é"), Point((2.0, 3.0))), {"side": "left"}, (1.5,), [2])


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(asdict(KEPT)))
    assert made_of(Kept, read_record(tmp_path / "a.json")) == KEPT
    whole = json.loads(json.dumps(asdict(KEPT))) | {"model": "identity", "size": 2}
    made = made_of(Kept, {**whole, "later": 1}, others=True)
    assert made.model == "identity" and type(made.size) is float


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("count", -1, "count is -1"), ("count", True, "count is true"), ("count", 1.0, "count is 1.0"),
        ("done", 1, "done is 1"), ("kind", "c", 'kind is "c"'), ("size", 1e101, r"size is 1e\+101"),
        ("size", 10**400, "size is 1000"), ("size", True, "size is true"), ("size", "1", 'size is "1"'),
        ("model", 3, "model is 3"),
        ("points", {}, "points is {}"), ("points", [{"at": [1.0]}], "at has 1 values, expected 2"),
        ("points", [{"name": ""}], r'points\[0\] lacks "at"'), ("points", [{"at": [1, None]}], r"at\[1\] is null"),
        ("columns", {"side": 1}, "columns is 1"), ("columns", {"side": "a\0b"}, "columns is"),
        ("columns", {"\ud800": ""}, "surrogates not allowed"), ("later", 1, 'the file has "later"'),
    ],
)  # fmt: skip
def test_anything_else_is_refused(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made_of(Kept, {**json.loads(json.dumps(asdict(KEPT))), name: value})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "holds a list, expected an object"), ('{"a": NaN}', "a number is NaN"), ("{", "Expecting property name"),
        ('{"a": [-Infinity]}', "a number is -Infinity"), ('{"a": 1e999}', "a number is 1e999"),
        ("[" * 100_000, "nested too deep"), ('{"a": ' + "9" * 5000 + "}", "limit"),
    ],
)  # fmt: skip
def test_no_record_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_record(tmp_path / "a.json")
