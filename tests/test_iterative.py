"""The operator of benchmarks/iterative.py, its adjoint, and conjugate gradients on them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner

from benchmarks.iterative import ITERATIONS, SHOWN, PooledSlices, compare, direct, main, pooled, samples_for
from tests.analytic import correlation, grid_around, make_blobs, slope
from tests.reference import normalized_to_index, take_slice
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.slicing.preparation import PreparedVolume
from tonno_core.slicing.sampling import SliceSource, sample_slices
from tonno_core.tomography.grid import TargetGrid
from tonno_core.volume.grid import ijk_to_grid
from tonno_core.volume.volume import Volume

NODES = 12


def cube(nodes: int = NODES, radius: float = np.inf) -> TargetGrid:
    shape = (nodes, nodes, nodes)
    return TargetGrid(shape, ijk_to_grid(shape), radius)


def plan_of(directions: int, slices: int, pixels: int) -> SlicePlan:
    return SlicePlan(physical_frame([0, 0, 0], 1.0), hemisphere(directions), slices, pixels)


@pytest.mark.parametrize(("cells", "samples"), [(4, 8), (4, 16), (8, 16), (16, 16)])
@pytest.mark.parametrize("radius", [np.inf, 0.8])
def test_the_adjoint_passes_the_dot_product_test(cells: int, samples: int, radius: float) -> None:
    operator = PooledSlices(plan_of(9, 10, 16), cube(radius=radius), cells, samples)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.normal(size=operator.shape[1]), rng.normal(size=operator.shape[0])
        forward, back = operator.matvec(x), operator.rmatvec(y)
        # float32, whose rounding averages out over the sums: 1e-9 to 4e-9 were measured.
        assert abs(forward @ y - x @ back) < 1e-5 * np.linalg.norm(forward) * np.linalg.norm(y)
    assert np.linalg.norm(back) > 0


def test_the_operator_is_linear_and_its_adjoint_is_its_transpose() -> None:
    operator = PooledSlices(plan_of(3, 5, 8), cube(5), 4, 8, torch.float64)
    forward, back = operator @ np.eye(125), operator.T @ np.eye(operator.shape[0])
    np.testing.assert_allclose(back, forward.T, rtol=0, atol=1e-14)  # sums of some hundred products in float64
    assert (forward.sum(axis=1) <= 1 + 1e-12).all()  # a mean of interpolated values, of zeros beyond the nodes


def test_the_operator_averages_the_slices_of_the_reference() -> None:
    plan, grid = plan_of(5, 7, 12), cube()
    volume = np.random.default_rng(1).normal(size=grid.shape)
    expected = []
    for normal in plan.directions:
        for offset in plan.offsets:
            # Frame coordinates (x, y, z) run along the axes X, Y, Z of the nodes.
            to_index = normalized_to_index(grid.shape)[:, [2, 1, 0, 3]]
            pixels = take_slice(volume, to_index, normal, float(offset), 12)
            expected.append(pixels.reshape(4, 3, 4, 3).mean(axis=(1, 3)))
    operator = PooledSlices(plan, grid, 4, 12, torch.float64)
    found = operator @ volume.ravel()
    # float64, but for the pixels' coordinates at the very ends, where rounding decides between a value and zero.
    np.testing.assert_allclose(found.reshape(-1, 4, 4), expected, rtol=0, atol=1e-9)


def test_the_operator_averages_the_slices_of_the_engine() -> None:
    plan, grid = plan_of(6, 9, 16), cube()
    array = np.random.default_rng(2).normal(size=grid.shape).astype(np.float32)
    volume = Volume(array, np.asarray(plan.frame_to_ras @ grid.ijk_to_frame))
    slices = sample_slices(SliceSource.from_volume(volume, blank=True), plan, slice(0, 6))
    expected = F.adaptive_avg_pool2d(slices[:, None], 8).flatten()
    operator = PooledSlices(plan, grid, 8, 16)
    # float32 coordinates of 12 nodes, and steps of three standard deviations between them.
    np.testing.assert_allclose(operator @ array.ravel().astype(float), expected.numpy(), rtol=0, atol=1e-5)
    prepared = PreparedVolume(volume, 0.0, plan.frame_to_ras, None)
    np.testing.assert_allclose(pooled(prepared, plan, 8).flatten(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("samples", [4, 8, 12, 20])
def test_samples_lie_evenly_in_the_cells(samples: int) -> None:
    """The mean of a straight line over a cell is its value at the cell's centre, however many samples there are."""
    plan = SlicePlan(physical_frame([0, 0, 0], 1.0), np.array([[0.0, 0.0, 1.0]]), 9, 16)
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, NODES)] * 3, indexing="ij")
    plane = (2.0 * x - 3.0 * y).ravel()
    maps = (PooledSlices(plan, cube(), 4, samples, torch.float64) @ plane).reshape(11, 4, 4)
    # Cell c of 4 lies at pixel 4 c + 1.5 of those at 2 t / 15 - 1. The outermost samples of outermost cells lie beyond
    # the nodes where there are more samples than pixels, so the inner cells are compared.
    centre = 2.0 * (4.0 * np.arange(4) + 1.5) / 15.0 - 1.0
    basis = plan.frame_to_slice(slice(0, 1))[0]
    u, v = basis[0], basis[1]
    a, b = centre[None, :], centre[:, None]
    expected = 2.0 * (a * u[0] + b * v[0]) - 3.0 * (a * u[1] + b * v[1])
    np.testing.assert_allclose(maps[5, 1:3, 1:3], expected[1:3, 1:3], atol=1e-12)  # float64


def test_samples_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="16 samples are not a multiple of 6 cells"):
        PooledSlices(plan_of(3, 5, 16), cube(5), 6, 16)
    assert [samples_for(cells) for cells in (7, 12, 24, 64)] == [49, 48, 48, 64]


def test_each_iteration_is_the_best_in_its_krylov_space() -> None:
    plan, grid = plan_of(4, 6, 8), cube(6)
    operator = PooledSlices(plan, grid, 4, 8, torch.float64)
    maps = torch.as_tensor(np.random.default_rng(3).normal(size=(4, 8, 4, 4)))
    found = compare(operator, plan, grid, maps, lambda volume: {"sum": float(volume.sum())})
    matrix, data = operator @ np.eye(216), maps.flatten().numpy()
    basis = (matrix.T @ data)[:, None]
    for number in range(1, ITERATIONS + 1):
        if number in SHOWN[:4]:
            orthonormal = np.linalg.qr(basis)[0]
            best = orthonormal @ np.linalg.lstsq(matrix @ orthonormal, data, rcond=None)[0]
            name = f"{number} iteration{'s' if number > 1 else ''}"
            volume = operator.vector(found.volumes[name])
            # Conjugate gradients lose orthogonality slowly: 1e-6 of the solution after ten steps in float64.
            assert np.linalg.norm(volume - best) < 1e-6 * np.linalg.norm(best), number
        new = matrix.T @ (matrix @ basis[:, -1])
        new -= np.linalg.qr(basis)[0] @ (np.linalg.qr(basis)[0].T @ new)
        basis = np.column_stack([basis, new / np.linalg.norm(new)])
    assert len(found.iterative) == 1 + ITERATIONS  # the first adjoint, and each iteration
    assert len(found.matched) == 1 + ITERATIONS  # in turn with them
    assert found.ratio > 1
    assert found.qualities["Matched CAM"]["sum"] == pytest.approx(
        float(direct(plan, grid, maps, "matched-cam").sum()), rel=1e-12
    )


def test_both_give_back_a_volume_from_its_averaged_slices() -> None:
    blobs = make_blobs(4, 8, reach=0.35, sigmas=(0.1, 0.2))
    shape = (48, 48, 48)
    volume = blobs.on_grid(shape, grid_around((0, 0, 0), shape, (2 / 47,) * 3))
    plan = plan_of(32, 24, 32)
    grid = cube(24, 1.0)
    maps = pooled(PreparedVolume(volume, 0.0, plan.frame_to_ras, None), plan, 8)
    operator = PooledSlices(plan, grid, 8, 32)
    points = np.stack(np.meshgrid(*[np.linspace(-1, 1, 24)] * 3, indexing="ij")[::-1], axis=-1)
    truth = operator.vector(torch.as_tensor(blobs.at(points)))

    def judge(volume: torch.Tensor) -> dict[str, float]:
        values = operator.vector(volume)
        return {"correlation": correlation(values, truth), "slope": slope(values, truth)}

    found = compare(operator, plan, grid, maps, judge).qualities
    # Blobs of 0.1 to 0.2 under cells of a quarter of the window: measured .983, .9987 and .9997.
    assert found["Averaged CAM"]["correlation"] < 0.99
    assert found["Matched CAM"]["correlation"] > 0.99
    assert found["20 iterations"]["correlation"] > 0.99
    assert found["20 iterations"]["slope"] == pytest.approx(1.0, abs=0.05)
    scores = [found[f"{n} iteration{'s' if n > 1 else ''}"]["correlation"] for n in SHOWN]
    assert scores == sorted(scores)  # data without noise: each iteration helps


@pytest.mark.slow
def test_the_tables_and_the_picture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    picture = tmp_path / "iterative.png"
    result = CliRunner().invoke(main, ["--directions", "6", "--cells", "8", "--heads", "1", "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    for words in ("brain, 8 cells", "1 heads, correlation", "1 heads, best Dice", "ratio"):
        assert words in result.output
    assert picture.stat().st_size > 10_000
