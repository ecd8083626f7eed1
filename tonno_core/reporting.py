"""How a long computation tells its caller how far it is, lets him look into it, and is ended by him."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from tonno_core.progress import progress_bar as bar_or_lines
from tonno_core.volume.volume import Volume


class Cancelled(Exception):
    """The caller asked for an end without a result. No error: nothing was wrong."""


@dataclass(frozen=True)
class Preview:
    """Heatmaps of the first directions.

    Attributes:
        heatmaps: By name, on the input's grid.
        inside: Voxels that the planes cover, bool Z Y X.
        directions: How many directions the heatmaps are made of.
        of: How many a whole run has.
    """

    heatmaps: dict[str, Volume]
    inside: npt.NDArray[np.bool_]
    directions: int
    of: int


class Timings:
    """Adds up wall seconds by name. On a GPU, whose work is asynchronous, only the total is exact."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time that the block takes.

        Args:
            name: Of the step.

        Yields:
            Nothing.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@dataclass(frozen=True)
class Reporter:
    """What a reconstruction calls while it runs, from its own thread, several times a second.

    Attributes:
        progress: Called with (slices done, slices in all).
        check: Raises Cancelled to end the run.
        stopped: Returns whether to end early with the directions that are done, at least one batch.
        preview: Gets the heatmaps of the first directions, then of twice as many, and so on. Previews are skipped while
            they cost more than a fifth of the run.
        every_preview: Never skip a preview: where they decide when the run ends, results must not depend on speed.
        timings: Of the steps.
        say: Called once before the first slice where a run costs much more than others, with a sentence.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    check: Callable[[], None] = lambda: None
    stopped: Callable[[], bool] = lambda: False
    preview: Callable[[Preview], None] | None = None
    every_preview: bool = False
    timings: Timings = field(default_factory=Timings)
    say: Callable[[str], None] = lambda text: None

    def untimed(self) -> Reporter:
        """Return a reporter for what is timed as a whole.

        Returns:
            The same, whose steps are not added to the timings.
        """
        return replace(self, timings=Timings())


def progress_bar(*, disable: bool = False, unit: str = "slice") -> tqdm[Any]:
    """Make a bar that appears with the first slices: what is wrong before them is said in the only line.

    Args:
        disable: Show none.
        unit: What is counted.

    Returns:
        The bar.
    """
    return bar_or_lines(desc="reconstructing", unit=unit, unit_scale=True, delay=0.01, disable=disable)


def progress_of(bar: tqdm[Any]) -> Callable[[int, int], None]:
    """Return a callback that drives a progress bar.

    Args:
        bar: From `progress_bar`.

    Returns:
        To be called with (done, total).
    """

    def advanced(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advanced
