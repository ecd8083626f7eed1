"""Fig. 8: ToNNO by different numbers of slices (M) and directions (L), and the noise of each, which is measured.

What of a heatmap depends on which directions it is made of is noise: two reconstructions, each of half of the
directions, have the same expectation and independent noise, and half of their difference has the standard deviation of
the whole's. No truth is needed. The formula for white noise of standard deviation sigma on the logits is
sqrt(6) / (2 pi) (M - 1)^2 sigma / sqrt(L).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.pictures.cuts import Cut, Float, sample
from tonno_core.pictures.drawing import PlaneLayers, draw_plane, grey_window
from tonno_core.reconstruction.planes import Planes
from tonno_core.reproduction.drawing import STYLE, Claim, digits, save, save_numbers
from tonno_core.reproduction.plane import plane_of
from tonno_core.reproduction.slices import prepared_for, run_of, slice_logits
from tonno_core.reproduction.source import Arrays, Scan, Source
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import invert
from tonno_core.tomography.projection import Projections
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.grid import ijk_to_grid

# The paper's, and what fits into a quarter of an hour on two cores.
SLICES, DIRECTIONS = (25, 50, 100, 200), (500, 1000, 2000, 5000)
SMALL_SLICES, SMALL_DIRECTIONS = (25, 50, 100), (125, 250, 500, 1000)
# Nodes along a side of the lattice on which noise is measured.
NODES = 40
# Directions that are looked at before they are kept.
_CHUNK = 250
_TONNO = Variant("tonno")
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#555555")
_MARKS = "osD^vx"


@dataclass(frozen=True)
class Panel:
    """A heatmap.

    Attributes:
        slices: M.
        directions: L.
        plane: What it shows of a plane (V, U).
        noise: Standard deviation of its noise in the patient.
    """

    slices: int
    directions: int
    plane: Float
    noise: float


def draw(source: Source, folder: Path) -> str:
    """Reconstruct a scan by ToNNO with each number of slices and of directions.

    The directions of a shorter reconstruction are the first ones of the longest, whose every prefix is evenly spread.

    Args:
        source: A model and a scan.
        folder: Where ``fig8.png``, ``.svg``, ``.csv`` and ``.json``, and ``fig8-noise.png`` and ``.svg`` go.

    Returns:
        What was measured.
    """
    scan = source.first()
    slices, directions = sorted(set(source.slices or SLICES)), sorted(set(source.directions or DIRECTIONS))
    cut = plane_of(scan)
    panels = [panel for count in slices for panel in _panels(source, scan, cut, count, directions)]
    rows = [{"slices": each.slices, "directions": each.directions, "noise": f"{each.noise:.6g}"} for each in panels]
    claims, slopes = trends({(each.slices, each.directions): each.noise for each in panels})
    _sheet(scan, cut, panels, len(directions), folder)
    _curves(scan, panels, slices, directions, folder)
    facts = {"asked": source.asked, "scan": scan.name, "slices": slices, "directions": directions, "slopes": slopes}
    told = save_numbers(folder, "fig8", rows, facts, claims)
    return told or "nothing is claimed: one number of slices and one of directions show no trend; give several"


def trends(noise: Mapping[tuple[int, int], float]) -> tuple[list[Claim], dict[str, float]]:
    """Say whether noise falls with the number of directions and rises with that of slices.

    Args:
        noise: By numbers of slices and directions.

    Returns:
        The claims, and the exponents of the power laws that fit best (noise ~ L^-1/2 is that of independent slices),
        where several numbers were tried.
    """
    slices, directions = (sorted({key[index] for key in noise}) for index in (0, 1))
    claims, slopes = [], {}
    if len(directions) > 1:
        falls = all(noise[m, a] > noise[m, b] for m in slices for a, b in pairwise(directions))
        values = [_slope(directions, [noise[m, count] for count in directions]) for m in slices]
        slopes["directions"] = float(np.mean(values))
        text = f"noise falls with the number of directions: as L to the {slopes['directions']:.2f}"
        claims.append(Claim(text, falls))
    if len(slices) > 1:
        rises = all(noise[a, n] < noise[b, n] for n in directions for a, b in pairwise(slices))
        values = [_slope([m - 1 for m in slices], [noise[m, n] for m in slices]) for n in directions]
        slopes["slices"] = float(np.mean(values))
        claims.append(Claim(f"noise rises with the number of slices: as M - 1 to the {slopes['slices']:.2f}", rises))
    return claims, slopes


def _slope(x: list[int], y: list[float]) -> float:
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _panels(source: Source, scan: Scan, cut: Cut, slices: int, directions: list[int]) -> Iterator[Panel]:
    """Yield the heatmaps of a number of slices."""
    run = run_of(source, slices, directions[-1])
    facts = {
        "scan": scan.record(), "model": source.model_record, "settings": run.asked.record(), "numbers": directions,
        "plane": [cut.centre_ras.tolist(), cut.view.u.tolist(), cut.view.v.tolist()],
    }  # fmt: skip
    made = source.kept.get(f"fig8-{slices}", facts, lambda: _reconstruct(source, scan, cut, slices, directions))
    for count in directions:
        plane = np.asarray(made[f"plane {count}"], dtype=np.float64)
        yield Panel(slices, count, plane, float(made[f"noise {count}"]))


def _reconstruct(source: Source, scan: Scan, cut: Cut, slices: int, directions: list[int]) -> Arrays:
    """Backproject each direction once: the sums of all that come before a number of them are sums of parts."""
    run = run_of(source, slices, directions[-1])
    prepared = prepared_for(scan, run)
    plan = Planes(scan.volume, run, prepared.frame_to_ras).tomographic(directions[-1])
    logits = _logits(source, scan, plan, slices)
    grids = {"plane": _plane_grid(cut, plan), "nodes": TargetGrid((NODES,) * 3, ijk_to_grid((NODES,) * 3), radius=1.0)}
    foreground = foreground_mask(scan.volume) if prepared.foreground is None else prepared.foreground
    share = sample(foreground.astype(np.float32), scan.volume.ijk_to_ras, _points(grids["nodes"], plan))
    patient = (np.nan_to_num(share) >= 0.5) & _within(grids["nodes"])
    ends = sorted({end for count in directions for end in (count // 2, count)})
    sums = {name: {0: np.zeros(grid.shape)} for name, grid in grids.items()}
    for start, stop in zip([0, *ends], ends, strict=False):
        part = replace(plan, directions=plan.directions[start:stop])
        batch = Projections(slice(0, stop - start), torch.as_tensor(logits[start:stop]), {})
        for name, grid in grids.items():
            mean = invert([batch], part, grid, [_TONNO]).heatmaps[_TONNO].double().numpy()
            sums[name][stop] = sums[name][start] + mean * (stop - start)
    made: Arrays = {}
    for count in directions:
        half = count // 2
        first = sums["nodes"][half] / half
        second = (sums["nodes"][count] - sums["nodes"][half]) / (count - half)
        made[f"noise {count}"] = np.array(np.std((first - second)[patient] / 2.0))
        made[f"plane {count}"] = (sums["plane"][count][0] / count).astype(np.float32)
    return made


def _logits(source: Source, scan: Scan, plan: SlicePlan, slices: int) -> npt.NDArray[np.float32]:
    """Return the logits of all planes; they are kept in chunks, so that little is lost when the command is stopped."""
    run = run_of(source, slices, len(plan.directions))
    prepared = prepared_for(scan, run)
    facts = {"scan": scan.record(), "model": source.model_record, "settings": run.asked.record()}
    chunks = []
    for start in range(0, len(plan.directions), _CHUNK):
        part = replace(plan, directions=plan.directions[start : start + _CHUNK])
        of = f"{slices} slices, directions {start + 1} to {start + len(part.directions)} of {len(plan.directions)}"

        def compute(part: SlicePlan = part, of: str = of) -> Arrays:
            return {"logits": slice_logits(source, prepared, run, part, of)}

        made = source.kept.get(f"fig8-{slices}-{start}", {**facts, "start": start, "chunk": _CHUNK}, compute)
        chunks.append(np.asarray(made["logits"], dtype=np.float32))
    return np.concatenate(chunks)


def _plane_grid(cut: Cut, plan: SlicePlan) -> TargetGrid:
    """Return the pixels of a plane as a grid of one layer to backproject on."""
    points = cut.points_ras
    pixel_to_ras = np.eye(4)
    pixel_to_ras[:3, 0] = points[0, 1] - points[0, 0]
    pixel_to_ras[:3, 1] = points[1, 0] - points[0, 0]
    pixel_to_ras[:3, 2] = np.cross(pixel_to_ras[:3, 0], pixel_to_ras[:3, 1]) / cut.view.pixel_mm
    pixel_to_ras[:3, 3] = points[0, 0]
    shape = (1, cut.view.v.size, cut.view.u.size)
    return TargetGrid(shape, np.linalg.inv(plan.frame_to_ras) @ pixel_to_ras, radius=1.0)


def _points(grid: TargetGrid, plan: SlicePlan) -> Float:
    """Place the nodes in the patient: Z Y X 3, RAS mm."""
    z, y, x = np.indices(grid.shape, dtype=np.float64)
    to_ras = plan.frame_to_ras @ grid.ijk_to_frame
    return np.asarray(np.stack([x, y, z], axis=-1) @ to_ras[:3, :3].T + to_ras[:3, 3])


def _within(grid: TargetGrid) -> npt.NDArray[np.bool_]:
    """Tell which nodes the planes of all directions cover."""
    z, y, x = np.indices(grid.shape, dtype=np.float64)
    points = np.stack([x, y, z], axis=-1) @ grid.ijk_to_frame[:3, :3].T + grid.ijk_to_frame[:3, 3]
    return np.asarray((points**2).sum(axis=-1) <= 1.0)


def _sheet(scan: Scan, cut: Cut, panels: list[Panel], columns: int, folder: Path) -> None:
    """Draw the heatmaps, a row for each number of slices and a column for each number of directions."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        image = sample(scan.volume.array, scan.volume.ijk_to_ras, cut.points_ras)
        truth = None
        if scan.truth is not None:
            truth = sample(scan.truth.astype(np.float32), scan.volume.ijk_to_ras, cut.points_ras)
        # The colours of the most certain heatmap of the median number of slices: noise beyond it is seen as noise.
        longest = panels[columns - 1 :: columns]
        limit = float(np.percentile(np.abs(longest[len(longest) // 2].plane), 99.8)) or 1.0
        wide, gap, line, edge, head = 2.6, 0.1, 0.34, 0.18, 1.12
        tall, rows = wide * cut.view.v.size / cut.view.u.size, len(panels) // columns
        width = max(2 * edge + columns * (wide + gap) - gap, 9.0)
        height = head + rows * (tall + line) + edge
        figure = Figure(figsize=(width, height))
        for number, panel in enumerate(panels):
            row, column = divmod(number, columns)
            left, bottom = edge + column * (wide + gap), height - head - (row + 1) * (tall + line)
            axes = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
            layers = PlaneLayers(image, grey_window([image]), panel.plane, limit, truth=truth)
            draw_plane(axes, cut.view, layers, guides=number == 0)
            axes.set_title(f"M {panel.slices}, L {panel.directions}: noise {digits(panel.noise)}", size=11, pad=5)
        title = f"ToNNO of {scan.name} by M slices along each of L directions"
        figure.text(edge / width, 1 - 0.16 / height, title, size=16, weight="bold", va="top")
        note = f"All pictures have the same colours, full at {digits(limit)} and blue where negative."
        dashed = " Dashed: the truth." if scan.positive else ""
        figure.text(edge / width, 1 - 0.56 / height, f"{note}{dashed}", size=11, va="top")
        more = (
            "Noise: half of the difference between the two halves of the directions, standard deviation in the patient."
        )
        figure.text(edge / width, 1 - 0.82 / height, more, size=11, va="top")
        save(figure, folder, "fig8")


def _curves(scan: Scan, panels: list[Panel], slices: list[int], directions: list[int], folder: Path) -> None:
    """Draw the noise over the number of directions, a curve for each number of slices, with 1 / sqrt(L) beside it."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

        figure = Figure(figsize=(7.6, 5.4))
        axes = figure.add_axes((0.12, 0.125, 0.64, 0.74))
        for number, count in enumerate(slices):
            noise = [panel.noise for panel in panels if panel.slices == count]
            colour, mark = _COLOURS[number % len(_COLOURS)], _MARKS[number % len(_MARKS)]
            axes.plot(directions, noise, color=colour, marker=mark, linewidth=2, markersize=7, label=f"M = {count}")
            expected = noise[0] * np.sqrt(directions[0] / np.asarray(directions, dtype=np.float64))
            label = "1 / √L" if number == len(slices) - 1 else None
            axes.plot(
                directions, expected, color="#777777", linewidth=1.0, linestyle=(0, (4, 3)), zorder=0, label=label
            )
        axes.set(xscale="log", yscale="log", xlabel="L, number of directions", ylabel="noise of the heatmap")
        axes.set_xticks(directions, [str(count) for count in directions])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: digits(value)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        figure.text(
            0.02, 0.965, f"Noise of ToNNO of {scan.name} by M slices and L directions", size=15, weight="bold", va="top"
        )
        save(figure, folder, "fig8-noise")
