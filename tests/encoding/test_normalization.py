"""Norms folded, converted and frozen: what stays must stay, and what is computed must be the same."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, GroupNorm, GroupNorm1, GroupNormAct, StdConv2d
from torch import nn

from tests.networks import random_network
from tonno_core.encoding.normalization import fold_batch_norm, freeze_batch_norm, to_group_norm, use_exact_group_norm


def count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(layer, kind) for layer in model.modules())


# -------------------- folding


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "mobilenetv3_small_050", "densenet121"])
@torch.no_grad()
def test_folding_changes_no_logit(name: str) -> None:
    model = random_network(name, classes=3)
    batch = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, norms = model(batch), count(model, nn.BatchNorm2d)
    folded = fold_batch_norm(model)
    assert count(model, nn.BatchNorm2d) == norms - folded
    # DenseNet's norms stand before their convolutions: half of them have another convolution before them.
    assert folded == (59 if name == "densenet121" else norms)
    # Scales folded into float32 kernels, 1e-7 each, through up to 120 layers.
    assert torch.allclose(model(batch), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@torch.no_grad()
def test_the_activation_inside_a_norm_stays() -> None:
    norm = BatchNormAct2d(2, act_layer=nn.ReLU)
    norm.running_mean.copy_(torch.tensor([1.0, -1.0]))
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), norm).eval()
    model[0].weight.fill_(1.0)
    assert fold_batch_norm(model) == 1
    # 0 less the means 1 and -1, over a standard deviation of 1, cut off at 0.
    assert model(torch.zeros(1, 1, 1, 1)).flatten().tolist() == pytest.approx([0.0, 1.0], abs=1e-5)


class Between(nn.Module):
    """A convolution whose output goes to a norm and elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        z: torch.Tensor = self.norm(y) + y
        return z


class Branching(nn.Module):
    """Its path depends on the values, which cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.norm(self.conv(x)) if x.sum() > 0 else x
        return y


@pytest.mark.parametrize(
    "model",
    [
        Between(),
        Branching(),
        nn.Sequential(StdConv2d(1, 2, 3), nn.BatchNorm2d(2)),  # would standardise a folded scale away
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.BatchNorm2d(2)),
        nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3)),
    ],
    ids=["shared", "untraceable", "standardised", "activation between", "norm first"],
)
@torch.no_grad()
def test_what_cannot_be_folded_is_left_alone(model: nn.Module) -> None:
    norm = next(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    norm.running_mean.fill_(0.5)  # type: ignore[union-attr]
    norm.running_var.fill_(4.0)  # type: ignore[union-attr]
    model.eval()
    batch = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)).abs()
    expected = model(batch)
    assert fold_batch_norm(model) == 0
    assert torch.equal(model(batch), expected)


class Sliced(nn.Module):
    """Calls slices of a sequence, modules that exist for a moment alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers[2:](self.layers[:2](x))
        return y


class Twice(nn.Module):
    """Calls a convolution twice, and its norm once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(self.norm(self.conv(x)))
        return y


class Staged(nn.Module):
    """Hands on, as a feature stage, what a convolution puts out, which a norm alone uses."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)

    def forward_intermediates(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        stage = self.conv(x)
        return self.norm(stage), [stage]

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3))


@pytest.mark.parametrize(("model", "folded"), [(Sliced(), 2), (Twice(), 0)], ids=["sliced", "twice"])
@torch.no_grad()
def test_calls_are_followed_and_counted(model: nn.Module, folded: int) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(0.5)  # type: ignore[union-attr]
            layer.running_var.fill_(4.0)  # type: ignore[union-attr]
    model.eval()
    batch = torch.randn(1, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    expected = model(batch)
    assert fold_batch_norm(model) == folded
    torch.testing.assert_close(model(batch), expected)


def test_a_convolution_that_is_a_feature_stage_keeps_what_it_puts_out() -> None:
    assert fold_batch_norm(Staged().eval()) == 0


# -------------------- group norm


@torch.no_grad()
def test_group_norm_keeps_all_other_weights() -> None:
    model, original = random_network("resnet10t"), random_network("resnet10t")
    norms = count(model, nn.BatchNorm2d)
    assert to_group_norm(model) == norms == 14
    assert count(model, nn.BatchNorm2d) == 0
    assert count(model, nn.GroupNorm) == norms
    before, after = original.state_dict(), model.state_dict()
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    assert after.keys() == before.keys() - statistics
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert not torch.equal(model(torch.ones(1, 1, 32, 32)), original(torch.ones(1, 1, 32, 32)))


@pytest.mark.parametrize(("channels", "groups"), [(64, 32), (24, 8), (7, 1)])
@torch.no_grad()
def test_a_norm_becomes_groups_of_its_channels_with_its_scale_shift_and_activation(channels: int, groups: int) -> None:
    batch_norm = BatchNormAct2d(channels, eps=1e-3, act_layer=nn.ReLU)
    nn.init.uniform_(batch_norm.weight, 0.5, 1.5)
    nn.init.normal_(batch_norm.bias)
    model = nn.Sequential(batch_norm).eval()
    to_group_norm(model)
    assert isinstance(model[0], GroupNormAct)
    x = torch.randn(2, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = F.relu(F.group_norm(x, groups, batch_norm.weight, batch_norm.bias, 1e-3))
    assert torch.allclose(model(x), expected, atol=1e-6)  # float32


def nearly_blank(*shape: int) -> torch.Tensor:
    """What convolutions make of blank slices: constants, but for a few cells; in channels last."""
    generator = torch.Generator().manual_seed(0)
    x = 3.0 + torch.randn(*shape[:2], 1, 1, generator=generator).expand(shape).clone()
    x[:, :, 2:4, 5] += 0.1 * torch.randn(shape[0], shape[1], 2, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest error, as a share of the largest number."""
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(
    "layer",
    [
        nn.GroupNorm(16, 16), GroupNorm(16, 4), GroupNorm1(16), GroupNormAct(16, 8, act_layer=nn.SiLU),
        nn.GroupNorm(4, 16, affine=False),
    ],
    ids=lambda layer: f"{type(layer).__name__} {layer.num_groups}",
)  # fmt: skip
def test_group_norm_of_blank_slices_in_channels_last_is_exact(layer: nn.GroupNorm) -> None:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 1.0, 0.2)
    exact, model = copy.deepcopy(layer).double(), nn.Sequential(layer)
    use_exact_group_norm(model)
    x = nearly_blank(2, 16, 96, 96).requires_grad_(True)
    wanted = x.detach().double().contiguous().requires_grad_(True)
    found, expected = model(x), exact(wanted)
    assert found.is_contiguous(memory_format=torch.channels_last)
    # float32: inputs of 3 are rounded by 1e-7, which is 1e-6 to 1e-5 of what differs from cell to cell. Torch's own
    # layer is off by 1e-4 to 1 in channels last.
    assert off(found.detach(), expected.detach()) < 2e-5
    with torch.no_grad():
        assert torch.equal(model(x), found)
    more = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    found.backward(more)
    expected.backward(more.double())
    assert x.grad is not None
    assert wanted.grad is not None
    assert off(x.grad, wanted.grad) < 1e-4


@pytest.mark.parametrize("shape", [(3, 16), (3, 16, 9), (3, 16, 1, 1), (2, 16, 5, 6)])
def test_inputs_of_other_shapes_are_normalised_as_torch_does(shape: tuple[int, ...]) -> None:
    layer = nn.GroupNorm(4, 16)
    model = nn.Sequential(layer)
    use_exact_group_norm(model)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), layer(x), rtol=0, atol=0)
    if len(shape) == 4:
        last = x.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(model(last), layer(x), rtol=1e-5, atol=1e-5)  # float32


# -------------------- frozen


def test_frozen_norms_keep_their_statistics_scale_and_shift_in_training() -> None:
    model = random_network("resnet10t")
    model.train()
    freeze_batch_norm(model)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [{name: tensor.clone() for name, tensor in norm.state_dict().items()} for norm in norms]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    model(torch.randn(4, 1, 32, 32)).sum().backward()
    optimizer.step()
    for norm, kept in zip(norms, before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in norm.state_dict().items())
    # All else is still trained.
    assert all(weight.grad is not None for weight in model.parameters() if weight.ndim > 1)
