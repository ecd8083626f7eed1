"""Volumes in every position, by clicks and with the real engine: heatmap and segment lie where the image lies.

The truth is the sample, whose lesions are at known places. Stored along other axes, or moved away by its own matrix and
back by a transform, it is the same image in the world, so its heatmap must be the same there too.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from ToNNOSlicerLib import running
from ToNNOSlicerLib.logic.segmentation import thresholdOf

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
pytest.importorskip("torch")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="walk.py reads Linux's /proc")]

DIRECTIONS = 24  # quick, and enough for the sample's lesions
WORLD_MM = 1e-4


@pytest.fixture(scope="module")
def path():
    from qt_host import QtHost
    from walk import opened

    host = QtHost()
    widget = opened(host)
    widget.ui.directionsBox.value = DIRECTIONS
    widget.ui.smallestBox.value = 0.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "concerns", lambda *_arguments: [])  # grids that no training image had, on purpose
        yield SimpleNamespace(host=host, widget=widget, panel=widget.panel, ui=widget.ui)
    said = host.messages.take()
    host.close()
    assert not said, said


@pytest.fixture(scope="module")
def straight(path) -> np.ndarray:
    """The heatmap of the sample as it is, Z Y X."""
    from ToNNOSlicerLib.sample import makeSample

    heatmap = reconstructed(path, *makeSample())
    return voxels(heatmap)


def reconstructed(path, array: np.ndarray, ijkToRAS: np.ndarray, parent: np.ndarray | None = None):
    """Add a volume under a transform (4 x 4, to the world), select it, run; the heatmap's node."""
    import slicer.util
    from walk import run

    volume = slicer.util.addVolumeFromArray(np.ascontiguousarray(array), ijkToRAS=ijkToRAS, name="scan")
    if parent is not None:
        transform = path.host.scene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        slicer.util.updateTransformMatrixFromArray(transform, parent)
        volume.SetAndObserveTransformNodeID(transform.GetID())
    path.ui.inputSelector.setCurrentNode(volume)
    run(path.host, path.widget)
    assert path.panel.session.result.heatmapNode.GetNodeReference("ToNNO.input") is volume
    return path.panel.session.result.heatmapNode


def voxels(node) -> np.ndarray:
    import slicer.util

    return slicer.util.arrayFromVolume(node).copy()


def stepped(matrix: np.ndarray, first: tuple, *steps: tuple) -> np.ndarray:
    """The 4 x 4 of a grid whose voxel (0, 0, 0) is `first` of another, and whose axes are steps on it."""
    change = np.eye(4)
    change[:3, :3], change[:3, 3] = np.transpose(steps), first
    return matrix @ change


def positions() -> dict:
    """Name to (array, its own matrix, parent transform or None, where the world's sample has gone)."""
    from scenes import RIGID, affine, rotation
    from ToNNOSlicerLib.sample import makeSample

    array, matrix = makeSample()
    z, _y, x = array.shape
    turn = affine(rotation((1, 2, 3), 33), (12.34, -56.7, 89.1))
    half = (np.asarray(array[: z // 2 * 2 : 2]) + array[1::2]) / 2  # slices of 4 mm, averaged as a scanner would
    return {
        "other axes": (
            array.transpose(2, 0, 1),
            stepped(matrix, (0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)),
            None,
            None,
        ),
        "left-handed, transformed": (
            array[:, :, ::-1],
            np.linalg.inv(RIGID) @ stepped(matrix, (x - 1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, 0, 1)),
            RIGID,
            None,
        ),
        "oblique": (array, turn @ matrix, None, turn),
        "oblique, anisotropic, transformed": (
            half,
            turn @ stepped(matrix, (0, 0, 0.5), (1, 0, 0), (0, 1, 0), (0, 0, 2)),
            RIGID,
            RIGID @ turn,
        ),
    }


# How the straight heatmap's array becomes that of the same world on another grid.
SAME_WORLD = {
    "other axes": lambda array: array.transpose(2, 0, 1),
    "left-handed, transformed": lambda array: array[:, :, ::-1],
}


@pytest.mark.parametrize("name", [*SAME_WORLD, "oblique", "oblique, anisotropic, transformed"])
def test_heatmap_and_segment_lie_on_the_image(path, straight, name, figure) -> None:
    from test_logic_inputs import world
    from test_logic_segmentation import voxelCentres
    from ToNNOSlicerLib.sample import LESIONS

    array, matrix, parent, moved = positions()[name]
    heatmap = reconstructed(path, array, matrix, parent)
    found = voxels(heatmap)
    volume = path.panel.session.parameters.inputVolume

    # The same grid: every corner, by MRML's own transforms.
    assert found.shape == array.shape
    last = np.array(array.shape[::-1]) - 1
    for corner in np.ndindex(2, 2, 2):
        assert world(heatmap, corner * last) == pytest.approx(world(volume, corner * last), abs=WORLD_MM)

    # The segment is the heatmap above the threshold, at the same place in the world.
    node, segment = path.panel.session.result.segment
    threshold = thresholdOf(node, segment)
    expected = np.array([world(volume, (i, j, k)) for k, j, i in np.argwhere(found >= threshold)])
    centres = voxelCentres(node, segment)
    assert len(centres) == len(expected) > 50
    assert sorted_(centres) == pytest.approx(sorted_(expected), abs=WORLD_MM)

    # What it shows lies where the lesions are.
    findings = path.panel.session.result.findings[: len(LESIONS)]
    for centre, radii, _brightness in LESIONS:
        there = np.append(centre, 1) if moved is None else moved @ np.append(centre, 1)
        assert min(np.linalg.norm(one.centroidRAS - there[:3]) for one in findings) < min(radii)
    if name in SAME_WORLD:
        difference = np.abs(found - SAME_WORLD[name](straight)).max() / straight.max()
        figure(f"{name}: largest difference to the straight heatmap {difference:.1e} of its peak")
        # Float32 sums in another order: 3e-4 was measured; half a voxel beside the place it would be 0.1.
        assert difference < 1e-3


def sorted_(points: np.ndarray) -> np.ndarray:
    return points[np.lexsort(points.round(2).T)]
