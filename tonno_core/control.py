"""How the caller of a long computation looks into it and ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tonno_core.volume.volume import Volume


class Cancelled(Exception):
    """The caller asked for an end without a result. No error: nothing was wrong."""


@dataclass(frozen=True)
class Preview:
    """Heatmaps of the first ``directions`` of ``of``, by name on the input's grid; ``inside`` as in the result."""

    heatmaps: dict[str, Volume]
    inside: npt.NDArray[np.bool_]
    directions: int
    of: int


@dataclass(frozen=True)
class Control:
    """What a reconstruction calls while it runs, from its own thread, several times a second.

    progress: with (slices done, slices in all). check: raises Cancelled to end it. stopped: whether to end early
    with the directions that are done, at least one batch. preview: gets the heatmaps of the first directions, then
    of twice as many, and so on; a preview is left out where they would take over a fifth of the time, unless
    every_preview: where they decide about the run, as what it gives must not depend on the machine's speed.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    check: Callable[[], None] = lambda: None
    stopped: Callable[[], bool] = lambda: False
    preview: Callable[[Preview], None] | None = None
    every_preview: bool = False
