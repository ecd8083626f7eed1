"""An engine's client that computes at once: heatmaps whose blobs depend on the volume, the method and the class.

What it answers, and when, follows the engine's protocol (docs/worker.md): progress, previews, stop, cancel, and a last
run whose projections are kept.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from listening import Client
from scenes import record

PLANNED = 8  # directions of a whole run
THRESHOLD = 3.0


def heatmapOf(volume: np.ndarray, method: str, className: str) -> np.ndarray:
    """Noise below 1 and one to four cubes of 27 voxels above the threshold: Z Y X float32, the same for equals."""
    seed = zlib.crc32(np.ascontiguousarray(volume, dtype=np.float32).tobytes() + f"{method}{className}".encode())
    rng = np.random.default_rng(seed)
    array = rng.uniform(-1, 1, volume.shape).astype(np.float32)
    for _n in range(rng.integers(1, 5)):
        k, j, i = (int(rng.integers(1, size - 1)) for size in volume.shape)
        array[k - 1 : k + 2, j - 1 : j + 2, i - 1 : i + 2] = rng.uniform(4, 7)
        array[k, j, i] = rng.uniform(8, 12)
    return array


class Computing(Client):
    """Each poll is a step of the run that is under way: two directions, with a preview, until the result."""

    def __init__(self, folder: Path, classes: tuple[str, ...] = ("lesion",)) -> None:
        super().__init__(folder)
        self.classes = classes
        self._job: dict[str, Any] | None = None
        self._kept: dict[str, Any] | None = None

    def submit(self, kind: str, **fields: Any) -> int:
        number = super().submit(kind, **fields)
        if kind == "describe":
            self.events.append({"type": "description", "id": number, "devices": []})
            return number
        if kind == "reconstruct":
            options = fields["options"]
            names = list(self.classes) if fields.get("classes") else [options.get("class_name") or self.classes[0]]
            volume = np.load(fields["volume"]["array"])
            self._job = {"volume": volume, "classes": names, "done": 0, "options": options}
        elif self._kept is None:
            self.events.append({"type": "error", "id": number, "kind": "not-kept", "message": "", "next": ""})
            return number
        else:
            self._job = {**self._kept, "options": {**self._kept["options"], **fields["options"]}}
            if kind == "refine":
                self._job["isWhole"] = True
        self._job |= {"id": number, "folder": Path(fields["folder"])}
        return number

    def poll(self) -> list[dict[str, Any]]:
        events = super().poll()
        job = self._job
        if job is None:
            return events
        if not job.get("isWhole"):  # a refinement looks at no plane
            job["done"] = min(PLANNED, job["done"] + 2)
        isEnd = job["done"] == PLANNED or job.get("isStopped") or job.get("isWhole")
        event = {"type": "progress", "id": job["id"], "step": "reconstructing", "done": job["done"], "total": PLANNED}
        return [*events, event, self._result() if isEnd else self._preview()]

    def cancel(self, identifier: int) -> None:
        super().cancel(identifier)
        if self._job is not None and self._job["id"] == identifier:
            self._job = self._kept = None
            self.events.append({"type": "cancelled", "id": identifier})

    def stop(self, identifier: int) -> None:
        super().stop(identifier)
        if self._job is not None and self._job["id"] == identifier:
            self._job["isStopped"] = True

    def close(self, timeout: float = 3.0) -> None:
        super().close(timeout)
        self._job = self._kept = None

    def _preview(self) -> dict[str, Any]:
        job = self._job
        (method,), className = job["options"]["methods"], job["classes"][0]
        share = np.float32(job["done"] / PLANNED)
        path = job["folder"] / f"preview-{job['done']}.npy"
        np.save(path, share * heatmapOf(job["volume"], method, className))
        made = {"directions": job["done"], "of": PLANNED}
        return {"type": "preview", "id": job["id"], "heatmaps": {method: str(path)}, **made}

    def _result(self) -> dict[str, Any]:
        job, self._job = self._job, None
        (method,) = job["options"]["methods"]
        isStopped = job["done"] < PLANNED
        inside = job["folder"] / "inside.npy"
        np.save(inside, np.ones(job["volume"].shape, dtype=np.uint8))
        classes = {}
        for className in job["classes"]:
            path = job["folder"] / f"heatmap-{className}.npy"
            np.save(path, heatmapOf(job["volume"], method, className))
            entry = {"array": str(path), "threshold": record(THRESHOLD), "otsu": 2.5}
            classes[className] = {"heatmaps": {method: entry}, "score": 1.5, "explained": None, "profiles": []}
        self._kept = {name: job[name] for name in ("volume", "classes", "done", "options")}
        first = job["classes"][0]
        several = {"classes": classes} if len(classes) > 1 else {}
        return {
            "type": "result", "id": job["id"], "inside": str(inside), "class_name": first, **classes[first], **several,
            "seconds": {"total": 1.0}, "slices": 80, "directions": job["done"], "planned": PLANNED,
            "stopped": isStopped, "device": "cpu", "warnings": [], "model": {"name": "brain-lesions"},
        }  # fmt: skip
