"""Processes that end as a whole: a launcher such as PythonSlicer and the child that does its work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def ownGroup():
    """Return options of Popen for a new process group, whose processes end together, without a console window.

    Returns:
        Keyword arguments of Popen.
    """
    if os.name == "nt":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def changedEnvironment(changes):
    """Return this process' variables with changes.

    Args:
        changes: Values by name; None removes a variable.

    Returns:
        All variables.
    """
    return {name: value for name, value in {**os.environ, **changes}.items() if value is not None}


def temporaryVariables(folder):
    """Return the variables that tell a process, and the libraries in it, where to put temporary files.

    Args:
        folder: The folder.

    Returns:
        The folder by the variables' names.
    """
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))


def killTree(popen, pid=None):
    """End a process that was started with `ownGroup`, and all of its children.

    Args:
        popen: The process.
        pid: The number of its child, where it is known.
    """
    if os.name == "nt":
        for number in {popen.pid, pid} - {None}:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(number)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=subprocess.CREATE_NO_WINDOW,
                check=False,
            )
        return
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all of it is gone
        os.killpg(popen.pid, signal.SIGKILL)
