"""Work on the cases of a cohort, one after another: what is done stays, what fails does not stop the others."""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tqdm import tqdm

from tonno_core.errors import TonnoError, is_out_of_memory
from tonno_core.output import check_output, write_json

SETTINGS_NAME = "settings.json"


class Named(Protocol):
    """A case: its name is that of its files."""

    @property
    def name(self) -> str: ...


Task = TypeVar("Task", bound=Named)
# Called with (steps done, steps in all) of one case.
Progress = Callable[[int, int], None]


def case_name(number: int, volume: Path) -> str:
    """A name for files and tables, unique by the volume's place in the manifest, from 1."""
    stem = re.sub(r"\.(nii|nii\.gz|nrrd|nhdr|mha|mhd)$", "", volume.name, flags=re.IGNORECASE)
    return f"{number:04d}-{re.sub(r'[^A-Za-z0-9._-]+', '_', stem)[:80]}"


def fingerprint(content: Any) -> str:
    """What tells two runs apart: the hash of a JSON value."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class CasesFolder(ABC):
    """``settings.json``, ``cases/`` and a summary: a second run, or another process, goes on in it.

    The fingerprint identifies the run. kind: what it is called. summary_names: patterns of the summary's files.
    """

    kind: str
    summary_names: tuple[str, ...]

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.cases = path / "cases"

    @abstractmethod
    def has(self, name: str) -> bool:
        """Whether a case is done."""

    @abstractmethod
    def clear(self, keep: set[str]) -> None:
        """Remove the results of all cases but those to keep."""

    def open(self, content: Mapping[str, Any], names: Sequence[str], own: Sequence[str], *, overwrite: bool) -> None:
        """Make the folder, or take up what is in it. content: of ``settings.json``.

        names: of all cases, own: of this process's. Raises TonnoError where the folder holds something else, which
        `overwrite` replaces: such a run's files, and no others.
        """
        check_output(self.path, overwrite=True)
        if not overwrite:
            self._require_same(content)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / SETTINGS_NAME, content)  # first: another process may look into the folder now
            self.cases.mkdir(exist_ok=True)
            if overwrite:
                self._clear_all(set(names) - set(own))
            for name in own:  # what failed is tried again
                self._failure(name).unlink(missing_ok=True)
        except OSError as error:
            raise TonnoError(f"`output` {self.path}: cannot be written ({error.strerror or error})") from error

    def fail(self, name: str, reason: str) -> None:
        """Keep why a case could not be done."""
        write_json(self._failure(name), {"fingerprint": self.fingerprint, "failed": reason})

    def reason(self, name: str) -> str | None:
        """Why a case failed, None where it did not."""
        try:
            data = json.loads(self._failure(name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return str(data["failed"]) if data.get("fingerprint") == self.fingerprint else None

    def _failure(self, name: str) -> Path:
        return self.cases / f"{name}.failed"

    def _clear_all(self, keep: set[str]) -> None:
        """Remove what is not of the other processes, and the summary."""
        self.clear(keep)
        for file in self.cases.glob("*.failed"):
            if file.stem not in keep:
                file.unlink(missing_ok=True)
        for pattern in self.summary_names:
            for file in self.path.glob(pattern):
                file.unlink(missing_ok=True)

    def _require_same(self, content: Mapping[str, Any]) -> None:
        """Raise TonnoError if the folder holds another run, or something else."""
        path = self.path / SETTINGS_NAME
        advice = "choose another folder, or give `overwrite`"
        if not path.is_file():
            # Hidden files are no results: such as what another process is writing.
            if self.path.is_dir() and any(not file.name.startswith(".") for file in self.path.iterdir()):
                raise TonnoError(f"`output` {self.path}: holds other files and no {self.kind}; {advice}")
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as JSON ({error}); {advice}") from error
        different = _difference(found, content)
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
        work: Does a case and keeps its results; a failure leaves its reason in the folder.
        label: Of the progress bar.
        reworded: Says a reason in the words of whoever reads it, such as the command line's options.
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
    """How many cases failed, and the first few reasons. details: the file that has them all."""
    shown = [f"{name}: {reason}" for name, reason in list(failures.items())[:3]]
    more = f"; {len(failures) - 3} more in {details}" if len(failures) > 3 else ""
    return f"{len(failures)} of {cases} cases failed: {'; '.join(shown)}{more}"


@contextmanager
def _bar(total: int, initial: int, label: str, *, disable: bool) -> Iterator[tqdm[Any]]:
    text = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    bar = tqdm(total=total, initial=initial, desc=label, bar_format=text, disable=disable, smoothing=0.0)
    with bar:
        yield bar


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
