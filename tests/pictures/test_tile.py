"""Which plane stands for a case, and that it shows the patient's anatomy wherever the voxels lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tonno_core.errors import TonnoError
from tonno_core.pictures.tile import Tile, load_tile, make_tile, save_tile
from tonno_core.volume.volume import Volume

SHAPE = (20, 24, 28)


def volume(spacing: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Volume:
    """A box of 100 with a dark rim; i to the patient's left, j to the front, k to the head; spacing of i, j, k."""
    array = np.zeros(SHAPE, np.float32)
    array[3:-3, 3:-3, 3:-3] = 100.0
    ijk_to_ras = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
    ijk_to_ras[:3, 3] = 28.0, -24.0, -20.0
    return Volume(array, ijk_to_ras)


def tile(image: Volume, truth: np.ndarray | None, peak: tuple[int, int, int] = (10, 12, 14)) -> Tile:
    """Make a tile of two heatmaps; the first peaks at a voxel (k, j, i) and is higher outside of the head."""
    first, second = np.zeros(SHAPE, np.float32), np.full(SHAPE, 7.0, np.float32)
    first[peak], first[0, 0, 0] = 3.0, 9.0
    heatmaps = {"first": first, "second": second}
    return make_tile(image, heatmaps, {"first": first > 2, "second": second > 8}, truth, image.array > 50)


def test_the_axial_plane_with_the_most_truth() -> None:
    truth = np.zeros(SHAPE, np.bool_)
    truth[5, 10:13, 10:13] = True  # 9 voxels at S -20 + 5 * 2
    truth[14, 8:12, 8:12] = True  # 16 voxels at S 8
    truth[13:17, 20, 20] = True  # a long thin one does not decide
    shown = tile(volume(), truth, peak=(5, 4, 4))
    assert shown.where == "Axial S 8 mm"
    assert shown.view.edges == ("R", "L", "P", "A")
    assert shown.truth is not None
    assert shown.truth.sum() == pytest.approx(17.0, abs=1e-6)  # pixels are voxels here
    assert shown.heatmaps["first"].max() == 0.0
    assert shown.heatmaps["second"].min() == pytest.approx(7.0)


@pytest.mark.parametrize("truth", [None, np.zeros(SHAPE, np.bool_)])
def test_without_truth_the_plane_of_the_first_heatmaps_peak_within_the_patient(truth: np.ndarray | None) -> None:
    shown = tile(volume(), truth, peak=(6, 4, 20))
    assert shown.where == "Axial I 8 mm"
    assert shown.heatmaps["first"].max() == pytest.approx(3.0)
    assert shown.masks["first"].max() == 1.0
    assert (shown.truth is None) == (truth is None)
    v, u = np.unravel_index(int(np.argmax(shown.heatmaps["first"])), shown.heatmaps["first"].shape)
    # To the patient's left, to the front.
    assert (shown.view.u[u], shown.view.v[v]) == (-(28.0 - 2 * 20), -24.0 + 2 * 4)


@pytest.mark.parametrize(
    ("spacing", "name"), [((2, 2, 5), "Axial"), ((2, 5, 2), "Coronal"), ((5, 2, 2), "Sagittal"), ((1, 2, 2), "Axial")]
)
def test_slices_that_are_far_apart_are_shown_as_they_were_taken(spacing: tuple[float, float, float], name: str) -> None:
    assert tile(volume(spacing), None).where.startswith(name)


def test_the_plane_is_cropped_to_the_patient_and_the_truth() -> None:
    truth = np.zeros(SHAPE, np.bool_)
    truth[10, 12, 0:3] = True  # beside the box, at its level
    wide, narrow = tile(volume(), truth), tile(volume(), None)
    # The box spans 22 voxels of 28 and 18 of 24; a margin of 6 mm is three pixels, up to the volume's own edge.
    assert narrow.image.shape == (24, 28)
    assert wide.image.shape[1] >= narrow.image.shape[1]
    small = volume()
    small.array[:, :8], small.array[:, -8:] = 0.0, 0.0
    assert tile(small, None).image.shape == (8 + 2 * 3, 28)


def test_a_tile_comes_back_from_its_file(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.bool_)
    truth[9, 10:13, 10:13] = True
    for written in (tile(volume(), truth), tile(volume(), None)):
        save_tile(tmp_path / "a.npz", written)
        read = load_tile(tmp_path / "a.npz")
        assert (read.where, read.view.edges) == (written.where, written.view.edges)
        assert list(read.heatmaps) == list(written.heatmaps)
        assert (read.truth is None) == (written.truth is None)
        for name in written.heatmaps:
            np.testing.assert_array_equal(read.heatmaps[name], written.heatmaps[name])
            np.testing.assert_array_equal(read.masks[name], written.masks[name])
        np.testing.assert_array_equal(read.image, written.image)
        np.testing.assert_array_equal(read.view.u, written.view.u)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_damaged_tile_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK half")
    with pytest.raises(TonnoError, match=r"a\.npz: not readable"):
        load_tile(tmp_path / "a.npz")


def test_the_padding_of_a_ct_is_shown_as_air() -> None:
    image, truth = volume(), np.zeros(SHAPE, np.bool_)
    truth[10, 12, 14] = True
    image.array[:] = np.where(image.array > 50, 60.0, -1000.0)
    plain = tile(image, truth)
    image.array[:, :3] = -3024.0  # two of four corners, and what the margin shows
    np.testing.assert_array_equal(tile(image, truth).image, plain.image)
