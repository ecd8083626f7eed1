"""The paper's encoders against torchvision's own modules in float64: norms in training, logits, and maps of all stages.

torchvision wrote its ResNet, EfficientNet, ConvNeXt, vision transformer and Swin transformer independently of timm; its
token maps are brought into rows and columns here, by hand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tests.hooks import stir
from tonno_core.encoding.classifier import Classifier, create_model
from tonno_core.encoding.normalization import freeze_batch_norm, to_group_norm
from tonno_core.settings import CamKind
from tonno_core.training.model import set_training_mode

torchvision = pytest.importorskip("torchvision")

SIZE = 64
# Float64 keeps 1e-16 and gives 1e-13 through fifty layers.
close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-10)


def images(count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def theirs(name: str, **options: Any) -> nn.Module:
    """torchvision's network with random weights, none at its neutral value."""
    torch.manual_seed(0)
    model: nn.Module = getattr(torchvision.models, name)(num_classes=2, **options)
    stir(model)
    return model.double()


def ours(name: str, weights: Mapping[str, torch.Tensor]) -> nn.Module:
    """timm's network of batch norms with the same weights."""
    model = create_model(name, channels=3, classes=2, norm="batch", slice_size=SIZE).double()
    model.load_state_dict(dict(weights))
    return model


def gradients(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of a loss at all weights that learn."""
    logits: torch.Tensor = model(x)
    logits.square().sum().backward()
    return logits.detach(), {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


# -------------------- norms, in training


def test_batch_norm_takes_the_batch_s_statistics_and_keeps_their_average() -> None:
    source = theirs("resnet18")
    model = ours("resnet18", source.state_dict())
    set_training_mode(model)
    source.train()
    found, expected = gradients(model, images()), gradients(source, images())
    close(found, expected)
    close(model.state_dict(), source.state_dict())  # running statistics after one step


def test_frozen_batch_norm_is_torchvision_s_frozen_batch_norm() -> None:
    source = theirs("resnet18", norm_layer=torchvision.ops.misc.FrozenBatchNorm2d)
    with torch.no_grad():  # buffers, which `stir` leaves alone
        for layer in source.modules():
            if isinstance(layer, torchvision.ops.misc.FrozenBatchNorm2d):
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(std=0.3)
                layer.running_mean.normal_(std=0.3)
                layer.running_var.uniform_(0.5, 2.0)
    counts = {f"{name}.num_batches_tracked": torch.tensor(0) for name, _ in norms(source)}
    model = ours("resnet18", {**source.state_dict(), **counts})
    freeze_batch_norm(model)
    set_training_mode(model)
    source.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    close(gradients(model, images()), gradients(source, images()))
    close(model.state_dict(), before)  # no statistics moved


def norms(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kind = torchvision.ops.misc.FrozenBatchNorm2d
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kind)]


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_group_norm_in_place_of_batch_norm_is_torchvision_s_network_of_group_norms(name: str) -> None:
    source = theirs(name, norm_layer=lambda channels: nn.GroupNorm(32, channels))
    batch = create_model(name, channels=3, classes=2, norm="batch", slice_size=SIZE).double()
    model = ours(name, {**batch.state_dict(), **source.state_dict()})
    assert to_group_norm(model) == sum(isinstance(layer, nn.GroupNorm) for layer in source.modules())
    set_training_mode(model)
    source.train()
    close(gradients(model, images()), gradients(source, images()))


@pytest.mark.slow
def test_timm_s_resnet50_of_group_norms_is_torchvision_s() -> None:
    source = theirs("resnet50", norm_layer=lambda channels: nn.GroupNorm(32, channels))
    model = ours("resnet50_gn", source.state_dict())
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
    set_training_mode(model)
    source.train()
    close(gradients(model, images(2)), gradients(source, images(2)))


# -------------------- maps of all stages

Layout = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(values: torch.Tensor) -> torch.Tensor:
    return values


def channels_last(values: torch.Tensor) -> torch.Tensor:
    """``B h w C``, as Swin's stages are."""
    return values.permute(0, 3, 1, 2)


def tokens(values: torch.Tensor) -> torch.Tensor:
    """The class token, and then one token a patch, row by row."""
    patches = values[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    return patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def renamed(weights: Mapping[str, torch.Tensor], *rules: tuple[str, str]) -> dict[str, torch.Tensor]:
    """Tensors under timm's names; those that a rule renames to nothing are left out."""
    found = {}
    for name, tensor in weights.items():
        for pattern, text in rules:
            name = re.sub(pattern, text, name)
        if name:
            found[name] = tensor
    return found


def resnet() -> tuple[nn.Module, nn.Module, list[str], Layout]:
    source = theirs("resnet50", norm_layer=lambda channels: nn.GroupNorm(32, channels))
    return source, ours("resnet50_gn", source.state_dict()), [f"layer{n}" for n in range(1, 5)], as_it_is


def efficientnet() -> tuple[nn.Module, nn.Module, list[str], Layout]:
    source = theirs("efficientnet_b0")
    model = create_model("efficientnet_b0", channels=3, classes=2, norm="batch", slice_size=SIZE).double()
    names = model.state_dict().keys()  # the same layers in the same order
    model.load_state_dict(dict(zip(names, source.state_dict().values(), strict=True)))
    # timm's stages end where the resolution falls: after blocks 0, 1, 2, 4 and 6.
    return source, model, [f"features.{n}" for n in (1, 2, 3, 5, 7)], as_it_is


def convnext() -> tuple[nn.Module, nn.Module, list[str], Layout]:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    torch.manual_seed(0)
    widths = (8, 16, 32, 64)
    stages = [CNBlockConfig(w, n, 1) for w, n in zip(widths, (*widths[1:], None), strict=True)]
    source = ConvNeXt(stages, num_classes=2)
    stir(source)
    arguments = {"depths": (1, 1, 1, 1), "dims": widths, "conv_mlp": False}
    model = create_model("convnext_tiny", channels=3, classes=2, norm="batch", slice_size=SIZE, arguments=arguments)
    weights = renamed(
        source.state_dict(),
        (r"^features\.0\.(\d)\.\d\.", r"stem.\1."), (r"^features\.0\.", "stem."),
        *((rf"^features\.{2 * n + 1}\.", f"stages.{n}.blocks.") for n in range(4)),
        *((rf"^features\.{2 * n}\.", f"stages.{n}.downsample.") for n in range(1, 4)),
        (r"layer_scale", "gamma"), (r"block\.0", "conv_dw"), (r"block\.2", "norm"), (r"block\.3", "mlp.fc1"),
        (r"block\.5", "mlp.fc2"), (r"^classifier\.0", "head.norm"), (r"^classifier\.2", "head.fc"),
    )  # fmt: skip
    model.load_state_dict({name: t.flatten() if name.endswith("gamma") else t for name, t in weights.items()})
    return source.double(), model.double(), [f"features.{n}" for n in (1, 3, 5, 7)], as_it_is


def vit() -> tuple[nn.Module, nn.Module, list[str], Layout]:
    torch.manual_seed(0)
    source = torchvision.models.VisionTransformer(SIZE, 16, 3, 3, 48, 192, num_classes=2)
    stir(source)
    arguments = {"depth": 3, "embed_dim": 48}
    name = "vit_tiny_patch16_224"
    model = create_model(name, channels=3, classes=2, norm="batch", slice_size=SIZE, arguments=arguments)
    weights = renamed(
        source.state_dict(),
        (r"^class_token", "cls_token"), (r"^conv_proj", "patch_embed.proj"), (r"^encoder\.pos_embedding", "pos_embed"),
        (r"^encoder\.layers\.encoder_layer_", "blocks."), (r"\.ln_(\d)", r".norm\1"), (r"^encoder\.ln", "norm"),
        (r"self_attention\.in_proj_", "attn.qkv."), (r"self_attention\.out_proj", "attn.proj"),
        (r"mlp\.0", "mlp.fc1"), (r"mlp\.3", "mlp.fc2"), (r"^heads\.head", "head"),
    )  # fmt: skip
    model.load_state_dict(weights)
    return source.double(), model.double(), [f"encoder.layers.encoder_layer_{n}" for n in range(3)], tokens


def swin() -> tuple[nn.Module, nn.Module, list[str], Layout]:
    torch.manual_seed(0)
    source = torchvision.models.SwinTransformer([4, 4], 16, [2, 2, 2], [1, 2, 4], [4, 4], num_classes=2)
    stir(source)
    arguments = {"depths": (2, 2, 2), "num_heads": (1, 2, 4), "embed_dim": 16, "window_size": 4}
    name = "swin_tiny_patch4_window7_224"
    model = create_model(name, channels=3, classes=2, norm="batch", slice_size=SIZE, arguments=arguments)
    weights = renamed(
        source.state_dict(),
        (r".*relative_position_index$", ""),
        (r"^features\.0\.0", "patch_embed.proj"), (r"^features\.0\.2", "patch_embed.norm"),
        *((rf"^features\.{2 * n + 1}\.", f"layers.{n}.blocks.") for n in range(3)),
        *((rf"^features\.{2 * n}\.", f"layers.{n}.downsample.") for n in range(1, 3)),
        (r"mlp\.0", "mlp.fc1"), (r"mlp\.3", "mlp.fc2"), (r"^head", "head.fc"),
    )  # fmt: skip
    model.load_state_dict(weights)
    return source.double(), model.double(), [f"features.{n}" for n in (1, 3, 5)], channels_last


def expected_map(activation: torch.Tensor, gradient: torch.Tensor, kind: CamKind) -> torch.Tensor:
    """LayerCAM, ReLU(sum_k ReLU(g_k) A_k), or GradCAM, sum_k mean(g_k) A_k: ``B h w``."""
    if kind == "layercam":
        return torch.einsum("bkij,bkij->bij", gradient.relu(), activation).relu()
    return torch.einsum("bk,bkij->bij", gradient.mean((2, 3)), activation)


@pytest.mark.parametrize("make", [pytest.param(resnet, marks=pytest.mark.slow), efficientnet, convnext, vit, swin])
def test_logits_and_maps_are_those_of_torchvision_s_network(make: Callable[[], Any]) -> None:
    source, model, layers, layout = make()
    source.eval()
    x = images(2)[:, :1].expand(-1, 3, -1, -1).contiguous()
    outputs: dict[str, torch.Tensor] = {}
    for name in layers:
        source.get_submodule(name).register_forward_hook(lambda *call, name=name: outputs.update({name: call[-1]}))
    logits = source(x)
    # A stage on which no logit depends gives no map: a transformer's last one may leave all to the class token.
    found = torch.autograd.grad(logits[:, 1].sum(), [outputs[name] for name in layers])
    encoder = Classifier(model, ("healthy", "lesion"), channels=3)
    assert encoder.stages == len(layers)
    close(encoder.logits(x[:, 0]), logits.detach().to(torch.float64))
    usable = encoder.stages_with_maps(1, SIZE)
    assert len(usable) >= len(layers) - 1
    for stage, (name, gradient) in enumerate(zip(layers, found, strict=True), start=1):
        activation, gradient = layout(outputs[name].detach()), layout(gradient)
        assert bool(gradient.any()) == (stage in usable), name
        for kind in ("layercam", "gradcam") if stage in usable else ():
            maps = encoder.cam(x[:, 0], [(1, stage)], kind)[1][1, stage]
            close(maps, expected_map(activation, gradient, kind))  # type: ignore[arg-type]


def groups_of(channels: int, **options: Any) -> nn.Module:
    """Torch's group norm of as many groups as 32 and the channels have in common."""
    return nn.GroupNorm(math.gcd(32, channels), channels, **options)


def test_the_paper_s_smallest_encoder_of_group_norms_is_timm_s_own() -> None:
    """resnet10t, which torchvision has not: timm makes it of torch's group norms itself, layer by layer."""
    torch.manual_seed(0)
    # Its stem has 24 channels, which make 8 groups.
    source = timm.create_model("resnet10t", in_chans=3, num_classes=2, norm_layer=groups_of).double()
    stir(source)
    model = create_model("resnet10t", channels=3, classes=2, norm="group", slice_size=SIZE).double()
    model.load_state_dict(source.state_dict())
    close(gradients(model, images()), gradients(source, images()))
