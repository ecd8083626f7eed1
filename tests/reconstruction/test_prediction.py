"""A regressor's prediction, and the heatmap that adds up to it; the oracle answers the mean of a slice's pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tests.analytic import Blobs, grid_around, voxel_centres
from tests.networks import spec_of
from tonno_core.bundle.decide import decide
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.bundle.quantity import Quantity
from tonno_core.bundle.ready import ReadyModel
from tonno_core.encoding.encoder import PixelSum
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.segmentation.threshold import NO_FINDINGS
from tonno_core.settings import ReconstructionSettings
from tonno_core.slicing.region import Region
from tonno_core.volume.volume import Volume

SIDE_MM, VOXELS = 2.0, 64
BALL_MM, HEAD = 45.0, 5.0
BLOBS = Blobs(np.array([[18.0, 5, -10], [-16, -12, 12]]), np.array([6.0, 9.0]), np.array([40.0, 25.0]))
SETTINGS = ReconstructionSettings(methods=("tonno",), slices=64, directions=300, slice_size=48)


@dataclass(frozen=True)
class PixelMean(PixelSum):
    """Answers the mean of a slice's pixels as a quantity."""

    classes: tuple[str, ...] = ("load",)


def head() -> Volume:
    """A ball with a soft edge, and two blobs in it."""
    grid = grid_around((0, 0, 0), (VOXELS,) * 3, (SIDE_MM,) * 3)
    points = voxel_centres((VOXELS,) * 3, grid)
    radius = np.linalg.norm(points, axis=-1)
    array = HEAD / (1 + np.exp((radius - BALL_MM) / 1.5)) * (radius < BALL_MM + 9) + BLOBS.at(points) * (radius < 54)
    return Volume(array.astype(np.float32), grid)


def made(settings: ReconstructionSettings = SETTINGS, region: Region | None = None) -> Reconstruction:
    spec = spec_of(classes=("load",), kind=REGRESSOR, schema=2, quantity=Quantity("load", 0.0, 1.0), slice_size=48)
    model = ReadyModel(PixelMean(), spec, 48, torch.device("cpu"), torch.float32)
    return execute(head(), model.encoder, decide(settings, model, region=region))


@pytest.fixture(scope="module")
def result() -> Reconstruction:
    return made()


def amount(result: Reconstruction, where: np.ndarray) -> float:
    """What the manual says: the sum over a region, times a voxel's mm3 and per_mm3."""
    assert result.prediction is not None
    heatmap = result.heatmaps["tonno"]
    return float(heatmap.array[where].sum(dtype=np.float64)) * heatmap.voxel_mm3 * result.prediction.per_mm3


def test_the_whole_heatmap_adds_up_to_the_prediction(result: Reconstruction) -> None:
    assert result.prediction is not None
    assert result.prediction.name == result.class_name == result.unit == "load"
    assert result.prediction.value == result.score
    # The prediction's own sum takes whole steps of 1.6 mm at the foreground's ends, a share of 0.03 of its extent; the
    # ball's faint rim beyond them, which the heatmap has, is less.
    assert amount(result, result.inside) == pytest.approx(result.prediction.value, rel=0.03)


def test_the_prediction_is_the_mean_of_all_slices_of_the_foreground(result: Reconstruction) -> None:
    assert result.prediction is not None
    volume, side_mm = head(), 2 * np.linalg.norm(result.frame_to_ras[:3, 0]) * 48 / 47
    # All intensity, spread over slices of side_mm^2 along the foreground's extent: a voxel counts from a tenth of the
    # brightest thousandth on.
    radius = np.linalg.norm(voxel_centres((VOXELS,) * 3, volume.ijk_to_ras), axis=-1)
    strong = volume.array > 0.1 * np.quantile(volume.array, 0.999)
    extent_mm = 2 * radius[strong].max()
    expected = float(volume.array.sum(dtype=np.float64)) * SIDE_MM**3 / side_mm**2 / extent_mm
    assert result.prediction.value == pytest.approx(expected, rel=0.05)  # the extent is known to a voxel of 45


def test_each_blob_has_its_share(result: Reconstruction) -> None:
    assert result.prediction is not None
    points = voxel_centres((VOXELS,) * 3, result.heatmaps["tonno"].ijk_to_ras)
    for centre, sigma, height in zip(BLOBS.centres, BLOBS.sigmas, BLOBS.heights, strict=True):
        within = np.linalg.norm(points - centre, axis=-1) < 2 * sigma
        # Of a Gaussian within two standard deviations, and of the head below it.
        share = math.erf(math.sqrt(2)) - math.sqrt(2 / math.pi) * 2 * math.exp(-2)
        truth = height * (2 * math.pi) ** 1.5 * sigma**3 * share + HEAD * 4 / 3 * math.pi * (2 * sigma) ** 3
        # Voxels, pixels and nodes of 2 mm blur a blob of 6 mm by 1 mm or so, and 3 % of it leaves the two deviations.
        assert amount(result, within) == pytest.approx(truth * result.prediction.per_mm3, rel=0.04)


def test_the_papers_cube_counts_the_same(result: Reconstruction) -> None:
    cube = made(ReconstructionSettings(methods=("tonno",), slices=64, directions=300, frame="normalized"))
    assert cube.prediction is not None
    assert cube.prediction.value is not None
    # Its window is that of all voxels, 126 mm, rather than of the foreground's ball: the same slices have another mean.
    assert amount(cube, cube.inside) == pytest.approx(cube.prediction.value, rel=0.03)


def test_a_region_alone_predicts_nothing_and_counts_the_same(result: Reconstruction) -> None:
    assert result.prediction is not None
    box = np.diag([15.0, 15, 15, 1])
    box[:3, 3] = BLOBS.centres[0]
    of_region = made(region=Region(box))
    assert of_region.prediction is not None
    assert of_region.prediction.value is None
    assert math.isnan(of_region.score)
    assert of_region.prediction.per_mm3 == pytest.approx(result.prediction.per_mm3, rel=1e-6)
    # docs/planes.md: inside of a region the heatmap is that of the whole volume to 1e-3 of its peak.
    inner = of_region.inside
    assert amount(of_region, inner) == pytest.approx(amount(result, inner), rel=5e-3)


def test_nothing_is_a_finding_until_someone_says_how_much(result: Reconstruction) -> None:
    none = result.segment()
    assert (none.source, int(none.mask.sum()), none.components) == (NO_FINDINGS, 0, [])
    assert none.threshold > result.heatmaps["tonno"].array.max()
    assert result.segment(threshold=20.0).components[0].peak_ras == pytest.approx(BLOBS.centres[0], abs=3.0)
    assert result.show().size[0] == 1760
