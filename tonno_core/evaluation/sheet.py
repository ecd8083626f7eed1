"""Contact sheets: each case a line, each method a column, so that a person can judge all of them at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.evaluation.record import CaseRecord, Finding
from tonno_core.pictures.cuts import Float
from tonno_core.pictures.drawing import CONTOURS, QUIET, STYLE, cold_hot, finite, outlined, save_figure, shorten
from tonno_core.pictures.tile import Tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CASES_PER_PAGE = 8
_TILE, _GAP, _EDGE = 2.7, 0.08, 0.2  # inches
_HEAD, _LINE, _CAPTION, _FOOT = 2.1, 0.34, 0.5, 0.1
_TALLEST = 1.35  # of a tile, in its widths
_NARROWEST = 11.0  # inches, so that a heading has room
_LONGEST = 42  # letters of a case's name


@dataclass(frozen=True)
class Entry:
    """One case: its numbers and its planes."""

    record: CaseRecord
    tile: Tile


@dataclass(frozen=True)
class _Column:
    """One method.

    limit: the value with the full colour; all but a tenth of the cases stay below it nearly everywhere.
    threshold: None where each case has its own.
    """

    name: str
    limit: float
    threshold: float | None


def write_sheets(folder: Path, entries: Sequence[Entry], *, title: str, subtitle: str) -> list[Path]:
    """``contact-sheet-1.png``, ... of all cases (at least one), `CASES_PER_PAGE` on each; returns their paths.

    A column's colours have one scale for all cases, so that what is bright in one is bright in all.
    """
    import matplotlib

    columns = [_column(name, entries) for name in entries[0].tile.heatmaps]
    pages = [entries[start : start + CASES_PER_PAGE] for start in range(0, len(entries), CASES_PER_PAGE)]
    paths = []
    with matplotlib.rc_context(STYLE):
        for number, page in enumerate(pages, start=1):
            of = f", page {number} of {len(pages)}" if len(pages) > 1 else ""
            figure = _page(page, columns, title + of, subtitle)
            paths.append(folder / f"contact-sheet-{number}.png")
            save_figure(figure, paths[-1])
    return paths


def _column(name: str, entries: Sequence[Entry]) -> _Column:
    highest = [float(np.percentile(np.abs(finite([entry.tile.heatmaps[name]])), 99.8)) for entry in entries]
    thresholds = {entry.record.rows[name].threshold for entry in entries}
    limit = float(np.quantile(highest, 0.9)) or 1.0
    return _Column(name, limit, thresholds.pop() if len(thresholds) == 1 else None)


def _page(page: Sequence[Entry], columns: Sequence[_Column], title: str, subtitle: str) -> Figure:
    from matplotlib.figure import Figure

    width = max(_NARROWEST, 2 * _EDGE + (1 + len(columns)) * (_TILE + _GAP) - _GAP)
    heights = [min(_TALLEST, entry.tile.v.size / entry.tile.u.size) * _TILE for entry in page]
    figure = Figure(figsize=(width, _HEAD + sum(heights) + len(page) * (_LINE + _CAPTION) + _FOOT))
    _draw_head(figure, title, subtitle)
    top = figure.get_figheight() - _HEAD
    for entry, tall in zip(page, heights, strict=True):
        bottom = top - _LINE - tall
        shown = _draw_line(figure, entry, columns, bottom, tall)
        if entry is page[0]:
            _draw_scales(figure, columns, shown)
        top = bottom - _CAPTION
    return figure


def _draw_line(figure: Figure, entry: Entry, columns: Sequence[_Column], bottom: float, tall: float) -> list[Any]:
    """One case: its heading, its image, and each method with its caption; returns the heatmaps' pictures."""
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.text(_EDGE / width, (bottom + tall + _LINE - 0.22) / height, _heading(entry), size=12, weight="bold")
    image = _add_axes(figure, (_EDGE, bottom, _TILE, tall))
    _draw_image(image, entry.tile)
    _draw_guides(image, entry.tile)
    _draw_contour(image, entry.tile, entry.tile.truth, 1)
    pictures = []
    for number, column in enumerate(columns, start=1):
        left = _EDGE + number * (_TILE + _GAP)
        axes = _add_axes(figure, (left, bottom, _TILE, tall))
        _draw_image(axes, entry.tile)
        pictures.append(_draw_heatmap(axes, entry.tile, column))
        caption = _caption(entry.record.rows[column.name], entry.record.truth_components)
        at = (left + 0.02) / width, (bottom - 0.05) / height
        figure.text(*at, caption, size=9.5, color="#c4c9d0", va="top")
    return pictures


def _add_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes in a box of left, bottom, width and height in inches."""
    left, bottom, wide, tall = box
    width, height = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((left / width, bottom / height, wide / width, tall / height))


def _draw_head(figure: Figure, title: str, subtitle: str) -> None:
    from matplotlib.lines import Line2D

    width, inch = figure.get_figwidth(), 1 / figure.get_figheight()
    figure.text(_EDGE / width, 1 - 0.15 * inch, shorten(title, int(7 * width)), size=17, weight="bold", va="top")
    figure.text(_EDGE / width, 1 - 0.55 * inch, shorten(subtitle, int(11 * width)), color=QUIET, va="top")
    handles = [
        Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=label)
        for (colour, dashes), label in zip(CONTOURS, ("segmentation at own threshold", "truth"), strict=True)
    ]
    # Over the images: the only column without a scale.
    box = (_EDGE / width, 1 - 1.88 * inch, _TILE / width, 0.8 * inch)
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=box, frameon=False, handlelength=2.6, fontsize=9.5,
        borderpad=0, borderaxespad=0,
    )  # fmt: skip


def _draw_scales(figure: Figure, columns: Sequence[_Column], pictures: Sequence[Any]) -> None:
    """Over each column its method's name, and its colours with a mark at the threshold that all cases share."""
    for number, (column, shown) in enumerate(zip(columns, pictures, strict=True), start=1):
        left = _EDGE + number * (_TILE + _GAP) + 0.25
        axes = _add_axes(figure, (left, figure.get_figheight() - 1.68, _TILE - 0.5, 0.12))
        bar = figure.colorbar(shown, cax=axes, orientation="horizontal", extend="both")
        bar.outline.set_visible(False)
        axes.set_facecolor("#6a6a6a")  # the colours as they look over grey anatomy
        axes.set_title(column.name, size=12, pad=20, weight="bold")
        text = "thresholds of Otsu" if column.threshold is None else f"threshold {_digits(column.threshold)}"
        where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "center"}
        axes.annotate(text, (0.5, 1), (0, 6), size=9.5, **where)
        values = (-column.limit, 0.0, column.limit)
        bar.set_ticks(values, labels=[_digits(value) for value in values])
        axes.tick_params(labelsize=9, length=2)
        if column.threshold is not None and abs(column.threshold) <= column.limit:
            axes.axvline(column.threshold, color=CONTOURS[0][0], linewidth=2.5)


def _draw_image(axes: Axes, tile: Tile) -> None:
    low, high = np.percentile(finite([tile.image]), (0.5, 99.5))
    _show(axes, tile, tile.image, cmap="gray", vmin=low, vmax=high)
    axes.set_axis_off()


def _draw_guides(axes: Axes, tile: Tile) -> None:
    """Letters of the patient's left and right edges, and a ruler."""
    spots: tuple[tuple[tuple[float, float], tuple[float, float]], ...] = (
        ((0, 0.5), (8, 0)), ((1, 0.5), (-8, 0)), ((0.5, 0), (0, 9)), ((0.5, 1), (0, -9)),
    )  # fmt: skip
    for letter, (edge, inwards) in zip(tile.edges, spots, strict=True):
        outlined(axes, letter, edge, inwards, xycoords="axes fraction", ha="center", size=10, weight="bold")
    span = tile.u[-1] - tile.u[0]
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100) if 3 * mm < span), default=1)
    x, y = tile.u[0] + 0.03 * span, tile.v[0] + 0.03 * span
    axes.plot((x, x + length), (y, y), color="white", linewidth=2, solid_capstyle="butt")
    outlined(axes, f"{length} mm", (x, y), (0, 8), ha="left", size=8.5)


def _draw_heatmap(axes: Axes, tile: Tile, column: _Column) -> Any:
    colours = {"cmap": cold_hot(), "vmin": -column.limit, "vmax": column.limit}
    shown = _show(axes, tile, tile.heatmaps[column.name], **colours)
    _draw_contour(axes, tile, tile.masks[column.name], 0)
    _draw_contour(axes, tile, tile.truth, 1)
    return shown


def _draw_contour(axes: Axes, tile: Tile, mask: Float | None, which: int) -> None:
    if mask is None:
        return
    colour, dashes = CONTOURS[which]
    plane = np.nan_to_num(mask)
    if plane.min() < 0.5 < plane.max():
        axes.contour(tile.u, tile.v, plane, levels=[0.5], colors=colour, linewidths=1.4, linestyles=[dashes])


def _show(axes: Axes, tile: Tile, plane: Float, **options: Any) -> Any:
    half_u, half_v = ((axis[1] - axis[0]) / 2 for axis in (tile.u, tile.v))
    extent = (tile.u[0] - half_u, tile.u[-1] + half_u, tile.v[0] - half_v, tile.v[-1] + half_v)
    return axes.imshow(plane, extent=extent, origin="lower", interpolation="bilinear", **options)


def _digits(value: float) -> str:
    """Three digits, without an exponent up to a million."""
    return f"{float(f'{value:.3g}'):g}"


def _heading(entry: Entry) -> str:
    """Case, label, plane and size of the truth."""
    record = entry.record
    name = record.case if len(record.case) <= _LONGEST else f"{record.case[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"
    parts = [name, "positive" if record.label else "negative", entry.tile.where]
    if record.truth_components:
        several = "s" if record.truth_components > 1 else ""
        parts.append(f"truth {record.truth_ml:.1f} ml in {record.truth_components} part{several}")
    elif record.truth_components is None:
        parts.append("no mask given")
    return "   ·   ".join(parts)


def _caption(row: Finding, truth_components: int | None) -> str:
    """Up to two lines of what the picture alone does not tell: it is one plane of many."""
    found = f"{row.volume_ml:.1f} ml in {row.components} part{'' if row.components == 1 else 's'}"
    if not row.components:
        found = "nothing found"
    if row.called is not None:
        found += ", called positive" if row.called else ", not called"
    if row.overlap is None or not truth_components:
        return found
    return f"Dice {row.overlap.dice:.2f}, at the best threshold {row.overlap.best_dice:.2f}\n{found}"
