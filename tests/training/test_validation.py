"""Validation: known logits give known measures."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.test_dataset import bright_ball, sampler_of
from tonno_core.distributed import Processes
from tonno_core.training.validation import SLICES_EACH, Validation, validate

ALONE = Processes(0, 1, torch.device("cpu"))


class Brightest(nn.Module):
    """One logit per class: the slice's highest value, less an offset."""

    def __init__(self, *offsets: float) -> None:
        super().__init__()
        self.offsets = offsets

    def forward(self, slices: torch.Tensor) -> torch.Tensor:
        highest = slices.amax(dim=(1, 2))
        return torch.stack([highest - offset for offset in self.offsets], dim=1)


def measure(network: nn.Module, *labels: tuple[int, ...]) -> Validation:
    """Validate on balls of brightness 1, 2, 3, ... with these labels."""
    volumes = [bright_ball(i + 1.0, *label) for i, label in enumerate(labels)]
    return validate(network, sampler_of(volumes, 24), ALONE)


def test_the_brighter_half_is_told_apart() -> None:
    validation = measure(Brightest(2.5), (0,), (0,), (1,), (1,))
    assert validation.volume_auc == 1.0
    assert validation.slice_auc is not None
    assert validation.slice_auc > 0.95  # slices that only touch a ball show a part of its brightness
    assert measure(Brightest(2.5), (1,), (1,), (0,), (0,)).volume_auc == 0.0
    # Three of the pairs (1, 2), (1, 4), (3, 2), (3, 4) are in order.
    assert measure(Brightest(2.5), (0,), (1,), (0,), (1,)).volume_auc == 0.75


@pytest.mark.parametrize(("high", "auc"), [(6, 1.0), (1, 0.0)])
def test_a_volume_counts_by_its_highest_tenth_of_slices(high: int, auc: float) -> None:
    class Prepared(nn.Module):
        """1 for all slices of the first volume; 0 for those of the second, but 5 for some of the 64."""

        def __init__(self) -> None:
            super().__init__()
            self.answers = iter([torch.ones(SLICES_EACH, 1), 5.0 * (torch.arange(SLICES_EACH) < high).float()[:, None]])

        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return next(self.answers)

    # The mean of the 6 highest is 5, or 5 / 6, against 1.
    assert measure(Prepared(), (0,), (1,)).volume_auc == auc


def test_the_loss_is_the_cross_entropy_of_all_slices() -> None:
    class Constant(nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            return torch.full((len(slices), 1), 2.0)

    validation = measure(Constant(), (0,), (1,), (1,))
    expected = (np.log1p(np.exp(2.0)) + 2 * np.log1p(np.exp(-2.0))) / 3
    assert validation.loss == pytest.approx(expected, rel=1e-6)  # float32
    assert (validation.slice_auc, validation.volume_auc) == (0.5, 0.5)


def test_classes_count_alike_and_those_of_one_kind_not_at_all() -> None:
    # The second class is the dim half: 0; the third has no positive.
    validation = measure(Brightest(0.0, 0.0, 0.0), (0, 1, 0), (0, 1, 0), (1, 0, 0), (1, 0, 0))
    assert validation.volume_auc == pytest.approx(0.5)


def test_nothing_to_measure() -> None:
    assert validate(Brightest(0.0), sampler_of([], 24), ALONE) == Validation(None, None, None)
    only = measure(Brightest(0.0), (1,))
    assert only.loss is not None
    assert (only.slice_auc, only.volume_auc) == (None, None)


def test_answers_that_are_no_numbers_have_no_auc() -> None:
    validation = measure(Brightest(float("nan")), (0,), (1,))
    assert (validation.slice_auc, validation.volume_auc) == (None, None)


def test_the_same_slices_are_seen_every_time_and_by_whichever_process() -> None:
    seen: list[torch.Tensor] = []

    class Watching(nn.Module):
        def forward(self, slices: torch.Tensor) -> torch.Tensor:
            seen.append(slices.clone())
            return slices.mean(dim=(1, 2))[:, None]

    for _ in range(2):
        measure(Watching(), (0,), (1,))
    assert len(seen) == 4
    assert all(len(slices) == SLICES_EACH for slices in seen)
    assert torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0] > 0, seen[1] > 0)  # other planes for another volume
    validate(Watching(), sampler_of([bright_ball(1.0, 0)], 24), ALONE)
    assert torch.equal(seen[4], seen[0])


def test_a_gpu_classifies_the_slices_of_several_volumes_at_once() -> None:
    labels = [(0,), (0,), (1,), (1,), (0,)]
    volumes = [bright_ball(i + 1.0, *label) for i, label in enumerate(labels)]
    expected = validate(Brightest(2.5), sampler_of(volumes, 24), ALONE)
    # The sampler says CUDA, and draws on the CPU.
    sampler = sampler_of(volumes, 24)
    on_cuda = SimpleNamespace(volumes=volumes, seed=0, device=torch.device("cuda"), slices=sampler.slices)
    network = Brightest(2.5)
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    assert validate(network, on_cuda, ALONE) == expected  # type: ignore[arg-type]
    assert sizes == [4 * SLICES_EACH, SLICES_EACH]
