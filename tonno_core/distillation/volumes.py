"""The volumes as the network sees them: prepared once, on disk, mapped into memory."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tonno_core.cohort.manifest import Case
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import prepare_image
from tonno_core.training.tensor_file import TensorFiles, identity
from tonno_core.volume.appearance import Appearance, appearance
from tonno_core.volume.io import read_header, read_volume

# Share of the training volumes that a window holds along each axis, where memory allows.
_HELD_SHARE = 0.95
# Voxels of a batch where nobody says how large a window is. By the device, never by what is free on it.
_VOXELS = {"cpu": 2**18, "cuda": 2**22}
# A window is not made smaller than this along an axis.
_LEAST_SIDE = 16


@dataclass(frozen=True)
class WorkingVolume:
    """A volume on its working grid.

    Attributes:
        array: Intensities less ``fill``, C Z Y X; float16, or float32 where that would overflow.
        fill: Value of the space around the volume.
        labels: 0 or 1 per class.
        name: Name of the file.
    """

    array: torch.Tensor
    fill: float
    labels: tuple[int, ...]
    name: str = ""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along Z, Y, X."""
        _, z, y, x = self.array.shape
        return z, y, x


class WorkingCache:
    """A folder with one file per volume.

    A volume whose file has changed since (size or time), that was prepared otherwise, or whose prepared file is
    damaged, is prepared again.

    Args:
        folder: The folder.
        network: Whose working grid is meant.
        intensity: How intensities are normalized.
    """

    def __init__(self, folder: Path, network: SegmenterNetwork, intensity: str) -> None:
        self._files = TensorFiles(folder)
        self._network, self._intensity = network, intensity

    def prepare(self, case: Case, number: int) -> None:
        """Write the file of a volume unless it is there.

        Args:
            case: The volume.
            number: Its place in the manifest.

        Raises:
            TonnoError: If the volume cannot be read or used, or the file not be written.
        """
        made_of = [str(case.volume), identity(case.volume), self._network.spacing_mm, self._intensity]
        key = json.dumps(made_of)  # before it is read: a scan that changes meanwhile is prepared again
        if self._files.is_current(number, key):
            return
        volume = read_volume(case.volume)
        try:
            image = prepare_image(volume, self._network, self._intensity)
        except TonnoError as error:
            raise TonnoError(f"{case.volume}: {error}") from error
        array = image.array - image.fill
        if array.abs().max() <= torch.finfo(torch.float16).max:
            array = array.to(torch.float16)
        look = appearance(volume.array, volume.ijk_to_ras, self._intensity)
        self._files.save(number, key, {
            "array": array,
            "fill": image.fill,
            "appearance": None if look is None else dataclasses.asdict(look),
        })  # fmt: skip

    def load(self, case: Case, number: int) -> WorkingVolume:
        """Load a prepared volume.

        Args:
            case: The volume.
            number: Its place in the manifest.

        Returns:
            The volume, whose voxels are mapped from the disk.
        """
        content = self._files.load(number)
        return WorkingVolume(content["array"], float(content["fill"]), case.labels, case.volume.name)

    def appearance(self, number: int) -> Appearance | None:
        """Load what the scan of a prepared volume looks like.

        Args:
            number: Its place in the manifest.

        Returns:
            The appearance; None where it is unknown.
        """
        look = self._files.load(number)["appearance"]
        return None if look is None else Appearance(**look)


def choose_network(
    cases: Sequence[Case], settings: DistillationSettings, pixel_mm: float | None, device: str
) -> SegmenterNetwork:
    """Choose the working grid and the windows by the headers of the training volumes, unless they are given.

    Voxels are no finer than the classifier's pixels: its heatmaps know nothing of what is.

    Args:
        cases: The volumes that are learned from.
        settings: What is given.
        pixel_mm: Pixel size of the classifier's slices, None where they have no scale.
        device: Kind of the device, such as ``cuda``, whose memory a batch has to fit.

    Returns:
        The network's description.

    Raises:
        TonnoError: If a header cannot be read, or a value is out of its range.
    """
    spacing, patch = settings.spacing_mm, settings.patch
    if spacing is None or patch is None:
        headers = [read_header(case.volume) for case in cases]
        axes = [list(header.axes_ras) for header in headers]
        spacings = np.array([header.spacing_mm[axis] for header, axis in zip(headers, axes, strict=True)])
        sizes = np.array([np.array(header.size_ijk)[axis] for header, axis in zip(headers, axes, strict=True)])
        if spacing is None:
            r, a, s = (round(max(value, pixel_mm or 0.0), 3) for value in np.median(spacings, axis=0).tolist())
            spacing = r, a, s
        if patch is None:
            sides = np.quantile(np.ceil(spacings * sizes / np.array(spacing)), _HELD_SHARE, axis=0)
            step = 2 ** (len(settings.blocks) - 1)
            patch = _fitting(sides, step, _VOXELS.get(device, _VOXELS["cpu"]) // settings.volumes_per_batch)
    return settings.network(spacing, patch)


def _fitting(sides: np.ndarray, step: int, most: int) -> tuple[int, int, int]:
    """Return multiples of a step that hold the sides, the largest of which are cut until all hold ``most`` voxels."""
    window = [max(1, math.ceil(side / step)) * step for side in sides.tolist()]
    while math.prod(window) > most:
        longest = max(range(3), key=lambda axis: window[axis])
        if window[longest] <= max(_LEAST_SIDE, step):
            break
        window[longest] -= step
    r, a, s = window
    return r, a, s


def images_of(cases: Sequence[tuple[int, Case]], cache: WorkingCache) -> list[Appearance]:
    """Load what training volumes look like.

    Args:
        cases: With their places in the manifest.
        cache: Of the prepared volumes.

    Returns:
        What is known.
    """
    looks = [cache.appearance(number) for number, case in cases if case.split == "train"]
    return [look for look in looks if look is not None]


def counts_of(cases: Sequence[Case], classes: Sequence[str]) -> dict[str, Json]:
    """Count volumes with and without each class.

    Args:
        cases: The volumes.
        classes: Names.

    Returns:
        By class ``positive`` and ``negative``.
    """
    labels = np.array([case.labels for case in cases]).reshape(-1, len(classes))
    return {
        name: {"positive": int(column.sum()), "negative": int((1 - column).sum())}
        for name, column in zip(classes, labels.T, strict=True)
    }
