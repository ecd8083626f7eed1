"""The pictures of a report, on white paper: a finding in three planes and close by, and the classifier's answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonno_core.pictures.cuts import OPPOSITE, PLANES, Cut, Float, cut_plane, sample
from tonno_core.pictures.drawing import CONTOURS, cold_hot, finite, outlined, save_figure
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Point = tuple[float, float, float]
Line = tuple[Point, Point]
# The name of a finding and where it is (RAS mm).
Mark = tuple[str, Point]

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 10,
    "text.usetex": False,
    "text.parse_math": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}
_INK, _QUIET, _LINE, _PLOT = "#1b1f24", "#59626d", "#ffd54a", "#1f5fa8"
_MARK = "#8a4a12"
_WIDTH, _GAP, _BAR, _TITLE = 11.0, 0.12, 0.95, 0.3  # inches
_TALLEST = 4.5  # of the planes through the whole volume
_CLOSE_MM, _AROUND = 40.0, 3.0  # side of the close-ups: at least so long, and so many times the longest diameter
_CLOSE_PIXELS = 240


@dataclass(frozen=True)
class Scene:
    """What the pictures of findings show.

    Attributes:
        image: The image in the world. Its grid may differ from the heatmap's.
        heatmap: The heatmap in the world.
        mask: The segment on the heatmap's grid, Z Y X.
        threshold: The threshold to mark on the color scale; None leaves it out.
        window: The image's values shown as black and as white; None takes nearly the whole range.
    """

    image: Volume
    heatmap: Volume
    mask: npt.NDArray[np.uint8]
    threshold: float | None = None
    window: tuple[float, float] | None = None


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

    image = scene.image
    cuts = [cut_plane(plane, image, centre_ras) for plane in PLANES]
    longest = max((float(np.linalg.norm(np.subtract(*line))) for line in lines), default=0.0)
    close = [_close_up(cut, max(_CLOSE_MM, _AROUND * longest)) for cut in cuts]
    shown = [sample(image.array, image.ijk_to_ras, cut.points_ras) for cut in cuts]
    # Half a percent on either side: a few bright vessels or an implant must not darken the rest.
    values = finite(shown)
    black, white = scene.window or (np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0))
    gray = {"cmap": "gray", "vmin": black, "vmax": white}
    with matplotlib.rc_context(_STYLE):
        figure, (top, bottom), bar = _layout(cuts)
        for axes, cut, frame, pixels in zip(top, cuts, close, shown, strict=True):
            _show(axes, cut, pixels, **gray)
            colours = _draw_heatmap(axes, cut, scene.heatmap)
            _draw_outline(axes, cut, scene)
            _draw_frame(axes, frame)
            _draw_labels(axes, cut, _title(cut))
        for axes, cut in zip(bottom, close, strict=True):
            _show(axes, cut, sample(image.array, image.ijk_to_ras, cut.points_ras), **gray)
            _draw_outline(axes, cut, scene)
            _draw_labels(axes, cut, "")
        for line in lines:
            ends = np.array([_uv(close[0], point) for point in line])
            bottom[0].plot(*ends.T, color=_LINE, linewidth=1.6, marker="o", markersize=3)
        _draw_scale(figure, bar, colours, scene.threshold)
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
    plane = next(plane for plane in PLANES if plane.normal == profile.axis)
    axes.axhline(0.0, color="#c4c9d0", linewidth=0.8)
    axes.plot(profile.offsets_mm, profile.logits, color=_PLOT, linewidth=1.5)
    for level, name, position in _levels(profile, marks):
        axes.axvline(position, color=_MARK, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.annotate(
            name, (position, 1), (0, 3 + 10 * level), xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="center", size=9, color=_MARK,
        )  # fmt: skip
    axes.margins(x=0.0, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    where = f"{plane.name.lower()} plane at (mm)"
    axes.set_xlabel(f"{OPPOSITE[profile.axis]} \u2190 {where} \u2192 {profile.axis}")


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

    spans = np.array([cut.pixel_mm * cut.u.size for cut in cuts])
    shares = np.maximum(spans / spans.sum(), 0.24)
    room = _WIDTH - _BAR - 2 * _GAP
    widths = room * shares / shares.sum()
    tall = min(_TALLEST, max(w * c.v.size / c.u.size for w, c in zip(widths, cuts, strict=True)))
    side = min(widths.min(), 2.6)
    height = _TITLE + tall + 2 * _GAP + side
    figure = Figure(figsize=(_WIDTH, height))
    inches = np.array((_WIDTH, height, _WIDTH, height))
    lefts = np.cumsum(widths + _GAP) - widths - _GAP
    rows = [
        [figure.add_axes(np.array(box) / inches) for box in boxes]
        for boxes in (
            [(x, side + 2 * _GAP, w, tall) for x, w in zip(lefts, widths, strict=True)],
            [(x + (w - side) / 2, 0, side, side) for x, w in zip(lefts, widths, strict=True)],
        )
    ]
    bar = figure.add_axes(np.array((_WIDTH - 0.62, side + 2 * _GAP + 0.1 * tall, 0.14, 0.8 * tall)) / inches)
    return figure, rows, bar


def _close_up(cut: Cut, side: float) -> Cut:
    """Return the same plane in a square of `side` mm around its center; beyond the volume it is empty."""
    pixel = side / _CLOSE_PIXELS
    offsets = pixel * (np.arange(_CLOSE_PIXELS, dtype=np.float64) - (_CLOSE_PIXELS - 1) / 2)
    u, v = (offsets + center for center in cut.centre_uv)
    # The points of the whole plane are linear in u and v.
    origin = cut.points_ras[0, 0]
    right = (cut.points_ras[0, -1] - origin) / (cut.u[-1] - cut.u[0])
    up = (cut.points_ras[-1, 0] - origin) / (cut.v[-1] - cut.v[0])
    points = origin + (u - cut.u[0])[:, np.newaxis] * right + (v - cut.v[0])[:, np.newaxis, np.newaxis] * up
    return replace(cut, pixel_mm=pixel, u=u, v=v, points_ras=points)


def _show(axes: Axes, cut: Cut, pixels: Float, **options: Any) -> AxesImage:
    axes.set(facecolor="black", xticks=(), yticks=(), anchor="N")
    axes.spines[:].set_visible(False)
    return axes.imshow(pixels, extent=cut.extent, origin="lower", interpolation="bilinear", **options)


def _draw_heatmap(axes: Axes, cut: Cut, heatmap: Volume) -> AxesImage:
    limit = float(heatmap.array.max())
    if limit <= 0:
        limit = float(np.abs(heatmap.array).max()) or 1.0
    pixels = sample(heatmap.array, heatmap.ijk_to_ras, cut.points_ras)
    return _show(axes, cut, pixels, cmap=cold_hot(), vmin=-limit, vmax=limit)


def _draw_outline(axes: Axes, cut: Cut, scene: Scene) -> None:
    pixels = np.nan_to_num(sample(scene.mask.astype(np.uint8), scene.heatmap.ijk_to_ras, cut.points_ras))
    if pixels.min() < 0.5 < pixels.max():
        axes.contour(cut.u, cut.v, pixels, levels=[0.5], colors=CONTOURS[0][0], linewidths=1.3)


def _draw_frame(axes: Axes, close: Cut) -> None:
    """Show where the close-up is."""
    left, right, bottom, top = close.extent
    axes.plot((left, right, right, left, left), (bottom, bottom, top, top, bottom), color="white", linewidth=0.7)


def _draw_labels(axes: Axes, cut: Cut, title: str) -> None:
    """Write the letters of the patient's sides, a scale bar, and a title above; the view is that of the cut."""
    left, right, bottom, top = cut.extent
    plane = cut.plane
    for letter, edge, inwards in (
        (OPPOSITE[plane.right], (0, 0.5), (8, 0)), (plane.right, (1, 0.5), (-8, 0)),
        (OPPOSITE[plane.top], (0.5, 0), (0, 9)), (plane.top, (0.5, 1), (0, -9)),
    ):  # fmt: skip
        options = {"xycoords": "axes fraction", "ha": "center", "size": 10, "weight": "bold"}
        outlined(axes, letter, edge, inwards, color="white", **options)
    length = max((mm for mm in (2, 5, 10, 20, 50, 100) if 3 * mm < right - left), default=1)
    x, y = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
    for colour, width in (("black", 4.2), ("white", 2.2)):  # to be seen on both
        axes.plot((x, x + length), (y, y), color=colour, linewidth=width, solid_capstyle="butt")
    outlined(axes, f"{length} mm", (x, y), (0, 8), color="white", ha="left", size=8)
    axes.set(xlim=(left, right), ylim=(bottom, top))
    axes.set_title(title, size=10, color=_INK, pad=4)


def _title(cut: Cut) -> str:
    normal = cut.plane.normal
    return f"{cut.plane.name}, {normal if cut.centre_mm >= 0 else OPPOSITE[normal]} {abs(cut.centre_mm):.0f} mm"


def _draw_scale(figure: Figure, axes: Axes, colours: AxesImage, threshold: float | None) -> None:
    bar = figure.colorbar(colours, cax=axes)
    bar.outline.set_visible(False)
    axes.set_facecolor("#6a6a6a")  # the colours as they look over gray anatomy
    axes.set_title("heatmap", size=9, color=_INK, pad=8)
    axes.tick_params(labelsize=8, colors=_QUIET)
    low, high = colours.get_clim()
    if threshold is not None and low < threshold < high:
        axes.axhline(threshold, color=CONTOURS[0][0], linewidth=2)


def _uv(cut: Cut, point: Point) -> tuple[float, float]:
    """Return where a point of the patient lies in a plane's picture."""
    towards = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}
    (u, right), (v, up) = (towards[letter] for letter in (cut.plane.right, cut.plane.top))
    return right * point[u], up * point[v]
