"""The threshold of a heatmap: given, the model's own, or Otsu's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import Component, Mask, binarize, components, otsu_threshold
from tonno_core.volume.volume import Volume

# A mask of more than this share of what the planes cover is no finding.
MOST = 0.5


@dataclass(frozen=True)
class Segmentation:
    """A binarized heatmap.

    Attributes:
        threshold: From which on a voxel is in it.
        source: How the threshold was found.
        mask: Uint8 Z Y X.
        components: Its pieces, highest peak first.
        warning: Why it is hardly one of a finding; None where nothing speaks against it.
    """

    threshold: float
    source: str
    mask: Mask
    components: list[Component]
    warning: str | None = None


def parse_threshold(text: str) -> float | None:
    """Read a threshold.

    Args:
        text: ``auto``, ``otsu`` or a number.

    Returns:
        The number, None for the words.

    Raises:
        TonnoError: It is none of these.
    """
    if text in ("auto", "otsu"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise TonnoError(f"`threshold` '{text}': expected auto, otsu or a number") from None
    if not np.isfinite(value):
        raise TonnoError(f"`threshold` {text}: expected auto, otsu or a finite number")
    return value


def find_threshold(
    heatmap: Volume, inside: npt.NDArray[np.bool_], text: str, known: ModelThreshold | None
) -> tuple[float, str]:
    """Find a heatmap's threshold.

    Args:
        heatmap: On any grid.
        inside: Bool Z Y X, where Otsu looks.
        text: ``auto``, ``otsu`` or a number.
        known: The model's for this heatmap, None where it has none.

    Returns:
        The threshold, and how it was found.
    """
    value = parse_threshold(text)
    if value is not None:
        return value, "given"
    if text == "auto" and known is not None:
        return known.value, known.origin
    shown = heatmap.array[inside]
    if shown.min() == shown.max():  # nothing to split must not cost the other methods their results
        return float(np.nextafter(shown.max(), np.float32(np.inf))), "none: the heatmap is constant"
    source = "otsu" if text == "otsu" else "otsu, as the model brings none for this method"
    return otsu_threshold(heatmap, inside), source


def segment(
    name: str,
    heatmap: Volume,
    inside: npt.NDArray[np.bool_],
    known: ModelThreshold | None,
    *,
    threshold: str = "auto",
    min_volume_mm3: float = 0.0,
) -> Segmentation:
    """Binarize a heatmap of a classifier.

    Args:
        name: Of the heatmap, for the warning.
        heatmap: On any grid.
        inside: Bool Z Y X, what the planes cover.
        known: The model's threshold for it, None where it has none.
        threshold: ``auto`` for the model's own, Otsu's where it has none; ``otsu``; or a number.
        min_volume_mm3: Smallest component that is kept.

    Returns:
        The segmentation.

    Raises:
        TonnoError: The heatmap cannot be split by Otsu's method, or the threshold is none.
    """
    value, source = find_threshold(heatmap, inside, threshold, known)
    mask = binarize(heatmap, value, min_volume_mm3=min_volume_mm3)
    return Segmentation(value, source, mask, components(mask, heatmap), threshold_warning(name, mask, inside, value))


def threshold_warning(
    name: str, mask: npt.NDArray[np.generic], inside: npt.NDArray[np.bool_], threshold: float
) -> str | None:
    """Say that a segmentation of a classifier's heatmap is hardly one of a finding.

    Args:
        name: Of the heatmap.
        mask: Z Y X, not zero is inside.
        inside: Bool Z Y X, what the planes cover.
        threshold: Of the mask.

    Returns:
        A sentence with what to do; None where the mask is empty, or the threshold above 0 and the mask no more than
        `MOST` of that.
    """
    share = int(np.count_nonzero(mask)) / max(1, int(np.count_nonzero(inside)))
    if not share or (threshold > 0 and share <= MOST):
        return None
    found = f"the threshold {threshold:.4g} is not above 0" if threshold <= 0 else "the threshold is too low"
    return (
        f"{name}: {found}, and {100 * share:.0f} % of what was looked at is segmented: that is no finding. Look at the "
        "heatmap; give `threshold` a number that only its peaks reach, or let `tonno calibrate` find one for the model"
    )
