"""Nodes of a grid by any mask, where a target grid knows balls and boxes alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from tonno_core.tomography.grid import Nodes, TargetGrid


class MaskedNodes(Nodes):
    """The nodes of a grid where a mask is true; mask: bool Z Y X, None for all of them."""

    def __init__(self, grid: TargetGrid, like: torch.Tensor, mask: torch.Tensor | None) -> None:
        super().__init__(grid, like)
        self._mask = mask

    def parts(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for index, points in super().parts():
            kept = slice(None) if self._mask is None else self._mask.flatten()[index]
            yield index[kept], points[kept]

    def mask(self) -> torch.Tensor | None:
        return self._mask
