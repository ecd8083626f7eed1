"""The folder of an evaluation: one file per finished case, so that a second run, or another process, goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tonno_core.cohort.cases import CasesFolder
from tonno_core.evaluation.record import CaseRecord, load_record, save_record
from tonno_core.output import write_json, write_text
from tonno_core.pictures.tile import Tile, load_tile, save_tile


class ResultsFolder(CasesFolder):
    """Holds each case's record and planes in ``cases/``, and beside them the summary of the evaluation."""

    kind = "evaluation"
    summary_names = ("results.csv", "summary.csv", "summary.json", "summary.md", "contact-sheet-*.png")

    def has(self, name: str) -> bool:
        """Tell whether a case is done.

        Args:
            name: Name of the case.

        Returns:
            Whether its planes and its record are there.
        """
        return self._planes(name).is_file() and load_record(self._record(name), self.fingerprint) is not None

    def clear(self, keep: set[str]) -> None:
        """Remove the results of all cases but some.

        Args:
            keep: Names of the cases whose results stay.
        """
        for file in self.cases.iterdir():
            if file.suffix in (".json", ".npz") and file.stem not in keep:
                file.unlink(missing_ok=True)

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
            record = load_record(self._record(name), self.fingerprint)
            if record is not None:
                records.append(record)
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
