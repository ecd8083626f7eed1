"""Find the volumes of a folder, a pattern or several files: image files, and folders that hold a DICOM series."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tonno_core.cohort.manifest import Listed
from tonno_core.cohort.places import LIST_ENDINGS
from tonno_core.errors import TonnoError
from tonno_core.volume.signature import is_dicom
from tonno_core.words import is_image_file

_RESULTS = ("heatmap-", "segmentation-")
_SETTINGS = "settings.json"  # a folder with it, and cases/ beside it, holds results
# What files and folders of masks are called in public data: labelsTr/, x_seg.nii.gz, x-mask.nii.gz, segmentations/.
_MASK = re.compile(
    r"(?<![a-z])(?:masks?|msk|labels?(?:tr|ts)?|labelmaps?|segs?|segmentations?|truth)(?![a-z])", re.IGNORECASE
)


def is_cohort(places: Sequence[Path]) -> bool:
    """Tell whether files and folders of a command line are many volumes, or one.

    Args:
        places: As they were given.

    Returns:
        False for one image file, for one folder whose own files are a DICOM series, and for what is not there.
    """
    if len(places) > 1 or places[0].suffix.lower() in LIST_ENDINGS or _is_pattern(places[0]):
        return True
    return places[0].is_dir() and not _holds_dicom(places[0]) and any(_volumes(places[0], []))


def find_volumes(places: Sequence[Path], notes: list[str]) -> tuple[Listed, ...]:
    """Find the volumes of files, folders and patterns; what lies below a folder belongs to it.

    Hidden files and results are passed over, and what its name below a folder calls a mask is left out.

    Args:
        places: Files, folders, and patterns such as ``scans/*.nii.gz`` or ``**/t1.nii.gz``.
        notes: Gets a line for each kind of what was left out.

    Returns:
        The volumes, each once, in the order of the places and by name.

    Raises:
        TonnoError: A pattern or a folder has none.
    """
    found: dict[str, Listed] = {}
    for place in places:
        volumes = [_listed(place)]
        if _is_pattern(place):
            matched = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207, which takes no absolute pattern
            volumes = [volume for match in matched for volume in _at(Path(match), notes)]
        elif place.is_dir():
            volumes = list(_at(place, notes))
        if not volumes:
            said = f" ({notes[-1]})" if notes else ""
            raise TonnoError(f"{place}: no image file and no DICOM series found{said}; check the path")
        for volume in volumes:
            found.setdefault(os.path.realpath(volume.volume), volume)
    return tuple(found.values())


def is_mask(place: Path) -> bool:
    """Tell whether a file or one of its folders is called a mask.

    Args:
        place: The file, relative to the folder that is looked through.

    Returns:
        True for ``labelsTr/x.nii.gz``, ``x_seg.nii.gz``, ``x-mask.nii.gz`` and the like.
    """
    return _MASK.search(str(place)) is not None


def is_result(file: Path) -> bool:
    """Tell whether a file is called as our results are, or as 3D Slicer's segmentations.

    Args:
        file: An image file.

    Returns:
        True for ``heatmap-tonno.nii.gz``, ``segmentation-tonno.dcm``, ``x.seg.nrrd`` and the like.
    """
    name = file.name.lower()
    return ".seg." in name or name.startswith(_RESULTS)


def _is_pattern(place: Path) -> bool:
    """Tell whether a name is a pattern; a file that is there is itself, whatever its name."""
    return glob.has_magic(str(place)) and not place.exists()


def _listed(volume: Path) -> Listed:
    return Listed(volume.absolute(), absent="" if volume.exists() else str(volume))


def _at(place: Path, notes: list[str]) -> Iterator[Listed]:
    """Find the volumes of a file or folder."""
    if place.is_dir():
        yield from _volumes(place, notes)
    elif is_image_file(place.name) and not is_result(place):
        yield _listed(place)


def _volumes(place: Path, notes: list[str]) -> Iterator[Listed]:
    """Find the volumes below a folder, by name."""
    masks: list[Path] = []
    seen: set[str] = set()

    def unread(error: OSError) -> None:
        notes.append(f"{error.filename}: cannot be read ({error.strerror})")

    for name, below, files in os.walk(place, followlinks=True, onerror=unread):
        folder, real = Path(name), os.path.realpath(name)
        below[:] = sorted(child for child in below if not child.startswith("."))
        if real in seen or (_SETTINGS in files and "cases" in below):  # links may lead in circles
            below.clear()
            continue
        seen.add(real)
        shown = [folder / file for file in sorted(files) if not file.startswith(".")]
        images = [file for file in shown if is_image_file(file.name) and (file.is_file() or not file.exists())]
        for image in (file for file in images if not is_result(file)):
            if is_mask(image.relative_to(place)):
                masks.append(image)
            else:
                yield _listed(image)
        if _holds_dicom(folder):
            yield _listed(folder)
    if masks:
        notes.append(
            f"{place}: {len(masks)} left out by name as masks, such as {masks[0].name}; a list (CSV) can have them"
        )


def _holds_dicom(folder: Path) -> bool:
    """Tell whether some of a folder's own files are DICOM, a list of them (DICOMDIR) and our results aside."""
    with suppress(OSError):
        files = (file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
        return any(is_dicom(file) for file in files if file.name.upper() != "DICOMDIR" and not is_result(file))
    return False
