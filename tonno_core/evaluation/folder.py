"""The folder of an evaluation: one file per finished case, so that a second run, or another process, goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tonno_core.errors import TonnoError
from tonno_core.evaluation.record import CaseRecord, load_record, save_record, write_json, write_text
from tonno_core.evaluation.tile import Tile, load_tile, save_tile
from tonno_core.output import check_output

SETTINGS_NAME = "settings.json"
_SUMMARY_NAMES = ("results.csv", "summary.csv", "summary.json", "summary.md", "contact-sheet-*.png")


class ResultsFolder:
    """``settings.json``, ``cases/`` and the summary of one evaluation, which the fingerprint identifies."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self._fingerprint = path, fingerprint
        self._cases = path / "cases"

    def open(self, content: Mapping[str, Any], names: Sequence[str], own: Sequence[str], *, overwrite: bool) -> None:
        """Make the folder, or take up what is in it. content: of ``settings.json``.

        names: of all cases, own: of this process's. Raises TonnoError where the folder holds something else, which
        `overwrite` replaces: an evaluation's files, and no others.
        """
        check_output(self.path, overwrite=True)
        if not overwrite:
            self._require_same(content)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / SETTINGS_NAME, content)  # first: another process may look into the folder now
            self._cases.mkdir(exist_ok=True)
            if overwrite:
                self._clear(names, own)
            for name in own:  # what failed is tried again
                self._failure(name).unlink(missing_ok=True)
        except OSError as error:
            raise TonnoError(f"--output {self.path}: cannot be written ({error.strerror or error})") from error

    def has(self, name: str) -> bool:
        """Whether a case is done."""
        return self._planes(name).is_file() and load_record(self._record(name), self._fingerprint) is not None

    def save(self, record: CaseRecord, tile: Tile) -> None:
        """Keep a case; its record comes last and says that all of it is there."""
        save_tile(self._planes(record.case), tile)
        save_record(self._record(record.case), record)

    def fail(self, name: str, reason: str) -> None:
        """Keep why a case could not be evaluated."""
        write_json(self._failure(name), {"fingerprint": self._fingerprint, "failed": reason})

    def gather(self, names: Sequence[str]) -> tuple[list[CaseRecord], dict[str, str], int]:
        """Records, reasons of failures by case, and how many cases have neither yet."""
        records, failures = [], {}
        for name in names:
            record = load_record(self._record(name), self._fingerprint)
            if record is not None:
                records.append(record)
                continue
            reason = self._reason(name)
            if reason is not None:
                failures[name] = reason
        return records, failures, len(names) - len(records) - len(failures)

    def tile(self, name: str) -> Tile:
        """The planes of a case."""
        return load_tile(self._planes(name))

    def write(self, name: str, text: str) -> None:
        """A file of the summary."""
        write_text(self.path / name, text)

    def write_json(self, name: str, content: Any) -> None:
        """A file of the summary."""
        write_json(self.path / name, content)

    def _record(self, name: str) -> Path:
        return self._cases / f"{name}.json"

    def _planes(self, name: str) -> Path:
        return self._cases / f"{name}.npz"

    def _failure(self, name: str) -> Path:
        return self._cases / f"{name}.failed"

    def _reason(self, name: str) -> str | None:
        try:
            data = json.loads(self._failure(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(data["failed"]) if data.get("fingerprint") == self._fingerprint else None

    def _require_same(self, content: Mapping[str, Any]) -> None:
        """Raise TonnoError if the folder holds another evaluation, or something else."""
        path = self.path / SETTINGS_NAME
        advice = "choose another folder, or give --overwrite"
        if not path.is_file():
            # Hidden files are no results: such as what another process is writing.
            if self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise TonnoError(f"--output {self.path}: holds other files and no evaluation; {advice}")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as JSON ({error}); {advice}") from error
        different = _difference(found, content)
        if different:
            raise TonnoError(f"--output {self.path}: holds another evaluation: {different}; {advice}")

    def _clear(self, names: Sequence[str], own: Sequence[str]) -> None:
        """Remove this process's cases, those that no process has, and the summary."""
        others = set(names) - set(own)
        for file in self._cases.iterdir():
            if file.suffix in (".json", ".npz", ".failed") and file.stem not in others:
                file.unlink(missing_ok=True)
        for pattern in _SUMMARY_NAMES:
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)


def _difference(found: Any, wanted: Any, name: str = "") -> str:
    """The first thing in which two JSON values differ, in words; "" where they are equal."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in dict.fromkeys((*wanted, *found)):
            where = f"{name}.{key}" if name else str(key)
            if key not in found or key not in wanted:
                return f"{where} is only in {'this' if key in wanted else 'that'} one"
            different = _difference(found[key], wanted[key], where)
            if different:
                return different
        return ""
    return "" if found == wanted else f"{name} was {json.dumps(found)}, now {json.dumps(wanted)}"
