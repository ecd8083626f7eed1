"""The Triton kernel of slices, in Triton's interpreter (on the CPU), against float64 and what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.analytic import grid_around
from tests.reference import trilinear
from tests.triton_kernels import interpreted, machine_code, needs_triton
from tonno_core import kernels
from tonno_core.slicing.directions import hemisphere, sphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Volume

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SAMPLE = """
from tonno_core.slicing.kernel import sample_planes
for case, fill in enumerate(given["fills"].tolist()):
    volume, affines = torch.as_tensor(given[f"volume{case}"]), torch.as_tensor(given[f"affines{case}"]).float()
    found[f"planes{case}"] = sample_planes(volume, affines, int(given["pixels"]), fill).numpy()
    found[f"half{case}"] = sample_planes(volume.half(), affines, int(given["pixels"]), fill).numpy()
"""

SOURCE = """
from dataclasses import replace
from tonno_core.slicing.kernel import sample_planes
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.volume.volume import Volume
needed = given["needed"]
plan = SlicePlan(given["frame"], given["normals"], 7, 13, needed)
source = SliceSource.from_volume(Volume(given["array"], given["matrix"]), fills=(float(given["fill"]),))
source = replace(source, atlas=None, kernel=sample_planes)
found["slices"] = sample_slices(source, replace(plan, needed=None), slice(1, 4)).numpy()
found["needed"] = sample_slices(source, plan, slice(1, 4)).numpy()

from tonno_core import kernels
found["works"] = kernels.import_tested("slicing", torch.device("cpu"))[1] == "triton"
"""


def planes_through(shape: tuple[int, int, int], count: int, pixels: int, seed: int = 0) -> np.ndarray:
    """N 3 3: oblique squares about as large as a volume, through its middle, its border, and one far outside."""
    rng, size = np.random.default_rng(seed), np.array(shape[::-1])
    affines = np.empty((count, 3, 3))
    for number in range(count):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        affines[number, :, :2] = turn[:, :2] * (size[:, None] + 1) * 1.4 / pixels
        affines[number, :, 2] = (size - 1) / 2 + turn[:, 2] * size * rng.uniform(-0.6, 0.6)
    affines[-1, :, 2] += 3.0 * size  # nothing of it is near the volume
    return affines


def positions(affines: np.ndarray, pixels: int) -> np.ndarray:
    """N S S 3: voxel indices (i, j, k) of the samples."""
    along = np.arange(pixels) - (pixels - 1) / 2
    row, column = np.meshgrid(along, along, indexing="ij")
    return np.stack([column, row, np.ones_like(row)], axis=-1) @ affines.transpose(0, 2, 1)[:, None]


def by_grid_sample(volume: np.ndarray, affines: np.ndarray, pixels: int) -> np.ndarray:
    """N S S by torch, in float64."""
    at = positions(affines, pixels)
    matrix = ijk_to_grid(volume.shape[::-1])
    points = torch.as_tensor(at @ matrix[:3, :3].T + matrix[:3, 3])[None]
    array = torch.as_tensor(volume, dtype=torch.float64)[None, None]
    return F.grid_sample(array, points, padding_mode="zeros", align_corners=True)[0, 0].numpy()


def largest_of_eight(volume: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The largest magnitude among the eight voxels around each position (i, j, k)."""
    below = np.floor(at[..., ::-1]).astype(int)
    largest = np.zeros(at.shape[:-1])
    for corner in np.ndindex(2, 2, 2):
        index = below + np.array(corner)
        inside = np.all((index >= 0) & (index < volume.shape), axis=-1)
        largest[inside] = np.maximum(largest[inside], np.abs(volume[tuple(index[inside].T)]))
    return largest


@needs_triton
def test_oblique_slices_are_those_of_grid_sample(tmp_path: Path) -> None:
    pixels = 37  # neither a row of programs nor a column of them is full
    fills, shapes = (0.0, -0.75, 2.0), ((2, 2, 2), (2, 9, 5), (11, 13, 17))
    volumes = [np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) for shape in shapes]
    affines = [planes_through(shape, 5, pixels) for shape in shapes]
    given = {f"volume{case}": volume for case, volume in enumerate(volumes)}
    given |= {f"affines{case}": matrices for case, matrices in enumerate(affines)}
    found = interpreted(SAMPLE, tmp_path, fills=fills, pixels=pixels, **given)
    for case, fill in enumerate(fills):
        planes, half = found[f"planes{case}"], found[f"half{case}"]
        expected = by_grid_sample(volumes[case], affines[case], pixels) + fill
        # float32 positions up to 30 voxels are good to 30 * 6e-8, twice rounded; neighbours differ by up to about 5.
        np.testing.assert_allclose(planes, expected, rtol=0, atol=2e-5)
        assert (planes[-1] == fill).all()
        assert 0.1 < (expected[:-1] == fill).mean() < 0.9  # partly outside
        # Rounding the voxels to float16 moves no value by more than 2^-11 of the largest voxel around it; both are
        # sums in float32.
        bound = 2.0**-11 * largest_of_eight(volumes[case], positions(affines[case], pixels)) + 1e-6
        assert (np.abs(half - planes) <= bound).all()
        assert np.abs(half - planes).max() > 1e-5


@needs_triton
def test_a_ramp_is_itself(tmp_path: Path) -> None:
    # Trilinear interpolation is exact for a linear function; the squares stay between the voxels.
    shape, pixels = (16, 20, 24), 21
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    ramp = (0.5 * i - 0.25 * j + 2.0 * k + 1.0).astype(np.float32)
    affines = planes_through(shape, 5, pixels)[:-1]
    affines[:, :, :2] *= 0.3
    affines[:, :, 2] = (np.array(shape[::-1]) - 1) / 2
    found = interpreted(SAMPLE, tmp_path, volume0=ramp, affines0=affines, pixels=pixels, fills=[0.5])
    expected = positions(affines, pixels) @ [0.5, -0.25, 2.0] + 1.5
    np.testing.assert_allclose(found["planes0"], expected, rtol=0, atol=2e-5)  # float32 of values up to 40
    # All voxels are multiples of 1/4 below 64: float16 holds them.
    np.testing.assert_array_equal(found["half0"], found["planes0"])


@needs_triton
def test_a_source_gives_the_same_slices_with_the_kernel(tmp_path: Path) -> None:
    shape, fill = (13, 9, 11), -0.5
    array = np.random.default_rng(4).random(shape, dtype=np.float32)
    matrix = grid_around((1, 2, 3), shape, (1, 2, 1.5), turn_degrees=(25, 15, -40), left_handed=True)
    frame, normals = physical_frame([2, 1, 3], 9.0), sphere(5)
    needed = np.array([[0, 9], [2, 5], [8, 9], [0, 1], [3, 9]])
    found = interpreted(
        SOURCE, tmp_path, array=array, matrix=matrix, frame=frame, normals=normals, needed=needed, fill=fill
    )
    source = SliceSource.from_volume(Volume(array, matrix), fills=(fill,), dtype=torch.float64)
    plan = SlicePlan(frame, normals, 7, 13, needed)
    # float32 positions among 13 voxels or fewer, beside float64.
    whole = replace(plan, needed=None)
    np.testing.assert_allclose(found["slices"], sample_slices(source, whole, slice(1, 4)), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["needed"], sample_slices(source, plan, slice(1, 4)), rtol=0, atol=1e-5)
    assert found["needed"].shape == (5, 13, 13)
    assert found["works"]


@needs_triton
@pytest.mark.parametrize("voxels", ["*fp32", "*fp16"])
def test_it_compiles_for_a_gpu(voxels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tonno_core.slicing import kernel

    numbers = dict.fromkeys(("z", "y", "x", "height", "width"), "i32")
    assert machine_code(
        kernel._sample_planes, tmp_path, monkeypatch, planes="*fp32", volume=voxels, affines="*fp32", fill="fp32",
        rows=kernel._ROWS, columns=kernel._COLUMNS, **numbers,
    )  # fmt: skip


@needs_triton
def test_where_the_kernel_cannot_run_the_plain_way_remains() -> None:
    # Triton has no compiler for CPUs, and this process no interpreter: what a GPU that it does not know looks like.
    kernel, status = kernels.import_tested("slicing", torch.device("cpu"))
    assert kernel is None
    assert status.startswith("torch (")
    assert kernels.load("slicing", torch.device("cpu"), torch.float32) is None


@pytest.mark.parametrize("some", [False, True])
def test_one_launch_serves_all_directions_of_a_batch(some: bool) -> None:
    shape = (13, 9, 11)
    volume = Volume(np.random.default_rng(4).random(shape, dtype=np.float32), grid_around((1, 2, 3), shape, (1, 2, 1)))
    needed = np.array([[0, 9], [2, 5], [8, 9], [0, 1], [3, 9]]) if some else None
    plan = SlicePlan(physical_frame([2, 1, 3], 9.0), hemisphere(5), 7, 10, needed)
    launches = []

    def reference(voxels: torch.Tensor, affines: torch.Tensor, pixels: int, fill: float) -> torch.Tensor:
        launches.append(len(affines))
        at = positions(affines.double().numpy(), pixels)
        values = trilinear(voxels.double().numpy(), at[..., ::-1].reshape(-1, 3)).reshape(at.shape[:-1])
        return torch.as_tensor(values + fill)

    source = SliceSource.from_volume(volume, fills=(0.25,), dtype=torch.float64)
    launched = replace(source, atlas=None, kernel=reference)
    for which in (slice(0, 5), slice(2, 4)):
        for planes in (plan, replace(plan, needed=None)):
            found = sample_slices(launched, planes, which)
            assert launches.pop() == planes.counts[which].sum()
            assert not launches
            # Both in float64, but for the launch's numbers in float32: up to 13 voxels, which differ by up to 1.
            torch.testing.assert_close(found, sample_slices(source, planes, which), rtol=0, atol=1e-5)


@pytest.mark.cuda
@needs_cuda
def test_slices_on_a_gpu() -> None:
    shape, pixels = (60, 90, 70), 100
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    affines = planes_through(shape, 40, pixels)
    module = kernels.load("slicing", torch.device("cuda"), torch.float32)
    assert module is not None
    expected = by_grid_sample(volume, affines, pixels) - 1.5
    on_device = torch.as_tensor(volume, device="cuda")
    placed = torch.as_tensor(affines, dtype=torch.float32, device="cuda")
    found = module.sample_planes(on_device, placed, pixels, -1.5).cpu().numpy()
    # float32 positions up to 150 voxels are good to 1e-5, twice rounded; neighbours differ by up to about 8.
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)
    half = module.sample_planes(on_device.half(), placed, pixels, -1.5).cpu().numpy()
    bound = 2.0**-11 * largest_of_eight(volume, positions(affines, pixels)) + 1e-6
    assert (np.abs(half - found) <= bound).all()


@pytest.mark.cuda
@needs_cuda
def test_a_source_on_a_gpu_is_one_copy_in_half_precision() -> None:
    shape = (64, 80, 72)
    volume = Volume(np.random.default_rng(0).normal(size=shape).astype(np.float32), np.eye(4))
    plan = SlicePlan(physical_frame([36, 40, 32], 50.0), hemisphere(8), 30, 96)
    expected = sample_slices(SliceSource.from_volume(volume, fills=(-3.0,)), plan, slice(0, 8))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    source = SliceSource.from_volume(volume, fills=(-3.0,), device="cuda", half=True)
    assert source.array.dtype == torch.float16
    assert torch.cuda.memory_allocated() - before <= 2 * source.array.numel() + 512  # blocks of 512 bytes
    found = sample_slices(source, plan, slice(0, 8))
    assert found.dtype == torch.float32
    # Voxels less fill of up to 8, rounded by 2^-11 of them, and the atlas's positions: 4e-3 + 1e-3.
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=5e-3)
    assert SliceSource.from_volume(volume, device="cuda").array.dtype == torch.float32
