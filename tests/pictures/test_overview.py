"""What the picture says, read from the drawing itself, and that its file is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from tonno_core.errors import TonnoError
from tonno_core.pictures.drawing import Scene
from tonno_core.pictures.overview import write_overview
from tonno_core.slicing.profile import Profile
from tonno_core.volume.volume import Volume

# Left-handed and anisotropic: i to the patient's left, j to the front, k to the head; R from -30 to 30.
IJK_TO_RAS = np.array([[-2.0, 0, 0, 30], [0, 2, 0, -40], [0, 0, 5, -20], [0, 0, 0, 1]])
SHAPE = (9, 41, 31)
PEAK_IJK, PEAK_RAS = (7, 25, 6), (16.0, 10.0, 10.0)
PLANES_OF_THE_PEAK = {"Axial   S 10.0 mm", "Coronal   A 10.0 mm", "Sagittal   R 16.0 mm"}
PROFILES = [Profile(axis, np.linspace(-25, 25, 11), np.linspace(-2, 3, 11)) for axis in "RAS"]


def head() -> dict[str, Any]:
    """An image that grows to the patient's left, one hot spot, a cold one, a truth shifted by a voxel."""
    i, j, k = PEAK_IJK
    k_all, j_all, i_all = np.indices(SHAPE)
    heatmap = 3 * np.exp(-((i_all - i) ** 2 + (j_all - j) ** 2 + 6 * (k_all - k) ** 2) / 20)
    heatmap[k, j, i + 15] = -9
    image = i_all + 0.1 * j_all + 0.1 * k_all
    return {
        "image": Volume(image.astype(np.float32), IJK_TO_RAS),
        "heatmap": Volume(heatmap.astype(np.float32), IJK_TO_RAS),
        "mask": (heatmap >= 1.5).astype(np.uint8),
        "truth": np.roll(heatmap >= 1.5, 1, axis=2),
    }


def write(path: Path, scene: dict[str, Any], **options: Any) -> None:
    write_overview(path, Scene(**scene), **{"title": "A head", "profiles": PROFILES, **options})


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts] + [t.get_text() for a in figure.axes for t in a.texts]


def letters(axes: Axes) -> dict[str, tuple[float, float]]:
    """Single letters on a picture and where they are, in fractions of its width and height."""
    return {text.get_text(): text.xy for text in axes.texts if len(text.get_text()) == 1}


def test_the_file_is_a_wide_picture_and_nothing_else_is_left(tmp_path: Path) -> None:
    write(tmp_path / "overview.png", head())
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    height, width, _ = imread(tmp_path / "overview.png").shape
    assert width == 1760
    assert height > 1000


def test_letters_stand_where_the_patient_is(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path / "overview.png", head())
    left, right, bottom, top = (0, 0.5), (1, 0.5), (0.5, 0), (0.5, 1)
    for row in (0, 3):
        axial, coronal, sagittal = drawn[0].axes[row : row + 3]
        assert letters(axial) == {"R": left, "L": right, "P": bottom, "A": top}
        assert letters(coronal) == {"R": left, "L": right, "I": bottom, "S": top}
        assert letters(sagittal) == {"A": left, "P": right, "I": bottom, "S": top}


def test_the_pixels_agree_with_the_letters(tmp_path: Path, drawn: list[Figure]) -> None:
    """The image grows towards the patient's left, so it grows to the right, and by the front and the head."""
    write(tmp_path / "overview.png", head())
    axial, coronal, sagittal = (axes.images[0].get_array().filled(np.nan) for axes in drawn[0].axes[:3])
    assert (np.diff(axial, axis=1)[:, 1:-1] > 0).all()
    assert (np.diff(coronal, axis=1)[:, 1:-1] > 0).all()
    assert (np.diff(sagittal, axis=1)[:, 1:-1] < 0).all()  # the front is on the left
    assert (np.diff(axial, axis=0)[1:-1] > 0).all()  # row 0 is at the bottom
    assert all(axes.images[0].origin == "lower" for axes in drawn[0].axes[:6])


def test_the_planes_meet_in_the_peak_of_the_highest_component(tmp_path: Path, drawn: list[Figure]) -> None:
    """Not in its centroid, which a tail pulls away, nor in another component."""
    case = head()
    case["mask"][6, 25, 7:20] = 1
    case["mask"][:, :5, :5] = 1
    write(tmp_path / "overview.png", case)
    assert PLANES_OF_THE_PEAK <= set(texts(drawn[0]))
    overlays = [axes.images[1].get_array() for axes in drawn[0].axes[3:6]]
    assert [float(overlay.max()) for overlay in overlays] == [3.0, 3.0, 3.0]


def test_an_empty_segmentation_shows_the_heatmaps_peak(tmp_path: Path, drawn: list[Figure]) -> None:
    case = head()
    case["mask"] = np.zeros(SHAPE, np.uint8)
    write(tmp_path / "overview.png", case)
    assert PLANES_OF_THE_PEAK <= set(texts(drawn[0]))
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["segmentation (empty)", "truth"]


def test_a_given_centre_wins(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path / "overview.png", head(), centre_ras=(-5.5, -12, -10))
    assert {"Axial   I 10.0 mm", "Coronal   P 12.0 mm", "Sagittal   L 5.5 mm"} <= set(texts(drawn[0]))


def test_heatmap_colours_are_centred_on_zero(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path / "overview.png", head())
    overlay = drawn[0].axes[3].images[1]
    low, high = overlay.get_clim()
    assert low == -high < 0
    assert overlay.to_rgba(0.0)[3] < 0.01  # zero hides nothing of the anatomy
    red, _, blue, alpha = overlay.to_rgba(high)
    assert red > blue
    assert alpha == pytest.approx(0.9)
    red, _, blue, _ = overlay.to_rgba(low)
    assert blue > red
    assert drawn[0].axes[-1].get_title() == "heatmap\n(logit)"


def test_contours_enclose_what_they_name(tmp_path: Path, drawn: list[Figure]) -> None:
    """Solid around the segmentation, dashed around the truth, a voxel (2 mm) to the left of it."""
    write(tmp_path / "overview.png", head())
    axial = drawn[0].axes[3]
    solid, dashed = (outline.get_paths()[0].vertices for outline in axial.collections)
    peak_u, peak_v = -PEAK_RAS[0], PEAK_RAS[1]
    # Means of the outline's bounding box; the outline is exact up to float64 rounding.
    assert (solid.min(axis=0) + solid.max(axis=0)) / 2 == pytest.approx([peak_u, peak_v], abs=1e-6)
    assert (dashed.min(axis=0) + dashed.max(axis=0)) / 2 == pytest.approx([peak_u + 2, peak_v], abs=1e-6)
    line, dashes = (outline.get_linestyle()[0][1] for outline in axial.collections)
    assert line is None
    assert dashes is not None
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["segmentation", "truth"]


def test_profiles_stand_under_the_plane_they_run_across(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path / "overview.png", head())
    for axes, normal, opposite, at in zip(drawn[0].axes[6:9], "SAR", "IPL", (10.0, 10.0, 16.0), strict=True):
        _, curve, plane = axes.lines
        assert curve.get_ydata().tolist() == PROFILES[0].logits.tolist()
        assert list(plane.get_xdata()) == [at, at]
        label = axes.get_xlabel()
        assert label.startswith(opposite)
        assert label.endswith(normal)
        assert "mm" in label


def test_missing_profiles_leave_their_place_empty(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path / "two.png", head(), profiles=PROFILES[:2])
    assert [axes.get_visible() for axes in drawn[0].axes[6:9]] == [False, True, True]
    write(tmp_path / "none.png", {**head(), "truth": None}, profiles=[])
    assert len(drawn[1].axes) == 7  # six pictures and the colour bar
    assert drawn[1].get_figheight() < drawn[0].get_figheight()


def test_no_text_overlaps_another_or_leaves_the_picture(tmp_path: Path, drawn: list[Figure], rendered: None) -> None:
    """Nor where titles are too long: file names may hold dollar signs, which are no formulas."""
    long = "a_$file_name$ " * 20
    write(tmp_path / "overview.png", head(), title=long, subtitle=long)
    figure = drawn[0]
    renderer = FigureCanvasAgg(figure).get_renderer()
    shown = [*figure.texts, *(text for axes in figure.axes for text in axes.texts), figure.axes[-1].title]
    shown += figure.legends[0].get_texts()
    for axis in (which for axes in figure.axes[6:9] for which in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=True)
        shown += [axis.label, *(label for at, label in ticks if low <= at <= high)]
    boxes = [text.get_window_extent(renderer) for text in shown if text.get_text()]
    assert len(boxes) > 60
    assert not any(text.get_parse_math() for text in figure.texts)
    width, height = figure.bbox.width, figure.bbox.height
    for n, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.x1 <= width
        assert box.y0 >= 0
        assert box.y1 <= height
        assert not [other for other in boxes[:n] if box.overlaps(other)]


def test_a_heatmap_of_zeros_and_a_constant_image_can_be_shown(tmp_path: Path, drawn: list[Figure]) -> None:
    zeros = Volume(np.zeros(SHAPE, np.float32), IJK_TO_RAS)
    write_overview(tmp_path / "overview.png", Scene(zeros, zeros, np.zeros(SHAPE, np.uint8)), title="Nothing")
    assert drawn[0].axes[3].images[1].get_clim() == (-1.0, 1.0)


def test_a_heatmap_may_lie_on_another_grid(tmp_path: Path, drawn: list[Figure]) -> None:
    """The same world on every second voxel shows the same place."""
    case = head()
    coarse = case["heatmap"].array[:, 1::2, 1::2]
    twice = IJK_TO_RAS @ np.array([[2, 0, 0, 1], [0, 2, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    case |= {"heatmap": Volume(coarse, twice), "mask": coarse >= 1.5, "truth": None}
    write(tmp_path / "overview.png", case)
    assert PLANES_OF_THE_PEAK <= set(texts(drawn[0]))


def test_a_failure_leaves_the_old_file_and_no_partial_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "overview.png"
    target.write_bytes(b"old")

    def full_disk(figure: Figure, path: Path, **options: Any) -> None:
        path.write_bytes(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(TonnoError, match=r"overview\.png: cannot be written \(No space left on device"):
        write(target, head())
    assert [path.name for path in tmp_path.iterdir()] == ["overview.png"]
    assert target.read_bytes() == b"old"


def test_an_interruption_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(figure: Figure, path: Path, **options: Any) -> None:
        path.write_bytes(b"half a pic")
        raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "overview.png", head())
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="No such file or directory") as caught:
        write(tmp_path / "nowhere" / "overview.png", head())
    assert str(tmp_path / "nowhere" / "overview.png") in str(caught.value)


def test_the_callers_matplotlib_settings_do_not_matter(tmp_path: Path) -> None:
    import matplotlib

    write(tmp_path / "plain.png", head())
    before = {
        "text.color": "red",
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "font.size": 30.0,
    }
    with matplotlib.rc_context(before):
        write(tmp_path / "changed.png", head())
        assert matplotlib.rcParams["font.size"] == 30.0
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "changed.png").read_bytes()


@pytest.mark.parametrize("changes", [{"mask": np.zeros((1, 1, 1))}, {"truth": np.zeros((1, 1, 1))}])
def test_masks_of_another_grid_are_programming_errors(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="grid"):
        write(tmp_path / "overview.png", {**head(), **changes})


def test_a_centre_outside_the_image_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="outside the image"):
        write(tmp_path / "overview.png", head(), centre_ras=(500, 0, 0))


def test_a_profile_along_another_axis_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'L'"):
        write(tmp_path / "overview.png", head(), profiles=[Profile("L", np.zeros(3), np.zeros(3))])
