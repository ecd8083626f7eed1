"""A report's pictures: letters, scale bars, diameters and profiles lie where the patient has them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.transform import Rotation

from tonno_core.pictures import report
from tonno_core.pictures.cuts import PLANES, cut_plane
from tonno_core.pictures.drawing import Scene, plane_layers
from tonno_core.pictures.report import Line
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    kept: list[Any] = []
    save = report.save_figure
    monkeypatch.setattr(report, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path)))
    return kept


OBLIQUE = np.eye(4)
OBLIQUE[:3] = np.column_stack([Rotation.from_euler("xyz", [20, -15, 35], degrees=True).as_matrix(), (5, -7, 11)])
# Left-handed and anisotropic: i to the patient's left, j to the front, k to the head.
GRID = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 5, -20], [0, 0, 0, 1]])


def draw(
    folder: Path,
    lines: Sequence[Line] = (),
    window: tuple[float, float] | None = None,
    grid: npt.NDArray[np.float64] = GRID,
) -> None:
    k, j, i = np.indices((9, 41, 31))
    heat = (9 * np.exp(-((i - 7) ** 2 + (j - 25) ** 2 + 6 * (k - 6) ** 2) / 20)).astype(np.float32)
    image, heatmap = Volume((i + 100.0).astype(np.float32), grid), Volume(heat, grid)
    scene = Scene(image, heatmap, (heat >= 5).astype(np.uint8), 5.0, window)
    report.draw_finding(folder / "f.png", scene, tuple((grid @ (7, 25, 6, 1))[:3]), lines)


def test_letters_stand_where_the_patient_is(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path)
    for row in (figures[0].axes[:3], figures[0].axes[3:6]):
        for axes, (left, right, top, bottom) in zip(row, ("RLAP", "RLSI", "APSI"), strict=True):
            places = {text.get_text(): text.xy for text in axes.texts if len(text.get_text()) == 1}
            assert places == {left: (0, 0.5), right: (1, 0.5), top: (0.5, 1), bottom: (0.5, 0)}
    assert [axes.get_title() for axes in figures[0].axes[:3]] == [
        "Axial, S 10 mm",
        "Coronal, A 10 mm",
        "Sagittal, R 16 mm",
    ]


def test_scale_bars_are_as_long_as_they_say(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path)
    for axes in figures[0].axes[:6]:
        (text,) = [text.get_text() for text in axes.texts if text.get_text().endswith(" mm")]
        bars = [line for line in axes.lines if line.get_color() == "white" and line.get_linewidth() == 2.2]
        assert np.ptp(bars[0].get_xdata()) == pytest.approx(float(text.removesuffix(" mm")))


def test_diameters_are_drawn_in_the_axial_close_up_alone(tmp_path: Path, figures: list[Any]) -> None:
    diameter = ((11.0, 10.0, 10.0), (21.0, 12.0, 10.0))
    draw(tmp_path, (diameter,))
    yellow = [[line for line in axes.lines if line.get_color() == "#ffd54a"] for axes in figures[0].axes]
    assert [len(lines) for lines in yellow[:6]] == [0, 0, 0, 1, 0, 0]
    # The picture's right is the patient's left, its top the front.
    assert yellow[3][0].get_xydata() == pytest.approx(np.array([[-11, 10], [-21, 12]]))
    left, right, bottom, top = figures[0].axes[3].images[0].get_extent()
    assert (right - left, top - bottom) == pytest.approx((40, 40)) and left + right == pytest.approx(2 * -16)


def test_close_ups_show_what_the_whole_planes_show(tmp_path: Path) -> None:
    """The image is a ramp along R; a close-up's pixels lie where the plane's do."""
    _k, _j, i = np.indices((9, 41, 31))
    image = Volume(i.astype(np.float32), GRID)
    for plane in PLANES:
        cut = cut_plane(plane, image, (16, 10, 10))
        close = cut.close_up(30.0, 240)
        middle = close.points_ras.mean(axis=(0, 1))
        assert middle == pytest.approx([16, 10, 10])
        u, v = plane.uv(close.points_ras[0, 0])
        assert (u, v) == pytest.approx((close.view.u[0], close.view.v[0]))


def test_the_window_is_the_one_that_was_asked_for(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path, window=(90.0, 120.0))
    assert {axes.images[0].get_clim() for axes in figures[0].axes[:6]} == {(90.0, 120.0)}
    draw(tmp_path)
    (limits,) = {axes.images[0].get_clim() for axes in figures[1].axes[:6]}
    assert 100 <= limits[0] < limits[1] <= 130


def test_an_oblique_grid_is_drawn_upright(tmp_path: Path, figures: list[Any]) -> None:
    draw(tmp_path, grid=OBLIQUE @ GRID)
    assert (tmp_path / "f.png").exists() and len(figures[0].axes) == 7


def test_profiles_are_drawn_with_the_findings_places(tmp_path: Path, figures: list[Any]) -> None:
    profiles = [Profile(axis, np.linspace(-50, 50, 11), np.arange(11.0)) for axis in "RAS"]
    marks = (("1", (10.0, 20.0, 30.0)), ("2", (11.0, -20.0, 31.0)))
    report.draw_profiles(tmp_path / "p.png", profiles, marks)
    for number, axes in enumerate(figures[0].axes):
        dashed = sorted(line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--")
        assert dashed == sorted(point[number] for _name, point in marks)
        assert axes.get_xlabel().split()[0] == "LPI"[number] and axes.get_xlabel().split()[-1] == "RAS"[number]
        heights = {text.get_text(): text.xyann[1] for text in axes.texts}
        assert (heights["1"] == heights["2"]) == (number == 1)  # names that would lie over each other are stacked
    assert re.match("logit", figures[0].axes[0].get_ylabel())


def test_a_plane_that_lies_on_the_volumes_edge_is_draw(tmp_path: Path, figures: list[Any]) -> None:
    image = Volume(np.ones((3, 4, 5), np.float32), np.eye(4))
    heatmap = replace(image, array=np.zeros((3, 4, 5), np.float32))
    scene = Scene(image, heatmap, np.zeros((3, 4, 5), np.uint8))
    report.draw_finding(tmp_path / "f.png", scene, (0.0, 0.0, 0.0))
    assert (tmp_path / "f.png").exists()


def test_a_point_beside_the_image_leaves_it_black(tmp_path: Path) -> None:
    """Somebody has moved the heatmap alone."""
    image = Volume(np.ones((3, 4, 5), np.float32), np.eye(4))
    scene = Scene(image, image, np.zeros((3, 4, 5), np.uint8))
    report.draw_finding(tmp_path / "f.png", scene, (500.0, 500.0, 500.0))
    assert (tmp_path / "f.png").exists()


def test_padding_does_not_turn_tissue_white_and_air_grey() -> None:
    _, y, x = np.indices((20, 40, 40)) - 19.5
    plain = np.where(x**2 + y**2 < 12**2, 40, -1000).astype(np.float32)
    padded = np.where(x**2 + y**2 < 19.5**2, plain, np.float32(-3024))
    for array in (plain, padded):
        image = Volume(array, GRID)
        scene = Scene(image, image.with_array(np.zeros_like(array)), np.zeros(array.shape, np.uint8))
        cuts = [cut_plane(plane, image, (0.0, 0.0, 0.0)) for plane in PLANES]
        assert {layers.window for layers in plane_layers(scene, cuts)} == {(-1000.0, 40.0)}


@pytest.mark.parametrize(("threshold", "lowest"), [(-2.0, -2.0), (1.0, 0.0), (None, 0.0)])
def test_a_segmenters_map_is_coloured_wherever_it_reaches_the_threshold(threshold: float | None, lowest: float) -> None:
    logits = np.linspace(-8, 4, 20 * 40 * 40, dtype=np.float32).reshape(20, 40, 40)
    volume = Volume(logits, np.eye(4))
    scene = Scene(volume, volume, (logits >= lowest).astype(np.uint8), threshold, odds=True)
    cuts = [cut_plane(plane, volume, (20.0, 20.0, 12.0)) for plane in PLANES]
    shown, whole = (plane_layers(each, cuts) for each in (scene, replace(scene, odds=False)))
    for layers, plain in zip(shown, whole, strict=True):
        assert layers.heatmap is not None
        assert plain.heatmap is not None
        expected = np.where(plain.heatmap < lowest, 0.0, plain.heatmap)
        assert np.array_equal(layers.heatmap, expected, equal_nan=True)
