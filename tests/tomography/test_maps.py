"""Maps by an atlas, the CPU's way, against the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography import maps as module
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.tomography.maps import AtlasMaps, ReferenceMaps
from tonno_core.volume.grid import ijk_to_grid

SHAPE, DIRECTIONS = (11, 14, 9), 7


def both_ways(
    dtype: torch.dtype, channels: int, slices: int, cells: tuple[int, int], pixels: int, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sums by an atlas and at every node: C and the nodes of an oblique grid, whose corners lie at 1.7."""
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    nodes = Nodes(TargetGrid(SHAPE, turn @ ijk_to_grid(SHAPE[::-1]), radius), torch.empty(0, dtype=dtype))
    ways = AtlasMaps(nodes, channels), ReferenceMaps(nodes, channels)
    plan = SlicePlan(np.eye(4), hemisphere(DIRECTIONS), slices, pixels)
    generator = torch.Generator().manual_seed(0)
    for which in (slice(0, 2), slice(2, DIRECTIONS)):
        shape = (which.stop - which.start, channels, slices, *cells)
        maps = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for way in ways:
            way.add(maps, plan, which)
    atlas, reference = (torch.stack([way.total(channel) for channel in range(channels)]) for way in ways)
    return atlas, reference


@pytest.mark.parametrize("radius", [0.95, 1.4, math.inf])
@pytest.mark.parametrize(
    ("channels", "slices", "cells", "pixels"),
    [(1, 9, (4, 4), 16), (3, 10, (5, 7), 24), (1, 16, (1, 1), 16), (2, 2, (9, 9), 9), (2, 3, (6, 2), 8)],
)
def test_an_atlas_gives_what_the_reference_gives(
    channels: int, slices: int, cells: tuple[int, int], pixels: int, radius: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SAMPLES", 1000)  # several parts, the last one shorter
    monkeypatch.setattr(module, "POINTS", 1000)
    atlas, reference = both_ways(torch.float64, channels, slices, cells, pixels, radius)
    torch.testing.assert_close(atlas, reference, rtol=0, atol=1e-11)  # float64 positions among some 50 pixels
    assert reference.abs().max() > 1


@pytest.mark.parametrize("way", [AtlasMaps, ReferenceMaps])
def test_the_outermost_planes_are_not_lost_to_rounding(way: type[AtlasMaps | ReferenceMaps]) -> None:
    # A grid of [-1, 1]^3 whose faces come out a little beyond it, as some do in float32.
    to_frame = np.diag([1 + 5e-6] * 3 + [1.0])
    sums = way(Nodes(TargetGrid((9, 9, 9), to_frame @ ijk_to_grid((9, 9, 9))), torch.zeros(())), 1)
    sums.add(torch.ones(3, 1, 7, 4, 4), SlicePlan(np.eye(4), np.eye(3), 7, 16), slice(0, 3))
    torch.testing.assert_close(sums.total(0), torch.full((729,), 3.0), rtol=0, atol=1e-6)  # float32


def test_float32_is_as_good_as_the_atlas_is_large() -> None:
    atlas, _ = both_ways(torch.float32, 1, 64, (12, 12), 96, 0.95)
    _, exact = both_ways(torch.float64, 1, 64, (12, 12), 96, 0.95)
    assert atlas.dtype == torch.float32
    # 8 x 8 tiles of 14 cells: positions are good to 112 * 6e-8 of a cell, twice rounded; in each of 7 directions the
    # cells differ by up to 6.
    torch.testing.assert_close(atlas.double(), exact, rtol=0, atol=2e-4)
