"""The directions of one volume, shared among several processes: each takes its own, the sums are put together."""

from __future__ import annotations

import dataclasses

import torch

from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.timing import Timings
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter


def share_of(plan: SlicePlan, processes: Processes) -> SlicePlan:
    """Directions ``rank, rank + world, ...`` of a plan: as evenly spread as the whole, by its progressive order.

    Raises TonnoError where there are more processes than directions.
    """
    count = len(plan.directions)
    if count < processes.world:
        raise TonnoError(
            f"`directions` is {count}, expected at least one for each of the {processes.world} processes; "
            "start fewer of them"
        )
    own = slice(processes.rank, None, processes.world)
    needed = None if plan.needed is None else plan.needed[own]
    return dataclasses.replace(plan, directions=plan.directions[own], needed=needed)


@dataclasses.dataclass(frozen=True)
class Joined:
    """What an `Inverter` of all directions of a plan would say, put together from the processes' own.

    logits: ``L T`` in the plan's order. heatmaps: ``Z Y X`` by variant, not smoothed.
    """

    plan: SlicePlan
    grid: TargetGrid
    logits: torch.Tensor
    heatmaps: dict[Variant, torch.Tensor]

    @property
    def directions(self) -> int:
        """How many have been backprojected."""
        return len(self.plan.directions)

    def gives(self, variant: Variant) -> bool:
        """Whether this is one of those that were joined."""
        return variant in self.heatmaps

    def heatmap(self, variant: Variant, timings: Timings | None = None) -> torch.Tensor:
        """``Z Y X`` on the target grid, not smoothed."""
        return self.heatmaps[variant]


def join(own: Inverter, plan: SlicePlan, processes: Processes) -> Joined | None:
    """Put the processes' inverters together; all of them call it. The result is the first process's, else None.

    plan: the whole of which each has its share.
    A heatmap is a mean over directions: that over all is the sum of the processes' own, each by its share.
    """
    share = own.directions / len(plan.directions)
    heatmaps = {}
    for variant in own.variants:
        total = processes.sum(own.heatmap(variant) * share)
        if processes.first:
            heatmaps[variant] = total
    logits = processes.gather(list(own.logits.cpu().unbind()))
    if not processes.first:
        return None
    return Joined(plan, own.grid, torch.stack(logits).to(own.logits), heatmaps)
