"""Rounds of training: what is learned, and that a run which was interrupted goes on to the same bits."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.distillation.toy import SETTINGS, distill_toy, known, untrained
from tests.training.toy import same_weights, toy_scan, write_rows, write_toy_set
from tonno_core.bundle.file import Bundle
from tonno_core.cohort.manifest import read_manifest
from tonno_core.distillation import loop, volumes
from tonno_core.distillation.distill import Segmenter
from tonno_core.distillation.pseudo_mask import FINDING
from tonno_core.distillation.teacher import Heatmaps
from tonno_core.errors import TonnoError
from tonno_core.segmentation.metrics import dice
from tonno_core.segmenter.segmenter import Segmenter as Segmenter3D
from tonno_core.segmenter.with_monai import build_network
from tonno_core.training import cache
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.volume.io import read_volume

pytestmark = pytest.mark.usefixtures("no_curves")
# After three steps a network has hardly moved: its first answer is taken for more than it is.
OWN = {"prior": 0.5, "own_finding": 0.4, "own_background": 0.1}
CHANGES: dict[str, Any] = {"rounds": 2, "steps": 3, "epochs": 2, "ema": 0.9, **OWN}
MEASURED = ("round", "epoch", "step", "loss", "voxel_loss", "dice_loss", "volume_loss", "validation_loss", "agreement")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return untrained(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def whole(manifest: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, list[Any]]:
    """A run of two rounds that nothing disturbs, and its metrics."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return distill_toy(manifest, run, bundle, **CHANGES), metrics(run)


def metrics(run: Path) -> list[list[str]]:
    """What ``metrics.csv`` holds, but for the times."""
    with (run / "metrics.csv").open(newline="") as file:
        return [[row[name] for name in MEASURED] for row in csv.DictReader(file)]


def lesion(index: int) -> npt.NDArray[np.bool_]:
    """Where the lesion of a toy scan is."""
    return toy_scan(index, 1).array > 200.0  # a head of 100 with noise of 10, and 200 more


def in_step(monkeypatch: pytest.MonkeyPatch, number: int, event: Callable[[], None]) -> None:
    """Have something happen within one step, counted over all rounds."""
    original, count = loop.Trainer._step, [0]

    def watched(self: loop.Trainer, *arguments: Any) -> Any:
        if count[0] == number:
            event()
        count[0] += 1
        return original(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", watched)


def test_a_lesion_is_learned_from_its_core(manifest: Path, bundle: Bundle, tmp_path: Path) -> None:
    made = distill_toy(manifest, tmp_path / "run", bundle, steps=40, epochs=1, learning_rate=1e-2, ema=0.9)
    validation = made.training["validation"]
    assert validation["agreement"] > 0.7  # on a scan that it does not learn from; the lesion is thrice as bright
    assert validation["volume_auc"] == 1.0
    record = made.thresholds["segmenter"]
    assert record["negative_volumes"] == 1
    # It finds more of the lesion than the core that its teacher is sure of, at a threshold that no mask chose.
    network = build_network(made.network, 1)
    network.load_state_dict(made.weights)
    segmenter = Segmenter3D(network, ("finding",), made.network, bundle.spec.intensity)
    volume = read_volume(manifest.parent / "5.nii.gz")
    mask = segmenter.answer(volume)[0].numpy() >= record["threshold"]
    truth, core = lesion(5), known((5, read_manifest(manifest).cases[5]), made.network)[0].numpy() == FINDING
    assert dice(mask, truth) > dice(core.repeat(2, 0).repeat(2, 1).repeat(2, 2), truth)
    record = made.training
    assert record["taught_by"] == "heatmaps"
    assert record["volumes"]["train"] == {"finding": {"positive": 2, "negative": 2}}
    assert record["teacher"]["sha256"] == bundle.spec.sha256
    assert not any("/" in str(value) for value in record["settings"].values())  # no path, no name of a patient


def test_the_same_seed_gives_the_same_weights(
    manifest: Path, bundle: Bundle, whole: tuple[Segmenter, list[Any]], tmp_path: Path
) -> None:
    again = distill_toy(manifest, tmp_path / "again", bundle, **CHANGES)
    assert same_weights(again.weights, whole[0].weights)
    other = distill_toy(manifest, tmp_path / "other", bundle, **{**CHANGES, "seed": 1, "rounds": 1, "epochs": 1})
    assert not same_weights(other.weights, whole[0].weights)


@pytest.mark.parametrize("number", [0, 2, 3, 5], ids=["first", "end of round 1", "round 2", "last"])
def test_a_run_that_is_interrupted_goes_on_to_the_same_bits(
    number: int, manifest: Path, bundle: Bundle, whole: tuple[Segmenter, list[Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        in_step(patch, number, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted) as caught:
            distill_toy(manifest, run, bundle, **CHANGES)
    assert str(caught.value) == (
        f"interrupted after step {number % 3 + 1} of 3 of round {number // 3 + 1} of 2; {run / 'checkpoint.pt'} holds "
        "it, the same command with `resume` goes on"
    )
    resumed = distill_toy(manifest, run, bundle, **CHANGES)
    assert same_weights(resumed.weights, whole[0].weights)
    assert resumed.thresholds == whole[0].thresholds
    assert metrics(run) == whole[1]


def test_a_crash_goes_on_from_the_last_epoch(
    manifest: Path, bundle: Bundle, whole: tuple[Segmenter, list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("power cut")

    for number in (2, 1, 1):  # in both rounds
        with monkeypatch.context() as patch, pytest.raises(OSError, match="power cut"):
            in_step(patch, number, fail)
            distill_toy(manifest, tmp_path / "run", bundle, **CHANGES)
    resumed = distill_toy(manifest, tmp_path / "run", bundle, **CHANGES)
    assert same_weights(resumed.weights, whole[0].weights)
    assert metrics(tmp_path / "run") == whole[1]


def test_a_run_that_goes_on_keeps_its_windows(
    manifest: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another device it would choose others by the memory there."""
    changes = {"steps": 3, "epochs": 1}
    whole = distill_toy(manifest, tmp_path / "whole", bundle, **changes)
    assert whole.network.patch == (8, 8, 8)
    with monkeypatch.context() as patch:
        in_step(patch, 1, lambda: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(TrainingInterrupted):
            distill_toy(manifest, tmp_path / "run", bundle, **changes)
    monkeypatch.setattr(volumes, "_VOXELS", {"cpu": 2**8})
    monkeypatch.setattr(volumes, "_LEAST_SIDE", 2)
    assert distill_toy(manifest, tmp_path / "other", bundle, **changes).network.patch != whole.network.patch
    resumed = distill_toy(manifest, tmp_path / "run", bundle, **changes)
    assert resumed.network == whole.network
    assert same_weights(resumed.weights, whole.weights)


def test_a_complete_run_has_nothing_left_to_do(
    manifest: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = distill_toy(manifest, tmp_path / "run", bundle)
    monkeypatch.setattr(loop.Trainer, "_step", lambda *arguments: pytest.fail("a step was taken"))
    assert same_weights(distill_toy(manifest, tmp_path / "run", bundle).weights, first.weights)


def test_only_the_volumes_of_train_and_val_are_read_and_no_mask(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The toy set's masks are no images, and these cannot even be opened.
    manifest = write_toy_set(tmp_path / "toy", train=2, val=4)
    manifest.write_text(manifest.read_text().replace("p5,val", "p5,test"))
    for mask in manifest.parent.glob("*-mask.nii.gz"):
        mask.chmod(0)
    opened = []
    original = cache.read_volume
    monkeypatch.setattr(cache, "read_volume", lambda path, **how: opened.append(path.name) or original(path, **how))
    distill_toy(manifest, tmp_path / "run", bundle, steps=1, epochs=1)
    assert set(opened) == {f"{i}.nii.gz" for i in range(5)}


def test_two_classes_have_an_output_each(tmp_path: Path) -> None:
    rows = [f"{i % 2},{i // 2 % 2},{'train' if i < 4 else 'val'}" for i in range(6)]
    manifest = write_rows(tmp_path / "toy", "volume,label:lesion,label:other,split", rows)
    bundle = untrained(tmp_path, ("lesion", "other"))
    made = distill_toy(manifest, tmp_path / "run", bundle, steps=2, epochs=1)
    assert made.weights["conv_final.2.conv.weight"].shape[0] == 2
    assert set(made.thresholds) == {"segmenter", "segmenter/other"}


def test_a_teacher_that_shows_nothing_is_refused(manifest: Path, bundle: Bundle, tmp_path: Path) -> None:
    def nothing(numbered: Any, network: Any) -> torch.Tensor:
        return torch.zeros(1, 8, 8, 8, dtype=torch.uint8)

    said = r"^the heatmaps show no finding in any volume of split train that has label 1 of it"
    with pytest.raises(TonnoError, match=rf"{said}, or stay below .* `trust` 0 takes them as they are"):
        distill_toy(manifest, tmp_path / "run", bundle, label=nothing)
    with pytest.raises(TonnoError, match=rf"{said}; .*\? Learn from another `method`"):  # trust 0 is no advice then
        distill_toy(manifest, tmp_path / "other", bundle, label=nothing, trust=0.0)


def test_only_volumes_whose_heatmaps_reach_the_thresholds_teach(
    manifest: Path, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distillation = importlib.import_module("tonno_core.distillation.distill")
    least, load = {1: 0.5, 3: 2.0, 5: 2.0}, distillation.load_heatmaps  # thresholds by volume, in units of its peaks

    def with_thresholds(files: Any, number: int, name: str) -> Heatmaps:
        made = load(files, number, name)
        return dataclasses.replace(made, thresholds=tuple(least[number] * peak for peak in made.peaks))

    monkeypatch.setattr(distillation, "load_heatmaps", with_thresholds)
    made = distill_toy(manifest, tmp_path / "run", bundle, label=None)
    assert made.training["shown"] == {"finding": 1}
    assert made.training["volumes"]["train"] == {"finding": {"positive": 2, "negative": 2}}
    assert distill_toy(manifest, tmp_path / "all", bundle, label=None, trust=0.0).training["shown"] == {"finding": 2}
    least[1] = 2.0
    with pytest.raises(TonnoError, match=r"^the heatmaps show no finding .* below the model's thresholds.*`trust` 0"):
        distill_toy(manifest, tmp_path / "none", bundle, label=None)


def test_a_loss_that_is_no_number_names_the_volumes(manifest: Path, bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"^the loss is (nan|inf) at step \d, on patches of \d\.nii\.gz, \d\.nii\.gz;"):
        distill_toy(manifest, tmp_path / "run", bundle, learning_rate=1e30, warmup=0.0)


def test_few_planes_are_learned_in_float32_on_a_cpu(manifest: Path, bundle: Bundle, tmp_path: Path) -> None:
    """With two planes on a level gradients in bfloat16 come from memory that nobody wrote, which rarely shows."""
    made = [
        distill_toy(manifest, tmp_path / precision, bundle, patch=(8, 8, 4), precision=precision)
        for precision in ("float32", "bfloat16")
    ]
    assert same_weights(made[0].weights, made[1].weights)
    assert made[1].training["precision"] == "float32"


@pytest.mark.parametrize("planes", [1, 3, 4, 6, 8, 12])
def test_gradients_in_bfloat16_are_those_of_float32(planes: int) -> None:
    """At all numbers of planes that networks meet but two, and in memory full of what is no number."""
    torch.manual_seed(planes)
    image, weights = torch.randn(2, 16, planes, 6, 6), torch.randn(16, 16, 3, 3, 3, requires_grad=True)
    for attempt in range(4):
        junk = [torch.full((2**power,), torch.nan) for power in range(4, 18) for _ in range(attempt + 1)]
        del junk
        gradients = []
        for reduced in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
                answer = torch.nn.functional.conv3d(image, weights, padding=1)
            torch.autograd.backward(answer.float().square().sum())
            assert weights.grad is not None
            gradients.append(weights.grad.clone())
            weights.grad = None
        # bfloat16 has 8 bits: 0.4 % of each number that is multiplied, and of the answer that is squared.
        assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("nothing",)}, r"^`methods` is nothing, expected one of tonno, "),
        (
            {"finding": 0.1},
            r"^`finding` is 0\.1, expected a number not below that of `background`, 0\.2; both above 0$",
        ),
        ({"volumes_per_batch": 3}, r"^`volumes_per_batch` is 3, expected an even number: half without a finding$"),
        ({"epochs": 6}, r"^`epochs` is 6, expected at most one for each of the 5 `steps`; give both$"),
        ({"learning_rate": 0.0}, r"^`learning_rate` is 0\.0, expected a number between 0 and 10$"),
        ({"ema": 1.0}, r"^`ema` is 1\.0, expected a number from 0 to below 1$"),
        ({"robustness": 0.0}, r"^`robustness` is 0\.0, expected a number above 0, at most 1$"),
        ({"mirrored": "RX"}, r"^`mirrored` is 'RX', expected some of the letters R, A and S, or none$"),
        ({"trust": -1.0}, r"^`trust` is -1\.0, expected a number from 0$"),
        ({"robust_ramp": 1.5}, r"^`robust_ramp` is 1\.5, expected a share from 0 to 1$"),
        ({"own_finding": 1.0}, r"^`own_finding` is 1\.0, expected a share below 1$"),
        ({"voxel_weight": 0.0, "dice_weight": 0.0}, r"^`voxel_weight` is 0, as that of the Dice, expected one of them"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    from dataclasses import replace

    SETTINGS.check()
    with pytest.raises(TonnoError, match=message):
        replace(SETTINGS, **changes).check()


def test_long_gradients_are_cut_off(manifest: Path, bundle: Bundle, tmp_path: Path) -> None:
    norms: list[float] = []

    def watched(optimizer: torch.optim.Optimizer, arguments: Any, keywords: Any) -> None:
        gradients = [each.grad for group in optimizer.param_groups for each in group["params"] if each.grad is not None]
        norms.append(float(torch.stack([each.norm() for each in gradients]).norm()))

    handle = register_optimizer_step_pre_hook(watched)
    try:
        distill_toy(manifest, tmp_path / "run", bundle, steps=2, epochs=1, dice_weight=100.0)
    finally:
        handle.remove()
    # A hundred times the Dice has gradients far above 1; torch divides by the norm plus 1e-6.
    assert norms == pytest.approx([1.0, 1.0], abs=1e-4)
