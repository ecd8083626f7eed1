"""Values and gradients of the loss against plain float64 formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tonno_core.distillation.loss import generalized_cross_entropy, losses_of, soft_highest
from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.settings import DistillationSettings

B, K, SHAPE = 4, 2, (3, 4, 5)
VOXELS = math.prod(SHAPE)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, levels and labels: samples with and without each class, and one of which nothing is known."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(B, K, *SHAPE, generator=generator, dtype=torch.float64)
    levels = torch.randint(0, 3, (B, K, *SHAPE), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([[1, 0], [0, 1], [1, 1], [1, 0]])
    levels[labels == 0] = BACKGROUND
    levels[3, 0] = UNKNOWN
    return logits, levels, labels


def plain(
    logits: torch.Tensor, levels: torch.Tensor, labels: torch.Tensor, settings: DistillationSettings
) -> dict[str, torch.Tensor]:
    """The formulas, sample by sample and voxel by voxel, in float64."""
    q = settings.robustness
    total: dict[str, Any] = {"voxels": 0.0, "dice": 0.0, "volumes": 0.0}
    for one in range(K):
        overlap, sizes = 0.0, 0.0
        for sample in range(B):
            voxels, weights, highest = 0.0, 0.0, []
            present = bool((levels[sample, one] == FINDING).any())
            for x, level in zip(logits[sample, one].flatten(), levels[sample, one].flatten().tolist(), strict=True):
                highest.append(x)
                if level == UNKNOWN:
                    continue
                p = 1 / (1 + torch.exp(-x))
                right, weight = (p, settings.finding_weight or 1.0) if level == FINDING else (1 - p, 1.0)
                voxels = voxels + weight * (1 - right**q) / q
                weights = weights + weight
                overlap = overlap + (2 * p if level == FINDING else 0.0)
                sizes = sizes + p + (level == FINDING)
            total["voxels"] = total["voxels"] + voxels / max(weights, 1.0)
            count = max(1, round(settings.highest * VOXELS))
            z = torch.stack(sorted(highest, reverse=True, key=lambda x: x.item())[:count]).mean()
            if labels[sample, one] == 0:
                total["volumes"] = total["volumes"] + torch.log(1 + torch.exp(z))
            elif present:
                total["volumes"] = total["volumes"] + torch.log(1 + torch.exp(-z))
        total["dice"] = total["dice"] + B * (1 - (overlap + 10) / (sizes + 10))
    return {name: torch.as_tensor(value) / (B * K) for name, value in total.items()}


@pytest.mark.parametrize(
    "changes", [{}, {"robustness": 0.3, "finding_weight": 4.0}, {"robustness": 1.0, "highest": 0.1}]
)
@pytest.mark.parametrize("part", ["voxels", "dice", "volumes"])
def test_each_part_and_its_gradient_are_those_of_the_formula(part: str, changes: dict[str, float]) -> None:
    settings = DistillationSettings(**changes)  # type: ignore[arg-type]
    logits, levels, labels = batch()
    exact = logits.clone().requires_grad_()
    expected = plain(exact, levels, labels, settings)[part]
    (slope,) = torch.autograd.grad(expected, exact)
    single = logits.float().requires_grad_()
    made = getattr(losses_of(single, levels, labels, settings, settings.robustness), part)
    (found,) = torch.autograd.grad(made, single)
    # float32 of logits up to 10: sums of some hundred terms.
    assert made.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(found.double(), slope, rtol=1e-4, atol=1e-8)


def test_the_total_adds_up_by_weights() -> None:
    settings = DistillationSettings(voxel_weight=2.0, dice_weight=3.0, volume_weight=5.0)
    logits, levels, labels = batch()
    parts = losses_of(logits.float(), levels, labels, settings, settings.robustness)
    expected = 2 * parts.voxels + 3 * parts.dice + 5 * parts.volumes
    assert float(parts.total(settings)) == float(expected)


def test_unknown_voxels_move_nothing_but_the_highest() -> None:
    settings = DistillationSettings(volume_weight=0.0)
    logits, levels, labels = batch()
    single = logits.float().requires_grad_()
    (slope,) = torch.autograd.grad(
        losses_of(single, levels, labels, settings, settings.robustness).total(settings), single
    )
    assert (slope[levels == UNKNOWN] == 0).all()
    assert (slope[levels != UNKNOWN] != 0).all()


def test_towards_q_0_it_is_the_cross_entropy_and_at_1_the_error() -> None:
    logits = torch.linspace(-4, 4, 9, dtype=torch.float64)
    for label in (0.0, 1.0):
        target = torch.full_like(logits, label)
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        assert torch.allclose(generalized_cross_entropy(logits, target, 0.0), entropy)
        near = generalized_cross_entropy(logits, target, 1e-6)
        assert torch.allclose(near, entropy, rtol=1e-4)  # the next term is q / 2 times its square
        error = (torch.sigmoid(logits) - target).abs()
        assert torch.allclose(generalized_cross_entropy(logits, target, 1.0), error)


def test_far_logits_keep_a_finite_loss_and_gradient() -> None:
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    loss = generalized_cross_entropy(logits, torch.tensor([1.0, 0.0]), 0.7)
    assert loss.tolist() == pytest.approx([1 / 0.7] * 2)
    (slope,) = torch.autograd.grad(loss.sum(), logits)
    assert slope.isfinite().all()


def test_the_soft_highest_is_a_mean_of_the_highest() -> None:
    values = torch.arange(1000.0)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    assert float(soft_highest(values, 0.01)) == 994.5
    assert float(soft_highest(values, 1e-9)) == 999.0


def test_two_halves_of_a_batch_have_its_loss_and_gradient() -> None:
    # So that two processes, which average their gradients, compute what one does.
    logits, levels, labels = batch()
    settings = DistillationSettings()
    single = logits.float().requires_grad_()
    whole = losses_of(single, levels, labels, settings, settings.robustness).total(settings)
    (expected,) = torch.autograd.grad(whole, single)
    parts, told, totals = (slice(0, B, 2), slice(1, B, 2)), [], []

    def tell(sums: torch.Tensor) -> torch.Tensor:
        told.append(sums)
        return sums

    def hear(sums: torch.Tensor) -> torch.Tensor:
        return torch.stack(told).sum(0) + 2 * (sums - sums.detach())

    for part in parts:
        losses_of(logits[part].float(), levels[part], labels[part], settings, settings.robustness, tell)
    for part in parts:
        totals.append(
            losses_of(single[part], levels[part], labels[part], settings, settings.robustness, hear).total(settings)
        )
    mean = torch.stack(totals).mean()
    (found,) = torch.autograd.grad(mean, single)
    assert mean.item() == pytest.approx(whole.item(), rel=1e-6)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-9)


def test_the_cross_entropy_turns_robust_in_the_first_half_of_a_round() -> None:
    settings = DistillationSettings(steps=100, robustness=0.8, robust_ramp=0.5)
    assert [settings.robustness_at(step) for step in (0, 25, 50, 99)] == pytest.approx([0.0, 0.4, 0.8, 0.8])
    assert DistillationSettings(robustness=0.8, robust_ramp=0.0).robustness_at(0) == 0.8
