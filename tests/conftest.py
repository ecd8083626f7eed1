"""What holds for every test of the engine."""

from __future__ import annotations

import locale
import signal
from collections.abc import Iterator

import pytest

from tests.offline import offline
from tonno_core.signals import ending_signals


@pytest.fixture(scope="session")
def connections() -> Iterator[list[str]]:
    """Where anything tried to connect to beyond this machine."""
    with offline() as tried:
        yield tried


@pytest.fixture(autouse=True)
def no_network(connections: list[str]) -> Iterator[None]:
    """No test tries to reach the internet."""
    connections.clear()
    yield
    assert connections == []


@pytest.fixture(autouse=True)
def same_locale() -> Iterator[None]:
    """GDCM leaves the locale "C" behind when it writes DICOM, as tests do: text of later tests would be ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)


@pytest.fixture
def kept_signals() -> Iterator[None]:
    """Take back the signal handlers that a command installs."""
    before = {number: signal.getsignal(number) for number in ending_signals()}
    yield
    for number, old in before.items():
        signal.signal(number, old)
