"""How well what a heatmap marks agrees with evidence that had no part in it; of labels it takes but those of positives.

A heatmap of one half of the directions is cut at a threshold, and the mask is correlated with ToNNO's unsmoothed
heatmap of the other half. Noise of the halves is independent, so it adds nothing. A mask that is too wide takes in
voxels without evidence, one that is too narrow leaves some out: either lowers the correlation. So it tells where, while
the peak, which is also that of a blurred heatmap, tells whether (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

# Masks of a volume are as many, from a single voxel to this share of the foreground, each larger by the same factor.
MASKS, LARGEST = 48, 0.5
# Voxels of a volume that are looked at, at most: every so many of larger ones, whose heatmaps are smooth.
VOXELS = 1 << 17


@dataclass(frozen=True)
class Agreement:
    """One volume's agreement by threshold.

    Attributes:
        levels: Thresholds, falling.
        correlations: Of the mask of as many voxels as reach each of them, -1 to 1.
    """

    levels: npt.NDArray[np.float64]
    correlations: npt.NDArray[np.float64]

    @classmethod
    def of_numbers(cls, numbers: Sequence[float]) -> Agreement:
        """Read what `measure_agreement` measured.

        Args:
            numbers: Levels, then correlations.

        Returns:
            The agreement.
        """
        levels, correlations = np.array(numbers, dtype=np.float64).reshape(2, -1)
        return cls(levels, correlations)

    def at(self, thresholds: float | Sequence[float] | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Interpolate between the levels.

        Args:
            thresholds: Any.

        Returns:
            A correlation for each; 0 above the highest value, where nothing is marked.
        """
        asked = np.asarray(thresholds, dtype=np.float64)
        found = np.interp(asked, self.levels[::-1], self.correlations[::-1])
        return np.where(asked > self.levels[0], 0.0, found)


def best_threshold(agreements: Sequence[Agreement]) -> float:
    """Find the threshold at which the mean agreement of some volumes is highest.

    Args:
        agreements: Of one variant, one for each volume.

    Returns:
        One of the volumes' levels, the highest of equally good ones.
    """
    levels = np.unique(np.concatenate([each.levels for each in agreements]))
    means = np.mean([each.at(levels) for each in agreements], axis=0)
    return float(levels[len(levels) - 1 - int(np.argmax(means[::-1]))])


def mask_counts(voxels: int) -> npt.NDArray[np.int64]:
    """Return how many voxels the masks of a volume have.

    Args:
        voxels: In its foreground.

    Returns:
        `MASKS` of them, rising; small ones repeat.
    """
    return np.geomspace(1, max(1.0, LARGEST * voxels), MASKS).round().astype(np.int64)


def measure_agreement(whole: torch.Tensor, halves: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """Measure a volume's agreement: of each half's masks with the other half's evidence, the mean of both.

    The correlation of a mask M of m of n voxels with evidence of mean 0 and standard deviation 1 is the sum over M
    divided by sqrt(m (n - m)).

    Args:
        whole: ``n`` values of a heatmap by all directions, which are the thresholds.
        halves: ``2 n`` by either half of them.
        evidence: ``2 n``, of the same halves.

    Returns:
        `MASKS` levels, then as many correlations, 0 where the evidence is constant.
    """
    step = -(-len(whole) // VOXELS)
    whole, halves, evidence = whole[::step], halves[:, ::step], evidence[:, ::step]
    counts = torch.as_tensor(mask_counts(len(whole)), device=whole.device)
    most = int(counts[-1])
    marked = halves.topk(most, dim=1).indices
    deviations = evidence - evidence.mean(dim=1, keepdim=True)
    spread = deviations.square().mean(dim=1, keepdim=True).sqrt()
    others = torch.where(spread > 0, deviations / spread, 0.0).flip(0)
    sums = others.gather(1, marked).cumsum(1, dtype=torch.float64)[:, counts - 1]
    sizes = counts * (len(whole) - counts)
    correlations = (sums / sizes.clamp(min=1).sqrt()).mean(dim=0)
    return torch.cat([whole.topk(most).values[counts - 1], correlations.to(whole.dtype)])
