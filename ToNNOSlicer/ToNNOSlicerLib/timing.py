"""Predictions of how long a run will take on this machine, from the runs before."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from tonno_core.errors import TonnoError
from tonno_core.output import atomic_file
from tonno_core.records import made_of, read_record

# Slices a second of the model that ships with the module (resnet10t, 96 pixels) on one core of a 2020s server: only to
# have something to say before the first run.
_FIRST_GUESS = {("resnet10t", "cpu"): 400.0}
_GUESS_SIZE = 96


class RunTimes:
    """Speeds by encoder, kind of device and slice size, kept in a small JSON file.

    A file that cannot be read or written costs the estimate, never the run.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._speeds: dict[str, float] = {}
        with suppress(OSError, ValueError):
            for key, speed in made_of(dict[str, float], read_record(self._path)).items():
                if speed > 0 and re.fullmatch(r".+\|[1-9][0-9]{0,8}", key):
                    self._speeds[key] = speed

    def record(self, encoder: str, device: str, sliceSize: int, slices: int, seconds: float) -> None:
        """Remember a run. The mean with the speed so far is kept.

        Args:
            encoder: The network.
            device: The torch device, such as cuda:0.
            sliceSize: Pixels along a side.
            slices: How many went through the network.
            seconds: How long that took.
        """
        if slices <= 0 or seconds <= 0:
            return
        key = _key(encoder, device, sliceSize)
        speed = slices / seconds
        self._speeds[key] = (self._speeds.get(key, speed) + speed) / 2
        with suppress(TonnoError), atomic_file(self._path, make_folders=True) as partial:
            partial.write_text(json.dumps(self._speeds, indent=1), encoding="utf-8")

    def expected(self, encoder: str, device: str, sliceSize: int, slices: int) -> float | None:
        """Predict a run's seconds. A speed at another slice size is scaled by its pixels.

        Args:
            encoder: The network.
            device: The torch device, such as cuda:0.
            sliceSize: Pixels along a side.
            slices: How many go through the network.

        Returns:
            Seconds; None where nothing is known.
        """
        speed = self._speeds.get(_key(encoder, device, sliceSize))
        if speed is None:
            others = [
                (abs(size - sliceSize), speed * (size / sliceSize) ** 2)
                for size, speed in self._sizes(encoder, device).items()
            ]
            speed = min(others)[1] if others else None
        return None if speed is None else slices / speed

    def _sizes(self, encoder: str, device: str) -> dict[int, float]:
        entries = ((*key.rpartition("|")[::2], speed) for key, speed in self._speeds.items())
        known = {int(size): speed for ran, size, speed in entries if ran == f"{encoder}|{_kind(device)}"}
        guess = _FIRST_GUESS.get((encoder, _kind(device)))
        return known or ({_GUESS_SIZE: guess} if guess else {})


def slicesOf(settings) -> int:
    """Count the slices that a reconstruction cuts: each direction has its offsets and one more at each end.

    Args:
        settings: ReconstructionSettings.

    Returns:
        The number of slices.
    """
    directions = max(settings.directions_for(method) for method in settings.methods)
    return directions * (settings.slices + 2)


def _kind(device: str) -> str:
    return device.split(":")[0]


def _key(encoder: str, device: str, sliceSize: int) -> str:
    return f"{encoder}|{_kind(device)}|{sliceSize}"
