"""The pictures of a report, on white paper: a finding in three planes and close by, and the classifier's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[float, float, float]
Line = tuple[Point, Point]
# The name of a finding and where it is (RAS mm).
Mark = tuple[str, Point]

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


def draw_finding(path: Path, scene: Scene, centre_ras: Point, lines: Sequence[Line] = ()) -> None:
    """Draw three planes through a point, the whole image under heatmap and outline, and close-ups below.

    Args:
        path: The PNG file, which appears whole or not at all.
        scene: What is shown.
        centre_ras: Where the planes meet (RAS mm, within the image).
        lines: Diameters in the axial plane, by their ends (RAS mm).

    Raises:
        TonnoError: If the file cannot be written.
    """
    import matplotlib

    cuts = [cut_plane(plane, scene.image, centre_ras) for plane in PLANES]
    longest = max((float(np.linalg.norm(np.subtract(*line))) for line in lines), default=0.0)
    close_ups = [cut.close_up(max(_CLOSE_MM, _AROUND * longest), _CLOSE_PIXELS) for cut in cuts]
    limit = _limit(scene.heatmap)
    whole = plane_layers(scene, cuts, limit)
    near = plane_layers(replace(scene, window=whole[0].window), close_ups, limit)
    with matplotlib.rc_context(_STYLE):
        figure, (top, bottom), scale = _layout(cuts)
        for axes, cut, close_up, layers in zip(top, cuts, close_ups, whole, strict=True):
            shown = draw_plane(axes, cut.view, layers)
            axes.set_title(f"{cut.plane.name}, {cut.position()}", size=10, color=_INK, pad=4)
            _draw_frame(axes, close_up)
        for axes, close_up, layers in zip(bottom, close_ups, near, strict=True):
            draw_plane(axes, close_up.view, replace(layers, heatmap=None))
        draw_scale(scale, shown, scene.threshold, extend="neither")
        for line in lines:
            ends = np.array([PLANES[0].uv(point) for point in line])
            bottom[0].plot(*ends.T, color=_LINE, linewidth=1.6, marker="o", markersize=3)
        scale.set_title("heatmap", size=9, color=_INK, pad=8)
        scale.tick_params(labelsize=8, colors=_QUIET)
        save_figure(figure, path)


def draw_profiles(path: Path, profiles: Sequence[Profile], marks: Sequence[Mark] = ()) -> None:
    """Draw the classifier's answers to planes along the patient's axes, with the places of the findings.

    Args:
        path: The PNG file, which appears whole or not at all.
        profiles: One profile for each picture of the row.
        marks: The findings.

    Raises:
        TonnoError: If the file cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 2.6), layout="constrained")
        row = figure.subplots(1, len(profiles), sharey=True, squeeze=False)[0]
        for axes, profile in zip(row, profiles, strict=True):
            _draw_profile(axes, profile, marks)
        row[0].set_ylabel("logit")
        save_figure(figure, path)


def _draw_profile(axes: Axes, profile: Profile, marks: Sequence[Mark]) -> None:
    draw_profile(axes, profile, _PLOT)
    for level, name, position in _levels(profile, marks):
        axes.axvline(position, color=_MARK, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.annotate(
            name, (position, 1), (0, 3 + 10 * level), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", size=9, color=_MARK,
        )  # fmt: skip


def _levels(profile: Profile, marks: Sequence[Mark]) -> list[tuple[int, str, float]]:
    """Stack the marks' names where they would overlap; returns level, name and position along the profile."""
    room = 0.04 * float(np.ptp(profile.offsets_mm))
    taken: list[float] = []  # up to where, by level
    levels = []
    for position, name in sorted((point["RAS".index(profile.axis)], name) for name, point in marks):
        level = next((n for n, end in enumerate(taken) if position - end > room), len(taken))
        taken[level : level + 1] = [position]
        levels.append((level, name, position))
    return levels


def _layout(cuts: Sequence[Cut]) -> tuple[Figure, list[list[Axes]], Axes]:
    """Place three columns at one scale where the shapes allow it, square close-ups below, and the scale's axes."""
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
    """Return the value with the full colour: the highest, where one is above zero."""
    highest = float(heatmap.array.max())
    return highest if highest > 0 else float(np.abs(heatmap.array).max()) or 1.0


def _draw_frame(axes: Axes, close: Cut) -> None:
    """Show where the close-up is."""
    left, right, bottom, top = close.view.extent
    axes.plot((left, right, right, left, left), (bottom, bottom, top, top, bottom), color="white", linewidth=0.7)
