"""The worklist's own process: finds the studies, or runs the engine's command. It ends with the one that started it.

``python -m ToNNOSlicerLib.worklist_child OUTPUT find SOURCE KEY FILE`` or ``... OUTPUT run ARGUMENTS``, the latter as
the engine's command line takes them. What a person is to know is the last line on stderr, and the exit code is 2.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from ToNNOSlicerLib import worklist_files
from ToNNOSlicerLib.studies import findStudies

REFUSED = 2
# One that was ended a moment ago may still hold the folder.
_LOCK_S = 5.0


def main(output: str, task: str, *arguments: str) -> int:
    """Do a task of the worklist.

    Args:
        output: The worklist's folder.
        task: ``find`` or ``run``.
        arguments: Of the task.

    Returns:
        The exit code.
    """
    endWithParent()
    try:
        lock = locked(Path(output))  # noqa: F841  held until this process ends
        if task == "run":
            return _run(list(arguments))
        source, key, file = arguments
        worklist_files.writeJson(Path(file), find(Path(source), Path(output), key))
    except (TonnoError, OSError) as error:
        print(f"{error}", file=sys.stderr)
        return REFUSED
    return 0


def find(source: Path, output: Path, key: str) -> Json:
    """Find the studies, and what is known of each from the runs so far.

    Args:
        source: A folder or a list.
        output: The worklist's folder.
        key: Of what is asked for.

    Returns:
        Cases, and notes about what was left out.
    """
    for partial in (output / worklist_files.RUNS).glob("*/results/cases/.tonno-partial-*"):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed; nobody else is at work here
    studies, notes = findStudies(source, output)
    runs = worklist_files.runsOf(output, key)
    cases = [study.having(worklist_files.resultOf(runs, study.volume, study.source)) for study in studies]
    return {"cases": [asdict(case) for case in cases], "notes": notes}


def _run(arguments: list[str]) -> int:
    from tonno_core import cli

    try:
        cli.main(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(bool(end.code))
    return 0


def endWithParent() -> None:
    """End this process as soon as whoever started it is gone: its end of our stdin is closed then."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock the interpreter takes when it ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def locked(output: Path):
    """Hold the folder, so that no two processes work in it.

    Args:
        output: The folder, which is made.

    Returns:
        An open file, which holds it.

    Raises:
        TonnoError: Another process works in it.
    """
    output.mkdir(parents=True, exist_ok=True)
    file = (output / "lock").open("a+b")
    end = time.monotonic() + _LOCK_S
    while not _lock(file):
        if time.monotonic() > end:
            raise TonnoError(f"{output}: another process works on this list; wait for it, or close the other Slicer")
        time.sleep(0.1)
    return file


def _lock(file) -> bool:
    """Lock a file; the operating system frees it with the process, however that ends."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
