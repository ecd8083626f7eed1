"""Disturb every command that writes, give it again, and print what came of it: ``make faults``.

A command that was disturbed says so in one line, or is gone; given again, it ends with the files of an undisturbed run,
and leaves nothing else behind. Moments and calls are drawn by a seed.
"""

from __future__ import annotations

import argparse
import errno
import functools
import importlib
import itertools
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tabulate import tabulate

import tonno_core
from tests.faults import disturbed
from tests.faults.commands import COMMANDS, Command, write_material
from tests.faults.disturbed import CHANGES, GROWS, KILL, Calls, Ended, difference, partial_files, results, run

PRELOADED = "TONNO_FAILING"
# Hours and days, as a daylight saving time, a corrected clock, and a battery that was empty.
_TURNS = [0, 3600, -7200, 86_400 * 400, -86_400 * 400, 0, 5]
_MEGABYTES = (8, 32, 64, 128)
# Of what a command leaves in the end, so much fits onto the disk.
_SHARES = (0.2, 0.5, 0.9)


@dataclass
class Row:
    """A line of the table.

    Attributes:
        command: Its name.
        fault: What was done to it.
        times: How often.
        said: How often it failed with one line that says so; else it was not stopped by this, or killed.
        wrong: What was not as it should be.
    """

    command: str
    fault: str
    times: int = 0
    said: int = 0
    wrong: list[str] = field(default_factory=list)


class Trial:
    """Disturbs one command.

    Args:
        command: The command.
        root: A folder with ``material``; all else in it is the trial's.
        calls: What makes calls fail.
        seed: Of moments and calls.
    """

    def __init__(self, command: Command, root: Path, calls: Calls, seed: int) -> None:
        self.command, self._calls, self._root = command, calls, root
        self._place = root / f"place-{COMMANDS.index(command)}"
        self._random = np.random.default_rng((seed, COMMANDS.index(command)))
        self._fresh()
        self._whole = self._run(lambda: calls.arm(self._place))
        self._expected = results(self._place)
        self._bytes = sum(path.stat().st_size for path in self._place.rglob("*") if path.is_file())
        if self._whole.status != 0 or partial_files(self._place):
            raise AssertionError(f"{command.name}: {self._whole} {partial_files(self._place)}")

    def undisturbed(self) -> Row:
        """Whether two runs write the same at all."""
        row = Row(self.command.name, "none", 1)
        self._fresh()
        self._judge(row, self._run(), "undisturbed")
        return row

    def kills(self, times: int) -> Iterator[Row]:
        """SIGKILL at moments and at calls, in turn."""
        row = Row(self.command.name, "SIGKILL")
        for number in range(times):
            self._fresh()
            if number % 2:
                call = int(self._random.integers(1, self._whole.calls + 1))
                where = f"at call {call}"
                self._run(functools.partial(self._calls.arm, self._place, call, KILL))
            else:
                after = float(self._random.uniform(0.0, self._whole.seconds))
                where = f"after {after:.2f} s"
                run(self.command, self._place, kill_after_s=after)
            self._again(row, where)
            yield row

    def failures(self, times: int) -> Iterator[Row]:
        """The file system fails, for good or once."""
        kinds = {"ENOSPC": (errno.ENOSPC, GROWS), "EROFS": (errno.EROFS, GROWS | CHANGES), "EIO once": (errno.EIO, 0)}
        for name, (number, refused) in kinds.items():
            row = Row(self.command.name, name)
            for _ in range(times):
                self._fresh()
                call = int(self._random.integers(1, self._whole.calls + 1))
                ended = self._run(functools.partial(self._calls.arm, self._place, call, number, refused))
                self._fail(row, ended, f"at call {call}", clean=name == "ENOSPC")
                self._again(row, f"at call {call}")
                yield row

    def small_disk(self) -> Iterator[Row]:
        """A real file system that is too small; for root alone."""
        row = Row(self.command.name, "small disk")
        for share in _SHARES:
            with _mounted(self._place, int(self._bytes * share) + 16_384) as mounted:
                if not mounted:
                    return
                self._link()
                self._fail(row, self._run(), f"of {share:.0%}", clean=True)
                for path in self._place.iterdir():  # the user makes room: on a larger disk it goes on
                    if path.name == "out":
                        shutil.copytree(path, self._root / f"kept-{self._place.name}", symlinks=True)
            self._fresh()
            kept = self._root / f"kept-{self._place.name}"
            if kept.is_dir():
                kept.rename(self._place / "out")
            self._again(row, f"of {share:.0%}")
            yield row

    def memory(self) -> Iterator[Row]:
        """Address space that ends."""
        row = Row(self.command.name, "RLIMIT_AS")
        for megabytes in _MEGABYTES:
            self._fresh()
            self._fail(row, self._run(disturbed.limit_memory(megabytes)), f"of {megabytes} MB", clean=True)
            self._again(row, f"of {megabytes} MB")
            yield row

    def clock(self) -> Iterator[Row]:
        """A clock that jumps while it works; and files of the future and of the past, from which it goes on."""
        row = Row(self.command.name, "clock")
        turn = functools.partial(self._calls.turn_clock, _TURNS)
        self._fresh()
        row.times += 1
        self._judge(row, self._run(turn), "clock jumps")
        yield row
        for hours in (-30, 30) if self.command.resumed else ():
            self._fresh()
            call = int(self._random.integers(1, self._whole.calls + 1))
            self._run(functools.partial(self._calls.arm, self._place, call, KILL))
            for path in self._place.rglob("*"):
                if not path.is_symlink():
                    when = path.stat().st_mtime + 3600 * hours
                    os.utime(path, (when, when))
            row.times += 1
            self._judge(row, self._run(turn), f"killed at call {call}, files {hours} h older")
            yield row

    # --- parts of these

    def _run(self, prepare: Callable[[], None] | None = None) -> Ended:
        return run(self.command, self._place, prepare=prepare, count=self._calls.count)

    def _fresh(self) -> None:
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir()
        self._link()

    def _link(self) -> None:
        (self._place / "material").symlink_to(self._root / "material")

    def _fail(self, row: Row, ended: Ended, where: str, *, clean: bool) -> None:
        """Judge how it failed, if it did: in one line; and where files could be removed, no part of one is left."""
        if ended.status == 0:  # of what does not matter: such as a temporary file that could not be removed
            return
        # A library that does not look at what malloc returns; the C library's own end, for want of a thread's data.
        if row.fault == "RLIMIT_AS" and (ended.status == 127 or -signal.SIGALRM != ended.status < 0):
            return
        row.said += 1
        if complaint := ended.complaint():
            row.wrong.append(f"{where}: {complaint}")
        if clean and (left := partial_files(self._place)):
            row.wrong.append(f"{where}: left {left}")
        if not self.command.resumed:
            found = results(self._place)
            half = [name for name in found if name.startswith("out/") and found[name] != self._expected.get(name)]
            if clean and half:
                row.wrong.append(f"{where}: half written {half[:4]}")

    def _again(self, row: Row, where: str) -> None:
        row.times += 1
        self._judge(row, self._run(), f"again, disturbed {where}")

    def _judge(self, row: Row, ended: Ended, where: str) -> None:
        different, left = difference(results(self._place), self._expected), partial_files(self._place)
        if ended.status and (different or left):  # complete results may be refused to be made again
            row.wrong.append(f"{where}: status {ended.status} {ended.said[-400:]}")
        elif different or left:
            row.wrong.append(f"{where}: differs in {different or 'nothing'}, left {left}")


@contextmanager
def _mounted(place: Path, size: int) -> Iterator[bool]:
    """Put a file system of so many bytes over a folder; False where that is not allowed."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def import_all() -> None:
    """Import all of the engine, once for all processes that are split off."""
    for module in pkgutil.walk_packages(tonno_core.__path__, "tonno_core."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):
                importlib.import_module(module.name)


def disturb(command: Command, root: Path, calls: Calls, asked: argparse.Namespace) -> list[Row]:
    """All faults of one command, as far as the time goes."""
    trial = Trial(command, root, calls, asked.seed)
    rows: dict[str, Row] = {}
    faults = [iter([trial.undisturbed()]), trial.kills(asked.kills), trial.failures(asked.failures), trial.clock(),
              trial.memory(), trial.small_disk()]  # fmt: skip
    while faults and time.monotonic() < asked.until:
        fault = faults.pop(0)  # in turn, as the time may end before all are through
        for row in itertools.islice(fault, 1):
            if len(row.wrong) > len(rows.get(row.fault, Row("", "")).wrong):
                print(f"{row.command}, {row.fault}: {row.wrong[-1]}", file=sys.stderr, flush=True)
            rows[row.fault] = Row(row.command, row.fault, row.times, row.said, list(row.wrong))
            faults.append(fault)
    return sorted(rows.values(), key=lambda row: row.fault)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--failures", type=int, default=10, help="of each command and kind of failure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no fault is begun")
    parser.add_argument("--only", default="", help="name of a command, or part of the names of several")
    asked = parser.parse_args(arguments)
    if PRELOADED not in os.environ:
        return _preloaded()
    asked.until = time.monotonic() + 60 * asked.minutes
    calls = Calls(os.environ[PRELOADED])
    chosen = [each for each in COMMANDS if each.name == asked.only] or [
        each for each in COMMANDS if asked.only in each.name
    ]
    if asked.kills * len(chosen) > 20:  # else it takes longer than it spares
        import_all()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        write_material(root / "material")
        rows = _in_parallel(chosen, root, calls, asked)
    shown = [[row.command, row.fault, row.times, row.said, f"{len(row.wrong)} WRONG" if row.wrong else "same"]
             for row in rows]  # fmt: skip
    print(tabulate(shown, headers=["command", "fault", "times", "said so", "given again"], disable_numparse=True))
    wrong = [f"{row.command}, {row.fault}: {text}" for row in rows for text in row.wrong]
    print("\n".join(wrong), file=sys.stderr)
    return int(bool(wrong) or len({row.command for row in rows}) < len(chosen))


def _in_parallel(chosen: list[Command], root: Path, calls: Calls, asked: argparse.Namespace) -> list[Row]:
    """Disturb each command in a process of its own."""
    waiting, running = list(chosen), {}
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            command = waiting.pop(0)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    rows = disturb(command, root, calls, asked)
                    path = root / f"rows-{COMMANDS.index(command)}.json"
                    path.write_text(json.dumps([asdict(row) for row in rows]))
                    status = 0
                except BaseException as error:
                    print(f"{command.name}: {error}", file=sys.stderr, flush=True)
                finally:
                    os._exit(status)
            running[child] = command
        ended, _ = os.wait()
        running.pop(ended, None)
    files = [root / f"rows-{COMMANDS.index(command)}.json" for command in chosen]
    return [Row(**row) for file in files if file.is_file() for row in json.loads(file.read_text())]


def _preloaded() -> int:
    """Start this again with the library that makes calls fail."""
    with tempfile.TemporaryDirectory() as folder:
        library = disturbed.compile_failing(Path(folder))
        if library is None:
            print("faults: a C compiler is needed, and Linux", file=sys.stderr)
            return 2
        environment = {**os.environ, "LD_PRELOAD": str(library), PRELOADED: str(library), "OMP_NUM_THREADS": "1"}
        return subprocess.call([sys.executable, "-m", "tests.faults.run", *sys.argv[1:]], env=environment)


if __name__ == "__main__":
    sys.exit(main())
