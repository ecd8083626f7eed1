"""What the eye sees: Slicer's own views of overlay, outline, legend and surface, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
import slicer.util
from scenes import GRIDS, RIGID, SHAPE_ZYX, THRESHOLD, addHeatmap, addVolume, blobs, image, setOverlay
from slicer_views import SliceView, ThreeDView, whyNot
from ToNNOSlicerLib.logic import diameters
from ToNNOSlicerLib.logic.findings import findingsOf, jumpTo
from ToNNOSlicerLib.logic.segmentation import segmentOf, show3D
from vtk.util.numpy_support import vtk_to_numpy

from tonno_core.pictures.colours import PALETTES

MISSING = whyNot()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
PEAK = (5, 6, 4)  # the higher blob's


@pytest.fixture
def red(host):
    view = SliceView(host, "Red", (200, 200))
    yield view
    view.close()


def smooth() -> np.ndarray:
    """Blobs of a 2 mm sphere at both peaks: their outlines do not depend on how voxels are interpolated."""
    from scipy.ndimage import gaussian_filter

    points = np.zeros(SHAPE_ZYX, np.float32)
    points[4, 6, 5], points[9, 12, 15] = 9.0, 6.0
    blurred = gaussian_filter(points, 1.5)
    return (blurred / blurred.max() * 9).astype(np.float32)


def picture(view) -> np.ndarray:
    """Rows from the bottom, as the view counts its pixels: V U 3, 0 to 255."""
    rendered = view.render()
    width, height, _ = rendered.GetDimensions()
    return vtk_to_numpy(rendered.GetPointData().GetScalars()).reshape(height, width, 3).astype(int)


def pixelOf(view, ras) -> tuple[int, int]:
    """(row from the bottom, column) of a point in a slice view."""
    xyToRAS = slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS())
    x, y, _z, _one = np.linalg.inv(xyToRAS) @ (*ras, 1)
    return round(y), round(x)


def tinted(pixels: np.ndarray) -> np.ndarray:
    """Where a picture is not grey."""
    return (pixels.max(axis=-1) - pixels.min(axis=-1)) > 24


def rasOf(view) -> np.ndarray:
    """RAS of every pixel of a view: V U 3."""
    xyToRAS = slicer.util.arrayFromVTKMatrix(view.node.GetXYToRAS())
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    return np.stack([x, y, np.zeros_like(x), np.ones_like(x)], axis=-1) @ xyToRAS[:3].T


def heatAt(heatmap, ras: np.ndarray) -> np.ndarray:
    """The heatmap's linear interpolation at points (... 3), 0 outside; by scipy, not by Slicer."""
    from scipy.ndimage import map_coordinates
    from ToNNOSlicerLib.logic.geometry import ijkToWorld

    rasToIJK = np.linalg.inv(ijkToWorld(heatmap))
    kji = np.moveaxis(ras @ rasToIJK[:3, :3].T + rasToIJK[:3, 3], -1, 0)[::-1]
    return map_coordinates(slicer.util.arrayFromVolume(heatmap), kji, order=1)


@pytest.mark.parametrize("transforms", [(), (RIGID,)], ids=["bare", "rigid"])
@pytest.mark.parametrize("grid", ["oblique", "left-handed"])
def test_the_overlay_is_where_the_heatmap_reaches_the_threshold(logic, red, grid: str, transforms) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS[grid], transforms=transforms), smooth())
    setOverlay(heatmap, THRESHOLD, 0.6)
    slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(heatmap).SetVisibility(False)
    red.fit()
    finding = findingsOf(*logic.segments.write(heatmap, THRESHOLD), heatmap)[0]
    slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0].SetDisplayVisibility(False)
    jumpTo(logic.scene, finding.peakRAS)
    pixels = picture(red)
    assert tinted(pixels)[pixelOf(red, finding.peakRAS)]
    values = heatAt(heatmap, rasOf(red))
    # Slicer interpolates in steps of its own; within a tenth of the threshold either answer is right.
    assert tinted(pixels)[values > 1.1 * THRESHOLD].all()
    assert not tinted(pixels)[values < 0.9 * THRESHOLD].any()
    assert (values > 1.1 * THRESHOLD).sum() > 100

    setOverlay(heatmap, 100.0, 0.6)
    assert not tinted(picture(red)).any()
    setOverlay(heatmap, THRESHOLD, visible=False)
    assert not tinted(picture(red)).any()


@pytest.mark.parametrize("written", [False, True], ids=["preview", "segment"])
def test_the_outline_is_around_the_mask(logic, red, written: bool) -> None:
    heatmap = addHeatmap(logic, addVolume(transforms=(RIGID,)), smooth())
    logic.segments.write(heatmap, 8.0)  # so that the slider has something to move
    slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0].SetDisplayVisibility(written)
    for view in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
        view.SetBackgroundVolumeID(slicer.util.getNode("CT").GetID())
    from scipy.ndimage import binary_erosion, distance_transform_edt

    finding = findingsOf(*segmentOf(heatmap), heatmap)[0]
    red.fit()
    jumpTo(logic.scene, finding.peakRAS)
    for threshold in (2.0, 5.0):  # dragged from one to the other
        if written:
            logic.segments.write(heatmap, threshold)
        else:
            logic.preview.show(heatmap, threshold)
        green = tinted(picture(red))
        # By the nearest voxel, as Slicer draws a labelmap; the line is 2 pixels wide, around the border's outer side.
        inside = nearest(heatmap, rasOf(red)) >= threshold
        border = inside & ~binary_erosion(inside)
        assert distance_transform_edt(~border)[green].max() < 3
        assert distance_transform_edt(~green)[border].max() < 2


def nearest(heatmap, ras: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates
    from ToNNOSlicerLib.logic.geometry import ijkToWorld

    rasToIJK = np.linalg.inv(ijkToWorld(heatmap))
    kji = np.moveaxis(ras @ rasToIJK[:3, :3].T + rasToIJK[:3, 3], -1, 0)[::-1]
    return map_coordinates(slicer.util.arrayFromVolume(heatmap), kji, order=0)


def test_the_legend_is_shown_and_dark_where_nothing_is(logic, red) -> None:
    array = blobs()
    array[2, 2, 2] = -9.0  # evidence against too: without it the legend begins at zero
    heatmap = addHeatmap(logic, addVolume(), array)
    red.fit()
    setOverlay(heatmap, THRESHOLD, 0.0)  # nothing of the overlay itself
    shown = picture(red)
    columns = np.flatnonzero(tinted(shown).any(axis=0))
    assert columns.size and columns.min() > 150  # at the right edge
    bar = shown[:, columns[columns.size // 2]]
    warm, cold = (bar[:, 0] > bar[:, 2] + 24), (bar[:, 2] > bar[:, 0] + 24)
    rows = np.flatnonzero(warm)
    assert cold.any() and warm.any() and np.flatnonzero(cold).max() < rows.min()
    # From -9 to 9 with nothing between -3 and 3: a third of the bar is dark.
    height = rows.max() - np.flatnonzero(cold).min()
    assert (rows.min() - np.flatnonzero(cold).max()) / height == pytest.approx(1 / 3, abs=0.05)
    setOverlay(heatmap, THRESHOLD, visible=False)
    assert not tinted(picture(red)).any()


@pytest.mark.parametrize("size", [(300, 300), (480, 480), (725, 475), (900, 420)])
def test_all_of_the_legend_is_in_the_view(logic, host, size) -> None:
    """Square, and as wide as a view of the usual layout on a screen of 1920 x 1080."""
    view = SliceView(host, "Red", size)
    heatmap = addHeatmap(logic, addVolume(), blobs())
    view.fit()
    setOverlay(heatmap, THRESHOLD, 0.0)
    drawn = view.pixels().max(axis=-1) > 200
    view.close()
    drawn[:, : size[0] // 2] = False
    rows, columns = np.nonzero(drawn)
    assert rows.size and rows.min() > 1 and columns.max() < size[0] - 2  # a title that is cut begins at the border


@pytest.mark.parametrize("colors", PALETTES)
def test_outlines_have_none_of_the_heatmaps_colors(colors: str) -> None:
    from ToNNOSlicerLib.logic import overlay, segmentation

    hot = overlay._palette(colors, False)
    for color in segmentation._COLORS:
        assert np.linalg.norm(hot - color, axis=1).min() > 0.5  # of 1.7, from black to white


def test_diameters_leave_the_views(logic, host, red) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["plain"]), smooth())
    listed = findingsOf(*logic.segments.write(heatmap, 2.0), heatmap)
    jumpTo(logic.scene, tuple(np.mean(listed[0].longestRAS, axis=0)))
    red.fit()
    without = picture(red)
    diameters.draw(logic.scene, heatmap, listed)
    assert (picture(red) != without).any()
    diameters.draw(logic.scene, heatmap, ())
    np.testing.assert_array_equal(picture(red), without)


def test_the_surface_is_in_the_3d_view(logic, host) -> None:
    view = ThreeDView(host, (200, 200))
    view.plain()
    heatmap = addHeatmap(logic, addVolume(GRIDS["plain"]), smooth())
    segmentation, _id = logic.segments.write(heatmap, 2.0)
    assert not tinted(picture(view)).any()
    show3D(segmentation, True)
    view.renderer.ResetCamera()
    view.turn(-30, 20)
    green = picture(view)
    assert (green[..., 1] > green[..., 0] + 24).sum() > 200
    show3D(segmentation, False)
    assert not tinted(picture(view)).any()
    view.close()


@pytest.mark.slow
def test_pictures_of_the_docs(qtHost, tmp_path, monkeypatch) -> None:
    """The script from end to end on small volumes, with an engine that answers at once. People look at the pictures.

    The worklist is left out: only the real engine runs it.
    """
    import pictures
    from computing import Computing
    from PIL import Image
    from ToNNOSlicerLib import install, running
    from ToNNOSlicerLib.panel import Panel

    from tonno_core.volume.volume import Volume

    engine, written = tmp_path / "engine", tmp_path / "pictures"
    engine.mkdir()
    written.mkdir()
    grid = np.diag([8.0, 8.0, 8.0, 1.0])
    monkeypatch.setattr(install, "missing", lambda path: install.Missing("", ()))
    monkeypatch.setattr(Panel, "_client", staticmethod(lambda choices: Computing(engine)))
    monkeypatch.setattr(pictures, "head", lambda seed, lesions: Volume(image(seed=seed + lesions), grid))
    monkeypatch.setattr(pictures, "SIDE", 120)
    monkeypatch.setattr(running, "concerns", lambda *_arguments: [])  # small noise is no head
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)  # no browser
    stage = pictures.Stage(qtHost, written)
    for scene in (pictures.sample, pictures.reading, pictures.twoPatients, pictures.twoTimePoints, pictures.nothing):
        scene(stage)
    stage.close()
    assert len(list(written.glob("*.png"))) == 16 and (written / "report.html").exists()
    for path in written.glob("*.png"):
        with Image.open(path) as picture_:
            beside = picture_.width - pictures.PANEL_WIDTH  # 0 of the panel alone
            assert (beside == 0 or beside >= 2 * pictures.SIDE) and picture_.height > 2 * pictures.SIDE
