"""The algorithm on one page against the float64 reference, which shares no code with it, and the engine against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.analytic import correlation, grid_around, make_blobs
from tests.networks import random_network, spec_of
from tests.reference import Chain, basis, hemisphere_lattice, resnet_answer, sphere_lattice, take_slice
from tonno_core import Bundle, ReconstructionSettings, Volume, reconstruct
from tonno_core.benchmark.comparison import plain_heatmap
from tonno_core.benchmark.plain import Scan, cut_slices, interpolate, plane_axes, tonno

SLICES, PIXELS, FILL = 9, 32, -0.7


@pytest.fixture(scope="module")
def scan() -> Scan:
    """5 x 7 x 6 voxels in float64 at an oblique place in the frame; some slices leave them."""
    rng = np.random.default_rng(0)
    frame_to_ijk = np.eye(4)
    frame_to_ijk[:3, :3] = np.diag([3.0, 4.0, 2.5]) + rng.uniform(-0.6, 0.6, (3, 3))
    frame_to_ijk[:3, 3] = 2.4, 3.1, 2.0
    return Scan(torch.as_tensor(rng.random((5, 7, 6))), FILL, torch.as_tensor(frame_to_ijk))


def to_index(scan: Scan) -> np.ndarray:
    """Frame to array indices (z, y, x): 3 x 4."""
    return scan.frame_to_ijk[:3].numpy()[::-1]


@pytest.mark.parametrize("lattice", [hemisphere_lattice, sphere_lattice])
def test_heatmap_is_the_references(scan: Scan, lattice: object) -> None:
    normals = lattice(5)  # type: ignore[operator]
    network = random_network("resnet10t", classes=2, size=PIXELS).double()
    answer = resnet_answer(network, 1, 1, 4, "layercam")
    # The reference's volume goes on with zeros: it sees intensities less fill, and the fill is added here.
    chain = Chain(scan.voxels.numpy(), to_index(scan), SLICES, PIXELS, lambda images: answer(images + FILL))
    # Corners of the frame's cube and its middle among the points: planes end there, or none does.
    points = np.concatenate([np.random.default_rng(1).uniform(-1, 1, (20, 3)), [[1, 1, 1], [-1, 1, -1], [0, 0, 0]]])
    expected = chain.heatmaps(normals, points)["tonno"]

    def classify(slices: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = network(slices[:, None])[:, 1]
        return logits

    heatmap = tonno(
        scan, classify, torch.as_tensor(normals), torch.as_tensor(points), slices=SLICES, pixels=PIXELS
    ).numpy()
    # Both are float64, rounded to 1e-16 at each of some thousand steps; the second difference multiplies the logits'
    # rounding by (M - 1)^2 / 4 * 4 = 64. A wrong neighbour, sign or factor would show at 1e-2.
    np.testing.assert_allclose(heatmap, expected, atol=1e-10 * np.abs(expected).max())
    assert np.abs(expected).max() > 1e-3


def test_slices_are_the_references(scan: Scan) -> None:
    for normal in hemisphere_lattice(4):
        images = cut_slices(scan, torch.as_tensor(normal), SLICES, PIXELS).numpy()
        offsets = 2 * np.arange(-1, SLICES + 1) / (SLICES - 1) - 1
        expected = [take_slice(scan.voxels.numpy(), to_index(scan), normal, s, PIXELS) + FILL for s in offsets]
        # Coordinates are rounded to 1e-15 of a voxel or so, and voxels differ by 1 at most.
        np.testing.assert_allclose(images, expected, atol=1e-12)


@pytest.mark.parametrize("normal", [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.6, 0.0, 0.8], [-0.95, 0.05, 0.308]])
def test_axes_of_a_plane_are_the_references(normal: list[float]) -> None:
    n = np.array(normal) / np.linalg.norm(normal)
    for axis, expected in zip(plane_axes(torch.as_tensor(n)), basis(n), strict=True):
        np.testing.assert_allclose(axis.numpy(), expected, atol=1e-15)  # a few roundings of numbers below 1


def test_a_profile_is_interpolated_between_its_ends() -> None:
    profile = torch.tensor([1.0, 3.0, -1.0], dtype=torch.float64)
    offsets = torch.tensor([-1.1, -1.0, -0.5, 0.0, 0.25, 1.0, 1.1], dtype=torch.float64)
    expected = [0.0, 1.0, 2.0, 3.0, 2.0, -1.0, 0.0]
    np.testing.assert_allclose(interpolate(profile, offsets).numpy(), expected, atol=1e-15)


def test_a_classifier_that_takes_the_mean_gives_back_the_volume() -> None:
    # A Gaussian ball of standard deviation 0.2 and height 1. The second difference over h = 2 / (M - 1) = 1/32 is the
    # second derivative of profiles blurred by a triangle of variance h^2 / 6, and trilinear slices of voxels d = 1/20
    # apart are blurred by d^2 / 6: the peak falls to (1 + (h^2 / 6 + d^2 / 6) / 0.2^2)^(-3/2) = 0.979.
    axis = np.linspace(-1, 1, 41)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    ball = np.exp(-(x**2 + y**2 + z**2) / (2 * 0.2**2))
    frame_to_ijk = np.diag([20.0, 20.0, 20.0, 1.0])
    frame_to_ijk[:3, 3] = 20.0
    scan = Scan(torch.as_tensor(ball), 0.0, torch.as_tensor(frame_to_ijk))
    middle = torch.zeros(1, 3, dtype=torch.float64)
    heatmap = tonno(
        scan,
        lambda slices: slices.mean(dim=(1, 2)),
        torch.as_tensor(hemisphere_lattice(100)),
        middle,
        slices=65,
        pixels=48,
    )
    # Planes through the middle meet more voxel centres than others, where a trilinear sample is not blurred: 0.985.
    assert float(heatmap[0]) == pytest.approx(0.979, abs=0.01)


# --- the engine against this page


@pytest.fixture(scope="module")
def volume() -> Volume:
    return make_blobs(0, 6, reach=20.0, sigmas=(6.0, 12.0)).on_grid(
        (26, 30, 28), grid_around((5, -3, 2), (28, 30, 26), (3, 3, 3))
    )


@pytest.mark.parametrize("frame", ["physical", "normalized"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_engine_agrees(volume: Volume, frame: str, channels: int) -> None:
    network = random_network("resnet10t", channels=channels, classes=2)
    spec = spec_of(classes=("none", "finding"), channels=channels, intensity="zscore")
    bundle = Bundle(spec, network.state_dict(), Path("random"))
    settings = ReconstructionSettings(
        methods=("tonno",), slices=14, directions=10, lattice="sphere", frame=frame, grid="volume",
        class_name="finding",
    )  # fmt: skip
    plain = plain_heatmap(volume, bundle, settings, torch.device("cpu"))()
    result = reconstruct(volume, bundle, settings, device="cpu", precision="float32")
    heatmap, inside = result.heatmaps["tonno"].array, result.inside
    # The bar of the project is 0.999; both compute in float32, whose rounding the second difference magnifies.
    assert correlation(heatmap[inside], plain[inside]) > 0.99999
    np.testing.assert_allclose(heatmap, plain, atol=2e-3 * np.abs(plain).max())
    assert np.abs(plain[inside]).max() > 0
