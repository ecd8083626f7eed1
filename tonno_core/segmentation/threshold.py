"""The threshold of a heatmap: given, the model's own, or Otsu's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.calibration import ModelThreshold
from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import otsu_threshold
from tonno_core.volume.volume import Volume


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
