"""What the encoder sees, in numbers that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tonno_core.errors import TonnoError
from tonno_core.volume.intensity import IMAGE, Intensity, normalise, parse_intensity, shown_window, without_padding

ARRAY = np.array([[[-1000, -100, 0, 100], [200, 300, 400, 3000]]], dtype=np.float32)
EVERYWHERE = np.ones(ARRAY.shape, dtype=bool)


def test_specs_are_parsed() -> None:
    assert parse_intensity("none") == Intensity("none")
    assert parse_intensity("zscore") == Intensity("zscore")
    assert parse_intensity("window:-100:3e2") == Intensity("window", -100, 300)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "minmax",
        "Window:0:1",
        "window",
        "window:0",
        "window:0:1:2",
        "window:a:1",
        "window:1:1",
        "window:2:1",
        "window:0:inf",
        "window:nan:1",
        "zscore:0:1",
        "none:",
    ],
)
def test_wrong_specs_name_the_option(spec: str) -> None:
    with pytest.raises(TonnoError) as caught:
        parse_intensity(spec)
    assert str(caught.value).startswith(f"`intensity` {spec!r}: expected none, zscore or window:LO:HI")
    assert "\n" not in str(caught.value)
    with pytest.raises(TonnoError):
        normalise(ARRAY, EVERYWHERE, spec)


def test_none_changes_nothing() -> None:
    normalised, outside = normalise(ARRAY, EVERYWHERE, "none")
    assert np.array_equal(normalised, ARRAY)
    assert outside == 0


def test_window_goes_from_zero_to_one() -> None:
    normalised, outside = normalise(ARRAY, EVERYWHERE, "window:-100:300")
    assert normalised.dtype == np.float32
    assert normalised.ravel().tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert outside == 0


def test_zscore_over_the_mask_alone() -> None:
    array = np.array([[[-50, 1, 3]]], dtype=np.float32)
    normalised, outside = normalise(array, array > 0, "zscore")
    # Over the foreground {1, 3} the mean is 2 and the standard deviation 1.
    assert normalised.dtype == np.float32
    assert normalised.ravel().tolist() == [-52, -1, 1]
    assert outside == -52


def test_zscore_of_a_ct_stays_precise() -> None:
    array = np.random.default_rng(0).normal(10_000, 1, (64, 64, 64)).astype(np.float32)
    normalised, _ = normalise(array, array > 0, "zscore")
    # float32 holds 10,000 to 5e-4 on each voxel; a float32 sum of 3e5 voxels would be wrong by more than that
    assert abs(normalised.mean(dtype=np.float64)) < 5e-4
    assert normalised.std(dtype=np.float64) == pytest.approx(1, abs=5e-4)


@pytest.mark.parametrize("threshold", [1, 5])
def test_zscore_without_contrast(threshold: float) -> None:
    array = np.array([[[0, 2, 2]]], dtype=np.float32)
    with pytest.raises(TonnoError, match=r"`intensity` zscore: the [02] foreground voxels have no contrast"):
        normalise(array, array > threshold, "zscore")


@pytest.mark.parametrize("spec", ["none", "zscore", "window:0:1"])
def test_the_input_is_left_alone(spec: str) -> None:
    array = ARRAY.copy()
    normalise(array, EVERYWHERE, spec)
    assert np.array_equal(array, ARRAY)


@pytest.mark.parametrize("padding", [-2000, -3024, -32768])
def test_padding_of_a_ct_is_air(padding: int) -> None:
    _, y, x = np.indices((6, 40, 40)) - 19.5
    plain = np.where(x**2 + y**2 < 12**2, 40, -1000).astype(np.float32)
    padded = np.where(x**2 + y**2 < 19.5**2, plain, np.float32(padding))
    np.testing.assert_array_equal(without_padding(padded), plain)
    x = np.where(padded == padding, 0, x).astype(np.float32)  # some contrast
    (found, outside), (expected, minimum) = (normalise(each + x, plain > 0, "zscore") for each in (padded, plain))
    scanned = padded != padding
    np.testing.assert_array_equal(found[scanned], expected[scanned])
    assert (found[~scanned] == outside).all() and outside == minimum
    array, fill = normalise(padded, plain > 0, IMAGE)
    np.testing.assert_array_equal(array, plain)
    assert fill == -1000


def test_what_is_no_padding_stays() -> None:
    _, y, x = np.indices((6, 40, 40)) - 19.5
    for body, corner in ((-4000, -8192), (300, 0), (40, -1000)):
        array = np.where(x**2 + y**2 < 12**2, body, corner).astype(np.float32)
        assert without_padding(array) is array


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("none", None), ("zscore", None), ("window:0:80", (0, 80)), ("window:-20:180,-800:2000", (-20, 180))],
)
def test_pictures_show_what_the_classifier_sees(spec: str, expected: tuple[float, float] | None) -> None:
    assert shown_window(spec) == (None if expected is None else pytest.approx(expected))
