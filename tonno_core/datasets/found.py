"""What is found in a data set's folders, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from tonno_core.datasets.intensity import Statistics, statistics_of
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.volume.header import Header, same_grid
from tonno_core.volume.io import read_header, read_mask, read_volume
from tonno_core.volume.volume import Volume


@dataclass(frozen=True)
class Item:
    """A scan of a data set.

    Attributes:
        place: Its file or folder.
        patient: Name of the patient.
        label: 0 or 1; None where the mask decides.
        mask: File of the mask; None where there is none.
        split: "train", "val" or "test" where the data set's use asks for it.
        channels: Further volumes on the scan's grid, by name.
        columns: Further columns of the manifest.
    """

    place: Path
    patient: str
    label: int | None
    mask: Path | None = None
    split: str = ""
    channels: Mapping[str, Path] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> Json:
        """Return what its prepared cases depend on beside the bytes of its files."""
        return dict(dataclasses.asdict(self), place=str(self.place), mask=str(self.mask or ""), channels=_texts(self))


@dataclass(frozen=True)
class Prepared:
    """A line of the manifest to be.

    Attributes:
        volume: File or folder of the volume.
        patient: Name of the patient.
        label: 0 or 1.
        mask: File of the mask, "" where there is none.
        split: See `Item`.
        channels: Further volumes, by name.
        columns: Further columns.
        statistics: Intensities of the volume.
    """

    volume: str
    patient: str
    label: int
    mask: str
    split: str
    channels: Mapping[str, str]
    columns: Mapping[str, str]
    statistics: Statistics


@dataclass(frozen=True)
class Outcome:
    """What has become of an item.

    Attributes:
        cases: Lines of the manifest: one, or one for each side.
        files: All files and folders that were read.
        notes: What a reader of the manifest should know, in the same words for all items that share it.
    """

    cases: tuple[Prepared, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a data set's folders hold.

    Attributes:
        items: The scans.
        prepare: Makes the lines of the manifest of an item; the folder and the stem are for volumes that it writes.
        has_units: Whether intensities are amounts, as Hounsfield units and SUV are.
        missing: Parts that should be there, each in a line that names the file.
        notes: Lines for a person.
        cut: Whether volumes are written, two of an item.
    """

    items: Sequence[Item]
    prepare: Callable[[Item, Path, str], Outcome]
    has_units: bool
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    cut: bool = False


def as_it_is(item: Item, folder: Path, stem: str) -> Outcome:
    """Read an item whole, so that damage is found now, and leave its files where they are.

    Args:
        item: The scan.
        folder: Not used: nothing is written.
        stem: Likewise.

    Returns:
        One line of the manifest.

    Raises:
        TonnoError: A file cannot be read, or mask or channel lie on another grid.
    """
    volume = read_volume(item.place)
    mask = None if item.mask is None else on_grid(item.mask, read_mask(item.mask), volume)
    for path in item.channels.values():
        on_grid(path, read_header(path), volume)
    if item.label is None and mask is None:
        raise TonnoError(f"{item.place}: neither a label nor a mask tells whether it is positive")
    label = item.label if item.label is not None else int(bool(mask is not None and (mask.array != 0).any()))
    case = Prepared(
        str(item.place),
        item.patient,
        label,
        str(item.mask or ""),
        item.split,
        _texts(item),
        dict(item.columns),
        statistics_of(volume),
    )
    empty = label == 1 and mask is not None and not (mask.array != 0).any()
    notes = ("labelled positive, but the mask is empty",) if empty else ()
    return Outcome((case,), (item.place, *([item.mask] if item.mask else []), *item.channels.values()), notes)


_Grid = TypeVar("_Grid", Volume, Header)


def on_grid(path: Path, read: _Grid, volume: Volume) -> _Grid:
    """Check that what was read lies on a volume's grid.

    Args:
        path: Its file.
        read: The mask, or the header of a channel.
        volume: The volume.

    Returns:
        What was read.

    Raises:
        TonnoError: It lies on another grid.
    """
    if not same_grid(read, volume):
        sizes = (" x ".join(map(str, one.size_ijk)) for one in (read, volume))
        mm = (" x ".join(f"{value:.3g}" for value in np.asarray(one.spacing_mm)) for one in (read, volume))
        (its, expected), (its_mm, expected_mm) = sizes, mm
        raise TonnoError(
            f"{path}: on another grid ({its} voxels of {its_mm} mm) than its volume ({expected} of {expected_mm}); "
            "expected the same: download both again, or resample it"
        )
    return read


def _texts(item: Item) -> dict[str, str]:
    return {name: str(path) for name, path in item.channels.items()}
