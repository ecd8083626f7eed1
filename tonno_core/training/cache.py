"""Prepared volumes on disk, mapped into memory: a thousand scans need the memory of those in use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tonno_core.cohort.manifest import Case
from tonno_core.errors import TonnoError
from tonno_core.slicing.preparation import PreparedVolume, prepare_volume
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Matrix

# Enough points to know the foreground's extent along any direction to about a voxel.
_FOREGROUND_POINTS = 2048


@dataclass(frozen=True)
class TrainingVolume:
    """One prepared volume.

    array: Z Y X, less the fill value; float16, or float32 where that would overflow. foreground: P 3 in
    frame coordinates. labels: 0 or 1 per class. name: of the file.
    """

    array: torch.Tensor
    fill: float
    frame_to_ijk: Matrix
    foreground: np.ndarray
    labels: tuple[int, ...]
    name: str = ""

    @staticmethod
    def from_prepared(
        prepared: PreparedVolume, labels: tuple[int, ...], rng: np.random.Generator, name: str = ""
    ) -> TrainingVolume:
        """Keep what slicing needs, at half the memory. Raises TonnoError if there is nothing to see."""
        volume = prepared.volume
        array = torch.as_tensor(volume.array - prepared.fill)
        if array.abs().max() <= torch.finfo(torch.float16).max:
            array = array.to(torch.float16)
        frame_to_ijk = np.linalg.inv(volume.ijk_to_ras) @ prepared.frame_to_ras
        # What differs from the surroundings by a tenth of the brightest difference is foreground.
        strength = np.abs(volume.array - prepared.fill)
        kji = np.argwhere(strength > 0.1 * np.quantile(strength, 0.999))
        if not len(kji):
            raise TonnoError("after --intensity all of it equals the space outside; expected contrast in the window")
        chosen = kji[rng.permutation(len(kji))[:_FOREGROUND_POINTS]]
        ijk_to_frame = np.linalg.inv(frame_to_ijk)
        points = chosen[:, ::-1] @ ijk_to_frame[:3, :3].T + ijk_to_frame[:3, 3]
        return TrainingVolume(array, prepared.fill, frame_to_ijk, points, labels, name)


@dataclass(frozen=True)
class Preparation:
    """How volumes are prepared, as `prepare_volume` takes it; ``seed`` picks the points that stand for a foreground."""

    frame: str
    intensity: str
    slice_size: int
    pixel_mm: float | None
    seed: int


class VolumeCache:
    """A folder with two files per volume: ``NUMBER.npy``, the voxels, and ``NUMBER.npz``, the rest.

    A volume whose file has changed since (size or time), or that was prepared otherwise, is prepared again.
    """

    def __init__(self, folder: Path, preparation: Preparation) -> None:
        self._folder = folder
        self._preparation = preparation

    def prepare(self, case: Case, number: int) -> None:
        """Write one volume's files unless they are there. Raises TonnoError that names the volume or the disk."""
        if self._is_current(case, number):
            return
        volume = read_volume(case.volume)
        options = {name: value for name, value in vars(self._preparation).items() if name != "seed"}
        try:
            prepared = prepare_volume(volume, **options)
            rng = np.random.default_rng((self._preparation.seed, number))
            one = TrainingVolume.from_prepared(prepared, case.labels, rng)
        except TonnoError as error:
            raise TonnoError(f"{case.volume}: {error}") from error
        array, rest = self._paths(number)
        facts: dict[str, Any] = {
            "fill": one.fill, "frame_to_ijk": one.frame_to_ijk, "foreground": one.foreground, "key": self._key(case),
        }  # fmt: skip
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            rest.unlink(missing_ok=True)  # the last to be written says that both are whole
            _write(array, lambda file: np.save(file, one.array.numpy()))
            _write(rest, lambda file: np.savez(file, **facts))
        except OSError as error:
            raise TonnoError(
                f"{self._folder}: cannot be written ({error.strerror or error}); the prepared volumes need "
                "about half the space of the scans"
            ) from error

    def load(self, case: Case, number: int) -> TrainingVolume:
        """A prepared volume, its voxels mapped from the disk."""
        array, rest = self._paths(number)
        with np.load(rest, allow_pickle=False) as facts:
            fill, frame_to_ijk, foreground = float(facts["fill"]), facts["frame_to_ijk"], facts["foreground"]
        # Copy on write, as torch expects memory that may be written to; nobody does.
        mapped = torch.from_numpy(np.load(array, mmap_mode="c", allow_pickle=False))
        return TrainingVolume(mapped, fill, frame_to_ijk, foreground, case.labels, case.volume.name)

    def _paths(self, number: int) -> tuple[Path, Path]:
        return self._folder / f"{number:05d}.npy", self._folder / f"{number:05d}.npz"

    def _key(self, case: Case) -> str:
        return f"{case.volume} {_identity(case.volume)} {self._preparation}"

    def _is_current(self, case: Case, number: int) -> bool:
        array, rest = self._paths(number)
        if not (array.is_file() and rest.is_file()):
            return False
        with np.load(rest, allow_pickle=False) as facts:
            return str(facts["key"]) == self._key(case)


def _identity(path: Path) -> Sequence[tuple[int, int]]:
    """Sizes and times of a file, or of a DICOM folder's files."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(stat.st_size, stat.st_mtime_ns) for stat in map(os.stat, files)]


def _write(path: Path, write: Any) -> None:
    """Whole or not at all."""
    partial = path.with_suffix(f"{path.suffix}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
