"""The process's end of the protocol: stdin and stdout are the protocol's alone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

from tonno_core.protocol import MAX_LINE, Message, ProtocolError, decode, encode


class Channel:
    """Receives requests and sends events. Any thread may send; each event is one whole line."""

    def __init__(self, requests: BinaryIO, events: BinaryIO) -> None:
        self._requests, self._events = requests, events
        self._lock = threading.Lock()

    @staticmethod
    def take_standard_streams() -> Channel:
        """Reserve stdin and stdout for a channel; what libraries print goes to stderr, what they read is empty.

        Returns:
            The channel.
        """
        requests, events = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return Channel(os.fdopen(requests, "rb"), os.fdopen(events, "wb", buffering=0))

    def send(self, kind: str, identifier: int | None, /, **fields: Any) -> None:
        """Send an event. If nobody listens any more, nothing happens: the end of stdin will tell.

        Args:
            kind: The event's type.
            identifier: The id of its request; None for an event of no request.
            fields: The other fields.
        """
        line = memoryview(encode(kind, identifier, **fields))
        with self._lock:
            try:
                while line:  # an unbuffered pipe may take a part
                    line = line[self._events.write(line) :]
            except (OSError, ValueError):
                return

    def requests(self) -> Iterator[Message | ProtocolError]:
        """Iterate over the requests until stdin closes.

        Yields:
            A request, or the error that says why a line is none.
        """
        while line := self._requests.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                while (rest := self._requests.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
            try:
                yield decode(line)
            except ProtocolError as error:
                yield error
