"""Work that would hold the window for a tenth of a second, on a thread of its own.

Files and arrays only: no nodes, and no import of a library. The application's event loop holds the interpreter's lock,
and so does a library while it is loaded (SimpleITK for 0.1 to 0.2 s at a stretch): the window would wait for both.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Background(threading.Thread):
    """Calls a function at once; when the thread has ended, `result` has its value, or `error` what it raised.

    Args:
        work: The function.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.result: Any = None
        self.error: Exception | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        """Call the function, on the thread."""
        try:
            self.result = self._work()
        except Exception as error:  # told by whoever asks for the result
            self.error = error
