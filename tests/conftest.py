"""What holds for every test of the engine."""

from __future__ import annotations

import locale
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """GDCM leaves the locale "C" behind when it writes DICOM, as tests do: text of later tests would be ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
