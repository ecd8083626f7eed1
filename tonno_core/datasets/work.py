"""Prepare the scans of a data set one after another: what is done stays, and a second run goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tonno_core.cohort.cases import CasesFolder, Progress, fingerprint, run_cases
from tonno_core.cohort.manifest import DEFAULT_CLASS, SPLITS, Case, Manifest
from tonno_core.cohort.places import relative_below
from tonno_core.cohort.source import source_of
from tonno_core.cohort.split import split_patients
from tonno_core.datasets.found import Found, Item, Outcome, Prepared
from tonno_core.errors import TonnoError
from tonno_core.output import Json, write_json
from tonno_core.records import made_of, read_record
from tonno_core.words import spelling

VOLUMES = "volumes"


@dataclass(frozen=True)
class Task:
    """A scan to prepare.

    Attributes:
        name: Of its case.
        item: The scan.
    """

    name: str
    item: Item


@dataclass(frozen=True)
class _Kept:
    """What the folder keeps of a scan.

    Attributes:
        fingerprint: Hash of the preparation.
        item: Hash of what the tables say of the scan.
        source: Hash of place, size and time of the files that were read.
        files: These files.
        cases: Lines of the manifest; places in the folder are relative to it.
        notes: See `Outcome`.
    """

    fingerprint: str
    item: str
    source: str
    files: tuple[str, ...]
    cases: tuple[Prepared, ...]
    notes: tuple[str, ...]


class PreparedFolder(CasesFolder):
    """Holds a record of each scan in ``cases/``, what it writes in ``volumes/``, and beside them the manifest."""

    kind = "preparation"
    summary_names = ("manifest.csv", "dataset.json")

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.items: dict[str, Item] = {}

    def has(self, name: str) -> bool:
        """Tell whether a scan is done.

        Args:
            name: Name of the case.

        Returns:
            Whether its record is there, of the files as they are and of what the tables say of it.
        """
        kept = self._read(name)
        if kept is None or kept.item != fingerprint(self.items[name].facts()):
            return False
        written = [place for case in kept.cases for place in (case.volume, case.mask) if place]
        with suppress(OSError):
            return kept.source == _source(kept.files) and all((self.path / file).exists() for file in written)
        return False

    def content_of_case(self, name: str) -> str | None:
        """Return that nothing is known of the bytes of a done scan: to hash a data set would take hours.

        Args:
            name: Name of the case.

        Returns:
            See `CasesFolder`.
        """
        return None if self._read(name) is None else ""

    def clear(self, keep: set[str]) -> None:
        """Remove the records of all scans but some, with what was written of them.

        Args:
            keep: Names of the cases whose records stay.
        """
        for file in self.cases.glob("*.json"):
            if file.stem not in keep:
                for written in (self.path / VOLUMES).glob(f"{file.stem}-*"):
                    written.unlink(missing_ok=True)
                file.unlink(missing_ok=True)

    def save(self, name: str, outcome: Outcome) -> None:
        """Keep what has become of a scan.

        Args:
            name: Name of the case.
            outcome: The lines of the manifest.
        """
        files = tuple(str(file) for file in outcome.files)
        cases = tuple(self._with_places(case, self._below) for case in outcome.cases)
        item = fingerprint(self.items[name].facts())
        kept = _Kept(self.fingerprint, item, _source(files), files, cases, outcome.notes)
        write_json(self.cases / f"{name}.json", dataclasses.asdict(kept))

    def outcome(self, name: str) -> Outcome | None:
        """Read what has become of a scan.

        Args:
            name: Name of the case.

        Returns:
            The lines of the manifest; None where it is not done.
        """
        kept = self._read(name)
        if kept is None:
            return None
        cases = tuple(self._with_places(case, self._absolute) for case in kept.cases)
        return Outcome(cases, tuple(map(Path, kept.files)), kept.notes)

    def _with_places(self, case: Prepared, change: Callable[[str], str]) -> Prepared:
        """Change the paths of a case."""
        return dataclasses.replace(case, volume=change(case.volume), mask=change(case.mask) if case.mask else "")

    def _below(self, place: str) -> str:
        """Return a path relative to this folder where it lies in it: the folder may be moved or copied."""
        return relative_below(Path(place), self.path.absolute())

    def _absolute(self, place: str) -> str:
        return str(self.path.absolute() / place)

    def _read(self, name: str) -> _Kept | None:
        """Read what is kept of a scan; None where that is nothing, or damaged: the scan is then prepared again."""
        try:
            kept = made_of(_Kept, read_record(self.cases / f"{name}.json"))
        except (OSError, ValueError):
            return None
        sound = bool(kept.cases) and all(map(_is_sound, kept.cases))
        return kept if sound and kept.fingerprint == self.fingerprint else None


def prepare_items(
    found: Found, folder: PreparedFolder, content: Json, *, overwrite: bool, progress: bool
) -> tuple[list[Outcome], dict[str, str]]:
    """Prepare all scans that are not done yet.

    Args:
        found: The scans.
        folder: Where.
        content: What the preparation is, but for its list.
        overwrite: Start anew where another preparation is.
        progress: Whether to show a bar.

    Returns:
        What has become of each scan, and reasons of failures by the name of its case.

    Raises:
        TonnoError: The folder holds something else, or cannot be written.
    """
    volumes = [(number, item.place) for number, item in enumerate(found.items, start=1)]
    names = folder.take_up(content, [str(place) for _, place in volumes], volumes, overwrite=overwrite)
    tasks = [Task(name, item) for name, item in zip(names, found.items, strict=True)]
    folder.items = {task.name: task.item for task in tasks}
    folder.open(names, names)
    if found.writes:
        (folder.path / VOLUMES).mkdir(exist_ok=True)

    def work(task: Task, advanced: Progress, get: Callable[[], None]) -> None:
        outcome = found.prepare(task.item, (folder.path / VOLUMES).absolute(), task.name)
        folder.save(task.name, outcome)
        advanced(1, 1)

    run_cases(tasks, folder, work, read=lambda task: None, label="reading", progress=progress)
    done, failures = [], {}
    for task in tasks:
        outcome, reason = folder.outcome(task.name), folder.reason(task.name)
        if reason is not None or outcome is None:
            failures[task.name] = reason or f"{task.item.place}: is not done; run the command again"
        else:
            done.append(outcome)
    return done, failures


def split_cases(cases: Sequence[Prepared], path: Path, seed: int) -> Manifest:
    """Split cases by patient; a patient with a case whose split is asked for goes there whole.

    Args:
        cases: Of the data set.
        path: Of the manifest to be.
        seed: Of the split.

    Returns:
        The manifest, with the cases in their order.

    Raises:
        TonnoError: Two splits are asked for one patient.
    """
    asked: dict[tuple[str, ...], str] = {}
    for case in cases:
        other = asked.setdefault(spelling(case.patient), case.split) if case.split else case.split
        if other != case.split:
            raise TonnoError(
                f"{case.volume}: split is {case.split!r}, but another volume of patient {case.patient!r} is in "
                f"{other!r}; a patient belongs to one split: mend the table"
            )
    free = [case for case in cases if spelling(case.patient) not in asked]
    drawn = split_patients(_manifest(free, path), seed=seed).cases if free else ()
    splits = {case.volume: case.split for case in drawn}
    manifest = _manifest(cases, path)
    listed = (
        dataclasses.replace(case, split=splits.get(case.volume) or asked[spelling(case.patient)])
        for case in manifest.cases
    )
    return dataclasses.replace(manifest, cases=tuple(listed))


def _manifest(cases: Sequence[Prepared], path: Path) -> Manifest:
    return Manifest(
        path,
        (DEFAULT_CLASS,),
        tuple(
            Case(Path(case.volume), (case.label,), (Path(case.mask) if case.mask else None,), case.patient, "")
            for case in cases
        ),
    )


def _is_sound(case: Prepared) -> bool:
    """Tell whether values of the right types can be what `Outcome` has of a case."""
    ordered = all(each.low <= each.median <= each.high for each in case.statistics)
    known = case.label in (0, 1) and case.split in ("", *SPLITS)
    return bool(case.volume and case.statistics) and known and ordered


def _source(files: Sequence[str]) -> str:
    return fingerprint([source_of(Path(file)) for file in files])
