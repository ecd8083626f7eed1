"""The process: one thread reads requests, one beats, and the main thread computes, one request after another."""

from __future__ import annotations

import os
import queue
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from tonno_core.errors import TonnoError
from tonno_core.output import PARTIAL
from tonno_core.protocol import FOLDER_PREFIX, REQUESTS, VERSION, Message, ProtocolError
from tonno_core.worker.channel import Channel
from tonno_core.worker.failures import failure_of
from tonno_core.worker.files import remove_partial
from tonno_core.worker.job import Job
from tonno_core.worker.processes import is_alive
from tonno_core.worker.requests import target_of
from tonno_core.worker.session import Session
from tonno_core.worker.versions import light_versions

_HEARTBEAT_S = 1.0
# How long an end waits for a file that is being written.
_GRACE_S = 2.0


class Server:
    """Serves one client until it shuts the process down, closes its stdin, or is gone.

    Args:
        channel: Where requests come from and events go.
        parent: The client's process number; None where only stdin tells of its end.
        folder: The client's temporary folder, which is removed if the client ends without a shutdown.
        ahead: Load what a reconstruction needs before the first request.
    """

    def __init__(
        self, channel: Channel, *, parent: int | None = None, folder: Path | None = None, ahead: bool = False
    ) -> None:
        self._channel, self._parent, self._folder, self._ahead = channel, parent, folder, ahead
        self._session = Session()
        self._waiting: queue.Queue[Job] = queue.Queue()
        self._jobs: dict[int, Job] = {}
        self._lock = threading.Lock()
        self._ending = threading.Lock()

    def run(self) -> None:
        """Serve; never returns, the process ends in `_end`."""
        versions = light_versions()
        self._channel.send("ready", None, protocol=VERSION, pid=os.getpid(), versions=versions, loading=self._ahead)
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        threading.Thread(target=self._read, name="requests", daemon=True).start()
        if self._ahead:
            self._session.load_ahead()
        while True:
            self._compute(self._waiting.get())

    # --- threads

    def _beat(self) -> None:
        while self._parent is None or is_alive(self._parent):
            self._channel.send("heartbeat", None)
            time.sleep(_HEARTBEAT_S)
        self._end(orphaned=True)

    def _read(self) -> None:
        for message in self._channel.requests():
            if isinstance(message, ProtocolError):
                self._refuse(None, message)
                continue
            try:
                self._take(message)
            except ProtocolError as error:
                self._refuse(message["id"], error)
        self._end(orphaned=True)

    def _compute(self, job: Job) -> None:
        try:
            job.check()
            job.start()
            self._session.compute(job)
        except BaseException as error:  # nothing that a request causes ends the process
            if not job.finished:
                job.finish("error", **failure_of(error).fields())
        finally:
            with self._lock:
                self._jobs.pop(job.identifier, None)

    # --- requests

    def _take(self, message: Message) -> None:
        kind, identifier = message["type"], message["id"]
        if kind not in REQUESTS:
            raise ProtocolError(f"the request '{kind[:40]}' is unknown, expected one of {', '.join(REQUESTS)}")
        if kind == "shutdown":
            self._end(orphaned=False)
        if identifier is None:
            raise ProtocolError(f"the request '{kind}' has no id")
        if kind in ("stop", "cancel"):
            self._interrupt(kind, target_of(message))
        elif kind == "describe":
            job = Job(identifier, message, self._channel.send)
            threading.Thread(target=self._describe, args=(job,), name="describe", daemon=True).start()
        else:
            self._enqueue(Job(identifier, message, self._channel.send))

    def _enqueue(self, job: Job) -> None:
        with self._lock:
            if job.identifier in self._jobs:
                raise ProtocolError(f"the id {job.identifier} is in use")
            self._jobs[job.identifier] = job
        self._waiting.put(job)

    def _interrupt(self, kind: str, target: int) -> None:
        """Nothing happens to a request whose final event is out: it crossed this one on the way."""
        with self._lock:
            job = self._jobs.get(target)
        if job is not None and kind == "cancel":
            job.cancel()
        elif job is not None:
            job.stop()

    def _describe(self, job: Job) -> None:
        try:
            job.finish("description", **self._session.describe())
        except BaseException as error:
            job.finish("error", **failure_of(error).fields())

    def _refuse(self, identifier: int | None, error: TonnoError | ProtocolError) -> None:
        self._channel.send("error", identifier, **failure_of(error).fields())

    # --- the end

    def _end(self, *, orphaned: bool) -> None:
        """End the process at once: no thread is waited for but one that is writing a file."""
        self._ending.acquire()  # once; whoever comes second waits here for the end
        try:
            self._clean_up(orphaned=orphaned)
        finally:
            os._exit(0)  # whatever of that failed: nobody is left who could end this process

    def _clean_up(self, *, orphaned: bool) -> None:
        with self._lock:
            jobs = list(self._jobs.values())
        cancel = threading.Thread(target=_cancel, args=(jobs,), daemon=True)
        cancel.start()
        cancel.join(_GRACE_S)
        for job in jobs:
            if isinstance(folder := job.fields.get("folder"), str):
                remove_partial(Path(folder))
                if orphaned and Path(folder).name.startswith(PARTIAL):  # an export's own, which nobody else removes
                    shutil.rmtree(folder, ignore_errors=True)
        if orphaned and self._folder is not None and self._folder.name.startswith(FOLDER_PREFIX):
            with suppress(OSError):  # the user, or the system, may have removed it with all above it
                os.chdir(self._folder.parent)  # Windows keeps a folder in which a process is
            shutil.rmtree(self._folder, ignore_errors=True)


def _cancel(jobs: list[Job]) -> None:
    for job in jobs:
        job.cancel()
