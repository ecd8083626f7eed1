"""What holds for every test of the engine."""

from __future__ import annotations

import locale
import signal
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.offline import offline
from tonno_core.signals import ending_signals


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with a slow test first, then those of many tests.

    By `--dist loadfile` processes take the files in this order: one that took a minute and came last would leave the
    other cores without work.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path]))


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
