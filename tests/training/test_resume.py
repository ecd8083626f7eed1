"""A run that was interrupted, wherever, goes on to the same bits as one that was not."""

from __future__ import annotations

import csv
import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.toy import run_folder, same_weights, train_toy, write_toy_set
from tonno_core.encoding.weights import read_weights
from tonno_core.errors import TonnoError
from tonno_core.training import loop
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.training.train import TrainedModel

pytestmark = pytest.mark.usefixtures("no_curves")
STEPS, EPOCHS = 5, 2  # which end after 2 and 5
MEASURED = ("epoch", "step", "loss", "learning_rate", "validation_loss", "slice_auc", "volume_auc")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_set(tmp_path_factory.mktemp("toy"))


Whole = tuple[dict[str, Any], TrainedModel, list[list[str]]]


@pytest.fixture(scope="module")
def wholes(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[float, Whole]:
    """Uninterrupted runs by their average's decay: settings, model and metrics."""
    runs = {}
    for ema in (0.0, 0.9):
        folder, changes = tmp_path_factory.mktemp("whole") / "run", {"ema": ema, "steps": STEPS, "epochs": EPOCHS}
        runs[ema] = changes, train_toy(manifest, folder, **changes), metrics(folder)
    return runs


@pytest.fixture
def whole(wholes: dict[float, Whole]) -> Whole:
    """The run with a moving average, of which more must be kept."""
    return wholes[0.9]


def metrics(folder: Path) -> list[list[str]]:
    """What ``metrics.csv`` holds, but for the times."""
    with (folder / "metrics.csv").open(newline="") as file:
        return [[row[name] for name in MEASURED] for row in csv.DictReader(file)]


def in_step(monkeypatch: pytest.MonkeyPatch, step: int, event: Callable[[], None]) -> None:
    """Have something happen within one step of the training, once."""
    original, pending = loop.Trainer._step, [event]

    def watched(self: loop.Trainer, number: int, *arguments: Any) -> Any:
        if number == step and pending:
            pending.pop()()
        return original(self, number, *arguments)

    monkeypatch.setattr(loop.Trainer, "_step", watched)


def check(manifest: Path, run: Path, whole: Whole) -> None:
    """Going on from there gives what the uninterrupted run gave."""
    changes, model, expected = whole
    resumed = train_toy(manifest, run, **changes)
    assert same_weights(resumed.weights, model.weights)
    assert metrics(run) == expected
    for name in ("final_loss", "validation"):
        assert resumed.spec.training[name] == model.spec.training[name]


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("step", range(STEPS))
def test_ctrl_c_in_any_step(
    step: int, ema: float, wholes: dict[float, Whole], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "run", wholes[ema]
    in_step(monkeypatch, step, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(TrainingInterrupted) as caught:
        train_toy(manifest, run, **whole[0])
    assert str(caught.value) == (
        f"interrupted after step {step + 1} of {STEPS}; {run / 'checkpoint.pt'} holds it, "
        "the same command with `resume` goes on"
    )
    assert torch.load(run / "checkpoint.pt", weights_only=True)["step"] == step + 1
    check(manifest, run, whole)


@pytest.mark.parametrize("step", range(STEPS))
def test_a_crash_in_any_step_goes_on_from_the_last_epoch(
    step: int, whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def fail() -> None:
        raise PowerCut

    in_step(monkeypatch, step, fail)
    with pytest.raises(PowerCut):
        train_toy(manifest, tmp_path / "run", **whole[0])
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    assert checkpoint.exists() == (step >= 2)
    if checkpoint.exists():
        assert torch.load(checkpoint, weights_only=True)["step"] == 2
    check(manifest, tmp_path / "run", whole)


def test_interrupted_again_and_again(
    whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(STEPS):
        with monkeypatch.context() as patch:
            in_step(patch, step, lambda: signal.raise_signal(signal.SIGTERM))
            with pytest.raises(TrainingInterrupted):
                train_toy(manifest, tmp_path / "run", **whole[0])
    check(manifest, tmp_path / "run", whole)


@pytest.mark.parametrize("epoch", [1, EPOCHS])
def test_ctrl_c_while_validating(
    epoch: int, whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = loop.validate, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == epoch:
            signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)
    with pytest.raises(TrainingInterrupted):
        train_toy(manifest, tmp_path / "run", **whole[0])
    check(manifest, tmp_path / "run", whole)


def test_a_second_ctrl_c_ends_at_once(
    whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    in_step(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        train_toy(manifest, tmp_path / "run", **whole[0])
    check(manifest, tmp_path / "run", whole)


def test_handlers_of_signals_are_given_back(whole: Whole, manifest: Path, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    train_toy(manifest, tmp_path / "run", **whole[0])
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_complete_run_has_nothing_left_to_do(
    whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_toy(manifest, tmp_path / "run", **whole[0])
    monkeypatch.setattr(loop.Trainer, "_step", lambda *arguments: pytest.fail("a step was taken"))
    check(manifest, tmp_path / "run", whole)


def test_units_that_are_dropped_are_the_same_after_going_on(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch's own generator is set anew for each step, whatever was drawn from it before.
    original = loop.initial_model

    def dropping(settings: Any) -> Any:
        model = original(settings)
        model.drop_rate = 0.5
        model.global_pool.register_forward_hook(lambda m, i, out: torch.nn.functional.dropout(out, 0.5, m.training))
        return model

    monkeypatch.setattr(loop, "initial_model", dropping)
    expected = train_toy(manifest, tmp_path / "whole").weights
    with monkeypatch.context() as patch:
        in_step(patch, 2, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(TrainingInterrupted):
            train_toy(manifest, tmp_path / "run")
    torch.rand(7)
    assert same_weights(train_toy(manifest, tmp_path / "run").weights, expected)


@pytest.mark.parametrize("fused_first", [True, False])
def test_a_run_goes_on_with_the_optimizer_of_its_device(
    fused_first: bool, whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adam, made = torch.optim.Adam, []

    def optimizer(groups: Any, lr: float, fused: bool | None) -> torch.optim.Adam:
        made.append(adam(groups, lr, fused=True if fused_first == (len(made) == 0) else None))
        return made[-1]

    monkeypatch.setattr(torch.optim, "Adam", optimizer)
    changes, model, _ = whole
    with monkeypatch.context() as patch:
        in_step(patch, 3, lambda: signal.raise_signal(signal.SIGINT))
        with pytest.raises(TrainingInterrupted):
            train_toy(manifest, tmp_path / "run", **changes)
    weights = train_toy(manifest, tmp_path / "run", **changes).weights
    assert [optimizer.param_groups[0]["fused"] for optimizer in made] == ([True, None] if fused_first else [None, True])
    for name, tensor in weights.items():
        # Adam turns the rounding of a gradient near zero into a step of the learning rate at most.
        assert torch.allclose(tensor, model.weights[name], rtol=0, atol=STEPS * 1e-3), name


def test_a_checkpoint_is_a_weights_file_of_the_averaged_weights(whole: Whole, manifest: Path, tmp_path: Path) -> None:
    model = train_toy(manifest, tmp_path / "run", **whole[0])
    assert same_weights(read_weights(tmp_path / "run" / "checkpoint.pt"), model.weights)


def test_a_checkpoint_that_does_not_fit_is_said(manifest: Path, tmp_path: Path) -> None:
    folder = run_folder(manifest, tmp_path / "run")
    folder.save({"model": {"w": torch.ones(1)}, "step": 1})
    with pytest.raises(TonnoError, match=r"checkpoint\.pt: does not fit this run \(.*\); give `overwrite`") as caught:
        train_toy(manifest, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_epochs_are_not_lost_from_the_metrics(whole: Whole) -> None:
    fields = {field.name for field in dataclasses.fields(loop.Epoch)}
    assert set(MEASURED) < fields
    assert [row[:2] for row in whole[2]] == [["1", "2"], ["2", "5"]]


def test_killed_between_an_epochs_measurements_and_its_checkpoint(
    whole: Whole, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last epoch's line is there in the end, whichever of the two is written first."""
    run, original, calls = tmp_path / "run", loop.write_history, []

    def killed(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == EPOCHS:
            raise SystemError("killed")
        original(*arguments)

    monkeypatch.setattr(loop, "write_history", killed)
    with pytest.raises(SystemError):
        train_toy(manifest, run, **whole[0])
    monkeypatch.setattr(loop, "write_history", original)
    check(manifest, run, whole)
