"""Measures how well the tests of the core hold it: changes a sign or a number, and sees whether a test fails.

    make mutants                                                           # a sample of every file
    .venv/bin/python -m benchmarks.mutants tonno_core/slicing/plan.py --most 0    # all of one file

Each mutant is one change: + and -, * and /, // and /, a minus dropped, < and <=, == and !=, `and` and `or`, True and
False, a number n to n + 1 (a float to twice itself). Left out are messages of errors, annotations, code for CUDA, and
guards: ``strict`` of zip and ``frozen`` of classes. The tests of a mutant are ``tests/ROOM/test_FILE.py`` and what
`_ALSO` adds: first those that run the changed line, the quickest first, and where none of them fails, all. It is
killed too if they take ten times as long. The exit status is 1 where a mutant survives that
``benchmarks/equivalent_mutants.txt`` does not list with a reason.
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.txt")
_CORE = ("slicing", "tomography", "reconstruction", "segmentation")
# What is only for CUDA, or for pictures of the file.
_LEFT_OUT = ("__init__", "kernel", "features", "shared")
# Tests of a file beside those of its own name.
_ALSO = {
    "slicing/plan": ("tests/slicing/test_sampling.py", "tests/slicing/test_content.py"),
    "slicing/sampling": (
        "tests/slicing/test_content.py", "tests/slicing/test_kernel.py", "tests/reconstruction/test_channels.py",
        "tests/reconstruction/test_neighbors.py", "tests/reconstruction/test_half_voxels.py",
    ),
    "tomography/grid": ("tests/tomography/test_backprojection.py", "tests/tomography/test_profiles.py"),
    "tomography/maps": ("tests/tomography/test_backprojection.py",),
    "tomography/profiles": ("tests/tomography/test_backprojection.py",),
    "tomography/projection": ("tests/tomography/test_inversion.py", "tests/reconstruction/test_neighbors.py"),
    "reconstruction/foreground": ("tests/reconstruction/test_segmenter.py",),
    "reconstruction/planes": (
        "tests/reconstruction/test_outside.py", "tests/test_roi_run.py", "tests/reconstruction/test_watching.py",
    ),
    "reconstruction/passes": ("tests/reconstruction/test_resuming.py", "tests/reconstruction/test_watching.py"),
    "reconstruction/projected": ("tests/test_reconstruction.py", "tests/reconstruction/test_resuming.py"),
    "reconstruction": ("tests/test_reconstruction.py",),
    "segmentation/threshold": ("tests/segmentation/test_parts.py",),
}  # fmt: skip
# Of pytest, where a test cannot be found, as a change may alter its name.
_NOT_RUN = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)
# Names of tests, and the seconds after which they are taken not to end.
_Lot = tuple[list[str], float]
_SWAPS: dict[type, tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.And: ("and", "or"),
    ast.Or: ("or", "and"),
}


@dataclass(frozen=True)
class Mutant:
    """One change of a file: ``source[start:stop]``, in bytes, becomes ``new``."""

    file: Path
    line: int
    start: int
    stop: int
    new: str
    statement: range
    """Its lines, of which some are those that the interpreter names."""

    @property
    def code(self) -> str:
        """The whole changed file."""
        source = self.file.read_bytes()
        return (source[: self.start] + self.new.encode() + source[self.stop :]).decode()

    @property
    def name(self) -> str:
        """The changed line, as it is and as it becomes: where lines move, the name stays."""
        before, after = (code.splitlines()[self.line - 1].strip() for code in (self.file.read_text("utf-8"), self.code))
        return f"{self.file.relative_to(ROOT)}: {before}  ->  {after}"


def mutants_of(file: Path) -> list[Mutant]:
    """List all mutants of a file, in its order."""
    source = file.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: Any, end: bool = False) -> int:
        line, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)
        return starts[line - 1] + column

    def mutant(line: int, start: int, stop: int, new: str) -> Mutant:
        around = [lines for lines in statements if line in lines]
        return Mutant(file, line, start, stop, new, min(around, key=len, default=range(line, line + 1)))

    def between(left: ast.expr, right: ast.expr, operator: object) -> Iterator[Mutant]:
        if type(operator) in _SWAPS:
            old, new = _SWAPS[type(operator)]
            at = source.find(old.encode(), place(left, end=True), place(right))
            yield mutant(source.count(b"\n", 0, at) + 1, at, at + len(old), new)

    def of(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.BinOp):
            yield from between(node.left, node.right, node.op)
        elif isinstance(node, ast.AugAssign):
            yield from between(node.target, node.value, node.op)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right, node.op)
        elif isinstance(node, ast.Compare):
            for left, operator, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                yield from between(left, right, operator)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            yield mutant(node.lineno, place(node), place(node) + 1, "")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = node.value
            new = (
                not value if isinstance(value, bool) else 2 * value if isinstance(value, float) and value else value + 1
            )
            yield mutant(node.lineno, place(node), place(node, end=True), repr(new))

    tree = ast.parse(source)
    statements = [_lines(node) for node in ast.walk(tree) if isinstance(node, ast.stmt)]
    return sorted({each for node in _mutable(tree) for each in of(node)}, key=lambda each: each.start)


def _lines(statement: ast.stmt) -> range:
    """Give the lines of a statement, of one that holds others those of its head."""
    inner = getattr(statement, "body", None)
    end = max(statement.lineno, inner[0].lineno - 1) if inner else statement.end_lineno or statement.lineno
    return range(statement.lineno, end + 1)


def _mutable(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what is executed and no message: no annotations, messages, guards, nor branches of CUDA."""
    if isinstance(node, ast.Raise | ast.JoinedStr) or (
        isinstance(node, ast.keyword) and node.arg in ("strict", "frozen")
    ):
        return
    if isinstance(node, ast.If) and "cuda" in ast.dump(node.test):
        return
    yield node
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _mutable(child)


def tests_of(file: Path) -> list[str]:
    """List the tests that belong to a file, its own first."""
    inner = file.relative_to(ROOT / "tonno_core").with_suffix("")
    own = Path("tests") / inner.parent / f"test_{inner.name}.py"
    also = _ALSO.get(inner.as_posix(), ()) or (() if (ROOT / own).exists() else _ALSO.get(inner.parts[0], ()))
    return [name for name in dict.fromkeys([own.as_posix(), *also]) if (ROOT / name).exists()]


class _Changed(MetaPathFinder):
    """Imports one module from changed source."""

    def __init__(self, file: Path, code: str) -> None:
        self._file, self._code = file, code
        self._name = ".".join(file.relative_to(ROOT).with_suffix("").parts)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        loader = _Loader(name, str(self._file))
        loader.code = self._code
        return spec_from_file_location(name, self._file, loader=loader)


class _Loader(SourceFileLoader):
    code = ""

    def get_code(self, fullname: str) -> Any:
        return compile(self.code, self.path, "exec")


def _begin(file: Path, code: str, tests: list[str]) -> int:
    """Run tests against changed source in a copy of this process, which has all libraries loaded; return its id."""
    process = os.fork()
    if process:
        return process
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        _forget()
        sys.meta_path.insert(0, _Changed(file, code))
        status = _pytest("-x", *tests)
    except BaseException:  # whatever the mutant did, it did not pass
        status = 1
    os._exit(status)


def _forget() -> None:
    """Have our own code imported anew."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("tonno_core", "tests")]:
        del sys.modules[name]


def _pytest(*arguments: str, plugins: Sequence[object] = ()) -> int:
    quiet = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly"]
    return int(pytest.main([*quiet, *arguments], plugins=list(plugins)))


class _Watched:
    """Notes which lines of a file each test runs, and how long it takes."""

    def __init__(self, file: Path) -> None:
        self._coverage = Coverage(data_file=None, include=[str(file)], config_file=False, messages=False)
        self._seconds: dict[str, float] = {}
        self._file = file

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.start()
        # What a fixture of a whole file does, its other tests rest on.
        self._coverage.switch_context(item.nodeid.partition("::")[0])
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        self._coverage.switch_context(item.nodeid)
        begun = time.monotonic()
        try:
            yield
        finally:
            self._seconds[item.nodeid] = time.monotonic() - begun
            self._coverage.stop()

    def found(self) -> tuple[dict[str, float], dict[int, list[str]]]:
        """Give the seconds of each test, and the tests of each line that any of them runs, the quickest first."""
        names = self._coverage.get_data().contexts_by_lineno(str(self._file))
        lines = {
            line: [
                test
                for test in sorted(self._seconds, key=self._seconds.__getitem__)
                if test in contexts or test.partition("::")[0] in contexts
            ]
            for line, contexts in names.items()
        }
        return self._seconds, lines


def _watch(file: Path) -> tuple[dict[str, float], dict[int, list[str]]] | None:
    """Find what `_Watched.found` gives in a copy of this process; None where a test fails."""
    with tempfile.NamedTemporaryFile("r") as found:
        process = os.fork()
        if not process:
            status = 1
            try:
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, 1)
                _forget()
                watched = _Watched(file)
                status = _pytest("-x", *tests_of(file), plugins=[watched])
                Path(found.name).write_text(json.dumps(watched.found()), "utf-8")
            finally:
                os._exit(status)
        _, status = os.waitpid(process, 0)
        if status:
            return None
        seconds, lines = json.load(found)
        return seconds, {int(line): tests for line, tests in lines.items()}


def _run(chosen: list[tuple[Mutant, list[_Lot]]], jobs: int) -> Iterator[tuple[Mutant, bool]]:
    """Yield mutants as they end, and whether one of their lots of tests killed them."""
    waiting, running = list(reversed(chosen)), dict[int, tuple[Mutant, list[_Lot], float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant, ((tests, limit), *further) = waiting.pop()
            running[_begin(mutant.file, mutant.code, tests)] = mutant, further, time.monotonic() + limit
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            mutant, further, _ = running.pop(process)
            if not further or (status and os.waitstatus_to_exitcode(status) not in _NOT_RUN):
                yield mutant, status != 0
            else:
                waiting.append((mutant, further))
        else:
            for late in [number for number, (*_, end) in running.items() if time.monotonic() > end]:
                os.kill(late, signal.SIGKILL)
                running[late] = *running[late][:2], float("inf")
            time.sleep(0.02)


def _limit(seconds: Iterable[float]) -> float:
    """Return the seconds after which tests are taken not to end; fixtures and imports are not in theirs."""
    return 10 * sum(seconds) + 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="of the core unless named")
    parser.add_argument("--most", type=int, default=12, help="mutants of each file; 0 for all (default 12)")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="those whose changed line has it, to see a test kill one"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="at a time (default: as many as cores)")
    asked = parser.parse_args()
    os.chdir(ROOT)
    known = {line for line in EQUIVALENT.read_text("utf-8").splitlines() if "  ->  " in line}
    files = [ROOT / file for file in asked.files] or [
        file
        for room in _CORE
        for file in sorted((ROOT / "tonno_core" / room).glob("*.py"))
        if file.stem not in _LEFT_OUT
    ]
    tests = sorted({test for file in files for test in tests_of(file)})
    if _pytest("--collect-only", *tests, "-qq"):  # loads all libraries, once
        return 2
    gc.freeze()  # what is loaded is looked through in no copy
    whole = passed = survived = 0
    for file in files:
        watched = _watch(file)
        if watched is None:
            print(f"{file.relative_to(ROOT)}: its tests fail as it is", flush=True)
            return 2
        seconds, covering = watched
        all_tests = tests_of(file), _limit(seconds.values())
        every = [mutant for mutant in mutants_of(file) if asked.only in mutant.name.partition("  ->  ")[2]]
        some = random.Random(asked.seed).sample(every, min(asked.most, len(every))) if asked.most else every
        lots = []
        for mutant in some:
            ran = dict.fromkeys(test for line in mutant.statement for test in covering.get(line, ()))
            some_tests = list(ran), _limit(seconds[test] for test in ran)
            lots.append((mutant, [some_tests, all_tests] if ran else [all_tests]))
        alive = [mutant for mutant, killed in _run(lots, asked.jobs) if not killed]
        unknown = [each for each in alive if not known & {each.name, each.name.partition("  ->  ")[0] + "  ->  *"}]
        print(
            f"{file.relative_to(ROOT)}: {len(every)} mutants, {len(some)} run, {len(some) - len(alive)} killed, "
            f"{len(alive) - len(unknown)} equivalent, {len(unknown)} survived",
            flush=True,
        )
        for mutant in unknown:
            print(f"    line {mutant.line}: {mutant.name.partition(': ')[2]}", flush=True)
        whole, passed, survived = whole + len(every), passed + len(some), survived + len(unknown)
    print(f"{whole} mutants in {len(files)} files, {passed} run, {survived} survived: "
          f"score {100 * (1 - survived / max(passed, 1)):.1f} %")  # fmt: skip
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main())
