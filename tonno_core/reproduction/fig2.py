"""Fig. 2: what the slice classifier answers: its logits by class, and along directions through a scan with findings.

The classifier learned from labels of whole volumes, so every slice of a positive volume was called positive. Where it
is told which slices pass through the finding, the histogram shows whether it found out by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.pictures.cuts import Float
from tonno_core.reproduction.drawing import STYLE, Claim, save, save_numbers
from tonno_core.reproduction.slices import cut_by, offsets_mm, prepared_for, run_of, slice_logits
from tonno_core.reproduction.source import Arrays, Scan, Source
from tonno_core.segmentation.metrics import auc
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import patient_axes
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.foreground import foreground_mask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SLICES, DIRECTIONS = 100, 32
# The directions of the profiles: sums of R, A and S.
PROFILES = {"R": (1, 0, 0), "A": (0, 1, 0), "S": (0, 0, 1), "R + A": (1, 1, 0), "R + S": (1, 0, 1), "A + S": (0, 1, 1)}
_NEGATIVE, _POSITIVE, _UNKNOWN = "negative volumes", "positive volumes", "the volume"
_BESIDE, _THROUGH = "positive volumes, beside the finding", "positive volumes, through the finding"
_COLOURS = {
    _NEGATIVE: "#0072B2", _BESIDE: "#E69F00", _THROUGH: "#D55E00", _POSITIVE: "#D55E00", _UNKNOWN: "#0072B2",
}  # fmt: skip
_DASHES = {
    _NEGATIVE: "solid", _BESIDE: (0, (5, 2)), _THROUGH: (0, (1.5, 1.2)), _POSITIVE: (0, (5, 2)), _UNKNOWN: "solid",
}  # fmt: skip


@dataclass(frozen=True)
class _Profile:
    """Logits along a direction.

    Attributes:
        name: Of the direction.
        mm: Places of the planes from the frame's centre.
        logits: Of the planes.
        through: Whether each cuts the finding.
        inside: Whether each cuts the patient.
    """

    name: str
    mm: Float
    logits: Float
    through: npt.NDArray[np.bool_]
    inside: npt.NDArray[np.bool_]

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield the lines of the table."""
        for mm, logit, through, inside in zip(self.mm, self.logits, self.through, self.inside, strict=True):
            yield {
                "direction": self.name, "mm": f"{mm:.2f}", "logit": f"{logit:.5f}", "cuts_finding": int(through),
                "cuts_patient": int(inside),
            }  # fmt: skip


def draw(source: Source, folder: Path) -> str:
    """Show the logits of slices by class, and along some directions through a scan with the finding.

    Args:
        source: A model and scans.
        folder: Where ``fig2.png``, ``.svg``, ``.csv``, ``.json``, and ``fig2-profiles.csv`` go.

    Returns:
        What was measured.
    """
    slices, directions = source.one("slices", SLICES), source.one("directions", DIRECTIONS)
    groups: dict[str, list[Float]] = {}
    shown: tuple[Scan, Arrays] | None = None
    for number, scan in enumerate(source.read(), start=1):
        made = _look(source, scan, slices, directions, f"{scan.name} ({number} of {len(source.scans)})")
        for name, chosen in _groups(scan, made).items():
            if chosen.any():
                groups.setdefault(name, []).append(np.asarray(made["logits"], dtype=np.float64)[chosen])
        if shown is None or (scan.positive and not shown[0].positive):
            shown = scan, made
    if shown is None or not groups:
        raise TonnoError("fig2: no plane cuts a volume; expected volumes with a body brighter than its background")
    logits = {name: np.concatenate(groups[name]) for name in _COLOURS if name in groups}
    profiles = _profiles(shown[1])
    edges = np.histogram_bin_edges(np.concatenate(list(logits.values())), bins=40)
    _picture(logits, edges, profiles, shown[0], folder)
    rows = [_bin(edges, index, logits) for index in range(len(edges) - 1)]
    more = [row for each in profiles for row in each.rows()]
    facts = {
        "asked": source.asked, "slices": slices, "directions": directions, "profiles of": shown[0].name,
        "groups": {name: _summary(values) for name, values in logits.items()},
    }  # fmt: skip
    save_numbers(folder, "fig2-profiles", more, {"asked": source.asked, "scan": shown[0].name})
    told = save_numbers(folder, "fig2", rows, facts, _claims(logits))
    return told or (
        f"nothing is claimed: all slices are of one group ({', '.join(logits)}), and two are compared; give a manifest "
        "with both labels, or a `mask`"
    )


def _look(source: Source, scan: Scan, slices: int, directions: int, of: str) -> Arrays:
    """Return logits of planes over the sphere and of those of the profiles, and what each of them cuts."""
    run = run_of(source, slices, directions)
    facts = {
        "scan": scan.record(), "model": source.model_record, "settings": run.asked.record(),
        "profiles": list(PROFILES),
    }  # fmt: skip

    def compute() -> Arrays:
        prepared = prepared_for(scan, run)
        axes = patient_axes(prepared.frame_to_ras)
        along = np.array(list(PROFILES.values()), dtype=np.float64) @ axes
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        plan = SlicePlan(prepared.frame_to_ras, np.concatenate([hemisphere(directions), along]), slices, run.pixels)
        foreground = foreground_mask(scan.volume) if prepared.foreground is None else prepared.foreground
        made: Arrays = {
            "logits": slice_logits(source, prepared, run, plan, of),
            "patient": cut_by(foreground, scan.volume, plan),
            "mm": offsets_mm(plan),
        }
        if scan.truth is not None:
            made["finding"] = cut_by(scan.truth, scan.volume, plan)
        return made

    return source.kept.get("fig2", facts, compute)


def _groups(scan: Scan, made: Arrays) -> dict[str, npt.NDArray[np.bool_]]:
    """Sort the planes over the sphere that cut the patient: L T by group."""
    inside = np.asarray(made["patient"] > 0)
    inside[-len(PROFILES) :] = False
    if scan.label is None:
        return {_UNKNOWN: inside}
    if scan.label == 0:
        return {_NEGATIVE: inside}
    if "finding" not in made:
        return {_POSITIVE: inside}
    through = np.asarray(made["finding"] > 0)
    return {_BESIDE: inside & ~through, _THROUGH: inside & through}


def _profiles(made: Arrays) -> list[_Profile]:
    rows = slice(-len(PROFILES), None)
    logits = np.asarray(made["logits"], dtype=np.float64)[rows]
    patient = made["patient"][rows] > 0
    finding = made["finding"][rows] > 0 if "finding" in made else np.zeros_like(patient)
    along = zip(PROFILES, np.asarray(made["mm"], dtype=np.float64)[rows], logits, finding, patient, strict=True)
    return [_Profile(*each) for each in along]


def _claims(logits: dict[str, Float]) -> list[Claim]:
    """Say how well the logits tell the groups apart; the chance that a slice of one is above one of the other."""
    claims = []
    pairs = ((_THROUGH, _NEGATIVE), (_POSITIVE, _NEGATIVE), (_THROUGH, _BESIDE))
    for high, low in pairs:
        if high in logits and low in logits:
            labels = np.repeat([1, 0], [logits[high].size, logits[low].size])
            value = auc(np.concatenate([logits[high], logits[low]]), labels)
            text = f"slices of {high} have higher logits than those of {low}: AUC {value:.3f}"
            claims.append(Claim(text, value > 0.5))
    return claims


def _summary(values: Float) -> dict[str, float]:
    low, middle, high = np.percentile(values, (5, 50, 95))
    return {"slices": values.size, "5 %": float(low), "median": float(middle), "95 %": float(high)}


def _bin(edges: Float, index: int, logits: dict[str, Float]) -> dict[str, object]:
    counts = {name: int(np.histogram(values, edges)[0][index]) for name, values in logits.items()}
    return {"from": f"{edges[index]:.5f}", "to": f"{edges[index + 1]:.5f}", **counts}


def _picture(logits: dict[str, Float], edges: Float, profiles: list[_Profile], scan: Scan, folder: Path) -> None:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(14.4, 6.6))
        axes = figure.add_axes((0.055, 0.1, 0.36, 0.61))
        _histogram(axes, logits, edges)
        grid = figure.add_gridspec(2, 3, left=0.49, right=0.985, bottom=0.1, top=0.82, wspace=0.12, hspace=0.42)
        spread = np.concatenate([each.logits[each.inside] for each in profiles])
        low, high = float(spread.min()), float(spread.max())
        room = 0.06 * (high - low) or 1.0
        for number, each in enumerate(profiles):
            row, column = divmod(number, 3)
            axes = figure.add_subplot(grid[row, column])
            _draw_profile(axes, each)
            axes.set_ylim(low - room, high + room)
            axes.set_title(f"along {each.name}", pad=4)
            if column:
                axes.tick_params(labelleft=False)
            else:
                axes.set_ylabel("logit")
            if row:
                axes.set_xlabel("mm from the centre")
        figure.text(0.012, 0.965, "a   Logits of slices by class", size=16, weight="bold", va="top")
        figure.text(
            0.45, 0.965, f"b   Logits along six directions through {scan.name}", size=16, weight="bold", va="top"
        )
        if scan.positive:
            figure.text(0.475, 0.9, "Shaded: the plane passes through a finding.", size=11, va="top")
        save(figure, folder, "fig2")


def _histogram(axes: Axes, logits: dict[str, Float], edges: Float) -> None:
    for name, values in logits.items():
        share = 100.0 * np.histogram(values, edges)[0] / values.size
        label = f"{name} ({values.size:,} slices)"
        axes.stairs(share, edges, fill=True, color=_COLOURS[name], alpha=0.16)
        axes.stairs(share, edges, color=_COLOURS[name], linewidth=2.2, linestyle=_DASHES[name], label=label)
    axes.set(xlabel="logit of a slice", ylabel="share of the group's slices (%)")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.02), borderaxespad=0, handlelength=3.2)


def _draw_profile(axes: Axes, profile: _Profile) -> None:
    """Draw the logits where the planes cut the patient, and bands where they cut the finding."""
    step = float(profile.mm[1] - profile.mm[0])
    for place in profile.mm[profile.through]:
        axes.axvspan(place - step / 2, place + step / 2, color="#D55E00", alpha=0.22, linewidth=0)
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    logits = np.where(profile.inside, profile.logits, np.nan)
    axes.plot(profile.mm, logits, color="#0072B2", linewidth=1.8)
    shown = profile.mm[profile.inside]
    if shown.size:
        axes.set_xlim(float(shown[0]) - step, float(shown[-1]) + step)
