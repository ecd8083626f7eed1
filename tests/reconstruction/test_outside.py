"""What the planes do not cover: exactly 0 in a heatmap, and never segmented, whatever the threshold."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.networks import write_random_bundle
from tonno_core import cli
from tonno_core.evaluation.record import measure
from tonno_core.reconstruction import reconstruct
from tonno_core.segmentation.binarize import binarize, covered, otsu_threshold, peak_of
from tonno_core.segmentation.metrics import Components, best_dice
from tonno_core.segmentation.threshold import threshold_warning
from tonno_core.settings import ReconstructionSettings
from tonno_core.volume.volume import Volume

METHODS = ("tonno", "averaged-cam", "matched-cam")
SETTINGS = ReconstructionSettings(methods=METHODS, slices=32, directions=100)


def body(air: float, side: int = 24) -> Volume:
    """A CT in HU of a body of 40 with an insert of 300, in ``air``; voxels of 10 mm."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    array = np.where((x / 0.6) ** 2 + (y / 0.5) ** 2 + (z / 0.7) ** 2 < 1, 40.0, -1000.0)
    array[(x + 0.2) ** 2 + y**2 + z**2 < 0.04] = 300.0
    return Volume((array + 1000.0 + air).astype(np.float32), np.diag([10.0, 10.0, 10.0, 1.0]))


def test_pixel_sum_of_a_ct_in_hu_is_that_of_the_same_voxels_above_zero() -> None:
    above, in_hu = (reconstruct(body(air), "pixel-sum", SETTINGS) for air in (0.0, -1000.0))
    inside = above.inside
    for method in METHODS:
        shifted = above.heatmaps[method].array[inside] - 1000.0
        # Second differences of means rounded at 1000 HU: 2^-24 * 1000 * sqrt(6) / (2 pi) * 31^2 / sqrt(100), some 0.01.
        np.testing.assert_allclose(in_hu.heatmaps[method].array[inside], shifted, atol=0.1)
        assert not in_hu.heatmaps[method].array[~inside].any()
        mask = binarize(in_hu.heatmaps[method], otsu_threshold(in_hu.heatmaps[method], inside))
        assert not mask[~inside].any()
    difference = (in_hu.heatmaps["tonno"].array - body(-1000.0).array)[inside]
    assert abs(np.median(difference)) < 30.0  # of 1340 HU; it was + 200 where the space outside counted as water
    assert in_hu.explained == pytest.approx(above.explained, abs=1e-4)


def test_a_zero_that_planes_cover_is_none() -> None:
    volume = Volume(np.zeros((16, 16, 16), np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))
    volume.array[7:9, 7:9, 7:9] = 1.0
    settings = ReconstructionSettings(methods=("slicewise-cam",), stages=(1,), slices=16, radius_mm=35.0)
    result = reconstruct(volume, "pixel-sum", settings)
    array = result.heatmaps["slicewise-cam"].array
    assert (array[result.inside] == np.finfo(np.float32).tiny).any()  # beyond the body the maps are 0
    np.testing.assert_array_equal(covered(array), result.inside)


def test_no_threshold_reaches_what_is_not_covered() -> None:
    array = np.zeros((4, 4, 4), np.float32)
    array[1:3, 1:3, 1:3] = np.linspace(-2.0, -1.0, 8).reshape(2, 2, 2)
    heatmap = Volume(array, np.eye(4))
    for threshold, low in ((-1.5, None), (-3.0, None), (0.0, None), (-1.5, -3.0)):
        mask = binarize(heatmap, threshold, low=low)
        expected = (array != 0) & (array >= (threshold if low is None else low))
        np.testing.assert_array_equal(mask != 0, expected)
    assert peak_of(array) == -1.0
    assert peak_of(np.zeros(3)) == 0.0


def test_scores_know_what_is_not_covered() -> None:
    array = np.zeros((4, 4, 4), np.float32)
    array[1:3, 1:3, 1:3] = np.linspace(-2.0, -1.0, 8).reshape(2, 2, 2)
    truth = np.zeros(array.shape, bool)
    truth[2, 2, 1:3] = truth[0, 0, 0] = True  # the two highest, and a voxel outside
    segmented, overlap = measure(array, Components(truth), -1.9)
    assert segmented.voxels.size == 8 - 1
    assert overlap.dice == pytest.approx(2 * 2 / (7 + 3))
    assert (overlap.best_dice, overlap.best_threshold) == (pytest.approx(2 * 2 / (2 + 3)), float(array[2, 2, 1]))
    truth[2, 2, 1:3] = False
    threshold, best = best_dice(array, truth, array != 0)
    assert (best, threshold > array.max()) == (0.0, True)


@pytest.mark.parametrize(("threshold", "voxels", "said"), [(0.5, 4, ""), (0.5, 5, "too low"), (0.0, 1, "not above 0")])
def test_a_mask_that_is_no_finding_is_said(threshold: float, voxels: int, said: str) -> None:
    inside = np.arange(10) < 8
    text = threshold_warning("tonno", np.arange(10) < voxels, inside, threshold)
    assert (text is None) if not said else (text is not None and said in text and "`threshold`" in text)


def test_the_command_says_it_and_segments_nothing_outside(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model", intensity="window:-1000:300")
    scan = body(-1000.0)
    nibabel.save(nibabel.Nifti1Image(scan.array.T, scan.ijk_to_ras), tmp_path / "scan.nii.gz")
    words = ["--method", "tonno", "--slices", "8", "--directions", "6", "--threshold", "-1e6"]
    with pytest.raises(SystemExit) as done:
        cli.main([
            "reconstruct", f"{tmp_path}/scan.nii.gz", "--model", f"{tmp_path}/model",
            "--output", f"{tmp_path}/o", *words,
        ])  # fmt: skip
    assert done.value.code == 0
    heatmap, mask = (
        nibabel.load(tmp_path / f"o/{name}-tonno.nii.gz").get_fdata() for name in ("heatmap", "segmentation")
    )
    np.testing.assert_array_equal(mask != 0, heatmap != 0)
    assert 0 < mask.mean() < 1
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert any("--threshold" in text and "100 %" in text for text in report["warnings"])
