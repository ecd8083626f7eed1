"""The volumes of a folder or a list: image files, and DICOM series by their headers. No Qt, no MRML.

SimpleITK reads the headers, so this runs in the worklist's own process.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tonno_core.cohort.find import is_mask, is_result
from tonno_core.cohort.manifest import read_volumes, why_absent
from tonno_core.cohort.places import LIST_ENDINGS
from tonno_core.cohort.source import source_of
from tonno_core.errors import TonnoError
from tonno_core.volume.signature import is_dicom
from tonno_core.words import is_image_file, without_ending
from ToNNOSlicerLib.worklist_files import Case

WORKLIST_NAME = "worklist.json"  # a folder with it holds results, not studies
SERIES_NAME = "series"  # in the worklist's folder, series that share their own folder with others
_MODALITY, _DESCRIPTION = "0008|0060", "0008|103e"


def findStudies(place: Path, output: Path) -> tuple[list[Case], list[str]]:
    """Find the volumes of a list (CSV with a column ``volume``) or below a folder, and lines about what was left out.

    Segmentations, hidden files and results are passed over, and what its name calls a mask is left out.

    Args:
        place: A list or a folder.
        output: The worklist's folder, where series that share a folder get one of their own, of links to their files
            (copies, where the file system has no links).

    Returns:
        The studies, and lines about what was left out.

    Raises:
        TonnoError: The list is not as it should be, or the place is not there or has no study.
    """
    if place.is_file():
        if place.suffix.lower() not in LIST_ENDINGS:
            raise TonnoError(f"{place}: expected a folder of studies, or a list (.csv) with a column volume")
        listed = read_volumes(place, absent=True)
        there = [case for case in listed if not case.absent]
        if not there:
            read_volumes(place)
        notes = [f"{place}, line {case.line}: {why_absent(place, case)}" for case in listed if case.absent]
        return [_ofList(case) for case in there], notes
    if not place.is_dir():
        raise TonnoError(f"{place}: no such folder or list; check the path")
    studies: list[Case] = []
    notes: list[str] = []
    for folder in _folders(place, output):
        try:
            studies += _inFolder(folder, place, output, notes)
        except OSError as error:
            notes.append(f"{folder}: cannot be read ({error.strerror or error})")
    if not studies:
        if (place / WORKLIST_NAME).is_file():
            raise TonnoError(f"{place}: holds the results of a worklist ({WORKLIST_NAME}); choose a folder of studies")
        said = f" ({notes[-1]})" if notes else ""
        raise TonnoError(f"{place}: no image file and no DICOM series found{said}; choose another folder")
    return _different(studies, notes), notes


def _different(studies: list[Case], notes: list[str]) -> list[Case]:
    """Leave out links to what is there already: the engine refuses a list that has a volume twice."""
    first: dict[str, Case] = {}
    for study in studies:
        known = first.setdefault(os.path.realpath(study.volume), study)
        if known is not study:
            notes.append(f"{study.volume}: the same as {known.volume}, left out")
    return list(first.values())


def _ofList(case) -> Case:
    stem = without_ending(case.volume.name)
    return Case(f"{case.patient} {stem}".strip(), str(case.volume), source_of(case.volume))


def _folders(place: Path, output: Path) -> Iterator[Path]:
    """The folder and all below it, by name, but for hidden ones and those of results."""
    for name, below, files in os.walk(place):
        folder = Path(name)
        if WORKLIST_NAME in files or folder.resolve() == output.resolve():
            below.clear()
            continue
        below[:] = sorted(child for child in below if not child.startswith("."))
        yield folder


def _inFolder(folder: Path, place: Path, output: Path, notes: list[str]) -> Iterator[Case]:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    images = [file for file in files if is_image_file(file.name)]
    wanted = [file for file in images if not is_result(file)]
    masks = [file for file in wanted if is_mask(file.relative_to(place))]
    if masks:
        notes.append(f"{folder}: {len(masks)} left out by name as masks, such as {masks[0].name}; a list can have them")
    for file in wanted:
        if file not in masks:
            yield from _readable(file, place, notes)
    if any(is_dicom(file) for file in files if file not in images):
        yield from _series(folder, place, output, notes)


def _readable(file: Path, place: Path, notes: list[str]) -> Iterator[Case]:
    try:
        str(file).encode()
    except UnicodeEncodeError:
        notes.append(f"{os.fsencode(file).decode(errors='backslashreplace')}: this name is not UTF-8; rename it")
        return
    yield Case(_below(file.parent / without_ending(file.name), place), str(file), source_of(file))


def _series(folder: Path, place: Path, output: Path, notes: list[str]) -> Iterator[Case]:
    """The series of a folder that have two files or more."""
    import SimpleITK as sitk

    from tonno_core.volume.itk import run_itk

    reader = sitk.ImageSeriesReader
    uids = run_itk(folder, lambda: reader.GetGDCMSeriesIDs(str(folder)))
    names = {uid: run_itk(folder, lambda uid=uid: reader.GetGDCMSeriesFileNames(str(folder), uid)) for uid in uids}
    single = sum(len(files) < 2 for files in names.values())
    if single:
        notes.append(f"{folder}: {single} DICOM series of a single file left out")
    for uid, files in names.items():
        if len(files) < 2:
            continue
        modality, description = _described(folder, files[0])
        volume = folder if len(names) == 1 else _ownFolder(output, folder, uid, description, [Path(f) for f in files])
        name = f"{_below(folder, place)} {description}".strip()
        yield Case(name, str(volume), source_of(volume), modality, description)


def _described(folder: Path, file: str) -> tuple[str, str]:
    import SimpleITK as sitk

    from tonno_core.volume.itk import run_itk

    header = sitk.ImageFileReader()
    header.SetFileName(file)
    with suppress(TonnoError):
        run_itk(folder, header.ReadImageInformation)
    values = (header.GetMetaData(tag) if tag in header.GetMetaDataKeys() else "" for tag in (_MODALITY, _DESCRIPTION))
    modality, description = (value.encode(errors="replace").decode().strip() for value in values)
    return modality, description


def _ownFolder(output: Path, folder: Path, uid: str, description: str, files: list[Path]) -> Path:
    """A folder with the files of one series, made anew where it does not have them as they are now."""
    label = re.sub(r"[^A-Za-z0-9._-]+", "_", f"{folder.name}-{description}").strip("_-")[:60]
    links = output / SERIES_NAME / f"{label}-{hashlib.sha256(f'{folder.absolute()} {uid}'.encode()).hexdigest()[:12]}"
    files = [file.absolute() for file in files]
    if links.is_dir() and _facts(links.iterdir()) == _facts(files):
        return links
    shutil.rmtree(links, ignore_errors=True)
    links.mkdir(parents=True)
    for file in files:
        try:
            (links / file.name).symlink_to(file)
        except OSError:
            shutil.copy2(file, links / file.name)
    return links


def _facts(files) -> list[tuple]:
    """Names, sizes and times; a copy keeps the time to the second at least."""
    return sorted((file.name, file.stat().st_size, int(file.stat().st_mtime)) for file in files)


def _below(path: Path, place: Path) -> str:
    """What tells a person which one it is."""
    return path.relative_to(place).as_posix() if path != place else place.name
