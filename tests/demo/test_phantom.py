"""The demo's heads: real brain, known lesions, and nothing else that tells the two classes apart."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tonno_core.demo import phantom as module
from tonno_core.demo.phantom import Lesion, Phantom, brain, make_phantom, write_loads, write_phantoms
from tonno_core.errors import TonnoError
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import Volume


@dataclass(frozen=True)
class Pair:
    """The same head with and without lesions."""

    positive: Phantom
    negative: Phantom


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [Pair(make_phantom(seed=seed, lesions=True), make_phantom(seed=seed, lesions=False)) for seed in range(12)]


def distance_mm(volume: Volume, lesion: Lesion) -> np.ndarray:
    """Z Y X: how far every voxel of a grid along the axes of RAS is from a lesion's centre."""
    matrix = volume.ijk_to_ras
    k, j, i = np.ogrid[tuple(slice(count) for count in volume.array.shape)]
    x, y, z = (matrix[axis, axis] * index + matrix[axis, 3] for axis, index in enumerate((i, j, k)))
    cx, cy, cz = lesion.centre_ras_mm
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2)


def ellipsoid_mm3(lesion: Lesion) -> float:
    return float(4 / 3 * np.pi * np.prod(lesion.radii_mm))


def best_dice(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest Dice that any threshold of `values` reaches; nobody who lacks the truth finds it."""
    order = np.argsort(-values)
    hits = np.cumsum(truth[order])
    return float((2 * hits / (np.arange(1, len(values) + 1) + truth.sum())).max())


# ---- the brain ----


def test_white_matter_is_one_and_background_exactly_zero() -> None:
    folder = Path(find_spec("nilearn").submodule_search_locations[0])
    white = read_volume(folder / "datasets/data/mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz")
    array = brain().array
    assert np.median(array[white.array > 230]) == pytest.approx(1, abs=0.01)  # two steps of 8 bits
    assert array.max() < 1.15
    assert array.min() == 0
    # An adult brain with its fluid has 1.2 to 1.9 l; one voxel is 1 mm3.
    assert 1.2e6 < np.count_nonzero(array) < 1.9e6
    assert brain().voxel_mm3 == pytest.approx(1)


def test_brain_lies_where_its_space_says() -> None:
    array, matrix = brain().array, brain().ijk_to_ras
    k, j, i = (axis.astype(float) for axis in np.nonzero(array))
    x, y, z = (matrix @ np.array([i.mean(), j.mean(), k.mean(), 1]))[:3]
    assert x == pytest.approx(0, abs=0.1)  # the template is symmetric about the midsagittal plane x = 0
    # The origin is the anterior commissure: the brain's middle is about 2 cm behind it and 1 cm above it.
    assert y == pytest.approx(-20, abs=5)
    assert z == pytest.approx(8, abs=5)


def test_without_nilearn_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    brain.cache_clear()
    try:
        with pytest.raises(TonnoError, match="pip install nilearn"):
            brain()
    finally:
        brain.cache_clear()


# ---- one head ----


def test_same_seed_gives_the_same_bytes(pairs: list[Pair]) -> None:
    again = make_phantom(seed=1, lesions=True)
    assert again.image.array.tobytes() == pairs[1].positive.image.array.tobytes()
    assert again.truth.tobytes() == pairs[1].positive.truth.tobytes()
    assert again.lesions == pairs[1].positive.lesions


def test_heads_of_different_seeds_differ_in_shape_and_not_only_in_noise(pairs: list[Pair]) -> None:
    a, b = (pair.negative.image.array > 0 for pair in pairs[:2])
    overlap = 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))
    assert overlap < 0.96  # identical shapes have 1
    volumes = [np.count_nonzero(pair.negative.image.array) for pair in pairs]
    # Scales between 0.9 and 1.1 have a std of 0.058, the product of three 0.1; the warp alone 0.035.
    assert np.std(volumes) / np.mean(volumes) > 0.05


def test_warp_bends_what_the_affine_leaves_straight(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    bent = pairs[1].negative.image.array > 0
    monkeypatch.setattr(module, "_smooth_noise", lambda rng, grid, scale_mm: np.zeros(grid.shape, np.float32))
    straight = make_phantom(seed=1, lesions=False).image.array > 0  # draws the same affine
    overlap = 2 * np.count_nonzero(bent & straight) / (np.count_nonzero(bent) + np.count_nonzero(straight))
    # A surface displaced by 3.5 mm * N(0, 1) moves 2.8 mm on average; a brain of 1.9 l in a skin of 1500 cm2
    # then trades about 10 % of its volume.
    assert 0.85 < overlap < 0.97


def test_smooth_noise_has_unit_variance_and_the_correlation_of_its_blur() -> None:
    grid = module._output_grid(2.0)
    noise = module._smooth_noise(np.random.default_rng(0), grid, 4.0)
    # About 4e6 mm3 / (4 pi 4^2)^(3/2) mm3 = 3000 independent waves: 1 / sqrt(3000) = 0.02.
    assert noise.mean() == pytest.approx(0, abs=0.06)
    assert noise.std() == pytest.approx(1, abs=0.06)
    for axis in range(3):
        here, there = np.moveaxis(noise, axis, 0)[:-2], np.moveaxis(noise, axis, 0)[2:]
        # White noise blurred by a Gaussian correlates as exp(-d^2 / (4 sigma^2)); d = sigma here.
        assert (here * there).mean() == pytest.approx(np.exp(-0.25), abs=0.06)


def test_arrays_have_the_promised_types(pairs: list[Pair]) -> None:
    head = pairs[0].positive
    assert head.image.array.dtype == np.float32
    assert head.truth.dtype == np.uint8
    assert head.truth.shape == head.image.array.shape
    assert head.image.spacing_mm == pytest.approx([2, 2, 2])


def test_background_is_exactly_zero_and_the_head_does_not_touch_the_border(pairs: list[Pair]) -> None:
    for pair in pairs:
        image = pair.positive.image.array
        assert image.min() == 0
        litres = np.count_nonzero(image) * pair.positive.image.voxel_mm3 / 1e6
        assert 1.886 * 0.9**3 * 0.9 < litres < 1.886 * 1.1**3 * 1.1  # scale per axis, and 10 % for the warp
        assert image[1:-1, 1:-1, 1:-1].astype(bool).sum() == image.astype(bool).sum()
        hole_free = ndimage.binary_closing(image > 0, iterations=2)
        assert ndimage.label(hole_free)[1] == 1  # no noise outside of the head


def test_a_coarser_grid_covers_the_same_space() -> None:
    fine, coarse = (make_phantom(seed=3, lesions=2, spacing_mm=mm) for mm in (2.0, 4.0))
    assert coarse.image.spacing_mm == pytest.approx([4, 4, 4])
    for volume in (fine.image, coarse.image):
        centre = volume.ijk_to_ras @ [*(np.array(volume.size_ijk) - 1) / 2, 1]
        assert centre[:3] == pytest.approx([0, -17, 5], abs=1e-4)  # coordinates are float32
        assert np.all(np.array(volume.size_ijk) * volume.spacing_mm >= [188, 228, 200])


# ---- lesions ----


def test_negative_head_has_no_lesion_and_an_empty_truth(pairs: list[Pair]) -> None:
    assert all(not pair.negative.truth.any() and pair.negative.lesions == () for pair in pairs)


def test_positive_heads_have_one_to_three_lesions(pairs: list[Pair]) -> None:
    # Each number has probability 1/3: one is missing from 12 heads with probability 3 * (2/3)^12 = 0.02.
    assert {len(pair.positive.lesions) for pair in pairs} == {1, 2, 3}


def test_number_of_lesions_can_be_asked_for() -> None:
    head = make_phantom(seed=5, lesions=5, spacing_mm=4.0)
    assert len(head.lesions) == 5
    with pytest.raises(ValueError, match="no room for 300 lesions"):
        make_phantom(seed=5, lesions=300, spacing_mm=4.0)


def test_lesions_are_apart_and_centred_where_they_say(pairs: list[Pair]) -> None:
    for pair in pairs:
        head = pair.positive
        labels, count = ndimage.label(head.truth, structure=np.ones((3, 3, 3)))
        assert count == len(head.lesions)
        components = set()
        for lesion in head.lesions:
            nearest = np.unravel_index(distance_mm(head.image, lesion).argmin(), labels.shape)
            components.add(int(labels[nearest]))
        assert components == set(range(1, count + 1))


def test_only_the_lesions_differ_between_the_classes(pairs: list[Pair]) -> None:
    for pair in pairs:
        with_lesions, without = pair.positive.image.array, pair.negative.image.array
        away = np.ones(with_lesions.shape, dtype=bool)
        for lesion in pair.positive.lesions:
            # The border waves by up to 36 % and is 1.5 mm wide.
            away &= distance_mm(pair.positive.image, lesion) > 1.36 * max(lesion.radii_mm) + 1.5
        assert np.array_equal(with_lesions[away], without[away])
        assert np.array_equal(with_lesions > 0, without > 0)
        inside = pair.positive.truth > 0
        assert np.mean(with_lesions[inside] > without[inside]) > 0.99


def test_truth_has_the_volume_of_the_ellipsoids(pairs: list[Pair]) -> None:
    ratios = []
    for pair in pairs:
        labels, _ = ndimage.label(pair.positive.truth, structure=np.ones((3, 3, 3)))
        for lesion in pair.positive.lesions:
            near = distance_mm(pair.positive.image, lesion) < min(lesion.radii_mm) / 2
            label = np.bincount(labels[near]).argmax()
            ratios.append(np.count_nonzero(labels == label) * 8 / ellipsoid_mm3(lesion))
    # The radius waves by 12 % with few waves over a lesion: one volume scatters by up to 3 * 12 % * 1.5,
    # and cubing raises the mean by 3 * 0.12^2 = 4 %; up to 10 % may lie outside of the brain.
    assert min(ratios) > 0.5
    assert max(ratios) < 1.6
    assert np.mean(ratios) == pytest.approx(1.04, abs=0.12)  # 3 * 0.18 / sqrt(20 lesions)


def test_lesions_lie_in_the_brain(pairs: list[Pair]) -> None:
    for pair in pairs:
        head = pair.positive.image.array > 0
        assert np.all(head[pair.positive.truth > 0])
        for lesion in pair.positive.lesions:
            # At most a tenth of a lesion may be out; the ball of its volume differs from it, hence 0.85.
            ball = distance_mm(pair.positive.image, lesion) < np.prod(lesion.radii_mm) ** (1 / 3)
            assert head[ball].mean() > 0.85


def test_lesions_are_brighter_than_the_white_matter_around_them_by_their_contrast(pairs: list[Pair]) -> None:
    differences = []
    for pair in pairs:
        for lesion in pair.positive.lesions:
            distance = distance_mm(pair.positive.image, lesion)
            around = pair.negative.image.array[(distance < 25) & (pair.negative.image.array > 0)]
            core = (distance < min(lesion.radii_mm) - 2) & (pair.positive.truth > 0)
            white = np.quantile(around, 0.85)  # noise and bias are a few percent within 25 mm
            differences.append(pair.positive.image.array[core].mean() / white - 1 - lesion.contrast)
    # In grey matter (0.66 to 0.82) a lesion is up to 0.35 * 0.34 = 0.12 darker than in white matter; its
    # texture (20 % of the contrast, few waves over a lesion) and the quantile for white matter add as much.
    assert np.mean(differences) == pytest.approx(-0.06, abs=0.06)
    assert np.max(np.abs(differences)) < 0.3


def test_best_threshold_of_the_image_itself_is_no_good_segmentation(pairs: list[Pair]) -> None:
    values, truths, single = [], [], []
    for pair in pairs:
        head = pair.positive.image.array > 0
        value, truth = pair.positive.image.array[head], pair.positive.truth[head]
        values.append(value / np.median(value))
        truths.append(truth)
        single.append(best_dice(value, truth))
    pooled = best_dice(np.concatenate(values), np.concatenate(truths))
    print(f"Dice of the best threshold: {pooled:.2f} for all heads, {np.mean(single):.2f} for each alone")
    assert pooled < 0.6


def test_bright_voxels_are_no_proof_of_a_lesion(pairs: list[Pair]) -> None:
    for pair in pairs:
        lesion = np.median(pair.positive.image.array[pair.positive.truth > 0])
        bright = pair.negative.image.array >= lesion
        assert bright.sum() >= 5
        # Vessels are at most 3 mm across: nothing so bright survives an opening by a 6 mm cube; lesions do.
        assert not ndimage.binary_opening(bright, np.ones((3, 3, 3))).any()


# ---- sets ----


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("set"), count=5, seed=1, spacing_mm=4.0, validation=0.4)


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_manifest_names_every_file(manifest: Path) -> None:
    rows = rows_of(manifest)
    assert list(rows[0]) == ["volume", "label", "mask", "patient", "split"]
    assert [row["label"] for row in rows] == ["0", "1", "0", "1", "0"]
    assert [bool(row["mask"]) for row in rows] == [False, True, False, True, False]
    named = {row[key] for row in rows for key in ("volume", "mask")} - {""}
    written = {path.relative_to(manifest.parent).as_posix() for path in manifest.parent.rglob("*.nii.gz")}
    assert named == written


def test_no_patient_is_in_two_splits(manifest: Path) -> None:
    rows = rows_of(manifest)
    train, val = ({row["patient"] for row in rows if row["split"] == split} for split in ("train", "val"))
    assert len(train) == 3
    assert len(val) == 2
    assert not train & val


def test_heads_of_a_test_split_are_the_last_ones(tmp_path: Path) -> None:
    def splits(manifest: Path) -> list[str]:
        return [row["split"] for row in rows_of(manifest)]

    sizes = {"count": 7, "seed": 1, "spacing_mm": 8.0, "test": 2}
    assert splits(write_phantoms(tmp_path / "heads", **sizes)) == ["train"] * 4 + ["val"] + ["test"] * 2
    assert splits(write_loads(tmp_path / "loads", **sizes)) == ["train"] * 4 + ["val"] + ["test"] * 2
    with pytest.raises(TonnoError, match="`test` is 2, expected at most 1 of 5 heads"):
        write_phantoms(tmp_path / "few", count=5, seed=1, test=2)


def test_masks_lie_on_the_bright_voxels_of_their_volume(manifest: Path) -> None:
    for row in rows_of(manifest):
        if row["mask"]:
            volume = read_volume(manifest.parent / row["volume"])
            mask = read_volume(manifest.parent / row["mask"])
            assert np.allclose(mask.ijk_to_ras, volume.ijk_to_ras, atol=1e-4)  # NIfTI keeps float32
            assert set(np.unique(mask.array)) == {0, 1}
            inside = volume.array[mask.array > 0].mean()
            assert inside > 1.2 * volume.array[(mask.array == 0) & (volume.array > 0)].mean()


def test_sets_of_different_seeds_share_no_head(manifest: Path, tmp_path: Path) -> None:
    def contents(path: Path) -> set[bytes]:
        return {read_volume(path.parent / row["volume"]).array.tobytes() for row in rows_of(path)}

    other = write_phantoms(tmp_path / "other", count=3, seed=2, spacing_mm=4.0)
    same = write_phantoms(tmp_path / "same", count=3, seed=1, spacing_mm=4.0)
    assert len(contents(manifest)) == 5
    assert not contents(manifest) & contents(other)
    assert contents(same) < contents(manifest)
