"""Work on the cases of a cohort, one after another: what is done stays, what fails does not stop the others."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.output import Json, check_output, write_json

SETTINGS_NAME = "settings.json"


class Named(Protocol):
    """Has a name, as a case does."""

    @property
    def name(self) -> str:
        """Name of its files, without their endings."""


@dataclass(frozen=True)
class Outcome:
    """What a command over many cases prints.

    Attributes:
        text: Tables.
        failed: A line about cases that failed, "" where none did.
    """

    text: str
    failed: str


Task = TypeVar("Task", bound=Named)
# Called with a case's steps done so far, and all of its steps.
Progress = Callable[[int, int], None]


def case_name(number: int, volume: Path) -> str:
    """Name a case for files and tables.

    Args:
        number: The volume's place in the manifest, from 1, which makes the name unique.
        volume: The volume's file or folder.

    Returns:
        Such as "0012-head" for ``head.nii.gz``.
    """
    stem = re.sub(r"\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)$", "", volume.name, flags=re.IGNORECASE)
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]}"


def fingerprint(content: Any) -> str:
    """Hash what tells two runs apart.

    Args:
        content: What `json` can write; the order of keys does not matter.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class CasesFolder(ABC):
    """Holds ``settings.json``, ``cases/`` and a summary; a second run, or another process, goes on in it.

    Attributes:
        kind: What messages call such a run.
        summary_names: Patterns of the summary's files.

    Args:
        path: The folder.
        fingerprint: Hash that identifies the run.
    """

    kind: str
    summary_names: tuple[str, ...]

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.cases = path / "cases"

    @abstractmethod
    def has(self, name: str) -> bool:
        """Tell whether a case is done.

        Args:
            name: Name of the case.

        Returns:
            Whether its results are there.
        """

    @abstractmethod
    def clear(self, keep: set[str]) -> None:
        """Remove the results of all cases but some.

        Args:
            keep: Names of the cases whose results stay.
        """

    def open(self, content: Json, names: Sequence[str], assigned: Sequence[str], *, overwrite: bool) -> None:
        """Make the folder, or take up what is in it.

        Args:
            content: Content of ``settings.json``.
            names: Names of all cases.
            assigned: Names of the cases of this process; those that failed are tried again.
            overwrite: Whether to remove the files of another run, and no others.

        Raises:
            TonnoError: The folder holds something else, or cannot be written.
        """
        check_output(self.path, overwrite=True)
        if not overwrite:
            self._require_same(content)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / SETTINGS_NAME, content)  # first: another process may look into the folder now
            self.cases.mkdir(exist_ok=True)
            if overwrite:
                self._clear_all(set(names) - set(assigned))
            for name in assigned:
                self._failure(name).unlink(missing_ok=True)
        except OSError as error:
            raise TonnoError(f"`output` {self.path}: cannot be written ({error.strerror or error})") from error

    def fail(self, name: str, reason: str) -> None:
        """Keep why a case could not be done.

        Args:
            name: Name of the case.
            reason: The reason, in one line.
        """
        write_json(self._failure(name), {"fingerprint": self.fingerprint, "failed": reason})

    def reason(self, name: str) -> str | None:
        """Read why a case failed.

        Args:
            name: Name of the case.

        Returns:
            The reason; None where it did not fail.
        """
        try:
            data = json.loads(self._failure(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(data["failed"]) if data.get("fingerprint") == self.fingerprint else None

    def _failure(self, name: str) -> Path:
        return self.cases / f"{name}.failed"

    def _clear_all(self, keep: set[str]) -> None:
        """Remove the summary and the results and failures of all cases but some, which other processes do."""
        self.clear(keep)
        for file in self.cases.glob("*.failed"):
            if file.stem not in keep:
                file.unlink(missing_ok=True)
        for pattern in self.summary_names:
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def _require_same(self, content: Json) -> None:
        """Raise TonnoError if the folder holds another run, or something else."""
        path = self.path / SETTINGS_NAME
        advice = "choose another folder, or give `overwrite`"
        if not path.is_file():
            # Hidden files are no results: such as what another process is writing.
            if self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise TonnoError(f"`output` {self.path}: holds other files and no {self.kind}; {advice}")
            return
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as JSON ({error}); {advice}") from error
        different = _difference(kept, content)
        if different:
            raise TonnoError(f"`output` {self.path}: holds another {self.kind}: {different}; {advice}")


def run_cases(
    tasks: Sequence[Task],
    folder: CasesFolder,
    work: Callable[[Task, Progress], None],
    *,
    label: str,
    progress: bool,
    reworded: Callable[[str], str] = str,
) -> None:
    """Do all cases that are not done yet.

    Args:
        tasks: The cases.
        folder: Knows which are done, and keeps why a case failed.
        work: Does a case and keeps its results. A TonnoError, an OSError and a lack of memory are kept as the case's
            failure.
        label: Text of the progress bar.
        progress: Whether to show that bar.
        reworded: Puts a reason in the words of its reader, such as the command line's options.
    """
    waiting = [task for task in tasks if not folder.has(task.name)]
    with _bar(len(tasks), len(tasks) - len(waiting), label, disable=not progress) as bar:
        for done, task in enumerate(waiting, start=1 + len(tasks) - len(waiting)):

            def advanced(step: int, steps: int, done: int = done) -> None:
                bar.update(done - 1 + 0.99 * step / max(1, steps) - bar.n)

            try:
                work(task, advanced)
            except Exception as error:
                if not isinstance(error, (TonnoError, OSError)) and not is_out_of_memory(error):
                    raise
                folder.fail(task.name, reworded(" ".join(str(error).split())) or type(error).__name__)
            bar.update(done - bar.n)


def failed_line(failures: Mapping[str, str], cases: int, details: str) -> str:
    """Say how many cases failed, with the first few reasons.

    Args:
        failures: Reasons by case.
        cases: Number of all cases.
        details: The file that has all reasons.

    Returns:
        One line.
    """
    shown = [f"{name}: {reason}" for name, reason in list(failures.items())[:3]]
    more = f"; {len(failures) - 3} more in {details}" if len(failures) > 3 else ""
    return f"{len(failures)} of {cases} cases failed: {'; '.join(shown)}{more}"


@contextmanager
def _bar(total: int, initial: int, label: str, *, disable: bool) -> Iterator[tqdm[Any]]:
    text = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    bar = tqdm(total=total, initial=initial, desc=label, bar_format=text, disable=disable, smoothing=0.0)
    with bar:
        yield bar


def _difference(kept: Any, asked: Any, name: str = "") -> str:
    """Say in which value two JSON objects differ first; "" where they are equal."""
    if isinstance(kept, dict) and isinstance(asked, dict):
        for key in dict.fromkeys((*asked, *kept)):
            where = f"{name}.{key}" if name else str(key)
            if key not in kept or key not in asked:
                return f"{where} is only in {'this' if key in asked else 'that'} one"
            different = _difference(kept[key], asked[key], where)
            if different:
                return different
        return ""
    return "" if kept == asked else f"{name} was {json.dumps(kept)}, now {json.dumps(asked)}"
