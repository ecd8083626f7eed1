"""Voxels of the training's volumes on its device: as many as there is room for stay there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.encoding.memory import CudaMemory
from tonno_core.training.cache import TrainingVolume

# Bytes of voxels that stay in a computer's own memory: some hundred scans.
_ROOM = 2**29
# Share of a GPU's free memory that voxels may take; the rest is for the network and its activations.
_SHARE = 1 / 4


def room_on(device: torch.device) -> int:
    """Measure how many bytes of voxels may stay on a device. What stays changes no number, only how fast slices are.

    Args:
        device: Where the slices are made.

    Returns:
        Bytes.
    """
    return int(CudaMemory(device).free() * _SHARE) if device.type == "cuda" else _ROOM


class DeviceVoxels:
    """The voxels of volumes on a device: those asked for first stay, the others come whenever they are used."""

    def __init__(self, volumes: Sequence[TrainingVolume], device: torch.device, dtype: torch.dtype, room: int) -> None:
        """Bring nothing yet.

        Args:
            volumes: The volumes.
            device: Where to.
            dtype: Of the voxels there.
            room: Bytes that may stay.
        """
        self._volumes, self._device, self._dtype, self._room = volumes, device, dtype, room
        self._kept: dict[int, torch.Tensor] = {}

    def of(self, number: int) -> torch.Tensor:
        """Bring the voxels of a volume to the device, unless they are there.

        The host waits for a GPU where they stay, once; locked memory, by which it need not, is for those that come
        whenever they are used.

        Args:
            number: Of the volume.

        Returns:
            Voxels less fill, Z Y X, or C Z Y X of several channels.
        """
        kept = self._kept.get(number)
        if kept is not None:
            return kept
        array = self._volumes[number].array.contiguous()
        size = array.numel() * self._dtype.itemsize
        stays = size <= self._room
        if self._device.type == "cuda" and not stays:
            voxels = array.pin_memory().to(self._device, non_blocking=True).to(self._dtype)
        else:
            voxels = array.to(self._device).to(self._dtype)
        if stays:
            self._room -= size
            self._kept[number] = voxels
        return voxels


def on_device(table: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Copy numbers to a device; the host does not wait for a GPU.

    Args:
        table: The numbers.
        device: Where to.

    Returns:
        The same there, row by row.
    """
    values = torch.from_numpy(np.ascontiguousarray(table))
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)
