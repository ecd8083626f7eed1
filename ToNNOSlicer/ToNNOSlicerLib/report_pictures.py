"""The pictures of a report, on white paper: a finding in three planes and close by, and the classifier's answers.

For the process that writes slow files (slow_files.py): neither Qt nor MRML, but matplotlib and SciPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tonno_core.pictures.cuts import PLANES, Cut, cut_plane
from tonno_core.pictures.drawing import (
    FONT,
    Scene,
    column_sizes,
    draw_plane,
    draw_profile,
    draw_scale,
    plane_layers,
    save_figure,
)
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume

Point = Sequence[float]
Line = tuple[Point, Point]

_STYLE = {
    **FONT,
    "font.size": 10,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_INK, _QUIET, _LINE, _PLOT = "#1b1f24", "#59626d", "#ffd54a", "#1f5fa8"
_MARK = "#8a4a12"
_WIDTH, _GAP, _BAR, _TITLE = 11.0, 0.12, 0.95, 0.3  # inches
_TALLEST = 4.5  # of the planes through the whole volume
_CLOSE_MM, _AROUND = 40.0, 3.0  # side of the close-ups: at least so long, and so many times the longest diameter
_CLOSE_PIXELS = 240


def drawFinding(
    path: Path,
    image: Volume,
    heatmap: Volume,
    mask: np.ndarray,
    centerRAS: Point,
    lines: Sequence[Line] = (),
    threshold: float | None = None,
    window: tuple[float, float] | None = None,
) -> None:
    """Draw three planes through a point: the whole image under heatmap and outline, and close-ups below.

    Args:
        image, heatmap: In the world; their grids may differ.
        mask: Z Y X on the heatmap's grid.
        centerRAS: Where the planes meet (RAS mm, within the image).
        lines: Diameters in the axial plane, by their ends in RAS mm.
        threshold: To be marked on the scale.
        window: The image's values that are black and white; by default nearly all that there are.

    Raises:
        TonnoError: Where the file cannot be written.
    """
    import matplotlib

    scene = Scene(image, heatmap, mask, threshold, window)
    cuts = [cut_plane(plane, image, centerRAS) for plane in PLANES]
    longest = max((float(np.linalg.norm(np.subtract(*line))) for line in lines), default=0.0)
    closeUps = [cut.close_up(max(_CLOSE_MM, _AROUND * longest), _CLOSE_PIXELS) for cut in cuts]
    limit = _limit(scene.heatmap)
    whole = plane_layers(scene, cuts, limit)
    near = plane_layers(replace(scene, window=whole[0].window), closeUps, limit)
    with matplotlib.rc_context(_STYLE):
        figure, (top, bottom), bar = _layout(cuts)
        for axes, cut, closeUp, layers in zip(top, cuts, closeUps, whole, strict=True):
            shown = draw_plane(axes, cut.view, layers)
            axes.set_title(f"{cut.plane.name}, {cut.position()}", size=10, color=_INK, pad=4)
            _drawFrame(axes, closeUp)
        for axes, closeUp, layers in zip(bottom, closeUps, near, strict=True):
            draw_plane(axes, closeUp.view, replace(layers, heatmap=None))
        draw_scale(bar, shown, scene.threshold, extend="neither")
        for line in lines:
            ends = np.array([PLANES[0].uv(point) for point in line])
            bottom[0].plot(*ends.T, color=_LINE, linewidth=1.6, marker="o", markersize=3)
        bar.set_title("heatmap", size=9, color=_INK, pad=8)
        bar.tick_params(labelsize=8, colors=_QUIET)
        save_figure(figure, Path(path))


def drawProfiles(path: Path, profiles: Sequence[Profile], marks: Sequence[tuple[str, Point]] = ()) -> None:
    """Draw the classifier's answers to planes along the patient's axes, with the places of the findings.

    Args:
        marks: Names of findings, and where they are (RAS mm).

    Raises:
        TonnoError: Where the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        row = figure.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
        for axes, profile in zip(row, profiles, strict=True):
            _drawProfile(axes, profile, marks)
        row[0].set_ylabel("logit")
        save_figure(figure, Path(path))


def _drawProfile(axes: Any, profile: Profile, marks: Sequence[tuple[str, Point]]) -> None:
    draw_profile(axes, profile, _PLOT)
    above = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "ha": "center"}
    for level, name, position in _levels(profile, marks):
        axes.axvline(position, color=_MARK, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.annotate(name, (position, 1), (0, 3 + 10 * level), size=9, color=_MARK, **above)


def _levels(profile: Profile, marks: Sequence[tuple[str, Point]]) -> list[tuple[int, str, float]]:
    """The marks' positions along a profile, and how high each name stands so that none lies over another."""
    room = 0.04 * float(np.ptp(profile.offsets_mm))
    taken: list[float] = []  # up to where, by level
    levels = []
    for position, name in sorted((point["RAS".index(profile.axis)], name) for name, point in marks):
        level = next((n for n, end in enumerate(taken) if position - end > room), len(taken))
        taken[level : level + 1] = [position]
        levels.append((level, name, position))
    return levels


def _layout(cuts: Sequence[Cut]) -> tuple[Any, list[list[Any]], Any]:
    """Place three columns, the close-ups as squares below, and the scale's axes; all lengths are inches."""
    from matplotlib.figure import Figure

    widths, tall = column_sizes(cuts, _WIDTH - _BAR - 2 * _GAP, _TALLEST)
    side = min(widths.min(), 2.6)
    height = _TITLE + tall + 2 * _GAP + side
    figure = Figure(figsize=(_WIDTH, height))
    inches = np.array((_WIDTH, height, _WIDTH, height))
    lefts = np.cumsum(widths + _GAP) - widths - _GAP
    rows = [
        [figure.add_axes(np.array(box) / inches, anchor="N") for box in boxes]
        for boxes in (
            [(x, side + 2 * _GAP, w, tall) for x, w in zip(lefts, widths, strict=True)],
            [(x + (w - side) / 2, 0, side, side) for x, w in zip(lefts, widths, strict=True)],
        )
    ]
    bar = figure.add_axes(np.array((_WIDTH - 0.62, side + 2 * _GAP + 0.1 * tall, 0.14, 0.8 * tall)) / inches)
    return figure, rows, bar


def _limit(heatmap: Volume) -> float:
    """Return the value with the full color: the highest, where one is above zero."""
    highest = float(heatmap.array.max())
    return highest if highest > 0 else float(np.abs(heatmap.array).max()) or 1.0


def _drawFrame(axes: Any, close: Cut) -> None:
    """Show where the close-up is."""
    left, right, bottom, top = close.view.extent
    axes.plot((left, right, right, left, left), (bottom, bottom, top, top, bottom), color="white", linewidth=0.7)
