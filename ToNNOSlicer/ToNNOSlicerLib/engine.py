"""The engine's process as the module sees it: requests go out, events come in, nothing ever blocks.

The process and its manners only: no Qt, no MRML, no numpy. docs/worker.md has the messages.
"""

from __future__ import annotations

import collections
import contextlib
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
import weakref
from pathlib import Path

from tonno_core.protocol import ANSWERED, FINAL, FOLDER_PREFIX, VERSION, ProtocolError, decode, encode
from tonno_core.worker.processes import is_alive
from ToNNOSlicerLib.processes import killTree, start, temporaryVariables

_LOG_LINES = 500
# An engine that loads (the first import of torch from a cold disk) may be silent for this long.
_LOADING_TIMEOUT_S = 120.0
# After the process has ended, its last events may still be on their way.
_DRAIN_S = 1.0
# A cancel is answered by then, at the latest by the client itself: a library that loads may hold the engine up.
_CANCEL_S = 0.8
# An application's event loop may hold the interpreter's lock: the threads below then run only while `poll` sleeps.
_YIELD_S = 0.001
# Who has not polled for so long has heard nothing for that long either; silence counts anew from then.
_POLL_GAP_S = 1.0
# What `close` waits for a process that was killed.
_REAP_S = 5.0


class EngineClient:
    """Owns one engine process at a time, and the temporary folders of its results.

    A process that died, hung, spoke garbage or another version is replaced at the next `submit`.

    Args:
        command: How to start the process, e.g. [python, "-m", "tonno_core.worker"], with absolute paths; ``--parent``
            and ``--folder`` are added, and it starts in that folder.
        environment: Changes to this process' variables; None removes a variable.
        heartbeatTimeout: Silence, in seconds, after which the process counts as hung and is ended.
        temporaryPath: Where the folders are made, which nobody else may read; None for the system's place.
    """

    def __init__(self, command, environment=None, heartbeatTimeout=10.0, temporaryPath=None):
        self._command = list(command)
        self._environment = dict(environment or {})
        self._heartbeatTimeout = heartbeatTimeout
        self._temporaryPath = None if temporaryPath is None else Path(temporaryPath)
        self._process = None
        self._nextId = 0
        self._root = None
        self._removeRoot = None
        self._log = collections.deque(maxlen=_LOG_LINES)

    # --- the process

    @property
    def isRunning(self):
        """Whether a process is there to answer."""
        return self._process is not None and self._process.isRunning

    @property
    def pid(self):
        """Return the number of the process that was started (a launcher, or the engine itself); None without one."""
        return None if self._process is None else self._process.pid

    @property
    def logLines(self):
        """Return the last lines of stderr, oldest first, those of ended processes included."""
        return list(self._log)

    def start(self, isAhead=False):
        """Start the process if none is running, without waiting; its first event is ``ready``.

        Args:
            isAhead: Whether it loads torch at once, in main memory alone, so that the first run need not wait for that.

        Raises:
            OSError: If there is nothing to start.
        """
        if self.isRunning:
            return
        if self._process is not None:
            self._process.kill()
        folder = self._rootFolder()
        command = [*self._command, "--parent", str(os.getpid()), "--folder", str(folder), *["--ahead"] * isAhead]
        places = {} if self._temporaryPath is None else temporaryVariables(folder)
        self._process = _Process(command, self._environment | places, folder, self._log)

    def submit(self, type, /, **fields):
        """Send a request, to a new process where none is running.

        Args:
            type: The kind of request.
            fields: Its fields.

        Returns:
            The request's id.

        Raises:
            OSError: If there is nothing to start.
        """
        self.start()
        self._nextId += 1
        self._process.send(type, self._nextId, fields)
        return self._nextId

    def cancel(self, id):
        """End a request without a result; ``cancelled`` follows within a second, unless its answer was on the way.

        Args:
            id: The request's id.
        """
        self._interrupt("cancel", id)

    def stop(self, id):
        """End a reconstruction early; its ``result`` holds what is there.

        Args:
            id: The request's id.
        """
        self._interrupt("stop", id)

    def poll(self):
        """Return the events since the last call, within milliseconds. To be called ten times a second or more.

        Returns:
            Events, oldest first, without heartbeats. Beside the engine's own: ``exited`` {"code", "log": last lines,
            "ids": requests without an answer}, ``hung`` {"ids"} and ``garbage`` {"message", "ids"}; after each of
            them the process is gone.
        """
        if self._process is None:
            return []
        time.sleep(_YIELD_S)
        events = self._process.events()
        if not events or events[-1]["type"] not in ("exited", "hung", "garbage"):
            fault = self._process.fault(self._heartbeatTimeout)
            if fault is not None:
                events.append(fault)
        if events and events[-1]["type"] in ("exited", "hung", "garbage"):
            events[-1]["log"] = self.logLines[-50:]
            self._process.kill()
            self._process = None
        return events

    def close(self, timeout=3.0):
        """End the process and all of its children, and remove every folder. The client can be started again.

        Args:
            timeout: Seconds that the process has to end by itself.
        """
        if self._process is not None:
            self._process.end(timeout)
            self._process = None
        if self._root is not None:
            self._removeRoot()
            self._root = None

    # --- folders

    def newFolder(self):
        """Make an empty folder for a request's files; `release` or `close` removes it.

        Returns:
            The folder.

        Raises:
            OSError: If it cannot be made.
        """
        return Path(tempfile.mkdtemp(prefix="request-", dir=self._rootFolder()))

    def release(self, folder):
        """Remove a folder of `newFolder`, if it is still there.

        Args:
            folder: The folder.
        """
        folder = Path(folder)
        if self._root is not None and folder.parent == self._root:
            shutil.rmtree(folder, ignore_errors=True)

    def _rootFolder(self):
        if self._root is None or not self._root.is_dir():
            place = self._temporaryPath or Path(tempfile.gettempdir())
            place.mkdir(parents=True, exist_ok=True)  # the user's choice may have been cleaned away meanwhile
            _sweep(place)
            self._root = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-", dir=place.absolute()))
            # Also at the interpreter's end, or when the client is forgotten without `close`.
            self._removeRoot = weakref.finalize(self, shutil.rmtree, self._root, ignore_errors=True)
        return self._root

    def _interrupt(self, type, target):
        if self.isRunning:
            self._nextId += 1
            self._process.send(type, self._nextId, {"target": target})
            if type == "cancel":
                self._process.expectCancelled(target)


class _Process:
    """One process: three threads move lines, so that neither side ever waits for the other."""

    def __init__(self, command, environment, folder, log):
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self._popen = start(command, folder, environment, **streams)
        self._log = log
        self._events = queue.SimpleQueue()
        self._outgoing = queue.SimpleQueue()
        self._waiting = set()
        self._cancelling = {}  # id to the time by which the answer must be there
        self._enginePid = None  # where what was started is a launcher
        self._heard = self._asked = time.monotonic()
        self._loading = True
        self._garbage = None
        self._endedAt = None
        self._readers = self._thread(self._read), self._thread(self._collectLog)
        self._thread(self._write)

    @property
    def pid(self):
        return self._popen.pid

    @property
    def isRunning(self):
        return self._popen.poll() is None and self._garbage is None

    def send(self, type, id, fields):
        if type in ANSWERED:
            self._waiting.add(id)
        self._outgoing.put(encode(type, id, **fields))

    def expectCancelled(self, id):
        if id in self._waiting:
            self._cancelling.setdefault(id, time.monotonic() + _CANCEL_S)

    def events(self):
        events = []
        while not self._events.empty():
            event = self._events.get()
            if event["id"] is not None and event["id"] not in self._waiting:
                continue  # of a request that was answered here
            if event["type"] in FINAL:
                self._answered(event["id"])
            if event["type"] == "garbage":
                event["ids"] = sorted(self._waiting)
            events.append(event)
        if self._garbage is None:
            for id in [id for id, until in self._cancelling.items() if time.monotonic() > until]:
                self._answered(id)
                events.append({"v": VERSION, "id": id, "type": "cancelled"})
        return events

    def _answered(self, id):
        self._waiting.discard(id)
        self._cancelling.pop(id, None)

    def fault(self, timeout):
        """Return the event that tells of the process' end or silence, or None."""
        now = time.monotonic()
        if now - self._asked > _POLL_GAP_S:
            self._heard = now
        self._asked = now
        code = self._popen.poll()
        if code is not None:
            self._endedAt = self._endedAt or now
            isReading = any(reader.is_alive() for reader in self._readers)
            if (isReading and now - self._endedAt < _DRAIN_S) or not self._events.empty():
                return None  # what it said before its end comes first
            return {"type": "exited", "id": None, "code": code, "ids": sorted(self._waiting)}
        if now - self._heard > (max(timeout, _LOADING_TIMEOUT_S) if self._loading else timeout):
            return {"type": "hung", "id": None, "ids": sorted(self._waiting)}
        return None

    def end(self, timeout):
        """Ask, wait, then force."""
        self.send("shutdown", None, {})
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout if self.isRunning else 0)
        self.kill().join(_REAP_S)

    def kill(self):
        """End the process and its children. Returns the thread that waits for the end, which a driver may delay."""
        self._outgoing.put(None)
        killTree(self._popen, self._enginePid)
        return self._thread(self._popen.wait)

    # --- threads

    def _thread(self, target):
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        return thread

    def _read(self):
        with self._popen.stdout as lines:
            for line in lines:
                try:
                    event = decode(line)
                except ProtocolError as error:
                    self._garbage = str(error)
                    self._events.put({"type": "garbage", "id": None, "message": self._garbage})
                    return
                self._heard = time.monotonic()
                if event["type"] == "heartbeat":
                    continue
                if event["type"] == "ready":
                    self._enginePid = event.get("pid")
                self._loading = event.get("loading") is True or event.get("step") == "loading"
                self._events.put(event)

    def _write(self):
        # What cannot be written any more is lost with a process that has ended: `fault` tells.
        with contextlib.suppress(OSError, ValueError), self._popen.stdin as stdin:
            while (line := self._outgoing.get()) is not None:
                stdin.write(line)
                stdin.flush()

    def _collectLog(self):
        with self._popen.stderr as lines:
            for line in lines:
                self._log.append(line.decode("utf-8", errors="replace").rstrip())


def _sweep(place):
    """Remove what a client left that was killed together with its engine."""
    for folder in place.glob(f"{FOLDER_PREFIX}*-*"):
        pid = folder.name[len(FOLDER_PREFIX) :].partition("-")[0]
        if pid.isdigit() and not is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
