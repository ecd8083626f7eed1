"""The batch that fits: its arithmetic, its measuring with a stand-in for a GPU, and on a GPU where there is one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.device import ToyMemory
from tests.networks import random_network
from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.memory import HELD, SHARE, CudaMemory, Need, fitting_batch, largest_batch, measure, memory_of

BLANK = torch.zeros(1, 8, 8)
SLICE = 8 * 8 * 4


def test_two_peaks_are_a_line() -> None:
    assert Need.between(16, 100 + 16 * 5, 100 + 32 * 5) == Need(100.0, 5.0)
    assert Need.between(16, 100 + 16 * 5, 100 + 32 * 5).of(1000) == 5100.0
    # More for the second half than for the first: nothing is constant, rather than less than nothing.
    assert Need.between(10, 50, 200) == Need(0.0, 15.0)
    # No more for twice as many: never less than was seen.
    assert Need.between(10, 50, 40) == Need(0.0, 5.0)


def test_the_batch_is_the_greatest_power_of_two_that_fits() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        constant, each, free = (float(10.0**power) for power in rng.uniform((3, 3, 5), (8, 7, 11)))
        most, least = (int(number) for number in rng.integers((1, 1), (3000, 200)))
        need, slice_bytes = Need(constant, each), int(rng.integers(100, 1_000_000))
        batch = largest_batch(need, slice_bytes, int(free), most, least)
        assert batch & (batch - 1) == 0
        assert 1 <= batch <= most
        here, doubled = (constant + each * n + HELD * slice_bytes * max(n, least) for n in (batch, 2 * batch))
        assert batch == 1 or here <= free
        assert 2 * batch > most or doubled > free
        seen.add(batch)
    assert len(seen) > 8  # of the 12 from 1 to 2048


def test_what_a_gpu_of_eight_gigabytes_holds() -> None:
    # A CAM of stage 1 by ResNet-50 at 224 px in halves: 11 M activations, with gradients 30 MB a slice.
    need = Need(200e6, 30e6)
    assert largest_batch(need, 224 * 224 * 4, 0.8 * 8e9, 2048, 132) == 128
    assert largest_batch(need, 224 * 224 * 4, 0.8 * 80e9, 2048, 132) == 2048
    # What other programs take changes nothing between two steps.
    assert {largest_batch(need, 224 * 224 * 4, 0.8 * free, 2048, 132) for free in (5.2e9, 7e9, 8e9, 9.8e9)} == {128}


def test_a_large_gpu_is_filled_no_more_than_helps() -> None:
    # resnet10t in halves at 224 px takes 4 MB a slice: 512 slices, whatever is free.
    memory = ToyMemory(80 * 10**9, constant=20_000_000, each=4_000_000)
    assert fitting_batch(memory, memory.encode, torch.zeros(1, 224, 224), 2048, 404) == 512
    assert max(memory.batches) < 512  # nor is more of it tried


@pytest.mark.parametrize("limit", [10**9, 32, 31, 5, 2])
def test_what_is_measured_is_what_the_encoder_needs(limit: int) -> None:
    memory = ToyMemory(10**9, constant=1000, each=700, limit=limit)
    assert measure(memory, memory.encode, BLANK) == Need(1000.0, 700.0)
    fitting = [size for size in memory.batches if size <= limit]
    # Both batches once each, after one that does not count; above the limit each size once.
    assert len(fitting) == 3 and fitting[0] == fitting[2] == 2 * fitting[1]
    assert len(set(memory.batches)) == len(memory.batches) - 1


class Moments(ToyMemory):
    """An encoder of several moments, each with a constant and an amount per slice; the peak is the greatest."""

    moments: tuple[tuple[float, float], ...] = ()

    def peak(self, action: Callable[[], object]) -> int:
        super().peak(action)
        return int(max(constant + each * self.batches[-1] for constant, each in self.moments))


def test_a_peak_that_moves_from_moment_to_moment() -> None:
    memory = Moments(10**10, 0, 0)
    # A CAM of stage 1 by resnet10t at 96 px: weights in halves and the last maps; max-pooling with its indices.
    memory.moments = ((11e6, 0.47e6), (1e6, 0.72e6))
    need = measure(memory, memory.encode, BLANK)
    assert need is not None
    assert need.of(512) == pytest.approx(1e6 + 0.72e6 * 512, rel=1e-3)
    assert memory.batches[-1] == 128  # the first moment is the peak below 44 slices
    rng = np.random.default_rng(0)
    for _ in range(200):
        constants, each = 10.0 ** rng.uniform(5, 8, 4), 10.0 ** rng.uniform(4.5, 6.5, 4)
        memory.moments = tuple(zip(constants.tolist(), each.tolist(), strict=True))
        need = measure(memory, memory.encode, BLANK, 2048)
        assert need is not None
        # Never less than 15/16 of what is needed; the peak is convex, so that no more is foretold.
        for batch in (memory.batches[-1], 512, 1024, 2048):
            peak = max(constant + slope * batch for constant, slope in memory.moments)
            assert batch < memory.batches[-1] or 15 / 16 - 1e-6 <= need.of(batch) / peak <= 1 + 1e-6


def test_a_trial_takes_no_more_than_there_is_room_for() -> None:
    memory = ToyMemory(10**9, constant=10**6, each=1000)
    assert measure(memory, memory.encode, BLANK, 2048, room=1_060_000) == Need(10**6, 1000.0)
    assert max(memory.batches) == 32


def test_no_memory_for_two_slices() -> None:
    memory = ToyMemory(10**9, constant=0, each=1, limit=1)
    assert measure(memory, memory.encode, BLANK) is None
    assert fitting_batch(memory, memory.encode, BLANK, 2048, 132) == 1


def test_another_failure_is_raised() -> None:
    def fail(slices: torch.Tensor) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measure(ToyMemory(10**9, 0, 1), fail, BLANK)


@pytest.mark.parametrize(("most", "expected"), [(2048, 64), (64, 64), (63, 32), (4, 4), (1, 1)])
def test_the_batch_that_fits(most: int, expected: int) -> None:
    # 64 slices' activations and themselves, in 80 %; not 128.
    memory = ToyMemory(int((5000 + 64 * (700 + SLICE)) / 0.8) + 1, constant=5000, each=700)
    assert fitting_batch(memory, memory.encode, BLANK, most, 16) == expected
    assert max(memory.batches) <= max(2, most)


def test_only_cuda_is_measured() -> None:
    assert memory_of(torch.device("cpu")) is None
    assert memory_of(torch.device("mps")) is None
    assert isinstance(memory_of(torch.device("cuda:0")), CudaMemory)


def test_what_is_asked_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # 900 bytes of the device are free; torch has 300 of it, of which tensors use 200.
    counters = {"used": 200, "peak": 10_000}  # a peak of what was before
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (900, 2000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: counters["used"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: counters["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: counters.update(peak=counters["used"]))
    memory = CudaMemory(torch.device("cuda:0"))
    assert memory.free() == 900 + 300 - 200
    assert memory.peak(lambda: counters.update(peak=max(counters["peak"], 750))) == 550


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_its_peak() -> None:
    memory = CudaMemory(torch.device("cuda:0"))
    free = memory.free()
    kept = torch.empty(16 << 20, dtype=torch.uint8, device="cuda:0")
    assert memory.peak(lambda: torch.empty(32 << 20, dtype=torch.uint8, device="cuda:0")) == 32 << 20
    # What torch keeps of the 32 MB counts as free; other programs may take or give some.
    assert abs(free - len(kept) - memory.free()) < 512 << 20


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("maps", [False, True])
def test_a_gpu_needs_what_two_small_batches_foretell(maps: bool) -> None:
    encoder = Classifier(random_network("resnet10t"), ("a",), channels=1, device="cuda:0", precision=torch.float16)
    memory = CudaMemory(torch.device("cuda:0"))

    def encode(slices: torch.Tensor) -> object:
        return encoder.cam(slices, [(0, 1)], "layercam") if maps else encoder.logits(slices)

    need = measure(memory, encode, torch.zeros(1, 96, 96, device="cuda:0"))
    assert need is not None
    large = torch.zeros(512, 96, 96, device="cuda:0")
    # cuDNN chooses its workspaces by the batch; a fifth of the memory is left for that among others.
    assert 0.5 < memory.peak(lambda: encode(large)) / need.of(512) < 1 / SHARE
