"""The volumes as the network sees them: prepared once, on disk, mapped into memory."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.cohort.manifest import Case
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.output import Json
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import prepare_image
from tonno_core.training.cache import halved
from tonno_core.volume.io import read_header
from tonno_core.volume.volume import Volume

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


@dataclass(frozen=True)
class WorkingPreparation:
    """How volumes are prepared, for a `VolumeCache`.

    Attributes:
        network: Whose working grid is meant.
        intensity: How intensities are normalized.
    """

    network: SegmenterNetwork
    intensity: str

    def __str__(self) -> str:
        """Describe what of this decides on a volume's file; windows and layers do not."""
        return json.dumps([self.network.spacing_mm, self.intensity])

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
        image = prepare_image(volume, self.network, self.intensity)
        return {"array": halved(image.array - image.fill), "fill": image.fill}

    def load(self, content: Json, case: Case) -> WorkingVolume:
        """Make the volume of what its file holds.

        Args:
            content: What `make` returned; its voxels stay mapped from the disk.
            case: Where it is from.

        Returns:
            The volume.
        """
        return WorkingVolume(content["array"], float(content["fill"]), case.labels, case.volume.name)


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


def _fitting(sides: npt.NDArray[np.float64], step: int, most: int) -> tuple[int, int, int]:
    """Return multiples of a step that hold the sides, the largest of which are cut until all hold ``most`` voxels."""
    window = [max(1, math.ceil(side / step)) * step for side in sides.tolist()]
    while math.prod(window) > most:
        longest = max(range(3), key=lambda axis: window[axis])
        if window[longest] <= max(_LEAST_SIDE, step):
            break
        window[longest] -= step
    r, a, s = window
    return r, a, s
