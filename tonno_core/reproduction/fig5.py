"""Fig. 5: Dice over the stages of the encoder, for slice-wise CAM, Averaged, Tomographic and Matched CAM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tonno_core.errors import TonnoError
from tonno_core.evaluation.bootstrap import Bootstrap
from tonno_core.output import Json
from tonno_core.pictures.cuts import Float
from tonno_core.reproduction.drawing import METHOD_COLOURS, METHOD_MARKS, STYLE, Claim, method_name, save, save_numbers
from tonno_core.reproduction.source import Arrays, Source
from tonno_core.reproduction.stages import (
    METHODS,
    THRESHOLDS,
    TONNO,
    dice_curve,
    heatmap_name,
    look_at,
    stages_of,
)
from tonno_core.settings import CAM_NAMES, CamKind
from tonno_core.words import count_of

_AVERAGED, _MATCHED = "averaged-cam", "matched-cam"


@dataclass(frozen=True)
class Point:
    """A method at a stage, over all scans.

    Attributes:
        method: One of `METHODS`, or `TONNO`.
        stage: From 1, the finest; 0 for `TONNO`, which has none.
        threshold: The one threshold of all scans with the highest mean Dice.
        dice: Of each scan at that threshold.
        best: Of each scan at the threshold that is its own best.
        mean: Of ``dice``.
        low: Lower end of its 95 % interval over patients; None for a single patient.
        high: Upper end of it.
    """

    method: str
    stage: int
    threshold: float
    dice: Float
    best: Float
    mean: float
    low: float | None
    high: float | None

    def record(self) -> Json:
        """Return what the picture shows of it, as JSON holds it.

        Returns:
            Values by name.
        """
        names = ("method", "stage", "threshold", "mean", "low", "high")
        return {name: getattr(self, name) for name in names}


def draw(source: Source, folder: Path) -> str:
    """Measure how well each method segments by each stage.

    A segmentation needs a threshold, and the paper does not say which; here it is the one that is best for all scans
    together, chosen by their masks for each method and stage, so that the stages compete and not their thresholds.

    Args:
        source: A model, and scans with masks.
        folder: Where ``fig5.png``, ``.svg``, ``.csv`` and ``.json`` go.

    Returns:
        What was measured.

    Raises:
        TonnoError: No scan has a mask with a finding.
    """
    names, patients, made = [], [], []
    for number, scan in enumerate(source.read(), start=1):
        if scan.positive:
            made.append(look_at(source, scan, f"{number} of {len(source.scans)}"))
            names.append(scan.name)
            patients.append(scan.patient or scan.name)
    if not made:
        volumes = source.asked.get("volumes", "the volumes")
        raise TonnoError(
            f"fig5: no volume of {volumes} has a mask with a finding, and Dice needs one; give a manifest with masks, "
            "or a volume and its `mask`"
        )
    bootstrap = Bootstrap(patients, seed=0)
    stages = stages_of(source)
    pairs = [(method, stage) for method in METHODS for stage in stages]
    points = [measure(made, method, stage, bootstrap) for method, stage in [*pairs, (TONNO, 0)]]
    rows = [_row(point, name, number) for point in points for number, name in enumerate(names)]
    facts = {
        "asked": source.asked,
        "scans": names,
        "points": [point.record() for point in points],
    }
    _picture(points, stages, len(names), source.cam, folder)
    return save_numbers(folder, "fig5", rows, facts, _claims(points, stages))


def measure(made: list[Arrays], method: str, stage: int, bootstrap: Bootstrap) -> Point:
    """Measure a method at a stage.

    Args:
        made: Of each scan, from `look_at`.
        method: One of `METHODS`, or `TONNO`.
        stage: From 1, the finest.
        bootstrap: Over the scans' patients.

    Returns:
        Its Dice.
    """
    name = heatmap_name(method, stage)
    curves = np.stack([dice_curve(each[f"{name} counts"], int(each["true voxels"])) for each in made])
    chosen = int(np.argmax(curves.mean(axis=0)))
    estimate = bootstrap.mean(curves[:, chosen])
    assert estimate is not None
    threshold = float(THRESHOLDS[chosen])
    return Point(
        method, stage, threshold, curves[:, chosen], curves.max(axis=1), estimate.value, estimate.low, estimate.high
    )


def _row(point: Point, scan: str, number: int) -> dict[str, object]:
    return {
        "method": point.method,
        "stage": point.stage or "",
        "scan": scan,
        "threshold": f"{point.threshold:.6g}",
        "dice": f"{point.dice[number]:.4f}",
        "dice_at_its_own_best_threshold": f"{point.best[number]:.4f}",
    }


def _claims(points: list[Point], stages: tuple[int, ...]) -> list[Claim]:
    """Say whether Averaged CAM falls over the stages, and whether Matched CAM is above it where it has fallen."""
    dice = {(point.method, point.stage): point.mean for point in points}
    averaged = [dice[_AVERAGED, stage] for stage in stages]
    highest, last = max(averaged), averaged[-1]
    told = ", ".join(f"{value:.3f}" for value in averaged)
    first = f"the Dice of Averaged CAM falls over stages {stages[0]} to {stages[-1]}: {told}"
    matched = dice[_MATCHED, stages[-1]]
    second = f"at the last stage Matched CAM is above Averaged CAM: {matched:.3f} against {last:.3f}"
    fallen = bool(len(averaged) > 1 and averaged[0] > last and highest > last)
    return [Claim(first, fallen), Claim(second, matched > last)]


def _picture(points: list[Point], stages: tuple[int, ...], scans: int, cam: CamKind, folder: Path) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 5.8))
        axes = figure.add_axes((0.075, 0.125, 0.66, 0.72))
        for number, method in enumerate(METHODS):
            own = [point for point in points if point.method == method]
            # Side by side, so that intervals do not hide each other.
            x = np.arange(len(stages)) + 0.05 * (number - (len(METHODS) - 1) / 2)
            mean = np.array([point.mean for point in own])
            colour, mark = METHOD_COLOURS[method], METHOD_MARKS[method]
            name = method_name(method, cam)
            axes.plot(x, mean, color=colour, marker=mark, linewidth=2.2, markersize=8, label=name)
            if all(point.low is not None for point in own):
                low, high = ([getattr(point, end) for point in own] for end in ("low", "high"))
                axes.vlines(x, low, high, color=colour, linewidth=1.2, alpha=0.7)
        tonno = points[-1]
        label = f"{method_name(TONNO, cam)} (no stage)"
        axes.axhline(tonno.mean, color=METHOD_COLOURS[TONNO], linestyle=(0, (5, 3)), linewidth=1.8, label=label)
        axes.set_xticks(range(len(stages)), [f"stage {stage}" for stage in stages])
        axes.set(ylabel="Dice, mean over scans", ylim=(0, 1), xlim=(-0.35, len(stages) - 0.65))
        axes.set_xlabel("stage of the encoder, finest maps first")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)
        figure.text(0.02, 0.965, "Dice over the stages of the encoder", size=16, weight="bold", va="top")
        note = f"{count_of(scans, 'scan')} with findings, {CAM_NAMES[cam]}. "
        note += "Threshold: one per method and stage, the best by masks."
        note += " Bars: 95 % over patients." if tonno.low is not None else ""
        figure.text(0.02, 0.905, note, va="top", size=11)
        save(figure, folder, "fig5")
