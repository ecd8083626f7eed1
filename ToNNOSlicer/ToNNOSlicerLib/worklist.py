"""A folder or a list of studies, run one after the other in the background by the engine's own command.

Processes and files only: no Qt, no MRML. Whoever owns a worklist calls `poll` from a timer; nothing here ever waits.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib import worklist_files
from ToNNOSlicerLib.models import SPEC_NAME
from ToNNOSlicerLib.processes import killTree, start
from ToNNOSlicerLib.worklist_files import DONE, FAILED, READ, RUNNING, WAITING, Case, Result, Run  # noqa: F401  the states of a case

IDLE, FINDING, WORKING, ENDED = "idle", "finding", "working", "ended"
_CHILD = "ToNNOSlicerLib.worklist_child"
_LIBRARY = Path(__file__).resolve().parent.parent
_WORKLIST, _STUDIES, _FIND_LOG = "worklist.json", "studies.json", "find-log.txt"
# What the bar of the engine needs not draw more often; the log grows by it.
_BAR_S = "1"


@dataclass(frozen=True)
class State:
    """How far a worklist is.

    Attributes:
        step: "idle", "finding" (the studies), "working" or "ended".
        cases: In their order.
        error: Why it could not go on, else "".
        notes: What was left out, a line each.
        share: Of the case that is running, 0 to 1; None where none is.
    """

    step: str = IDLE
    cases: tuple[Case, ...] = ()
    error: str = ""
    notes: tuple[str, ...] = ()
    share: float | None = None


def arguments(
    method: str = "",
    className: str = "",
    preset: str | None = None,
    device: str = "auto",
    minMm3: float | None = None,
    options: Json | None = None,
    dropWeak: bool = True,
) -> tuple[str, ...]:
    """Return a run's choices as the engine's command line takes them.

    Args:
        method: Of the heatmaps.
        className: Of the model's classes.
        preset: Quality.
        device: Where to compute.
        minMm3: Smallest component that is kept; None for the model's own.
        options: By the names of tonno_core's settings.
        dropWeak: Whether components are left out whose peak is too low by the model.

    Returns:
        Words of the command line.
    """
    named = {"method": method, "class": className, "preset": preset, "device": device, "min-volume-mm3": minMm3}
    named["min-peak"] = None if dropWeak else "none"
    named |= {name.replace("_", "-"): value for name, value in (options or {}).items()}
    return tuple(word for name, value in named.items() if value not in (None, "") for word in (f"--{name}", str(value)))


@dataclass
class Worklist:
    """Owns one process at a time, and a folder of results.

    Results are kept by what was asked for and by the volume's file. With another model, with other arguments, or where
    the file has been written to, a case is waiting again; what there was stays in its folder.

    Attributes:
        source: A folder, or a list (CSV with a column ``volume``).
        output: Folder of the results, which is made.
        command: How to run a module.
        changes: Changed variables of the environment.
        model: A model's folder, or "pixel-sum".
        arguments: See `arguments`.
    """

    source: str | Path
    output: str | Path
    command: Sequence[str]
    changes: Mapping[str, str | None]
    model: str
    arguments: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.source, self.output = Path(self.source).absolute(), Path(self.output).absolute()
        self._process: _Process | None = None
        self._run: Run | None = None
        self._state = State(cases=self._remembered())

    # --- what the user does

    def start(self) -> None:
        """Look for the studies, then run those that have no result yet, or failed. Does nothing while at work."""
        if self._process is not None:
            return
        self._state = replace(self._state, step=FINDING, error="", notes=(), share=None)
        if self.output == self.source:
            error = _("The results need a folder of their own, not that of the studies.")
            self._state = replace(self._state, step=ENDED, error=error)  # nothing is written there, as `_end` would
            return
        try:
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / _STUDIES).unlink(missing_ok=True)
            task = "find", str(self.source), self._key, str(self.output / _STUDIES)
            self._process = self._spawn(task, self.output / _FIND_LOG)
        except OSError as error:
            self._end(ENDED, _("The list cannot be started: {error}").format(error=error))

    def cancel(self) -> None:
        """End the process; what is finished stays, and `start` goes on from there."""
        if self._process is None:
            return
        if self._run is not None:
            self._takeResults()
        self._end(IDLE)

    def nextUnread(self, after: Case | None = None) -> Case | None:
        """Return the next case with results that nobody has read yet, then from the list's beginning.

        Args:
            after: Begin behind this case.

        Returns:
            The case, None where all are read.
        """
        cases = self._state.cases
        start = next((n for n, case in enumerate(cases) if after is not None and case.volume == after.volume), -1) + 1
        return next((case for case in (*cases[start:], *cases[:start]) if case.state == DONE), None)

    def refresh(self, case: Case) -> Case:
        """Read a case anew from its folder, such as after a reader has saved verdicts.

        Args:
            case: As it was.

        Returns:
            As it is.
        """
        known = worklist_files.reported(Path(case.folder)) if case.folder else None
        if known is None or known.source != case.source:
            return case
        self._put(case.volume, known)
        self._remember()
        return case.having(known)

    # --- the timer

    def poll(self) -> State:
        """Look how far the processes are; to be called about once a second, and back within milliseconds.

        Returns:
            What there is to know.
        """
        try:
            if self._process is not None:
                self._look()
        except OSError as error:
            self._end(ENDED, _("The list cannot go on: {error}").format(error=error))
        return self._state

    def _look(self) -> None:
        process = self._process
        hasEnded = process.hasEnded  # before its files are looked at: none of them comes later
        if hasEnded:
            process.kill()
        if self._run is None:
            if hasEnded:
                self._takeStudies(process)
            return
        self._takeResults()
        bar, last = worklist_files.progress(self._run.folder / worklist_files.LOG)
        if hasEnded:
            self._afterRun(process.code, bar, last)
        else:
            self._state = replace(self._state, share=max(bar, 0.0) % 1 if self._running() is not None else None)

    # --- steps

    def _takeStudies(self, process: _Process) -> None:
        content = worklist_files.readJson(self.output / _STUDIES)
        (self.output / _STUDIES).unlink(missing_ok=True)
        if process.code or not content:
            _bar, last = worklist_files.progress(self.output / _FIND_LOG)
            self._end(ENDED, last or _("The process ended with exit code {code}.").format(code=process.code))
            return
        cases = tuple(Case(**case) for case in content["cases"])
        self._state = replace(self._state, cases=cases, notes=tuple(content["notes"]))
        self._remember()
        self._runOpen([case for case in cases if case.state in (WAITING, FAILED)])

    def _runOpen(self, cases: Sequence[Case]) -> None:
        """Start the engine for these cases, or end where there are none."""
        volumes = [case.volume for case in cases]
        if not volumes:
            self._end(ENDED)
            return
        self._run = run = worklist_files.newRun(self.output, self._key, self.model, volumes, self.arguments)
        words = ("reconstruct", str(run.folder / worklist_files.LIST), "--model", self.model)
        # NRRD holds every grid as it is, a sheared one too. A threshold is where a reader begins: Otsu's will do.
        words += ("--threshold", "auto", "--format", "nrrd", "--output", str(run.folder / worklist_files.RESULTS))
        words += tuple(self.arguments)
        self._process = self._spawn(("run", *words), run.folder / worklist_files.LOG)
        now = dict.fromkeys(volumes, Result()) | {volumes[0]: Result(RUNNING)}
        cases = tuple(c.having(now[c.volume]) if c.volume in now else c for c in self._state.cases)
        self._state = replace(self._state, step=WORKING, share=0.0, cases=cases)

    def _takeResults(self) -> None:
        """The cases are done in their order: only the first that is open can have changed."""
        changed = False
        while (case := self._running()) is not None:
            result = self._run.result(case.volume)
            if result.state == WAITING:
                break
            self._put(case.volume, result)
            following = self._open()
            if following:
                self._put(following[0], Result(RUNNING))
            changed = True
        if changed:
            self._remember()

    def _afterRun(self, code: int, bar: float, last: str) -> None:
        running = self._running()
        if running is None:
            self._runOpen(self._waiting())
            return
        reason = _("the engine ended with exit code {code}: {last}").format(code=code, last=last)
        if bar < 0:  # before any case was begun: the next process would do the same
            self._end(ENDED, last or reason)
            return
        if len(self._run.volumes) > 1:  # it may have been the next case, which is read meanwhile: this one by itself
            self._runOpen([running])
            return
        ended = self._run.folder / worklist_files.ENDED
        worklist_files.writeJson(ended, {running.volume: reason})
        self._put(running.volume, Result(FAILED, error=reason))
        self._runOpen(self._waiting())

    def _end(self, step: str, error: str = "") -> None:
        process, self._process, self._run = self._process, None, None
        if process is not None:
            process.kill()
        cases = tuple(c.having(Result()) if c.state == RUNNING else c for c in self._state.cases)
        self._state = replace(self._state, step=step, error=error, share=None, cases=cases)
        self._remember()

    # --- cases

    def _running(self) -> Case | None:
        return next((case for case in self._state.cases if case.state == RUNNING), None)

    def _waiting(self) -> list[Case]:
        return [case for case in self._state.cases if case.state == WAITING]

    def _open(self) -> list[str]:
        """The volumes of this run that are waiting, in its order."""
        waiting = {case.volume for case in self._state.cases if case.state == WAITING}
        return [volume for volume in self._run.volumes if volume in waiting]

    def _put(self, volume: str, result: Result) -> None:
        cases = tuple(case.having(result) if case.volume == volume else case for case in self._state.cases)
        self._state = replace(self._state, cases=cases)

    # --- files

    @property
    def _key(self) -> str:
        """What was asked for: the model as it is, not where it lies, and the arguments."""
        spec = Path(self.model) / SPEC_NAME
        model = spec.read_text(encoding="utf-8") if spec.is_file() else self.model
        return hashlib.sha256(json.dumps([model, *self.arguments]).encode()).hexdigest()

    def _remembered(self) -> tuple[Case, ...]:
        """The cases as they were seen last, where the same was asked for; `start` looks again."""
        content = worklist_files.readJson(self.output / _WORKLIST)
        with suppress(OSError, TypeError, KeyError):
            if (content["source"], content["key"]) == (str(self.source), self._key):
                return tuple(Case(**case) for case in content["cases"])
        return ()

    def _remember(self) -> None:
        cases = [asdict(case.having(Result()) if case.state == RUNNING else case) for case in self._state.cases]
        with suppress(OSError):  # it only saves a look at all results
            content = {"source": str(self.source), "key": self._key, "cases": cases}
            worklist_files.writeJson(self.output / _WORKLIST, content)

    def _spawn(self, task: Sequence[str], log: Path) -> _Process:
        search = os.pathsep.join(filter(None, (str(_LIBRARY), self.changes.get("PYTHONPATH") or "")))
        changes = {**self.changes, "PYTHONPATH": search, "TQDM_MININTERVAL": _BAR_S}
        return _Process([*self.command, _CHILD, str(self.output), *task], changes, log)


class _Process:
    """A process of low priority that ends with this one, its words in a file."""

    def __init__(self, command: Sequence[str], changes: Mapping[str, str | None], log: Path) -> None:
        with log.open("wb") as file:
            # The input is closed with this process, which tells the other one to end.
            streams = {"stdin": subprocess.PIPE, "stdout": file, "stderr": file}
            self._popen = start(command, log.parent, changes, isLow=True, **streams)

    @property
    def hasEnded(self) -> bool:
        return self._popen.poll() is not None

    @property
    def code(self) -> int:
        return self._popen.returncode

    def kill(self) -> None:
        """End it and its children; a thread waits for the end, which a driver may delay."""
        if not self.hasEnded:
            killTree(self._popen)
            threading.Thread(target=self._popen.wait, daemon=True).start()
        with suppress(OSError):
            self._popen.stdin.close()
