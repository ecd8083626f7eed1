"""Which components of a segmentation count: large ones, of enough evidence. NumPy alone, for other applications too."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.segmentation.connected import BoolMask, Runs


@dataclass(frozen=True)
class Parts:
    """Decides which components of a segmentation count.

    A low threshold finds where a finding ends, but also much that is none; a component whose highest value, its peak,
    stays below ``min_peak`` does not count (hysteresis). At a threshold from there on all have such a peak.

    Attributes:
        min_volume_mm3: Smaller components do not count.
        min_peak: Nor do those whose peak does not reach it, in the heatmap's units; -inf for all.

    Raises:
        TonnoError: A negative volume, or one of these is no number.
    """

    min_volume_mm3: float = 0.0
    min_peak: float = -math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.min_volume_mm3) and self.min_volume_mm3 >= 0):
            raise TonnoError(f"`min_volume_mm3` is {self.min_volume_mm3}, expected 0 or more")
        if math.isnan(self.min_peak) or self.min_peak == math.inf:
            raise TonnoError(f"`min_peak` is {self.min_peak}, expected a number, or none for all")

    def drop_some(self, threshold: float) -> bool:
        """Return whether there can be components that do not count.

        Args:
            threshold: That the voxels of the mask reach.

        Returns:
            False where all count, so that nobody need look for them.
        """
        return self.min_volume_mm3 > 0.0 or self.min_peak > threshold

    def counted(self, runs: Runs, heatmap: npt.NDArray[np.floating], voxel_mm3: float) -> BoolMask:
        """Find the components that count.

        Args:
            runs: Of the mask.
            heatmap: Values Z Y X, of which the peaks are.
            voxel_mm3: Volume of a voxel.

        Returns:
            By component whether it counts.
        """
        # A hair below the quotient: 8 voxels of 0.1 mm are 0.008 mm3, whatever the last bit of the product says.
        keep: BoolMask = runs.sizes >= self.min_volume_mm3 / voxel_mm3 * (1 - 1e-9)
        if runs.count and self.min_peak > -math.inf:
            high = np.flatnonzero(heatmap.ravel() >= np.asarray(self.min_peak, heatmap.dtype))
            run = np.searchsorted(runs.first, high, side="right") - 1
            within = (run >= 0) & (high <= runs.last[run])
            reached = np.zeros(runs.count, np.bool_)
            reached[runs.component[run[within]]] = True
            keep &= reached
        return keep
