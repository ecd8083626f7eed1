"""Find what in the headers alone tells the labels apart: a classifier would learn the scanner before the disease."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from tonno_core.segmentation.metrics import auc

# Strong enough to spoil a training, and hardly by chance among all quantities (Bonferroni).
SHORTCUT_AUC = 0.75
SHORTCUT_P = 0.01


def find_shortcuts(measured: Mapping[str, Sequence[float]], labels: Sequence[int]) -> Iterator[tuple[str, float]]:
    """Find quantities that predict the labels.

    A quantity does if its AUC is at least `SHORTCUT_AUC` and the two-sided test of Mann and Whitney says
    p < `SHORTCUT_P` / number of quantities. The AUC is taken in the direction that predicts: it is above 0.5.

    Args:
        measured: By name of a quantity, a number for each volume.
        labels: A label for each volume, 0 or 1.

    Yields:
        Name and AUC of a quantity that predicts them.
    """
    from scipy.stats import mannwhitneyu

    label = np.asarray(labels)
    if not 0 < label.sum() < label.size:
        return
    for name, numbers in measured.items():
        values: npt.NDArray[np.float64] = np.asarray(numbers, dtype=np.float64).round(4)  # headers are rounded too
        area = auc(values, label)
        area = max(area, 1.0 - area)
        if area >= SHORTCUT_AUC and mannwhitneyu(values[label == 1], values[label == 0]).pvalue < SHORTCUT_P / len(
            measured
        ):
            yield name, area
