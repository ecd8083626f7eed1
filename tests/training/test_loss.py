"""The loss: that of slices as it was, that of bags against its formula in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.training.toy import same_weights, train_toy, write_toy_set
from tonno_core.training.loss import training_loss

VOLUMES, EACH, CLASSES = 6, 5, 2


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and soft labels of a batch, float32."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 4, (VOLUMES * EACH, CLASSES))
    labels = rng.uniform(0, 1, (VOLUMES, EACH, CLASSES)) * rng.integers(0, 2, (VOLUMES, 1, CLASSES))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels.reshape(-1, CLASSES), dtype=torch.float32)


def reference(logits: np.ndarray, labels: np.ndarray, bag: float) -> tuple[float, np.ndarray]:
    """The loss and its gradient, volume by volume in float64: p = sigmoid, dL/dx = (p - y) dx_bag/dx / number."""

    def cross_entropy(x: float, y: float) -> float:
        p = 1.0 / (1.0 + np.exp(-x))
        return float(-y * np.log(p) - (1.0 - y) * np.log(1.0 - p))

    loss, gradient = 0.0, np.zeros_like(logits)
    for index in np.ndindex(logits.shape):
        share = (1.0 - bag) / logits.size
        loss += share * cross_entropy(logits[index], labels[index])
        gradient[index] += share * (1.0 / (1.0 + np.exp(-logits[index])) - labels[index])
    for volume, finding in np.ndindex(VOLUMES, CLASSES):
        rows = slice(volume * EACH, (volume + 1) * EACH)
        powers, label = np.exp(logits[rows, finding]), labels[rows, finding].max()
        pooled, share = np.log(powers.mean()), bag / (VOLUMES * CLASSES)
        loss += share * cross_entropy(pooled, label)
        gradient[rows, finding] += share * (1.0 / (1.0 + np.exp(-pooled)) - label) * powers / powers.sum()
    return loss, gradient


@pytest.mark.parametrize("bag", [0.0, 0.3, 1.0])
def test_loss_and_gradient_are_the_formulas(bag: float) -> None:
    logits, labels = batch()
    loss, gradient = reference(logits.double().numpy(), labels.double().numpy(), bag)
    asked = logits.clone().requires_grad_()
    found = training_loss(asked, labels, EACH, bag)
    found.backward()
    assert found.item() == pytest.approx(loss, rel=1e-6)  # float32 has 7 digits
    # The gradients are up to 1 / 60; rounding of the sigmoid is 6e-8 of 1.
    assert np.allclose(asked.grad, gradient, rtol=1e-5, atol=1e-9)


def test_without_bags_it_is_the_slices_loss_to_the_bit() -> None:
    logits, labels = batch()
    assert torch.equal(training_loss(logits, labels, EACH, 0.0), F.binary_cross_entropy_with_logits(logits, labels))


def test_a_bag_of_one_slice_is_the_slice() -> None:
    logits, labels = batch()
    of_bags, of_slices = (training_loss(logits, labels, 1, bag).item() for bag in (1.0, 0.0))
    assert of_bags == pytest.approx(of_slices, rel=1e-6)


def test_a_bag_of_large_logits_is_finite() -> None:
    logits = torch.tensor([[500.0], [-500.0]], requires_grad=True)  # of which float32 cannot take the exponential
    loss = training_loss(logits, torch.zeros(2, 1), 2, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(500.0 - np.log(2.0))
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == [1.0, 0.0]


def test_bags_change_the_training_and_a_finding_is_still_learned(tmp_path: Path) -> None:
    manifest = write_toy_set(tmp_path / "toy")
    plain, bags = (train_toy(manifest, tmp_path / str(bag), steps=60, bag=bag) for bag in (0.0, 0.5))
    assert not same_weights(plain.weights, bags.weights)
    assert bags.spec.training["final_loss"] < 0.3  # guessing gives ln 2 = 0.69
    assert bags.spec.training["validation"]["volume_auc"] == 1.0
    assert bags.spec.training["settings"]["bag"] == 0.5
