"""Which planes cut a mask, and where they lie, against what is known of balls and frames."""

import numpy as np
import pytest

from tests.analytic import voxel_centres
from tonno_core.reproduction.slices import cut_by, offsets_mm
from tonno_core.slicing.directions import hemisphere
from tonno_core.slicing.frame import normalized_frame, physical_frame
from tonno_core.slicing.plan import SlicePlan
from tonno_core.volume.volume import Volume

SHAPE = (30, 36, 40)
CENTRE, RADIUS = np.array([9.0, -4.0, 6.0]), 14.0


def scan() -> Volume:
    affine = np.array([[-2.0, 0, 0, 40], [0, 2.0, 0, -35], [0, 0, 2.5, -30], [0, 0, 0, 1]])
    return Volume(np.zeros(SHAPE, dtype=np.float32), affine)


def ball(volume: Volume) -> np.ndarray:
    return np.linalg.norm(voxel_centres(SHAPE, volume.ijk_to_ras) - CENTRE, axis=-1) <= RADIUS


def test_planes_that_cut_a_ball_are_those_no_farther_from_its_centre_than_its_radius() -> None:
    volume = scan()
    plan = SlicePlan(physical_frame([0.0, 0.0, 0.0], 60.0), hemisphere(40), 41, 32)
    counted = cut_by(ball(volume), volume, plan)
    mm = offsets_mm(plan)
    distance = np.abs(mm - (plan.directions @ CENTRE)[:, None])
    # Half a step of 3 mm, and the 1.9 mm from a voxel's centre to its corner, by which a ball of voxels may differ.
    assert (counted[distance < RADIUS - 1.9] > 0).all()
    assert (counted[distance > RADIUS + 1.5 + 1.9] == 0).all()


def test_each_voxel_is_counted_once_along_each_direction() -> None:
    volume = scan()
    plan = SlicePlan(physical_frame([0.0, 0.0, 0.0], 60.0), hemisphere(5), 41, 32)
    mask = ball(volume)
    assert (cut_by(mask, volume, plan).sum(axis=1) == mask.sum()).all()


def test_an_empty_mask_is_cut_by_no_plane() -> None:
    volume = scan()
    plan = SlicePlan(physical_frame([0.0, 0.0, 0.0], 60.0), hemisphere(3), 10, 32)
    assert cut_by(np.zeros(SHAPE, dtype=bool), volume, plan).shape == (3, 12)
    assert not cut_by(np.zeros(SHAPE, dtype=bool), volume, plan).any()


@pytest.mark.parametrize("index", range(6))
def test_offsets_are_distances_in_the_patient_also_in_a_stretched_frame(index: int) -> None:
    volume = scan()
    frame = normalized_frame(volume)
    plan = SlicePlan(frame, hemisphere(6), 9, 32)
    mm = offsets_mm(plan)[index]
    # A point of the plane, and the plane's normal in the patient, that of a covector: both from their definitions.
    normal = np.linalg.inv(frame[:3, :3]).T @ plan.directions[index]
    points = frame[:3, :3] @ (plan.directions[index][:, None] * plan.offsets)
    # float64 throughout.
    np.testing.assert_allclose(mm, normal @ points / np.linalg.norm(normal), rtol=1e-12, atol=1e-12)
