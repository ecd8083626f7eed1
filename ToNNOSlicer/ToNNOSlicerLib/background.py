"""Work that would hold the window for a tenth of a second, on a thread of its own. No nodes in there."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_SLOW_IMPORTS = ("scipy.ndimage", "scipy.sparse.csgraph", "SimpleITK")


class Background(threading.Thread):
    """Calls `work` at once; when the thread has ended, `result` has its answer, or `error` what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.result: Any = None
        self.error: Exception | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # told by whoever asks for the result
            self.error = error


def importAhead() -> None:
    """While the engine works: the first use of these would hold the window."""
    for name in _SLOW_IMPORTS:
        with suppress(ImportError):
            importlib.import_module(name)
