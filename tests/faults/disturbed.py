"""A command in a process of its own, split off from this one: disturbed at a chosen moment, then given again."""

from __future__ import annotations

import csv
import ctypes
import hashlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import torch

from tests.faults.commands import Command
from tonno_core.output import PARTIAL

# After which a command is taken to hang, and ended by SIGALRM.
LONGEST_S = 300
SOURCE = Path(__file__).with_name("failing.c")
KILL = -1
# What a full disk refuses, and what only one refuses that cannot be written at all: see failing.c.
GROWS, CHANGES = 1, 2
# What tells of the hour, or of how long something took.
_OF_TIME = (
    "seconds",
    "seconds_in_steps",
    "seconds_before_steps",
    "slices_per_second",
    "patches_per_second",
    "wait_share",
    "busy",
    "waited",
)
# A folder that torch makes for its compiler, one for all processes of a user.
_OF_TORCH = "torchinductor_"
_PATIENCE_S = 600.0


@dataclass(frozen=True)
class Ended:
    """How a process has ended.

    Attributes:
        status: 0, 2 after a message, negative for a signal.
        said: On stderr.
        seconds: How long it took.
        calls: That changed something in its folder.
    """

    status: int
    said: str
    seconds: float
    calls: int

    def complaint(self) -> str:
        """What is wrong with how it failed: "" for one line that says so, and no traceback."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        last = " | ".join(lines[-3:])
        if self.status != 2:
            return f"status {self.status}: {last}"
        said = [line for line in lines if line.startswith("tonno: ")]
        return (
            "" if "Traceback" not in self.said and lines and said == lines[-1:] else f"no message of one line: {last}"
        )


def compile_failing(folder: Path) -> Path | None:
    """Compile what is preloaded; None where there is no compiler or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    made = folder / "failing.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", made, SOURCE, "-ldl"], check=True)
    return made


class Calls:
    """The library of failing.c, preloaded into this process."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.failing_count.restype = ctypes.c_long

    def arm(self, folder: Path, at: int = 0, error: int = 0, kinds: int = 0) -> None:
        self._library.failing_arm(os.fsencode(folder), ctypes.c_long(at), error, kinds)

    def count(self) -> int:
        return int(self._library.failing_count())

    def turn_clock(self, seconds: list[int]) -> None:
        self._library.failing_clock((ctypes.c_long * len(seconds))(*seconds), ctypes.c_long(len(seconds)))


def run(
    command: Command,
    place: Path,
    *,
    prepare: Callable[[], None] | None = None,
    count: Callable[[], int] | None = None,
    kill_after_s: float | None = None,
) -> Ended:
    """Give a command in a folder, to a process of its own.

    Args:
        command: The command.
        place: Its folder, which has ``out`` and ``tmp`` afterwards.
        prepare: Called in that process first.
        count: Called there at the end.
        kill_after_s: When to kill it.
    """
    (place / "tmp").mkdir(exist_ok=True)
    log, counted = place.with_suffix(".log"), place.with_suffix(".count")
    counted.unlink(missing_ok=True)
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            signal.alarm(LONGEST_S)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            os.chdir(place)
            os.environ["TMPDIR"] = tempfile.tempdir = str(place / "tmp")
            if prepare is not None:
                prepare()
            status = command.run()
            if count is not None:
                counted.write_text(str(count()))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    if kill_after_s is not None:
        time.sleep(max(0.0, kill_after_s - (time.monotonic() - started)))
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(child, signal.SIGKILL)
        os.kill(child, signal.SIGKILL)
    status = _waited(child, started + _PATIENCE_S)
    seconds = time.monotonic() - started
    calls = int(counted.read_text()) if counted.exists() else 0
    return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"), seconds, calls)


def _waited(child: int, until: float) -> int:
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]


def limit_memory(megabytes: int) -> Callable[[], None]:
    """Let a process have so much address space beyond what it has."""

    def limit() -> None:
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + (megabytes << 20), resource.RLIM_INFINITY))

    return limit


def results(place: Path) -> dict[str, str]:
    """What is in a command's folder, by name: a hash of each file, but for what tells of time."""
    return {
        str(path.relative_to(place)): _hash(path)
        for path in sorted(place.rglob("*"))
        if not path.is_symlink() and path.is_file() and _OF_TORCH not in str(path)
    }


def partial_files(place: Path) -> list[str]:
    """What is left of files that were being written, and of temporary ones."""
    hidden = [path for path in place.rglob("*") if PARTIAL in path.name]
    temporary = [path for path in (place / "tmp").iterdir() if not path.name.startswith(_OF_TORCH)]
    return sorted(str(path.relative_to(place)) for path in [*hidden, *temporary])


def difference(found: dict[str, str], expected: dict[str, str]) -> str:
    """Say in what two folders differ, "" where they do not."""
    names = sorted(found.keys() ^ expected.keys()) + sorted(
        name for name in found.keys() & expected.keys() if found[name] != expected[name]
    )
    told = [f"{'+' if name not in expected else '-' if name not in found else '!'}{name}" for name in names]
    return " ".join(told[:6])


def _hash(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix == ".json":
        with suppress(ValueError):  # half written
            content = json.dumps(_timeless(json.loads(content)), sort_keys=True).encode()
    elif path.suffix == ".csv":
        rows = [
            {name: cell for name, cell in row.items() if name not in _OF_TIME}
            for row in csv.DictReader(io.StringIO(content.decode()))
        ]
        content = json.dumps(rows).encode()
    elif path.suffix == ".pt":
        content = repr(_timeless(torch.load(path, weights_only=True))).encode()
    elif path.suffix == ".dcm":
        dataset = pydicom.dcmread(path)
        dataset.remove_private_tags()
        content = repr(_plain(dataset)).encode()
    return hashlib.sha256(content).hexdigest()


def _plain(dataset: pydicom.Dataset) -> list[Any]:
    """A DICOM file's values; identifiers are new in each, dates and times of the hour."""
    return [
        (element.tag, [_plain(item) for item in element.value] if element.VR == "SQ" else element.value)
        for element in dataset
        if element.VR not in ("UI", "DA", "TM", "DT")
    ]


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(each) for name, each in value.items() if name not in _OF_TIME}
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    return [_timeless(each) for each in value] if isinstance(value, (list, tuple)) else value
