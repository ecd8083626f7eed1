"""What an image looks like, against what is known of it, and which differences are told."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from tonno_core.volume import appearance as module
from tonno_core.volume.appearance import Appearance, appearance, image_concerns, record_of_images
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.volume import Volume

RADIUS = 40.0


def ball(spacing: tuple[float, float, float] = (2.0, 2.0, 2.0), *, slope: float = 1.0, scale: float = 1.0) -> Volume:
    """A ball of 40 mm in a box of 120 mm whose intensity is 100, and `slope` more for each mm of depth."""
    counts = [round(120 / step) for step in spacing]
    x, y, z = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(counts, spacing, strict=True))
    depth = RADIUS - np.sqrt(x**2 + y[:, None] ** 2 + z[:, None, None] ** 2)
    matrix = np.diag([*(scale * step for step in spacing), 1.0])
    return Volume(np.where(depth > 0, 100 + slope * depth, 0).astype(np.float32), matrix)


def look(volume: Volume, intensity: str = "zscore") -> Appearance:
    found = appearance(volume.array, volume.ijk_to_ras, intensity)
    assert found is not None
    return found


def concerns(images: list[Volume], volume: Volume, *, intensity: str = "zscore", **changes: Any) -> list[str]:
    record = record_of_images([look(image, intensity) for image in images], intensity, 2.5) | changes
    return image_concerns({"images": record}, volume.array, volume.ijk_to_ras)


# -------------------- what is measured


def test_depth_and_foreground_are_those_of_other_libraries() -> None:
    rng = np.random.default_rng(0)
    inside = ndimage.gaussian_filter(rng.normal(size=(17, 30, 23)), 2.0) > 0
    expected = ndimage.distance_transform_edt(np.pad(inside, 1), sampling=(3.0, 1.5, 2.0))[1:-1, 1:-1, 1:-1]
    # Squares of up to 100 mm2 in float32.
    assert np.sqrt(module._depth(inside, np.array([3.0, 1.5, 2.0]))) == pytest.approx(expected, abs=1e-4)
    volume = ball()
    # One bin of 256 in the square root, at most.
    assert (volume.array > module._level(volume.array)).sum() == foreground_mask(volume).sum()


@pytest.mark.parametrize("padding", [-3024, -8192, -32768])
def test_padding_of_a_ct_is_not_what_the_image_shows(padding: int) -> None:
    _, y, x = np.indices((20, 40, 40)) - 19.5
    rng = np.random.default_rng(0)
    plain = np.where(x**2 + y**2 < 12**2, 40, -1000) + rng.normal(0, 10, x.shape)
    padded = np.where(x**2 + y**2 < 19.5**2, plain, padding)
    grid = np.diag([2.0, 2, 2, 1])
    assert look(Volume(padded.astype(np.float32), grid)) == look(Volume(plain.astype(np.float32), grid))


def test_a_ball_is_as_large_and_as_bright_by_depth_as_it_was_drawn() -> None:
    found = look(ball((2.0, 1.5, 4.0)), "none")
    assert found.spacing_mm == (1.5, 4.0)
    assert found.extent_mm == pytest.approx(120.0)
    assert found.foreground_mm == pytest.approx(2 * RADIUS, abs=4.0)  # a voxel
    # Of a fifth of the ball's volume, the middle: a shell at this share of it. Voxels of 2 mm, as the depth's.
    middles = [100 + RADIUS * (1 - (1 - (2 * n + 1) / 10) ** (1 / 3)) for n in range(5)]
    assert found.depths == pytest.approx(middles, abs=1.0)


def test_neither_resolution_nor_margins_nor_axes_nor_scanner_units_matter() -> None:
    plain = ball()
    array = plain.array
    turned = plain.ijk_to_ras[:, [1, 2, 0, 3]]
    alike = {
        "finer": ball((1.0, 1.0, 1.0)),
        "coarser": ball((4.0, 4.0, 4.0)),
        "thick slices": ball((1.5, 1.5, 5.0)),
        "cropped": Volume(np.ascontiguousarray(array[9:-9, 9:-9, 9:-9]), plain.ijk_to_ras),
        "in much air": Volume(np.pad(array, 40), plain.ijk_to_ras),
        "other axes": Volume(np.ascontiguousarray(array.transpose(1, 0, 2)[::-1]), turned),
        "other units": plain.with_array(7 * array + 300),
        "whole numbers": Volume(np.round(array).astype(np.int16), plain.ijk_to_ras),  # type: ignore[arg-type]
    }
    expected = look(plain).depths
    for name, volume in alike.items():
        # The rim is a voxel thick: a tenth of its fifth. A third of the least distance that is told.
        assert look(volume).depths == pytest.approx(expected, abs=module.LEAST_DISTANCE / 3), name


def test_what_has_no_contrast_looks_like_nothing() -> None:
    for value in (0.0, 5.0):
        assert appearance(np.full((9, 9, 9), value), np.eye(4), "zscore") is None
    cube = np.zeros((20, 20, 20), dtype=np.float32)
    cube[5:15, 5:15, 5:15] = 7.0
    assert appearance(cube, np.eye(4), "zscore") is None
    assert appearance(np.full((9, 9, 9), np.nan), np.eye(4), "zscore") is None
    holes = ball().array.copy()
    holes[:2] = np.nan
    assert appearance(holes, ball().ijk_to_ras, "zscore") == look(ball())


# -------------------- what is told


def test_an_image_like_those_of_the_training_raises_no_question() -> None:
    images = [ball(slope=slope) for slope in (0.8, 1.0, 1.2)]
    for other in (ball(), ball((1.0, 1.0, 1.0)), ball((3.0, 3.0, 3.0)), ball(scale=1.2), *images):
        assert concerns(images, other) == []


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (ball((10.0, 10.0, 10.0)), "Voxels of 10.0 mm; the model was trained on 2.0 mm."),
        (ball((2.0, 2.0, 6.0)), "Voxels of 6.0 mm; the model was trained on 2.0 mm."),
        (ball(scale=3.0), "What the image shows covers 240 mm; in the training images 80 mm."),
        (Volume(np.pad(ball().array, 60), ball().ijk_to_ras), "The image covers 360 mm; the training images 120 mm."),
        (ball(slope=-1.0), "The image's intensities are distributed unlike those of the model's training images "
         "(brighter at the surface, darker in the core); is it the same kind of image?"),
    ],
)  # fmt: skip
def test_what_differs_is_told_in_a_sentence(volume: Volume, sentence: str) -> None:
    found = concerns([ball()], volume)
    assert sentence.split(";")[0].split("covers")[0] in " ".join(found)
    if "covers" in sentence:
        number = float(sentence.split("covers ")[1].split(" mm")[0])
        told = float(next(line for line in found if "covers" in line).split("covers ")[1].split(" mm")[0])
        assert told == pytest.approx(number, rel=0.05)  # a voxel
    else:
        assert sentence in found


def test_a_slab_of_what_the_training_saw_whole_is_told() -> None:
    whole, matrix = ball(), ball().ijk_to_ras
    slab = Volume(whole.array[28:33], matrix)  # 5 planes of 2 mm
    told = "What the image shows is 10 mm thick; in the training images 80 mm."
    assert told in concerns([whole], slab)
    assert "What the image shows is 80 mm thick; in the training images 10 mm." in concerns([slab], whole)
    for turn in np.linspace(0, 0.9, 4):  # however it lies in the scanner
        tilt = np.eye(4)
        tilt[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
        assert told in concerns([whole], Volume(slab.array, tilt @ matrix))
        assert concerns([whole], Volume(whole.array, tilt @ matrix)) == []
    record = record_of_images([look(whole)], "zscore", 2.5)
    del record["thickness_mm"]  # of an earlier version
    assert not any("thick" in line for line in image_concerns({"images": record}, slab.array, matrix))


def test_lengths_of_a_microscope_are_kept_and_told() -> None:
    small = ball(scale=1e-4)
    record = record_of_images([look(small)], "zscore", None)
    assert record["finest_spacing_mm"] == [2e-4, 2e-4]
    assert image_concerns({"images": record}, small.array, small.ijk_to_ras) == []
    coarse = ball((8.0, 8.0, 8.0), scale=1e-4)
    found = image_concerns({"images": record}, coarse.array, coarse.ijk_to_ras)
    assert "Voxels of 0.0008 mm; the model was trained on 0.0002 mm." in found


def test_voxels_finer_than_the_slices_pixels_are_no_difference() -> None:
    # Training slices had pixels of 2.5 mm, for which finer voxels are smoothed away.
    assert concerns([ball((2.0, 2.0, 2.0))], ball((0.8, 0.8, 0.8))) == []
    # The network of thick slices has seen blurred planes, though.
    assert any("Voxels of 2.0 mm" in line for line in concerns([ball((2.0, 2.0, 8.0))], ball()))


def test_training_images_that_differ_among_themselves_allow_more() -> None:
    images = [ball(slope=slope) for slope in (-1.0, 1.0)]
    assert concerns(images, ball(slope=-1.0)) == concerns(images, ball(slope=1.0)) == []
    assert concerns([ball(slope=1.0)], ball(slope=-1.0)) != []


def test_a_window_is_compared_in_its_own_numbers() -> None:
    window = "window:0:200"
    assert concerns([ball()], ball(), intensity=window) == []
    brighter = ball().with_array(ball().array * 1.6)
    assert concerns([ball()], brighter) == []  # the normalization takes care of it
    assert "brighter at the surface" in concerns([ball()], brighter, intensity=window)[0]


def test_a_record_of_nothing_or_of_another_version_tells_nothing() -> None:
    image = ball(scale=9.0, slope=-1.0)
    for training in ({}, {"images": {}}, {"images": {"intensity": "zscore"}}, {"images": None}):
        assert image_concerns(training, image.array, image.ijk_to_ras) == []
    assert concerns([ball()], image, depths=[0.0, 1.0]) == []


def test_a_record_is_plain_and_small() -> None:
    record = record_of_images([look(ball()), look(ball((1.0, 1.0, 3.0)))], "zscore", None)
    assert record["volumes"] == 2
    assert (record["finest_spacing_mm"], record["coarsest_spacing_mm"]) == ([1.0, 2.0], [2.0, 3.0])
    assert len(record["depths"]) == 5
    assert all(math.isfinite(value) for value in record["depths"])
    assert record["spread"] == pytest.approx(1.0, abs=1e-3)  # of the z-score


def test_it_is_quick_and_needs_nothing_large() -> None:
    volume = ball((120 / 256,) * 3)
    assert volume.array.shape == (256, 256, 256)
    record = {"images": record_of_images([look(volume)], "zscore", None)}
    times = []
    for _ in range(7):
        start = time.perf_counter()
        image_concerns(record, volume.array, volume.ijk_to_ras)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05  # 6 ms on a free core
    code = "import sys, tonno_core.volume.appearance; print(*({'torch', 'scipy', 'SimpleITK'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
