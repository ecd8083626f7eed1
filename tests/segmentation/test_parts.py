"""Which parts count: the slow way, by scipy's components, at every boundary."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tonno_core.bundle.calibration import ABOVE_HALF_PEAK, ModelThreshold
from tonno_core.errors import TonnoError
from tonno_core.segmentation.binarize import binarize, clear_parts
from tonno_core.segmentation.connected import runs_of
from tonno_core.segmentation.parts import Parts
from tonno_core.segmentation.threshold import parse_peak, parts_of, segment
from tonno_core.volume.volume import Volume


def volume_of(array: npt.ArrayLike, spacing_mm: float = 1.0) -> Volume:
    return Volume(np.asarray(array, dtype=np.float32), np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0]))


def slowly(heatmap: Volume, threshold: float, parts: Parts) -> npt.NDArray[np.bool_]:
    """The same, component by component."""
    labels, count = ndimage.label(heatmap.array >= threshold, np.ones((3, 3, 3)))
    kept = np.zeros(labels.shape, np.bool_)
    for label in range(1, count + 1):
        part = labels == label
        large = part.sum() * heatmap.voxel_mm3 >= parts.min_volume_mm3 - 1e-6
        kept |= part & bool(large and heatmap.array[part].max() >= parts.min_peak)
    return kept


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.9])
@pytest.mark.parametrize(
    "parts", [Parts(), Parts(24.0), Parts(min_peak=1.2), Parts(16.0, 0.7), Parts(min_peak=9.0)], ids=repr
)
def test_as_component_by_component(parts: Parts, threshold: float) -> None:
    rng = np.random.default_rng(5)
    noise = ndimage.gaussian_filter(rng.normal(size=(20, 24, 22)), 1.2)
    heatmap = volume_of(noise / noise.std(), spacing_mm=2.0)
    mask = binarize(heatmap, threshold, min_volume_mm3=parts.min_volume_mm3, min_peak=parts.min_peak)
    np.testing.assert_array_equal(mask.astype(bool), slowly(heatmap, threshold, parts))


def test_a_peak_that_just_reaches_it_counts() -> None:
    heatmap = volume_of([[[-2.0, -3.0, 0.1, -1.0, -3.0, -1.5, -1.5]]])
    assert binarize(heatmap, -2, min_peak=0.1).ravel().tolist() == [0, 0, 1, 1, 0, 0, 0]  # 0.1 is no float32
    assert binarize(heatmap, -2, min_peak=-1.5).ravel().tolist() == [0, 0, 1, 1, 0, 1, 1]
    assert binarize(heatmap, -2, min_peak=-2).ravel().tolist() == [1, 0, 1, 1, 0, 1, 1]
    assert not binarize(heatmap, -2, min_peak=0.2).any()
    assert not binarize(volume_of(np.full((2, 2, 2), -5.0)), -2, min_peak=-1).any()
    # At a threshold above it, it has no say.
    assert binarize(heatmap, 0.05, min_peak=-1.5).ravel().tolist() == [0, 0, 1, 0, 0, 0, 0]
    # Of two parts that reach it, the small one is dropped for its size.
    assert binarize(heatmap, -2, min_peak=-2, min_volume_mm3=2).ravel().tolist() == [0, 0, 1, 1, 0, 1, 1]


def test_voxels_outside_of_the_mask_lend_it_no_peak() -> None:
    """High voxels before the first run, between two, behind the last: none is part of the mask."""
    heatmap = np.array([[[5.0, 0.5, 5.0, 0.6, 5.0]]], dtype=np.float32)
    runs = runs_of(np.array([[[0, 1, 0, 1, 0]]], dtype=bool))
    assert Parts(min_peak=1.0).counted(runs, heatmap, 1.0).tolist() == [False, False]
    assert Parts(min_peak=0.6).counted(runs, heatmap, 1.0).tolist() == [False, True]
    assert Parts(min_peak=0.5).counted(runs, heatmap, 1.0).tolist() == [True, True]
    empty = runs_of(np.zeros((1, 1, 5), dtype=bool))
    assert Parts(3.0, 1.0).counted(empty, heatmap, 1.0).size == 0


def test_a_mask_of_too_many_runs_stays_as_it_is() -> None:
    heatmap = volume_of([[[1.0, -9.0, 1.0, -9.0, 3.0]]])
    mask = heatmap.array >= 0
    assert not clear_parts(mask, heatmap, Parts(min_peak=2.0), most_runs=2)
    assert mask.sum() == 3
    assert clear_parts(mask, heatmap, Parts(min_peak=2.0), most_runs=3)
    assert mask.ravel().tolist() == [False] * 4 + [True]


def test_when_nothing_can_be_dropped() -> None:
    assert not Parts().drop_some(-3.0)
    assert Parts() == Parts(0.0, -math.inf)
    assert not Parts().drop_some(0.0)
    assert Parts(0.5).drop_some(0.0)
    assert not Parts(min_peak=0.0).drop_some(0.0)
    assert Parts(min_peak=0.0).drop_some(-0.1)
    assert Parts(1.0).drop_some(7.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"min_volume_mm3": -1.0}, "`min_volume_mm3` is -1.0, expected 0 or more"),
        ({"min_volume_mm3": math.inf}, "`min_volume_mm3` is inf"),
        ({"min_peak": math.nan}, "`min_peak` is nan, expected a number, or none for all"),
        ({"min_peak": math.inf}, "`min_peak` is inf"),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, float], said: str) -> None:
    with pytest.raises(TonnoError, match=said):
        Parts(**values)


def test_what_is_asked_for_counts_before_what_the_model_brings() -> None:
    record = {"threshold": -2.0, "min_volume_mm3": 8.0, "min_peak": 0.5}
    known = ModelThreshold(-2.0, None, "calibrated", {}, {}, record=record)
    assert parts_of(known) == Parts(8.0, 0.5)
    assert parts_of(known, 0.0) == Parts(0.0, 0.5)
    assert parts_of(known, min_peak=-math.inf) == Parts(8.0)
    assert parts_of(None) == parts_of(ModelThreshold(0.0, None, "unscaled", {}, {})) == Parts()
    assert (parse_peak("none"), parse_peak("-1.5")) == (-math.inf, -1.5)
    for text in ("nan", "inf", "low", ""):
        with pytest.raises(TonnoError, match=f"`min_peak` '{text}': expected a number, or none for all components"):
            parse_peak(text)
    heatmap = volume_of([[[-1.0, -1.0, -3.0, 1.0, -1.0]]], spacing_mm=2.0)
    inside = np.ones(heatmap.array.shape, dtype=bool)
    made = segment("segmenter", heatmap, inside, known, odds=True)
    assert made.mask.ravel().tolist() == [0, 0, 0, 1, 1]
    assert (made.min_volume_mm3, made.min_peak, len(made.components)) == (8.0, 0.5, 1)
    half = ModelThreshold(-2.0, None, "calibrated", {}, {}, record={**record, ABOVE_HALF_PEAK: -1.5})
    for scale, reached in ((1.0, [1, 1, 0, 1, 1]), (3.0, [0, 0, 0, 1, 0])):  # thresholds of -1 and 0
        own = segment("segmenter", volume_of(scale * heatmap.array), inside, half, parts=Parts(), odds=True)
        assert own.mask.ravel().tolist() == reached
        assert own.threshold == scale / 2 - 1.5
        assert own.source == "the model's own, half way to the highest logit"
    assert segment("segmenter", heatmap, inside, half, threshold="-2", odds=True).threshold == -2.0
    everything = segment("segmenter", heatmap, inside, known, parts=parts_of(known, min_peak=-math.inf), odds=True)
    assert everything.mask.ravel().tolist() == [1, 1, 0, 1, 1]


def test_a_mask_that_the_model_s_size_empties_at_another_threshold_is_told() -> None:
    record = {"threshold": -2.0, "min_volume_mm3": 8.0}
    known = ModelThreshold(-2.0, None, "calibrated", {}, {}, record=record)
    heatmap = volume_of([[[-1.0, -1.0, -3.0, 1.0, -1.0]]], spacing_mm=1.0)
    inside = np.ones(heatmap.array.shape, dtype=bool)
    said = (
        "segmenter: what reaches the threshold 0 was dropped, because each part of it is smaller than the model's 8 mm3"
    )
    found = segment("segmenter", heatmap, inside, known, threshold="0", parts=parts_of(known), odds=True)
    assert not found.mask.any()
    assert found.warning is not None
    assert found.warning.startswith(said)
    # An answer, and what was asked for.
    for threshold, parts in (("auto", parts_of(known)), ("2", parts_of(known)), ("0", parts_of(known, 7.0))):
        made = segment("segmenter", heatmap, inside, known, threshold=threshold, parts=parts, odds=True)
        assert (made.warning, made.mask.any()) == (None, False)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_a_constant_heatmap_is_told(value: float) -> None:
    heatmap = volume_of(np.full((3, 3, 3), value))
    found = segment("matched-cam", heatmap, np.ones((3, 3, 3), np.bool_), None)
    assert found.warning is not None
    assert found.warning.startswith("matched-cam: the heatmap is constant, so nothing is found in it.")
    assert not found.mask.any()
