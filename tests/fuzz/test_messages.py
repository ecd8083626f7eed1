"""What the engine's process is told: it answers each line with a message or says why it is none."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import JUNK, TEXTS, attempt, cases, damaged, mutated
from tonno_core.errors import TonnoError
from tonno_core.protocol import ProtocolError, decode, encode
from tonno_core.settings import ReconstructionSettings, combine
from tonno_core.worker.exports import write_files
from tonno_core.worker.failures import failure_of
from tonno_core.worker.files import read_array
from tonno_core.worker.job import Job
from tonno_core.worker.requests import ReconstructRequest, RefineRequest, target_of

IDENTITY = np.eye(4).tolist()
LINE = encode("cancel", 7, target=3, options={"slices": 8})
NAMES = st.text(string.ascii_letters, min_size=1, max_size=8).filter(lambda name: name not in ("v", "id", "type"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


def told(line: bytes) -> dict[str, Any] | None:
    """The message of a line; where it is none, the answer can be sent."""
    try:
        return decode(line)
    except ProtocolError as error:
        assert encode("error", None, **failure_of(error).fields()).count(b"\n") == 1
        return None


@cases(60)
@given(
    st.one_of(st.binary(max_size=60), damaged(LINE), mutated(json.loads(LINE)).map(lambda v: json.dumps(v).encode()))
)
def test_any_line_is_a_message_or_refused(line: bytes) -> None:
    message = told(line)
    if message is not None:
        again = encode(message["type"], message["id"])
        assert decode(again)["type"] == message["type"]


@cases(30)
@given(st.text(), st.none() | st.integers(), st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_message_comes_back(kind: str, identifier: int | None, fields: dict[str, Any]) -> None:
    line = encode(kind, identifier, **fields)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert decode(line) == {"v": 1, "id": identifier, "type": kind, **fields}


@pytest.fixture(scope="module")
def request_fields(folder: Path) -> dict[str, Any]:
    """A right `reconstruct`."""
    np.save(folder / "volume.npy", np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    return {
        "volume": {"array": str(folder / "volume.npy"), "ijk_to_ras": IDENTITY}, "model": "pixel-sum",
        "folder": str(folder), "options": {"slices": 8, "directions": 4, "methods": ["tonno"]}, "classes": ["image"],
        "roi": {"ras_to_box": IDENTITY}, "zoom": True, "preset": "fast", "device": "cpu", "precision": "float32",
        "preview": False, "run": 1, "target": 3,
    }  # fmt: skip


@cases(70)
@given(st.data())
def test_a_request_is_understood_or_refused(request_fields: dict[str, Any], data: st.DataObject) -> None:
    fields = data.draw(mutated(request_fields))
    line = (
        encode("reconstruct", 1, **fields)
        if isinstance(fields, dict) and not {"v", "id", "type"} & fields.keys()
        else b"1"
    )
    message = told(line)
    for kind in (ReconstructRequest.of, RefineRequest.of, target_of) if message else ():
        try:
            kind(message)
        except ProtocolError as error:
            assert "\n" not in str(error)


@cases(20)
@given(st.data())
def test_a_volumes_file_is_numbers_or_refused(folder: Path, data: st.DataObject) -> None:
    np.save(folder / "right.npy", np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    content = data.draw(damaged((folder / "right.npy").read_bytes(), 128))
    (folder / "damaged.npy").write_bytes(content)
    try:
        array = read_array(folder / "damaged.npy")
    except (OSError, ValueError):
        return
    assert array.nbytes <= len(content)


@cases(40)
@given(st.data())
def test_an_export_is_written_into_its_folder_or_refused(folder: Path, data: st.DataObject) -> None:
    np.save(folder / "heatmap.npy", np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32))
    target = folder / "target"
    target.mkdir(exist_ok=True)
    right = {
        "folder": str(target), "volume": {"array": str(folder / "heatmap.npy"), "ijk_to_ras": IDENTITY, "forms": None},
        "volume_file": "h.nrrd", "profiles_file": "", "marks": [],
    }  # fmt: skip
    fields = data.draw(mutated(right, most=2))
    if not isinstance(fields, dict):
        return
    fields["folder"] = str(target)
    before = {path for path in folder.rglob("*") if path.parent != target}
    job = Job(1, fields, lambda *_, **__: None)
    try:
        write_files(job)
    except (ProtocolError, TonnoError) as error:
        assert "\n" not in str(error)
    assert {path for path in folder.rglob("*") if path.parent != target} == before


@cases(40)
@given(
    st.dictionaries(st.sampled_from(sorted(ReconstructionSettings().record())), JUNK, max_size=4),
    st.dictionaries(st.sampled_from(sorted(ReconstructionSettings().record())), JUNK, max_size=2),
    st.none() | st.just("fast") | TEXTS,
)
def test_settings_are_checked(explicit: dict[str, Any], defaults: dict[str, Any], preset: str | None) -> None:
    made = attempt(lambda: combine(defaults=defaults, preset=preset, explicit=explicit))
    if made is not None:
        json.dumps(made.record(), allow_nan=False)
        known = {"cam_directions": None} if made.cam_directions is None else {}
        assert replace(combine(defaults={}, explicit=made.record()), **known) == made
