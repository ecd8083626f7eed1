"""The network that is trained: where it starts, what of it learns, and how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.networks import random_network
from tests.training.toy import SETTINGS, same_weights
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.convention import Convention
from tonno_core.encoding.normalization import freeze_batch_norm
from tonno_core.errors import TonnoError
from tonno_core.training.model import SliceLogits, initial_model, parameter_groups, set_training_mode
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.train import check_trainable


def weights_file(folder: Path, encoder: str = "test_resnet", **options: Any) -> str:
    """A file of weights of a network of three channels and a thousand classes."""
    network = random_network(encoder, **{"channels": 3, "classes": 1000, **options})
    torch.save(network.state_dict(), folder / "w.pth")
    return str(folder / "w.pth")


def model_of(**changes: Any) -> tuple[Any, TrainingSettings]:
    settings = replace(SETTINGS, **changes)
    torch.manual_seed(0)
    return initial_model(settings), settings


# -------------------- where it starts


def test_random_weights_are_those_of_the_seed() -> None:
    first, second = (model_of()[0].state_dict() for _ in range(2))
    assert same_weights(first, second)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_the_new_head_of_a_pretrained_net_starts_small(encoder: str, tmp_path: Path) -> None:
    size = 64
    weights = weights_file(tmp_path, encoder, size=size)
    model, _ = model_of(encoder=encoder, weights=weights, norm="frozen-batch", slice_size=size)
    head = model.get_classifier()
    assert float(head.bias.detach().abs().max()) == 0.0
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.4)  # 64 numbers or more: +- 9 %
    # The first loss is that of guessing, whatever the encoder's own start of a head is.
    with torch.no_grad():
        logits = model.eval()(torch.randn(8, 1, size, size, generator=torch.Generator().manual_seed(0)))
    assert float(nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(8, 1))) < 1.0


def test_a_head_of_the_same_classes_is_kept(tmp_path: Path) -> None:
    model, _ = model_of(weights=weights_file(tmp_path, channels=1, classes=1), norm="frozen-batch")
    assert same_weights(model.state_dict(), random_network("test_resnet").state_dict())


def test_all_of_a_pretrained_body_is_taken(tmp_path: Path) -> None:
    model, _ = model_of(weights=weights_file(tmp_path), norm="frozen-batch")
    weights, start = model.state_dict(), random_network("test_resnet", channels=3, classes=1000).state_dict()
    for name in weights.keys() - {"conv1.0.weight", "fc.weight", "fc.bias"}:
        assert torch.equal(weights[name], start[name]), name
    assert torch.allclose(weights["conv1.0.weight"], start["conv1.0.weight"].sum(dim=1, keepdim=True))


def test_group_norm_takes_scales_and_shifts_from_pretrained_batch_norm(tmp_path: Path) -> None:
    model, _ = model_of(weights=weights_file(tmp_path), norm="group")
    weights, start = model.state_dict(), random_network("test_resnet", channels=3, classes=1000).state_dict()
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    assert torch.equal(weights["layer2.0.bn1.weight"], start["layer2.0.bn1.weight"])
    assert not any(name.endswith("running_mean") for name in weights)


def test_two_heads_are_one_last_layer(tmp_path: Path) -> None:
    name = "deit_tiny_distilled_patch16_224"
    small = replace(SETTINGS, encoder=name, norm="batch", weights=weights_file(tmp_path, name))
    model = initial_model(small)
    assert not model.head.bias.any()
    assert not model.head_dist.bias.any()


@pytest.mark.parametrize(("encoder", "said"), [("test_vit", True), ("test_resnet", False)])
def test_an_encoder_without_batch_norm_says_that_group_norm_changes_nothing(encoder: str, said: bool) -> None:
    notes = check_trainable(replace(SETTINGS, encoder=encoder, norm="group", slice_size=64))
    assert notes == (("norm group: test_vit has no batch norm to replace; its own norms stay",) if said else ())


# -------------------- how fast its stages learn


def shares(model: Any, settings: TrainingSettings) -> dict[str, float]:
    groups = parameter_groups(model, settings)
    share = {id(parameter): group["share"] for group in groups for parameter in group["params"]}
    return {name: share[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in share}


def test_each_stage_learns_at_its_share_of_the_rate_and_the_head_fastest() -> None:
    factors = shares(*model_of(stage_decay=0.5))
    expected = {"conv1": 2**-5, "bn1": 2**-5, "fc": 1.0, **{f"layer{n}": 2.0 ** (n - 5) for n in range(1, 5)}}
    assert factors == {name: expected[name.partition(".")[0]] for name in factors}
    assert len(factors) == len(dict(model_of()[0].named_parameters()))


def test_without_a_decay_all_stages_learn_alike() -> None:
    assert set(shares(*model_of()).values()) == {1.0}


@pytest.mark.parametrize("encoder", ["test_efficientnet", "test_convnext", "test_vit", "densenet121", "regnetx_002"])
def test_every_parameter_of_any_encoder_has_a_share_and_the_head_the_largest(encoder: str) -> None:
    model, settings = model_of(encoder=encoder, stage_decay=0.5, slice_size=64)
    factors = shares(model, settings)
    assert factors.keys() == dict(model.named_parameters()).keys()
    head = {id(parameter) for parameter in model.get_classifier().parameters()}
    of_head = {factors[name] for name, parameter in model.named_parameters() if id(parameter) in head}
    assert of_head == {1.0}
    first = next(iter(dict(model.named_parameters())))
    assert factors[first] == min(factors.values()) < 0.5


def test_frozen_stages_and_batch_norms_need_no_gradient() -> None:
    model, settings = model_of(freeze=3, norm="frozen-batch")
    factors = shares(model, settings)
    assert {name.partition(".")[0] for name in factors} == {"layer3", "layer4", "fc"}
    norms = {name for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (name in factors), name
        assert not (name in factors and name.rpartition(".")[0] in norms)


def test_more_frozen_stages_than_there_are() -> None:
    with pytest.raises(TonnoError, match="`freeze` 6: test_resnet has 6 stages with its last layer"):
        parameter_groups(*model_of(freeze=6))


# -------------------- in training


@pytest.mark.parametrize(("norm", "freeze"), [("batch", 0), ("batch", 3), ("frozen-batch", 0), ("frozen-batch", 2)])
def test_statistics_move_where_their_scales_learn_and_nowhere_else(norm: str, freeze: int) -> None:
    model, settings = model_of(norm=norm, freeze=freeze)
    parameter_groups(model, settings)
    set_training_mode(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if name.endswith("running_mean")}
    model(torch.randn(4, 1, 32, 32))
    still = ["bn1", "conv1", "layer1", "layer2"] if freeze == 3 else []
    for name, tensor in before.items():
        moves = norm == "batch" and name.partition(".")[0] not in still
        assert torch.equal(model.state_dict()[name], tensor) != moves, name


def test_frozen_norms_of_tokens_are_frozen_as_well() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    freeze_batch_norm(model)
    set_training_mode(model)
    before = {name: tensor.clone() for name, tensor in model[1].state_dict().items()}
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(0))).sum().backward()
    assert same_weights(before, model[1].state_dict())
    assert model[1].weight.grad is None
    assert model[0].weight.grad is not None


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_slices_go_to_every_channel_and_logits_come_in_float32(precision: torch.dtype) -> None:
    model = random_network("test_resnet", channels=3, classes=2)
    slices = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = SliceLogits(model, Convention(3), precision)(slices)
        expected = model(slices[:, None].expand(-1, 3, -1, -1))
    assert logits.dtype == torch.float32
    # bfloat16 has 8 bits: 0.4 % per layer.
    tolerance = 1e-5 if precision == torch.float32 else 0.05
    assert torch.allclose(logits, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def test_a_network_of_several_branches_can_be_trained() -> None:
    model = create_model("crossvit_tiny_240", channels=1, classes=1, norm="batch", slice_size=240)
    logits = SliceLogits(model, Convention(), torch.float32)(torch.randn(1, 240, 240))
    assert logits.shape == (1, 1)
