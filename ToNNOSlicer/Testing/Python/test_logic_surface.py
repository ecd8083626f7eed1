"""Small findings do not vanish from 3D views: how thin they are, and what smoothing leaves of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import slicer
import vtk
from scenes import GRIDS, SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, paint
from ToNNOSlicerLib.logic.labelmap import Crop, fitSurface, imageOf
from ToNNOSlicerLib.logic.patient import ROLE, showSurface
from ToNNOSlicerLib.logic.segmentation import show3D
from ToNNOSlicerLib.logic.surface import SMOOTHING, smoothingFor, thinnest, volumeMm3


def cube(n: int) -> np.ndarray:
    return np.ones((n, n, n), dtype=np.uint8)


def ball(radius: float) -> np.ndarray:
    n = math.floor(radius)
    distance = np.linalg.norm(np.indices((2 * n + 1,) * 3) - n, axis=0)
    return (distance <= radius).astype(np.uint8)


SHAPES = {
    "cube of 1": cube(1),
    "cube of 2": cube(2),
    "cube of 3": cube(3),
    "cube of 4": cube(4),
    "cube of 5": cube(5),
    "cube of 6": cube(6),
    "cube of 8": cube(8),
    "ball of 19": ball(1.5),
    "ball of 81": ball(2.5),
    "ball of 257": ball(4),
    "ball of 925": ball(6),
    "line of 10": np.ones((1, 1, 10), np.uint8),
    "plate of 10 x 10": np.ones((1, 10, 10), np.uint8),
    "rod of 2 x 2 x 10": np.ones((2, 2, 10), np.uint8),
}


def surfaceOf(mask: np.ndarray, factor: float):
    """Make a surface as Slicer's libraries do, of a mask (Z Y X) of voxels of 1 mm."""
    segmentation, segment = slicer.vtkSegmentation(), slicer.vtkSegment()
    segmentation.SetSourceRepresentationName("Binary labelmap")
    segment.AddRepresentation("Binary labelmap", imageOf(Crop(mask, (0, 0, 0), np.eye(4))))
    segmentation.AddSegment(segment, "a")
    segmentation.SetConversionParameter(SMOOTHING, str(factor))
    assert segmentation.CreateRepresentation("Closed surface")
    return segment.GetRepresentation("Closed surface")


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (cube(1), 1.0),
        (cube(3), 3.0),
        (cube(7), 7.0),
        (np.ones((1, 1, 10)), 6 * 10 / 42),
        (np.ones((1, 10, 10)), 6 * 100 / 240),
        (np.pad(cube(2), ((0, 5), (0, 0), (0, 0))) + np.pad(cube(2), ((3, 2), (0, 0), (0, 0))), 2.0),
        (np.zeros((3, 3, 3)), math.inf),
        (np.zeros((0, 0, 0)), math.inf),
    ],
)
def test_thickness_by_hand(mask, expected: float) -> None:
    assert thinnest(mask) == pytest.approx(expected)


def test_the_thinnest_of_several_counts_and_neighbors_over_a_corner_are_one() -> None:
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[:6, :6, :6] = 1
    mask[6, 6, 6] = 1  # touches the corner: 217 voxels, 6 x 36 + 6 faces
    assert thinnest(mask) == pytest.approx(6 * 217 / 222)
    mask[10, 0, 0] = 1
    assert thinnest(mask) == 1.0


@pytest.mark.parametrize("name", SHAPES)
def test_what_the_chosen_smoothing_leaves(host, name: str) -> None:
    """At Slicer's default a cube of 3 voxels keeps 4 %, of 2 nothing; without smoothing, corners are still cut."""
    mask = SHAPES[name]
    kept, uncut = (volumeMm3(surfaceOf(mask, f)) / mask.sum() for f in (smoothingFor(thinnest(mask)), 0.0))
    assert kept >= min(0.9, 0.95 * uncut)
    assert kept <= 1.0


def test_figures_of_the_table_in_the_docs(host) -> None:
    """docs/interchange.md."""
    for name, factor, expected in (
        ("cube of 3", 0.5, 0.036),
        ("cube of 3", 0.2, 0.877),
        ("cube of 2", 0.5, 0.0),
        ("cube of 2", 0.1, 0.709),
        ("ball of 19", 0.5, 0.031),
        ("ball of 19", 0.1, 0.876),
        ("cube of 1", 0.0, 1 / 6),  # an octahedron between the six neighbors
    ):
        mask = SHAPES[name]
        assert volumeMm3(surfaceOf(mask, factor)) / mask.sum() == pytest.approx(expected, abs=0.005), (name, factor)


def test_the_volume_is_vtks(host) -> None:
    surface = surfaceOf(ball(4), 0.2)
    properties = vtk.vtkMassProperties()
    properties.SetInputData(surface)
    assert volumeMm3(surface) == pytest.approx(properties.GetVolume(), rel=1e-5)  # float32 points
    far = vtk.vtkTransformPolyDataFilter()
    shift = vtk.vtkTransform()
    shift.Translate(-300, 200, 900)
    far.SetInputData(surface)
    far.SetTransform(shift)
    far.Update()
    assert volumeMm3(far.GetOutput()) == pytest.approx(volumeMm3(surface), rel=1e-4)  # float32 a meter away


# In the scene


def smoothing(segmentation) -> float:
    return float(segmentation.GetSegmentation().GetConversionParameter(SMOOTHING))


def shownMl(segmentation, segmentId: str) -> float:
    return volumeMm3(segmentation.GetClosedSurfaceInternalRepresentation(segmentId)) / 1000


def heatmapOf(logic, *cubes: tuple[int, float]):
    """A heatmap of 2, with cubes (voxels, value) in it, side by side along i."""
    array = np.full(SHAPE_ZYX, -1.0, np.float32)
    start = 1
    for n, value in cubes:
        array[1 : 1 + n, 1 : 1 + n, start : start + n] = value
        start += n + 2
    return addHeatmap(logic, addVolume(GRIDS["plain"]), array)


def test_small_findings_are_there_in_3d(logic) -> None:
    segmentation, segmentId = logic.segments.write(heatmapOf(logic, (3, 5.0)), THRESHOLD)
    assert smoothing(segmentation) == 0.2  # before anything is shown: Slicer's own buttons make surfaces too
    show3D(segmentation, True)
    assert shownMl(segmentation, segmentId) == pytest.approx(0.877 * 0.027, rel=0.01)


def test_large_findings_are_as_smooth_as_everywhere_in_slicer(logic) -> None:
    segmentation, segmentId = logic.segments.write(heatmapOf(logic, (8, 5.0)), THRESHOLD)
    assert smoothing(segmentation) == 0.5
    show3D(segmentation, True)
    assert shownMl(segmentation, segmentId) == pytest.approx(0.981 * 0.512, rel=0.01)


def test_a_smaller_finding_that_comes_up_is_shown_too(logic) -> None:
    """All that is shown is made anew, not only the segment that was written."""
    heatmap = heatmapOf(logic, (8, 9.0), (2, 5.0))
    segmentation, segmentId = logic.segments.write(heatmap, 7.0)
    show3D(segmentation, True)
    large = shownMl(segmentation, segmentId)
    logic.segments.write(heatmap, THRESHOLD)
    assert shownMl(segmentation, segmentId) == pytest.approx(0.978 * 0.512 + 0.708 * 0.008, rel=0.01)
    logic.segments.undo(heatmap)
    assert smoothing(segmentation) == 0.5 and shownMl(segmentation, segmentId) == pytest.approx(large)
    _node, small = logic.segments.writeNew(heatmap, THRESHOLD, segmentationNode=segmentation)
    assert smoothing(segmentation) == 0.1
    assert shownMl(segmentation, small) == pytest.approx(0.978 * 0.512 + 0.708 * 0.008, rel=0.01)
    assert shownMl(segmentation, segmentId) == pytest.approx(0.978 * 0.512, rel=0.01)


def test_the_users_own_smoothing_stays(logic) -> None:
    heatmap = heatmapOf(logic, (3, 9.0), (2, 5.0))
    segmentation, _id = logic.segments.write(heatmap, 7.0)
    segmentation.GetSegmentation().SetConversionParameter(SMOOTHING, "0.35")
    logic.segments.write(heatmap, THRESHOLD)
    show3D(segmentation, True)
    assert smoothing(segmentation) == 0.35


def test_the_users_own_segments_do_not_decide(logic) -> None:
    """A whole body's organs in the same node would take seconds to measure, and a speck in one would make all rough."""
    segmentation, _id = logic.segments.write(heatmapOf(logic, (8, 9.0)), THRESHOLD)
    theirs = segmentation.GetSegmentation().AddEmptySegment("", "organ")
    speck = np.zeros(SHAPE_ZYX, np.uint8)
    speck[12, 12, 12] = 1
    paint(segmentation, theirs, speck, slicer.util.getNode("CT"))
    assert not fitSurface(segmentation) and smoothing(segmentation) == 0.5


@pytest.mark.parametrize("padding", [None, -2000.0, -8192.0, -32768.0])
def test_the_patients_surface_is_not_that_of_a_scanners_circle(host, logic, padding) -> None:
    """A ball of 10 mm in air, in a circle of 19 mm outside of which a scanner has measured nothing."""
    z, y, x = np.indices((30, 40, 40)) - np.array([14.5, 19.5, 19.5]).reshape(3, 1, 1, 1)
    edge = np.clip((11 - np.sqrt(x**2 + y**2 + z**2)) / 2, 0, 1)  # from air to water in 2 mm
    array = (np.random.default_rng(0).normal(-1000, 10, x.shape) + 1000 * edge).astype(np.float32)
    if padding is not None:
        array[x**2 + y**2 > 19**2] = padding
    node = addVolume(np.eye(4), array)
    showSurface(node, True)
    low, high = np.reshape(node.GetNodeReference(ROLE).GetPolyData().GetBounds(), (3, 2)).T
    # The level is that of a place on the edge, which is between 9 and 11 mm.
    np.testing.assert_allclose(high - low, 20, rtol=0, atol=2)
