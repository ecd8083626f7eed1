"""A run: what is asked for, how far it is, and what came of it."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tonno_core.output import Json
from ToNNOSlicerLib.background import Background
from ToNNOSlicerLib.logic.results import KEY, MADE, QUALITY, RUN

IDLE, STARTING, RUNNING, STOPPING = "idle", "starting", "running", "stopping"
# What the engine can change without a new pass through the network.
_REFINABLE = ("methods", "filter", "sigma_scale", "smooth_mm")


@dataclass(frozen=True)
class RunRequest:
    """What is asked for.

    Attributes:
        volumeNode: The image.
        model: The model's folder.
        method: The method of the heatmap.
        className: The class; "" for all classes of the model, with a heatmap for each.
        options: Settings by the names of tonno_core; the model decides the others.
        preset: The quality's preset; None for the model's own planes.
        roiNode: The region; None for the whole volume.
        zoom: Whether all planes go into the region, which must be given then.
        device: The torch device, or "auto".
        threshold: The model's record for the method, for the previews.
        minMm3: The smallest part that is kept.
        dropWeak: Whether parts are left out whose peak the model takes for none of a finding.
    """

    volumeNode: Any
    model: str
    method: str
    className: str = ""
    options: Json = field(default_factory=dict)
    preset: str | None = None
    roiNode: Any = None
    zoom: bool = False
    device: str = "auto"
    threshold: Json | None = None
    minMm3: float = 0.0
    dropWeak: bool = True

    def plainOptions(self) -> Json:
        """Return the options as the engine takes them.

        Returns:
            Values by the names of tonno_core's settings.
        """
        ofClass = {"class_name": self.className} if self.className else {}
        return {**self.options, "methods": [self.method], **ofClass}

    def key(self, ijkToRAS: np.ndarray) -> tuple:
        """Return a key that is equal for two runs whose projections are the same but for the region.

        The node itself changes with whatever is shown of it, and with its name.

        Args:
            ijkToRAS: 4 x 4, from the volume's voxels to the world.

        Returns:
            What the projections depend on.
        """
        node = self.volumeNode
        others = tuple(sorted((k, str(v)) for k, v in self.plainOptions().items() if k not in _REFINABLE))
        place = (node.GetID(), node.GetImageData().GetMTime(), ijkToRAS.tobytes())
        return place, self.model, self.preset, self.device, self.zoom, others


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        state: IDLE, STARTING, RUNNING or STOPPING.
        text: What is being done.
        percent: 0 to 100; None while it is not known.
        elapsedS: Seconds since the click.
        remainingS: Seconds; None while it is not known.
    """

    state: str = IDLE
    text: str = ""
    percent: float | None = None
    elapsedS: float = 0.0
    remainingS: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run left in the scene.

    Attributes:
        heatmapNodes: A heatmap for each class that was asked for.
        request: What was asked for.
        record: The engine's answer without its files.
        kind: "reconstruct", "resume", or "refine" (no pass through the network).
    """

    heatmapNodes: tuple[Any, ...]
    request: RunRequest
    record: Json
    kind: str = "reconstruct"


@dataclass(frozen=True)
class Kept:
    """What the engine keeps of its last run.

    Attributes:
        key: The run's key.
        box: The run's region; None for the whole volume.
        isStopped: Whether directions are missing.
        number: The engine's number of the run.
    """

    key: tuple
    box: bytes | None
    isStopped: bool = False
    number: int | None = None


class Run:
    """A run from the click on, as the controller knows it.

    key and box say what its projections are of; box is None for the whole volume. id is the request's number, None
    until it was sent. nodes are the heatmaps until the run has succeeded; the first is the preview's too.
    """

    def __init__(self, request: RunRequest, given, rasToBox, now: float) -> None:
        self.request, self.input, self.rasToBox, self.startedAt = request, given, rasToBox, now
        self.identifier = uuid.uuid4().hex
        self.state = STARTING
        self.kind = "reconstruct"
        self.key = request.key(given.ijkToRAS)
        self.box = None if rasToBox is None else rasToBox.tobytes()
        self.id: int | None = None
        self.folder: Path | None = None
        self.writer: Background | None = None
        self.reader: Background | None = None
        self.answer: Json | None = None
        self.nodes: list[Any] = []
        self.percent: float | None = None
        self.remainingS: float | None = None
        self.cancelledAt: float | None = None

    def remembered(self) -> Json:
        """Return what a heatmap's record keeps of the run beside the engine's answer.

        Returns:
            Values by the names in `logic.results`. Two whole runs of an image with the same KEY have the same heatmap.
        """
        request = self.request
        what = [Path(request.model).name, request.plainOptions(), request.preset, request.zoom, self.roi]
        key = json.dumps(what, sort_keys=True, default=str)
        made = datetime.now().astimezone().isoformat(timespec="seconds")
        box = None if self.rasToBox is None else {"box_to_ras": np.linalg.inv(self.rasToBox).tolist()}
        return {QUALITY: request.preset, KEY: key, RUN: self.identifier, MADE: made, "region": box}

    @property
    def roi(self) -> Json | None:
        """Return the region as the engine takes it."""
        return None if self.rasToBox is None else {"ras_to_box": self.rasToBox.tolist()}

    def canRefine(self, kept: Kept | None) -> bool:
        """Tell whether the run can be computed from kept projections.

        Projections of the whole volume serve any part; those of a region some parts, which the engine knows, but never
        the whole; those of a region that was zoomed into serve that region alone.

        Args:
            kept: What the engine keeps; None for nothing.

        Returns:
            True if the engine may be asked.
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
