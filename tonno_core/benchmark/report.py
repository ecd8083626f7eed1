"""The results of `tonno bench` as text, as JSON and as a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tabulate import tabulate

from tonno_core.benchmark.machine import NOT_READABLE, Energy
from tonno_core.benchmark.measure import PreviewedRun, Spread, WholeRun


@dataclass(frozen=True)
class Comparison:
    """With something else, repeat by repeat. other, own: seconds. agreement: what shows that the results agree."""

    name: str
    what: str
    other: Spread
    own: Spread
    agreement: dict[str, float]

    @property
    def times(self) -> Spread:
        """How many times as fast the engine was in each repeat."""
        return Spread(tuple(a / b for a, b in zip(self.other.values, self.own.values, strict=True)))

    def as_json(self) -> dict[str, Any]:
        """For the file."""
        parts = {"seconds": self.other, "engine_seconds": self.own, "times_as_fast": self.times}
        return {"what": self.what, **{name: one.as_json() for name, one in parts.items()}, **self.agreement}


@dataclass(frozen=True)
class Report:
    """Everything that was measured. bare: slices per second of each bare encoder."""

    machine: dict[str, Any]
    task: dict[str, Any]
    runs: list[WholeRun]
    previewed: list[PreviewedRun]
    bare: dict[str, Spread]
    memory_mb: float | None
    energy: Energy
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def stages(self) -> dict[str, Spread]:
        """Seconds by stage."""
        return {name: Spread(tuple(run.stages()[name] for run in self.runs)) for name in self.runs[0].stages()}

    @property
    def shares(self) -> dict[str, Spread]:
        """Percent of the whole by stage."""
        return {
            name: Spread(tuple(100.0 * run.stages()[name] / run.seconds["total"] for run in self.runs))
            for name in self.runs[0].stages()
        }

    @property
    def total(self) -> Spread:
        """Seconds of the whole."""
        return Spread(tuple(run.seconds["total"] for run in self.runs))

    @property
    def rate(self) -> Spread:
        """Slices sent to the encoder per second of the whole."""
        return Spread(tuple(run.rate for run in self.runs))

    @property
    def encoder_rate(self) -> Spread:
        """Slices per second while the encoder runs."""
        return Spread(tuple(run.encoder_rate for run in self.runs))

    @property
    def best_bare(self) -> tuple[str, Spread]:
        """The bare encoder of the highest median."""
        return max(self.bare.items(), key=lambda item: item[1].median)

    def of_bare(self, rate: Spread) -> Spread:
        """A rate over the best bare encoder's, repeat by repeat."""
        return Spread(tuple(a / b for a, b in zip(rate.values, self.best_bare[1].values, strict=True)))

    @property
    def skipped(self) -> float:
        """Share of the slices that show only fill, and were not sent to the encoder."""
        one = self.runs[0].result
        return one.slices_blank / one.slices_total

    def text(self) -> str:
        """Tables for the terminal; every number is a median and, in brackets, the range of the repeats."""
        best, _ = self.best_bare
        parts = [_sentence(self.machine), _sentence(self.task)]
        shares = self.shares
        rows = [[name, one.text(), shares[name].text()] for name, one in self.stages.items()]
        rows.append(["whole", self.total.text(), "100"])
        parts.append(_table(rows, ["stage", "seconds", "% of the whole"]))
        lines = [[name, one.text(4)] for name, one in self.bare.items()]
        lines.append(["in the reconstruction, while it runs", self.encoder_rate.text(4)])
        lines.append(["the whole reconstruction", self.rate.text(4)])
        parts.append(_table(lines, ["encoder alone, batch norm folded", "slices/s"]))
        parts.append(
            f"whole / best bare encoder ({best}): {self.of_bare(self.rate).text()}; "
            f"encoder within / best bare: {self.of_bare(self.encoder_rate).text()}\n"
            f"{self._previews()}\n"
            f"blank slices skipped: {100 * self.skipped:.1f} % of {self.runs[0].result.slices_total}\n"
            f"peak memory: {_amount(self.memory_mb, 'MB')}; energy per reconstruction: {self._energy()}"
        )
        for one in self.comparisons:
            agreement = ", ".join(f"{name} {value:.6g}" for name, value in one.agreement.items())
            parts.append(
                f"{one.name}: {one.times.text()} times as fast ({one.other.text()} s to {one.own.text()} s); "
                f"{agreement}\n  {one.what}"
            )
        return "\n\n".join(parts)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        best, _ = self.best_bare
        return {
            "machine": self.machine,
            "task": self.task,
            "repeats": len(self.runs),
            "seconds": {**{name: one.as_json() for name, one in self.stages.items()}, "total": self.total.as_json()},
            "percent": {name: one.as_json() for name, one in self.shares.items()},
            "slices_per_second": {
                "whole": self.rate.as_json(),
                "encoder": self.encoder_rate.as_json(),
                "bare_encoder": {name: one.as_json() for name, one in self.bare.items()},
            },
            "best_bare_encoder": best,
            "whole_over_bare": self.of_bare(self.rate).as_json(),
            "encoder_over_bare": self.of_bare(self.encoder_rate).as_json(),
            "previews": {
                "first_seconds": None if self.first_preview is None else self.first_preview.as_json(),
                "directions": self.previewed[0].directions,
                "percent": self.preview_percent.as_json(),
            },
            "slices": {"total": self.runs[0].result.slices_total, "share_blank_and_skipped": self.skipped},
            "peak_memory_mb": self.memory_mb,
            "energy": {"joules_per_reconstruction": self.energy.joules, "source": self.energy.source},
            "comparisons": {one.name: one.as_json() for one in self.comparisons},
        }

    @property
    def first_preview(self) -> Spread | None:
        """Seconds from the volume in memory to the first heatmap to look at; None where no run showed one."""
        found = [one.first for one in self.previewed if one.first is not None]
        return Spread(tuple(found)) if found else None

    @property
    def preview_percent(self) -> Spread:
        """Of the time of a run with previews, what they took."""
        return Spread(tuple(100.0 * one.share for one in self.previewed))

    def _previews(self) -> str:
        if self.first_preview is None:
            return "first preview: none, the run is too short"
        directions, percent = self.previewed[0].directions, self.preview_percent.text()
        return f"first preview: {self.first_preview.text()} s, by {directions} directions; all of them: {percent} %"

    def _energy(self) -> str:
        return (
            self.energy.source if self.energy.joules is None else f"{self.energy.joules:.0f} J ({self.energy.source})"
        )


def write(report: Report, folder: Path) -> None:
    """``bench.json`` and ``bench.png``."""
    (folder / "bench.json").write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    picture(report).savefig(folder / "bench.png", dpi=150)


def picture(report: Report) -> Figure:
    """Shares of the stages, and slices per second."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _bars(left, report.shares, "% of the whole")
    rates = {**report.bare, "in the reconstruction": report.encoder_rate, "whole": report.rate}
    _bars(right, rates, "slices per second")
    figure.suptitle(f"{report.machine['device']}, {report.machine['threads']} threads: {report.task['encoder']}")
    return figure


def _bars(axes: Any, values: dict[str, Spread], label: str) -> None:
    medians = [one.median for one in values.values()]
    below = [one.median - min(one.values) for one in values.values()]
    above = [max(one.values) - one.median for one in values.values()]
    axes.barh(list(values), medians, xerr=[below, above], color="#4477aa", ecolor="#333333", capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"{label} (median, range)")
    axes.spines[["top", "right"]].set_visible(False)


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, disable_numparse=True)


def _sentence(values: dict[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        parts.append(f"{name.replace('_', ' ')}: {shown}")
    return "; ".join(parts)


def _amount(value: float | None, unit: str) -> str:
    return NOT_READABLE if value is None else f"{value:.0f} {unit}"
