"""Contact sheets: each case a line, each method a column, so that a person can judge all of them at a glance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tonno_core.evaluation.record import CaseRecord, Finding
from tonno_core.pictures.drawing import (
    QUIET,
    STYLE,
    PlaneLayers,
    draw_plane,
    draw_scale,
    grey_window,
    outline_handles,
    save_figure,
    shorten,
)
from tonno_core.pictures.tile import Tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

CASES_PER_PAGE = 8
_TILE, _GAP, _EDGE = 2.7, 0.08, 0.2  # inches
_HEAD, _LINE, _CAPTION, _FOOT = 2.1, 0.34, 0.5, 0.1
_TALLEST = 1.35  # of a tile, in its widths
_NARROWEST = 11.0  # inches, so that a heading has room
_LONGEST = 42  # letters of a case's name


@dataclass(frozen=True)
class Entry:
    """A case of the sheet.

    Attributes:
        heading: The line above it.
        thresholds: By method; infinite where nothing was segmented.
        captions: By method, the text below its picture.
        load: Returns its planes; those of thousands of cases are never in memory together.
        window: The scan's values shown as black and as white; None for nearly the whole range of its plane.
    """

    heading: str
    thresholds: Mapping[str, float]
    captions: Mapping[str, str]
    load: Callable[[], Tile]
    window: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Column:
    """A method.

    Attributes:
        name: Its name.
        limit: The value with the full colour; all but a tenth of the cases stay below it nearly everywhere.
        threshold: The threshold of all cases, None where each has its own.
    """

    name: str
    limit: float
    threshold: float | None


def entry_of(record: CaseRecord, load: Callable[[], Tile]) -> Entry:
    """Say what the sheet says of an evaluated case.

    Args:
        record: Its numbers.
        load: Returns its planes.

    Returns:
        The case.
    """
    return Entry(
        heading=_heading(record, load().where),
        thresholds={name: row.threshold for name, row in record.rows.items()},
        captions={name: _caption(row, record.truth_components) for name, row in record.rows.items()},
        load=load,
    )


def write_sheets(
    folder: Path, entries: Sequence[Entry], *, title: str, subtitle: str, truth: bool = True
) -> list[Path]:
    """Write ``contact-sheet-1.png``, ... with `CASES_PER_PAGE` cases on each.

    Pages that a longer list had are removed. A column's colours have one scale for all cases, so that what is bright
    in one is bright in all.

    Args:
        folder: Where they go; each file appears whole or not at all.
        entries: The cases, at least one, of the same methods.
        title: The heading of all pages.
        subtitle: A line below it.
        truth: Whether there may be outlines of a truth.

    Returns:
        The files.

    Raises:
        TonnoError: A file cannot be written.
    """
    import matplotlib

    columns = _columns(entries)
    pages = [entries[start : start + CASES_PER_PAGE] for start in range(0, len(entries), CASES_PER_PAGE)]
    paths = []
    with matplotlib.rc_context(STYLE):
        for number, page in enumerate(pages, start=1):
            of = f", page {number} of {len(pages)}" if len(pages) > 1 else ""
            figure = _page(page, columns)
            _draw_head(figure, title + of, subtitle, truth)
            paths.append(folder / f"contact-sheet-{number}.png")
            save_figure(figure, paths[-1])
    for old in folder.glob("contact-sheet-*.png"):  # of a longer list
        if old not in paths:
            old.unlink(missing_ok=True)
    return paths


def _columns(entries: Sequence[Entry]) -> list[_Column]:
    """Find the colours' limits and the thresholds of all methods in one pass over the cases."""
    highest: dict[str, list[float]] = {}
    for entry in entries:
        for name, heatmap in entry.load().heatmaps.items():
            highest.setdefault(name, []).append(float(np.nanpercentile(np.abs(heatmap), 99.8)))
    columns = []
    for name, values in highest.items():
        thresholds = {entry.thresholds[name] for entry in entries}
        limit = float(np.quantile(values, 0.9)) or 1.0
        columns.append(_Column(name, limit, thresholds.pop() if len(thresholds) == 1 else None))
    return columns


def _page(page: Sequence[Entry], columns: Sequence[_Column]) -> Figure:
    """Draw the cases of a page."""
    from matplotlib.figure import Figure

    width = max(_NARROWEST, 2 * _EDGE + (1 + len(columns)) * (_TILE + _GAP) - _GAP)
    tiles = [entry.load() for entry in page]
    heights = [min(_TALLEST, tile.view.v.size / tile.view.u.size) * _TILE for tile in tiles]
    figure = Figure(figsize=(width, _HEAD + sum(heights) + len(page) * (_LINE + _CAPTION) + _FOOT))
    top = figure.get_figheight() - _HEAD
    for entry, tile, tall in zip(page, tiles, heights, strict=True):
        bottom = top - _LINE - tall
        shown = _draw_line(figure, entry, tile, columns, (bottom, tall))
        if entry is page[0]:
            _draw_scales(figure, columns, shown)
        top = bottom - _CAPTION
    return figure


def _draw_line(
    figure: Figure, entry: Entry, tile: Tile, columns: Sequence[_Column], place: tuple[float, float]
) -> list[AxesImage]:
    """Draw a case: its heading, its image, and each method with its caption; return the heatmaps' pictures."""
    bottom, tall = place
    width, height = figure.get_figwidth(), figure.get_figheight()
    figure.text(_EDGE / width, (bottom + tall + _LINE - 0.22) / height, entry.heading, size=12, weight="bold")
    window = entry.window or grey_window([tile.image])
    axes = _add_axes(figure, (_EDGE, bottom, _TILE, tall))
    draw_plane(axes, tile.view, PlaneLayers(tile.image, window, truth=tile.truth))
    pictures = []
    for number, column in enumerate(columns, start=1):
        left = _EDGE + number * (_TILE + _GAP)
        axes = _add_axes(figure, (left, bottom, _TILE, tall))
        heatmap, mask = tile.heatmaps[column.name], tile.masks[column.name]
        layers = PlaneLayers(tile.image, window, heatmap, column.limit, mask, tile.truth)
        pictures.append(draw_plane(axes, tile.view, layers, guides=False))
        at = (left + 0.02) / width, (bottom - 0.05) / height
        figure.text(*at, entry.captions[column.name], size=9.5, color="#c4c9d0", va="top")
    return pictures


def _add_axes(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Add axes in a box of left, bottom, width and height in inches."""
    left, bottom, wide, tall = box
    width, height = figure.get_figwidth(), figure.get_figheight()
    return figure.add_axes((left / width, bottom / height, wide / width, tall / height))


def _draw_head(figure: Figure, title: str, subtitle: str, truth: bool) -> None:
    width, inch = figure.get_figwidth(), 1 / figure.get_figheight()
    figure.text(_EDGE / width, 1 - 0.15 * inch, shorten(title, int(7 * width)), size=17, weight="bold", va="top")
    figure.text(_EDGE / width, 1 - 0.55 * inch, shorten(subtitle, int(11 * width)), color=QUIET, va="top")
    handles = outline_handles(("segmentation at own threshold", *(("truth",) if truth else ())))
    # Over the images: the only column without a scale.
    box = (_EDGE / width, 1 - 1.88 * inch, _TILE / width, 0.8 * inch)
    figure.legend(
        handles=handles, loc="center left", bbox_to_anchor=box, frameon=False, handlelength=2.6, fontsize=9.5,
        borderpad=0, borderaxespad=0,
    )  # fmt: skip


def _draw_scales(figure: Figure, columns: Sequence[_Column], pictures: Sequence[AxesImage]) -> None:
    """Draw over each column its method's name and its colours, with a mark at a threshold that all cases share."""
    for number, (column, shown) in enumerate(zip(columns, pictures, strict=True), start=1):
        left = _EDGE + number * (_TILE + _GAP) + 0.25
        axes = _add_axes(figure, (left, figure.get_figheight() - 1.68, _TILE - 0.5, 0.12))
        bar = draw_scale(axes, shown, column.threshold, orientation="horizontal")
        axes.set_title(column.name, size=12, pad=20, weight="bold")
        text = "thresholds of Otsu" if column.threshold is None else f"threshold {_digits(column.threshold)}"
        text = "no threshold" if column.threshold == math.inf else text
        axes.annotate(
            text, (0.5, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="center", size=9.5
        )
        values = (-column.limit, 0.0, column.limit)
        bar.set_ticks(values, labels=[_digits(value) for value in values])
        axes.tick_params(labelsize=9, length=2)


def _digits(value: float) -> str:
    """Write a number with three digits, without an exponent up to a million."""
    return f"{float(f'{value:.3g}'):g}"


def short_name(case: str) -> str:
    """Shorten the name of a case for a heading.

    Args:
        case: Its name.

    Returns:
        The name itself, or its beginning with an ellipsis.
    """
    return case if len(case) <= _LONGEST else f"{case[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def size_text(volume_ml: float, components: int) -> str:
    """Say how large a segmentation is.

    Args:
        volume_ml: Its volume.
        components: Number of its parts.

    Returns:
        Such as "1.5 ml in 2 parts".
    """
    parts = f"{components} part{'' if components == 1 else 's'}"
    return f"{volume_ml:.1f} ml in {parts}" if components else "nothing found"


def _heading(record: CaseRecord, where: str) -> str:
    """Name the case, its label, the plane and the size of the truth."""
    parts = [short_name(record.case), "positive" if record.label else "negative", where]
    if record.truth_components:
        several = "s" if record.truth_components > 1 else ""
        parts.append(f"truth {record.truth_ml:.1f} ml in {record.truth_components} part{several}")
    elif record.truth_components is None:
        parts.append("no mask given")
    return "   ·   ".join(parts)


def _caption(row: Finding, truth_components: int | None) -> str:
    """Say in up to two lines what the picture, one plane of many, does not tell."""
    size = size_text(row.volume_ml, row.components)
    if row.called is not None:
        size += ", called positive" if row.called else ", not called"
    if row.overlap is None or not truth_components:
        return size
    return f"Dice {row.overlap.dice:.2f}, at the best threshold {row.overlap.best_dice:.2f}\n{size}"
