"""Fig. 6 and the appendix's per-stage figures: contact sheets of heatmaps, by scan and method, by method and stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tonno_core.pictures.cuts import PLANES, Float
from tonno_core.pictures.drawing import PlaneLayers, draw_plane, grey_window
from tonno_core.reproduction.drawing import STYLE, method_name, save, save_numbers
from tonno_core.reproduction.source import Arrays, Scan, Source
from tonno_core.reproduction.stages import (
    METHODS,
    TONNO,
    dice_curve,
    heatmap_name,
    look_at,
    own_stage,
    stages_of,
    view_of,
)
from tonno_core.settings import CAM_NAMES, CamKind
from tonno_core.words import count_of

# Scans on the sheet: those with the finding, as far as they go.
MOST = 4
_WIDTH = 2.5  # of a picture, in inches
_GAP, _LINE, _HEAD, _EDGE = 0.08, 0.34, 0.84, 0.18


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet.

    Attributes:
        made: What was kept of its scan.
        heatmap: Name of the heatmap, "" for the scan alone.
        caption: What stands over it.
    """

    made: Arrays
    heatmap: str
    caption: str


def draw(source: Source, folder: Path) -> str:
    """Show the heatmaps of all methods, of some scans and of all stages.

    Args:
        source: A model and scans; of several those with the finding.
        folder: Where ``fig6.png``, ``.svg``, ``.csv`` and ``.json``, and ``fig6-stages.png`` and ``.svg`` go.

    Returns:
        What the sheets show.
    """
    scans = _chosen(source)
    made = {scan.name: look_at(source, scan, f"{number} of {len(scans)}") for number, scan in enumerate(scans, start=1)}
    stages, own = stages_of(source), own_stage(source)
    heatmaps = [heatmap_name(method, stage) for method in METHODS for stage in stages] + [TONNO]
    cam = source.cam
    sheet = [_line(name, each, own, cam) for name, each in made.items()]
    _sheet(
        sheet,
        "Heatmaps by method",
        f"{CAM_NAMES[cam]} of stage {own}. "
        "Each picture has colours of its own up to its 99.9 % quantile; blue is negative.",
        folder,
        "fig6",
    )
    name, first = next(iter(made.items()))
    by_stage = [
        [Tile(first, heatmap_name(method, stage), f"{method_name(method, cam)}, stage {stage}") for stage in stages]
        for method in METHODS
    ]
    _sheet(
        by_stage,
        f"Heatmaps of {name} by method and stage",
        f"{CAM_NAMES[cam]}, from the finest maps to the coarsest; colours as in fig6.",
        folder,
        "fig6-stages",
    )
    rows = [_row(name, heatmap, each) for name, each in made.items() for heatmap in heatmaps]
    save_numbers(folder, "fig6", rows, {"asked": source.asked, "scans": list(made), "stage": own})
    many = count_of(len(made), "scan")
    return f"{many} by {len(METHODS) + 1} methods, and {name} by {len(METHODS)} methods at stages {stages}"


def _chosen(source: Source) -> list[Scan]:
    """Return the scans with the finding, else the first, no more than a sheet holds."""
    chosen: list[Scan] = []
    first: Scan | None = None
    for scan in source.read():
        first = first or scan
        if scan.positive or (scan.truth is None and scan.label == 1):
            chosen.append(scan)
        if len(chosen) == MOST:
            break
    return chosen or ([first] if first is not None else [])


def _line(name: str, made: Arrays, own: int, cam: CamKind) -> list[Tile]:
    captions = [Tile(made, "", name)]
    return captions + [Tile(made, heatmap_name(method, own), method_name(method, cam)) for method in (*METHODS, TONNO)]


def _row(scan: str, heatmap: str, made: Arrays) -> dict[str, object]:
    method, _, stage = heatmap.partition("@")
    plane = np.asarray(made[heatmap], dtype=np.float64)
    best = ""
    if f"{heatmap} counts" in made and int(made["true voxels"]):
        best = f"{dice_curve(made[f'{heatmap} counts'], int(made['true voxels'])).max():.4f}"
    return {
        "scan": scan,
        "method": method,
        "stage": stage,
        "highest_in_the_plane": f"{np.nanmax(plane):.6g}",
        "lowest_in_the_plane": f"{np.nanmin(plane):.6g}",
        "best_dice_of_the_volume": best,
    }


def _sheet(lines: Sequence[Sequence[Tile]], title: str, note: str, folder: Path, name: str) -> None:
    """Write a sheet of pictures, a line of them under the other."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        views = [view_of(line[0].made, PLANES[0].edges) for line in lines]
        heights = [_WIDTH * view.v.size / view.u.size for view in views]
        width = 2 * _EDGE + max(len(line) for line in lines) * (_WIDTH + _GAP) - _GAP
        height = _HEAD + sum(heights) + len(lines) * _LINE + _EDGE
        figure = Figure(figsize=(width, height))
        top = height - _HEAD
        for line, view, tall in zip(lines, views, heights, strict=True):
            top -= _LINE + tall
            for column, tile in enumerate(line):
                left = _EDGE + column * (_WIDTH + _GAP)
                axes = figure.add_axes((left / width, top / height, _WIDTH / width, tall / height))
                draw_plane(axes, view, _layers(tile), guides=not column)
                axes.set_title(tile.caption, size=10, pad=5)
        figure.text(_EDGE / width, 1 - 0.16 / height, title, size=17, weight="bold", va="top")
        outlined = any("truth" in line[0].made and np.nanmax(line[0].made["truth"]) > 0 for line in lines)
        truth = " Dashed outline: the truth." if outlined else ""
        figure.text(_EDGE / width, 1 - 0.58 / height, f"{note}{truth}", size=11, va="top")
        save(figure, folder, name)


def _layers(tile: Tile) -> PlaneLayers:
    image = np.asarray(tile.made["image"], dtype=np.float64)
    truth: Float | None = None
    if "truth" in tile.made:
        truth = np.asarray(tile.made["truth"], dtype=np.float64)
    if not tile.heatmap:
        return PlaneLayers(image, grey_window([image]), truth=truth)
    heatmap = np.asarray(tile.made[tile.heatmap], dtype=np.float64)
    limit = float(np.nanpercentile(np.abs(heatmap), 99.9)) or 1.0
    return PlaneLayers(image, grey_window([image]), heatmap, limit, truth=truth)
