"""Prepared volumes on disk, mapped into memory: a thousand scans take the memory of those in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.cohort.manifest import Case
from tonno_core.cohort.source import content_of
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.progress import progress_bar
from tonno_core.slicing.preparation import PreparedVolume, foreground_points, prepare_volume
from tonno_core.training.tensor_file import TensorFiles, identity
from tonno_core.volume.appearance import Appearance, appearance, record_of_images
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Matrix, Volume


@dataclass(frozen=True)
class TrainingVolume:
    """A prepared volume.

    Attributes:
        array: Intensities less ``fills``, Z Y X, or C Z Y X of several channels; float16, or float32 where that would
            overflow.
        fill: Intensity of the space around the volume; of several channels the first one's.
        frame_to_ijk: 4 x 4.
        foreground: Some points of the foreground in the frame: P 3.
        labels: 0 or 1 per class; of a regressor's volume its number in standard deviations.
        name: Name of the file.
        further_fills: Of the other channels.
    """

    array: torch.Tensor
    fill: float
    frame_to_ijk: Matrix
    foreground: npt.NDArray[np.float64]
    labels: tuple[float, ...]
    name: str = ""
    further_fills: tuple[float, ...] = ()

    @property
    def fills(self) -> tuple[float, ...]:
        """Intensities of the space around, by channel."""
        return self.fill, *self.further_fills

    @property
    def channels(self) -> torch.Tensor:
        """Intensities less ``fills``, C Z Y X."""
        return self.array if self.array.ndim == 4 else self.array[None]

    @staticmethod
    def from_prepared(
        prepared: PreparedVolume, labels: tuple[float, ...], rng: np.random.Generator, name: str = ""
    ) -> TrainingVolume:
        """Keep what slicing needs, in half the memory.

        Args:
            prepared: The volume.
            labels: 0 or 1 per class.
            rng: Chooses the points of the foreground.
            name: Name of the file.

        Returns:
            The volume for training.

        Raises:
            TonnoError: If the volume has no contrast.
        """
        volume = prepared.volume
        less = [array - fill for array, fill in zip(volume.channels, prepared.fills, strict=True)]
        array = halved(torch.as_tensor(np.stack(less) if volume.further else less[0]))
        frame_to_ijk = np.linalg.inv(volume.ijk_to_ras) @ prepared.frame_to_ras
        points = foreground_points(prepared, rng)
        return TrainingVolume(array, prepared.fill, frame_to_ijk, points, labels, name, prepared.further_fills)


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared.

    Attributes:
        frame: As for `prepare_volume`.
        intensity: As for `prepare_volume`.
        slice_size: As for `prepare_volume`.
        pixel_mm: As for `prepare_volume`.
        seed: Chooses the points that stand for a foreground.
    """

    frame: str
    intensity: str
    slice_size: int
    pixel_mm: float | None
    seed: int

    def make(self, volume: Volume, case: Case, number: int) -> Json:
        """Prepare a volume.

        Args:
            volume: As it was read.
            case: Where it is from.
            number: Its place in the manifest.

        Returns:
            What its file holds.

        Raises:
            TonnoError: If it cannot be used.
        """
        options = {name: value for name, value in vars(self).items() if name != "seed"}
        prepared, rng = prepare_volume(volume, **options), np.random.default_rng((self.seed, number))
        content = TrainingVolume.from_prepared(prepared, case.labels, rng)
        return {
            "array": content.array,
            "fill": content.fill,
            "frame_to_ijk": torch.from_numpy(content.frame_to_ijk),
            "foreground": torch.from_numpy(content.foreground),
            **({"further_fills": list(content.further_fills)} if content.further_fills else {}),
        }

    def load(self, content: Json, case: Case) -> TrainingVolume:
        """Make the volume for training of what its file holds.

        Args:
            content: What `make` returned; its voxels stay mapped from the disk.
            case: Where it is from.

        Returns:
            The volume.
        """
        # Copies, as the small ones need no mapping.
        frame_to_ijk, foreground = content["frame_to_ijk"].numpy().copy(), content["foreground"].numpy().copy()
        fill, further_fills = float(content["fill"]), tuple(content.get("further_fills", ()))
        return TrainingVolume(
            content["array"], fill, frame_to_ijk, foreground, case.labels, case.volume.name, further_fills
        )


Prepared = TypeVar("Prepared", covariant=True)
Loaded = TypeVar("Loaded")


class Preparing(Protocol[Prepared]):
    """What `Preparation` does for a classifier, for any network; its text is another where files would be others."""

    @property
    def intensity(self) -> str: ...
    def make(self, volume: Volume, case: Case, number: int) -> Json: ...
    def load(self, content: Json, case: Case) -> Prepared: ...


class VolumeCache(Generic[Loaded]):
    """A folder with one file per volume, ``NUMBER.pt``.

    A volume whose file has changed since (size or time), that was prepared otherwise, or whose prepared file is
    damaged, is prepared again.

    Args:
        folder: The folder.
        preparation: How volumes are prepared.
    """

    def __init__(self, folder: Path, preparation: Preparing[Loaded]) -> None:
        self._files = TensorFiles(folder)
        self._preparation = preparation

    def prepare(self, case: Case, number: int) -> None:
        """Write the file of a volume unless it is there.

        Args:
            case: The volume.
            number: Its place in the manifest.

        Raises:
            TonnoError: If the volume cannot be read or used, or the file not be written.
        """
        # Before it is read: a scan that changes meanwhile is prepared again.
        key = f"{case.volume} {identity(case.volume)} {self._preparation}"
        if self._files.is_current(number, key, ("appearance", "scan")):
            return
        volume = read_volume(case.volume, intensity=self._preparation.intensity)
        try:
            content = self._preparation.make(volume, case, number)
        except TonnoError as error:
            raise TonnoError(f"{case.volume}: {error}") from error
        look = appearance(volume.array, volume.ijk_to_ras, self._preparation.intensity)
        content["appearance"] = None if look is None else dataclasses.asdict(look)
        content["scan"] = content_of(case.volume)
        self._files.save(number, key, content)

    def load(self, case: Case, number: int) -> Loaded:
        """Load a prepared volume. Its voxels are mapped from the disk; torch keeps no file open for that.

        Args:
            case: The volume.
            number: Its place in the manifest.

        Returns:
            The volume for training.
        """
        return self._preparation.load(self._files.load(number), case)

    def load_all(self, cases: Sequence[tuple[int, Case]], processes: Processes, *, progress: bool) -> dict[int, Loaded]:
        """Load volumes, after the processes have prepared them together.

        Args:
            cases: With their places in the manifest.
            processes: The processes that share the work.
            progress: Show a bar.

        Returns:
            The volumes by these places.

        Raises:
            TonnoError: If a volume cannot be read or used.
        """
        share = cases[processes.rank :: processes.world]
        for number, case in progress_bar(share, desc="preparing", unit="volume", disable=not progress):
            self.prepare(case, number)
        processes.wait()
        return {number: self.load(case, number) for number, case in cases}

    def appearance(self, number: int) -> Appearance | None:
        """Load what the scan of a prepared volume looks like.

        Args:
            number: Its place in the manifest.

        Returns:
            The appearance; None where it is unknown.
        """
        look = self._files.load(number)["appearance"]
        return None if look is None else Appearance(**look)

    def scan(self, number: int) -> str:
        """Load what the scan of a prepared volume was.

        Args:
            number: Its place in the manifest.

        Returns:
            The hash of its bytes (`content_of`).
        """
        return str(self._files.load(number)["scan"])

    def images(self, cases: Sequence[tuple[int, Case]], pixel_mm: float | None) -> Json:
        """Record what the volumes of split ``train`` look like.

        Args:
            cases: With their places in the manifest.
            pixel_mm: Size of what the network sees, None where it has no scale.

        Returns:
            The record; empty where nothing is known.
        """
        looks = [self.appearance(number) for number, case in cases if case.split == "train"]
        known = [look for look in looks if look is not None]
        return record_of_images(known, self._preparation.intensity, pixel_mm) if known else {}


def halved(array: torch.Tensor) -> torch.Tensor:
    """Halve the memory of values, unless they would overflow.

    Args:
        array: float32.

    Returns:
        float16, or ``array`` itself.
    """
    return array.to(torch.float16) if array.abs().max() <= torch.finfo(torch.float16).max else array
