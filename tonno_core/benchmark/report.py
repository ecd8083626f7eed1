"""The results of `tonno bench` as text, as JSON and as a picture."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from tabulate import tabulate

from tonno_core.benchmark.comparison import Comparison
from tonno_core.benchmark.machine import NOT_READABLE
from tonno_core.benchmark.measure import Repeat, Spread
from tonno_core.output import Json, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Report:
    """Everything that was measured, and on what.

    Attributes:
        machine: From `machine.describe`.
        task: What was reconstructed, by name.
        repeats: What was measured.
        comparisons: With other implementations.
    """

    machine: Json
    task: Json
    repeats: Sequence[Repeat]
    comparisons: Sequence[Comparison] = ()

    def _spread(self, value: Callable[[Repeat], float]) -> Spread:
        return Spread(tuple(value(repeat) for repeat in self.repeats))

    def _spreads(self, values: Callable[[Repeat], dict[str, float]]) -> dict[str, Spread]:
        repeats = [values(repeat) for repeat in self.repeats]
        return {name: Spread(tuple(repeat[name] for repeat in repeats)) for name in repeats[0]}

    @property
    def total(self) -> Spread:
        """Return the seconds of the whole."""
        return self._spread(lambda repeat: repeat.whole.seconds["total"])

    @property
    def stages(self) -> dict[str, Spread]:
        """Return the seconds by stage."""
        return self._spreads(lambda repeat: repeat.whole.stages())

    @property
    def percent(self) -> dict[str, Spread]:
        """Return the percentage of the whole by stage."""
        total = self.total
        return {name: seconds / total * 100.0 for name, seconds in self.stages.items()}

    @property
    def rate(self) -> Spread:
        """Return the slices sent to the encoder per second of the whole."""
        return self._spread(lambda repeat: repeat.whole.rate)

    @property
    def encoder_rate(self) -> Spread:
        """Return the slices per second while the encoder runs."""
        return self._spread(lambda repeat: repeat.whole.encoder_rate)

    @property
    def bare(self) -> dict[str, Spread]:
        """Return the slices per second of each bare encoder."""
        return self._spreads(lambda repeat: repeat.bare)

    @property
    def best_bare(self) -> str:
        """Return the name of the bare encoder of the highest median."""
        return max(self.bare, key=lambda name: self.bare[name].median)

    @property
    def first_preview(self) -> Spread | None:
        """Return the seconds from the volume in memory to the first preview; None where no run showed one."""
        first = [repeat.previewed.first for repeat in self.repeats if repeat.previewed.first is not None]
        return Spread(tuple(first)) if first else None

    @property
    def preview_percent(self) -> Spread:
        """Return the percentage of the time of a run with previews that these took."""
        return self._spread(lambda repeat: 100.0 * repeat.previewed.share)

    @property
    def joules(self) -> float | None:
        """Return the mean energy of a reconstruction; None where it could not be read."""
        joules = [repeat.energy.joules for repeat in self.repeats if repeat.energy.joules is not None]
        return sum(joules) / len(joules) if joules else None

    @property
    def blank(self) -> float:
        """Return the share of the slices that show only fill, and were not sent to the encoder."""
        result = self.repeats[0].whole.result
        return result.slices_blank / result.slices_total

    def text(self) -> str:
        """Format tables for the terminal; every number is a median and, in brackets, the range of the repeats.

        Returns:
            Several paragraphs.
        """
        percent, bare = self.percent, self.bare[self.best_bare]
        stages = [[name, seconds.text(), percent[name].text()] for name, seconds in self.stages.items()]
        stages.append(["whole", self.total.text(), "100"])
        rates = {
            **self.bare,
            "in the reconstruction, while it runs": self.encoder_rate,
            "the whole reconstruction": self.rate,
        }
        first, joules = self.repeats[0], self.joules
        memory, source = first.memory_mb, first.energy.source
        parts = [
            _sentence(self.machine),
            _sentence(self.task),
            _table(stages, ["stage", "seconds", "% of the whole"]),
            _table(
                [[name, rate.text(4)] for name, rate in rates.items()], ["encoder alone, batch norm folded", "slices/s"]
            ),
            f"whole / best bare encoder ({self.best_bare}): {(self.rate / bare).text()}; "
            f"encoder within / best bare: {(self.encoder_rate / bare).text()}\n"
            f"{self._previews()}\n"
            f"blank slices skipped: {100 * self.blank:.1f} % of {first.whole.result.slices_total}\n"
            f"peak memory: {NOT_READABLE if memory is None else f'{memory:.0f} MB'}; "
            f"energy per reconstruction: {source if joules is None else f'{joules:.0f} J ({source})'}",
            *(comparison.text() for comparison in self.comparisons),
        ]
        return "\n\n".join(parts)

    def as_json(self) -> Json:
        """Return all of it for ``bench.json``.

        Returns:
            JSON object.
        """
        bare, first = self.bare[self.best_bare], self.first_preview
        return {
            "machine": self.machine,
            "task": self.task,
            "repeats": len(self.repeats),
            "seconds": {**_as_json(self.stages), "total": self.total.as_json()},
            "percent": _as_json(self.percent),
            "slices_per_second": {
                "whole": self.rate.as_json(),
                "encoder": self.encoder_rate.as_json(),
                "bare_encoder": _as_json(self.bare),
            },
            "best_bare_encoder": self.best_bare,
            "whole_over_bare": (self.rate / bare).as_json(),
            "encoder_over_bare": (self.encoder_rate / bare).as_json(),
            "previews": {
                "first_seconds": None if first is None else first.as_json(),
                "directions": self.repeats[0].previewed.directions,
                "percent": self.preview_percent.as_json(),
            },
            "slices": {
                "total": self.repeats[0].whole.result.slices_total,
                "share_blank_and_skipped": self.blank,
            },
            "peak_memory_mb": self.repeats[0].memory_mb,
            "energy": {"joules_per_reconstruction": self.joules, "source": self.repeats[0].energy.source},
            "comparisons": {comparison.name: comparison.as_json() for comparison in self.comparisons},
        }

    def write(self, folder: Path) -> None:
        """Write ``bench.json`` and ``bench.png``.

        Args:
            folder: An existing folder.
        """
        write_text(folder / "bench.json", json.dumps(self.as_json(), indent=2) + "\n")
        self._draw().savefig(folder / "bench.png", dpi=150)

    def _previews(self) -> str:
        if self.first_preview is None:
            return "first preview: none, the run is too short"
        directions, percent = self.repeats[0].previewed.directions, self.preview_percent.text()
        return f"first preview: {self.first_preview.text()} s, by {directions} directions; all of them: {percent} %"

    def _draw(self) -> Figure:
        """Draw the shares of the stages, and slices per second."""
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        left, right = figure.subplots(1, 2)
        _bars(left, self.percent, "% of the whole")
        _bars(right, {**self.bare, "in the reconstruction": self.encoder_rate, "whole": self.rate}, "slices per second")
        figure.suptitle(f"{self.machine['device']}, {self.machine['threads']} threads: {self.task['encoder']}")
        return figure


def _bars(axes: Axes, spreads: dict[str, Spread], label: str) -> None:
    medians = [spread.median for spread in spreads.values()]
    below = [spread.median - min(spread.values) for spread in spreads.values()]
    above = [max(spread.values) - spread.median for spread in spreads.values()]
    axes.barh(list(spreads), medians, xerr=[below, above], color="#4477aa", ecolor="#333333", capsize=3)
    axes.invert_yaxis()
    axes.set_xlabel(f"{label} (median, range)")
    axes.spines[["top", "right"]].set_visible(False)


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return tabulate(rows, headers=headers, disable_numparse=True)


def _as_json(spreads: dict[str, Spread]) -> Json:
    return {name: spread.as_json() for name, spread in spreads.items()}


def _sentence(values: Json) -> str:
    parts = []
    for name, value in values.items():
        shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        parts.append(f"{name.replace('_', ' ')}: {shown}")
    return "; ".join(parts)
