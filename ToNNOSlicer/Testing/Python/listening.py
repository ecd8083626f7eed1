"""An engine's client that computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Client:
    """Remembers what was asked, and gives the events that the test laid down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.requests, self.events = folder, [], []
        self.startedAhead = False
        self.isRunning, self.released, self.closed, self.cannotStart = False, [], 0, False
        self.logLines: list[str] = ["a line of the log"]

    def newFolder(self) -> Path:
        folder = self.folder / f"request-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        return folder

    def start(self, isAhead: bool = False) -> None:
        self.startedAhead = isAhead

    def submit(self, kind: str, **fields: Any) -> int:
        if self.cannotStart:
            raise FileNotFoundError(2, "No such file", "python")
        self.isRunning = True
        self.requests.append((kind, fields))
        return len(self.requests)

    def poll(self) -> list[dict[str, Any]]:
        events, self.events = self.events, []
        return events

    def cancel(self, identifier: int) -> None:
        self.requests.append(("cancel", identifier))

    def stop(self, identifier: int) -> None:
        self.requests.append(("stop", identifier))

    def release(self, folder: Path) -> None:
        self.released.append(folder)

    def close(self, timeout: float = 3.0) -> None:
        self.closed += 1
        self.isRunning = False


class Answering(Client):
    """Its engine answers a cancel at once."""

    def cancel(self, identifier: int) -> None:
        self.events.append({"type": "cancelled", "id": identifier})
