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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tonno_core.errors import TonnoError
from tonno_core.output import Json, write_text
from tonno_core.records import made_of

RUNS, RUN, LIST, LOG, ENDED, RESULTS = "runs", "run.json", "list.csv", "log.txt", "ended.json", "results"
REPORT, VERDICTS = "report.json", "verdicts.json"
# The engine's progress, as "reconstructing:  33%|...| 1.3/4 [00:46<01:34]".
_BAR = r"\d+%\|[^\r\n|]*\|"
Row = tuple[float, float, float, float]
Matrix = tuple[Row, Row, Row, Row]
WAITING, RUNNING, DONE, FAILED, READ = "waiting", "running", "done", "failed", "read"


@dataclass(frozen=True)
class Result:
    """What has become of a volume.

    Attributes:
        state: WAITING, RUNNING, DONE, FAILED or READ.
        folder: Of its results, "" without.
        error: Why it failed.
        findings: Their number, None without results.
        score: The classifier's, None without results.
        source: The file that the results are of, "" without.
    """

    state: str = WAITING
    folder: str = ""
    error: str = ""
    findings: int | None = None
    score: float | None = None
    source: str = ""


@dataclass(frozen=True)
class Case:
    """A study of the list.

    Attributes:
        name: For a person.
        volume: Path of its file, or of the folder of its series.
        source: The file that its results are of (`source_of`).
        modality: As DICOM has it, "" where it is not known.
        description: Of the series, "" without.
        state: "waiting", "running", "done", "failed" or "read".
        folder: Of its results, "" without.
        error: Why it failed, in the engine's words.
        findings: Number of the first method's findings, None without results.
        score: The classifier's, None without results.
    """

    name: str
    volume: str
    source: str
    modality: str = ""
    description: str = ""
    state: str = WAITING
    folder: str = ""
    error: str = ""
    findings: int | None = None
    score: float | None = None

    def having(self, result: Result) -> Case:
        """Return the same study with another result.

        Args:
            result: What has become of it.

        Returns:
            The study.
        """
        return replace(self, **asdict(result) | {"source": result.source or self.source})


@dataclass(frozen=True)
class MethodReport:
    """What a report says of a method's heatmap.

    Attributes:
        threshold: The engine's.
        threshold_source: How it was found.
        peak: Highest value.
        components: Of the segmentation.
        min_peak: What the peaks of the parts that were kept reach; None for all parts.
    """

    threshold: float
    threshold_source: str
    peak: float
    components: tuple[Any, ...]
    min_peak: float | None = None


@dataclass(frozen=True)
class ProfileReport:
    """The logits along an axis of the patient.

    Attributes:
        axis: Its letter.
        offsets_mm: Positions along it.
        logits: There.
    """

    axis: Literal["R", "A", "S"]
    offsets_mm: tuple[float, ...]
    logits: tuple[float, ...]


@dataclass(frozen=True)
class RegionReport:
    """The region of interest of a run.

    Attributes:
        box_to_ras: In whose frame |x|, |y|, |z| <= 1 is inside.
        zoom: Whether all planes lie in it.
    """

    box_to_ras: Matrix
    zoom: bool = False


@dataclass(frozen=True)
class SettingsReport:
    """Settings of a run.

    Attributes:
        frame: In which its planes lie.
    """

    frame: str


@dataclass(frozen=True)
class CaseReport:
    """What the module reads of a case's ``report.json``, by the engine's names.

    Attributes:
        methods: By name.
        class_name: Of the finding.
        settings: Of the run.
        frame_to_ras: 4 x 4.
        source: The volume's file (`source_of`).
        run: Of the cohort.
        score: The classifier's; None where it is not known.
        region: None for the whole volume.
        profiles: By axis.
        warnings: In the engine's words.
        seconds: By step.
        slices: Their numbers.
    """

    methods: dict[str, MethodReport]
    class_name: str
    settings: SettingsReport
    frame_to_ras: Matrix
    source: str = ""
    run: str = ""
    score: float | None = None
    region: RegionReport | None = None
    profiles: tuple[ProfileReport, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    slices: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A start of the engine.

    Attributes:
        folder: Of the run.
        volumes: In the list's order.
    """

    folder: Path
    volumes: tuple[str, ...]

    @property
    def cases(self) -> Path:
        """Folder of the cases' results."""
        return self.folder / RESULTS / "cases"

    def result(self, volume: str, source: str | None = None) -> Result:
        """Return what became of a volume.

        Args:
            volume: Its path.
            source: The file that results have to be of, None for any.

        Returns:
            Its result.
        """
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
    """Return the runs that were asked for the same.

    Args:
        output: The worklist's folder.
        key: Of what was asked for.

    Returns:
        The runs, newest first.
    """
    runs = []
    for folder in sorted((output / RUNS).glob("[0-9]*"), reverse=True):
        content = readJson(folder / RUN)
        volumes = content.get("volumes", [])
        isWhole = isinstance(volumes, list) and all(isinstance(volume, str) for volume in volumes)
        if content.get("key") == key and isWhole:
            runs.append(Run(folder, tuple(volumes)))
    return runs


def newRun(output: Path, key: str, model: str, volumes: Sequence[str], arguments: Sequence[str] = ()) -> Run:
    """Make the folder of another run.

    Args:
        output: The worklist's folder.
        key: Of what is asked for.
        model: A model's folder.
        volumes: Paths, in their order.
        arguments: Of the command line.

    Returns:
        The run.

    Raises:
        OSError: The folder cannot be made.
    """
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
    """Return what is known of a volume as it is now: a result of it, else why it failed last.

    Args:
        runs: Newest first.
        volume: Its path.
        source: The file as it is.

    Returns:
        Its result.
    """
    results = [run.result(volume, source) for run in runs if volume in run.volumes]
    done = (result for result in results if result.state in (DONE, READ))
    return next(done, next((result for result in results if result.state == FAILED), Result()))


def reported(folder: Path) -> Result | None:
    """Read a case's finished results.

    Args:
        folder: Of the case.

    Returns:
        What they say, None without them.
    """
    try:
        report = checked(readJson(folder / REPORT))
    except ValueError:
        return None
    first = next(iter(report.methods.values()))
    state = READ if isRead(folder) else DONE
    return Result(state, str(folder), findings=len(first.components), score=report.score, source=report.source)


def checked(content: Json) -> CaseReport:
    """Check a case's report: whatever has become of the file, the module shows what the engine wrote, or nothing.

    Args:
        content: Of ``report.json``.

    Returns:
        What the module reads of it.

    Raises:
        ValueError: It is no report, with what it lacks or what is wrong in it.
    """
    report = made_of(CaseReport, {**content, "class_name": content.get("class")}, others=True)
    if not report.methods:
        raise ValueError("it has no methods")
    return report


def isRead(folder: Path) -> bool:
    """Return whether a reader has saved verdicts, with all that belongs to them.

    Args:
        folder: Of the case.

    Returns:
        True where the case is read.
    """
    verdicts = readJson(folder / VERDICTS)
    segmentation = verdicts.get("segmentation")
    return bool(verdicts) and (segmentation is None or (folder / str(segmentation)).is_file())


def readJson(path: Path) -> Json:
    """Read a JSON object.

    Args:
        path: The file.

    Returns:
        The object; empty where there is none, or not a whole one.
    """
    with suppress(OSError, ValueError, RecursionError):
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    return {}


def writeJson(path: Path, content: Json) -> None:
    """Write JSON, whole or not at all.

    Args:
        path: The file.
        content: An object.

    Raises:
        OSError: It cannot be written.
    """
    try:
        write_text(path, json.dumps(content, indent=1) + "\n")
    except TonnoError as error:
        raise error.__cause__ or error from None  # what the system said


def progress(log: Path) -> tuple[float, str]:
    """Read how far the engine is from its log.

    Args:
        log: The file.

    Returns:
        How many cases its bar shows as done (-1.0: none yet), and the last line that is not a bar.
    """
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
    """Return the folder of a case by its number in the list, and the file that says why it failed."""
    with suppress(OSError):
        return sorted(path.name for path in cases.iterdir() if path.name.startswith(f"{number:04d}-"))
    return []


def _failure(file: Path) -> str:
    return str(readJson(file).get("failed", "failed"))
