"""When a segmentation no longer changes with more directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.segmentation.metrics import dice

# Of the segmentations by all directions so far and by the first half of them.
STABLE_DICE = 0.98
# With fewer directions, two empty masks may agree because the finding does not stand out of the noise yet.
LEAST_DIRECTIONS = 32


@dataclass(frozen=True)
class Check:
    """A comparison of segmentations.

    Attributes:
        directions: So far.
        half: With which they were compared.
        dice: By method.
    """

    directions: int
    half: int
    dice: dict[str, float]

    @property
    def stable(self) -> bool:
        """Whether no method's segmentation changed."""
        return self.directions >= LEAST_DIRECTIONS and min(self.dice.values(), default=0.0) >= STABLE_DICE


class Stability:
    """Compares masks of the first n directions with those of at most n / 2.

    Two empty masks are equal, Dice 1; an empty one and another have nothing in common, Dice 0.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self._last: tuple[int, dict[str, npt.NDArray[np.bool_]]] | None = None

    @property
    def reached(self) -> bool:
        """Whether the last comparison found no change."""
        return bool(self.checks) and self.checks[-1].stable

    def add(self, directions: int, masks: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Compare masks with those of half as many directions, or less.

        Args:
            directions: Of which the masks are.
            masks: Z Y X by method, not zero is inside.
        """
        current = {name: mask != 0 for name, mask in masks.items()}
        if self._last is not None:
            half, before = self._last
            if 2 * half > directions:
                return
            common = {name: dice(mask, before[name]) for name, mask in current.items()}
            self.checks.append(Check(directions, half, common))
        self._last = directions, current
