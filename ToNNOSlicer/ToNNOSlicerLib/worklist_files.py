"""What a worklist keeps in its folder, read and written.

``runs/0001/`` holds ``run.json`` (what was asked for, and the volumes in their order), ``list.csv``, ``log.txt``,
``ended.json`` (cases in which the engine's process ended) and ``results/``, which the engine writes. A later run does
what no earlier one has done, so nothing is written over. ``worklist.json`` has the cases as they were seen last.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tonno_core.errors import TonnoError
from tonno_core.output import write_text

RUNS, RUN, LIST, LOG, ENDED, RESULTS = "runs", "run.json", "list.csv", "log.txt", "ended.json", "results"
REPORT, VERDICTS = "report.json", "verdicts.json"
# The engine's progress, as "reconstructing:  33%|...| 1.3/4 [00:46<01:34]".
_BAR = r"\d+%\|[^\r\n|]*\|"
WAITING, RUNNING, DONE, FAILED, READ = "waiting", "running", "done", "failed", "read"


@dataclass(frozen=True)
class Result:
    """What has become of a volume.

    folder: of its results, source: the file that they are of, "" without. findings, score: None without.
    """

    state: str = WAITING
    folder: str = ""
    error: str = ""
    findings: int | None = None
    score: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Run:
    """One start of the engine. volumes: in the list's order."""

    folder: Path
    volumes: tuple[str, ...]

    @property
    def cases(self) -> Path:
        return self.folder / RESULTS / "cases"

    def result(self, volume: str, source: str | None = None) -> Result:
        """What became of a volume; source: which it has to be of, if any will not do."""
        number = self.volumes.index(volume) + 1
        for name in _names(self.cases, number):
            if name.endswith(".failed"):
                return Result(FAILED, error=_failure(self.cases / name))
            known = reported(self.cases / name)
            if known is not None and source in (None, known.source):
                return known
        reason = readJson(self.folder / ENDED).get(volume)
        return Result() if reason is None else Result(FAILED, error=str(reason))


def runsOf(output: Path, key: str) -> list[Run]:
    """The runs that were asked for the same, newest first."""
    runs = []
    for folder in sorted((output / RUNS).glob("[0-9]*"), reverse=True):
        content = readJson(folder / RUN)
        if content.get("key") == key:
            runs.append(Run(folder, tuple(content.get("volumes", ()))))
    return runs


def newRun(output: Path, key: str, model: str, volumes: Sequence[str], arguments: Sequence[str] = ()) -> Run:
    """Make the folder of another run. Raises OSError."""
    numbers = [int(folder.name) for folder in (output / RUNS).glob("[0-9]*") if folder.name.isdigit()]
    folder = output / RUNS / f"{max(numbers, default=0) + 1:04d}"
    folder.mkdir(parents=True)
    with (folder / LIST).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["volume"])
        writer.writerows([volume] for volume in volumes)
    writeJson(folder / RUN, {"key": key, "model": model, "arguments": list(arguments), "volumes": list(volumes)})
    return Run(folder, tuple(volumes))


def resultOf(runs: Sequence[Run], volume: str, source: str) -> Result:
    """What is known of a volume as it is now: a result of it, else why it failed last."""
    results = [run.result(volume, source) for run in runs if volume in run.volumes]
    done = (result for result in results if result.state in (DONE, READ))
    return next(done, next((result for result in results if result.state == FAILED), Result()))


def reported(folder: Path) -> Result | None:
    """What a case's finished results say; None without them."""
    report = readJson(folder / REPORT)
    methods = report.get("methods")
    if not methods:
        return None
    first = next(iter(methods.values()))
    state = READ if isRead(folder) else DONE
    components, score, source = len(first["components"]), report.get("score"), str(report.get("source", ""))
    return Result(state, str(folder), findings=components, score=score, source=source)


def isRead(folder: Path) -> bool:
    """Whether a reader has saved verdicts, with all that belongs to them."""
    verdicts = readJson(folder / VERDICTS)
    segmentation = verdicts.get("segmentation")
    return bool(verdicts) and (segmentation is None or (folder / str(segmentation)).is_file())


def readJson(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none, or not a whole one."""
    with suppress(OSError, ValueError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def writeJson(path: Path, content: dict[str, Any]) -> None:
    """Write JSON, whole or not at all. Raises OSError."""
    try:
        write_text(path, json.dumps(content, indent=1) + "\n")
    except TonnoError as error:
        raise error.__cause__ or error from None  # what the system said


def progress(log: Path) -> tuple[float, str]:
    """How many cases the engine's bar shows as done (-1.0: it shows none yet), and the last line that is not a bar."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return -1.0, ""
    bars = re.findall(rf"{_BAR} (\d+(?:\.\d+)?)/\d+ \[", text)
    # A process that dies speaks behind its bar.
    lines = [re.sub(rf"^.*{_BAR} [^\]]*\]?", "", line).strip() for line in text.splitlines()]
    plain = [line for line in lines if line]
    return float(bars[-1]) if bars else -1.0, plain[-1].removeprefix("tonno: ") if plain else ""


def _names(cases: Path, number: int) -> list[str]:
    """The folder of a case by its number in the list, and the file that says why it failed."""
    with suppress(OSError):
        return sorted(path.name for path in cases.iterdir() if path.name.startswith(f"{number:04d}-"))
    return []


def _failure(file: Path) -> str:
    return str(readJson(file).get("failed", "failed"))
