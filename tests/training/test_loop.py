"""Training: an easy finding is learned, a seed repeats to the last bit, and what is frozen stays."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.networks import random_network
from tests.training.toy import SPACING_MM, write_toy_set
from tonno_core.errors import TonnoError
from tonno_core.training import loop
from tonno_core.training.loop import TrainedModel, TrainingSettings, schedule, train
from tonno_core.training.manifest import read_manifest

# timm's smallest ResNet, on 16 slices of 32 pixels per step.
SETTINGS = TrainingSettings(
    encoder="test_resnet", slice_size=32, steps=60, volumes_per_batch=4, slices_per_volume=4, device="cpu",
    precision="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(manifest: Path) -> TrainedModel:
    return run(manifest)


def run(manifest: Path, **changes: Any) -> TrainedModel:
    return train(read_manifest(manifest), replace(SETTINGS, **changes), progress=False)


def same(one: TrainedModel, other: TrainedModel) -> bool:
    return all(torch.equal(tensor, other.weights[name]) for name, tensor in one.weights.items())


# -------------------- learning


def test_a_bright_lesion_is_learned_in_a_minute_of_slices(trained: TrainedModel, manifest: Path) -> None:
    record = trained.spec.training
    # Guessing gives a loss of ln 2 = 0.69; the lesion is three times as bright as the head.
    assert record["final_loss"] < 0.2
    assert run(manifest, steps=2).spec.training["final_loss"] > 0.4
    # ... and so it is on two scans that were not trained on.
    assert record["validation"] == {"slice_auc": 1.0, "volume_auc": 1.0}


def test_the_record_says_what_was_done(trained: TrainedModel) -> None:
    spec, record = trained.spec, trained.spec.training
    assert (spec.encoder, spec.channels, spec.classes, spec.norm) == ("test_resnet", 1, ("finding",), "batch")
    assert (spec.slice_size, spec.intensity, spec.frame) == (32, "zscore", "physical")
    # The window of 31 pixels' width holds a head of 7 voxels' radius, and half a voxel's diagonal.
    assert spec.pixel_mm == pytest.approx(2 * (7 + math.sqrt(3) / 2) * SPACING_MM / 31, rel=0.05)
    assert record["settings"]["steps"] == 60
    assert record["settings"]["seed"] == 0
    assert record["volumes"] == {"train": {"positive": 2, "negative": 2}, "val": {"positive": 1, "negative": 1}}
    assert record["seconds"] > 0
    assert not any("/" in str(value) for value in record["settings"].values())  # no path, no name of a patient


def test_the_same_seed_gives_the_same_weights(manifest: Path) -> None:
    once, again, other = (run(manifest, steps=3, seed=seed) for seed in (5, 5, 6))
    assert same(once, again)
    assert not same(once, other)


def test_masks_are_never_opened(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The toy set's masks are no images; here it is enough to look at them.
    opened = []
    original = loop.read_volume
    monkeypatch.setattr(loop, "read_volume", lambda path: opened.append(Path(path).name) or original(path))
    run(manifest, steps=1)
    assert set(opened) == {f"{i}.nii.gz" for i in range(6)}


def test_a_set_without_validation_has_no_auc(tmp_path: Path) -> None:
    record = run(write_toy_set(tmp_path, train=2, val=0), steps=1).spec.training
    assert "validation" not in record
    assert record["volumes"]["val"] == {"positive": 0, "negative": 0}


def test_the_normalized_frame_knows_no_millimetres(manifest: Path) -> None:
    spec = run(manifest, steps=1, frame="normalized").spec
    assert (spec.frame, spec.pixel_mm) == ("normalized", None)


def test_a_pixel_size_that_was_asked_for(manifest: Path) -> None:
    assert run(manifest, steps=1, pixel_mm=3.5).spec.pixel_mm == 3.5


def test_bfloat16_trains_too(manifest: Path) -> None:
    assert run(manifest, steps=40, precision="bfloat16").spec.training["final_loss"] < 0.4


# -------------------- norms


def norms_of(model: TrainedModel, ending: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.weights.items() if name.endswith(ending)}


def weights_file(folder: Path) -> Path:
    torch.save(random_network("test_resnet").state_dict(), folder / "start.pth")
    return folder / "start.pth"


def test_frozen_batch_norm_keeps_statistics_scales_and_shifts(manifest: Path, tmp_path: Path) -> None:
    start = random_network("test_resnet")
    model = run(manifest, steps=3, norm="frozen-batch", weights=str(weights_file(tmp_path)))
    before = start.state_dict()
    norms = {name for name, layer in start.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    for name, tensor in model.weights.items():
        if name.rpartition(".")[0] in norms:
            assert torch.equal(tensor, before[name]), name
    assert not torch.equal(model.weights["conv1.0.weight"], before["conv1.0.weight"])


def test_batch_norm_follows_its_statistics(manifest: Path, tmp_path: Path) -> None:
    model = run(manifest, steps=3, norm="batch", weights=str(weights_file(tmp_path)))
    before = random_network("test_resnet").state_dict()
    assert all(not torch.equal(tensor, before[name]) for name, tensor in norms_of(model, "running_mean").items())


@pytest.mark.parametrize("start", ["none", "file"])
def test_group_norm_has_no_statistics(start: str, manifest: Path, tmp_path: Path) -> None:
    weights = str(weights_file(tmp_path)) if start == "file" else "none"
    model = run(manifest, steps=1, norm="group", weights=weights)
    assert not norms_of(model, "running_mean")
    assert model.spec.norm == "group"


def test_weights_of_three_channels_and_a_thousand_classes_are_a_start(manifest: Path, tmp_path: Path) -> None:
    start = random_network("test_resnet", channels=3, classes=1000)
    torch.save(start.state_dict(), tmp_path / "w.pth")
    model = run(manifest, steps=1, learning_rate=1e-9, weights=str(tmp_path / "w.pth"), norm="frozen-batch")
    # Adam moves each weight by no more than the learning rate.
    assert torch.allclose(model.weights["conv1.0.weight"], start.state_dict()["conv1.0.weight"].sum(1, True), atol=1e-7)
    assert model.weights["fc.weight"].shape[0] == 1


# -------------------- the learning rate


def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    # 10 of 110 steps rise; after half of the other 100 the cosine is at its middle, and it ends near 0.
    found = [schedule(step, 110, 10 / 110) for step in (0, 4, 9, 10, 60, 109)]
    assert found == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))], abs=1e-12)
    assert schedule(0, 1, 0.05) == 1.0  # a single step is taken at the full rate
    values = np.diff([schedule(step, 110, 10 / 110) for step in range(110)])
    assert (values[:9] > 0).all()
    assert (values[10:] < 0).all()


def test_the_schedule_is_the_one_that_is_used(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "schedule", lambda step, steps, warmup: 0.0)
    still, more = run(manifest, steps=1), run(manifest, steps=3)
    for name in ("conv1.0.weight", "fc.weight"):
        assert torch.equal(still.weights[name], more.weights[name])


# -------------------- what cannot be done is said


@pytest.mark.parametrize("setting", [{"learning_rate": 1e30, "steps": 5}])
def test_a_loss_that_is_no_number(setting: dict[str, Any], manifest: Path) -> None:
    with pytest.raises(TonnoError, match=r"the loss is (nan|inf) at step \d; lower --learning-rate"):
        run(manifest, **setting)


def test_an_unreadable_volume_is_named(tmp_path: Path) -> None:
    manifest = write_toy_set(tmp_path)
    (tmp_path / "3.nii.gz").write_bytes((tmp_path / "3.nii.gz").read_bytes()[:500])
    with pytest.raises(TonnoError, match=r"3\.nii\.gz: truncated"):
        run(manifest)


def test_a_volume_that_the_window_leaves_empty_is_named(manifest: Path) -> None:
    with pytest.raises(TonnoError, match=r"[0-3]\.nii\.gz: after --intensity all of it equals"):
        run(manifest, intensity="window:5000:6000")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet10x"}, "'resnet10x' is not a timm model"),
        ({"weights": "absent.pth"}, r"absent\.pth: no such file"),
        ({"device": "tpu"}, "--device 'tpu' is unknown"),
    ],
)
def test_what_needs_no_volume_is_said_before_any_is_read(
    changes: dict[str, Any], message: str, manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "read_volume", lambda path: pytest.fail("a volume was read"))
    with pytest.raises(TonnoError, match=message):
        run(manifest, **changes)
