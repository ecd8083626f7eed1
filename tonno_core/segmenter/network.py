"""The description of a 3D segmentation network, as a model's file holds it. Free of torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.settings import is_finite_number

NETWORKS = ("segresnet",)
# Channels of a group in its group norms.
GROUPS = 8
# What lies beyond is a slip of the pen, or a file made to fill the machine's memory: a network of the most channels and
# blocks has 200 million weights.
_MOST_FILTERS, _MOST_CHANNELS = 64, 512
_LEVELS, _BLOCKS = (2, 6), (1, 8)
_SPACING_MM = (0.05, 50.0)
_MOST_SIDE, _MOST_VOXELS = 512, 2**24


@dataclass(frozen=True)
class SegmenterNetwork:
    """A 3D residual U-Net, and the grid on which it sees volumes.

    Attributes:
        spacing_mm: Of the working grid's voxels, along the axes nearest to R, A and S.
        patch: Voxels along the same axes of the windows that it is trained on and answers.
        filters: Channels of the finest level; each coarser level has twice as many.
        blocks: Residual blocks of each level on the way down, the finest first; there is one for each on the way up.
        name: One of `NETWORKS`.

    Raises:
        TonnoError: A value is unknown or out of its range.
    """

    spacing_mm: tuple[float, float, float]
    patch: tuple[int, int, int]
    filters: int = 16
    blocks: tuple[int, ...] = (1, 2, 2, 4)
    name: str = NETWORKS[0]

    def __post_init__(self) -> None:
        _require(self.name in NETWORKS, "name", self.name, f"one of {', '.join(NETWORKS)}")
        filters = f"a multiple of {GROUPS} up to {_MOST_FILTERS}"
        _require(_is_whole(self.filters, GROUPS, _MOST_FILTERS), "filters", self.filters, filters)
        _require(self.filters % GROUPS == 0, "filters", self.filters, filters)
        _require(
            _is_list(self.blocks, *_LEVELS) and all(_is_whole(each, *_BLOCKS) for each in self.blocks),
            "blocks",
            self.blocks,
            f"{_LEVELS[0]} to {_LEVELS[1]} whole numbers from {_BLOCKS[0]} to {_BLOCKS[1]}",
        )
        most = self.filters * 2 ** (len(self.blocks) - 1)
        _require(most <= _MOST_CHANNELS, "filters", self.filters, f"at most {_MOST_CHANNELS} on the coarsest level")
        low, high = _SPACING_MM
        _require(
            _is_list(self.spacing_mm, 3, 3)
            and all(is_finite_number(each) and low <= each <= high for each in self.spacing_mm),
            "spacing_mm",
            self.spacing_mm,
            f"three numbers from {low:g} to {high:g}, along R, A and S",
        )
        step = self.step
        _require(
            _is_list(self.patch, 3, 3) and all(_is_whole(n, step, _MOST_SIDE) and n % step == 0 for n in self.patch),
            "patch",
            self.patch,
            f"three multiples of {step} up to {_MOST_SIDE}, along R, A and S",
        )
        _require(math.prod(self.patch) <= _MOST_VOXELS, "patch", self.patch, f"at most {_MOST_VOXELS:,} voxels")
        for name, kind in (("spacing_mm", float), ("patch", int), ("blocks", int)):  # JSON has lists
            object.__setattr__(self, name, tuple(kind(value) for value in getattr(self, name)))

    @property
    def step(self) -> int:
        """What the sides of a window are multiples of, in voxels: the stride of the coarsest level."""
        return 1 << len(self.blocks) - 1

    @property
    def window_zyx(self) -> tuple[int, int, int]:
        """Voxels of a window along Z, Y, X of the working grid."""
        r, a, s = self.patch
        return s, a, r

    @classmethod
    def of_record(cls, record: object) -> SegmenterNetwork:
        """Read a network from a model's description.

        Args:
            record: Values by name, as `record` writes them.

        Returns:
            The network.

        Raises:
            TonnoError: Something is missing, unknown or out of its range.
        """
        if not isinstance(record, dict):
            raise TonnoError("'network' is expected to be an object")
        fields = {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(cls)}
        for name, needed in fields.items():
            if needed and name not in record:
                raise TonnoError(f"'network': '{name}' is missing")
        for name in record:
            if name not in fields:
                raise TonnoError(f"'network': '{name}' is unknown; it needs a newer version of tonno")
        return cls(**record)

    def record(self) -> Json:
        """Return the network as files hold it.

        Returns:
            All fields by name.
        """
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _require(good: bool, name: str, value: Any, expected: str) -> None:
    if not good:
        raise TonnoError(f"'network': '{name}' is {value!r:.80}, expected {expected}")


def _is_list(values: object, least: int, most: int) -> bool:
    return isinstance(values, Sequence) and not isinstance(values, str) and least <= len(values) <= most


def _is_whole(value: object, least: int, most: int) -> bool:
    return not isinstance(value, bool) and isinstance(value, Integral) and least <= int(value) <= most
