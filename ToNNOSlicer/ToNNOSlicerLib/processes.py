"""Processes that end as a whole: a launcher such as PythonSlicer and the child that does its work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

_NICE = 10


def start(command, folder, changes, isLow=False, **streams):
    """Start a process in a new group, whose processes end together, without a console window.

    Args:
        command: The program and its arguments.
        folder: Where it starts: `python -m` looks for modules in the current folder first, and there might be some.
        changes: Changed variables by name; None removes a variable.
        isLow: Whether it gives way to other programs.
        streams: Where its input, output and errors go.

    Returns:
        The Popen.

    Raises:
        OSError: If there is nothing to start.
    """
    environment = {name: value for name, value in {**os.environ, **changes}.items() if value is not None}
    group = {"start_new_session": True}
    if os.name == "nt":
        low = subprocess.BELOW_NORMAL_PRIORITY_CLASS if isLow else 0
        group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW | low}
    popen = subprocess.Popen(list(command), cwd=folder, env=environment, **group, **streams)
    if isLow and os.name != "nt":
        with contextlib.suppress(OSError):  # it has ended already
            os.setpriority(os.PRIO_PGRP, popen.pid, _NICE)
    return popen


def temporaryVariables(folder):
    """Return the variables that tell a process, and the libraries in it, where to put temporary files.

    Args:
        folder: The folder.

    Returns:
        The folder by the variables' names.
    """
    return dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))


def killTree(popen, pid=None):
    """End a process that was started with `start`, and all of its children.

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
