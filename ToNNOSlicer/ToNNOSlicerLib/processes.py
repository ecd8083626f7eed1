"""Processes that end as a whole: a launcher such as PythonSlicer and the child that does its work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def ownGroup():
    """Options of Popen for a process group of its own, so that both end together; no console window on Windows."""
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def changedEnvironment(changes):
    """This process' variables with changes; a value of None removes one."""
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def temporaryVariables(folder):
    """The variables that tell a process, and the libraries in it, where to put temporary files."""
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))


def killTree(popen, pid=None):
    """End a process of `ownGroup` and all of its children. pid: of the child, where it is known."""
    if os.name == "nt":
        for each in {popen.pid, pid} - {None}:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(each)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it is gone
        os.killpg(popen.pid, signal.SIGKILL)
