"""The folder of an evaluation: one file per finished case, so that a second run, or another process, goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tonno_core.cohort.cases import CasesFolder, fingerprint
from tonno_core.cohort.mask import values_text
from tonno_core.cohort.source import content_of, newest, source_of
from tonno_core.evaluation.case import Task
from tonno_core.evaluation.record import CaseRecord, Files, load_record, save_record
from tonno_core.output import write_json, write_text
from tonno_core.pictures.tile import Tile, load_tile, save_tile


class ResultsFolder(CasesFolder):
    """Holds each case's record and planes in ``cases/``, and beside them the summary of the evaluation."""

    kind = "evaluation"
    summary_names = ("results.csv", "summary.csv", "summary.json", "summary.md", "contact-sheet-*.png")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.tasks: dict[str, Task] = {}

    def has(self, name: str) -> bool:
        """Tell whether a case is done.

        Args:
            name: Name of the case.

        Returns:
            Whether its planes and its record are there, of its volume, mask and label as they are. Those of a volume
            that is gone stay.
        """
        record, task = self.record(name), self.tasks[name]
        if record is None or not self._planes(name).is_file() or record.label != task.label:
            return False
        if not task.volume.exists():
            return True
        with suppress(OSError):
            if not record.files.source:  # written by an earlier build: the times tell
                paths = [task.volume, *([task.mask] if task.mask else [])]
                return max(map(newest, paths)) <= self._record(name).stat().st_mtime
            if record.files.source == _source(task):
                return True
            files = files_of(task)
            if record.files == dataclasses.replace(files, source=record.files.source):  # moved, or copied
                save_record(self._record(name), dataclasses.replace(record, files=files))
                return True
        return False

    def content_of_case(self, name: str) -> str | None:
        """Return what a case's results are of.

        Args:
            name: Name of the case.

        Returns:
            See `CasesFolder`.
        """
        record = self.record(name)
        return None if record is None else record.files.content

    def record(self, name: str) -> CaseRecord | None:
        """Read the record of a case.

        Args:
            name: Name of the case.

        Returns:
            Its numbers; None where it is not done.

        Raises:
            TonnoError: The file is damaged.
        """
        return load_record(self._record(name), self.fingerprint, self.content.get("rows"))

    def clear(self, keep: set[str]) -> None:
        """Remove the results of all cases but some.

        Args:
            keep: Names of the cases whose results stay.
        """
        for file in self.cases.iterdir():
            if file.suffix in (".json", ".npz") and file.stem not in keep:
                file.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        """Remove a case's record: should the case fail now, nothing of what it was before is reported.

        Args:
            name: Name of the case.
        """
        self._record(name).unlink(missing_ok=True)

    def save(self, record: CaseRecord, tile: Tile) -> None:
        """Keep a case.

        Args:
            record: Its numbers, written last: their file says that all of the case is there.
            tile: Its planes.
        """
        save_tile(self._planes(record.case), tile)
        save_record(self._record(record.case), record)

    def gather(self, names: Sequence[str]) -> tuple[list[CaseRecord], dict[str, str], int]:
        """Read what is there.

        Args:
            names: Names of the cases.

        Returns:
            Records, reasons of failures by case, and how many cases have neither yet.
        """
        records, failures = [], {}
        for name in names:
            record = self.record(name)
            if record is not None and record.label == self.tasks[name].label:
                records.append(dataclasses.replace(record, patient=self.tasks[name].patient))
                continue
            reason = self.reason(name)
            if reason is not None:
                failures[name] = reason
        return records, failures, len(names) - len(records) - len(failures)

    def tile(self, name: str) -> Tile:
        """Read the planes of a case.

        Args:
            name: Name of the case, which is done.

        Returns:
            Its planes.
        """
        return load_tile(self._planes(name))

    def write(self, name: str, text: str) -> None:
        """Write a file of the summary.

        Args:
            name: Name of the file.
            text: Its content.
        """
        write_text(self.path / name, text)

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the summary as JSON.

        Args:
            name: Name of the file.
            content: What `json` can write.
        """
        write_json(self.path / name, content)

    def _record(self, name: str) -> Path:
        return self.cases / f"{name}.json"

    def _planes(self, name: str) -> Path:
        return self.cases / f"{name}.npz"


def files_of(task: Task) -> Files:
    """Identify the files of a case.

    Args:
        task: The case.

    Returns:
        What its record keeps of them.

    Raises:
        OSError: A file is not there.
    """
    truth = "" if task.mask is None else fingerprint([content_of(task.mask), values_text(task.values)])
    return Files(_source(task), content_of(task.volume), truth)


def _source(task: Task) -> str:
    mask = None if task.mask is None else source_of(task.mask)
    return fingerprint([source_of(task.volume), mask, values_text(task.values)])
