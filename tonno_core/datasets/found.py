"""What is found in a data set's folders, and what becomes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tonno_core.datasets.intensity import Statistics, statistics_of
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.volume.channels import ENDING, write_channels
from tonno_core.volume.exchange import stack_channels
from tonno_core.volume.header import same_grid
from tonno_core.volume.io import read_mask, read_volume
from tonno_core.volume.volume import Volume
from tonno_core.words import without_ending


@dataclass(frozen=True)
class Item:
    """A scan of a data set.

    Attributes:
        place: Its file or folder.
        patient: Name of the patient.
        label: 0 or 1; None where the mask decides.
        mask: File of the mask; None where there is none.
        split: "train", "val" or "test" where the data set's use asks for it.
        channels: Files of further channels, on the scan's grid; all are written into one file then.
        columns: Further columns of the manifest.
    """

    place: Path
    patient: str
    label: int | None
    mask: Path | None = None
    split: str = ""
    channels: Sequence[Path] = ()
    columns: Mapping[str, str] = field(default_factory=dict)

    def facts(self) -> Json:
        """Return what its prepared cases depend on beside the bytes of its files."""
        channels = [str(path) for path in self.channels]
        return dict(dataclasses.asdict(self), place=str(self.place), mask=str(self.mask or ""), channels=channels)


@dataclass(frozen=True)
class Prepared:
    """A line of the manifest to be.

    Attributes:
        volume: File or folder of the volume.
        patient: Name of the patient.
        label: 0 or 1.
        mask: File of the mask, "" where there is none.
        split: See `Item`.
        columns: Further columns.
        statistics: Intensities of the volume, by channel.
    """

    volume: str
    patient: str
    label: int
    mask: str
    split: str
    columns: Mapping[str, str]
    statistics: Sequence[Statistics]


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
        writes: Whether volumes are written: halves, or channels in one file.
    """

    items: Sequence[Item]
    prepare: Callable[[Item, Path, str], Outcome]
    has_units: bool
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    writes: bool = False


def as_it_is(item: Item, folder: Path, stem: str) -> Outcome:
    """Read an item whole, so that damage is found now, and leave its files where they are.

    Args:
        item: The scan.
        folder: Where its channels are written into one file, if it has several files of them.
        stem: Of that file's name.

    Returns:
        One line of the manifest.

    Raises:
        TonnoError: A file cannot be read, or mask or channel lie on another grid.
    """
    volume, place = read_volume(item.place), item.place
    mask = None if item.mask is None else on_grid(item.mask, read_mask(item.mask), volume)
    if item.channels:
        volume = stack_channels([volume, *(on_grid(path, read_volume(path), volume) for path in item.channels)])
        place = folder / f"{stem}-{'-'.join(without_ending(path.name) for path in item.channels)}{ENDING}"
    if item.label is None and mask is None:
        raise TonnoError(f"{item.place}: neither a label nor a mask tells whether it is positive")
    label = item.label if item.label is not None else int(bool(mask is not None and (mask.array != 0).any()))
    if item.channels:
        z, y, x = volume.array.shape
        write_channels(place, volume.channels, len(volume.channels), (z, y, x), volume.ijk_to_ras)
    case = Prepared(
        str(place),
        item.patient,
        label,
        str(item.mask or ""),
        item.split,
        dict(item.columns),
        statistics_of(volume),
    )
    empty = label == 1 and mask is not None and not (mask.array != 0).any()
    notes = ("labelled positive, but the mask is empty",) if empty else ()
    return Outcome((case,), (item.place, *([item.mask] if item.mask else []), *item.channels), notes)


def on_grid(path: Path, read: Volume, volume: Volume) -> Volume:
    """Check that what was read lies on a volume's grid.

    Args:
        path: Its file.
        read: The mask, or a channel.
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
