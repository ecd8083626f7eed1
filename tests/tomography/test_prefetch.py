"""One batch early: order, number, failures and the end, with a stand-in for a stream; on a GPU where there is one."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from tests.device import ToyStream
from tonno_core.tomography.prefetch import CudaStream, Prefetch, side_stream

RANGES = [slice(0, 2), slice(2, 4), slice(4, 5)]


class Maker:
    """Makes a tensor of a range's start; ``fail`` may raise first."""

    def __init__(self, stream: ToyStream | None = None, fail: Callable[[slice, bool], None] | None = None) -> None:
        self.stream, self.fail = stream, fail
        self.made: list[tuple[int, bool]] = []
        self.living: list[weakref.ref[torch.Tensor]] = []

    def __call__(self, which: slice) -> tuple[slice, tuple[torch.Tensor, ...]]:
        ahead = self.stream is not None and self.stream.inside
        self.made.append((which.start, ahead))
        if self.fail is not None:
            self.fail(which, ahead)
        tensor = torch.full((3,), float(which.start))
        self.living.append(weakref.ref(tensor))
        return which, (tensor,)


def test_ranges_come_in_order_and_at_most_one_is_ahead() -> None:
    stream = ToyStream()
    maker = Maker(stream)
    with Prefetch(maker, stream) as ahead:
        assert stream.log == ["follow"]
        for number, which in enumerate(RANGES):
            taken, (tensor,) = ahead.take() or maker(which)
            assert taken == which
            assert (tensor == which.start).all()
            assert (id(tensor) in stream.joined) == (number > 0)  # the first is made at once, beside nothing
            assert len(maker.made) == number + 1
            if number + 1 < len(RANGES):
                ahead.start(RANGES[number + 1])
                assert len(maker.made) == number + 2
    assert maker.made == [(0, False), (2, True), (4, True)]


def test_what_was_begun_comes_once() -> None:
    stream = ToyStream()
    with Prefetch(Maker(stream), stream) as ahead:
        ahead.start(slice(3, 9))
        begun = ahead.take()
        assert begun is not None and begun[0] == slice(3, 9)
        assert ahead.take() is None


def test_without_a_stream_nothing_is_made_before_its_time() -> None:
    maker = Maker()
    with Prefetch(maker, None) as ahead:
        ahead.start(RANGES[0])
        assert maker.made == []
        assert ahead.take() is None
        assert maker.made == []


def test_what_failed_is_not_there_to_be_taken() -> None:
    def fail(which: slice, ahead: bool) -> None:
        if which.start == 2:
            raise ValueError("broken")

    stream = ToyStream()
    with Prefetch(Maker(stream, fail), stream) as ahead:
        ahead.start(RANGES[1])
        assert ahead.take() is None


def test_without_memory_for_two_it_goes_on_with_one() -> None:
    def fail(which: slice, ahead: bool) -> None:
        if ahead:
            raise torch.OutOfMemoryError("CUDA out of memory")

    stream = ToyStream()
    maker = Maker(stream, fail)
    with Prefetch(maker, stream) as ahead:
        for which, after in zip(RANGES, [*RANGES[1:], None], strict=True):
            assert (ahead.take() or maker(which))[0] == which
            if after is not None:
                ahead.start(after)
    assert maker.made == [(0, False), (2, True), (2, False), (4, False)]


def test_an_early_end_leaves_nothing() -> None:
    stream = ToyStream()
    maker = Maker(stream)
    with pytest.raises(KeyboardInterrupt), Prefetch(maker, stream) as ahead:
        ahead.start(RANGES[1])
        raise KeyboardInterrupt
    assert stream.log == ["follow", "join"]  # what comes now, as giving memory back, waits for it
    assert [reference() for reference in maker.living] == [None]


def test_only_cuda_has_streams() -> None:
    assert side_stream(torch.device("cpu")) is None
    assert side_stream(torch.device("mps")) is None


def test_what_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    class Stream:
        def __init__(self, name: str) -> None:
            self.name = name

        def wait_stream(self, other: Stream) -> None:
            log.append(f"{self.name} waits for {other.name}")

    class Tensor:
        def record_stream(self, stream: Stream) -> None:
            log.append(f"used in {stream.name}")

    main = Stream("main")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device, priority: Stream(f"side of priority {priority}"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(log.append(f"work in {stream.name}")))

    def make(which: slice) -> Any:
        return which, (Tensor(), Tensor())

    with Prefetch(make, CudaStream(torch.device("cuda:0"))) as ahead:
        ahead.start(RANGES[0])
        ahead.take()
        log.append("taken")
    side = "side of priority -1"
    assert log == [
        f"{side} waits for main", f"work in {side}",
        f"main waits for {side}", "used in main", "used in main", "taken", f"main waits for {side}",
    ]  # fmt: skip


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_no_memory_is_used_too_early() -> None:
    device = torch.device("cuda:0")
    stream = side_stream(device)
    assert stream is not None and side_stream(device) is stream
    factor = torch.full((1 << 24,), 2.0, device=device)

    def make(which: slice) -> tuple[slice, tuple[torch.Tensor, ...]]:
        return which, (factor * which.start,)

    found = []
    busy = torch.randn(4096, 4096, device=device)
    with Prefetch(make, stream) as ahead:
        for number in range(20):
            _, (values,) = ahead.take() or make(slice(number, number + 1))
            for _ in range(4):  # so that the device is behind the host
                busy = busy @ busy / 4096
            found.append(torch.stack(torch.aminmax(values)) + 0 * busy[0, 0])
            del values
            ahead.start(slice(number + 1, number + 2))
    assert torch.stack(found).tolist() == [[2.0 * number] * 2 for number in range(20)]
