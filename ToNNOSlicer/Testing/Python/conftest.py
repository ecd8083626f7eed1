"""A fresh scene for every test, and none where Slicer's libraries cannot be had."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def host() -> Iterator[Any]:
    """A `slicer_host.Host`; the test fails if VTK or MRML report a warning or an error that it did not take."""
    pytest.importorskip("slicer_core", reason="the package slicer-core (Slicer's MRML libraries) is not installed here")
    from slicer_host import Host

    host = Host()
    yield host
    said = host.messages.text
    host.close()
    assert not said, said
