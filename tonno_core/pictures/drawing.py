"""Draw one plane of the patient, the scale of its colours and a profile, as all pictures show them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tonno_core.output import atomic_file
from tonno_core.pictures.colours import COLD_HOT, PALETTES, STOPS
from tonno_core.pictures.cuts import OPPOSITE, PLANES, Cut, Float, View, sample
from tonno_core.slicing.profile import Profile
from tonno_core.volume.intensity import without_padding
from tonno_core.volume.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.lines import Line2D

DPI = 110
CONTOURS = (("#3dff9e", "solid"), ("#ff5cf4", (0, (4, 2.5))))  # segmentation, truth
MARK, CURVE, QUIET = "#ffd54a", "#8ec9ff", "#9aa1ab"
FONT = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "text.usetex": False,
    "text.parse_math": False,  # a title with a dollar sign is not a formula
}
STYLE = {
    **FONT,
    "font.size": 11,
    "text.color": "#e8eaed",
    "axes.labelcolor": "#c4c9d0",
    "axes.edgecolor": "#4a5058",
    "axes.facecolor": "#0e1116",
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "figure.facecolor": "black",
    "savefig.facecolor": "black",
}
_RULERS_MM = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Scene:
    """What pictures of findings show.

    Attributes:
        image: The image; its grid may differ from the heatmap's.
        heatmap: The heatmap.
        mask: The segmentation on the heatmap's grid, Z Y X; not zero is inside. None where nothing was segmented.
        threshold: Marked on the colour scale; None leaves it out.
        window: The image's values shown as black and as white; None takes nearly the whole range.
        truth: The true mask on the heatmap's grid, Z Y X; None if it is not known.
        unit: Unit of the heatmap.
        odds: Whether it is a segmenter's, of which only what lies above 0 or the threshold is coloured: nearly all of a
            volume lies far below.
        colours: The heatmap's: a name of `colours.PALETTES`.
    """

    image: Volume
    heatmap: Volume
    mask: npt.NDArray[np.generic] | None
    threshold: float | None = None
    window: tuple[float, float] | None = None
    truth: npt.NDArray[np.generic] | None = None
    unit: str = "logit"
    odds: bool = False
    colours: str = COLD_HOT


@dataclass(frozen=True)
class PlaneLayers:
    """What one plane shows, from the bottom up: arrays (V, U) on the pixels of a view, NaN outside of the volume.

    Attributes:
        image: The image's values.
        window: The image's values shown as black and as white.
        heatmap: The heatmap's values; None draws none.
        limit: The heatmap's value with the full colour.
        segmentation: Share of the mask, 0 to 1, whose outline is solid; None draws none.
        truth: Share of the true mask, 0 to 1, whose outline is dashed; None draws none.
        colours: The heatmap's: a name of `colours.PALETTES`.
    """

    image: Float
    window: tuple[float, float]
    heatmap: Float | None = None
    limit: float = 1.0
    segmentation: Float | None = None
    truth: Float | None = None
    colours: str = COLD_HOT


def draw_plane(axes: Axes, view: View, layers: PlaneLayers, *, size: float = 10.0, guides: bool = True) -> AxesImage:
    """Draw image, heatmap, outlines, letters of the patient's sides and a ruler.

    Args:
        axes: Empty axes; afterwards their coordinates are the view's millimetres.
        view: The pixels.
        layers: What is shown on them.
        size: Size of the letters in typographic points; lines and the ruler's text go with it.
        guides: Whether to draw letters and ruler.

    Returns:
        The uppermost picture, the heatmap's where there is one, for `draw_scale`.
    """
    axes.set(facecolor="black", xticks=(), yticks=())
    axes.spines[:].set_visible(False)
    shown = _show(axes, view, layers.image, "gray", layers.window)
    if layers.heatmap is not None:
        shown = _show(axes, view, layers.heatmap, colormap(layers.colours), (-layers.limit, layers.limit))
    for share, (colour, dashes) in zip((layers.segmentation, layers.truth), CONTOURS, strict=True):
        inside = np.zeros(1) if share is None else np.nan_to_num(share)
        if inside.min() < 0.5 < inside.max():
            line = {"colors": colour, "linewidths": 0.13 * size, "linestyles": [dashes]}
            axes.contour(view.u, view.v, inside, levels=[0.5], **line)
    if guides:
        _draw_letters(axes, view, size)
        _draw_ruler(axes, view, size)
    left, right, bottom, top = view.extent
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return shown


def draw_scale(
    axes: Axes, shown: AxesImage, threshold: float | None = None, *, orientation: str = "vertical", extend: str = "both"
) -> Colorbar:
    """Draw the scale of a heatmap's colours.

    Args:
        axes: Axes of the scale's size.
        shown: What `draw_plane` returned.
        threshold: Marked where it lies on the scale; None marks nothing.
        orientation: "vertical" or "horizontal".
        extend: Ends beyond which values are shown in the last colour, as matplotlib's colorbar takes it.

    Returns:
        The scale, for its ticks.
    """
    bar = axes.figure.colorbar(shown, cax=axes, orientation=orientation, extend=extend)
    outline: Any = bar.outline  # which Matplotlib's types of before 3.11 take for a function
    outline.set_visible(False)
    axes.set_facecolor("#6a6a6a")  # the colours as they look over grey anatomy
    low, high = shown.get_clim()
    if threshold is not None and low <= threshold <= high:
        line = axes.axvline if orientation == "horizontal" else axes.axhline
        line(threshold, color=CONTOURS[0][0], linewidth=2.5)
    return bar


def draw_profile(axes: Axes, profile: Profile, colour: str) -> None:
    """Draw a profile over its offsets, with the patient's sides at the ends of the axis.

    Args:
        axes: Empty axes.
        profile: Along "R", "A" or "S".
        colour: Colour of the curve.
    """
    plane = next(plane for plane in PLANES if plane.normal == profile.axis)
    axes.axhline(0.0, color=QUIET, alpha=0.5, linewidth=0.8)
    axes.plot(profile.offsets_mm, profile.logits, color=colour, linewidth=1.6)
    axes.margins(x=0.0, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    where = f"{plane.name.lower()} plane at (mm)"
    axes.set_xlabel(f"{OPPOSITE[profile.axis]}  \u2190  {where}  \u2192  {profile.axis}")


def plane_layers(scene: Scene, cuts: Sequence[Cut], limit: float | None = None) -> list[PlaneLayers]:
    """Sample a scene on some planes, with one window and one range of colours for all.

    Args:
        scene: Image, heatmap and masks.
        cuts: The planes.
        limit: The heatmap's value with the full colour; None takes nearly the highest on these planes, which sees a
            lesion that a quantile of the whole volume would miss.

    Returns:
        What each plane shows.
    """
    grid, points = scene.heatmap.ijk_to_ras, [cut.points_ras for cut in cuts]
    image = without_padding(scene.image.array)
    images = [sample(image, scene.image.ijk_to_ras, places) for places in points]
    heatmaps = [sample(scene.heatmap.array, grid, places) for places in points]
    if scene.odds:
        # From the threshold on where it lies below 0, so that nothing within the outline stays without colour.
        lowest = min(0.0, scene.threshold or 0.0)
        heatmaps = [np.where(heatmap < lowest, 0.0, heatmap) for heatmap in heatmaps]
    if limit is None:
        limit = float(np.percentile(np.abs(_finite(heatmaps)), 99.9)) or 1.0
    window = scene.window or grey_window(images)
    masks = [None if mask is None else (mask != 0).astype(np.uint8) for mask in (scene.mask, scene.truth)]
    layers = []
    for pixels, values, places in zip(images, heatmaps, points, strict=True):
        shares = [None if mask is None else sample(mask, grid, places) for mask in masks]
        layers.append(PlaneLayers(pixels, window, values, limit, shares[0], shares[1], scene.colours))
    return layers


def grey_window(planes: Sequence[Float]) -> tuple[float, float]:
    """Find the values to show as black and as white.

    Args:
        planes: The image's values, NaN outside of it.

    Returns:
        Their 0.5 and 99.5 % quantiles: a few bright vessels or an implant must not darken the rest.
    """
    values = _finite(planes)
    low, high = np.percentile(values, (0.5, 99.5)) if values.size else (0.0, 1.0)
    return float(low), float(high)


def outline_handles(names: Sequence[str]) -> list[Line2D]:
    """Make the lines of a legend.

    Args:
        names: What the outlines of segmentation and truth are called; one or both.

    Returns:
        A line for each.
    """
    from matplotlib.lines import Line2D

    lines = zip(names, CONTOURS, strict=False)
    return [Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=name) for name, (colour, dashes) in lines]


def column_sizes(cuts: Sequence[Cut], room: float, tallest: float) -> tuple[Float, float]:
    """Divide a row among pictures, at one scale where their shapes allow it.

    Args:
        cuts: The pictures, from left to right.
        room: Width of all of them together in inches.
        tallest: Greatest height in inches.

    Returns:
        The width of each (N) and the height of the row in inches.
    """
    spans = np.array([cut.view.width_mm for cut in cuts])
    shares = np.maximum(spans / spans.sum(), 0.24)
    widths = room * shares / shares.sum()
    heights = [width * cut.view.v.size / cut.view.u.size for width, cut in zip(widths, cuts, strict=True)]
    return widths, float(min(tallest, max(heights)))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG.

    Args:
        figure: The figure.
        path: The file; it appears whole or not at all.

    Raises:
        TonnoError: The file cannot be written.
    """
    with atomic_file(path) as partial:
        # zlib's level 6, the default, takes twice the time for a tenth fewer bytes.
        figure.savefig(partial, format="png", dpi=DPI, pil_kwargs={"compress_level": 4})


def colormap(name: str) -> Colormap:
    """Return the heatmaps' colours: blue below zero, orange above.

    Args:
        name: A name of `colours.PALETTES`.

    Returns:
        Colours as opaque as the value is large, so that the anatomy stays visible.
    """
    from matplotlib.colors import LinearSegmentedColormap, ListedColormap

    values = np.linspace(0, 1, 511)
    stops = list(zip(STOPS, PALETTES[name], strict=True))
    colours = LinearSegmentedColormap.from_list(name, stops, N=values.size)(values)
    colours[:, 3] = 0.9 * np.abs(2 * values - 1) ** 1.3
    return ListedColormap(colours)


def shorten(text: str, width: int) -> str:
    """Cut a text at a space, with an ellipsis.

    Args:
        text: The text.
        width: Greatest number of characters.

    Returns:
        The text itself if it is short enough.
    """
    return textwrap.shorten(text, width, placeholder=" \N{HORIZONTAL ELLIPSIS}")


def _finite(planes: Sequence[Float]) -> Float:
    """Gather the values that are neither NaN nor infinite."""
    return np.concatenate([plane[np.isfinite(plane)] for plane in planes])


def _show(axes: Axes, view: View, pixels: Float, colours: str | Colormap, limits: tuple[float, float]) -> AxesImage:
    """Show pixels (V, U) in colours from the lower to the upper limit."""
    low, high = limits
    return axes.imshow(
        pixels, colours, vmin=low, vmax=high, extent=view.extent, origin="lower", interpolation="bilinear"
    )


def _draw_letters(axes: Axes, view: View, size: float) -> None:
    """Draw the letters of the patient's sides at the middle of each edge."""
    across, up = 0.75 * size, 0.85 * size
    places = (((0, 0.5), (across, 0)), ((1, 0.5), (-across, 0)), ((0.5, 0), (0, up)), ((0.5, 1), (0, -up)))
    for letter, (edge, inwards) in zip(view.edges, places, strict=True):
        _write(axes, letter, edge, inwards, xycoords="axes fraction", ha="center", size=size, weight="bold")


def _draw_ruler(axes: Axes, view: View, size: float) -> None:
    """Draw a ruler at the lower left, of a round length below a third of the picture's width."""
    left, right, bottom, top = view.extent
    length_mm = max((mm for mm in _RULERS_MM if 3 * mm < right - left), default=1)
    x, y = left + 0.04 * (right - left), bottom + 0.04 * (top - bottom)
    for colour, width in (("black", 0.42 * size), ("white", 0.22 * size)):  # to be seen on both
        axes.plot((x, x + length_mm), (y, y), color=colour, linewidth=width, solid_capstyle="butt")
    _write(axes, f"{length_mm} mm", (x, y), (0, 0.8 * size), ha="left", size=0.8 * size)


def _write(axes: Axes, text: str, point: tuple[float, float], offset: tuple[float, float], **options: Any) -> None:
    """Write a text that can be read on black and on white, offset (typographic points) from a point."""
    from matplotlib.patheffects import withStroke

    options |= {"path_effects": [withStroke(linewidth=3, foreground="black")], "color": "white", "va": "center"}
    axes.annotate(text, point, offset, textcoords="offset points", **options)
