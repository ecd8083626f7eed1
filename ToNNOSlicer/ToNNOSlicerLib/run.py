"""A run: what is asked for, how far it is, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ToNNOSlicerLib.background import Background

IDLE, STARTING, RUNNING, STOPPING = "idle", "starting", "running", "stopping"
# What the engine can change without a new pass through the network.
_REFINABLE = ("methods", "filter", "sigma_scale", "smooth_mm")
_OVERLAY_OPACITY = 0.6


@dataclass(frozen=True)
class RunRequest:
    """What is asked for. model: its folder. options: by the names of tonno_core's settings, None: the model's.

    zoom: whether all planes go into the region, which there has to be. threshold: the model's record for the first
    method, for the previews' overlay.
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
    opacity: float = _OVERLAY_OPACITY
    minMm3: float = 0.0
    segmentationNode: Any = None

    def plainOptions(self) -> dict[str, Any]:
        """The options as the engine takes them; what the model decides is left out."""
        options = {name: value for name, value in self.options.items() if value is not None}
        options["methods"] = [self.method]
        if self.className:
            options["class_name"] = self.className
        return options

    def key(self) -> tuple:
        """Equal for two runs whose projections are the same, but for the region."""
        node = self.volumeNode
        others = tuple(sorted((k, str(v)) for k, v in self.plainOptions().items() if k not in _REFINABLE))
        # A transform above it that changes counts as a change of the node.
        place = (node.GetID(), node.GetMTime(), node.GetImageData().GetMTime())
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

    record: the engine's answer without its files. isRefinement: no pass through the network was needed.
    """

    heatmapNode: Any
    segmentationNode: Any
    segmentId: str
    threshold: float
    request: RunRequest
    record: dict[str, Any]
    warnings: tuple[str, ...] = ()
    isRefinement: bool = False


class Run:
    """One run, from the click on: what the controller knows of it.

    key, box: what its projections are of; box is None for the whole volume. id: the request's number, None until it was
    sent. preview: the heatmap's node until the run has succeeded.
    """

    def __init__(self, request: RunRequest, found, rasToBox, now: float) -> None:
        self.request, self.input, self.rasToBox, self.startedAt = request, found, rasToBox, now
        self.state = STARTING
        self.key = request.key()
        self.box = None if rasToBox is None else rasToBox.tobytes()
        self.id: int | None = None
        self.folder: Path | None = None
        self.writer: Background | None = None
        self.reader: Background | None = None
        self.answer: dict[str, Any] | None = None
        self.preview: Any = None
        self.percent: float | None = None
        self.remainingS: float | None = None
        self.cancelledAt: float | None = None
        self.isRefinement = False

    @property
    def roi(self) -> dict[str, Any] | None:
        """The region as the engine takes it."""
        return None if self.rasToBox is None else {"ras_to_box": self.rasToBox.tolist()}

    def canRefine(self, kept: tuple | None) -> bool:
        """Whether it can be taken from kept projections (key, box): of the whole any part; of a region the engine knows
        itself which parts, but never the whole; of one that was zoomed into, that one alone.
        """
        if kept is None or kept[0] != self.key:
            return False
        if self.request.zoom:
            return kept[1] == self.box
        return kept[1] is None or self.box is not None

    def join(self) -> None:
        """Wait for what is being read or written: a file of some MB."""
        for thread in (self.writer, self.reader):
            if thread is not None:
                thread.join()
        self.writer = self.reader = None
