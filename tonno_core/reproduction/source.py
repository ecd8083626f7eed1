"""What figures are made of: scans, a model, and numbers that took long and are kept."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.ready import ReadyModel
from tonno_core.cohort.cases import fingerprint
from tonno_core.demo.phantom import brain, make_phantom
from tonno_core.errors import TonnoError
from tonno_core.evaluation.case import Task, read_truth
from tonno_core.output import Json, write_bytes
from tonno_core.settings import CamKind, ReconstructionSettings
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume
from tonno_core.words import without_ending

BoolArray = npt.NDArray[np.bool_]
Arrays = dict[str, npt.NDArray[Any]]
# Lesions of a drawn head, as of the demo's.
_LESIONS = 3


@dataclass(frozen=True)
class Scan:
    """A volume with what is known about it.

    Attributes:
        name: As figures call it.
        volume: The volume.
        label: 1 with the finding, 0 without; None where nobody says.
        truth: Voxels of the finding, bool Z Y X; None where they are not known.
        patient: Whose it is; "" for a patient of its own.
    """

    name: str
    volume: Volume
    label: int | None
    truth: BoolArray | None
    patient: str = ""

    @property
    def positive(self) -> bool:
        """Whether the finding is known to be there, and where."""
        return self.truth is not None and bool(self.truth.any())

    def record(self) -> Json:
        """Return what tells the scan from others.

        Returns:
            Hashes and the label, as JSON holds them.
        """
        return {
            "volume": _digest(self.volume.array, self.volume.ijk_to_ras),
            "truth": None if self.truth is None else _digest(self.truth),
            "label": self.label,
        }


@dataclass(frozen=True)
class Source:
    """What a figure is made of.

    Attributes:
        scans: By name, how each is read.
        kept: Numbers of figures that were computed before.
        model: Ready on its device; None where a figure needs none.
        model_record: What tells the model from others.
        settings: Of reconstructions, the model's own where nobody asked for others; None without a model.
        slices: Numbers of slices (M) that were asked for; none for the figure's own.
        directions: Numbers of directions (L), likewise.
        seed: Of what is drawn at random.
        asked: What the command was asked for, as the figure's description states it.
    """

    scans: Mapping[str, Callable[[], Scan]]
    kept: Kept
    model: ReadyModel | None = None
    model_record: Json = field(default_factory=dict)
    settings: ReconstructionSettings | None = None
    slices: tuple[int, ...] = ()
    directions: tuple[int, ...] = ()
    seed: int = 0
    asked: Json = field(default_factory=dict)

    @property
    def cam(self) -> CamKind:
        """Kind of the activation maps: the one that was asked for, else the model's."""
        return self.ready()[1].cam

    def first(self) -> Scan:
        """Return the first scan in which the finding is known, else the first.

        Returns:
            The scan.
        """
        scans = self.read()
        first = next(scans)
        return first if first.positive else next((scan for scan in scans if scan.positive), first)

    def read(self) -> Iterator[Scan]:
        """Read the scans one after the other.

        Yields:
            The scans in their order.
        """
        for read in self.scans.values():
            yield read()

    def ready(self) -> tuple[ReadyModel, ReconstructionSettings]:
        """Return the model and its settings, for a figure that needs them.

        Returns:
            The model on its device, and the settings.
        """
        assert self.model is not None and self.settings is not None
        return self.model, self.settings

    def one(self, name: str, default: int) -> int:
        """Return the only number of slices or of directions that was asked for.

        Args:
            name: ``slices`` or ``directions``.
            default: Where nobody asked.

        Returns:
            The number.

        Raises:
            TonnoError: Several were asked for.
        """
        asked = self.slices if name == "slices" else self.directions
        if len(asked) > 1:
            raise TonnoError(f"`{name}`: {', '.join(map(str, asked))}, expected one number; only fig8 takes several")
        return asked[0] if asked else default


class Kept:
    """A folder of numbers that took long; a command that is given again takes them from there."""

    def __init__(self, folder: Path) -> None:
        """Name the folder.

        Args:
            folder: It is made when there is something to keep.
        """
        self.folder = folder

    def get(self, name: str, facts: Json, compute: Callable[[], Arrays]) -> Arrays:
        """Return arrays that were computed before from the same facts, else compute and keep them.

        Args:
            name: How the file's name begins.
            facts: All that the arrays depend on, as JSON holds it.
            compute: Makes the arrays.

        Returns:
            The arrays by name.
        """
        path = self.folder / f"{name}-{fingerprint(facts)[:16]}.npz"
        arrays = _load(path)
        if arrays is not None:
            return arrays
        arrays = compute()
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content.getvalue())
        return arrays


def _load(path: Path) -> Arrays | None:
    """Read arrays; None where there are none, or damaged ones, which are then made anew."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error):
        return None


def demo_scans(heads: int, seed: int) -> dict[str, Callable[[], Scan]]:
    """Draw heads as the demo's: some with lesions, and as many of other patients without.

    Args:
        heads: How many of either kind.
        seed: Of the first head; 2026 is the demo's.

    Returns:
        How each is made, by name; first those with lesions.
    """
    lesions = {seed + number: _LESIONS if number < heads else 0 for number in range(2 * heads)}
    return {f"head {number}": partial(_demo_scan, number, some) for number, some in lesions.items()}


def brain_scan() -> Scan:
    """Return the MNI brain at 1 mm.

    Returns:
        The scan, without a finding.
    """
    volume = brain()
    return Scan("the MNI brain", volume, 0, np.zeros(volume.array.shape, dtype=bool))


def scan_of(task: Task) -> Scan:
    """Read a volume of a manifest.

    Args:
        task: Volume, label and mask.

    Returns:
        The scan.

    Raises:
        TonnoError: A file cannot be read, or the mask is on another grid.
    """
    volume = read_volume(task.volume)
    return Scan(task.name, volume, task.label, read_truth(task, volume), task.patient)


def scan_of_file(path: Path, mask: Path | None) -> Scan:
    """Read a volume that no manifest tells of.

    Args:
        path: A file, or the folder of a DICOM series.
        mask: Where the finding is; None where that is not known.

    Returns:
        The scan.

    Raises:
        TonnoError: A file cannot be read, or the mask is on another grid.
    """
    if mask is None:
        return Scan(without_ending(path.name), read_volume(path), None, None)
    scan = scan_of(Task(without_ending(path.name), path, 1, mask, ""))
    return replace(scan, label=int(scan.positive))


@lru_cache(maxsize=2)
def _demo_scan(seed: int, lesions: int) -> Scan:
    phantom = make_phantom(seed=seed, lesions=lesions)
    return Scan(f"head {seed}", phantom.image, int(lesions > 0), phantom.truth.astype(bool))


def _digest(*arrays: npt.NDArray[np.generic]) -> str:
    whole = hashlib.sha256()
    for array in arrays:
        whole.update(f"{array.shape} {array.dtype}".encode())
        whole.update(np.ascontiguousarray(array).data)
    return whole.hexdigest()
