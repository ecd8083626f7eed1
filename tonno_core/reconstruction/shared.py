"""The directions of a volume, shared among several processes: each takes its share, the sums are gathered."""

from __future__ import annotations

import dataclasses

import torch

from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.reporting import Timings
from tonno_core.settings import Variant
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter


def share_of(plan: SlicePlan, processes: Processes) -> SlicePlan:
    """Return directions ``rank, rank + world, ...`` of a plan: as evenly spread as the whole, by its progressive order.

    Args:
        plan: Of all directions.
        processes: That share them.

    Returns:
        This process's share.

    Raises:
        TonnoError: There are more processes than directions.
    """
    count = len(plan.directions)
    if count < processes.world:
        raise TonnoError(
            f"`directions` is {count}, expected at least one for each of the {processes.world} processes; "
            "start fewer of them"
        )
    share = slice(processes.rank, None, processes.world)
    needed = None if plan.needed is None else plan.needed[share]
    return dataclasses.replace(plan, directions=plan.directions[share], needed=needed)


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Sums that were gathered from several processes: what an `Inverter` of all directions of a plan would give.

    Attributes:
        plan: Of all directions.
        grid: Of the heatmaps.
        logits: ``L T`` in the plan's order.
        heatmaps: ``Z Y X`` by variant, not smoothed.
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
        """Return whether a variant was gathered.

        Args:
            variant: Of a single stage, not smoothed.

        Returns:
            True where it was.
        """
        return variant in self.heatmaps

    def terms(self, variant: Variant) -> dict[Variant, float]:
        """Return the heatmaps that are kept, of which a variant is a weighted sum.

        Args:
            variant: That it gives.

        Returns:
            The variant itself, by weight 1.
        """
        return {variant: 1.0}

    def heatmap(self, variant: Variant, timings: Timings | None = None) -> torch.Tensor:
        """Return a heatmap.

        Args:
            variant: That it gives.
            timings: Not used; as `Inverter.heatmap`.

        Returns:
            ``Z Y X`` on the target grid, not smoothed.
        """
        return self.heatmaps[variant]


def join(inverter: Inverter, plan: SlicePlan, processes: Processes) -> Gathered | None:
    """Gather the processes' inverters; all of them call it.

    A heatmap is a mean over directions: that over all is the sum of the processes', each by its share.

    Args:
        inverter: Of this process.
        plan: Of all directions, of which each has its share.
        processes: All of them.

    Returns:
        The whole in the first process, else None.
    """
    share = inverter.directions / len(plan.directions)
    heatmaps = {}
    for variant in inverter.variants:
        total = processes.sum(inverter.heatmap(variant) * share)
        if processes.first:
            heatmaps[variant] = total
    logits = processes.gather(list(inverter.logits.cpu().unbind()))
    if not processes.first:
        return None
    return Gathered(plan, inverter.grid, torch.stack(logits).to(inverter.logits), heatmaps)
