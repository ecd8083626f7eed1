"""Messages to lines and back, and what is no message."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tonno_core.protocol import MAX_LINE, VERSION, ProtocolError, decode, encode


def test_a_message_comes_back_as_it_was() -> None:
    fields = {"folder": "/tmp/größe\n\u2028", "roi": None, "options": {"methods": ["tonno"], "slices": 3}, "x": 0.1}
    line = encode("reconstruct", 7, **fields)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1  # a line feed inside a text must not end the line
    assert decode(line) == {"v": VERSION, "id": 7, "type": "reconstruct", **fields}


def test_numbers_that_json_does_not_have_are_null() -> None:
    line = encode("result", 1, score=float("nan"), deep=[(float("inf"), 1.5)])
    assert json.loads(line)["score"] is None
    assert json.loads(line)["deep"] == [[None, 1.5]]


def test_a_name_that_is_not_utf8_comes_back_as_it_was() -> None:
    """As the system's names of files may be; JSON can say half of a surrogate pair, UTF-8 cannot."""
    asked = decode(b'{"v": 1, "id": 1, "type": "\\udcff"}')
    line = encode(asked["type"], 1, folder="/data/\udc80")
    line.decode("utf-8")
    assert (decode(line)["type"], decode(line)["folder"]) == ("\udcff", "/data/\udc80")


def test_an_id_may_be_missing() -> None:
    assert decode(b'{"v": 1, "type": "shutdown"}')["id"] is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"loading weights: 100%", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b'{"v": 1, "type": "ready"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"v": 1, "type": "ready", "id": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"3", "a JSON int"),
        (b'{"type": "ready"}', "version None, expected 1"),
        (b'{"v": 2, "type": "ready"}', "version 2, expected 1"),
        (b'{"v": true, "type": "ready"}', "version True"),
        (b'{"v": 1}', "without a type"),
        (b'{"v": 1, "type": 4}', "without a type"),
        (b'{"v": 1, "type": "ready", "id": "7"}', "the id '7'"),
        (b'{"v": 1, "type": "ready", "id": true}', "the id True"),
        (b" " * (MAX_LINE + 1), "more than"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(line: bytes, expected: str) -> None:
    with pytest.raises(ProtocolError, match=expected):
        decode(line)


def test_it_needs_the_standard_library_only() -> None:
    """The module in Slicer loads it before anything is installed."""
    code = (
        "import sys, tonno_core.protocol; "
        "found = {'numpy', 'torch', 'scipy', 'SimpleITK', 'timm'} & set(sys.modules); sys.exit(', '.join(found) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
