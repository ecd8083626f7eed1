"""How the caller of a long computation looks into it and ends it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tonno_core.reconstruction.result import Preview


class Cancelled(Exception):
    """The caller asked for an end without a result. No error: nothing was wrong."""


@dataclass(frozen=True)
class Control:
    """What a reconstruction calls while it runs, from its own thread, several times a second.

    progress: with (slices done, slices in all). check: raises Cancelled to end it. stopped: whether to end early
    with the directions that are done, at least one batch. preview: gets the heatmaps of the first directions, then
    of twice as many, and so on; a preview is left out where they would take over a fifth of the time.
    """

    progress: Callable[[int, int], None] = lambda done, total: None
    check: Callable[[], None] = lambda: None
    stopped: Callable[[], bool] = lambda: False
    preview: Callable[[Preview], None] | None = None
