"""A run: what is asked for, how far it is, and what came of it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ToNNOSlicerLib.background import Background
from ToNNOSlicerLib.logic.results import KEY, MADE, QUALITY, RUN

IDLE, STARTING, RUNNING, STOPPING = "idle", "starting", "running", "stopping"
# What the engine can change without a new pass through the network.
_REFINABLE = ("methods", "filter", "sigma_scale", "smooth_mm")


@dataclass(frozen=True)
class RunRequest:
    """What is asked for. model: its folder. options: by the names of tonno_core's settings, None: the model's.

    className: "" for all classes of the model, a heatmap for each. zoom: whether all planes go into the region, which
    there has to be. threshold: the model's record for the method, for the previews. minMm3: smallest part.
    segmentationNode: where the segment goes; None for a node of the result's own.
    """

    volumeNode: Any
    model: str
    method: str
    className: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    roiNode: Any = None
    zoom: bool = False
    device: str = "auto"
    threshold: dict[str, Any] | None = None
    minMm3: float = 0.0
    segmentationNode: Any = None

    def plainOptions(self) -> dict[str, Any]:
        """The options as the engine takes them; what the model decides is left out."""
        options = {name: value for name, value in self.options.items() if value is not None}
        options["methods"] = [self.method]
        if self.className:
            options["class_name"] = self.className
        return options

    def key(self, ijkToRAS: np.ndarray) -> tuple:
        """Equal for two runs whose projections are the same, but for the region. ijkToRAS: of the volume, to the world.

        The node itself changes with whatever is shown of it, and with its name.
        """
        node = self.volumeNode
        others = tuple(sorted((k, str(v)) for k, v in self.plainOptions().items() if k not in _REFINABLE))
        place = (node.GetID(), node.GetImageData().GetMTime(), ijkToRAS.tobytes())
        return place, self.model, self.preset, self.device, self.zoom, others


@dataclass(frozen=True)
class Progress:
    """percent: 0 to 100, or None while it is not known. remainingS: seconds, or None."""

    state: str = IDLE
    text: str = ""
    percent: float | None = None
    elapsedS: float = 0.0
    remainingS: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run left in the scene.

    heatmapNodes: one for each class that was asked for. record: the engine's answer without its files. warnings: what
    the user should know of the image. kind: "reconstruct", "resume" or "refine" (no pass through the network).
    """

    heatmapNodes: tuple[Any, ...]
    request: RunRequest
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    kind: str = "reconstruct"


@dataclass(frozen=True)
class Kept:
    """What the engine keeps of its last run.

    key, box: as the run's. isStopped: whether directions are missing. number: the engine's own of the run.
    """

    key: tuple
    box: bytes | None
    isStopped: bool = False
    number: int | None = None


class Run:
    """One run, from the click on: what the controller knows of it.

    key, box: what its projections are of; box is None for the whole volume. id: the request's number, None until it was
    sent. nodes: the heatmaps' nodes until the run has succeeded; the first is the preview's too.
    """

    def __init__(self, request: RunRequest, found, rasToBox, now: float) -> None:
        self.request, self.input, self.rasToBox, self.startedAt = request, found, rasToBox, now
        self.state = STARTING
        self.kind = "reconstruct"
        self.key = request.key(found.ijkToRAS)
        self.box = None if rasToBox is None else rasToBox.tobytes()
        self.id: int | None = None
        self.folder: Path | None = None
        self.writer: Background | None = None
        self.reader: Background | None = None
        self.answer: dict[str, Any] | None = None
        self.nodes: list[Any] = []
        self.percent: float | None = None
        self.remainingS: float | None = None
        self.cancelledAt: float | None = None

    def remembered(self) -> dict[str, Any]:
        """What a heatmap's record keeps of the run beside the engine's answer: see `logic.results`.

        Two runs of one image whose KEY is equal have the same heatmap, if they are not stopped.
        """
        request = self.request
        what = [Path(request.model).name, request.plainOptions(), request.preset, request.zoom, self.roi]
        key = json.dumps(what, sort_keys=True, default=str)
        made = datetime.now().astimezone().isoformat(timespec="seconds")
        box = None if self.rasToBox is None else {"box_to_ras": np.linalg.inv(self.rasToBox).tolist()}
        return {QUALITY: request.preset, KEY: key, RUN: self.identifier, MADE: made, "region": box}

    @cached_property
    def identifier(self) -> str:
        """Of this run and no other."""
        return uuid.uuid4().hex

    @property
    def roi(self) -> dict[str, Any] | None:
        """The region as the engine takes it."""
        return None if self.rasToBox is None else {"ras_to_box": self.rasToBox.tolist()}

    def canRefine(self, kept: Kept | None) -> bool:
        """Whether it can be taken from kept projections: of the whole any part; of a region the engine knows itself
        which parts, but never the whole; of one that was zoomed into, that one alone.
        """
        if kept is None or kept.key != self.key:
            return False
        if self.request.zoom:
            return kept.box == self.box
        return kept.box is None or self.box is not None

    def join(self) -> None:
        """Wait for what is being read or written: a file of some MB."""
        for thread in (self.writer, self.reader):
            if thread is not None:
                thread.join()
        self.writer = self.reader = None
