"""One folder and little memory for all cases of a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory import little_memory


@pytest.fixture(autouse=True, scope="module")
def limited() -> Iterator[None]:
    """What takes gigabytes because a file says so fails here."""
    with little_memory(3 << 30):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all cases: one for each would be thousands."""
    return tmp_path_factory.mktemp("fuzz")
