"""Prepared volumes: as the scan is, mapped, and never an old or a damaged one."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.toy import toy_scan
from tonno_core.cohort.manifest import Case
from tonno_core.errors import TonnoError
from tonno_core.slicing.preparation import prepare_volume
from tonno_core.training import cache as module
from tonno_core.training.cache import Preparation, TrainingVolume, VolumeCache
from tonno_core.volume.appearance import appearance
from tonno_core.volume.io import read_volume, write_volume

PREPARATION = Preparation(frame="physical", intensity="zscore", slice_size=32, pixel_mm=2.0, seed=0)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    write_volume(toy_scan(0, 1), tmp_path / "scan.nii.gz")
    return Case(tmp_path / "scan.nii.gz", (1, 0), (None, None), "p", "train")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The volumes that are read."""
    paths: list[Path] = []
    monkeypatch.setattr(module, "read_volume", lambda path, **how: paths.append(path) or read_volume(path, **how))
    return paths


def cache_of(folder: Path, **changes: object) -> VolumeCache[TrainingVolume]:
    return VolumeCache(folder / "cache", replace(PREPARATION, **changes))  # type: ignore[arg-type]


def test_what_comes_back_is_what_was_prepared_in_half_precision(case: Case, tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 3)
    volume = cache.load(case, 3)
    prepared = prepare_volume(toy_scan(0, 1), frame="physical", intensity="zscore", slice_size=32, pixel_mm=2.0)
    expected = TrainingVolume.from_prepared(prepared, (1, 0), np.random.default_rng((0, 3)))
    assert volume.array.dtype == torch.float16
    assert torch.equal(volume.array, expected.array)
    assert np.array_equal(volume.frame_to_ijk, expected.frame_to_ijk)
    assert np.array_equal(volume.foreground, expected.foreground)
    assert (volume.fill, volume.labels, volume.name) == (expected.fill, (1, 0), "scan.nii.gz")


def test_what_a_scan_looks_like_is_kept_and_measured_where_it_was_not(
    case: Case, tmp_path: Path, reads: list[Path]
) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    scan = toy_scan(0, 1)
    assert cache.appearance(0) == appearance(scan.array, scan.ijk_to_ras, "zscore")
    path = next((tmp_path / "cache").iterdir())
    facts = torch.load(path, weights_only=True)
    del facts["appearance"]  # as an earlier version wrote it
    torch.save(facts, path)
    cache.prepare(case, 0)
    assert cache.appearance(0) is not None
    assert len(reads) == 2


def test_voxels_are_mapped_and_not_in_memory(tmp_path: Path) -> None:
    size = 192  # 14 MB at half precision
    array = np.random.default_rng(0).normal(size=(size,) * 3).astype(np.float32)
    write_volume(toy_scan(0, 1).with_array(array[:16, :16, :16]), tmp_path / "scan.nii.gz")
    case = Case(tmp_path / "scan.nii.gz", (1,), (None,), "p", "train")
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    path = next((tmp_path / "cache").iterdir())
    facts = torch.load(path, weights_only=True)
    torch.save({**facts, "array": torch.from_numpy(array).half()}, path)
    before = resident_kb()
    volumes = [cache.load(case, 0) for _ in range(4)]
    assert resident_kb() - before < 3000  # four copies would be 57 MB
    assert float(volumes[-1].array[-1, -1, -1]) == pytest.approx(array[-1, -1, -1], rel=1e-3)  # half precision
    assert str(path) in Path("/proc/self/maps").read_text()


def resident_kb() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_more_volumes_than_files_may_be_open(case: Case, tmp_path: Path) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))  # noqa: PTH208
    try:
        volumes = [cache.load(case, 0) for _ in range(60)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(volumes) == 60


def test_a_volume_is_prepared_once(case: Case, tmp_path: Path, reads: list[Path]) -> None:
    cache_of(tmp_path).prepare(case, 0)
    cache_of(tmp_path).prepare(case, 0)
    assert reads == [case.volume]


def test_a_changed_scan_is_prepared_again(case: Case, tmp_path: Path, reads: list[Path]) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    before = cache.load(case, 0).array.clone()
    write_volume(toy_scan(1, 0), case.volume)
    cache.prepare(case, 0)
    assert not torch.equal(cache.load(case, 0).array, before)
    os.utime(case.volume, (1, 1))  # the same size, another time
    cache.prepare(case, 0)
    assert len(reads) == 3


@pytest.mark.parametrize("change", [{"intensity": "none"}, {"pixel_mm": 3.0}, {"frame": "normalized"}])
def test_another_preparation_is_made_anew(
    change: dict[str, object], case: Case, tmp_path: Path, reads: list[Path]
) -> None:
    cache_of(tmp_path).prepare(case, 0)
    cache_of(tmp_path, **change).prepare(case, 0)
    assert len(reads) == 2


def test_another_case_under_the_number_is_prepared_anew(case: Case, tmp_path: Path, reads: list[Path]) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    write_volume(toy_scan(1, 0), tmp_path / "other.nii.gz")
    other = replace(case, volume=tmp_path / "other.nii.gz")
    cache.prepare(other, 0)
    assert reads == [case.volume, other.volume]


def test_a_cut_off_file_never_passes_as_whole(case: Case, tmp_path: Path, reads: list[Path]) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    path = next((tmp_path / "cache").iterdir())
    whole = path.read_bytes()
    expected = cache.load(case, 0).array.clone()
    for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(TonnoError, match="damaged or not a file of tensors"):
            cache.load(case, 0)
        cache.prepare(case, 0)
        assert torch.equal(cache.load(case, 0).array, expected)
    assert len(reads) == 6


def test_a_file_with_other_voxels_is_made_anew(case: Case, tmp_path: Path, reads: list[Path]) -> None:
    cache = cache_of(tmp_path)
    cache.prepare(case, 0)
    path = next((tmp_path / "cache").iterdir())
    whole = path.read_bytes()
    for place in (len(whole) // 2, whole.index(b"frame_to_ijk"), whole.rindex(b"PK\x01\x02") + 38):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        cache.prepare(case, 0)
        assert path.read_bytes() == whole
    assert len(reads) == 4


def test_an_interruption_while_writing_leaves_no_file(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(values: object, file: object) -> None:
        file.write(b"PK half of it")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_of(tmp_path).prepare(case, 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_unreadable_volume_and_an_empty_one_are_named(case: Case, tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"scan\.nii\.gz: after `intensity` all of it equals"):
        cache_of(tmp_path, intensity="window:5000:6000").prepare(case, 0)
    case.volume.write_bytes(case.volume.read_bytes()[:500])
    with pytest.raises(TonnoError, match=r"scan\.nii\.gz: truncated"):
        cache_of(tmp_path).prepare(case, 0)


def test_a_folder_that_cannot_be_written_is_named(case: Case, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(TonnoError, match=r"cache/00000\.pt: cannot be written \("):
        cache_of(tmp_path).prepare(case, 0)
