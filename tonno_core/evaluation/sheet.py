"""Contact sheets: each case a line, each method a column, so that a person can judge all of them at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tonno_core.evaluation.drawing import CONTOURS, QUIET, STYLE, cold_hot, finite, outlined, save_figure, shorten
from tonno_core.evaluation.planes import Float
from tonno_core.evaluation.record import CaseRecord, Finding
from tonno_core.evaluation.tile import Tile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CASES_PER_PAGE = 8
_TILE, _GAP, _EDGE = 2.7, 0.08, 0.2  # inches
_HEAD, _LINE, _CAPTION, _FOOT = 2.1, 0.34, 0.5, 0.1
_TALLEST = 1.35  # of a tile, in its widths


@dataclass(frozen=True)
class Entry:
    """One case: its numbers and its planes."""

    record: CaseRecord
    tile: Tile


def write_sheets(folder: Path, entries: Sequence[Entry], *, title: str, subtitle: str) -> list[Path]:
    """``contact-sheet-1.png``, ... of all cases (at least one), `CASES_PER_PAGE` on each; returns their paths.

    A column's colours have one scale for all cases, so that what is bright in one is bright in all.
    """
    import matplotlib

    names = list(entries[0].tile.heatmaps)
    limits = {name: _limit([entry.tile.heatmaps[name] for entry in entries]) for name in names}
    pages = [entries[start : start + CASES_PER_PAGE] for start in range(0, len(entries), CASES_PER_PAGE)]
    paths = []
    with matplotlib.rc_context(STYLE):
        for number, page in enumerate(pages, start=1):
            of = f"   page {number} of {len(pages)}" if len(pages) > 1 else ""
            figure = _page(page, names, limits, entries, title + of, subtitle)
            paths.append(folder / f"contact-sheet-{number}.png")
            save_figure(figure, paths[-1])
    return paths


def _limit(planes: Sequence[Float]) -> float:
    """The value with the full colour: what all but a tenth of the cases stay below nearly everywhere."""
    highest = [float(np.percentile(np.abs(finite([plane])), 99.8)) for plane in planes]
    return float(np.quantile(highest, 0.9)) or 1.0


def _page(
    page: Sequence[Entry],
    names: Sequence[str],
    limits: dict[str, float],
    entries: Sequence[Entry],
    title: str,
    subtitle: str,
) -> Figure:
    from matplotlib.figure import Figure

    width = 2 * _EDGE + (1 + len(names)) * (_TILE + _GAP) - _GAP
    heights = [min(_TALLEST, entry.tile.v.size / entry.tile.u.size) * _TILE for entry in page]
    height = _HEAD + sum(heights) + len(page) * (_LINE + _CAPTION) + _FOOT
    figure = Figure(figsize=(width, height))
    inches = np.array((width, height, width, height))
    top = height - _HEAD
    _draw_head(figure, title, subtitle)
    for entry, tall in zip(page, heights, strict=True):
        figure.text(_EDGE / width, (top - 0.22) / height, _heading(entry), size=12, weight="bold")
        bottom = top - _LINE - tall
        for column in range(1 + len(names)):
            left = _EDGE + column * (_TILE + _GAP)
            axes = figure.add_axes(np.array((left, bottom, _TILE, tall)) / inches)
            _draw_image(axes, entry.tile)
            if column == 0:
                _draw_guides(axes, entry.tile)
                _draw_contour(axes, entry.tile, entry.tile.truth, 1)
                continue
            name = names[column - 1]
            shown = _draw_heatmap(axes, entry.tile, name, limits[name])
            where = ((left + 0.02) / width, (bottom - 0.05) / height)
            caption = _caption(entry.record.rows[name], entry.record.truth_components)
            figure.text(*where, caption, size=9.5, color="#c4c9d0", va="top")
            if entry is page[0]:
                box = np.array((left + 0.25, height - 1.68, _TILE - 0.5, 0.12)) / inches
                _draw_scale(figure, box, shown, name, _threshold(entries, name))
        top = bottom - _CAPTION
    return figure


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


def _draw_scale(figure: Figure, box: Any, shown: Any, name: str, threshold: float | None) -> None:
    """The method's name, and its colours with a mark at the threshold, where all cases share one."""
    bar = figure.colorbar(shown, cax=figure.add_axes(box), orientation="horizontal", extend="both")
    bar.outline.set_visible(False)
    bar.ax.set_facecolor("#6a6a6a")  # the colours as they look over grey anatomy
    text = "thresholds of Otsu" if threshold is None else f"threshold {threshold:.3g}"
    bar.ax.set_title(name, size=12, pad=20, weight="bold")
    bar.ax.annotate(text, (0.5, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", ha="center", size=9.5)
    limit = shown.get_clim()[1]
    bar.set_ticks([-limit, 0.0, limit], labels=[f"{value:.3g}" for value in (-limit, 0.0, limit)])
    bar.ax.tick_params(labelsize=9, length=2)
    if threshold is not None and abs(threshold) <= limit:
        bar.ax.axvline(threshold, color=CONTOURS[0][0], linewidth=2.5)


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


def _draw_heatmap(axes: Axes, tile: Tile, name: str, limit: float) -> Any:
    shown = _show(axes, tile, tile.heatmaps[name], cmap=cold_hot(), vmin=-limit, vmax=limit)
    _draw_contour(axes, tile, tile.masks[name], 0)
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


def _heading(entry: Entry) -> str:
    """Case, label, plane and size of the truth."""
    record = entry.record
    parts = [shorten(record.case, 60), "positive" if record.label else "negative", entry.tile.where]
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


def _threshold(entries: Sequence[Entry], name: str) -> float | None:
    """The threshold of a row, where all cases share it."""
    found = {entry.record.rows[name].threshold for entry in entries}
    return found.pop() if len(found) == 1 else None
