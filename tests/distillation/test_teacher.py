"""Heatmaps of the training's volumes: what a reconstruction gives, kept, and made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distillation.toy import SETTINGS, untrained
from tests.runs import executed
from tests.training.toy import toy_scan, write_rows, write_toy_set
from tonno_core.bundle.file import Bundle
from tonno_core.cohort.manifest import read_manifest
from tonno_core.distillation.teacher import Numbered, Teacher, asked_of, load_heatmaps, show_volumes
from tonno_core.distributed import ALONE, Processes
from tonno_core.errors import TonnoError
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.training.tensor_file import TensorFiles
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.io import read_volume, write_volume

NETWORK = SegmenterNetwork((4.0, 4.0, 4.0), (16, 16, 16), 8, (1, 1))  # the toy scans' own grid


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return untrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def cases(tmp_path: Path) -> list[Numbered]:
    return list(enumerate(read_manifest(write_toy_set(tmp_path / "toy")).cases))


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the volumes that are looked at from now on."""
    seen: list[str] = []
    original = Teacher.look

    def watched(self: Teacher, scan: Any, case: Any, network: Any) -> Any:
        seen.append(case.volume.name)
        return original(self, scan, case, network)

    monkeypatch.setattr(Teacher, "look", watched)
    return seen


def show(bundle: Bundle, cases: list[Numbered], folder: Path, group: Processes = ALONE, **changes: Any) -> TensorFiles:
    files = TensorFiles(folder)
    settings = replace(SETTINGS, **changes)
    show_volumes(Teacher(bundle, settings, "cpu"), NETWORK, cases, files, group, progress=False)
    return files


def test_the_heatmaps_are_those_of_a_reconstruction(bundle: Bundle, cases: list[Numbered], tmp_path: Path) -> None:
    files = show(bundle, cases, tmp_path / "teacher")
    number, case = cases[1]
    made = load_heatmaps(files, number, "finding")
    volume = read_volume(case.volume)
    expected = executed(volume, bundle, asked_of(bundle, SETTINGS))
    for values, peak, name in zip(made.maps, made.peaks, SETTINGS.methods, strict=True):
        array = expected.heatmaps[name].array
        # float16 of the volume's own scale has steps of 2^-11 of it; the grid is the scan's own.
        assert np.abs(values.numpy() - array).max() <= np.abs(array).max() * 2**-11
        assert peak == pytest.approx(float(array[foreground_mask(volume) & expected.inside].max()), rel=1e-5)
    assert np.array_equal(made.foreground.numpy(), foreground_mask(volume))
    assert made.thresholds == (None, None)


def test_only_volumes_with_a_finding_are_looked_at_and_each_once(
    bundle: Bundle, cases: list[Numbered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looked_at(monkeypatch)
    show(bundle, cases, tmp_path / "teacher")
    assert seen == ["1.nii.gz", "3.nii.gz", "5.nii.gz"]
    show(bundle, cases, tmp_path / "teacher")
    assert len(seen) == 3


def test_what_changed_or_was_damaged_is_made_again(
    bundle: Bundle, cases: list[Numbered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = show(bundle, cases, tmp_path / "teacher")
    seen = looked_at(monkeypatch)
    files.path(1).write_bytes(files.path(1).read_bytes()[:100])
    write_volume(toy_scan(33, 1), cases[3][1].volume)
    show(bundle, cases, tmp_path / "teacher")
    assert seen == ["1.nii.gz", "3.nii.gz"]
    show(bundle, cases, tmp_path / "teacher", planes={"slices": 5, "directions": 4})
    assert len(seen) == 5


def test_an_interrupted_teacher_goes_on_where_it_was(
    bundle: Bundle, cases: list[Numbered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Teacher.look

    def interrupted(self: Teacher, scan: Any, case: Any, network: Any) -> Any:
        if case.volume.name == "3.nii.gz":
            raise KeyboardInterrupt
        return original(self, scan, case, network)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Teacher, "look", interrupted)
        show(bundle, cases, tmp_path / "teacher")
    seen = looked_at(monkeypatch)
    show(bundle, cases, tmp_path / "teacher")
    assert seen == ["3.nii.gz", "5.nii.gz"]


def test_processes_share_the_volumes(
    bundle: Bundle, cases: list[Numbered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looked_at(monkeypatch)
    shares = []
    for rank in range(2):
        show(bundle, cases, tmp_path / "teacher", Processes(rank, 2, torch.device("cpu")))
        shares.append(seen.copy())
        seen.clear()
    assert shares == [["1.nii.gz", "5.nii.gz"], ["3.nii.gz"]]


def test_each_class_has_heatmaps_where_the_volume_has_it(tmp_path: Path) -> None:
    bundle = untrained(tmp_path, ("lesion", "bleeding"))
    manifest = write_rows(tmp_path / "toy", "volume,label:lesion,label:bleeding,split", ["1,1,train", "0,1,train"])
    cases = list(enumerate(read_manifest(manifest).cases))
    files = show(bundle, cases, tmp_path / "teacher", classes=("lesion", "bleeding"), methods=("tonno",))
    assert set(files.load(0)) == {"key", "foreground", "lesion", "bleeding"}
    assert set(files.load(1)) == {"key", "foreground", "bleeding"}
    alone = executed(read_volume(cases[1][1].volume), bundle, replace(asked_of(bundle, replace(
        SETTINGS, methods=("tonno",))), class_name="bleeding"))  # fmt: skip
    array = alone.heatmaps["tonno"].array
    made = load_heatmaps(files, 1, "bleeding").maps[0].numpy()
    assert np.abs(made - array).max() <= np.abs(array).max() * 2**-11


def test_a_model_without_thresholds_cannot_be_measured_in_them(bundle: Bundle) -> None:
    with pytest.raises(TonnoError, match=r"^`unit` threshold: .*classifier brings no threshold for tonno of finding; "):
        Teacher(bundle, replace(SETTINGS, unit="threshold"), "cpu")


def test_a_volume_that_cannot_be_used_is_named(bundle: Bundle, cases: list[Numbered], tmp_path: Path) -> None:
    cases[1][1].volume.write_bytes(b"hello")
    with pytest.raises(TonnoError, match=r"^.*1\.nii\.gz: "):
        show(bundle, cases, tmp_path / "teacher")
