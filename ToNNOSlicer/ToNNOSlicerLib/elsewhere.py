"""Slow files written by another process, a little at each turn of the event loop: no Qt, no MRML."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from slicer.i18n import tr as _

from ToNNOSlicerLib import slow_files
from ToNNOSlicerLib.background import Background
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.processes import changedEnvironment, killTree, ownGroup

# The event loop may hold the interpreter's lock: the thread below then runs only in these pauses.
_YIELD_S = 0.01
_LIBRARY = Path(__file__).resolve().parent.parent


def writer(command: list[str], changes: dict[str, str | None], temporaryPath: str | Path | None = None) -> Callable:
    """Make what `logic.reportSteps` and `logic.heatmapSteps` take: it writes in a Python that has the packages.

    Args:
        command: The interpreter and ``-m``.
        changes: Changes to this process' variables; None removes one.
        temporaryPath: Where the arrays wait for that process, in a folder that nobody else may read; None for the
            system's place for such.
    """

    def write(files: slow_files.SlowFiles, place: Path) -> Iterator[float]:
        with tempfile.TemporaryDirectory(prefix="tonno-export-", dir=temporaryPath, ignore_cleanup_errors=True) as name:
            yield from _save(files, Path(name))
            yield from _run(command, changes, files, Path(name), place)

    return write


def _save(files: slow_files.SlowFiles, folder: Path) -> Iterator[float]:
    saver = Background(lambda: slow_files.save(files, folder))
    try:
        while saver.is_alive():
            yield 0.0
            saver.join(_YIELD_S)
    finally:
        saver.join()
    if saver.error is not None:
        raise saver.error


def _run(command, changes, files: slow_files.SlowFiles, folder: Path, place: Path) -> Iterator[float]:
    search = os.pathsep.join(filter(None, (str(_LIBRARY), changes.get("PYTHONPATH") or "")))
    errors = folder / "stderr.txt"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(
            [*command, slow_files.__name__, str(folder), str(place)],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            cwd=folder,  # `python -m` looks for modules in the current folder first
            env=changedEnvironment({**changes, "PYTHONPATH": search}),
            **ownGroup(),
        )
        try:
            while process.poll() is None:
                yield sum((place / name).exists() for name in files.names) / len(files.names)
        finally:
            killTree(process)
            process.wait()
    if process.returncode:
        raise _failure(process.returncode, errors.read_text(encoding="utf-8", errors="replace"))


def _failure(code: int, text: str) -> ToNNOUserError:
    last = (text.strip().splitlines() or [""])[-1].rstrip(".")
    if code == slow_files.REFUSED:
        return ToNNOUserError(
            _("The files cannot be written: {reason}.").format(reason=last),
            _("Check the folder and the space on the disk, or choose another place."),
        )
    return ToNNOUserError(
        _("The process that writes the files has failed (exit code {code}: {last}).").format(code=code, last=last),
        _("Packages may be missing: click Apply once, or choose another Python under Advanced."),
    )
