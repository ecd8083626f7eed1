"""The ball around the patient, whatever grid the patient was put on."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tonno_core.errors import TonnoError
from tonno_core.volume.foreground import foreground_ball, foreground_mask
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume

CENTRE = np.array([10.0, -20.0, 30.0])
BESIDE = np.array([3.3, -2.2, 1.4])
SEMI_AXES = np.array([40.0, 30.0, 20.0])
ROTATION = np.array([[2, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3  # 60 degrees around (1, 1, 1)

Mask = npt.NDArray[np.bool_]


def ellipsoid(axes: npt.ArrayLike, size_ijk: tuple[int, int, int]) -> Volume:
    """Intensity 100 inside of the ellipsoid, on air; the grid's middle lies elsewhere."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = axes
    ijk_to_ras[:3, 3] = CENTRE + BESIDE - ijk_to_ras[:3, :3] @ (np.array(size_ijk) - 1) / 2
    kji = np.indices(size_ijk[::-1])
    points = np.einsum("ra,azyx->rzyx", ijk_to_ras[:3, :3], kji[::-1]) + ijk_to_ras[:3, 3, None, None, None]
    inside = (((points.T - CENTRE) / SEMI_AXES) ** 2).sum(axis=-1).T < 1
    return Volume((100 * inside).astype(np.float32), ijk_to_ras)


@pytest.mark.parametrize(
    ("axes", "size_ijk"),
    [
        (np.diag([1, 1, 1]), (100, 80, 60)),
        (np.diag([-1, 1, 1]), (100, 80, 60)),
        (np.diag([0.8, 0.8, 5]), (128, 100, 16)),
        (ROTATION * [1, 2, 3], (90, 45, 30)),
        (ROTATION * [-1.5, 1, 4], (60, 90, 24)),
        ([[1, 0, 0.3], [0, 1, 0], [0, 0, 2]], (110, 80, 40)),
    ],
    ids=["isotropic", "left-handed", "thick slices", "oblique", "oblique left-handed", "sheared"],
)
def test_ball_of_an_ellipsoid_on_any_grid(axes: npt.ArrayLike, size_ijk: tuple[int, int, int]) -> None:
    volume = ellipsoid(axes, size_ijk)
    centre, radius = foreground_ball(volume)
    # Each border is known to half a voxel, and a voxel is at most its longest edge wide.
    assert np.abs(centre - CENTRE).max() < volume.spacing_mm.max() / 2
    # 99.9 % of such an ellipsoid's points lie within 39.22 mm (20 million random points); the rest is the
    # half voxel around the outermost centre.
    half_diagonal = np.linalg.norm(volume.spacing_mm) / 2
    assert radius == pytest.approx(39.22 + half_diagonal, abs=volume.spacing_mm.max() / 2)


def test_stray_voxels_do_not_move_the_ball() -> None:
    volume = ellipsoid(np.eye(3), (100, 80, 60))
    clean_centre, clean_radius = foreground_ball(volume)
    volume.array[:2, :2, :10] = 100  # 40 voxels in a corner, of 100,000
    centre, radius = foreground_ball(volume)
    # Below 0.1 % of the foreground: the percentiles move by no more than one voxel.
    assert np.abs(centre - clean_centre).max() <= 1
    assert radius == pytest.approx(clean_radius, abs=1)


def body(shape: tuple[int, int, int] = (40, 80, 80)) -> tuple[Mask, Mask]:
    """A body, and the scanner's circle around it."""
    _, y, x = np.indices(shape)
    return ((x - 40) / 32) ** 2 + ((y - 40) / 24) ** 2 < 1, (x - 40) ** 2 + (y - 40) ** 2 < 39**2


def dice(a: Mask, b: Mask) -> float:
    return float(2 * np.sum(a & b) / (np.sum(a) + np.sum(b)))


@pytest.mark.parametrize("padding", [None, -1500, -2000, -3024, -8192, -32768])
def test_body_in_a_ct_with_air_and_padding(padding: float | None) -> None:
    inside, circle = body()
    array = np.where(inside, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 20, inside.shape)
    if padding is not None:
        array[~circle] = padding
    mask = foreground_mask(Volume(array.astype(np.float32), np.eye(4)))
    assert np.array_equal(mask, inside)  # 1040 HU of contrast are 50 times the noise


@pytest.mark.parametrize("padding", [-3024, -8192, -32768])
@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 0, 2), (2, 1, 0)], ids=["axial", "coronal", "sagittal"])
def test_padding_does_not_move_the_ball(padding: float, axes: tuple[int, int, int]) -> None:
    inside, circle = body()
    array = np.where(inside, 40.0, -1000.0) + np.random.default_rng(0).normal(0, 20, inside.shape)
    plain = foreground_ball(Volume(array.transpose(axes).astype(np.float32), np.eye(4)))
    array[~circle] = padding
    padded = foreground_ball(Volume(array.transpose(axes).astype(np.float32), np.eye(4)))
    np.testing.assert_array_equal(padded[0], plain[0])  # the same foreground, sampled alike
    assert padded[1] == plain[1]


def test_a_low_background_that_is_no_padding_stays() -> None:
    inside, _ = body()
    # Not in HU: what is scanned lies below air's -1024 as well.
    array = np.where(inside, -4000.0, -8192.0)
    assert np.array_equal(foreground_mask(Volume(array.astype(np.float32), np.eye(4))), inside)


@pytest.mark.parametrize("background", ["noise", "zeros outside of a circle", "zeros"])
def test_body_in_an_mri_with_coil_shading(background: str) -> None:
    inside, circle = body()
    rng = np.random.default_rng(0)
    signal = np.where(inside, 100 + 5.0 * np.arange(80), 0)  # five times brighter on one side
    array = np.hypot(signal + rng.normal(0, 8, inside.shape), rng.normal(0, 8, inside.shape))
    if background != "noise":
        array[~(circle if background == "zeros outside of a circle" else inside)] = 0
    assert dice(foreground_mask(Volume(array.astype(np.float32), np.eye(4))), inside) > 0.99


def test_body_in_a_pet_with_hot_organs() -> None:
    inside, _ = body()
    rng = np.random.default_rng(0)
    array = np.where(inside, rng.gamma(16, 0.5 / 16, inside.shape), rng.gamma(1, 0.01, inside.shape))
    array[10:20, 35:50, 35:50] = 8  # 1 % of the voxels at 16 times the body's uptake
    mask = foreground_mask(Volume(array.astype(np.float32), np.eye(4)))
    # Without the square root the threshold falls between body and organ.
    assert dice(mask, inside) > 0.99


def test_small_object_below_the_percentiles() -> None:
    array = np.zeros((40, 40, 40), np.float32)
    array[10:14, 20:24, 30:34] = 7  # 0.1 % of the voxels
    centre, radius = foreground_ball(Volume(array, np.eye(4)))
    assert centre.tolist() == [31.5, 21.5, 11.5]
    assert radius == pytest.approx(2 * np.sqrt(3))  # from the middle to the outer corner


def test_skull_stripped_brain() -> None:
    data = Path(pytest.importorskip("nilearn").__file__).parent / "datasets" / "data"
    volume = read_volume(data / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")
    mask = foreground_mask(volume)
    # Everything that is not background is exactly 0 there; a little dark fluid falls below the threshold.
    assert dice(mask, volume.array > 0) > 0.99
    centre, radius = foreground_ball(volume)
    # The MNI brain reaches from -71 to 71, -106 to 74 and -72 to 83 mm (right, anterior, superior).
    np.testing.assert_allclose(centre, [0, -16, 5], atol=4)
    assert 85 < radius < 95


def test_nothing_but_background() -> None:
    with pytest.raises(TonnoError, match="no foreground found"):
        foreground_ball(Volume(np.full((4, 5, 6), 3, np.float32), np.eye(4)))


def test_large_volume_is_fast_and_repeatable() -> None:
    array = np.zeros((256, 256, 256), np.float32)
    array[10:246, 10:246, 10:246] = 100
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = ROTATION
    started = time.process_time()
    first = foreground_ball(Volume(array, ijk_to_ras))
    # 0.2 s where this was written; 5 s when all of the 13 million foreground voxels are measured
    assert time.process_time() - started < 1
    second = foreground_ball(Volume(array, ijk_to_ras))
    assert np.array_equal(first[0], second[0])
    assert first[1] == second[1]
