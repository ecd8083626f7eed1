"""Weights from timm's hub: fetched, from its cache without internet, or refused within seconds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants

_SECONDS = 5.0


@contextmanager
def quick_hub() -> Iterator[None]:
    """Let the hub's client use its cache alone where the hub does not answer: its own retries take a minute or more."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers() -> bool:
    """Ask the hub for anything, through the client's own session, which knows proxies and certificates."""
    try:
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception:  # of the client's library, which changed from requests to httpx; and of proxies, sockets, ...
        return False
    return True
