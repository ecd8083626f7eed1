"""Qt's event loop as the application runs it: in C++, with the interpreter's lock held.

PySide gives the lock away while Qt works or waits, so a thread of Python's runs beside the window. The application
does not: its loop is entered from C++, and PythonQt gives the lock away only around what Python code calls in Qt.
Another thread runs when a slot written in Python waits (`time.sleep`, `Thread.join`), calls into Qt, or is older than
the switch interval of 5 ms; then the window waits until that thread gives the lock back, which a library that is
being loaded does late.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import shiboken6
from PySide6 import QtCore

_ALL_EVENTS = 0
_TURN_MS = 20  # how long one turn may take, and how often `until` is asked: each time a thread may get the lock


def _held(symbol: str, *arguments: Any) -> Callable[..., int] | None:
    """A function of Qt's library, called without giving the lock away; None where the library is not as on Linux."""
    folder = Path(QtCore.QLibraryInfo.path(QtCore.QLibraryInfo.LibraryPath.LibrariesPath))
    try:
        function = getattr(ctypes.PyDLL(str(folder / "libQt6Core.so.6")), symbol)
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = list(arguments), ctypes.c_int
    return function


_exec = _held("_ZN10QEventLoop4execE6QFlagsINS_17ProcessEventsFlagEE", ctypes.c_void_p, ctypes.c_int)
_turn = _held("_ZN10QEventLoop13processEventsE6QFlagsINS_17ProcessEventsFlagEEi", ctypes.c_void_p, *[ctypes.c_int] * 2)
HOLDS_THE_LOCK = sys.platform == "linux" and None not in (_exec, _turn)


def turn() -> None:
    """What waits to be done now."""
    loop = QtCore.QEventLoop()
    if HOLDS_THE_LOCK:
        _turn(shiboken6.getCppPointer(loop)[0], _ALL_EVENTS, _TURN_MS)
    else:
        loop.processEvents(QtCore.QEventLoop.ProcessEventsFlag.AllEvents, _TURN_MS)


def run(milliseconds: float, until: Callable[[], bool]) -> bool:
    """Run until `until` holds, or for so long; tells whether it held."""
    loop, turns, end = QtCore.QEventLoop(), QtCore.QTimer(), time.monotonic() + milliseconds / 1000
    turns.timeout.connect(loop.quit)  # in C++: no Python runs, and no thread of its own, between two turns
    turns.start(min(_TURN_MS, max(1, round(milliseconds))))
    address = shiboken6.getCppPointer(loop)[0]
    try:
        while True:
            _exec(address, _ALL_EVENTS) if HOLDS_THE_LOCK else loop.exec()
            if until():
                return True
            if time.monotonic() >= end:
                return False
    finally:
        turns.stop()
