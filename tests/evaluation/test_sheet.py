"""What the contact sheets show, read from the drawing itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tests.evaluation.records import finding, record
from tonno_core.evaluation.sheet import CASES_PER_PAGE, Entry, entry_of, write_sheets
from tonno_core.pictures.cuts import View
from tonno_core.pictures.tile import Tile

METHODS = ("matched-cam", "slicewise-cam-3axes")


def entry(
    number: int, *, truth: int | None = 1, scale: float = 1.0, size: tuple[int, int] = (40, 50), **changes: Any
) -> Entry:
    """A case of two methods: a hill of a given height, its mask and a truth beside it."""
    v, u = np.mgrid[: size[0], : size[1]].astype(float)
    hill = scale * np.exp(-((v - 15) ** 2 + (u - 20) ** 2) / 40)
    other = ((v - 15) ** 2 + (u - 24) ** 2 < 30).astype(float)
    rows = {name: finding(None if truth is None else 0.5) for name in METHODS}
    if truth is None or truth == 0:
        other = np.zeros(size)
    tile = Tile(
        where="Axial S 8 mm", view=View(2 * u[0] - 50, 2 * v[:, 0] - 40, ("R", "L", "P", "A")), image=u + v,
        truth=None if truth is None else other, heatmaps={name: hill for name in METHODS},
        masks={name: (hill > 0.5).astype(float) for name in METHODS},
    )  # fmt: skip
    return entry_of(dataclasses.replace(record(f"case-{number}", rows, truth=truth), **changes), lambda: tile)


def write(folder: Path, entries: list[Entry]) -> list[str]:
    return [path.name for path in write_sheets(folder, entries, title="Evaluation", subtitle="resnet")]


def pictures(figure: Figure) -> list[Any]:
    return [axes for axes in figure.axes if axes.images]


def test_each_case_is_a_line_of_its_image_and_every_method(tmp_path: Path, drawn: list[Figure], rendered: None) -> None:
    assert write(tmp_path, [entry(1), entry(2, truth=0)]) == ["contact-sheet-1.png"]
    assert (tmp_path / "contact-sheet-1.png").read_bytes().startswith(b"\x89PNG")
    assert [len(axes.images) for axes in pictures(drawn[0])] == [1, 2, 2, 1, 2, 2]
    texts = [text.get_text() for text in drawn[0].texts]
    assert "case-1   ·   positive   ·   Axial S 8 mm   ·   truth 1.0 ml in 1 part" in texts
    assert "case-2   ·   negative   ·   Axial S 8 mm" in texts
    assert "Dice 0.50, at the best threshold 0.50\n1.5 ml in 2 parts, called positive" in texts
    assert "1.5 ml in 2 parts, called positive" in texts  # of the negative


def test_contours_are_those_of_the_segmentation_and_of_the_truth(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, [entry(1)])
    image, overlay, _ = pictures(drawn[0])
    (truth_alone,) = image.collections
    segmentation, truth = overlay.collections
    assert truth.get_linestyle()[0][1] is not None  # dashed
    assert segmentation.get_linestyle()[0][1] is None
    for outline, centre in ((segmentation, 20), (truth, 24), (truth_alone, 24)):
        corners = outline.get_paths()[0].vertices
        # Symmetric about their centres, 2 mm a pixel, up to float64 rounding.
        assert (corners.min(axis=0) + corners.max(axis=0)) / 2 == pytest.approx([2 * centre - 50, 2 * 15 - 40])


def test_a_method_has_one_scale_for_all_cases_and_pages(tmp_path: Path, drawn: list[Figure]) -> None:
    """A case a hundred times as bright as the others saturates: it does not darken them."""
    entries = [entry(n) for n in range(CASES_PER_PAGE + 3)]
    entries[2] = entry(2, scale=100.0)
    assert write(tmp_path, entries) == ["contact-sheet-1.png", "contact-sheet-2.png"]
    limits = {axes.images[1].get_clim() for figure in drawn for axes in pictures(figure) if len(axes.images) > 1}
    assert len(limits) == 1
    ((low, high),) = limits
    assert -low == high
    assert 0.8 < high < 2.0
    assert [len(pictures(figure)) for figure in drawn] == [3 * CASES_PER_PAGE, 9]
    assert any("page 2 of 2" in text.get_text() for text in drawn[1].texts)


def test_pages_of_a_longer_list_go(tmp_path: Path, unrendered: None) -> None:
    write(tmp_path, [entry(n) for n in range(CASES_PER_PAGE + 1)])
    write(tmp_path, [entry(1)])
    assert [path.name for path in tmp_path.iterdir()] == ["contact-sheet-1.png"]


def test_the_threshold_is_marked_on_its_methods_scale(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, [entry(1, scale=3.0)])
    bars = [axes for axes in drawn[0].axes if axes.get_title() in METHODS]
    assert [axes.get_title() for axes in bars] == list(METHODS)
    for bar in bars:
        assert [text.get_text() for text in bar.texts] == ["threshold 1"]
        assert [list(line.get_xdata()) for line in bar.lines] == [[1.0, 1.0]]


def test_a_positive_without_a_mask_is_said_to_be_so(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, [entry(1, truth=None)])
    texts = [text.get_text() for text in drawn[0].texts]
    assert any(text.endswith("no mask given") for text in texts)
    assert not any("Dice" in text for text in texts)
    assert not pictures(drawn[0])[0].collections


def test_no_text_overlaps_another_or_leaves_the_page(tmp_path: Path, drawn: list[Figure], rendered: None) -> None:
    entries = [entry(1), entry(2, truth=0, size=(80, 30)), entry(3, truth=None, size=(24, 60))]
    entries.append(entry(4, truth=12, case="A-patient_of_some_hospital-" * 3, truth_ml=1234.5))
    write(tmp_path, entries)
    figure = drawn[0]
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # the legend finds its place
    renderer = canvas.get_renderer()
    shown = [*figure.texts, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        shown += [*axes.texts, *(axes.xaxis.get_ticklabels() if axes.get_title() else ()), axes.title]
    shown = [text for text in shown if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in shown]
    assert len(boxes) > 30
    for n, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y1 <= figure.bbox.height
        assert not [text.get_text() for text, other in zip(shown[:n], boxes, strict=False) if box.overlaps(other)]


def test_heatmaps_of_zeros_can_be_shown(tmp_path: Path, drawn: list[Figure]) -> None:
    write(tmp_path, [entry(1, scale=0.0)])
    assert pictures(drawn[0])[1].images[1].get_clim() == (-1.0, 1.0)
