"""A client of the real process, and what tests say to it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tonno_core.volume.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "ToNNOSlicer"))

from ToNNOSlicerLib.engine import EngineClient  # noqa: E402

Event = dict[str, Any]
# The tests' machines have few cores, shared by many.
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
COMMAND = [sys.executable, "-m", "tonno_core.worker"]
END_OF_PROCESS = ("exited", "hung", "garbage")
PATIENCE_S = 60.0


def make_client(**changes: Any) -> EngineClient:
    """A client of a real engine."""
    return EngineClient(**{"command": COMMAND, "environment": ENVIRONMENT, **changes})


def wait(client: EngineClient, done: Callable[[Event], bool], patience_s: float = PATIENCE_S) -> list[Event]:
    """All events until one for which ``done`` holds, that one last; fails when the process ends before."""
    events: list[Event] = []
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        for event in client.poll():
            events.append(event)
            if done(event):
                return events
            assert event["type"] not in END_OF_PROCESS, event
        time.sleep(0.005)
    raise AssertionError(f"waited {patience_s} s; {[e['type'] for e in events]}; {client.logLines}")


def answer(client: EngineClient, identifier: int, **patience: float) -> Event:
    """The final event of a request."""
    final = ("result", "description", "cancelled", "error")
    return wait(client, lambda e: e["id"] == identifier and e["type"] in final, **patience)[-1]


def fields(client: EngineClient, volume: Volume, model: str | Path, **changes: Any) -> dict[str, Any]:
    """The fields of a `reconstruct` with a folder of its own."""
    folder = client.newFolder()
    np.save(folder / "volume.npy", volume.array)
    return {
        "volume": {"array": str(folder / "volume.npy"), "ijk_to_ras": volume.ijk_to_ras.tolist()},
        "model": str(model), "options": {}, "device": "cpu", "precision": "float32", "folder": str(folder), **changes,
    }  # fmt: skip


def heatmap(result: Event, method: str) -> np.ndarray:
    return np.asarray(np.load(result["heatmaps"][method]["array"]))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def box_around(centre: list[float], half_mm: list[float], turn: float = 0.0) -> dict[str, Any]:
    """A region's field: ras_to_box of a box that is turned about S by an angle."""
    box_to_ras = np.eye(4)
    cos, sin = np.cos(turn), np.sin(turn)
    box_to_ras[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(half_mm)
    box_to_ras[:3, 3] = centre
    return {"ras_to_box": np.linalg.inv(box_to_ras).tolist()}


def processes_of(client_root: Path) -> list[int]:
    """The processes that were started for a client, by its folder on their command lines."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(client_root).encode() in command and state != "Z":
                found.append(int(entry.name))
    return found
