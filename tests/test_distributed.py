"""What processes do together, and what each is told by its launcher."""

from __future__ import annotations

import pytest
import torch

from tonno_core.distributed import Processes, device_of_process, processes, share_of_cases
from tonno_core.errors import TonnoError


def test_a_launcher_that_says_too_little_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(TonnoError, match="WORLD_SIZE is 2, but RANK"), processes("cpu"):
        pass


def test_one_process_gathers_what_it_has() -> None:
    alone = Processes(0, 1, torch.device("cpu"))
    assert alone.first
    assert alone.gather([1, 2]) == [1, 2]
    assert alone.mean(torch.tensor([3.0])).tolist() == [3.0]
    model = torch.nn.Linear(1, 1)
    assert alone.share(model) is model


def test_parts_are_put_together_in_the_order_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(range(7))

    def gathered(parts: list[list[int]], part: list[int]) -> None:
        assert part == whole[1::3]
        parts[:] = [whole[rank::3] for rank in range(3)]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    assert Processes(1, 3, torch.device("cpu")).gather(whole[1::3]) == whole


@pytest.mark.parametrize(
    ("rank", "world", "message"),
    [("2", "2", "RANK is 2 of WORLD_SIZE 2, expected 0 to 1"), ("one", "2", "RANK is 'one', expected a whole number")],
)
def test_a_share_of_cases_that_cannot_be_is_refused(
    rank: str, world: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    with pytest.raises(TonnoError, match=message):
        share_of_cases()


def test_the_share_of_cases_is_the_environments_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert share_of_cases() == (0, 1)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert share_of_cases() == (3, 8)


def test_each_process_of_a_machine_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device_of_process("cuda") == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [device_of_process(name) for name in ("cuda", "auto", "cuda:0", "cpu")] == [
        "cuda:1",
        "cuda:1",
        "cuda:0",
        "cpu",
    ]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(TonnoError, match="more processes than this machine's 2 devices"):
        device_of_process("cuda")
