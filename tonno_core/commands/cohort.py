"""`tonno reconstruct MANIFEST.csv`: a folder for each volume of a cohort, and one summary."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

import tonno_core
from tonno_core.cohort.cases import CasesFolder, Outcome, Progress, case_name, failed_line, fingerprint, run_cases
from tonno_core.cohort.manifest import read_volumes
from tonno_core.cohort.source import source_of
from tonno_core.commands.options import as_options
from tonno_core.commands.reconstruct import reconstruct_into
from tonno_core.commands.request import Compute, Options, PreparedRun, model_identity, prepare, read_options
from tonno_core.distributed import device_of_process, share_of_cases
from tonno_core.errors import TonnoError
from tonno_core.output import Json, write_text

REPORT, SUMMARY = "report.json", "summary.csv"
_FILES = ("heatmap-*", "segmentation-*", "overview.png", REPORT)
# Of a method in the summary; beside them stand those of the case.
_OF_A_METHOD = ("threshold", "threshold_source", "components", "volume_mm3", "peak")
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Task:
    """A volume of the cohort.

    Attributes:
        name: Of its case.
        volume: File, or folder of DICOM files.
    """

    name: str
    volume: Path


class CohortFolder(CasesFolder):
    """``cases/NAME/`` holds what a run of one volume writes; its report says of which cohort, and which file, it is.

    volumes: by the names of all cases.
    """

    kind = "cohort"
    summary_names = (SUMMARY,)

    def __init__(self, path: Path, fingerprint: str, volumes: Mapping[str, Path]) -> None:
        super().__init__(path, fingerprint)
        self._volumes = volumes

    def has(self, name: str) -> bool:
        """Return whether a case is done, and its volume is still the one that was read.

        Args:
            name: Of the case.

        Returns:
            False where it is to be done.
        """
        report = self.report(name)
        if report is None:
            return False
        volume = self._volumes[name]
        with suppress(OSError):
            if "source" not in report:  # written by an earlier build: the times tell
                return _newest(volume) <= (self.cases / name / REPORT).stat().st_mtime
            return bool(report["source"] == source_of(volume))
        return False

    def clear(self, keep: set[str]) -> None:
        """Remove the results of cases.

        Args:
            keep: Names of those that stay.
        """
        for folder in self.cases.iterdir():
            if folder.is_dir() and folder.name not in keep:
                for pattern in _FILES:
                    for file in folder.glob(pattern):
                        file.unlink(missing_ok=True)
                with suppress(OSError):  # holds other files
                    folder.rmdir()

    def report(self, name: str) -> Json | None:
        """Read a case's report.

        Args:
            name: Of the case.

        Returns:
            ``report.json``, None where the case is not done.

        Raises:
            TonnoError: It cannot be read.
        """
        path = self.cases / name / REPORT
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as a case's report ({error}); delete its folder") from error
        return data if isinstance(data, dict) and data.get("run") == self.fingerprint else None


def reconstruct_cohort(
    manifest: Path,
    output: Path,
    options: Options,
    compute: Compute,
    *,
    overwrite: bool = False,
    progress: bool = True,
) -> Outcome:
    """Reconstruct every volume of a manifest, by one model that is loaded once.

    Resumes a folder whose settings are the same; a volume whose file has changed since is done again. Several processes
    with RANK and WORLD_SIZE set share the cases; the last one writes the summary.

    Args:
        manifest: CSV with a column ``volume``.
        output: Folder of the cohort.
        options: Of the command line.
        compute: Where.
        overwrite: Start anew where another cohort is.
        progress: Show a bar.

    Returns:
        What to print.

    Raises:
        TonnoError: An option or the manifest is wrong, or the folder holds another cohort.
    """
    request = read_options(options)
    tasks = [Task(case_name(n, case.volume), case.volume) for n, case in enumerate(read_volumes(manifest), start=1)]
    rank, world = share_of_cases()
    prepared = prepare(request, dataclasses.replace(compute, device=device_of_process(compute.device)))
    content = _content(prepared, tasks, compute.compiled)
    folder = CohortFolder(output, fingerprint(content), {task.name: task.volume for task in tasks})
    names, share = [task.name for task in tasks], tasks[rank::world]
    folder.open(content, names, [task.name for task in share], overwrite=overwrite)

    def work(task: Task, advanced: Progress) -> None:
        identity = {"run": folder.fingerprint, "source": source_of(task.volume)}  # before it is read
        place = folder.cases / task.name
        (place / REPORT).unlink(missing_ok=True)  # of what the file was before; should it fail now, nothing is reported
        reconstruct_into(place, task.volume, prepared, progress=advanced, overwrite=place.exists(), extra=identity)

    run_cases(share, folder, work, label="reconstructing", progress=progress and rank == 0, reworded=as_options)
    return _outcome(folder, names, len(share))


def _content(prepared: PreparedRun, tasks: Sequence[Task], compiled: bool) -> Json:
    """Return what this run is, as ``settings.json`` states it."""
    content = {
        "tonno": tonno_core.__version__,
        "model": model_identity(prepared.request.model),
        "manifest": {"cases": len(tasks), "sha256": fingerprint([str(task.volume) for task in tasks])},
        "device": prepared.run.device.type,
        "precision": str(prepared.run.precision).removeprefix("torch."),
        "compiled": compiled,
        **prepared.request.record(),
    }
    return dict(json.loads(json.dumps(content)))  # as it will be read: tuples are lists


# --- the summary


def _outcome(folder: CohortFolder, names: Sequence[str], here: int) -> Outcome:
    reports, failures = {}, {}
    for name in names:
        report = folder.report(name)
        reason = None if report is not None else folder.reason(name)
        if report is not None:
            reports[name] = report
        elif reason is not None:
            failures[name] = reason
    missing = len(names) - len(reports) - len(failures)
    if missing:
        return Outcome(f"{here} of {len(names)} cases done here, {missing} are not done elsewhere yet", "")
    write_text(folder.path / SUMMARY, _csv(names, reports, failures))
    failed = failed_line(failures, len(names), SUMMARY) if failures else ""
    return Outcome(f"{_table(reports, failures)}\n{len(reports)} of {len(names)} cases in {folder.path}", failed)


def _rows(name: str, report: Json) -> Iterator[Json]:
    """A row for each method of a case."""
    of_case = {"case": name, "score": report["score"], "warnings": "; ".join(report["warnings"])}
    for method, values in report["methods"].items():
        of_method = {**{key: values[key] for key in _OF_A_METHOD}, "components": len(values["components"])}
        yield {**of_case, "method": method, **of_method, "seconds": report["seconds"]["total"]}


def _csv(names: Sequence[str], reports: Mapping[str, Json], failures: Mapping[str, str]) -> str:
    text = io.StringIO()
    columns = ["case", "method", "score", *_OF_A_METHOD, "seconds", "warnings", "failed"]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for name in names:
        if name in failures:
            writer.writerow({"case": name, "failed": failures[name]})
        else:
            writer.writerows(_rows(name, reports[name]))
    return text.getvalue()


def _table(reports: Mapping[str, Json], failures: Mapping[str, str]) -> str:
    """Return a table of what each method found, and of the cases that failed."""
    by_method: dict[str, list[Json]] = {}
    looked_for = next((report["class"] for report in reports.values()), "")  # the same in all
    for name, report in reports.items():
        for row in _rows(name, report):
            by_method.setdefault(row["method"], []).append(row)
    rows = [
        [
            method,
            looked_for,
            len(cases),
            sum(case["components"] > 0 for case in cases),
            f"{statistics.median(case['volume_mm3'] for case in cases) / 1000:.2f}",
            f"{statistics.median(case['peak'] for case in cases):.4g}",
        ]
        for method, cases in by_method.items()
    ]
    headers = ["method", "class", "cases", "with components", "median volume ml", "median peak"]
    parts = [tabulate(rows, headers=headers, disable_numparse=True)] if rows else []
    if failures:
        shown = list(failures.items())[:_SHOWN_FAILURES]
        more = [["...", f"{len(failures) - len(shown)} more in {SUMMARY}"]] if len(shown) < len(failures) else []
        parts.append(tabulate([*shown, *more], headers=["failed", "why"], disable_numparse=True))
    return "\n\n".join(parts)


def _newest(volume: Path) -> float:
    """Return when a file, or the newest of a folder's, was written last."""
    files = [file for file in volume.iterdir() if file.is_file()] if volume.is_dir() else [volume]
    return max(file.stat().st_mtime for file in files)
