"""Work on the cases of a cohort, one after another: what is done stays, what fails does not stop the others."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tonno_core.cohort.ahead import read_ahead
from tonno_core.cohort.difference import differences
from tonno_core.cohort.names import case_name, is_case_name, name_cases
from tonno_core.errors import TonnoError, is_out_of_memory, one_line, reason_of
from tonno_core.output import Json, check_output, holds_files, remove_abandoned, write_json
from tonno_core.progress import progress_bar
from tonno_core.records import read_record
from tonno_core.words import count_of

SETTINGS_NAME = "settings.json"
_ADVICE = "choose another folder, or give `overwrite`"
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"


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
Read = TypeVar("Read")
# Called with a case's steps done so far, and all of its steps.
Progress = Callable[[int, int], None]


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

    The list of cases may have grown, been sorted or moved since: a case keeps its name as long as its volume is the
    same. All else that makes another run is refused.

    Attributes:
        kind: What messages call such a run.
        summary_names: Patterns of the summary's files.
        path: The folder.
        fingerprint: Hash that identifies the run, from `take_up` on.
        content: Content of ``settings.json``, likewise.

    Args:
        path: The folder.
    """

    kind: str
    summary_names: tuple[str, ...]

    def __init__(self, path: Path) -> None:
        self.path, self.fingerprint = path, ""
        self.cases = path / "cases"
        self.content: Json = {}
        self._overwrite = False

    @abstractmethod
    def has(self, name: str) -> bool:
        """Tell whether a case is done.

        Args:
            name: Name of the case.

        Returns:
            Whether its results are there, of the volume as it is.
        """

    @abstractmethod
    def content_of_case(self, name: str) -> str | None:
        """Return what a case's results are of.

        Args:
            name: Name of the case.

        Returns:
            The hash of its volume (`content_of`), "" where an earlier build kept none; None without results.
        """

    @abstractmethod
    def clear(self, keep: set[str]) -> None:
        """Remove the results of all cases but some.

        Args:
            keep: Names of the cases whose results stay.
        """

    def take_up(
        self, content: Json, listed: Sequence[Any], volumes: Sequence[tuple[int, Path]], *, overwrite: bool
    ) -> list[str]:
        """Compare a run with what is in the folder, and name the cases; nothing is written.

        Args:
            content: What the run is, but for its list.
            listed: What identifies each case, as `json` can write it.
            volumes: Of each case its number in the list, and its file or folder.
            overwrite: Whether to begin anew.

        Returns:
            The cases' names: those that the folder has for these volumes, else `case_name`.

        Raises:
            TonnoError: The folder holds something else.
        """
        check_output(self.path, overwrite=True)
        kept = None if overwrite else self._kept()
        known: dict[str, str] = {}
        self.fingerprint = fingerprint(content)
        if kept is not None:
            different = one_line(differences(kept, content))
            if different:
                raise TonnoError(f"`output` {self.path}: holds another {self.kind}: {different}; {_ADVICE}")
            # An earlier build hashed the list as well, and named the cases by their places in it.
            self.fingerprint = kept.get("run") or fingerprint(kept)
            known = kept["cases"] if "cases" in kept else self._known_to_earlier(kept, listed, volumes)
        names = name_cases(volumes, known, self.content_of_case)
        places = {name: str(volume) for name, (_, volume) in zip(names, volumes, strict=True)}
        manifest = {"cases": len(listed), "sha256": fingerprint(listed)}
        self.content = {**content, "manifest": manifest, "run": self.fingerprint, "cases": {**known, **places}}
        self._overwrite = overwrite
        return names

    def open(self, names: Sequence[str], assigned: Sequence[str]) -> None:
        """Make the folder, or go on in it, after `take_up`.

        Args:
            names: Names of all cases.
            assigned: Names of the cases of this process; those that failed are tried again.

        Raises:
            TonnoError: The folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(self.path / SETTINGS_NAME, self.content)  # first: another process may look into the folder now
            self.cases.mkdir(exist_ok=True)
            remove_abandoned(self.path, below=True)
            if self._overwrite:
                self._clear_all(set(names) - set(assigned))
            for name in assigned:
                self._failure(name).unlink(missing_ok=True)
        except OSError as error:
            raise TonnoError(f"`output` {self.path}: cannot be written ({reason_of(error)})") from error

    def left_out(self, names: Sequence[str]) -> str:
        """Say how many cases of earlier lists are done, and in this list no more.

        Args:
            names: Of this list.

        Returns:
            A line, "" where there are none.
        """
        others = set(self.content["cases"]) - set(names)
        done = sum(self.content_of_case(name) is not None for name in others)
        one = done == 1
        text = f"{done} case{'' if one else 's'} of an earlier list stay{'s' if one else ''} in {self.cases}"
        return f"{text} and {'is' if one else 'are'} left out of the summary" if done else ""

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
            data = read_record(self._failure(name))
        except (OSError, ValueError):
            return None
        mine = data.get("fingerprint") == self.fingerprint
        return one_line(data.get("failed", "")) or None if mine else None

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

    def _kept(self) -> Json | None:
        """Read ``settings.json``; None where there is no run yet."""
        path = self.path / SETTINGS_NAME
        if not path.is_file():
            if self.path.is_dir() and holds_files(self.path):
                raise TonnoError(f"`output` {self.path}: holds other files and no {self.kind}; {_ADVICE}")
            return None
        try:
            kept = read_record(path)
        except (OSError, ValueError) as error:
            raise TonnoError(f"{path}: not readable as settings of one ({one_line(error)}); {_ADVICE}") from error
        if not _is_noted(kept):
            raise TonnoError(f"{path}: damaged in its manifest, run or cases; {_ADVICE}")
        return kept

    def _known_to_earlier(
        self, kept: Json, listed: Sequence[Any], volumes: Sequence[tuple[int, Path]]
    ) -> dict[str, str]:
        """Name the cases as an earlier build did, whose list may have grown at its end."""
        manifest = kept.get("manifest", {})
        count = manifest.get("cases", 0)
        if fingerprint(listed[:count]) != manifest.get("sha256"):
            raise TonnoError(
                f"`output` {self.path}: holds a {self.kind} of another list, and an earlier version of tonno did not "
                f"write down which volume each result is of; {_ADVICE}"
            )
        return {case_name(number, volume): str(volume) for number, volume in volumes[:count]}


def _is_noted(kept: Json) -> bool:
    """Tell whether what a run's settings note beside what it is can be what `CasesFolder` noted."""
    manifest, run, cases = kept.get("manifest", {}), kept.get("run", ""), kept.get("cases", {})
    if not isinstance(manifest, dict) or type(manifest.get("cases", 0)) is not int or not isinstance(run, str):
        return False
    return isinstance(cases, dict) and all(
        is_case_name(name) and isinstance(place, str) for name, place in cases.items()
    )


def run_cases(
    tasks: Sequence[Task],
    folder: CasesFolder,
    work: Callable[[Task, Progress, Callable[[], Read]], None],
    *,
    read: Callable[[Task], Read],
    label: str,
    progress: bool,
    reworded: Callable[[str], str] = str,
) -> None:
    """Do all cases that are not done yet, and read each while the one before is done.

    Args:
        tasks: The cases.
        folder: Knows which are done, and keeps why a case failed.
        work: Does a case and keeps its results; gets what was read of it, which raises what that raised, by calling
            its last argument. A TonnoError, an OSError and a lack of memory are kept as the case's failure.
        read: Reads a case, in another thread.
        label: Text of the progress bar.
        progress: Whether to show that bar.
        reworded: Puts a reason in the words of its reader, such as the command line's options.
    """
    waiting = [task for task in tasks if not folder.has(task.name)]
    initial = len(tasks) - len(waiting)
    with progress_bar(
        total=len(tasks), initial=initial, desc=label, bar_format=_BAR, disable=not progress, smoothing=0.0
    ) as bar:
        for done, (task, get) in enumerate(read_ahead(waiting, read), start=1 + initial):

            def advanced(step: int, steps: int, done: int = done) -> None:
                bar.update(done - 1 + 0.99 * step / max(1, steps) - bar.n)

            try:
                work(task, advanced, get)
            except Exception as error:
                if not isinstance(error, (TonnoError, OSError)) and not is_out_of_memory(error):
                    raise
                if not folder.has(task.name):  # else another command, in the same folder, has done it meanwhile
                    folder.fail(task.name, reworded(one_line(error)) or type(error).__name__)
            bar.update(done - bar.n)


def warned_line(warned: int, cases: int, details: str) -> str:
    """Say how many cases have warnings.

    Args:
        warned: Number of those that have.
        cases: Number of all cases.
        details: The file that has the warnings.

    Returns:
        One line, "" where there are none.
    """
    return f"warnings for {warned} of {count_of(cases, 'case')}: see {details}" if warned else ""


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
    return f"{len(failures)} of {count_of(cases, 'case')} failed: {'; '.join(shown)}{more}"
