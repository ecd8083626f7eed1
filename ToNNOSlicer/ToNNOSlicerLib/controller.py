"""A run from the click to the heatmap: no Qt. Its owner calls `tick` from a timer; nothing here ever waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib import answers, failures
from ToNNOSlicerLib.background import Background
from ToNNOSlicerLib.failures import Failure
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.inputs import inputFor, roiFor
from ToNNOSlicerLib.run import IDLE, RUNNING, STARTING, STOPPING, Kept, Outcome, Progress, Run, RunRequest

# An engine that has not answered Cancel by then is ended.
_CANCEL_S = 3.0


class RunController:
    """Owns the engine's process and one run at a time.

    Args:
        client: An EngineClient.
        logic: A ToNNOLogic.
        listener: Hears of the run from `tick`, hence on the thread of its owner: `onProgress` (a Progress),
            `onPreview` (the heatmap node with new voxels), `onOutcome` (an Outcome), `onFailure` (a Failure), and
            `onDescription` (the engine's devices and versions).
        clock: Seconds that only grow.
    """

    def __init__(self, client, logic, listener, clock: Callable[[], float] = time.monotonic) -> None:
        self.client = client
        self.logic = logic
        self._listener = listener
        self._clock = clock
        self._run: Run | None = None
        self._describing: int | None = None
        self._kept: Kept | None = None
        self._steps: deque[Callable[[], None]] = deque()

    # --- what the user does

    @property
    def state(self) -> str:
        """Return IDLE, STARTING, RUNNING or STOPPING."""
        return IDLE if self._run is None else self._run.state

    @property
    def request(self) -> RunRequest | None:
        """Return what the run under way was asked for; None without one."""
        return None if self._run is None else self._run.request

    @property
    def isBusy(self) -> bool:
        """Whether `tick` has something to wait for."""
        return self._run is not None or self._describing is not None

    def start(self, request: RunRequest) -> None:
        """Begin a run; return before anything is written or started.

        Args:
            request: What is asked for.

        Raises:
            ToNNOUserError: If the volume or the region cannot be used, or a run is under way.
        """
        if self._run is not None:
            raise ToNNOUserError(_("A run is under way."), _("Cancel it first, or wait."))
        given = inputFor(request.volumeNode)
        rasToBox = None if request.roiNode is None else roiFor(request.roiNode, request.volumeNode)
        run = Run(request, given, rasToBox, self._clock())
        try:
            run.folder = self.client.newFolder()
        except OSError as error:
            raise ToNNOUserError(
                _("There is no room for temporary files ({error}).").format(error=error.strerror),
                _("Free space on the disk, then click Apply."),
            ) from None
        self._run = run
        if self.client.isRunning and run.canRefine(self._kept):
            self._fromKept(run, self._kept)
        else:
            run.writer = self._writer(run)
        self._tell(_("Preparing"))

    def _fromKept(self, run: Run, kept: Kept) -> None:
        """Compute from what is kept, without a new pass; a run that was stopped goes on to its end first."""
        roi = None if run.box == kept.box else run.roi  # without one, all that is kept
        fields = {"options": run.request.plainOptions(), "roi": roi, "folder": str(run.folder)}
        if kept.number is not None:
            fields["run"] = kept.number  # never the planes of another volume
        if kept.isStopped:
            self._submit("resume", preview=True, **fields)
        else:
            self._submit("refine", **fields)

    def startAhead(self) -> None:
        """Start the engine before the first run needs it; what goes wrong is told by that run."""
        with suppress(OSError):
            self.client.start(isAhead=True)

    def describe(self) -> None:
        """Ask the engine for its devices and versions; the listener's onDescription tells, or onFailure."""
        if self._describing is None:
            try:
                self._describing = self.client.submit("describe")
            except OSError as error:
                self._fail(failures.ofStart(error))

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
            self._tell(_("Canceling"))

    def stop(self) -> None:
        """End the run early and keep what is there."""
        run = self._run
        if run is not None and run.id is not None and run.state == RUNNING:
            run.state = STOPPING
            self.client.stop(run.id)
            self._tell(_("Stopping; what is there is kept"))

    def close(self) -> None:
        """End the engine with the application or the module, and remove every temporary file."""
        self._steps.clear()
        if self._run is not None:
            answers.dropPreview(self._run)
            self._run.join()
            self._run = None
        self._describing, self._kept = None, None
        self.client.close()

    def forget(self) -> None:
        """End the run without a word because the scene closes; the engine stays warm."""
        run = self._run
        self._steps.clear()
        if run is None:
            return
        run.nodes.clear()  # the scene takes them away itself
        if run.id is not None:
            self.client.cancel(run.id)
        self._end()

    # --- the timer

    def tick(self) -> None:
        """Do what is due, at most one piece of work on nodes. To be called every 20 to 100 ms."""
        run = self._run
        if run is not None and run.writer is not None:
            self._finishWriting(run)
        if run is not None and run.reader is not None and not run.reader.is_alive():
            self._later(run, self._showResult, run)
        for event in self.client.poll():
            self._take(event)
        self._checkScene()
        if self._steps:
            self._steps.popleft()()
        run = self._run
        if run is not None and run.cancelledAt is not None and self._clock() - run.cancelledAt > _CANCEL_S:
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
        self._listener.onFailure(failures.ofRemovedVolume(name))

    def _finishWriting(self, run: Run) -> None:
        if run.writer.is_alive():
            return
        error, run.writer = run.writer.error, None
        if error is not None:
            self._fail(failures.ofWriting(error))
            return
        request = run.request
        every = {} if request.className else {"classes": "all"}
        self._submit(
            "reconstruct",
            **every,
            volume={"array": str(run.folder / "volume.npy"), "ijk_to_ras": run.input.ijkToRAS.tolist()},
            model=request.model,
            options=request.plainOptions(),
            preset=request.preset,
            roi=run.roi,
            zoom=request.zoom,
            device=request.device,
            precision="auto",
            preview=True,
            folder=str(run.folder),
        )

    def _submit(self, kind: str, **fields: Any) -> None:
        run = self._run
        run.kind = kind
        try:
            if not self.client.isRunning:
                self._kept = None
            run.id = self.client.submit(kind, **fields)
        except OSError as error:
            self._fail(failures.ofStart(error))
            return
        words = {"refine": _("Calculating from what is kept"), "resume": _("Going on")}
        self._tell(words.get(kind, _("Starting the engine")))

    def _writer(self, run: Run) -> Background:
        return Background(lambda: np.save(run.folder / "volume.npy", run.input.array))

    # --- events

    def _take(self, event: Json) -> None:
        kind = event["type"]
        run = self._run
        if kind in ("exited", "hung", "garbage"):
            self._lost(event)
        elif event["id"] is not None and event["id"] == self._describing:
            self._describing = None
            if kind == "description":
                self._listener.onDescription(event)
            elif kind == "error":
                self._listener.onFailure(failures.ofError(event, self.client.logLines))
        elif run is None or event["id"] != run.id:
            return  # of a run that was given up
        elif kind == "progress":
            self._progress(run, event)
        elif kind == "preview" and run.state == RUNNING:
            self._later(run, self._showPreview, run, event)
        elif kind == "result" and run.cancelledAt is not None:
            self._end()  # it was on its way when the user cancelled
        elif kind == "result":
            run.answer = event
            run.reader = Background(lambda: answers.read(event, run.request.method))
        elif kind == "cancelled":
            self._end()
        elif kind == "error":
            self._refused(run, event)

    def _progress(self, run: Run, event: Json) -> None:
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

    def _refused(self, run: Run, event: Json) -> None:
        if event.get("kind") == "not-kept" and run.kind != "reconstruct":
            run.id, run.writer = None, self._writer(run)
            self._kept = None
            return
        self._fail(failures.ofError(event, self.client.logLines))

    def _lost(self, event: Json) -> None:
        self._kept = None
        self._describing = None
        if self._run is None and not event.get("ids"):
            return  # an idle engine has gone: the next click starts another
        self._fail(failures.ofLostEngine(event))

    # --- nodes

    def _later(self, run: Run, work: Callable[..., None], *arguments: Any) -> None:
        """Queue a piece of work on nodes for a turn of its own; it is dropped if the run has ended by then."""
        self._steps.append(lambda: work(*arguments) if run is self._run else None)

    def _showPreview(self, run: Run, event: Json) -> None:
        if run.state != RUNNING:
            return
        node = answers.showPreview(run, event)
        if node is not None:
            self._listener.onPreview(node)

    def _showResult(self, run: Run) -> None:
        """Queue a turn for each heatmap, and one for the segments."""
        if run.reader is None:
            return
        reader, run.reader = run.reader, None
        if reader.error is not None:
            self._fail(failures.ofReading(reader.error))
            return
        for part in reader.result:
            self._later(run, answers.showPart, run, part)
        self._later(run, self._writeSegments, run)

    def _writeSegments(self, run: Run) -> None:
        try:
            outcome = answers.writeSegments(self.logic, run)
        except ToNNOUserError as error:
            self._fail(Failure(error.message, error.nextStep))
            return
        if run.kind != "refine":
            box = self._kept.box if run.kind == "resume" else run.box
            self._kept = Kept(run.key, box, bool(run.answer.get("stopped")), run.answer.get("run"))
        # The panel reads the segment's findings then.
        self._later(run, self._finish, outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._end()
        self._listener.onOutcome(outcome)

    # --- the end

    def _fail(self, failure: Failure) -> None:
        self._describing = None
        if self._run is not None:
            self._end()
        self._listener.onFailure(failure)

    def _end(self) -> None:
        run, self._run = self._run, None
        answers.dropPreview(run)
        run.join()
        self.client.release(run.folder)
        self._listener.onProgress(Progress(IDLE))

    def _tell(self, text: str) -> None:
        run = self._run
        elapsed = self._clock() - run.startedAt
        self._listener.onProgress(Progress(run.state, text, run.percent, elapsed, run.remainingS))
