"""Fig. 4: the volume itself, reconstructed from slices that were averaged in cells.

An encoder whose map is the slice's own mean in each cell, and nothing else, shows what the reconstruction makes of
coarse maps. The paper compares Averaged and Tomographic CAM; Matched CAM is ours.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tonno_core.bundle.decide import decide
from tonno_core.bundle.ready import PIXEL_SUM, prepare_model
from tonno_core.pictures.cuts import PLANES, Cut, View, sample
from tonno_core.pictures.drawing import PlaneLayers, draw_plane, grey_window
from tonno_core.progress import progress_bar
from tonno_core.reconstruction import execute
from tonno_core.reporting import Reporter, progress_of
from tonno_core.reproduction.drawing import METHOD_NAMES, STYLE, Claim, save, save_numbers
from tonno_core.reproduction.source import Arrays, Scan, Source
from tonno_core.settings import CAM_METHODS, ReconstructionSettings, Variant
from tonno_core.volume.volume import Matrix

# Pixels along a slice's side: its maps by stage have a fourth, an eighth, ... as many cells.
SIDE = 128
CELLS = {1: 32, 2: 16, 3: 8}
SLICES, DIRECTIONS = 100, 1000


def draw(source: Source, folder: Path) -> str:
    """Reconstruct a volume from its own slices, averaged in 32, 16 and 8 cells a side.

    Args:
        source: A scan; no model is needed.
        folder: Where ``fig4.png``, ``.svg``, ``.csv`` and ``.json`` go.

    Returns:
        What was measured.
    """
    scan = source.first()
    slices, directions = source.one("slices", SLICES), source.one("directions", DIRECTIONS)
    facts = {"scan": scan.record(), "slices": slices, "directions": directions, "side": SIDE}
    made = source.kept.get("fig4", facts, lambda: _reconstruct(scan, slices, directions))
    rows = [
        {"cells": cells, "method": method, "correlation": round(float(made[f"{method} {cells} correlation"]), 4)}
        for cells in CELLS.values()
        for method in CAM_METHODS
    ]
    claims = [_claim(made, cells) for cells in CELLS.values()]
    _picture(scan, made, slices, directions, folder)
    return save_numbers(folder, "fig4", rows, {"asked": source.asked, **facts}, claims)


def _reconstruct(scan: Scan, slices: int, directions: int) -> Arrays:
    """Return a plane of the volume and of each reconstruction, and its correlation with the volume inside the ball."""
    variants = {
        f"{method} {cells}": Variant(method, (stage,)) for stage, cells in CELLS.items() for method in CAM_METHODS
    }
    settings = ReconstructionSettings(CAM_METHODS, slices=slices, directions=directions, slice_size=SIDE)
    ready = prepare_model(PIXEL_SUM, settings)
    run = decide(settings, ready, variants=variants)
    with progress_bar(desc="fig4", unit="slice", unit_scale=True) as bar:
        result = execute(scan.volume, ready.encoder, run, Reporter(progress=progress_of(bar)))
    shown = _plane(scan, result.frame_to_ras)
    image = np.nan_to_num(sample(scan.volume.array, scan.volume.ijk_to_ras, shown.points_ras), nan=0.0)
    made: Arrays = {"image": image, "frame_to_ras": result.frame_to_ras}
    truth = scan.volume.array[result.inside]
    for name, heatmap in result.heatmaps.items():
        made[name] = sample(heatmap.array, heatmap.ijk_to_ras, shown.points_ras)
        made[f"{name} correlation"] = np.corrcoef(heatmap.array[result.inside], truth)[0, 1]
    return made


def _claim(made: Arrays, cells: int) -> Claim:
    values = {method: float(made[f"{method} {cells} correlation"]) for method in CAM_METHODS}
    best = values["matched-cam"] > max(values["averaged-cam"], values["tomographic-cam"])
    told = ", ".join(f"{METHOD_NAMES[method]} {value:.3f}" for method, value in values.items())
    return Claim(f"at {cells} cells Matched CAM is nearest to the volume: correlation {told}", best)


def _plane(scan: Scan, frame_to_ras: Matrix) -> Cut:
    """Return the axial plane through the frame's centre, as large as its slices, with as many pixels."""
    radius_mm = float(np.linalg.norm(frame_to_ras[:3, 0]))
    centre = frame_to_ras[:3, 3]
    u, v = PLANES[0].uv(centre)
    pixels = radius_mm * (2.0 * np.arange(SIDE) / (SIDE - 1) - 1.0)
    return Cut(PLANES[0], centre, View(u + pixels, v + pixels, PLANES[0].edges))


def _picture(scan: Scan, made: Arrays, slices: int, directions: int, folder: Path) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(14.4, 8.6))
        grid = figure.add_gridspec(
            3, 5, width_ratios=(1.25, 1, 1, 1, 1), left=0.01, right=0.99, bottom=0.04, top=0.83, wspace=0.05, hspace=0.2
        )
        cut = _plane(scan, np.asarray(made["frame_to_ras"], dtype=np.float64))
        image = np.asarray(made["image"], dtype=np.float64)
        window = grey_window([image])
        axes = figure.add_subplot(grid[:, 0])
        draw_plane(axes, cut.view, PlaneLayers(image, window))
        axes.set_title("the volume itself")
        for row, cells in enumerate(CELLS.values()):
            pooled = image.reshape(cells, SIDE // cells, cells, SIDE // cells).mean(axis=(1, 3))
            enlarged = pooled.repeat(SIDE // cells, axis=0).repeat(SIDE // cells, axis=1)
            axes = figure.add_subplot(grid[row, 1])
            draw_plane(axes, cut.view, PlaneLayers(enlarged, window), guides=False)
            axes.set_title(f"a slice in {cells} by {cells} cells")
            for column, method in enumerate(CAM_METHODS, start=2):
                plane = np.asarray(made[f"{method} {cells}"], dtype=np.float64)
                axes = figure.add_subplot(grid[row, column])
                draw_plane(axes, cut.view, PlaneLayers(plane, grey_window([plane])), guides=False)
                value = float(made[f"{method} {cells} correlation"])
                axes.set_title(f"{METHOD_NAMES[method]}: {value:.3f}")
        head = f"What Averaged, Tomographic and Matched CAM make of coarse maps: {scan.name} from its own pooled slices"
        figure.text(0.01, 0.965, head, size=16, weight="bold", va="top")
        note = (
            f"{directions} directions of {slices} slices. Numbers: correlation with the volume inside of the ball. "
            "Grey values of each picture run from its 0.5 to its 99.5 % quantile."
        )
        figure.text(0.01, 0.915, note, va="top")
        save(figure, folder, "fig4")
