"""What holds for every test of the engine."""

from __future__ import annotations

import locale
import os
from collections.abc import Iterator

import pytest

# No timing decides what a test computes, and none writes into the cache of who runs it.
os.environ["TONNO_PROBE"] = "off"


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """GDCM leaves the locale "C" behind when it writes DICOM, as tests do: text of later tests would be ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
