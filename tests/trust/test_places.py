"""SECURITY.md: what is written stays where it was asked for, is private until it is whole, and goes after a failure.

Folders and files that appear whole or not at all: tests/test_output.py. Folders of the Slicer module's requests:
tests/worker/test_faults.py.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.networks import write_random_bundle
from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file, output_folder
from tonno_core.protocol import ProtocolError
from tonno_core.volume.volume import Volume
from tonno_core.worker.exports import Export, write_files
from tonno_core.worker.job import Job

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="rights of POSIX")


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_is_private_until_it_is_whole_and_then_as_the_user_has_it(umask: int, tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", overwrite=False) as temporary:
        (temporary / "a").write_text("a")
        assert rights(temporary) == 0o700
    assert rights(tmp_path / "out") == 0o777 & ~umask
    assert rights(tmp_path / "out" / "a") == 0o666 & ~umask
    with output_folder(tmp_path / "out", overwrite=True) as temporary:
        assert rights(temporary) == 0o700
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]


def test_a_model_is_as_readable_as_the_user_has_it(umask: int, tmp_path: Path) -> None:
    folder = write_random_bundle(tmp_path / "model")
    assert {path.name: rights(path) for path in folder.iterdir()} == dict.fromkeys(
        ("model.json", "model.safetensors"), 0o666 & ~umask
    )


def test_a_file_is_written_where_nobody_else_may_look(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as partial:
        assert rights(partial.parent) == 0o700
        partial.write_text("a")
    with pytest.raises(KeyError), atomic_file(tmp_path / "b") as partial:
        partial.write_text("b")
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_link_at_the_place_of_a_result_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "a").symlink_to(tmp_path / "precious")
    with atomic_file(tmp_path / "a") as partial:
        partial.write_text("result")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "a").read_text() == "result" and not (tmp_path / "a").is_symlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "precious")
    with output_folder(tmp_path / "out", overwrite=True) as temporary:
        (temporary / "a").write_text("result")
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["../h.nrrd", "sub/h.nrrd", "/h.nrrd", "..\\h.nrrd", "..", 3, ["h.nrrd"]])
def test_files_of_an_export_lie_in_its_folder(name: object, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    volume = Volume(np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32), np.eye(4))
    fields = {"folder": str(folder), **Export(volume, "h.nrrd").fields(tmp_path), "volume_file": name}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises((ProtocolError, TonnoError), match="expected the name of one in its folder"):
        write_files(Job(1, fields, lambda *_, **__: None))
    assert sorted(tmp_path.rglob("*")) == before
