"""Training: an easy finding is learned, a seed repeats to the last bit, and what is frozen stays."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.utils import ModelEmaV3
from torch.utils._python_dispatch import TorchDispatchMode

from tests.networks import random_network
from tests.training.test_dataset import bright_ball
from tests.training.toy import SETTINGS, SPACING_MM, run_folder, same_weights, train_toy, write_rows, write_toy_set
from tonno_core.cohort.manifest import read_manifest
from tonno_core.distributed import ALONE, Processes
from tonno_core.encoding import convention as convention_module
from tonno_core.errors import TonnoError
from tonno_core.training import cache, dataset, descent, loop
from tonno_core.training import settings as settings_module
from tonno_core.training import train as training
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.course import Course
from tonno_core.training.dataset import SliceSampler
from tonno_core.training.model import training_precision
from tonno_core.training.steps import MovingAverage, schedule
from tonno_core.training.train import TrainedModel

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedModel:
    return train_toy(manifest, tmp_path_factory.mktemp("long") / "run", steps=60)


# -------------------- learning


def test_a_bright_lesion_is_learned_in_a_thousand_slices(trained: TrainedModel) -> None:
    record = trained.spec.training
    # Guessing gives a loss of ln 2 = 0.69; the lesion is three times as bright as the head.
    assert record["final_loss"] < 0.3
    # ... and so it is on two scans that were not trained on.
    assert record["validation"]["volume_auc"] == 1.0
    assert record["validation"]["slice_auc"] > 0.95


def test_the_record_says_what_was_done(trained: TrainedModel) -> None:
    spec, record = trained.spec, trained.spec.training
    assert (spec.encoder, spec.channels, spec.classes, spec.norm) == ("test_resnet", 1, ("finding",), "batch")
    assert (spec.slice_size, spec.intensity, spec.frame) == (32, "zscore", "physical")
    # The window of 31 pixels' width holds a head of 7 voxels' radius, and half a voxel's diagonal.
    assert spec.pixel_mm == pytest.approx(2 * (7 + math.sqrt(3) / 2) * SPACING_MM / 31, rel=0.05)
    assert record["settings"]["steps"] == 60
    assert record["settings"]["seed"] == 0
    counts = {"train": {"positive": 2, "negative": 2}, "val": {"positive": 1, "negative": 1}}
    assert record["volumes"] == {split: {"finding": count} for split, count in counts.items()}
    images = record["images"]  # of the four training scans: 16 voxels of 4 mm, a head of 7 voxels' radius
    assert (images["volumes"], images["intensity"], images["pixel_mm"]) == (4, "zscore", spec.pixel_mm)
    assert images["coarsest_spacing_mm"] == [4.0, 4.0]
    assert images["extent_mm"] == [64.0, 64.0]
    assert images["foreground_mm"] == pytest.approx([52.0, 52.0])  # between the outermost voxels' centres
    assert record["seconds"] >= record["seconds_in_steps"] > 0
    assert (record["processes"], record["threads"]) == (1, torch.get_num_threads())
    assert not any("/" in str(value) for value in record["settings"].values())  # no path, no name of a patient
    json.dumps(record, allow_nan=False)


def test_the_same_seed_gives_the_same_weights(manifest: Path, tmp_path: Path) -> None:
    once, again, other = (
        train_toy(manifest, tmp_path / str(run), steps=3, seed=seed).weights for run, seed in enumerate((5, 5, 6))
    )
    assert same_weights(once, again)
    assert not same_weights(once, other)


def test_only_the_volumes_of_train_and_val_are_read_and_no_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The toy set's masks are no images, and these cannot even be opened; here it is enough to look at one.
    manifest = write_toy_set(tmp_path / "toy", train=2, val=4)
    text = manifest.read_text().replace("p5,val", "p5,test")
    manifest.write_text(text)
    for mask in manifest.parent.glob("*-mask.nii.gz"):
        mask.chmod(0)
    opened = []

    def reading(original: Any, path: Path, **how: Any) -> Any:
        opened.append(path.name)
        return original(path, **how)

    for module in (cache, training):
        monkeypatch.setattr(module, "read_volume", partial(reading, module.read_volume))
    train_toy(manifest, tmp_path / "run", steps=3)
    assert set(opened) == {f"{i}.nii.gz" for i in range(5)}


def test_several_classes_are_learned_at_once(tmp_path: Path) -> None:
    # The first class shows as a lesion, the second does not show.
    rows = [f"{i % 2},{i // 2 % 2},{'train' if i < 8 else 'val'}" for i in range(12)]
    manifest = write_rows(tmp_path / "toy", "volume,label:lesion,label:other,split", rows)
    model = train_toy(manifest, tmp_path / "run", steps=60, classes=("lesion", "other"))
    assert model.spec.classes == ("lesion", "other")
    assert model.weights["fc.weight"].shape[0] == 2
    assert model.spec.training["volumes"]["val"]["other"] == {"positive": 2, "negative": 2}
    # The mean over both classes: 1 for the one that shows, and something for the other.
    assert model.spec.training["validation"]["volume_auc"] >= 0.5


def test_a_set_without_validation_has_no_auc(tmp_path: Path) -> None:
    record = train_toy(write_toy_set(tmp_path / "toy", train=2, val=0), tmp_path / "run", steps=3).spec.training
    assert "validation" not in record
    assert record["volumes"]["val"] == {"finding": {"positive": 0, "negative": 0}}


def test_the_normalized_frame_knows_no_millimetres(manifest: Path, tmp_path: Path) -> None:
    spec = train_toy(manifest, tmp_path / "run", steps=3, frame="normalized").spec
    assert (spec.frame, spec.pixel_mm) == ("normalized", None)


def test_a_pixel_size_that_was_asked_for(manifest: Path, tmp_path: Path) -> None:
    assert train_toy(manifest, tmp_path / "run", steps=3, pixel_mm=3.5).spec.pixel_mm == 3.5


def test_bfloat16_trains_too(manifest: Path, tmp_path: Path) -> None:
    model = train_toy(manifest, tmp_path / "run", steps=40, precision="bfloat16")
    assert model.spec.training["final_loss"] < 0.5


# -------------------- what stays as it is


def weights_file(folder: Path) -> str:
    torch.save(random_network("test_resnet").state_dict(), folder / "start.pth")
    return str(folder / "start.pth")


def changed(model: TrainedModel) -> set[str]:
    """Names of the tensors that are not the start's."""
    start = random_network("test_resnet").state_dict()
    return {name for name, tensor in model.weights.items() if not torch.equal(tensor, start[name])}


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_batch_norm_keeps_statistics_scales_and_shifts(ema: float, manifest: Path, tmp_path: Path) -> None:
    weights = weights_file(tmp_path)
    model = train_toy(manifest, tmp_path / "run", norm="frozen-batch", weights=weights, ema=ema)
    start = random_network("test_resnet")
    norms = {name for name, layer in start.named_modules() if isinstance(layer, torch.nn.BatchNorm2d)}
    kept = {name for name in model.weights if name.rpartition(".")[0] in norms}
    assert changed(model) == model.weights.keys() - kept


def test_batch_norm_follows_its_statistics(manifest: Path, tmp_path: Path) -> None:
    model = train_toy(manifest, tmp_path / "run", norm="batch", weights=weights_file(tmp_path))
    assert changed(model) == model.weights.keys()


@pytest.mark.parametrize("norm", ["batch", "frozen-batch"])
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_frozen_stages_keep_every_bit(norm: Any, ema: float, manifest: Path, tmp_path: Path) -> None:
    weights = weights_file(tmp_path)
    model = train_toy(manifest, tmp_path / "run", norm=norm, weights=weights, freeze=3, ema=ema)
    assert {name.partition(".")[0] for name in changed(model)} == {"layer3", "layer4", "fc"}


def test_group_norm_has_no_statistics(manifest: Path, tmp_path: Path) -> None:
    for name, weights in (("random", "none"), ("file", weights_file(tmp_path))):
        model = train_toy(manifest, tmp_path / name, steps=3, norm="group", weights=weights)
        assert not any(name.endswith("running_mean") for name in model.weights)
        assert model.spec.norm == "group"


def test_the_head_moves_farthest_and_each_stage_less_than_the_next(manifest: Path, tmp_path: Path) -> None:
    # Adam's first step moves every weight that has a gradient by its rate, to the ratio of its gradient to 1e-8.
    weights, start = weights_file(tmp_path), random_network("test_resnet").state_dict()
    options = {"norm": "frozen-batch", "stage_decay": 0.5, "steps": 1, "epochs": 1}
    model = train_toy(manifest, tmp_path / "run", weights=weights, **options)
    names = ["conv1.0", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.0.conv1", "fc"]
    moves = [float((model.weights[f"{n}.weight"] - start[f"{n}.weight"]).abs().max()) for n in names]
    # float32 of weights up to 1 has steps of 1e-7.
    assert moves == pytest.approx([1e-3 * 0.5**power for power in (5, 4, 3, 2, 1, 0)], rel=0.02)


def test_the_moving_average_is_the_mean_of_the_weights_so_far(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    original = loop.Trainer._step

    def watched(self: loop.Trainer, *arguments: Any) -> Any:
        result = original(self, *arguments)
        seen.append(self.model.state_dict()["fc.weight"].clone())
        return result

    monkeypatch.setattr(loop.Trainer, "_step", watched)
    average = train_toy(manifest, tmp_path / "run", steps=6, ema=0.5).weights["fc.weight"]
    expected = seen[0]
    for step, weight in enumerate(seen[1:], start=1):
        # timm's warm-up: 1 - (1 + t)^(-2/3) until that passes the decay, where t counts from the step after the first.
        decay = min(0.5, 1 - step ** (-2 / 3)) if step > 1 else 0.0
        expected = decay * expected + (1 - decay) * weight
    assert torch.allclose(average, expected, rtol=1e-5, atol=1e-7)  # float32
    assert not torch.equal(average, seen[-1])


def test_the_moving_average_is_timm_s_to_the_last_bit() -> None:
    model = random_network("test_resnet")
    ours, timms = MovingAverage(model, 0.9), ModelEmaV3(model, decay=0.9, use_warmup=True)
    for step in range(5):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(torch.randn(tensor.shape) if tensor.is_floating_point() else 1)
        ours.update(step)
        timms.update(model, step=step)
    assert same_weights(ours.module.state_dict(), timms.module.state_dict())


# -------------------- what a device has to do


class Calls(TorchDispatchMode):
    """Counts torch's operations, and those for which a host waits."""

    WAITS = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    @property
    def waits(self) -> list[str]:
        return [name for name in self.names if name in self.WAITS]


@pytest.mark.parametrize("convention", [{}, {"intensity": "window:0:300", "weights": "imagenet"}])
def test_a_step_waits_for_nothing_and_adds_little_to_the_network(
    convention: dict[str, str], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "initial_model", lambda settings: random_network("test_resnet"))
    monkeypatch.setattr(convention_module, "timm_statistics", lambda *arguments: ((0.5,), (0.25,)))
    monkeypatch.setattr(settings_module, "timm_statistics", lambda *arguments: ((0.5,), (0.25,)))
    # The optimizer and the batch of a GPU: one operation for all weights of a stage; two launches of kernels.
    adam = torch.optim.Adam
    monkeypatch.setattr(torch.optim, "Adam", lambda groups, lr, fused: adam(groups, lr, fused=True))
    settings = replace(SETTINGS, ema=0.9, **convention)
    volumes = [bright_ball(1.0 + number, number % 2) for number in range(4)]
    trainer = loop.Trainer(settings, volumes, [], run_folder(manifest, tmp_path / "run"), ALONE, progress=False)
    batch = trainer._sampler.draw(0, 4, 4)
    trainer.model.train()
    trainer._step(0, batch)  # the optimizer makes its state
    with Calls() as whole:
        trainer._step(1, batch)
    with Calls() as network:
        torch.nn.functional.binary_cross_entropy_with_logits(trainer._network(batch.slices), batch.labels).backward()
    assert whole.waits == []
    # The optimizer has two operations for each stage, the average two; a detached gradient is only another name for it.
    beside = Counter(name for name in whole.names if "record_function" not in name) - Counter(network.names)
    del beside["detach"]
    assert beside.total() <= len(trainer.descent.optimizer.param_groups) * 2 + 2, beside


def test_drawing_on_a_gpu_waits_for_nothing_and_launches_two_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[tuple[int, ...]] = []

    class Kernel:
        """In place of `training.kernel`, whose launches are no operations of torch."""

        @staticmethod
        def random_slices(volumes: Any, affines: np.ndarray, fills: Any, pixels: int, *changes: Any) -> torch.Tensor:
            launched.append(affines.shape)
            return torch.empty(*affines.shape[:2], pixels, pixels)

    monkeypatch.setattr(dataset.kernels, "load", lambda *arguments: Kernel)
    volumes = [bright_ball(1.0 + number, number % 2) for number in range(4)]
    sampler = SliceSampler(volumes, 16, Augmentation(), 0, torch.device("cpu"), 2**30)
    for step in range(4):
        sampler.draw(step, 8, 4)
    launched.clear()
    with Calls() as calls:
        sampler.draw(9, 32, 8)
    assert launched == [(32, 8, 3, 3)]
    assert calls.waits == []
    assert len(calls.names) <= 6, calls.names  # labels to the device; the slices, and the two first axes as one


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_not_waited_for(manifest: Path, tmp_path: Path) -> None:
    cuda = torch.device("cuda")
    volumes = [bright_ball(1.0 + number, number % 2) for number in range(4)]
    settings = replace(SETTINGS, device="cuda", precision="auto", ema=0.9)
    processes = Processes(0, 1, cuda)
    trainer = loop.Trainer(settings, volumes, [], run_folder(manifest, tmp_path / "run"), processes, progress=False)
    trainer.model.train()
    for step in range(3):
        trainer._step(step, trainer._sampler.draw(step, 4, 4))
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [trainer._step(step, trainer._sampler.draw(step, 4, 4)) for step in range(3, 8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(math.isfinite(float(loss)) for loss in losses)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_lesion_is_learned_on_a_gpu(manifest: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, device="cuda", precision="auto", steps=60)
    folder = run_folder(manifest, tmp_path / "run", device="cuda", precision="auto", steps=60)
    processes = Processes(0, 1, torch.device("cuda"))
    model = training.train(read_manifest(manifest), settings, folder, processes, progress=False)
    assert model.spec.training["final_loss"] < 0.4
    assert model.spec.training["validation"]["volume_auc"] == 1.0


def test_losses_are_looked_at_every_few_steps_and_before_every_checkpoint(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_toy(manifest, tmp_path / "each", steps=10, epochs=2)
    looks: list[int] = []
    original = Course._look

    def watched(self: Course[Any]) -> None:
        looks.append(self.at.step)
        original(self)

    def lagging(self: Course[Any], *arguments: Any) -> None:
        create(self, *arguments)
        self._look_every = 3

    create = Course.__init__
    monkeypatch.setattr(Course, "__init__", lagging)
    monkeypatch.setattr(Course, "_look", watched)
    model = train_toy(manifest, tmp_path / "run", steps=10, epochs=2)
    assert looks == [3, 5, 8, 10]
    assert same_weights(model.weights, expected.weights)
    assert model.spec.training["final_loss"] == expected.spec.training["final_loss"]
    looks.clear()
    with pytest.raises(TonnoError, match=r"^the loss is (nan|inf) at step \d+, on slices of [0-3]\.nii\.gz"):
        train_toy(manifest, tmp_path / "bad", learning_rate=1e30, steps=10, epochs=2)
    assert not (tmp_path / "bad" / "checkpoint.pt").exists()


def test_float16_is_scaled_and_goes_on_with_its_scale(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "training_precision", lambda name, device: torch.float16)
    model = train_toy(manifest, tmp_path / "run", steps=40)
    # Guessing gives 0.69; a float16 of unscaled gradients would learn as well here, but lose small ones.
    assert model.spec.training["final_loss"] < 0.5
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["scaler"]["scale"] > 1
    assert train_toy(manifest, tmp_path / "run", steps=40).weights.keys() == model.weights.keys()


def test_a_compiled_network_learns_the_same(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = train_toy(manifest, tmp_path / "plain", steps=3)
    # Traced, and run by torch's plain operations: the compiler itself would take a minute.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    model = train_toy(manifest, tmp_path / "run", steps=3, compiled=True)
    for name, tensor in model.weights.items():
        # Adam turns the rounding of a gradient near zero into a step of the learning rate at most.
        assert torch.allclose(tensor, expected.weights[name], rtol=0, atol=3e-3), name


def test_a_network_that_cannot_be_compiled_is_said(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(module: Any, inputs: Any) -> Any:
        raise ValueError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(
        TonnoError, match=r"^`compiled`: torch\.compile does not work for this network here \(.*\)"
    ) as caught:
        train_toy(manifest, tmp_path / "run", steps=3, compiled=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("capability", "name", "expected"),
    [((7, 5), "auto", torch.float16), ((9, 0), "auto", torch.bfloat16), ((7, 5), "float32", torch.float32),
     ((7, 5), "bfloat16", torch.bfloat16), (None, "float16", torch.bfloat16)],
)  # fmt: skip
def test_the_precision_is_what_the_gpu_has_units_for(
    capability: tuple[int, int] | None, name: str, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    device = torch.device("cpu" if capability is None else "cuda")
    assert training_precision(name, device) == expected


# -------------------- the learning rate


def test_the_schedule_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    # 10 of 110 steps rise; after half of the other 100 the cosine is at its middle, and it ends near 0.
    factors = [schedule(step, 110, 10 / 110) for step in (0, 4, 9, 10, 60, 109)]
    assert factors == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))], abs=1e-12)
    assert schedule(0, 1, 0.05) == 1.0  # a single step is taken at the full rate
    values = np.diff([schedule(step, 110, 10 / 110) for step in range(110)])
    assert (values[:9] > 0).all()
    assert (values[10:] < 0).all()


def test_the_schedule_is_the_one_that_is_used(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "schedule", lambda step, steps, warmup: 0.0)
    still, more = (train_toy(manifest, tmp_path / str(steps), steps=steps).weights for steps in (3, 6))
    for name in ("conv1.0.weight", "fc.weight"):
        assert torch.equal(still[name], more[name])


# -------------------- what cannot be done is said


def test_a_loss_that_is_no_number_names_the_batchs_files(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TonnoError) as caught:
        train_toy(manifest, tmp_path / "run", learning_rate=1e30, steps=5)
    message = str(caught.value)
    assert message.startswith(("the loss is nan at step ", "the loss is inf at step "))
    files = message.partition("slices of ")[2].partition(";")[0].split(", ")
    assert set(files) <= {f"{i}.nii.gz" for i in range(4)}
    assert files
    assert "; lower `learning_rate`, try `precision` float32, or look at these volumes" in message


def test_the_checkpoint_before_a_loss_that_is_no_number_is_sound(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop.SliceSampler.draw

    def broken(self: Any, step: int, *arguments: Any, **options: Any) -> Any:
        batch = original(self, step, *arguments, **options)
        if step == 3:
            batch.slices.fill_(math.nan)
        return batch

    monkeypatch.setattr(loop.SliceSampler, "draw", broken)
    with pytest.raises(TonnoError, match="the loss is nan at step 3"):
        train_toy(manifest, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["step"] == 2  # the end of the first of three epochs
    assert all(tensor.isfinite().all() for tensor in state["model"].values())


def test_a_volume_that_the_window_leaves_empty_is_named(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"[0-3]\.nii\.gz: after `intensity` all of it equals"):
        train_toy(manifest, tmp_path / "run", intensity="window:5000:6000")
