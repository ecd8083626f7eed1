"""The engine's process as a stranger speaks to it: lines of JSON, nothing of the package imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .digest import digest

Message = dict[str, Any]
FINAL = ("result", "description", "cancelled", "error")
PATIENCE_S = 120.0


class Worker:
    """A process of the code in a folder; ``keys`` gathers the fields of each kind of event that was seen."""

    def __init__(self, code: Path, log: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "TONNO_PROBE": "off"}
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tonno_core.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env=environment,
        )  # fmt: skip
        self._watch = threading.Timer(PATIENCE_S, self._process.kill)
        self._watch.start()
        self.keys: dict[str, list[str]] = {}

    def say(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")
        self._process.stdin.flush()

    def send(self, kind: str, identifier: int | None, **fields: Any) -> None:
        self.say(json.dumps({"v": 1, "id": identifier, "type": kind, **fields}).encode())

    def events(self) -> Iterator[Message]:
        """What it says, as it comes; ends with the process."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self.keys[event["type"]] = sorted(set(self.keys.get(event["type"], [])) | event.keys())
            yield event

    def end(self) -> int:
        """Wait for the end; returns the exit status."""
        status = self._process.wait()
        self._watch.cancel()
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()
        return status


def play(steps: list[dict[str, Any]], worker: Worker, names: dict[str, Any], folder: Path) -> dict[str, Message]:
    """Send the steps in turn, each after the answer to the one before; returns the answers by the steps' names.

    steps: ``name`` and ``line`` (text that is no request), or ``type`` and ``fields``, in which "$NAME" stands for
    ``names[NAME]``; ``during``: ``stop`` or ``cancel``, sent once planes have been looked at.
    """
    events = worker.events()
    answers = {"ready": _reduced(next(events))}
    for number, step in enumerate(steps, start=1):
        place = folder / str(number)
        place.mkdir()
        if "line" in step:
            worker.say(step["line"].encode())
        else:
            fields = _filled(step["fields"], {**names, "FOLDER": str(place)})
            worker.send(step["type"], number, **fields)
        answers[step["name"]] = _reduced(_answer(events, worker, number, step))
    worker.send("shutdown", None)
    for _ in events:
        pass
    return answers


def _answer(events: Iterator[Message], worker: Worker, number: int, step: dict[str, Any]) -> Message:
    pending = step.get("during")
    for event in events:
        if event["type"] in FINAL:
            return event
        begun = event["type"] == "progress" and event["step"] == "reconstructing" and event["done"] > 0
        if pending and begun:
            worker.send(pending, 1000 + number, target=number)
            pending = None
    raise AssertionError(f"the process ended before it answered {step['name']}")


def _filled(value: Any, names: dict[str, Any]) -> Any:
    if isinstance(value, dict):
        return {name: _filled(entry, names) for name, entry in value.items()}
    if isinstance(value, list):
        return [_filled(entry, names) for entry in value]
    return names[value[1:]] if isinstance(value, str) and value.startswith("$") else value


def _reduced(event: Message) -> Message:
    """An answer without what differs each time; arrays as digests, of the profiles three."""
    kept = {name: value for name, value in event.items() if name not in ("id", "pid", "versions", "seconds", "devices")}
    if event["type"] != "result":
        return kept
    kept["seconds"] = sorted(event["seconds"])
    kept["inside"] = digest(np.load(event["inside"]))
    kept["heatmaps"] = {
        method: {**entry, "array": digest(np.load(entry["array"]))} for method, entry in event["heatmaps"].items()
    }
    kept["profiles"] = {"count": len(event["profiles"]), "first": event["profiles"][:3]}
    return kept
