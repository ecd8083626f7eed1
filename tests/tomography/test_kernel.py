"""The Triton kernels, in Triton's interpreter (on the CPU), against the plain ways."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.triton_kernels import interpreted, machine_code, needs_triton
from tonno_core import kernels
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.backprojection import Backprojector
from tonno_core.tomography.grid import Nodes, TargetGrid
from tonno_core.volume.grid import ijk_to_grid

pytestmark = needs_triton

PROFILES = """
from tests.masked_nodes import MaskedNodes
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.kernel import KernelProfiles
grid = TargetGrid(tuple(given["shape"].tolist()), given["matrix"])
sums = KernelProfiles(MaskedNodes(grid, torch.zeros(()), torch.as_tensor(given["mask"])))
profiles = torch.as_tensor(given["profiles"])
plan = SlicePlan(np.eye(4), given["normals"], profiles.shape[1], 2)
for part in (slice(0, 5), slice(5, None)):
    sums.add(profiles[part], plan, part)
found["total"] = sums.total().numpy()

from tonno_core import kernels
found["works"] = kernels.import_tested("backprojection", torch.device("cpu"))[1] == "triton"
"""

MAPS = """
from tests.masked_nodes import MaskedNodes
from tonno_core.slicing.plan import SlicePlan
from tonno_core.tomography.grid import TargetGrid
from tonno_core.tomography.kernel import KernelMaps
grid = TargetGrid(tuple(given["shape"].tolist()), given["matrix"])
for case, pixels in enumerate(given["pixels"].tolist()):
    maps = torch.as_tensor(given[f"maps{case}"])
    plan = SlicePlan(np.eye(4), given["normals"], maps.shape[2], pixels)
    mask = torch.as_tensor(given[f"mask{case}"]) if f"mask{case}" in given else None
    sums = KernelMaps(MaskedNodes(grid, torch.zeros(()), mask), maps.shape[1])
    for which in (slice(0, 2), slice(2, len(maps))):
        sums.add(maps[which], plan, which)
    found[f"total{case}"] = np.stack([sums.total(channel).numpy() for channel in range(maps.shape[1])])
"""


def smooth(count: int, offsets: int) -> torch.Tensor:
    """Profiles that end at zero: behind their ends a node may fall on either side by rounding."""
    s = np.linspace(-1, 1, offsets)
    return torch.as_tensor(np.stack([np.cos(s * np.pi / 2) * np.sin(s * (3 + k)) for k in range(count)])).float()


def turned(matrix: np.ndarray, seed: int = 0) -> np.ndarray:
    """A grid's matrix after an oblique rotation."""
    turn = np.eye(4)
    turn[:3, :3] = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return np.asarray(turn @ matrix)


def within(shape: tuple[int, int, int], matrix: np.ndarray, radius: float) -> np.ndarray:
    """Z Y X: which nodes of a grid lie within a radius."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    points = np.stack([i, j, k], axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    return np.asarray((points**2).sum(-1) <= radius**2)


def random_maps(directions: int, channels: int, slices: int, height: int, width: int) -> torch.Tensor:
    shape = (directions, channels, slices, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def backprojector(shape: tuple[int, int, int], matrix: np.ndarray, radius: float = math.inf) -> Backprojector:
    """The CPU's, in float64."""
    return Backprojector(TargetGrid(shape, matrix, radius), torch.zeros((), dtype=torch.float64))


def plain_sum(maps: torch.Tensor, plan: SlicePlan, target: Backprojector) -> np.ndarray:
    """C and the nodes, flat, in float64."""
    target.add_maps(maps.double(), plan, slice(0, len(maps)))
    return (target.map_mean * len(maps)).flatten(1).numpy()


def test_profiles_equal_the_plain_way(tmp_path: Path) -> None:
    shape, count, radius = (13, 11, 12), 17, 1.2
    matrix = turned(ijk_to_grid(shape[::-1]))
    normals, profiles = hemisphere(count), smooth(count, 33)
    plain = backprojector(shape, matrix, radius)
    plain.add_profiles(profiles.double(), SlicePlan(np.eye(4), normals, profiles.shape[1], 2), slice(None))
    found = interpreted(
        PROFILES, tmp_path, shape=shape, matrix=matrix, normals=normals, profiles=profiles.numpy(),
        mask=within(shape, matrix, radius),
    )  # fmt: skip
    expected = plain.profile_mean.flatten().numpy() * count
    # float32 positions of 33 offsets are good to 4e-6 steps, as are sums of 17 terms.
    np.testing.assert_allclose(found["total"], expected, atol=1e-5 * np.abs(expected).max())
    assert np.abs(expected).max() > 1
    assert found["works"]


def test_maps_equal_the_plain_way(tmp_path: Path) -> None:
    # The grid's corners lie at 1.7, far beyond the windows of all directions.
    shape, slices, normals = (10, 13, 8), 6, hemisphere(5)
    matrix = turned(ijk_to_grid(shape[::-1]))
    given, expected, pixels = {}, [], []
    # Channels, cells, pixels, radius.
    for case, (channels, cells, size, radius) in enumerate(
        [(1, (4, 4), 16, 0.98), (3, (5, 7), 24, 1.3), (1, (1, 1), 16, math.inf), (2, (9, 9), 9, math.inf)]
    ):
        given[f"maps{case}"] = random_maps(5, channels, slices, *cells).numpy()
        if math.isfinite(radius):
            given[f"mask{case}"] = within(shape, matrix, radius)
        plain = backprojector(shape, matrix, radius)
        plan = SlicePlan(np.eye(4), normals, slices, size)
        expected.append(plain_sum(torch.as_tensor(given[f"maps{case}"]), plan, plain))
        pixels.append(size)
    found = interpreted(MAPS, tmp_path, shape=shape, matrix=matrix, normals=normals, pixels=pixels, **given)
    for case, sums in enumerate(expected):
        # float32 positions among 9 cells or fewer are good to 1e-6 of a cell, between values that differ by up to 6.
        np.testing.assert_allclose(found[f"total{case}"], sums, rtol=0, atol=1e-5)
        assert (found[f"total{case}"][sums == 0] == 0).all()
        assert np.abs(sums).max() > 1
    assert (expected[0] == 0).mean() > 0.3  # most of a cube is beyond the ball


def test_maps_reach_their_outermost_planes_and_no_farther(tmp_path: Path) -> None:
    # Along the axes of the grid its faces are the windows' very edges, and half the nodes lie beyond the other ones.
    shape = (9, 9, 9)
    matrix = ijk_to_grid(shape) @ np.diag([1.0, 1.0, 2.0, 1.0])  # z runs from -1 to 3
    maps, normals = torch.ones(3, 1, 7, 4, 4), np.eye(3)
    found = interpreted(MAPS, tmp_path, shape=shape, matrix=matrix, normals=normals, maps0=maps.numpy(), pixels=[16])
    total = found["total0"].reshape(shape)
    np.testing.assert_allclose(total[:5], 3.0, atol=1e-6)  # sums of three ones, weights of 1 - 6e-8
    assert (total[5:] == 0.0).all()


def test_a_linear_map_is_that_function_of_space(tmp_path: Path) -> None:
    # As tests/tomography/test_backprojection.py: 4 cells of 4 pixels of 16, their centres at (2 t - 15) / 15.
    shape = (6, 7, 8)
    plan = SlicePlan(np.eye(4), hemisphere(12)[4:6], 9, 16)
    centres, offsets = torch.tensor([-12.0, -4.0, 4.0, 12.0]) / 15, torch.linspace(-1, 1, 9)
    stack = offsets[:, None, None] + 10 * centres[:, None] + 100 * centres  # s + 10 b + 100 a; rows run along v
    maps = stack.expand(2, 1, 9, 4, 4).contiguous()
    matrix = ijk_to_grid(shape[::-1])
    found = interpreted(
        MAPS, tmp_path, shape=shape, matrix=matrix, normals=plan.directions, maps0=maps.numpy(), pixels=[16]
    )
    k, j, i = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    expected = np.zeros(shape)
    for turn in plan.frame_to_slice(slice(None)):
        a, b, s = np.moveaxis(np.stack([i, j, k], axis=-1) @ turn.T, -1, 0)
        value = s + 10 * np.clip(b, -0.8, 0.8) + 100 * np.clip(a, -0.8, 0.8)
        expected += np.where(np.max(np.abs([a, b, s]), axis=0) <= 1, value, 0)
    np.testing.assert_allclose(found["total0"].reshape(shape), expected, atol=2e-4)  # float32 of values up to 178
    assert np.abs(expected).max() > 100


def test_they_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonno_core.tomography import kernel

    assert machine_code(
        kernel._add_profiles, tmp_path, monkeypatch, total="*fp32", profiles="*fp32", steps="*fp32",
        directions="i32", offsets="i32", nodes="i32", y="i32", x="i32", margin="fp32", block=kernel._BLOCK,
    )  # fmt: skip
    assert machine_code(
        kernel._add_maps, tmp_path, monkeypatch, total="*fp32", mask="*u8", maps="*fp32", rotations="*fp32",
        directions="i32", offsets="i32", height="i32", width="i32", nodes="i32", y="i32", x="i32",
        cells_high="fp32", cells_wide="fp32", steps="fp32", most="fp32", block=kernel._MAPS_BLOCK,
    )  # fmt: skip


def test_where_the_kernels_cannot_run_the_plain_way_remains() -> None:
    # Triton has no compiler for CPUs, and this process no interpreter: what a GPU that it does not know looks like.
    assert kernels.import_tested("backprojection", torch.device("cpu"))[0] is None


def test_a_report_says_which_kernels_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kernels.status(torch.device("cpu")) == {"slicing": "torch", "backprojection": "torch"}
    outcomes = {"slicing": (object(), "triton"), "backprojection": (None, "torch (no compiler)")}
    monkeypatch.setattr(kernels, "import_tested", lambda name, device: outcomes[name])
    cuda = torch.device("cuda")
    assert kernels.status(cuda) == {"slicing": "triton", "backprojection": "torch (no compiler)"}
    assert kernels.load("slicing", cuda, torch.float32) is outcomes["slicing"][0]
    assert kernels.load("slicing", cuda, torch.float64) is None


def test_a_kernel_that_gives_wrong_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "import_module", lambda name: SimpleNamespace(works=lambda device: False))
    kernel, status = kernels.import_tested("slicing", torch.device("cpu", 3))
    assert kernel is None
    assert status == "torch (the kernel's self-test gave wrong numbers)"


def test_memory_that_is_short_is_not_taken_for_a_gpu_without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(kernels, "import_module", full)
    with pytest.raises(torch.OutOfMemoryError):
        kernels.import_tested("backprojection", torch.device("cpu", 3))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_profiles_on_a_gpu() -> None:
    from tonno_core.tomography.kernel import KernelProfiles

    shape, normals, profiles = (24, 20, 22), hemisphere(50), smooth(50, 96)
    plain = backprojector(shape, ijk_to_grid(shape[::-1]))
    plain.add_profiles(profiles.double(), SlicePlan(np.eye(4), normals, profiles.shape[1], 2), slice(None))
    kernel = KernelProfiles(Nodes(TargetGrid(shape, ijk_to_grid(shape[::-1])), torch.zeros((), device="cuda")))
    kernel.add(profiles.cuda(), SlicePlan(np.eye(4), normals, 96, 2), slice(None))
    expected = plain.profile_mean.flatten() * 50
    torch.testing.assert_close(kernel.total().cpu().double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_maps_on_a_gpu() -> None:
    shape, maps = (24, 20, 22), random_maps(30, 3, 32, 12, 12)
    matrix = turned(ijk_to_grid(shape[::-1]))
    plan = SlicePlan(np.eye(4), hemisphere(30), 32, 96)
    assert kernels.status(torch.device("cuda"))["backprojection"] == "triton"
    found = Backprojector(TargetGrid(shape, matrix, 1.1), torch.zeros((), device="cuda"))
    found.add_maps(maps.cuda(), plan, slice(0, 30))
    expected = plain_sum(maps, plan, backprojector(shape, matrix, 1.1))
    # float32 positions among 32 offsets are good to 4e-6 of a cell, in each of 30 terms that differ by up to 6.
    np.testing.assert_allclose(found.map_mean.flatten(1).cpu() * 30, expected, rtol=0, atol=2e-4)
