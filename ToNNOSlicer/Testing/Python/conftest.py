"""A fresh scene for every test; all of them are skipped, with the reason, where Slicer's libraries cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("slicer_core"):
    from slicer_host import provide_i18n

    provide_i18n()  # the module's files import it


class _Skipped(pytest.Module):
    def collect(self) -> Any:
        pytest.skip("the package slicer-core (Slicer's MRML libraries) is not installed", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    return None if find_spec("slicer_core") else _Skipped.from_parent(parent, path=module_path)


@pytest.fixture
def host() -> Iterator[Any]:
    """A `slicer_host.Host`; the test fails if VTK or MRML report a warning or an error that it did not take."""
    from slicer_host import Host

    host = Host()
    yield host
    said = host.messages.text
    host.close()
    assert not said, said


@pytest.fixture
def logic(host: Any) -> Iterator[Any]:
    from ToNNOSlicerLib.logic import ToNNOLogic

    logic = ToNNOLogic(host.scene, host.applicationLogic)
    yield logic
    logic.cleanUp()
