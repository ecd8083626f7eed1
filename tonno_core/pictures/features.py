"""A picture of features: three planes of the image, and below them its first principal components as colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tonno_core.pictures.cuts import PLANES, Cut, Float, cut_plane, sample
from tonno_core.pictures.drawing import QUIET, STYLE, PlaneLayers, column_sizes, draw_plane, grey_window, save_figure
from tonno_core.volume.intensity import without_padding
from tonno_core.volume.volume import FloatArray, Matrix, Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH, _TALLEST, _TITLE, _GAP = 12.0, 5.0, 0.95, 0.15
_LETTERS = 11.0
# Quantiles of a component over the foreground that are shown as no colour and as full colour.
_DARK, _BRIGHT = 1.0, 99.0


def write_colors(
    path: Path,
    image: Volume,
    components: Sequence[FloatArray],
    foreground: npt.NDArray[np.bool_],
    ijk_to_ras: Matrix,
    *,
    title: str,
    subtitle: str,
) -> None:
    """Write a PNG of three principal components as red, green and blue.

    Args:
        path: The file; it appears whole or not at all.
        image: The scan.
        components: Three, ``Z Y X`` on nodes.
        foreground: Nodes that are shown, bool ``Z Y X``; the planes meet in their middle.
        ijk_to_ras: 4 x 4, of the nodes.
        title: The heading.
        subtitle: A line below it.

    Raises:
        TonnoError: The file cannot be written.
    """
    import matplotlib

    centre = ijk_to_ras[:3, :3] @ np.argwhere(foreground).mean(axis=0)[::-1] + ijk_to_ras[:3, 3]
    cuts = [cut_plane(plane, image, centre) for plane in PLANES]
    with matplotlib.rc_context(STYLE):
        figure, rows = _layout(cuts)
        figure.text(0.5, 1 - 0.3 / figure.get_figheight(), title, ha="center", va="center", size=15)
        below = 1 - 0.62 / figure.get_figheight()
        figure.text(0.5, below, subtitle, ha="center", va="center", size=10, color=QUIET)
        images = [sample(without_padding(image.array), image.ijk_to_ras, cut.points_ras) for cut in cuts]
        window = grey_window(images)
        for axes, cut, pixels in zip(rows[0], cuts, images, strict=True):
            draw_plane(axes, cut.view, PlaneLayers(pixels, window), size=_LETTERS)
        scaled = [_scaled(component, foreground) for component in components]
        for axes, cut in zip(rows[1], cuts, strict=True):
            _draw_colors(axes, cut, scaled, foreground, ijk_to_ras)
        save_figure(figure, path)


def _scaled(component: FloatArray, foreground: npt.NDArray[np.bool_]) -> FloatArray:
    """Bring nearly all of a component's foreground to [0, 1]."""
    low, high = np.percentile(component[foreground], (_DARK, _BRIGHT))
    return np.asarray((component - low) / max(float(high - low), 1e-30), dtype=np.float32)


def _draw_colors(
    axes: Axes, cut: Cut, scaled: Sequence[FloatArray], foreground: npt.NDArray[np.bool_], ijk_to_ras: Matrix
) -> None:
    """Draw the colours of a plane; black outside of the foreground."""
    points = cut.points_ras
    shown = np.nan_to_num(sample(foreground.astype(np.float32), ijk_to_ras, points)) >= 0.5
    colors: Float = np.stack([np.nan_to_num(sample(each, ijk_to_ras, points)) for each in scaled], axis=-1)
    axes.set(facecolor="black", xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    axes.imshow(np.clip(colors, 0, 1) * shown[..., None], extent=cut.view.extent, origin="lower")


def _layout(cuts: Sequence[Cut]) -> tuple[Figure, list[list[Axes]]]:
    """Place two rows of three planes; all lengths are inches."""
    from matplotlib.figure import Figure

    widths, tall = column_sizes(cuts, _WIDTH - 4 * _GAP, _TALLEST)
    height = _TITLE + 2 * tall + 2 * _GAP
    figure = Figure(figsize=(_WIDTH, height))
    size = np.array((_WIDTH, height, _WIDTH, height))
    lefts = _GAP + np.cumsum(widths + _GAP) - widths - _GAP
    bottoms = (tall + 2 * _GAP, _GAP)
    return figure, [
        [figure.add_axes(np.array((x, bottom, w, tall)) / size) for x, w in zip(lefts, widths, strict=True)]
        for bottom in bottoms
    ]
