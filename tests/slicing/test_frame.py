"""Frames: where [-1, 1]^3 lies in the patient."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.transform import Rotation

from tests.analytic import grid_around, voxel_centres
from tonno_core.slicing.frame import closeness, normalized_frame, patient_axes, physical_frame, within_ball
from tonno_core.volume.volume import Volume

OBLIQUE = grid_around((10, -20, 30), (5, 7, 4), (1.0, 2.0, 3.0), turn_degrees=(20, -30, 10), left_handed=True)


def test_physical_frame_is_a_ball_in_millimetres() -> None:
    matrix = physical_frame([1, 2, 3], 50.0)
    np.testing.assert_array_equal(matrix @ [0, 0, 0, 1], [1, 2, 3, 1])
    np.testing.assert_array_equal(matrix @ [0, 0, -1, 1], [1, 2, -47, 1])
    np.testing.assert_array_equal(np.diag(physical_frame([0, 0, 0], 0.5)), [0.5, 0.5, 0.5, 1])  # of a specimen


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan")])
def test_physical_frame_needs_a_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number"):
        physical_frame([0, 0, 0], radius)


def test_normalized_frame_follows_the_array_axes() -> None:
    volume = Volume(np.zeros((5, 7, 4), dtype=np.float32), OBLIQUE)  # Z Y X: 4 x 7 x 5 voxels along i, j, k
    frame = normalized_frame(volume)
    # (i', j', k') run along Z, Y, X: (-1, -1, -1) is the first voxel, (1, -1, -1) the last along Z.
    for corner, voxel in [((-1, -1, -1), (0, 0, 0)), ((1, -1, -1), (0, 0, 4)), ((-1, 1, -1), (0, 6, 0)),
                          ((-1, -1, 1), (3, 0, 0)), ((0, 0, 0), (1.5, 3, 2))]:  # fmt: skip
        np.testing.assert_allclose(frame @ [*corner, 1], OBLIQUE @ [*voxel, 1], atol=1e-12)


def test_patient_axes_of_a_physical_frame_are_the_patients() -> None:
    np.testing.assert_array_equal(patient_axes(physical_frame([1, 2, 3], 9.0)), np.eye(3))


def test_patient_axes_are_the_best_assignment_whatever_the_voxels_size() -> None:
    """Against scipy's assignment of axes to R, A and S by their cosines."""
    for turn in Rotation.random(300, random_state=0).as_matrix():
        rows, columns = linear_sum_assignment(-np.abs(turn))
        expected = np.zeros((3, 3))
        expected[rows, columns] = np.sign(turn[rows, columns])
        for sizes in ((1.0, 1.0, 1.0), (9.0, 1.0, 0.5), (0.5, 9.0, 1.0)):
            frame = np.eye(4)
            frame[:3, :3] = turn * sizes
            np.testing.assert_array_equal(patient_axes(frame), expected)


def test_patient_axes_of_a_normalized_frame_point_to_r_a_s() -> None:
    # i runs to L, j to S, k to P, all a little turned: R is -k', A is -i', S is +j'.
    turned = grid_around((0, 0, 0), (5, 7, 4), (1, 1, 1), turn_degrees=(10, 5, -8))
    turned[:3, :3] = turned[:3, :3] @ np.array([[-1, 0, 0], [0, 0, -1], [0, 1, 0]])
    frame = normalized_frame(Volume(np.zeros((5, 7, 4), dtype=np.float32), turned))
    np.testing.assert_array_equal(patient_axes(frame), [[0, 0, -1], [-1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("shape", [(5, 7, 4), (3, 1500, 1500)], ids=["small", "three slabs"])
def test_the_ball_and_the_closeness_to_its_centre(shape: tuple[int, int, int]) -> None:
    volume = Volume(np.zeros(shape, dtype=np.float32), OBLIQUE)
    frame = physical_frame([10, -20, 30], 8.0 if shape[0] == 5 else 900.0)
    distance = np.linalg.norm(voxel_centres(shape, OBLIQUE) - frame[:3, 3], axis=-1) / frame[0, 0]
    np.testing.assert_allclose(closeness(volume, frame), 1.0 - distance, rtol=2e-7, atol=1e-9)  # float32
    inside = within_ball(volume, frame)
    assert 0.1 < inside.mean() < 0.9
    clear = np.abs(distance - 1.0) > 1e-9  # rounding may put a voxel of the very surface on either side
    np.testing.assert_array_equal(inside[clear], distance[clear] <= 1.0)
