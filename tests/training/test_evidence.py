"""The second round: what a heatmap says of planes, against analytic balls, and which slices' labels it corrects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tonno_core.slicing.directions import plane_basis
from tonno_core.training.evidence import NEGATIVES, Evidence, highest_on_planes, volumes_to_look_at

NODES, SIGMA = 41, 0.2
CENTRE = np.array([0.3, -0.2, 0.1])
# A positive and two negative volumes, of one class.
LABELS = np.array([[1], [0], [0]])


def gaussian_ball(height: float, background: float = 0.0, centre: np.ndarray = CENTRE) -> torch.Tensor:
    """background + height exp(-r^2 / 2 sigma^2) over [-1, 1]^3: 1 M M M."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, NODES)] * 3, indexing="ij")
    squares = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2
    return torch.tensor(background + height * np.exp(-squares / (2 * SIGMA**2)), dtype=torch.float32)[None]


def planes_at(distances: Sequence[float], seed: int = 0) -> np.ndarray:
    """Planes of random directions at some distances from the ball's centre, as slice_to_frame: K 4 4."""
    normals = np.random.default_rng(seed).normal(size=(len(distances), 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    planes = np.tile(np.eye(4), (len(distances), 1, 1))
    planes[:, :3, :3] = plane_basis(normals)
    planes[:, :3, 3] = normals * (normals @ CENTRE + distances)[:, None]
    return planes


def evidence_of(positive: torch.Tensor, *negatives: torch.Tensor) -> Evidence:
    heatmaps = dict(enumerate([positive, *negatives]))
    labels = np.array([[1], *([0] for _ in negatives)])
    return Evidence.of_heatmaps(heatmaps, labels, {n: planes_at([0.0, 0.5]) for n in range(1, len(heatmaps))})


def test_the_highest_value_on_a_plane_is_that_of_the_point_nearest_to_the_ball() -> None:
    distances = np.linspace(0.0, 0.5, 11)
    found = highest_on_planes(gaussian_ball(3.0, 1.0)[None], planes_at(distances)[None])[0, :, 0].numpy()
    # Nodes and samples are sigma / 4 apart. Interpolation and the way to the nearest sample each cost up to h^2 / 8 of
    # the second derivative along each axis, together 6 (1/4)^2 / 8 = .047 of 3.
    assert found == pytest.approx(1.0 + 3.0 * np.exp(-(distances**2) / (2 * SIGMA**2)), abs=0.15)
    assert (np.diff(found) < 0).all()


def test_a_slice_keeps_its_label_through_the_finding_and_loses_it_beside() -> None:
    # Negatives are 1 everywhere; of the way up to the peak of 4 a plane has exp(-d^2 / 2 sigma^2).
    evidence = evidence_of(gaussian_ball(3.0, 1.0), gaussian_ball(0.0, 1.0), gaussian_ball(0.0, 1.0))
    distances = np.linspace(0.0, 0.6, 25)
    kept = evidence.kept([0], planes_at(distances)[None])[0, :, 0].numpy()
    way = np.exp(-(distances**2) / (2 * SIGMA**2))
    # The values' error of .15 of 3 is .05 of the way, of which the target takes a quarter.
    assert kept == pytest.approx(np.clip((way - 0.25) / 0.25, 0.0, 1.0), abs=0.2)
    assert (kept[way > 0.6] == 1.0).all()
    assert (kept[way < 0.2] == 0.0).all()


def test_a_heatmap_is_trusted_as_far_as_its_peak_is_above_those_of_negatives() -> None:
    negatives = [gaussian_ball(height) for height in (1.0, 2.0, 3.0, 4.0)]
    beside = planes_at([1.0] * 3)[None]
    for height, trust in ((9.0, 1.0), (3.5, 0.5), (2.5, 0.0), (0.5, 0.0)):
        evidence = evidence_of(gaussian_ball(height), *negatives)
        assert evidence.kept([0], beside).flatten().tolist() == pytest.approx([1.0 - trust] * 3), height


def test_negatives_keep_what_they_have_and_so_do_positives_without_negatives_to_compare_with() -> None:
    evidence = evidence_of(gaussian_ball(9.0), gaussian_ball(1.0), gaussian_ball(1.0))
    planes = np.stack([planes_at([0.0, 1.0])] * 3)
    assert evidence.kept([1, 0, 2], planes)[..., 0].tolist() == [[1.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    assert evidence.kept([1, 2], planes[:2]).tolist() == [[[1.0], [1.0]]] * 2
    alone = Evidence.of_heatmaps({0: gaussian_ball(9.0)}, np.array([[1]]), {})
    assert alone.kept([0], planes[:1]).flatten().tolist() == [1.0, 1.0]


def test_each_of_several_classes_has_its_own_heatmap() -> None:
    # The first volume has the first finding alone, the second the second, elsewhere; the third has none.
    ball, elsewhere, nothing = gaussian_ball(9.0), gaussian_ball(9.0, centre=-CENTRE), gaussian_ball(1.0)
    heatmaps = {0: torch.cat([ball, nothing]), 1: torch.cat([nothing, elsewhere]), 2: torch.cat([nothing, nothing])}
    planes = {number: planes_at([1.0] * 4) for number in heatmaps}
    evidence = Evidence.of_heatmaps(heatmaps, np.array([[1, 0], [0, 1], [0, 0]]), planes)
    beside = np.tile(np.eye(4), (1, 1, 1))
    beside[0, :3, 3] = 0.0, 0.0, 0.9  # z = .9 misses both balls
    kept = evidence.kept([0, 1], np.stack([beside, beside]))[:, 0]
    # Of the classes that a volume has not, nothing need be kept: the label is 0.
    assert (kept[0, 0], kept[1, 1]) == (0.0, 0.0)


def test_heatmaps_are_made_of_all_positives_and_some_negatives_of_each_class() -> None:
    labels = np.zeros((100, 2), dtype=np.int64)
    labels[:10, 0] = labels[5:20, 1] = 1
    chosen = volumes_to_look_at(labels)
    assert chosen == sorted(set(chosen))
    assert set(range(20)) <= set(chosen)
    assert NEGATIVES <= len(set(chosen) - set(range(20))) <= 2 * NEGATIVES
    assert volumes_to_look_at(np.array([[0], [1], [0]])) == [0, 1, 2]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_says_the_same() -> None:
    heatmaps = [gaussian_ball(9.0), gaussian_ball(1.0), gaussian_ball(1.0)]
    planes = planes_at(np.linspace(0.0, 0.5, 32))[None]
    evidence, other = (evidence_of(*(each.to(device) for each in heatmaps)) for device in ("cpu", "cuda"))
    found = other.kept([0], planes)
    assert found.is_cuda
    # float32 rounds coordinates by 1e-7, and the heatmap's way up has slopes of 3 per sigma = .2.
    assert torch.allclose(found.cpu(), evidence.kept([0], planes), atol=1e-4)
