"""A mask's edges moved to the image's, by random walks (L. Grady, IEEE TPAMI 28(11), 2006), through scikit-image.

A heatmap is blurred by its stage's cells, its planes' distance and its smoothing; the image is not. Voxels that are far
above or below the threshold keep their side. A voxel between these takes the side that a random walker starting there
reaches first; it shuns steps across edges of the image. It does not help on the whole (docs/notes/results.md), so no
command offers it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tonno_core.segmentation.connected import connected
from tonno_core.volume.volume import Volume

# Factors on the threshold: below the first lies background, above the second the finding.
BACKGROUND, FINDING = 0.6, 1.6
# A weak component has few voxels above the second limit, or none: its brightest three tenths stand for it, so that
# none is lost to the background around it.
_BRIGHTEST = 0.7
# scikit-image's beta, its default: how much walks shun a difference of intensities, which run over [0, 1].
_BETA = 130.0
# Voxels of background around what may be the finding.
_MARGIN = 3
# Tolerance of the walks' linear system, and how far beyond [0, 1] its probabilities may lie; sides change at one half.
_TOLERANCE, _BEYOND = 1e-3, 0.05


def refine(heatmap: Volume, threshold: float, image: Volume) -> npt.NDArray[np.bool_]:
    """Move the edges of a heatmap's mask to those of the image.

    Args:
        heatmap: Evidence of the finding.
        threshold: Above 0; 0.6 times a negative number would be no weaker evidence.
        image: The scan, on the grid of the heatmap.

    Returns:
        Mask, Z Y X. Where there is nothing to decide, or no edge in the image, it is heatmap >= threshold.

    Raises:
        ValueError: If the grids differ in size, or the threshold is not positive.
    """
    from skimage.segmentation import random_walker

    if heatmap.array.shape != image.array.shape:
        raise ValueError(f"heatmap {heatmap.array.shape} and image {image.array.shape} differ in size")
    if not threshold > 0:
        raise ValueError(f"threshold {threshold}, expected a positive number")
    mask = np.asarray(heatmap.array >= threshold)
    if not mask.any():
        return mask
    box = _box(heatmap.array >= BACKGROUND * threshold)
    seeds = _seeds(heatmap.array[box], threshold)
    intensities = image.array[box].astype(np.float64)
    contrast = np.ptp(intensities)
    if not (seeds == 1).any() or not (seeds == 0).any() or contrast == 0:
        return mask
    spacing = heatmap.spacing_mm[::-1]
    walked = random_walker(
        (intensities - intensities.min()) / contrast, seeds, beta=_BETA, mode="cg_j", tol=_TOLERANCE,
        prob_tol=_BEYOND, spacing=spacing / spacing.min(),
    )  # fmt: skip
    refined = np.zeros_like(mask)
    refined[box] = walked == 2
    return refined


def _seeds(values: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.int8]:
    """Mark background by 1, findings by 2, and by 0 where the walks decide: Z Y X."""
    seeds = np.zeros(values.shape, dtype=np.int8)
    seeds[values < BACKGROUND * threshold] = 1
    voxels, labels, count = connected(values >= threshold)
    evidence = values.reshape(-1)[voxels]
    # The voxel at that quantile of each component, in one sort.
    order, sizes = np.lexsort((evidence, labels)), np.bincount(labels, minlength=count)
    limits = evidence[order[np.cumsum(sizes) - sizes + (_BRIGHTEST * (sizes - 1)).astype(int)]]
    seeds.reshape(-1)[voxels[evidence >= np.minimum(FINDING * threshold, limits)[labels]]] = 2
    return seeds


def _box(where: npt.NDArray[np.bool_]) -> tuple[slice, ...]:
    """Find the smallest box around true voxels, and widen it by a margin."""
    kji = np.argwhere(where)
    first, last = np.maximum(kji.min(axis=0) - _MARGIN, 0), kji.max(axis=0) + _MARGIN
    return tuple(slice(int(low), int(high) + 1) for low, high in zip(first, last, strict=True))
