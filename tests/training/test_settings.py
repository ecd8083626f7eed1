"""Settings of training: what cannot be meant is said with its option."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from tonno_core.errors import TonnoError
from tonno_core.training import settings
from tonno_core.training.settings import TrainingSettings, batch_on, complete_settings


def test_the_standard_settings_can_be_meant() -> None:
    TrainingSettings().check()
    TrainingSettings(pixel_mm=0.5, warmup=0.0, ema=0.99, stage_decay=0.5, freeze=2, intensity="window:-10:90").check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intensity": "log"}, "`intensity` 'log': expected none, zscore or window:LO:HI"),
        ({"pixel_mm": 0.0}, "`pixel_mm` is 0.0, expected millimeters between 0 and 100"),
        ({"pixel_mm": math.inf}, "`pixel_mm` is inf, expected millimeters"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0.0, expected a number between 0 and 10"),
        ({"learning_rate": math.nan}, "`learning_rate` is nan"),
        ({"stage_decay": 0.0}, "`stage_decay` is 0.0, expected a number above 0, at most 1"),
        ({"stage_decay": 1.1}, "`stage_decay` is 1.1"),
        ({"ema": 1.0}, "`ema` is 1.0, expected a number from 0 to below 1"),
        ({"ema": -0.1}, "`ema` is -0.1"),
        ({"warmup": 1.0}, "`warmup` is 1.0, expected a share from 0 to below 1"),
        ({"steps": 0}, "`steps` is 0, expected a whole number from 1"),
        ({"epochs": 0}, "`epochs` is 0, expected a whole number from 1"),
        ({"steps": 3, "epochs": 4}, "`epochs` is 4, expected at most one for each of the 3 `steps`; give both"),
        ({"slices_per_volume": 0}, "`slices_per_volume` is 0, expected a whole number from 1"),
        ({"volumes_per_batch": 3}, "`volumes_per_batch` is 3, expected an even number: half without a finding"),
        ({"volumes_per_batch": 0}, "`volumes_per_batch` is 0, expected an even number"),
        ({"bag": -0.1}, "`bag` is -0.1, expected a share from 0 to 1"),
        ({"bag": 1.5}, "`bag` is 1.5"),
        ({"bag": math.nan}, "`bag` is nan"),
        ({"rounds": 3}, "`rounds` is 3, expected 1 or 2"),
        ({"rounds": 0}, "`rounds` is 0"),
        ({"rounds": 2, "epochs": 1}, "`rounds` is 2, expected at most one per epoch, 1"),
        ({"freeze": -1}, "`freeze` is -1, expected a whole number from 0"),
    ],
)
def test_what_cannot_be_meant(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TonnoError) as caught:
        replace(TrainingSettings(), **changes).check()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "norm", "decay"),
    [
        ({}, "batch", 1.0),
        ({"weights": "start.pth"}, "frozen-batch", 0.7),
        ({"weights": "imagenet"}, "frozen-batch", 0.7),
        ({"weights": "start.pth", "norm": "group", "stage_decay": 1.0}, "group", 1.0),
    ],
)
def test_pretrained_weights_freeze_the_batch_norm_and_slow_the_stages_unless_told_otherwise(
    options: dict[str, Any], norm: str, decay: float
) -> None:
    settings = complete_settings(**options)
    assert (settings.norm, settings.stage_decay) == (norm, decay)


@pytest.mark.parametrize(("steps", "epochs"), [(7, 3), (2000, 20), (5, 5), (1, 1)])
def test_epochs_share_the_steps(steps: int, epochs: int) -> None:
    settings = TrainingSettings(steps=steps, epochs=epochs)
    ends = [settings.epoch_end(epoch) for epoch in range(epochs + 1)]
    assert (ends[0], ends[-1]) == (0, steps)
    lengths = {after - before for before, after in pairwise(ends)}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


@pytest.mark.parametrize(("epochs", "second"), [(2, 50), (3, 67), (4, 50), (5, 60)])
def test_the_second_round_begins_with_an_epoch_at_about_half_of_the_steps(epochs: int, second: int) -> None:
    settings = TrainingSettings(steps=100, epochs=epochs)
    assert settings.second_round == 100
    assert replace(settings, rounds=2).second_round == second


def test_the_record_is_json_and_says_no_path() -> None:
    settings = TrainingSettings(weights="/home/doe/secret/start.pth", classes=("a", "b"))
    record = settings.record()
    assert json.loads(json.dumps(record)) == record
    assert record["weights"] == "start.pth"
    assert replace(settings, weights=r"C:\doe\start.pth").record()["weights"] == "start.pth"


@pytest.mark.parametrize(("size", "volumes"), [(32, 32), (96, 32), (112, 16), (128, 16), (160, 8), (224, 8), (512, 8)])
def test_a_gpu_gets_larger_batches_of_slices_that_are_not_large(size: int, volumes: int) -> None:
    assert batch_on("cuda", size) == volumes
    assert batch_on("cpu", size) == batch_on("mps", size) == TrainingSettings.volumes_per_batch == 8


def test_the_batch_suits_the_device_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert complete_settings(device="cpu") == TrainingSettings(device="cpu")
    monkeypatch.setattr(settings, "choose_device", lambda name: torch.device("cuda"))
    assert complete_settings(slice_size=128).volumes_per_batch == 16
    assert complete_settings(volumes_per_batch=4) == TrainingSettings(volumes_per_batch=4)
    assert complete_settings() == TrainingSettings(volumes_per_batch=32)  # the rate and the steps stay
