"""Devices and precisions by name."""

from __future__ import annotations

import pytest
import torch

from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.errors import TonnoError

CPU = torch.device("cpu")


def available(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "best"), [(False, False, "cpu"), (False, True, "mps"), (True, True, "cuda"), (True, False, "cuda")]
)
def test_auto_takes_the_best_there_is(cuda: bool, mps: bool, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto").type == best


@pytest.mark.parametrize("name", ["cuda", "cuda:1", "mps"])
def test_a_device_that_is_absent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    available(monkeypatch)
    with pytest.raises(TonnoError, match=rf"`device` {name} was asked for, but this torch .* finds only cpu; use"):
        choose_device(name)


@pytest.mark.parametrize("name", ["tpu", "", "cpu:x", "CPU"])
def test_a_device_that_does_not_exist(name: str) -> None:
    with pytest.raises(TonnoError, match=f"`device` '{name}' is unknown, expected"):
        choose_device(name)


def test_precision_by_name_and_by_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision("float16", CPU) == torch.float16
    assert choose_precision("auto", torch.device("cuda")) == torch.float16
    assert choose_precision("auto", torch.device("mps")) == torch.float32
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_precision("auto", CPU) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_precision("auto", CPU) == torch.float32
    assert choose_precision("auto", CPU, dense=True) == torch.bfloat16
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")  # of another torch
    assert choose_precision("auto", CPU, dense=True) == torch.float32
    with pytest.raises(TonnoError, match="`precision` 'int8' is unknown, expected one of auto, float32"):
        choose_precision("int8", CPU)
