"""Manifests: what is written is read back, and any table is understood or refused in one line."""

from __future__ import annotations

import json
import string
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.strategies import TEXTS, attempt, cases, damaged, mutated
from tonno_core.cohort.manifest import Case, Manifest, read_for_model, read_manifest, read_volumes, write_manifest
from tonno_core.cohort.mask import parse_values
from tonno_core.settings import parse_stages
from tonno_core.training.run_folder import RunFolder, recorded_setting
from tonno_core.training.settings import TrainingSettings
from tonno_core.volume.intensity import parse_intensity

RIGHT = 'volume,label,mask,patient,split\na.nii,1,m.nii#1+2,"P, 1",train\nb.nii,0,,P2,val\nc.nii,1,,"P ""3""",test\n'
CELLS = st.one_of(
    st.sampled_from(
        ["", "0", "1", "volume", "label", "label:a", "mask", "mask_label", "patient", "split", "a.nii", "b.nii",
         "../a.nii",
         "train", "val", "lesion", "none", "nan", "1.0", "1e400", '"', '""', "\t", ";", "a\nb", "#1", "m.nii#0",
         "m.nii#any",
         "\u200b", "\ufeff", "sep=;", "x" * 300, "9" * 400, "~", "."]
    ),
    st.text(max_size=6),
)  # fmt: skip


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Cells with any delimiter, quoted or not, in several encodings; or a right table with damage."""
    if draw(st.booleans()):
        return draw(damaged(RIGHT.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"])))))
    delimiter = draw(st.sampled_from([",", ",", ";", "\t", "|"]))
    head = draw(st.lists(CELLS, max_size=3))
    head = draw(st.permutations([*head, "volume", *draw(st.sampled_from([[], ["label"], ["label:a", "label:b"]]))]))
    rows = [head, *draw(st.lists(st.lists(CELLS, max_size=6), max_size=4))]
    if draw(st.booleans()):
        rows = [["volume", "label"], *([f"{letter}.nii", *row] for letter, row in zip("abc", rows[1:], strict=False))]
    quoted = draw(st.booleans())
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    text = end.join(
        delimiter.join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in row) for row in rows
    )
    said = draw(st.sampled_from(["", "", "", f"sep={delimiter}{end}", "sep=", 'sep="\n', "sep=\r\n", "sep=a\n"]))
    return (said + text).encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"])), errors="surrogatepass")


@pytest.fixture(scope="module")
def place(folder: Path) -> Path:
    for name in ("a.nii", "b.nii", "c.nii"):
        (folder / name).write_bytes(b"")
    return folder


@cases(110)
@given(tables())
def test_any_table_is_understood_or_refused(place: Path, content: bytes) -> None:
    path = place / "table.csv"
    path.write_bytes(content)
    for absent in (False, True):
        attempt(partial(read_volumes, path, absent=absent))
        attempt(partial(read_manifest, path, absent=absent, target="number"))
        attempt(partial(read_for_model, path, ("lesion", "none"), absent=absent))
        manifest = attempt(partial(read_manifest, path, absent=absent))
        if manifest is not None:
            attempt(partial(write_manifest, place / "again.csv", manifest))


NAMES = st.text(string.ascii_letters + string.digits + " ,;'\"#%()äß病-_.", min_size=1, max_size=12).filter(
    lambda name: name == name.strip() and name.strip(". ")
)


@cases(40)
@given(st.lists(NAMES, min_size=1, max_size=5, unique_by=str.casefold), st.data())
def test_a_manifest_comes_back(folder: Path, names: list[str], data: st.DataObject) -> None:
    patients = data.draw(
        st.lists(st.sampled_from(["P1", "Q2", "R, 3", 'S "4"']), min_size=len(names), max_size=len(names))
    )
    parts = data.draw(st.sampled_from([{}, {"P1": "train", "Q2": "val", "R, 3": "test", 'S "4"': "train"}]))
    listed = tuple(
        Case(
            folder / "images" / f"{name}.nii", (data.draw(st.integers(0, 1)),),
            (data.draw(st.sampled_from([None, folder / "masks" / "m.nii"])),), patient, parts.get(patient, ""),
        )
        for name, patient in zip(names, patients, strict=True)
    )  # fmt: skip
    written = Manifest(folder / "m.csv", ("finding",), listed)
    write_manifest(folder / "m.csv", written)
    assert read_manifest(folder / "m.csv", absent=True).cases == listed


@cases(30)
@given(TEXTS | st.text(st.sampled_from("0123456789+.,:-einfawdow"), max_size=20))
def test_words_of_options_are_understood_or_refused(text: str) -> None:
    attempt(lambda: parse_intensity(text))
    attempt(lambda: parse_intensity(f"window:{text}"))
    attempt(lambda: parse_stages(text))
    try:
        parse_values(text)
    except ValueError as error:  # as it says
        assert "mask" in str(error)


@cases(30)
@given(st.data())
def test_a_runs_own_files_are_understood_or_refused(folder: Path, data: st.DataObject) -> None:
    settings = TrainingSettings(classes=("finding",))
    manifest = Manifest(folder / "m.csv", ("finding",), (Case(folder / "a.nii", (1,), (None,), "P", "train"),))
    run = RunFolder(folder / "run", settings, manifest)
    run.open()
    right = json.loads((folder / "run" / "run.json").read_text())
    (folder / "run" / "run.json").write_text(json.dumps(data.draw(mutated(right))))
    attempt(run.check)
    recorded_setting(folder / "run", "seed")
    (folder / "run" / "measured.json").write_text(json.dumps(data.draw(mutated({"radius_mm": 80.0}))))
    radius = attempt(lambda: run.measured(lambda: 80.0))
    assert radius is None or 0 < radius < float("inf")
