"""The longest axial diameter and its perpendicular: against bodies whose sections are known, and another's hull."""

from __future__ import annotations

import time

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SCALED, THRESHOLD, addHeatmap, addVolume, affine, rotation
from ToNNOSlicerLib.logic import diameters
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.pieces import Pieces
from ToNNOSlicerLib.logic.results import heatmapsOf

from tonno_core.segmentation.connected import connected, runs_of

TURNS = [(0, 0, 1, 0), (0, 0, 1, 45), (1, 0, 0, 12), (0, 1, 0, 30), (1, 2, 3, 33), (3, -1, 2, 71), (1, 1, 0, 90)]
SPACINGS = [(1.0, 1.0, 1.0), (0.7, 0.9, 1.6)]
SIZE = 72


def grid(turn, spacing) -> np.ndarray:
    """ijkToRAS whose middle lies at RAS 0, but for a part of a voxel: no body is in step with its voxels."""
    *axis, degrees = turn
    matrix = affine(rotation(axis, degrees) @ np.diag(spacing), (0, 0, 0))
    matrix[:3, 3] = -matrix[:3, :3] @ ((SIZE - 1) / 2 + np.array((0.2, 0.3, -0.1)))
    return matrix


def centers(ijkToRAS: np.ndarray) -> np.ndarray:
    """Z Y X 3: the voxels' centers in RAS mm."""
    k, j, i = np.indices((SIZE, SIZE, SIZE))
    return np.stack((i, j, k), axis=-1) @ ijkToRAS[:3, :3].T + ijkToRAS[:3, 3]


def measured(mask: np.ndarray, ijkToRAS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the longest diameters and of the perpendiculars, n 2 3."""
    runs = runs_of(mask.astype(bool))
    return diameters.measure(Pieces(runs.first, runs.last, runs.component + 1, mask.shape[::-1], ijkToRAS), ijkToRAS)


def lengths(*lines: np.ndarray) -> list[float]:
    return [float(np.linalg.norm(line[0, 1] - line[0, 0])) for line in lines]


def tolerance(ijkToRAS: np.ndarray) -> float:
    """What both ends are allowed: each lies midway between a voxel inside and one outside, half a step from either, and
    in a plane that cuts its voxel off the center up to half a layer's slant from there.
    """
    axes = diameters._axesOf(ijkToRAS)
    slant = np.linalg.norm(ijkToRAS[:2, axes.along])
    return float(np.linalg.norm(axes.steps, axis=1).max() + slant)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
def test_a_ball_is_as_long_as_it_is_wide(turn, spacing) -> None:
    ijkToRAS = grid(turn, spacing)
    mask = np.linalg.norm(centers(ijkToRAS), axis=-1) <= 14.0
    longest, across = lengths(*measured(mask, ijkToRAS))
    assert longest == pytest.approx(28, abs=tolerance(ijkToRAS))
    assert across == pytest.approx(28, abs=tolerance(ijkToRAS))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("turn", TURNS)
def test_an_ellipsoids_section_through_its_center_is_the_longest(turn, spacing) -> None:
    """An ellipsoid's sections are alike, and that through the center is the largest: an ellipse of known axes."""
    ijkToRAS = grid(turn, spacing)
    axes = rotation((2, -1, 1), 50)
    shape = axes @ np.diag(1 / np.array((18.0, 9.0, 12.0)) ** 2) @ axes.T
    points = centers(ijkToRAS)
    mask = np.einsum("...a,ab,...b->...", points, shape, points) <= 1
    longest, across = measured(mask, ijkToRAS)
    long, short = 2 / np.sqrt(np.linalg.eigvalsh(shape[:2, :2]))
    allowed = tolerance(ijkToRAS)
    assert lengths(longest)[0] == pytest.approx(long, abs=allowed)
    # Where the length ends a step too far to the side, the perpendicular is turned by that angle, and longer.
    turned = np.arcsin(min(1.0, allowed / long))
    widest = long * short / np.hypot(short * np.sin(turned), long * np.cos(turned))
    assert short - allowed <= lengths(across)[0] <= widest + allowed


@pytest.mark.parametrize("turn", TURNS)
def test_a_box_is_measured_from_corner_to_corner(turn) -> None:
    ijkToRAS = grid(turn, (0.5, 0.5, 0.5))
    a, b = 20.0, 11.0
    mask = (np.abs(centers(ijkToRAS)) <= (a / 2, b / 2, 6.0)).all(axis=-1)
    longest, across = measured(mask, ijkToRAS)
    diagonal = np.hypot(a, b)
    # A corner may lie between voxels: what was cut off reaches as far again.
    allowed = 2 * tolerance(ijkToRAS)
    assert lengths(longest)[0] == pytest.approx(diagonal, abs=allowed)
    assert lengths(across)[0] == pytest.approx(diagonal * b / a, abs=allowed)  # between the two long sides


@pytest.mark.parametrize("turn", TURNS)
def test_lines_lie_in_an_axial_plane_at_a_right_angle_on_the_finding(turn) -> None:
    ijkToRAS = grid(turn, (0.7, 0.9, 1.6))
    mask = np.linalg.norm(centers(ijkToRAS) / (18.0, 9.0, 12.0), axis=-1) <= 1
    (longest,), (across,) = measured(mask, ijkToRAS)
    assert np.ptp([*longest[:, 2], *across[:, 2]]) == pytest.approx(0, abs=1e-9)
    assert (longest[1] - longest[0]) @ (across[1] - across[0]) == pytest.approx(0, abs=1e-9)
    for point in (*longest, *across):
        assert np.linalg.norm(point / (18.0, 9.0, 12.0)) == pytest.approx(1, abs=tolerance(ijkToRAS) / 9)


def test_rows_of_voxels_by_hand() -> None:
    mask = np.zeros((5, 9, 12), bool)
    mask[1, 1, 2:7] = True  # 5 voxels along i
    mask[3, 4:7, 4] = True  # 3 along j
    mask[3, 1, 9] = True
    longest, across = measured(mask, np.diag([2.0, 3.0, 5.0, 1.0]))
    assert longest.tolist() == [[[3, 3, 5], [13, 3, 5]], [[18, 1.5, 15], [18, 4.5, 15]], [[8, 10.5, 15], [8, 19.5, 15]]]
    assert np.linalg.norm(across[:, 1] - across[:, 0], axis=1) == pytest.approx([3, 2, 2])


def test_a_box_on_the_grid_exactly() -> None:
    """Ends are the middles of voxels' faces: 6 x 4 voxels are 6 x 3 or 5 x 4 between them."""
    mask = np.zeros((7, 9, 12), bool)
    mask[1:6, 2:6, 3:9] = True
    (longest,), _across = measured(mask, np.eye(4))
    assert np.linalg.norm(longest[1] - longest[0]) == pytest.approx(np.hypot(6, 3))
    assert longest[0, 2] == 3  # of equal layers the middle one


def ragged(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest component of noise, on a grid in any position."""
    rng = np.random.default_rng(seed)
    mask = rng.random((20, 22, 24)) < 0.12
    voxels, component, _count = connected(mask)
    largest = np.zeros(mask.shape, bool)
    largest.reshape(-1)[voxels[component == np.bincount(component).argmax()]] = True
    turn = rotation(rng.normal(size=3), rng.uniform(0, 180)) if seed % 4 else np.eye(3)
    return largest, affine(turn @ np.diag(rng.uniform(0.5, 3, 3)), rng.normal(size=3))


@pytest.mark.parametrize("seed", range(12))
def test_ragged_components_against_all_pairs_of_points(seed: int) -> None:
    """The longest line of all pairs, and of its perpendiculars the longest of 4,001 within SciPy's convex hull."""
    from scipy.spatial import ConvexHull

    mask, ijkToRAS = ragged(seed)
    axes = diameters._axesOf(ijkToRAS)
    k, j, i = np.nonzero(mask)
    ijk = np.stack((i, j, k))
    across = ijk[list(axes.across)]
    layer = ijk[axes.along] + np.rint(axes.slopes @ across)
    best, perpendiculars = 0.0, []
    for number in np.unique(layer):
        middles = across[:, layer == number].T
        points = np.concatenate([middles + half for half in ((0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5))]) @ axes.steps
        corners = points[ConvexHull(points).vertices]
        apart = np.linalg.norm(corners[:, np.newaxis] - corners, axis=-1)
        if apart.max() > best + 1e-6:
            best, perpendiculars = apart.max(), []
        for first, second in np.argwhere(np.triu(apart) > best - 1e-6):
            perpendiculars.append(widest(corners, corners[first], corners[second]))
    longest, across = lengths(*measured(mask, ijkToRAS))
    assert longest == pytest.approx(best, abs=1e-9)
    # Of lines that are equally long any may be taken; between two of 4,001 lines lies less than a hundredth of a mm.
    assert min(abs(across - length) for length in perpendiculars) < 0.01


def widest(corners: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    along = (second - first) / np.linalg.norm(second - first)
    u, v = corners @ along, corners @ (-along[1], along[0])
    places = np.linspace(u.min(), u.max(), 4001)
    low, high = np.full(places.size, np.inf), np.full(places.size, -np.inf)
    for start in range(len(corners)):
        end = (start + 1) % len(corners)
        if abs(u[end] - u[start]) > 1e-12:
            share = (places - u[start]) / (u[end] - u[start])
            there = v[start] + share * (v[end] - v[start])
            crosses = (share >= 0) & (share <= 1)
            low = np.where(crosses, np.minimum(low, there), low)
            high = np.where(crosses, np.maximum(high, there), high)
    return float((high - low).max())


def test_nothing_has_no_diameters() -> None:
    longest, across = measured(np.zeros((3, 4, 5), bool), np.eye(4))
    assert longest.shape == across.shape == (0, 2, 3)


@pytest.mark.parametrize("turn", [(0, 0, 1, 0), (1, 2, 3, 33)])
def test_twenty_findings_at_256_are_measured_within_100_ms(turn, figure) -> None:
    mask = np.zeros((256, 256, 256), bool)
    k, j, i = np.indices((21, 21, 21)) - 10
    ball = k**2 + j**2 + i**2 <= 100
    for number in range(20):
        z, y, x = 20 + 40 * (number // 10), 10 + 40 * (number // 2 % 5), 20 + 100 * (number % 2)
        mask[z : z + 21, y : y + 21, x : x + 21] = ball
    runs = runs_of(mask)
    assert runs.count == 20
    ijkToRAS = affine(rotation(turn[:3], turn[3]) @ np.diag((0.9, 1.3, 2.6)), (0, 0, 0))
    pieces = Pieces(runs.first, runs.last, runs.component + 1, mask.shape[::-1], ijkToRAS)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        diameters.measure(pieces, ijkToRAS)
        times.append(1000 * (time.perf_counter() - start))
    figure(f"diameters of 20 findings at 256^3: {min(times):.0f} ms")
    assert min(times) < 100


# Lines in the scene


@pytest.mark.parametrize("transforms", [(), (RIGID,), (SCALED,)], ids=["bare", "rigid", "scaled"])
def test_lines_are_drawn_where_they_were_measured(logic, host, transforms) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["left-handed"], transforms=transforms))
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    lines = diameters.draw(host.scene, heatmap, listed)
    assert [line.GetName() for line in lines] == [
        "Finding 1 longest", "Finding 1 perpendicular", "Finding 2 longest", "Finding 2 perpendicular",
    ]  # fmt: skip
    expected = [line for f in listed for line in (f.longestRAS, f.perpendicularRAS)]
    sizes = [length for f in listed for length in (f.longestMm, f.perpendicularMm)]
    for node, ends, length in zip(lines, expected, sizes, strict=True):
        assert slicer.util.arrayFromMarkupsControlPoints(node, world=True) == pytest.approx(np.array(ends), abs=1e-9)
        assert node.GetMeasurement("length").GetValue() == pytest.approx(length)
        assert node.GetLocked() and node.GetTransformNodeID() == heatmap.GetTransformNodeID()
    assert diameters.isDrawn(heatmap)


def test_lines_go_with_the_patient(logic, host) -> None:
    heatmap = addHeatmap(logic, volume := addVolume())
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    transform = host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    for node in (volume, heatmap):
        node.SetAndObserveTransformNodeID(transform.GetID())
    line = diameters.draw(host.scene, heatmap, listed)[0]
    slicer.util.updateTransformMatrixFromArray(transform, RIGID)
    moved = np.array(listed[0].longestRAS) @ RIGID[:3, :3].T + RIGID[:3, 3]
    assert slicer.util.arrayFromMarkupsControlPoints(line, world=True) == pytest.approx(moved)


def test_lines_are_replaced_and_removed_and_no_others(logic, host) -> None:
    heatmap = addHeatmap(logic, addVolume())
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    other = host.scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", "mine")
    diameters.draw(host.scene, heatmap, listed)
    lines = diameters.draw(host.scene, heatmap, listed[:1])
    assert host.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode") == 3
    host.scene.RemoveNode(lines[0])  # by the user
    diameters.remove(host.scene, heatmap)
    diameters.remove(host.scene, heatmap)
    assert [node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLMarkupsLineNode")] == ["mine"]
    assert other.GetScene() is not None and not diameters.isDrawn(heatmap)
    assert not heatmap.GetNumberOfNodeReferences(diameters.ROLE)
    # Its own, and that of the line which the user removed: the views would draw a line for as long as it has one.
    displays = slicer.util.getNodesByClass("vtkMRMLMarkupsDisplayNode")
    assert lines[1].GetDisplayNode() is None and len(displays) == 2


def test_lines_are_saved_with_the_scene(logic, host, tmp_path) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)))
    listed = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)
    diameters.draw(host.scene, heatmap, listed)
    del heatmap
    host.load(host.save(tmp_path / "scene"))
    (heatmap,) = heatmapsOf(logic.scene)
    assert diameters.isDrawn(heatmap)
    line = slicer.util.getNode("Finding 1 longest")
    # Markups' files keep some digits less than memory.
    assert line.GetLineLengthWorld() == pytest.approx(listed[0].longestMm, abs=1e-4)
    diameters.remove(host.scene, heatmap)
    assert not host.scene.GetNumberOfNodesByClass("vtkMRMLMarkupsLineNode")
