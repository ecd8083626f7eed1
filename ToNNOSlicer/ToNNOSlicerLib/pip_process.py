"""A command of pip as a process whose output grows in a file: nothing blocks, no thread waits, and it can outlive us.

The standard library only: neither Qt, nor MRML, nor Slicer.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ToNNOSlicerLib.processes import killTree, start, temporaryVariables

# From this line on pip replaces files; an end before its own would leave half of them.
_PLACING = ("Installing collected packages", "Found existing installation", "Uninstalling ")
_ERROR = re.compile(r"(ERROR|error): *(?P<text>.+)")
# Lines that pip writes around a failure and that say nothing of its cause.
_ASIDE = re.compile(r"WARNING|DEPRECATION|note: |hint: |\[notice\]|See above|\W+$")
_REAP_S = 2.0


class PipProcess:
    """A running command of pip, or of a module that drives pip.

    Args:
        command: The interpreter and its arguments, one string each: no shell reads them, so nothing needs quotes.
        folder: An existing folder for the output and for what pip unpacks. The process starts there, because
            ``python -m`` looks for modules in the current folder first.

    Raises:
        OSError: If the interpreter cannot be started.
    """

    def __init__(self, command: list[str], folder: Path) -> None:
        self._canBreak = True
        log = folder / "pip.txt"
        with log.open("wb") as output:
            # A password that pip asks for ends it instead of making it wait for ever.
            streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
            self._popen = start(command, folder, _variables(folder), **streams)
        self._log = log.open("rb")
        self._rest = b""

    @property
    def code(self) -> int | None:
        """The exit code; None while the process runs."""
        return self._popen.poll()

    @property
    def canBreak(self) -> bool:
        """Whether the process can be ended now without leaving half a package behind."""
        return self._canBreak or self.code is not None

    def lines(self) -> list[str]:
        """Return what has been written since the last call.

        Returns:
            Whole lines; after the end, the unfinished last line too.
        """
        ended = self.code is not None
        *whole, self._rest = (self._rest + self._log.read()).split(b"\n")
        if ended:
            whole, self._rest = [*whole, self._rest], b""
        lines = [line.decode("utf-8", errors="replace").rstrip() for line in whole]
        self._canBreak = self._canBreak and not any(line.strip().startswith(_PLACING) for line in lines)
        return [line for line in lines if line]

    def kill(self) -> None:
        """End the process with all of its children, if it still runs, and wait a moment for that."""
        if self.code is None:
            killTree(self._popen)
            with contextlib.suppress(subprocess.TimeoutExpired):  # a network drive holds it up; it ends by itself
                self._popen.wait(_REAP_S)
        self.close()

    def close(self) -> None:
        """Read no more; the process goes on if it runs."""
        self._log.close()


def causeOf(lines: Iterable[str]) -> str:
    """Return the line in which pip says why it failed.

    Args:
        lines: What pip wrote.

    Returns:
        The text of its last ERROR, else the last line that says anything, else "".
    """
    kept = [line.strip() for line in lines if line.strip()]
    errors = [match["text"] for line in kept if (match := _ERROR.match(line)) and not _isVague(match["text"])]
    if errors:
        return errors[-1]
    return next((line for line in reversed(kept) if not _ASIDE.match(line)), "")


def _isVague(text: str) -> bool:
    """Tell whether a text such as `subprocess-exited-with-error` only announces that the cause stands elsewhere."""
    return re.fullmatch(r"[a-z]+(-[a-z]+)+", text) is not None


def _variables(folder: Path) -> dict[str, str]:
    # UTF-8 in whatever language the system is set to; lines as they come; no questions, no advice about pip itself.
    ours = {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    return temporaryVariables(folder) | ours
