"""No test reaches the internet, and nothing tries: what a library swallows would be seen here all the same."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def is_local(address: object) -> bool:
    """Whether an address is on this machine: a name of a Unix socket, or loopback."""
    host = address[0] if isinstance(address, tuple) else address
    return host is None or not isinstance(address, tuple) or str(host).startswith(_LOCAL)


@contextmanager
def offline() -> Iterator[list[str]]:
    """Refuse all connections of Python's sockets but to this machine, and list those that were tried."""
    tried: list[str] = []

    def refuse(what: object) -> None:
        tried.append(str(what))
        raise OSError(f"no network in tests: {what}")

    def connect(self: socket.socket, address: Any) -> None:
        if self.family != getattr(socket, "AF_UNIX", None) and not is_local(address):
            refuse(address)
        original_connect(self, address)

    def getaddrinfo(host: Any, *rest: Any, **more: Any) -> Any:
        if not is_local((host,)) and host != socket.gethostname():
            refuse(host)
        return original_getaddrinfo(host, *rest, **more)

    original_connect, original_getaddrinfo = socket.socket.connect, socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield tried
