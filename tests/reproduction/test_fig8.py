"""Noise of ToNNO: the law that white logits obey, and what the figure says of measured noise."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.networks import write_random_bundle
from tests.runs import executed
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.pictures.cuts import sample
from tonno_core.reproduction import fig8
from tonno_core.reproduction.plane import plane_of
from tonno_core.reproduction.source import Kept, Scan, Source
from tonno_core.volume.volume import Volume


@pytest.fixture
def source(tmp_path: Path) -> Source:
    bundle = load_bundle(write_random_bundle(tmp_path / "model"))
    settings = bundle.spec.choices.settings()
    ready = prepare_model(bundle, settings, "cpu", "float32")
    affine = np.diag([6.0, 6.0, 6.0, 1.0])
    array = np.zeros((20, 20, 20), dtype=np.float32)
    array[4:16, 4:16, 4:16] = 1.0
    truth = np.zeros(array.shape, dtype=bool)
    truth[10, 10, 10] = True  # so that the plane's pixels lie on voxels
    scan = Scan("cube", Volume(array, affine), 1, truth)
    return Source({"cube": lambda: scan}, Kept(tmp_path / "parts"), ready, {}, settings)


@pytest.mark.parametrize(("slices", "directions"), [(16, 200), (31, 200), (16, 800)])
def test_white_noise_gives_the_noise_of_the_formula(
    source: Source, monkeypatch: pytest.MonkeyPatch, slices: int, directions: int
) -> None:
    rng = np.random.default_rng(0)
    sigma = 0.3

    def white(source: Source, scan: Scan, plan: object, slices: int) -> np.ndarray:
        return (5.0 + sigma * rng.standard_normal((directions, slices + 2))).astype(np.float32)

    monkeypatch.setattr(fig8, "_logits", white)
    scan = source.first()
    (panel,) = fig8._panels(source, scan, plane_of(scan), slices, [directions])
    # The mean of S^2 pixels over a square of side 2 S / (S - 1); and between two offsets, whose differences have the
    # correlation -4 / 6, linear interpolation leaves 4 / 9 of the variance on the average.
    side = (32 / 31) ** 2
    expected = 2 / 3 * np.sqrt(6) / (2 * np.pi) * side * (slices - 1) ** 2 * sigma / np.sqrt(directions)
    # Neighbouring nodes share noise, so some thousand nodes are some hundred independent ones: 10 % is three sigmas.
    assert panel.noise == pytest.approx(expected, rel=0.1)


def test_trends_of_the_law_are_its_exponents() -> None:
    noise = {(m, n): 0.01 * (m - 1) ** 2 / np.sqrt(n) for m in (25, 50, 100) for n in (100, 200, 400)}
    claims, slopes = fig8.trends(noise)
    assert [claim.holds for claim in claims] == [True, True]
    assert slopes == {"directions": pytest.approx(-0.5), "slices": pytest.approx(2.0)}


def test_a_single_exception_is_told() -> None:
    noise = {(m, n): (m - 1) ** 2 / np.sqrt(n) for m in (25, 50) for n in (100, 200)}
    noise[50, 200] = noise[50, 100] * 1.01
    assert [claim.holds for claim in fig8.trends(noise)[0]] == [False, True]


def test_one_number_of_slices_says_nothing_of_slices() -> None:
    claims, slopes = fig8.trends({(25, 100): 2.0, (25, 200): 1.0})
    assert len(claims) == 1 and set(slopes) == {"directions"}


def test_the_longest_heatmap_is_that_of_tonno(source: Source) -> None:
    """The sum of parts on a plane against one reconstruction of the whole volume at its voxels."""
    _, settings = source.ready()
    scan = source.first()
    cut = plane_of(scan)
    panels = list(fig8._panels(source, scan, cut, 12, [6, 24]))
    asked = dataclasses.replace(settings, methods=("tonno",), slices=12, directions=24, grid="volume")
    bundle = load_bundle(source.kept.folder.parent / "model")
    whole = executed(scan.volume, bundle, asked).heatmaps["tonno"]
    expected = np.nan_to_num(sample(whole.array, whole.ijk_to_ras, cut.points_ras))
    inside = np.abs(expected) > 1e-30
    # float32 sums over 24 directions in another order.
    np.testing.assert_allclose(panels[1].plane[inside], expected[inside], atol=1e-4 * np.abs(expected).max())
