"""The threshold of a heatmap: given, the model's own, or Otsu's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import Component, Mask, binarize, components, otsu_threshold
from tonno_core.segmentation.parts import Parts
from tonno_core.volume.volume import Volume

# How the threshold of a regressor's heatmap was found where nobody gave one.
NO_FINDINGS = "none: a regressor tells how much, not what is a finding"
# A mask of more than this share of what the planes cover is no finding.
MOST = 0.5
# How the threshold of a heatmap that shows nothing is found.
_CONSTANT = "none: the heatmap is constant"


@dataclass(frozen=True)
class Segmentation:
    """A binarized heatmap.

    Attributes:
        threshold: From which on a voxel is in it.
        source: How the threshold was found.
        mask: Uint8 Z Y X.
        components: Its pieces, highest peak first.
        warning: Why it is hardly one of a finding; None where nothing speaks against it.
        min_volume_mm3: Smallest component that was kept.
        min_peak: What the highest value of those that were kept reaches; -inf for all.
    """

    threshold: float
    source: str
    mask: Mask
    components: list[Component]
    warning: str | None = None
    min_volume_mm3: float = 0.0
    min_peak: float = -math.inf


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
    shown = heatmap.array[inside]
    if text == "auto" and known is not None:
        return known.within(float(shown.max(initial=-np.inf))).value, known.origin
    if shown.min() == shown.max():  # nothing to split must not cost the other methods their results
        return float(np.nextafter(shown.max(), np.float32(np.inf))), _CONSTANT
    source = "otsu" if text == "otsu" else "otsu, as the model brings none for this method"
    return otsu_threshold(heatmap, inside), source


def parse_peak(text: str) -> float:
    """Read what the highest value of a component must reach.

    Args:
        text: A number, or ``none``.

    Returns:
        The number, -inf for none.

    Raises:
        TonnoError: It is neither.
    """
    if text == "none":
        return -math.inf
    try:
        return Parts(min_peak=float(text)).min_peak
    except (ValueError, TonnoError):
        raise TonnoError(f"`min_peak` '{text}': expected a number, or none for all components") from None


class _Known(Protocol):
    """What a model says of components, as `ModelThreshold` has it."""

    @property
    def min_volume_mm3(self) -> float: ...
    @property
    def min_peak(self) -> float | None: ...


def parts_of(known: _Known | None, min_volume_mm3: float | None = None, min_peak: float | None = None) -> Parts:
    """Return which components count.

    Args:
        known: What the model says of components beside its threshold for the heatmap; None where it has none.
        min_volume_mm3: What is asked for; None for the model's own, or 0.
        min_peak: Likewise; None for the model's own, or -inf.

    Returns:
        The components that count.

    Raises:
        TonnoError: Something else is asked for than a number, or a negative volume.
    """
    if min_volume_mm3 is None:
        min_volume_mm3 = 0.0 if known is None else known.min_volume_mm3
    if min_peak is None:
        min_peak = None if known is None else known.min_peak
    return Parts(min_volume_mm3, -math.inf if min_peak is None else min_peak)


def segment(
    name: str,
    heatmap: Volume,
    inside: npt.NDArray[np.bool_],
    known: ModelThreshold | None,
    *,
    threshold: str = "auto",
    parts: Parts | None = None,
    odds: bool = False,
) -> Segmentation:
    """Binarize a heatmap.

    Args:
        name: Of the heatmap, for the warning.
        heatmap: On any grid.
        inside: Bool Z Y X, what the planes cover.
        known: The model's threshold for it, None where it has none.
        threshold: ``auto`` for the model's own, Otsu's where it has none; ``otsu``; or a number.
        parts: Which components are kept, from `parts_of`; None for the model's own.
        odds: Whether it is a segmenter's, whose logits also below 0 mean something.

    Returns:
        The segmentation.

    Raises:
        TonnoError: The heatmap cannot be split by Otsu's method, or the threshold is none.
    """
    value, source = find_threshold(heatmap, inside, threshold, known)
    parts = parts or parts_of(known)
    mask = binarize(heatmap, value, min_volume_mm3=parts.min_volume_mm3, min_peak=parts.min_peak)
    warning = threshold_warning(name, mask, inside, value, odds=odds)
    # The model's own size was measured at its own threshold, where an empty mask is an answer.
    if threshold != "auto" and known is not None and parts.min_volume_mm3 == known.min_volume_mm3:
        warning = warning or _dropped_for_size(name, heatmap, value, mask, parts)
    if source == _CONSTANT:
        warning = (
            f"{name}: the heatmap is constant, so nothing is found in it. ScoreCAM's is, where no part of a slice "
            "raises the logit above that of an empty one; choose another `cam`, or another `method`"
        )
    return Segmentation(value, source, mask, components(mask, heatmap), warning, parts.min_volume_mm3, parts.min_peak)


def _dropped_for_size(name: str, heatmap: Volume, threshold: float, mask: Mask, parts: Parts) -> str | None:
    """Say that nothing is left because the model's own size dropped all that reaches another threshold."""
    if mask.any() or not binarize(heatmap, threshold, min_peak=parts.min_peak).any():
        return None
    return (
        f"{name}: what reaches the threshold {threshold:.4g} was dropped, because each part of it is smaller than the "
        f"model's {parts.min_volume_mm3:g} mm3, measured at its own threshold; `min_volume_mm3` 0 keeps all parts"
    )


def unsegmented(heatmap: Volume) -> Segmentation:
    """Return the empty segmentation of a heatmap whose values say nothing of findings.

    Args:
        heatmap: On any grid.

    Returns:
        Its threshold lies just above the highest value.
    """
    above = float(np.nextafter(heatmap.array.max(), np.float32(np.inf)))
    return Segmentation(above, NO_FINDINGS, np.zeros(heatmap.array.shape, np.uint8), [])


def threshold_warning(
    name: str,
    mask: npt.NDArray[np.generic],
    inside: npt.NDArray[np.bool_],
    threshold: float,
    *,
    odds: bool = False,
) -> str | None:
    """Say that a segmentation of a heatmap is hardly one of a finding.

    Args:
        name: Of the heatmap.
        mask: Z Y X, not zero is inside.
        inside: Bool Z Y X, what the planes cover.
        threshold: Of the mask.
        odds: Whether it is a segmenter's, whose logits also below 0 mean something.

    Returns:
        A sentence with what to do; None where the mask is empty, or the threshold above 0 (or any, of ``odds``) and
        the mask no more than `MOST` of that.
    """
    share = int(np.count_nonzero(mask)) / max(1, int(np.count_nonzero(inside)))
    if not share or ((threshold > 0 or odds) and share <= MOST):
        return None
    if odds:
        return (
            f"{name}: the threshold is too low, and {100 * share:.0f} % of the volume is segmented: that is no "
            "finding. Is it the kind of image that the model was trained on? Look at the heatmap; give `threshold` a "
            "higher number"
        )
    found = f"the threshold {threshold:.4g} is not above 0" if threshold <= 0 else "the threshold is too low"
    return (
        f"{name}: {found}, and {100 * share:.0f} % of what was looked at is segmented: that is no finding. Look at the "
        "heatmap; give `threshold` a number that only its peaks reach, or let `tonno calibrate` find one for the model"
    )
