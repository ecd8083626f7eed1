"""A request that takes time: its reports, and how it is cancelled or stopped while it runs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tonno_core.output import Json
from tonno_core.protocol import FINAL
from tonno_core.reporting import Cancelled

Send = Callable[..., None]
_PROGRESS_INTERVAL_S = 0.1


class Job:
    """A request between its arrival and its final event, of which there is exactly one.

    Two threads meet here: the one that computes, and the one that reads requests and may cancel. A cancel is
    answered at once, also while a library that cannot be interrupted is loading; what the computation says
    after that is dropped, and it writes no file any more.

    Args:
        identifier: The request's id.
        fields: The request.
        send: Sends an event, as `Channel.send` does.
    """

    def __init__(self, identifier: int, fields: Json, send: Send) -> None:
        self.identifier, self.fields = identifier, fields
        self._send = send
        self._lock = threading.RLock()
        self._finished = threading.Event()
        self._cancelled = threading.Event()
        self._stopped = threading.Event()
        self._started = self._step_started = time.monotonic()
        self._step, self._step_done, self._reported = "", 0, 0.0

    # --- for the thread that reads requests

    def cancel(self) -> None:
        """Answer ``cancelled``, unless the final event is out already. A file that is being written is given up."""
        self._cancelled.set()
        self.finish("cancelled")

    def stop(self) -> None:
        """Ask for an early end with what is there by then."""
        self._stopped.set()

    # --- for the thread that computes

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this any more."""
        return self._cancelled.is_set()

    @property
    def stopped(self) -> bool:
        """Whether an early end was asked for."""
        return self._stopped.is_set()

    @property
    def finished(self) -> bool:
        """Whether the final event is out."""
        return self._finished.is_set()

    def check(self) -> None:
        """Leave the computation if the job was cancelled.

        Raises:
            Cancelled: If it was.
        """
        if self.cancelled:
            raise Cancelled

    def start(self) -> None:
        """Begin the computation; elapsed time counts from here."""
        self._started = time.monotonic()

    def step(self, name: str, done: int = 0, total: int = 1) -> None:
        """Begin a new step.

        Args:
            name: loading, reconstructing, finishing or writing.
            done: What an earlier request did of it, in the step's units.
            total: The whole step, in its units.
        """
        self.check()
        self._step, self._step_done = name, done
        self._step_started, self._reported = time.monotonic(), 0.0
        self.progress(done, total)

    def progress(self, done: int, total: int) -> None:
        """Report progress, at most ten times a second.

        Args:
            done: What is done, in the step's units.
            total: The whole step, in its units.
        """
        now = time.monotonic()
        if now - self._reported < _PROGRESS_INTERVAL_S and done < total:
            return
        self._reported = now
        since = done - self._step_done
        remaining = (now - self._step_started) * (total - done) / since if since > 0 else None
        self.emit(
            "progress", step=self._step, done=done, total=total, elapsed_s=now - self._started, remaining_s=remaining
        )

    def emit(self, kind: str, /, **fields: Any) -> None:
        """Send an event that is not the last.

        Args:
            kind: The event's type.
            fields: Its other fields.
        """
        with self._lock:
            if not self.finished:
                self._send(kind, self.identifier, **fields)

    def finish(self, kind: str, /, **fields: Any) -> bool:
        """Send the final event, unless it is out already.

        Args:
            kind: The event's type, one of `FINAL`.
            fields: Its other fields.

        Returns:
            Whether it was sent.
        """
        assert kind in FINAL
        with self._lock:
            if self.finished:
                return False
            self._finished.set()
            self._send(kind, self.identifier, **fields)
            return True

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Guard the writing of a file: a cancel waits for the block's end, and no block begins after a cancel.

        Yields:
            Nothing.

        Raises:
            Cancelled: If the job was cancelled before.
        """
        with self._lock:
            self.check()
            yield
