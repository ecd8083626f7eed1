"""The working grid and the windows that suit the training volumes, and the volumes prepared on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.distillation.toy import SETTINGS
from tests.training.toy import write_toy_set
from tonno_core.cohort.manifest import Case, read_manifest
from tonno_core.distillation.volumes import WorkingPreparation, choose_network
from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.working import prepare_image
from tonno_core.training import cache as cache_module
from tonno_core.training.cache import VolumeCache
from tonno_core.volume.io import read_volume, write_volume
from tonno_core.volume.volume import Volume

OPEN = replace(SETTINGS, spacing_mm=None, patch=None, blocks=(1, 1, 1))


def scans(folder: Path, sizes: list[tuple[int, int, int]], spacing: tuple[float, float, float]) -> list[Case]:
    cases = []
    for index, (x, y, z) in enumerate(sizes):
        volume = Volume(np.zeros((z, y, x), dtype=np.float32), np.diag([*spacing, 1.0]))
        write_volume(volume, folder / f"{index}.nii.gz")
        cases.append(Case(folder / f"{index}.nii.gz", (0,), (None,), str(index), "train"))
    return cases


def test_the_grid_is_the_volumes_and_a_window_holds_them(tmp_path: Path) -> None:
    cases = scans(tmp_path, [(20, 30, 9), (22, 30, 9), (20, 31, 10)], (1.5, 1.5, 5.0))
    network = choose_network(cases, OPEN, None, "cpu")
    assert network.spacing_mm == (1.5, 1.5, 5.0)
    assert network.patch == (24, 32, 12)  # multiples of 4, which the network needs


def test_voxels_are_no_finer_than_the_classifiers_pixels(tmp_path: Path) -> None:
    cases = scans(tmp_path, [(20, 30, 9)], (1.5, 1.5, 5.0))
    network = choose_network(cases, OPEN, 3.0, "cpu")
    assert network.spacing_mm == (3.0, 3.0, 5.0)
    assert network.patch == (12, 16, 12)


def test_a_batch_fits_the_memory(tmp_path: Path) -> None:
    cases = scans(tmp_path, [(200, 100, 60)], (1.0, 1.0, 1.0))
    r, a, s = choose_network(cases, OPEN, None, "cpu").patch
    assert 2 * r * a * s <= 2**18 < 2 * (r + 4) * (a + 4) * (s + 4)
    assert max(r, a, s) - min(r, a, s) <= 4  # the longest sides were cut
    assert choose_network(cases, OPEN, None, "cuda").patch == (200, 100, 60)


def test_what_is_given_is_taken(tmp_path: Path) -> None:
    given = replace(OPEN, spacing_mm=(2.0, 2.0, 2.0), patch=(16, 16, 8))
    network = choose_network([], given, 3.0, "cpu")
    assert (network.spacing_mm, network.patch) == ((2.0, 2.0, 2.0), (16, 16, 8))
    with pytest.raises(TonnoError, match="patch"):
        choose_network([], replace(given, patch=(15, 16, 8)), None, "cpu")


def test_a_volume_is_prepared_once_as_a_segmenter_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (case, *_) = read_manifest(write_toy_set(tmp_path / "toy", train=2, val=0)).cases
    network = SegmenterNetwork((8.0, 8.0, 8.0), (8, 8, 8), 8, (1, 1))
    cache = VolumeCache(tmp_path / "cache", WorkingPreparation(network, "zscore"))
    cache.prepare(case, 0)
    made, expected = cache.load(case, 0), prepare_image(read_volume(case.volume), network, "zscore")
    # float16 of numbers below 8: steps of 2^-8.
    assert torch.allclose(made.array.float() + made.fill, expected.array, rtol=0, atol=2**-8)
    assert (made.labels, made.name, made.shape) == ((0,), "0.nii.gz", (8, 8, 8))
    look = cache.appearance(0)
    assert look is not None
    assert look.extent_mm == 64.0
    monkeypatch.setattr(cache_module, "read_volume", lambda path, **how: pytest.fail("it was read again"))
    cache.prepare(case, 0)
    with pytest.raises(BaseException, match="it was read again"):
        VolumeCache(tmp_path / "cache", WorkingPreparation(network, "none")).prepare(case, 0)
