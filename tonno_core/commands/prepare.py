"""`tonno prepare`: a manifest, with a split by patient, from a data set as its publisher distributes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tabulate import tabulate

import tonno_core
from tonno_core.cohort.cases import failed_line
from tonno_core.cohort.manifest import SPLITS, Manifest, read_manifest, require_trainable, write_manifest
from tonno_core.datasets import autopet, duke, folder, halves, mosmed
from tonno_core.datasets.cited import Publication, licence_files, publication_of
from tonno_core.datasets.found import Found, Outcome, Prepared
from tonno_core.datasets.intensity import choose_intensities
from tonno_core.datasets.work import PreparedFolder, prepare_items, split_cases
from tonno_core.errors import TonnoError, plain
from tonno_core.output import Json, check_output, write_json
from tonno_core.volume.intensity import of_channels
from tonno_core.words import spelling

NAMES = ("autopet", "mosmed", "duke", "halves", "folder")
MANIFEST, DATASET = "manifest.csv", "dataset.json"
_SHOWN = 5
# Options that only some data sets have.
_FOR = {
    "sequence": ("duke",),
    "table": ("folder",),
    "label": ("halves", "folder"),
    "image": ("folder",),
    "mask": ("folder",),
    "channel": ("autopet",),
}


@dataclass(frozen=True)
class Asked:
    """What may be asked of a data set.

    Attributes:
        sequence: Of `duke`: which series; "" for ``post_1``.
        table: Of `folder`: with the labels.
        label: Column of the labels (`folder`) or sides (`halves`); "" for ``label`` or ``laterality``.
        image: Of `folder`: part of the image's name.
        mask: Of `folder`: part of the mask's name.
        channel: Of `autopet`: ``suv`` or ``ct`` alone; None for both.
    """

    sequence: str = ""
    table: Path | None = None
    label: str = ""
    image: str = ""
    mask: str = ""
    channel: str | None = None


def prepare_dataset(
    name: str,
    source: Path,
    output: Path,
    asked: Asked,
    *,
    partial: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> str:
    """Write ``manifest.csv`` and ``dataset.json`` of a data set; the same again goes on where it was stopped.

    Args:
        name: One of `NAMES`.
        source: Folder of the data set, or its table.
        output: Folder for the manifest, and for halves where volumes are cut.
        asked: Choices.
        partial: Leave out cases of which a part is missing or cannot be read.
        seed: Of the split.
        overwrite: Begin anew where another preparation is.
        progress: Whether to show bars.

    Returns:
        What to print.

    Raises:
        TonnoError: Parts are missing or damaged, or the folder holds something else; there is no new manifest then.
    """
    _check(name, source, output, asked)
    source, asked = source.absolute(), _complete(name, asked)
    found = _find(name, source, asked, progress)
    lost = list(found.missing)
    if lost and not partial:
        raise TonnoError(
            f"{source}: {_count(len(lost), 'part')} missing: {_some(lost)}. Or give `partial` to leave them out"
        )
    if not found.items:
        raise TonnoError(f"{source}: no case of it is whole: {_some(lost)}")
    _check_places(found)
    prepared = PreparedFolder(output)
    content: Json = {"tonno": tonno_core.__version__, "dataset": name, **_texts(asked)}
    outcomes, failures = prepare_items(found, prepared, content, overwrite=overwrite, progress=progress)
    if failures and (not partial or not outcomes):
        line = failed_line(failures, len(found.items), str(prepared.cases))
        raise TonnoError(f"{line}; mend them and run the command again, or give `partial` to leave them out")
    lost += failures.values()
    cases = [case for outcome in outcomes for case in outcome.cases]
    manifest = split_cases(cases, output / MANIFEST, seed)
    notes = [*found.notes, *_shared(outcomes), *_trainable(manifest)]
    notes += [f"{_count(len(lost), 'part')} missing or damaged, left out: {_some(lost)}"] if lost else []
    notes += _moved(manifest)
    _check_channels(cases)
    training = [case.statistics for case, line in zip(cases, manifest.cases, strict=True) if line.split == "train"]
    intensity, why = of_channels(["zscore"] * len(cases[0].statistics)), "no training split"
    if training:
        intensity, why = choose_intensities(training, has_units=found.has_units)
    write_manifest(manifest.path, manifest, _columns(cases))
    try:
        read_manifest(manifest.path)
    except TonnoError:  # such as one volume twice, by a link
        manifest.path.unlink()
        raise
    publication = publication_of(name, source)
    record = {
        "dataset": name,
        **asdict(publication),
        "source": str(source),
        **_texts(asked),
        "seed": seed,
        "intensity": intensity,
        "intensity_from": why,
        "notes": notes,
    }
    write_json(output / DATASET, record)
    stated = licence_files(source)
    return "\n".join(
        [*_publication(publication, stated), "", _table(manifest), "", *notes, *_next(output, intensity, why)]
    )


# -------------------- the data set


def _check(name: str, source: Path, output: Path, asked: Asked) -> None:
    if name not in NAMES:
        raise TonnoError(f"unknown data set {name!r}; expected {', '.join(NAMES)}")
    for option, names in _FOR.items():
        if getattr(asked, option) and name not in names:
            raise TonnoError(f"`{option}` is for {' and '.join(names)}; leave it out for {name}")
    if not source.exists():
        raise TonnoError(f"{source}: no such file or folder; expected the data set's folder")
    if source.is_file() and name != "halves":
        raise TonnoError(f"{source}: is a file; expected the data set's folder (unpack an archive first)")
    home, place = (source if source.is_dir() else source.parent).resolve(), output.resolve()
    if place == home or (source.is_dir() and place.is_relative_to(home)):
        raise TonnoError(f"`output` {output}: lies in the data set's folder {home}; choose another folder")
    check_output(output, overwrite=True)


def _complete(name: str, asked: Asked) -> Asked:
    """Fill in what is not asked for, so that to ask for it is no other preparation."""
    return replace(
        asked,
        sequence=asked.sequence or ("post_1" if name == "duke" else ""),
        label=asked.label or ("laterality" if name == "halves" else ""),
        table=asked.table and asked.table.absolute(),
    )


def _find(name: str, source: Path, asked: Asked, progress: bool) -> Found:
    if name == "autopet":
        return autopet.find(source, asked.channel or autopet.BOTH)
    if name == "mosmed":
        return mosmed.find(source)
    if name == "duke":
        return duke.find(source, asked.sequence, progress=progress)
    if name == "halves":
        return halves.find(source, asked.label)
    return folder.find(source, table=asked.table, label=asked.label, image=asked.image, mask=asked.mask)


def _check_places(found: Found) -> None:
    """Refuse a scan that is there twice, by a table's lines or by links: it could be in two splits."""
    places: dict[Path, Path] = {}
    for item in found.items:
        other = places.setdefault(item.place.resolve(), item.place)
        if other is not item.place:
            again = "stands twice in the list" if other == item.place else f"is {other} again"
            raise TonnoError(f"{item.place}: {again}; leave one of them out")


def _check_channels(cases: Sequence[Prepared]) -> None:
    """Refuse volumes of which some have more channels than others."""
    first = cases[0]
    for case in cases:
        if len(case.statistics) != len(first.statistics):
            raise TonnoError(
                f"{case.volume}: channels: {len(case.statistics)}, but {first.volume} has {len(first.statistics)}; "
                "expected as many in all volumes"
            )


def _columns(cases: Sequence[Prepared]) -> dict[str, list[str | Path]]:
    """Return the manifest's further columns: what the recipe has to say."""
    names = dict.fromkeys(name for case in cases for name in case.columns)
    return {name: [case.columns.get(name, "") for case in cases] for name in names}


# -------------------- texts


def _texts(asked: Asked) -> dict[str, str]:
    return {name: str(value) for name, value in asdict(asked).items() if value}


def _count(number: int, what: str) -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"


def _some(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def _shared(outcomes: Sequence[Outcome]) -> list[str]:
    """Sum up notes on cases: the text, how many share it, and the first patients."""
    patients: dict[str, list[str]] = {}
    for outcome in outcomes:
        for note in outcome.notes:
            patients.setdefault(note, []).append(outcome.cases[0].patient)
    return [f"{note} ({len(names)}: {_some(names)})" for note, names in patients.items()]


def _trainable(manifest: Manifest) -> list[str]:
    try:
        require_trainable(manifest)
    except TonnoError as error:
        return [plain(error)]
    return []


def _moved(manifest: Manifest) -> list[str]:
    """Say how many patients are in another split by the manifest that this one replaces."""
    try:
        before = {spelling(case.patient): case.split for case in read_manifest(manifest.path).cases}
    except TonnoError:  # there is none, or none that was usable
        return []
    splits = {spelling(case.patient): case.split for case in manifest.cases}
    moved = sum(before.get(patient, split) != split for patient, split in splits.items())
    if not moved:
        return []
    return [
        f"{_count(moved, 'patient')} in another split than in the manifest that this one replaces: train models anew, "
        "those of before have learned from volumes that now measure them"
    ]


def _publication(publication: Publication, stated: Sequence[Path]) -> list[str]:
    also = f"; this copy's own: {stated[0]}" if stated else ""
    lines = publication.lines()
    return [lines[0], lines[1] + also, *lines[2:]]


def _table(manifest: Manifest) -> str:
    rows = []
    for split in SPLITS:
        cases = manifest.split(split)
        labels = Counter(case.labels[0] for case in cases)
        masks = sum(case.masks[0] is not None for case in cases)
        rows.append([split, len({case.patient for case in cases}), labels[1], labels[0], masks])
    return tabulate(rows, headers=["split", "patients", "positive", "negative", "masks"])


def _next(output: Path, intensity: str, why: str) -> list[str]:
    path = output / MANIFEST
    return [
        f"intensity {intensity}: {why}",
        f"written to {path}; next: tonno check {path}, then tonno train {path} with `intensity` {intensity}",
    ]
