"""Numbers of many heatmaps at the voxels of a mask, such as their peaks, on the device: no heatmap comes to the host.

All that a calibration tries is made of a few raw heatmaps, and interpolation and smoothing are linear: the raw ones are
brought to the voxels once for each smoothing, and added up there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.reconstruction.projected import BLIND_TO_CONSTANTS, Projected
from tonno_core.settings import CAM_METHODS, Variant
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.inversion import Inverter
from tonno_core.volume.smoothing import Block, Interpolation

# Numbers of a node's place: an index of twice the bytes, and three coordinates.
_NODE = 5
_TINY = float(np.finfo(np.float32).tiny)

# From a name and its values to some numbers, as many and of the same type for each name.
Measure = Callable[[str, torch.Tensor], torch.Tensor]


class Foreground:
    """Voxels at which heatmaps are measured as `Projected.finish` would show them.

    Attributes:
        projected: Whose planes were looked at.
        count: Number of the voxels.
    """

    def __init__(self, projected: Projected, where: npt.NDArray[np.bool_]) -> None:
        """Choose the voxels.

        Args:
            projected: Whose planes were looked at.
            where: Bool ``Z Y X``; of those the voxels that it covers, or all that it covers where these are none.
        """
        self.projected = projected
        looked_at = where & projected.inside
        self._mask = looked_at if looked_at.any() else projected.inside
        self._block = _bounds(self._mask)
        self.count = int(np.count_nonzero(self._mask))
        self._index: torch.Tensor | None = None
        self._interpolations: dict[tuple[tuple[int, ...] | None, tuple[float, ...]], Interpolation] = {}
        self._evidence: dict[int, torch.Tensor | None] = {}

    @property
    def nbytes(self) -> int:
        """What is held in memory as long as this is, estimated."""
        planes = self.projected.planes
        tensors = sum(values.nbytes for values, _ in self.projected.slicewise.values())
        tensors += 0 if self.projected.answer is None else self.projected.answer.nbytes
        for each in self.projected.inverters:
            variants = each.variants if isinstance(each, Inverter) else tuple(each.heatmaps)
            terms = {term for variant in variants for term in each.terms(variant)}
            sums = {variant.stages or variant.filter for variant in variants}  # each knows its nodes' places
            copies = 1 + planes.run.halves
            tensors += 4 * math.prod(each.grid.shape) * (copies * len(terms) + _NODE * len(sums))
        tensors += sum(each.nbytes for each in self._evidence.values() if each is not None)
        return planes.volume.array.nbytes + self._mask.nbytes + planes.inside.nbytes + tensors

    def measure(
        self, variants: Mapping[str, Variant], measure: Measure, *, halves: bool = False
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Measure heatmaps; the host waits for a device once, at the end.

        Args:
            variants: By name, all of which the planes give.
            measure: Called with a name and its values, one for each voxel in the order of the array, on the device.
            halves: Call it with values ``2 n`` by either half of the directions, see `Projected.halves`.

        Returns:
            What it returned, by name.
        """
        made_of = {name: self.projected.terms(variant) for name, variant in variants.items()}
        uses = Counter((term, variants[name].smooth_mm) for name, terms in made_of.items() for term in terms)
        kept: dict[tuple[Variant, float], torch.Tensor] = {}
        smooths = tuple(sorted({variant.smooth_mm for variant in variants.values()}))
        found = {}
        for name in sorted(variants, key=lambda name: _order(variants[name])):
            variant, values = variants[name], None
            for term, weight in made_of[name].items():
                key = (term, variant.smooth_mm)
                if key not in kept:
                    raw, grid = self.projected.halves(term) if halves else self.projected.term(term)
                    kept[key] = self._values(raw, grid, variant.smooth_mm, smooths)
                uses[key] -= 1
                share = kept[key] if uses[key] else kept.pop(key)
                values = share * weight if values is None else values.add_(share, alpha=weight)
            assert values is not None
            if self.projected.taken_off and variant.method not in BLIND_TO_CONSTANTS:
                values += self.projected.taken_off
            values.masked_fill_(values == 0.0, _TINY)  # as it is shown
            found[name] = measure(name, values.cpu() if values.device.type == "mps" else values)  # which cannot rank
        numbers = torch.stack([found[name] for name in variants]).cpu().numpy() if found else ()
        return dict(zip(variants, numbers, strict=True))

    def whole(self, halves: torch.Tensor, variant: Variant) -> torch.Tensor:
        """Put a heatmap's halves together.

        Args:
            halves: ``2 n``, from `measure`.
            variant: Whose they are.

        Returns:
            ``n``.
        """
        directions = self.projected.planes.run.directions_of(variant)
        share = (directions // 2) / directions if directions else 0.5
        return share * halves[0] + (1.0 - share) * halves[1]

    def evidence(self, variant: Variant) -> torch.Tensor | None:
        """Return ToNNO's heatmap, not smoothed, by either half of the directions of a variant.

        Args:
            variant: That the planes give.

        Returns:
            ``2 n`` on the device, see `Projected.evidence`; None where there are no directions over the sphere.
        """
        count = self.projected.planes.run.directions_of(variant)
        if count not in self._evidence:
            raw = self.projected.evidence(variant)
            self._evidence[count] = None if raw is None else self._values(*raw, 0.0, (0.0,))
        return self._evidence[count]

    def _values(
        self, raw: torch.Tensor, grid: TargetGrid | None, smooth_mm: float, smooths: tuple[float, ...]
    ) -> torch.Tensor:
        """Bring raw values to the voxels, ``Z Y X`` or ``C Z Y X``, which gives ``n`` or ``C n``."""
        values = raw.to(self.projected.planes.run.device, torch.float32)
        key = (None if grid is None else grid.shape, smooths)
        if key not in self._interpolations:
            self._interpolations[key] = self.projected.interpolation(grid, smooths, values, self._block)
        block = self._interpolations[key](values.reshape(-1, *values.shape[-3:]), smooth_mm)
        if self._index is None:
            self._index = torch.as_tensor(np.flatnonzero(self._mask[self._block])).to(block.device)
        found = block.flatten(1)[:, self._index]
        return found[0] if values.ndim == 3 else found


def _order(variant: Variant) -> tuple[float, str, tuple[int, ...]]:
    """Return what to sort variants by, so that those that share raw heatmaps follow one another."""
    return variant.smooth_mm, "cam" if variant.method in CAM_METHODS else variant.method, variant.stages


def _bounds(mask: npt.NDArray[np.bool_]) -> Block:
    """Return the smallest block that holds a mask."""
    z, y, x = (np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1)))
    return slice(int(z[0]), int(z[-1]) + 1), slice(int(y[0]), int(y[-1]) + 1), slice(int(x[0]), int(x[-1]) + 1)


def order_statistics(values: torch.Tensor, quantile: float) -> torch.Tensor:
    """Find the highest value, and those two between which a quantile lies.

    Args:
        values: Any number of them, one at least.
        quantile: 0 to 1.

    Returns:
        Three values on their device.
    """
    low = int(quantile * (len(values) - 1))
    top = values.topk(len(values) - low).values
    return torch.stack([top[0], top[-1], top[max(len(top) - 2, 0)]])


def quantile_between(low: float, high: float, quantile: float, count: int) -> float:
    """Interpolate a quantile as `numpy.quantile` does.

    Args:
        low: The second of `order_statistics`.
        high: The third.
        quantile: 0 to 1.
        count: How many values there are.

    Returns:
        The quantile.
    """
    at = quantile * (count - 1)
    return low + (high - low) * (at - int(at))
