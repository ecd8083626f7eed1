"""A segmenter by clicks: the real engine's process, a network that answers its input, the sample, real MRML."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="the package slicer-core is not installed here")
pytest.importorskip("PySide6", reason="the package PySide6-Essentials is not installed here")
pytest.importorskip("torch")
pytest.importorskip("monai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the walk reads Linux's /proc"),
]

PLANES = ("methodSelector", "slicesBox", "directionsBox", "stageBox", "sigmaBox", "filterSelector", "qualitySelector")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The module after a run of the segmenter, for which the panel was set up for a classifier before."""
    from qt_host import QtHost
    from walk import opened, run

    from tests.mirrors import write_mirror
    from tonno_core.segmenter.network import SegmenterNetwork

    network = SegmenterNetwork((4.0, 4.0, 4.0), (64, 64, 64), filters=8, blocks=(1, 1))
    record = {"threshold": 4.4, "settings": {"smooth_mm": 0.0}, "min_volume_mm3": 20.0}
    folder = write_mirror(
        tmp_path_factory.mktemp("models") / "mirror",
        network,
        thresholds={"segmenter": record},
        about={"finding": "bright spots", "modality": "MR"},
    )
    host = QtHost()
    widget = opened(host)
    widget.ui.directionsBox.value = 24  # of a classifier: has no meaning for what is chosen now
    session = widget.panel.session
    assert all(getattr(widget.ui, name).enabled for name in PLANES)
    session.choices.open(str(folder))
    session.chooseModel(str(folder))
    host.process()
    before = {name: getattr(widget.ui, name).enabled for name in PLANES}
    run(host, widget)
    yield SimpleNamespace(host=host, widget=widget, session=session, ui=widget.ui, before=before, folder=folder)
    host.close()


def test_the_panel_says_what_it_is_and_offers_no_planes(path) -> None:
    assert path.ui.modelInfoLabel.text == (
        "Looks for bright spots. MR.\nSegmenter, trained from labels by heatmaps, no mask."
    )
    assert not any(path.before.values())
    assert not path.ui.zoomCheck.enabled


def test_the_heatmap_is_the_networks_answer_on_the_volume(path) -> None:
    import slicer.util
    from ToNNOSlicerLib.logic.geometry import ijkToWorld
    from ToNNOSlicerLib.logic.heatmap import recordOf

    volume, result = path.session.parameters.inputVolume, path.session.result
    heatmap = result.heatmapNode
    assert heatmap.GetName() == "ToNNO sample ToNNO Segmenter"
    np.testing.assert_allclose(ijkToWorld(heatmap), ijkToWorld(volume), atol=1e-9)
    shown, seen = (slicer.util.arrayFromVolume(node).astype(np.float64) for node in (heatmap, volume))
    # The mirror's answer is the image smoothed by its grid of 4 mm, up to an offset and a factor.
    assert np.corrcoef(shown.ravel(), seen.ravel())[0, 1] > 0.97
    record = recordOf(heatmap)
    assert record["model"]["kind"] == "segmenter"
    assert record["model"]["taught_by"] == "heatmaps"
    assert (record["stopped"], record["explained"], record["profiles"]) == (False, None, [])


def test_threshold_smallest_part_and_findings_are_the_models(path) -> None:
    result = path.session.result
    assert result.threshold == pytest.approx(4.4)
    assert result.smallestMm3 == 20.0  # the user has chosen none
    assert len(result.findings) == path.ui.findingsTable.rowCount > 0
    assert all(finding.volumeMm3 >= 20.0 for finding in result.findings)


def test_only_what_reaches_the_threshold_is_coloured(path) -> None:
    """Nearly all of the volume is far below 0, whose absolute value would reach it."""
    from ToNNOSlicerLib.logic.overlay import window

    record = path.session.result.record
    for threshold in (4.4, 0.0, -1.0):
        low, high, first = window(record, threshold)
        step = (high - low) / 255
        assert low + first * step == pytest.approx(threshold, abs=1e-5 * step)
        assert high >= record["high"]
        assert first == 1


def test_another_threshold_below_zero(path) -> None:
    path.session.setThreshold(-0.25)
    path.host.process()
    assert path.session.result.threshold == pytest.approx(-0.25)
    assert path.ui.thresholdSlider.minimum <= -0.25
    path.session.toModelThreshold()
    path.host.process()
    assert path.session.result.threshold == pytest.approx(4.4)


def test_why_says_what_the_score_is(path) -> None:
    path.ui.whySection.collapsed = False
    path.host.process()
    assert "A segmenter answers each voxel" in path.ui.whyLabel.text
    assert "Trained from labels by heatmaps, no mask" in path.ui.whyLabel.text


def test_a_second_click_asks_the_network_no_more(path) -> None:
    from walk import run

    run(path.host, path.widget)
    assert not path.ui.messageLabel.text
    assert path.session.result.threshold == pytest.approx(4.4)


def test_the_next_run_is_foretold(path) -> None:
    assert path.ui.timeLabel.text.startswith("about ")


def test_a_report_of_it(path, tmp_path) -> None:
    from ToNNOSlicerLib.logic.report import exportReport

    result = path.session.result
    exportReport(tmp_path / "report.html", result.heatmapNode, *result.segment)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "ToNNO Segmenter" in text
    assert "planes along" not in text


def test_back_to_a_classifier(path) -> None:
    shipped = next(model for model in path.session.choices.models if not model.isSegmenter)
    path.session.chooseModel(str(shipped.folder))
    path.host.process()
    assert all(getattr(path.ui, name).enabled for name in PLANES)
    assert path.session.choices.request(path.session.parameters).options == {"slices": 32, "directions": 24}
