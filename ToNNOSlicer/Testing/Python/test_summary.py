"""A result in words: true, in the right number, and no more exact than it is known."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import slicer.util
from scenes import BLOBS, GRIDS, RIGID, THRESHOLD, addHeatmap, addVolume, blobs, paint, record
from test_logic_findings import RESULT
from test_logic_heatmap import WORLD_MM
from test_logic_inputs import world
from ToNNOSlicerLib.logic import summary, verdicts
from ToNNOSlicerLib.logic.confidence import confidence
from ToNNOSlicerLib.logic.findings import findingsOf
from ToNNOSlicerLib.logic.heatmap import otsuThreshold, recordOf, writeRecord

CALIBRATION = {"threshold": 6.0, "noise_floor": 1.0, "volume_quantile": 0.95, "negative_volumes": 12}


def finding(peak=9.0, ml=1.0, longest=16.0, verdict="", label=1, **others):
    values = {
        "label": label,
        "peak": peak,
        "ml": ml,
        "longestMm": longest,
        "perpendicularMm": longest / 2,
        "verdict": verdict,
        "isDivided": False,
        "side": "left",
        "confidence": "above the model's threshold",
    }
    return SimpleNamespace(**values | others)


# Confidence


def words(peak: float, calibration: dict | None, **others) -> str:
    return confidence(finding(peak), {"threshold": calibration, **others})


def test_confidence_by_the_place_of_the_peak() -> None:
    assert words(6.0, CALIBRATION) == "above at least 11 of 12 negative scans"
    assert words(5.99, CALIBRATION) == "between noise floor and threshold"
    assert words(1.0, CALIBRATION) == "between noise floor and threshold"
    assert words(0.99, CALIBRATION) == "below the noise floor"
    assert words(5.0, {"threshold": 6.0}) == "below the model's threshold"
    assert words(7.0, {"threshold": 6.0, "noise_floor": 1.0}) == "above the model's threshold"
    assert words(7.0, None) == words(7.0, {}) == words(7.0, CALIBRATION, zoom=True) == "not calibrated"


@pytest.mark.parametrize("scans", [1, 2, 3, 12, 20, 21, 22, 41, 100])
@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.9, 0.95, 0.99, 1.0])
def test_no_more_scans_are_claimed_than_stay_below(scans: int, quantile: float) -> None:
    """Beside numpy's quantile of peaks at random, as the calibration takes it."""
    peaks = np.random.default_rng(scans).exponential(size=(50, scans))
    least = min(int((row <= np.quantile(row, quantile)).sum()) for row in peaks)
    text = words(9.0, CALIBRATION | {"volume_quantile": quantile, "negative_volumes": scans})
    if least == scans:
        assert text == ("above the only negative scan" if scans == 1 else f"above all of {scans} negative scans")
    else:
        assert text == f"above at least {least} of {scans} negative scans"


def test_scans_are_not_counted_where_the_planes_were_others() -> None:
    calibration = CALIBRATION | {"settings": {"directions": 256}}
    assert words(9.0, calibration, directions=256) == "above at least 11 of 12 negative scans"
    assert words(9.0, calibration, directions=96) == "above the model's threshold"
    assert words(9.0, calibration, directions=256, stopped=True) == "above the model's threshold"
    assert words(9.0, CALIBRATION | {"source": "scaled"}) == "above the model's threshold"


# The sentence after a run


def test_the_sentence_counts_and_measures() -> None:
    three = [finding(ml=2.6, longest=16.2), finding(ml=1.5), finding(ml=1.1, longest=7)]
    assert summary.sentence(three, {}) == "3 findings, 5.2 ml; largest 16 mm"
    assert summary.sentence(three[:1], {}) == "1 finding, 2.6 ml; largest 16 mm"
    assert summary.sentence([], {}) == "No finding"


def test_rejected_ones_stand_apart() -> None:
    two = [finding(ml=2.6), finding(ml=0.43, longest=30, verdict="reject"), finding(ml=1, verdict="unsure")]
    assert summary.sentence(two, {}) == "2 findings, 3.6 ml; largest 16 mm; 1 rejected (0.43 ml)"
    assert summary.sentence(two[1:2], {}) == "No finding; 1 rejected (0.43 ml)"
    assert summary.totals([*two, finding(ml=20, verdict="accept")]) == (
        "All but rejected: 3 findings, 24 ml. Accepted only: 1 finding, 20 ml."
    )


def test_what_only_a_lower_threshold_shows_is_said() -> None:
    two = [finding(9.0), finding(5.0), finding(2.0, verdict="reject")]
    text = summary.sentence(two, {"threshold": CALIBRATION})
    assert text == "2 findings, 2.0 ml; largest 16 mm; 1 below the model's threshold; 1 rejected (1.0 ml)"
    assert "below" not in summary.sentence(two, {"threshold": CALIBRATION, "zoom": True})


def test_numbers_have_sensible_digits() -> None:
    volumes = (0.0004, 0.004, 0.0094, 0.0096, 0.43, 0.949, 0.951, 5.24, 9.94, 9.96, 16.4, 1234.5)
    expected = "0.000 0.004 0.009 0.01 0.43 0.95 1.0 5.2 9.9 10 16 1234"
    assert [summary.ml(volume) for volume in volumes] == [f"{text} ml" for text in expected.split()]
    assert [summary.mm(length) for length in (0.7, 7.44, 9.96, 15.5, 160)] == [
        "0.7 mm", "7.4 mm", "10 mm", "16 mm", "160 mm",
    ]  # fmt: skip
    assert summary.size(finding(longest=16.2)) == "16 x 8.1 mm"
    assert summary.place((11.6, -40.2, -0.4)) == "R 12, P 40, S 0 mm"


# Nothing there


def test_the_highest_voxel_is_the_one_that_the_planes_cover(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["left-handed"], transforms=(RIGID,)))
    peak = summary.highest(heatmap)
    (center, value), _other = BLOBS.items()
    assert peak.value == value and peak.ras == pytest.approx(world(heatmap, center), abs=WORLD_MM)
    array = slicer.util.arrayFromVolume(heatmap)
    array[:] = -blobs() - 10
    array[:3] = 0  # what the planes do not cover
    k, j, i = np.unravel_index(array[3:].argmax(), array[3:].shape)
    peak = summary.highest(heatmap)
    assert peak.value == array[3:].max() < 0
    assert peak.ras == pytest.approx(world(heatmap, (i, j, k + 3)), abs=WORLD_MM)
    array[:] = 0
    assert summary.highest(heatmap) is None


def test_nothing_says_how_near_it_is() -> None:
    peak = summary.Peak(5.7, (12.3, -40.0, 8.0))
    known = {"threshold": {"threshold": 6.4, "noise_floor": 0.7}}
    assert summary.nothing(peak, known, 6.4) == (
        "Nothing above the model's threshold. Highest: 5.7 (89 % of it) at R 12, P 40, S 8 mm"
    )
    assert summary.nothing(peak, known, 10.0).startswith("Nothing above the threshold 10. Highest: 5.7 (57 % of it)")
    assert "(99 % of it)" in summary.nothing(summary.Peak(6.3999, peak.ras), known, 6.4)  # never 100 %
    assert "0.5, below the noise floor, at R 12" in summary.nothing(summary.Peak(0.5, peak.ras), known, 6.4)
    assert summary.nothing(peak, {"threshold": None}, 6.4).startswith("Nothing above the threshold 6.4. ")
    assert summary.nothing(peak, known | {"zoom": True}, 6.4).startswith("Nothing above the threshold 6.4. ")
    assert "%" not in summary.nothing(summary.Peak(-1.0, peak.ras), {}, 6.4)
    assert summary.nothing(None, known, 6.4) == "Nothing above the model's threshold: the heatmap is empty."


def test_what_was_too_small_is_not_called_too_low() -> None:
    text = summary.nothing(summary.Peak(9.0, (1, 2, 3)), {"threshold": CALIBRATION}, 6.0, smallestMm3=500.0)
    assert text == "Nothing above the model's threshold is 0.50 ml or larger. Highest: 9 at R 1, A 2, S 3 mm"


def test_what_was_too_weak_is_not_called_too_low() -> None:
    text = summary.nothing(summary.Peak(9.0, (1, 2, 3)), {"threshold": CALIBRATION}, 6.0, 500.0, minPeak=9.5)
    assert text == "Nothing above the model's threshold reaches 9.5 anywhere. Highest: 9 at R 1, A 2, S 3 mm"


# What a result is


def test_identity_of_a_result(logic) -> None:
    kept = {"slices": 6144, "directions": 96, "model": {"name": "brain-lesions"}, "stopped": False}
    heatmap = addHeatmap(logic, addVolume(name="FLAIR"), result=RESULT | kept)
    writeRecord(heatmap, recordOf(heatmap) | {"quality": "Fast", "made": "2026-11-02T14:03:11", "planned": 96})
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    assert summary.identityOf(heatmap, segmentation, segmentId) == summary.Identity(
        volume="FLAIR",
        model="brain-lesions",
        method="ToNNO Matched CAM",
        className="lesion",
        quality="Fast",
        planes="6144 planes along 96 directions",
        threshold="3",
        thresholdSource="the model's",
        stopped="",
        made="2026-11-02T14:03:11",
    )
    writeRecord(heatmap, recordOf(heatmap) | {"stopped": True, "directions": 38})
    assert summary.identityOf(heatmap, segmentation, segmentId).stopped == "stopped at 38 of 96"


def test_identity_of_an_old_scene_leaves_out_what_it_does_not_know(logic, host) -> None:
    heatmap = addHeatmap(logic, volume := addVolume(), threshold=None, result={"stopped": True})
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    host.scene.RemoveNode(volume)
    identity = summary.identityOf(heatmap, segmentation, segmentId)
    unknown = [name for name, text in asdict(identity).items() if not text]
    assert unknown == ["volume", "model", "quality", "planes", "made"]
    assert (identity.thresholdSource, identity.stopped) == ("set by hand", "stopped early")


def test_where_a_threshold_is_from(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(), threshold=record(floor=0.0))  # Otsu's is not refused
    otsu = otsuThreshold(heatmap)
    for threshold, source in ((THRESHOLD, "the model's"), (otsu, "Otsu's method"), (4.5, "set by hand")):
        segmentation, segmentId = logic.segments.write(heatmap, threshold)
        assert summary.identityOf(heatmap, segmentation, segmentId).thresholdSource == source
    paint(segmentation, segmentId, np.ones((1, 1, 1), np.uint8), heatmap)
    identity = summary.identityOf(heatmap, segmentation, segmentId)
    assert identity.thresholdSource == "set by hand, then corrected by hand"
    drawn = segmentation.GetSegmentation().AddEmptySegment("drawn")
    identity = summary.identityOf(heatmap, segmentation, drawn)
    assert (identity.threshold, identity.thresholdSource) == ("", "drawn by hand")


def test_report_text(logic) -> None:
    heatmap = addHeatmap(logic, addVolume(GRIDS["plain"], name="FLAIR"), threshold=record() | {"negative_volumes": 12})
    writeRecord(heatmap, recordOf(heatmap) | {"made": "2026-11-02T14:03:11"})
    segmentation, segmentId = logic.segments.write(heatmap, THRESHOLD)
    first, second = findingsOf(segmentation, segmentId, heatmap)
    verdicts.setVerdict(heatmap, first, verdicts.ACCEPT)
    verdicts.setVerdict(heatmap, second, verdicts.REJECT)
    listed = findingsOf(segmentation, segmentId, heatmap)
    identity = summary.identityOf(heatmap, segmentation, segmentId)
    assert summary.reportText(identity, listed, recordOf(heatmap)) == (
        "Volume: FLAIR\n"
        "Looked for: lesion\n"
        "Method: ToNNO Matched CAM\n"
        "Threshold: 3 (the model's)\n"
        "Made: 2026-11-02 14:03\n"
        "\n"
        "1 finding, 0.03 ml; largest 3.6 mm; 1 rejected (0.03 ml).\n"
        "1. left, 3.6 x 3.6 mm, 0.03 ml, accepted; above at least 11 of 12 negative scans\n"
        "2. midline, 3.6 x 3.6 mm, 0.03 ml, rejected; above at least 11 of 12 negative scans\n"
        "All but rejected: 1 finding, 0.03 ml. Accepted only: 1 finding, 0.03 ml.\n"
        "\n"
        "Research use only, not for diagnosis.\n"
    )
