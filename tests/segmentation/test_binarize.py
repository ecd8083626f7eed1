"""Thresholds, hysteresis and the component table, on grids small enough to count by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from tonno_core.errors import TonnoError
from tonno_core.segmentation import binarize as binarize_module
from tonno_core.segmentation.binarize import binarize, components, measure, otsu_threshold
from tonno_core.segmentation.connected import runs_of
from tonno_core.volume.volume import Volume

# i runs to the patient's left, j down, k back: left-handed, voxels of 1 x 2 x 3 mm.
IJK_TO_RAS = np.array([[-1.0, 0, 0, 10], [0, 0, 3, 20], [0, -2, 0, 30], [0, 0, 0, 1]])


def volume(array: npt.ArrayLike, ijk_to_ras: npt.ArrayLike = IJK_TO_RAS) -> Volume:
    return Volume(np.asarray(array, dtype=np.float32), np.asarray(ijk_to_ras, dtype=np.float64))


def row(*values: float) -> Volume:
    """A volume of one line of voxels along i, 1 mm apart."""
    return volume([[values]], np.eye(4))


def blobs(seed: int = 0) -> Volume:
    noise = np.random.default_rng(seed).standard_normal((30, 40, 50))
    return volume(ndimage.gaussian_filter(noise, 1.5) * 10)


def test_the_threshold_itself_is_inside() -> None:
    mask = binarize(row(0.0, 0.5, 1.0, np.nan), 0.5)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[[0, 1, 1, 0]]]


def test_the_heatmap_is_left_as_it_was() -> None:
    heatmap = blobs()
    before = heatmap.array.copy()
    binarize(heatmap, 2.0, low=1.0, min_volume_mm3=50.0)
    assert np.array_equal(heatmap.array, before)


def test_hysteresis_keeps_what_hangs_together_with_a_high_voxel() -> None:
    #        kept whole   no high voxel  its own seed
    heatmap = row(1, 3, 1, 0, 1, 1, 0, 3)
    assert binarize(heatmap, 3, low=1).ravel().tolist() == [1, 1, 1, 0, 0, 0, 0, 1]
    assert binarize(heatmap, 3).ravel().tolist() == [0, 1, 0, 0, 0, 0, 0, 1]
    assert binarize(heatmap, 3, low=3).ravel().tolist() == binarize(heatmap, 3).ravel().tolist()


def test_hysteresis_is_morphological_reconstruction() -> None:
    heatmap = blobs()
    grown = ndimage.binary_propagation(heatmap.array >= 2.5, structure=np.ones((3, 3, 3)), mask=heatmap.array >= 1.0)
    assert 0 < grown.sum() < (heatmap.array >= 1.0).sum()
    assert np.array_equal(binarize(heatmap, 2.5, low=1.0), grown)


def test_components_below_the_smallest_volume_go() -> None:
    heatmap = row(1, 0, 1, 1, 0, 1, 1, 1)
    assert binarize(heatmap, 1, min_volume_mm3=2).ravel().tolist() == [0, 0, 1, 1, 0, 1, 1, 1]
    assert binarize(heatmap, 1, min_volume_mm3=2.1).ravel().tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert not binarize(heatmap, 1, min_volume_mm3=100).any()


@pytest.mark.parametrize("spacing", [0.1, 0.3, 0.7, 1.1])
def test_a_component_of_exactly_the_smallest_volume_stays(spacing: float) -> None:
    """8 voxels of 0.1 mm are 0.008 mm3, although 8 * 0.1 * 0.1 * 0.1 need not be that double."""
    heatmap = volume(np.ones((2, 2, 2)), np.diag([spacing, spacing, spacing, 1.0]))
    assert binarize(heatmap, 1, min_volume_mm3=round(8 * spacing**3, 9)).all()


def test_voxels_that_share_only_a_corner_are_one_component() -> None:
    array = np.zeros((2, 2, 2))
    array[0, 0, 0] = array[1, 1, 1] = 1
    assert len(components(array > 0, volume(array))) == 1


@pytest.mark.parametrize("options", [{}, {"low": 0.5}, {"min_volume_mm3": 1.0}])
def test_nothing_above_the_threshold_gives_an_empty_mask(options: dict[str, float]) -> None:
    heatmap = row(0, 0, 0)
    mask = binarize(heatmap, 1.0, **options)
    assert not mask.any()
    assert components(mask, heatmap) == []


@pytest.mark.parametrize(
    ("threshold", "options", "message"),
    [
        (math.nan, {}, "threshold: nan found"),
        (math.inf, {}, "threshold: inf found"),
        (1.0, {"low": 2.0}, "low threshold: 2.0 found"),
        (1.0, {"low": -math.inf}, "low threshold: -inf found"),
        (1.0, {"low": math.nan}, "low threshold: nan found"),
        (1.0, {"min_volume_mm3": -1.0}, "`min_volume_mm3` is -1.0"),
        (1.0, {"min_volume_mm3": math.nan}, "`min_volume_mm3` is nan"),
    ],
)
def test_impossible_options_say_what_was_found(threshold: float, options: dict[str, float], message: str) -> None:
    with pytest.raises(TonnoError, match=message) as caught:
        binarize(row(0, 1, 2), threshold, **options)
    assert "\n" not in str(caught.value)


def test_the_table_of_two_components_counted_by_hand() -> None:
    array = np.zeros((4, 5, 6))
    array[0, 0, 0:3] = 1, 2, 6  # three voxels along i
    array[2:4, 4, 5] = 7, 1  # two along k
    first, second = components(array > 0, volume(array))

    assert (first.label, first.voxels, first.peak, first.mean) == (1, 2, 7.0, 4.0)
    assert first.volume_mm3 == pytest.approx(2 * 6, rel=1e-12)  # 1e-12: a determinant in float64
    assert first.peak_ras == (10 - 5, 20 + 3 * 2, 30 - 2 * 4)
    assert first.centroid_ras == (10 - 5, 20 + 3 * 2.5, 30 - 2 * 4)
    assert first.extent_mm == (1.0, 2.0, 6.0)

    assert (second.label, second.voxels, second.peak, second.mean) == (2, 3, 6.0, 3.0)
    assert second.volume_mm3 == pytest.approx(3 * 6, rel=1e-12)
    assert second.peak_ras == (10 - 2, 20, 30)
    assert second.centroid_ras == (10 - 1, 20, 30)
    assert second.extent_mm == (3.0, 2.0, 3.0)


def test_the_mask_need_not_come_from_the_heatmap() -> None:
    """Nonzero voxels of any dtype count, and so do negative heatmap values; of equal peaks the first."""
    heatmap = row(-3, -1, -1, 5)
    mask = np.array([[[7, 7, 7, 0]]], dtype=np.int16)
    (component,) = components(mask, heatmap)
    assert component.peak == -1.0
    assert component.peak_ras == (1.0, 0.0, 0.0)
    assert component.mean == pytest.approx(-5 / 3, rel=1e-12)  # one division in float64


def test_the_table_agrees_with_scipys_measurements() -> None:
    heatmap = blobs()
    mask = binarize(heatmap, 1.0)
    table = components(mask, heatmap)
    labels, count = ndimage.label(mask, np.ones((3, 3, 3)))
    index = np.arange(1, count + 1)
    peaks = ndimage.maximum(heatmap.array, labels, index)
    order = np.argsort(-peaks, kind="stable")
    assert count > 10
    assert [c.label for c in table] == list(index)
    assert [c.peak for c in table] == peaks[order].tolist()
    assert [c.voxels for c in table] == ndimage.sum_labels(mask, labels, index)[order].tolist()
    # Float32 values averaged in float64, in another order of summation.
    np.testing.assert_allclose([c.mean for c in table], ndimage.mean(heatmap.array, labels, index)[order], 1e-6)
    kji = np.array(ndimage.center_of_mass(mask, labels, index))[order]
    centroids = np.c_[kji[:, ::-1], np.ones(count)] @ IJK_TO_RAS.T
    # Coordinates up to 100 mm, rounded in float64.
    np.testing.assert_allclose([c.centroid_ras for c in table], centroids[:, :3], rtol=0, atol=1e-9)


def test_a_large_mask_is_measured_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = ndimage.gaussian_filter(np.random.default_rng(3).random((20, 22, 24)), 1.0)
    heatmap = volume(np.round(values, 2))  # peaks that are met more than once
    mask = heatmap.array >= np.float32(0.53)
    whole = components(mask, heatmap)
    assert len(whole) >= 8
    for voxels in (1, 7, 100, 1000):
        monkeypatch.setattr(binarize_module, "_AT_ONCE", voxels)
        for component, other in zip(components(mask, heatmap), whole, strict=True):
            assert replace(component, mean=0, centroid_ras=(0, 0, 0)) == replace(other, mean=0, centroid_ras=(0, 0, 0))
            assert (component.mean, *component.centroid_ras) == pytest.approx(
                (other.mean, *other.centroid_ras), rel=1e-12
            )


def test_the_highest_components_alone_are_the_first_of_all() -> None:
    heatmap = blobs()
    mask = binarize(heatmap, 1.0)
    whole = components(mask, heatmap)
    runs = runs_of(mask.view(np.bool_))
    assert len(whole) > 10
    assert measure(runs, heatmap, 4) == whole[:4]
    assert measure(runs, heatmap, 1000) == whole


def test_nan_within_the_mask_is_refused() -> None:
    with pytest.raises(TonnoError, match="NaN in the mask"):
        components(np.ones((1, 1, 3)), row(0, np.nan, 2))


def test_a_mask_of_another_grid_is_a_programming_error() -> None:
    with pytest.raises(ValueError, match="shape"):
        components(np.ones((1, 1, 2)), row(0, 1, 2))


def test_otsu_parts_two_well_separated_groups() -> None:
    rng = np.random.default_rng(0)
    values = np.r_[rng.normal(0, 0.2, 4000), rng.normal(5, 0.2, 1000)]
    threshold = otsu_threshold(volume(values.reshape(10, 10, 50)))
    assert values[:4000].max() < threshold < values[4000:].min()


def test_otsu_of_a_binary_image_finds_the_ones() -> None:
    heatmap = row(0, 0, 0, 0, 1, 1)
    assert binarize(heatmap, otsu_threshold(heatmap)).ravel().tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(40))
def test_otsu_is_simpleitks_to_the_last_bit(seed: int) -> None:
    """Values in every spread, repeated ones and ones on a bin's edge among them."""
    import SimpleITK as sitk

    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 3000))
    kinds = (
        rng.normal(size=count),
        rng.random(count) * 10 ** rng.uniform(-3, 6),
        rng.integers(0, 7, count),
        np.r_[rng.normal(0, 0.2, count), rng.normal(5, 0.2, count // 3 + 1)],
        np.round(rng.normal(size=count), 1) + 100 * rng.normal(),
    )
    for values in kinds:
        heatmap = volume(values.reshape(1, 1, -1))
        oracle = sitk.OtsuThresholdImageFilter()
        oracle.Execute(sitk.GetImageFromArray(heatmap.array))
        assert otsu_threshold(heatmap) == oracle.GetThreshold()


def test_otsu_of_two_neighboring_numbers_still_parts_them() -> None:
    high = float(np.nextafter(np.float32(1000), np.float32(2000)))
    heatmap = row(1000, 1000, high)
    assert binarize(heatmap, otsu_threshold(heatmap)).ravel().tolist() == [0, 0, 1]


def test_otsu_looks_inside_the_mask_alone() -> None:
    """Without the far outliers the split lies between 0 and 1, with them far above 1."""
    values = [0.0] * 50 + [1.0] * 50 + [100.0] * 50
    heatmap = row(*values)
    inside = heatmap.array < 50
    assert 0 < otsu_threshold(heatmap, inside) < 1 < otsu_threshold(heatmap)


@pytest.mark.parametrize(
    ("values", "inside", "message"),
    [
        ((2, 2, 2), (1, 1, 1), r"constant \(2\)"),
        ((2, 2, 3), (1, 1, 0), r"constant \(2\)"),
        ((1, 2, 3), (0, 0, 0), "no voxel"),
        ((1, 2, np.nan), (1, 1, 1), "NaN or infinite"),
        ((1, 2, np.inf), (1, 1, 1), "NaN or infinite"),
    ],
)
def test_otsu_says_why_there_is_nothing_to_split(
    values: tuple[float, ...], inside: tuple[int, ...], message: str
) -> None:
    with pytest.raises(TonnoError, match=message):
        otsu_threshold(row(*values), np.array([[inside]], dtype=np.bool_))


@pytest.mark.parametrize("module", ["segmentation.binarize", "segmentation.metrics", "pictures.overview"])
def test_the_import_is_light(module: str) -> None:
    """The slider's module loads inside another application: no torch, the heavy rest only when it is used."""
    heavy = "{'torch', 'scipy', 'SimpleITK', 'matplotlib'}"
    code = f"import tonno_core.{module}, sys; print(*({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
