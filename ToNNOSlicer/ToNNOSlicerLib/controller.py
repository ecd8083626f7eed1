"""A run from the click to the heatmap: no Qt. Whoever owns it calls `tick` from a timer; nothing here ever waits."""

from __future__ import annotations

import importlib
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.heatmap import histogramOf

# What the engine can change without a new pass through the network.
REFINABLE = ("methods", "filter", "sigma_scale", "smooth_mm")
IDLE, STARTING, RUNNING, STOPPING = "idle", "starting", "running", "stopping"
OVERLAY_OPACITY = 0.6
_SLOW_IMPORTS = ("scipy.ndimage", "scipy.sparse.csgraph")


@dataclass(frozen=True)
class RunRequest:
    """What is asked for. model: its folder. options: by the names of tonno_core's settings, None: the model's.

    threshold: the model's record for the first method, for the previews' overlay.
    """

    volumeNode: Any
    model: str
    method: str
    className: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    preset: str | None = None
    roiNode: Any = None
    device: str = "auto"
    threshold: dict[str, Any] | None = None
    opacity: float = OVERLAY_OPACITY
    minMm3: float = 0.0
    segmentationNode: Any = None


@dataclass(frozen=True)
class Progress:
    """percent: 0 to 100, or None while it is not known. remainingS: seconds, or None."""

    state: str = IDLE
    text: str = ""
    percent: float | None = None
    elapsedS: float = 0.0
    remainingS: float | None = None


@dataclass(frozen=True)
class Failure:
    """What went wrong, what to click next, and what the log said last."""

    message: str
    nextStep: str
    kind: str = "user"
    log: tuple[str, ...] = ()


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


class RunController:
    """Owns the engine's process and one run at a time.

    client: an EngineClient. logic: a ToNNOLogic. onProgress(Progress), onPreview(heatmapNode), onOutcome(Outcome),
    onFailure(Failure), onDescription(event) are called from `tick`, so on the caller's own thread.
    """

    def __init__(
        self,
        client,
        logic,
        onProgress: Callable[[Progress], None] = lambda progress: None,
        onPreview: Callable[[Any], None] = lambda node: None,
        onOutcome: Callable[[Outcome], None] = lambda outcome: None,
        onFailure: Callable[[Failure], None] = lambda failure: None,
        onDescription: Callable[[dict[str, Any]], None] = lambda event: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.logic = logic
        self._onProgress, self._onPreview = onProgress, onPreview
        self._onOutcome, self._onFailure, self._onDescription = onOutcome, onFailure, onDescription
        self._clock = clock
        self._run: _Run | None = None
        self._describing: int | None = None
        self._kept: tuple | None = None  # what the engine keeps projections of
        self._steps: deque[Callable[[], None]] = deque()

    # --- what the user does

    @property
    def state(self) -> str:
        return IDLE if self._run is None else self._run.state

    @property
    def isBusy(self) -> bool:
        return self._run is not None or self._describing is not None

    def start(self, request: RunRequest) -> None:
        """Begin; returns before anything is written or started.

        Raises ToNNOUserError where the volume or the region cannot be used, or a run is under way.
        """
        if self._run is not None:
            raise ToNNOUserError(_("A run is under way."), _("Cancel it first, or wait."))
        found = self.logic.inputFor(request.volumeNode)
        rasToBox = None if request.roiNode is None else self.logic.roiFor(request.roiNode, request.volumeNode)
        run = _Run(request, found, rasToBox, self._clock())
        try:
            run.folder = self.client.newFolder()
        except OSError as error:
            raise ToNNOUserError(
                _("There is no room for temporary files ({error}).").format(error=error.strerror),
                _("Free space on the disk, then click Reconstruct."),
            ) from None
        self._run = run
        run.key = _keyOf(request, rasToBox)
        if self.client.isRunning and run.key == self._kept:
            self._submit("refine", options=_plain(request), folder=str(run.folder))
        else:
            run.writer = self._writer(run)
        self._tell(_("Preparing"))

    def describe(self) -> None:
        """Ask the engine for its devices and versions; `onDescription` tells, or `onFailure`."""
        if self._describing is None:
            try:
                self._describing = self.client.submit("describe")
            except OSError as error:
                self._fail(_startFailure(error))

    def cancel(self) -> None:
        """End the run; nothing of it stays."""
        run = self._run
        if run is None:
            return
        if run.id is None:
            self._end()
            return
        if run.state != STOPPING:
            run.state, run.cancelledAt = STOPPING, self._clock()
            self.client.cancel(run.id)
            self._tell(_("Cancelling"))

    def stop(self) -> None:
        """End the run early and keep what is there."""
        run = self._run
        if run is not None and run.id is not None and run.state == RUNNING:
            run.state = STOPPING
            self.client.stop(run.id)
            self._tell(_("Stopping; what is there is kept"))

    def close(self) -> None:
        """The application or the module ends: so does the engine, and every temporary file goes."""
        self._steps.clear()
        if self._run is not None:
            self._dropPreview(self._run)
            self._run.join()
            self._run = None
        self._describing, self._kept = None, None
        self.client.close()

    def forget(self) -> None:
        """The scene closes: the run ends without a word, the engine stays warm."""
        run = self._run
        self._steps.clear()
        if run is None:
            return
        run.preview = None
        if run.id is not None:
            self.client.cancel(run.id)
        self._end()

    # --- the timer

    def tick(self) -> None:
        """Do what is due: at most one piece of work on nodes, then return. To be called every 20 to 100 ms."""
        run = self._run
        if run is not None and run.writer is not None:
            self._finishWriting(run)
        if run is not None and run.reader is not None and not run.reader.is_alive():
            self._steps.append(lambda: self._showResult(run))
        for event in self.client.poll():
            self._take(event)
        self._checkScene()
        if self._steps:
            self._steps.popleft()()
        run = self._run
        if run is not None and run.cancelledAt is not None and self._clock() - run.cancelledAt > 3.0:
            self.client.close(0.0)  # it does not answer: the next click starts another
            self._kept = None
            self._end()

    def _checkScene(self) -> None:
        run = self._run
        if run is None or run.request.volumeNode.GetScene() is self.logic.scene:
            return
        name = run.request.volumeNode.GetName()
        if run.id is not None:
            self.client.cancel(run.id)
        self._steps.clear()
        self._end()
        self._onFailure(
            Failure(
                _("The volume {name} was removed from the scene; the run has ended.").format(name=name),
                _("Select another volume."),
                "volume-gone",
            )
        )

    def _finishWriting(self, run: _Run) -> None:
        if run.writer.is_alive():
            return
        error, run.writer = run.writer.error, None
        if error is not None:
            self._fail(
                Failure(
                    _("The volume could not be handed to the engine ({error}).").format(error=error),
                    _("Free space on the disk, then click Reconstruct."),
                    "disk-full",
                )
            )
            return
        request = run.request
        self._submit(
            "reconstruct",
            volume={"array": str(run.folder / "volume.npy"), "ijk_to_ras": run.input.ijkToRAS.tolist()},
            model=request.model,
            options=_plain(request),
            preset=request.preset,
            roi=None if run.rasToBox is None else {"ras_to_box": run.rasToBox.tolist()},
            device=request.device,
            precision="auto",
            preview=True,
            folder=str(run.folder),
        )

    def _submit(self, kind: str, **fields: Any) -> None:
        run = self._run
        run.isRefinement = kind == "refine"
        try:
            if not self.client.isRunning:
                self._kept = None
            run.id = self.client.submit(kind, **fields)
        except OSError as error:
            self._fail(_startFailure(error))
            return
        _Background(_importAhead)
        self._tell(_("Starting the engine") if not run.isRefinement else _("Calculating from what is kept"))

    def _writer(self, run: _Run) -> _Background:
        return _Background(lambda: np.save(run.folder / "volume.npy", run.input.array))

    # --- events

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        run = self._run
        if kind in ("exited", "hung", "garbage"):
            self._lost(event)
        elif event["id"] is not None and event["id"] == self._describing:
            self._describing = None
            if kind == "description":
                self._onDescription(event)
            elif kind == "error":
                self._onFailure(_failureOf(event, self.client.logLines))
        elif run is None or event["id"] != run.id:
            return  # of a run that was given up
        elif kind == "progress":
            self._progress(run, event)
        elif kind == "preview" and run.state == RUNNING:
            self._steps.append(lambda: self._showPreview(run, event))
        elif kind == "result" and run.cancelledAt is not None:
            self._end()  # it was on its way when the user cancelled
        elif kind == "result":
            found = event["heatmaps"][run.request.method]
            run.answer = event
            run.reader = _Background(lambda: _read(found, event["inside"]))
        elif kind == "cancelled":
            self._end()
        elif kind == "error":
            self._refused(run, event)

    def _progress(self, run: _Run, event: dict[str, Any]) -> None:
        if run.state == STARTING:
            run.state = RUNNING
        if run.state != RUNNING:
            return
        step = event.get("step")
        total = event.get("total") or 0
        known = step == "reconstructing" and total > 0
        percent = 100.0 * event.get("done", 0) / total if known else (100.0 if step == "finishing" else None)
        names = {"loading": _("Loading the model"), "reconstructing": _("Reconstructing"), "finishing": _("Finishing")}
        run.remainingS = event.get("remaining_s") if known else None
        run.percent = percent
        self._tell(names.get(step, str(step)))

    def _refused(self, run: _Run, event: dict[str, Any]) -> None:
        if event.get("kind") == "not-kept" and run.isRefinement:
            run.id, run.writer = None, self._writer(run)
            self._kept = None
            return
        self._fail(_failureOf(event, self.client.logLines))

    def _lost(self, event: dict[str, Any]) -> None:
        self._kept = None
        self._describing = None
        if self._run is None and not event.get("ids"):
            return  # an idle engine has gone: the next click starts another
        log = tuple(event.get("log") or ())[-10:]
        message = {
            "exited": _("The engine has ended unexpectedly (exit code {code}).").format(code=event.get("code")),
            "hung": _("The engine does not answer any more and was ended."),
            "garbage": _("The engine does not speak this module's language ({text}).").format(
                text=event.get("message", "")
            ),
        }[event["type"]]
        self._fail(Failure(message, _("Click Reconstruct: it starts a new engine."), event["type"], log))

    # --- nodes

    def _showPreview(self, run: _Run, event: dict[str, Any]) -> None:
        if run is not self._run or run.state != RUNNING:
            return
        array = _load(event["heatmaps"].get(run.request.method))
        if array is None:
            return
        run.preview = self._show(run, array, None, None)
        self._overlay(run, run.preview, _number(run.request.threshold))
        self._onPreview(run.preview)

    def _showResult(self, run: _Run) -> None:
        if run is not self._run or run.reader is None:
            return
        reader, run.reader, event = run.reader, None, run.answer
        if reader.error is not None:
            message = _("The result cannot be read ({error}).").format(error=reader.error)
            self._fail(Failure(message, _("Click Reconstruct to try again."), "no-result"))
            return
        array, inside, histogram = reader.result
        found = event["heatmaps"][run.request.method]
        node = run.preview = self._show(run, array, inside, {**event, "histogram": histogram})
        chosen = (_number(found.get("threshold")), found.get("otsu"), max(histogram["high"] / 2, 1e-6))
        threshold = float(next(value for value in chosen if value is not None))
        self._steps.append(lambda: self._overlay(run, node, threshold))
        self._steps.append(lambda: self._writeSegment(run, node, threshold, event))

    def _writeSegment(self, run: _Run, node, threshold: float, event: dict[str, Any]) -> None:
        if run is not self._run:
            return
        request = run.request
        try:
            segmentationNode, segmentId = self.logic.newSegment(
                node, threshold, request.minMm3, _inScene(request.segmentationNode, self.logic.scene)
            )
        except ToNNOUserError as error:
            run.preview = None  # the heatmap is whole and stays
            self._fail(Failure(error.message, error.nextStep))
            return
        self._kept = run.key
        run.preview = None
        warnings = (*run.input.warnings, *(event.get("warnings") or ()))
        record = {name: value for name, value in event.items() if name not in ("heatmaps", "inside", "profiles")}
        outcome = Outcome(node, segmentationNode, segmentId, threshold, request, record, warnings, run.isRefinement)
        # A turn of its own: the panel reads the segment's findings then.
        self._steps.append(lambda: self._finish(run, outcome))

    def _finish(self, run: _Run, outcome: Outcome) -> None:
        if run is self._run:
            self._end()
            self._onOutcome(outcome)

    def _show(self, run: _Run, array: np.ndarray, inside, event: dict[str, Any] | None):
        request = run.request
        record = (event or {}).get("heatmaps", {}).get(request.method, {}).get("threshold") or request.threshold
        return self.logic.showHeatmap(
            request.volumeNode,
            array,
            run.input.ijkToRAS,
            inside,
            request.method,
            (event or {}).get("class_name") or request.className,
            record,
            _inScene(run.preview, self.logic.scene),
            event,
        )

    def _overlay(self, run: _Run, node, threshold: float | None) -> None:
        if run is self._run:
            self.logic.setOverlay(node, 0.0 if threshold is None else threshold, run.request.opacity, True)

    def _dropPreview(self, run: _Run) -> None:
        node = _inScene(run.preview, self.logic.scene)
        run.preview = None
        if node is not None:
            self.logic.scene.RemoveNode(node)

    # --- the end

    def _fail(self, failure: Failure) -> None:
        self._describing = None
        if self._run is not None:
            self._end()
        self._onFailure(failure)

    def _end(self) -> None:
        run, self._run = self._run, None
        self._dropPreview(run)
        run.join()
        self.client.release(run.folder)
        self._onProgress(Progress(IDLE))

    def _tell(self, text: str) -> None:
        run = self._run
        elapsed = self._clock() - run.startedAt
        self._onProgress(Progress(run.state, text, run.percent, elapsed, run.remainingS))


class _Run:
    """One run, from the click on."""

    def __init__(self, request: RunRequest, found, rasToBox, now: float) -> None:
        self.request, self.input, self.rasToBox, self.startedAt = request, found, rasToBox, now
        self.state = STARTING
        self.id: int | None = None
        self.key: tuple | None = None
        self.folder: Any = None
        self.writer: _Background | None = None
        self.reader: _Background | None = None
        self.answer: dict[str, Any] | None = None
        self.preview: Any = None
        self.percent: float | None = None
        self.remainingS: float | None = None
        self.cancelledAt: float | None = None
        self.isRefinement = False

    def join(self) -> None:
        """Wait for what is being read or written: a file of some MB."""
        for thread in (self.writer, self.reader):
            if thread is not None:
                thread.join()
        self.writer = self.reader = None


class _Background(threading.Thread):
    """One function on a thread of its own: what would hold the window for a tenth of a second. No nodes in there."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.result: Any = None
        self.error: Exception | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.result = self._work()
        except Exception as error:  # told by whoever asks for the result
            self.error = error


def _importAhead() -> None:
    """While the engine works: the first use of these would hold the window."""
    for name in _SLOW_IMPORTS:
        with suppress(ImportError):
            importlib.import_module(name)


def _read(found: dict[str, Any], inside: str) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The heatmap, what the planes cover, and its histogram."""
    array, covered = np.load(found["array"]), np.load(inside)
    return array, covered, histogramOf(np.nan_to_num(array, copy=False), covered)


def _keyOf(request: RunRequest, rasToBox) -> tuple:
    """Equal for two runs whose projections are the same."""
    node = request.volumeNode
    others = tuple(sorted((k, str(v)) for k, v in _plain(request).items() if k not in REFINABLE))
    box = None if rasToBox is None else rasToBox.tobytes()
    moved = node.GetParentTransformNode()
    place = (node.GetID(), node.GetMTime(), node.GetImageData().GetMTime(), moved and moved.GetTransformToWorldMTime())
    return place, request.model, request.preset, box, request.device, others


def _plain(request: RunRequest) -> dict[str, Any]:
    options = {name: value for name, value in request.options.items() if value is not None}
    options["methods"] = [request.method]
    if request.className:
        options["class_name"] = request.className
    return options


def _load(path: str | None) -> np.ndarray | None:
    """A preview; None where it is gone, because a newer one or the end has replaced it."""
    try:
        return None if path is None else np.load(path)
    except (OSError, ValueError):
        return None


def _inScene(node, scene):
    return node if node is not None and node.GetScene() is scene else None


def _number(record: dict[str, Any] | None) -> float | None:
    value = (record or {}).get("threshold")
    return None if value is None else float(value)


def _startFailure(error: OSError) -> Failure:
    return Failure(
        _("The engine could not be started ({error}).").format(error=error),
        _("Choose a Python interpreter under Engine, or install the packages again."),
        "no-engine",
    )


def _failureOf(event: dict[str, Any], log: list[str]) -> Failure:
    return Failure(
        str(event.get("message", "")), str(event.get("next", "")), str(event.get("kind", "internal")), tuple(log[-10:])
    )
