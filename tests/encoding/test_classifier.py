"""timm models as encoders: logits and maps of every kind of network, and what the shortcuts must not change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from tests.networks import random_network
from tonno_core.encoding import classifier as classifier_module
from tonno_core.encoding.classifier import Classifier, create_model, stage_modules, try_slice
from tonno_core.encoding.encoder import check_finite
from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind

# Slice size, and the cells along the side of each stage's maps: the size over the stage's stride, rounded up.
ENCODERS: dict[str, tuple[int, list[int]]] = {
    "resnet10t": (64, [16, 8, 4, 2]),
    "resnet50_gn": (64, [16, 8, 4, 2]),
    "tf_efficientnet_lite0": (64, [32, 16, 8, 4, 2]),
    "convnext_atto": (64, [16, 8, 4, 2]),
    "vit_tiny_patch16_224": (48, [3] * 12),
    "swin_tiny_patch4_window7_224": (56, [14, 7, 4, 2]),
}


def slices(size: int, count: int = 3, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, size, size, generator=torch.Generator().manual_seed(1))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def classifier(model: nn.Module, *, channels: int = 1, classes: int = 1, **options: Any) -> Classifier:
    return Classifier(model, tuple("abcdefgh"[:classes]), channels=channels, **options)


# -------------------- every kind of network


@pytest.mark.parametrize("name", ENCODERS)
def test_logits_and_maps_of_every_stage(name: str) -> None:
    size, cells = ENCODERS[name]
    check_logits_and_maps(name, 3, 2, size, cells)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_logits_and_maps_of_one_channel_and_one_class(name: str) -> None:
    check_logits_and_maps(name, 1, 1, *ENCODERS[name])


def check_logits_and_maps(name: str, channels: int, classes: int, size: int, cells: list[int]) -> None:
    model = random_network(name, channels=channels, classes=classes, size=size)
    encoder = classifier(model, channels=channels, classes=classes)
    batch = slices(size, 2)
    with torch.no_grad():  # the model as timm runs it, with the slice in every channel
        expected = model(batch[:, None].repeat(1, channels, 1, 1))
    logits = encoder.logits(batch)
    assert logits.shape == (2, classes)
    # float32 keeps 1e-7; tens of layers in another order (folded norms, channels last) keep 1e-5.
    assert relative(logits, expected) < 1e-5
    assert encoder.stages == len(cells)
    usable = len(cells) - ("vit" in name)  # after a vision transformer's last block only the class token counts
    for stage, side in enumerate(cells[:usable], start=1):
        found, by_key = encoder.cam(batch, [(classes - 1, stage)], "gradcam")
        maps = by_key[classes - 1, stage]
        assert relative(found, expected) < 1e-5
        assert maps.shape == (2, side, side)
        assert maps.isfinite().all()
        assert (maps != 0).any()
        # LayerCAM keeps the evidence for the class only.
        assert (encoder.cam(batch, [(classes - 1, stage)], "layercam")[1][classes - 1, stage] >= 0).all()


@pytest.mark.parametrize(
    ("name", "first", "stages"),
    [
        ("resnet10t", "layer1", 4),  # the paper's layer1 .. layer4
        ("mobilenetv3_small_050", "blocks.0", 4),  # timm's first feature there is the stem's norm, bn1
        ("densenet121", "features.denseblock1", 4),  # ... features.norm0
        ("repvgg_a0", "stages.0", 4),  # the last stage is named after a layer without weights
        ("hrnet_w18_small", "stage1", 4),  # names that no module has
        ("mvitv2_tiny", "block.0", 4),
    ],
)
def test_stages_are_counted_after_the_stem_whatever_they_are_called(name: str, first: str, stages: int) -> None:
    model = random_network(name, size=64)
    modules = stage_modules(model)
    assert modules[0][1] == first
    assert len(modules) == stages
    encoder = classifier(model)
    for stage in (1, stages):
        _, by_key = encoder.cam(slices(64, 2), [(0, stage)], "gradcam")
        maps = by_key[0, stage]
        assert maps.shape == (2, 32 >> stage, 32 >> stage)
        assert (maps != 0).any()


def test_a_model_of_several_branches_gives_logits() -> None:
    # CoaT hands a list of features to its head.
    encoder = classifier(random_network("coat_tiny", size=64, classes=2), classes=2)
    assert encoder.logits(slices(64, 2)).shape == (2, 2)


# -------------------- the numbers, against others' and against plain autograd


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_layercam_is_that_of_torch_cam(name: str) -> None:
    torchcam = pytest.importorskip("torchcam.methods", reason="torch-cam needs Python 3.11")
    model = random_network(name, classes=3, size=64)
    encoder = classifier(model, classes=3)
    batch = slices(64)
    for stage, (_, module) in enumerate(stage_modules(model), start=1):
        with torchcam.LayerCAM(model, module, input_shape=(1, 64, 64)) as extractor:
            scores = model(batch[:, None])
            (expected,) = extractor(class_idx=2, scores=scores, normalized=False)
        assert expected.max() > 0
        # float32 through the whole network, folded norms on our side only.
        assert relative(encoder.cam(batch, [(2, stage)], "layercam")[1][2, stage], expected) < 1e-4


def test_layercam_of_a_transformer_is_that_of_torch_cam() -> None:
    torchcam = pytest.importorskip("torchcam.methods", reason="torch-cam needs Python 3.11")
    model = random_network("vit_tiny_patch16_224", classes=2, size=48)
    encoder = classifier(model, classes=2)
    batch = slices(48)

    def to_image(tokens: torch.Tensor) -> torch.Tensor:  # without the class token
        return tokens[:, 1:].reshape(len(tokens), 3, 3, -1).permute(0, 3, 1, 2)

    for stage in (1, 6, 11):
        with torchcam.LayerCAM(model, f"blocks.{stage - 1}", (1, 48, 48), reshape_transform=to_image) as extractor:
            (expected,) = extractor(class_idx=1, scores=model(batch[:, None]), normalized=False)
        # float32 through the layers between the stage and the logit, in another order.
        assert relative(encoder.cam(batch, [(1, stage)], "layercam")[1][1, stage], expected) < 1e-4


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_gradcam_is_the_signed_sum_that_plain_autograd_gives(name: str) -> None:
    size, _ = ENCODERS[name]
    model = random_network(name, classes=2, size=size)
    encoder = classifier(model, classes=2)
    batch = slices(size)
    channels_first = (0, 3, 1, 2) if "swin" in name else (0, 1, 2, 3)
    signs = set()
    for stage, (_, module) in enumerate(stage_modules(model), start=1):
        activation, gradient = autograd(model, module, batch, 1)
        weights = gradient.permute(channels_first).mean(dim=(2, 3), keepdim=True)
        expected = (weights * activation.permute(channels_first)).sum(1)
        signs |= set(expected.sign().unique().tolist())
        assert relative(encoder.cam(batch, [(1, stage)], "gradcam")[1][1, stage], expected) < 1e-4  # float32, as above
    assert {-1.0, 1.0} <= signs  # evidence against the class is not cut off


def autograd(model: nn.Module, module: str, batch: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's output and the logit's gradient there, by a hook and a backward pass through all of the model."""
    kept: list[torch.Tensor] = []
    with model.get_submodule(module).register_forward_hook(lambda *call: kept.append(call[-1])):
        logits = model(batch[:, None])
    (gradient,) = torch.autograd.grad(logits[:, index].sum(), kept[0])
    return kept[0].detach(), gradient


# -------------------- several stages in one pass


@pytest.mark.parametrize("name", [*ENCODERS, "hrnet_w18_small"])
@pytest.mark.parametrize("kind", ["layercam", "gradcam"])
def test_maps_of_one_pass_are_what_each_is_alone(name: str, kind: CamKind, monkeypatch: pytest.MonkeyPatch) -> None:
    size, cells = ENCODERS.get(name, (64, [16, 8, 4, 2]))
    encoder = classifier(random_network(name, classes=2, size=size), classes=2)
    count = len(cells) - (name == "vit_tiny_patch16_224")  # the last block's patch tokens do not reach the logit
    # All stages of a class and one of another, in the order of asking, whatever the network's.
    asked = [*((1, stage) for stage in (*range(2, count + 1), 1)), (0, 2)]
    batch = slices(size, 2)
    alone = [encoder.cam(batch, [key], kind) for key in asked]
    passes = count_backward_passes(monkeypatch)
    forward = count_forward_passes(encoder, monkeypatch)
    logits, maps = encoder.cam(batch, asked, kind)
    assert (len(forward), len(passes)) == (1, 2)  # back, once for each class
    assert list(maps) == asked
    for key, (logits_alone, maps_alone) in zip(asked, alone, strict=True):
        # The same operations; where the graph begins earlier, some kernels add in another order: float32.
        assert relative(logits, logits_alone) < 1e-5
        assert relative(maps[key], maps_alone[key]) < 1e-4


# -------------------- shortcuts


def count_forward_passes(encoder: Classifier, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The inputs of each forward pass from now on."""
    passes: list[torch.Tensor] = []
    original = encoder.model.forward_intermediates

    def counting(inputs: torch.Tensor, **options: object) -> object:
        passes.append(inputs)
        return original(inputs, **options)

    monkeypatch.setattr(encoder.model, "forward_intermediates", counting)
    return passes


def count_backward_passes(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The logits of each backward pass from now on."""
    passes: list[torch.Tensor] = []
    original: Callable[[torch.Tensor, Sequence[torch.Tensor]], list[torch.Tensor]] = classifier_module.gradients_at

    def counting(logits: torch.Tensor, activations: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        passes.append(logits)
        return original(logits, activations)

    monkeypatch.setattr(classifier_module, "gradients_at", counting)
    return passes


def test_the_last_stage_of_a_resnet_needs_no_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_network("resnet10t", classes=2)
    encoder = classifier(model, classes=2)
    encoder.cam(slices(32), [(1, 4)], "layercam")
    passes = count_backward_passes(monkeypatch)
    for kind in ("layercam", "gradcam"):
        _, by_key = encoder.cam(slices(32), [(1, 4)], kind)
        maps = by_key[1, 4]
        activation, gradient = autograd(model, "layer4", slices(32), 1)
        positive = gradient.clamp_min(0) if kind == "layercam" else gradient
        assert relative(maps, (positive * activation).sum(1)) < 1e-5  # float32
    assert passes == []


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("resnet10t", 3),
        ("tf_efficientnet_lite0", 5),  # a convolution and an activation stand between its last stage and the pool
        ("convnext_atto", 4),  # a layer norm after the pool
        ("resnetv2_18", 4),  # a norm and an activation after the last stage, of the same shape
    ],
)
def test_where_the_gradient_varies_each_batch_has_its_backward_pass(
    name: str, stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = classifier(random_network(name))
    encoder.cam(slices(32), [(0, stage)], "layercam")
    passes = count_backward_passes(monkeypatch)
    encoder.cam(slices(32), [(0, stage)], "layercam")
    assert len(passes) == 1


def test_a_network_for_large_intensities_is_not_taken_for_a_linear_one() -> None:
    # Trained on scans of 0 to 4000, it answers alike to all slices of a few units, as if it were linear there.
    model = random_network("resnet10t")
    first = next(layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    first.running_var.fill_(1e8)  # type: ignore[union-attr]
    encoder = classifier(model)
    batch = slices(32, scale=1e4)
    activation, gradient = autograd(model, "layer3", batch, 0)
    assert not torch.allclose(gradient[0], gradient[1])
    expected = (gradient.clamp_min(0) * activation).sum(1)
    assert relative(encoder.cam(batch, [(0, 3)], "layercam")[1][0, 3], expected) < 1e-4  # float32, folded norms


@pytest.mark.parametrize("name", ENCODERS)
def test_the_backward_pass_ends_at_the_stage(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, cells = ENCODERS[name]
    encoder = classifier(random_network(name, size=size))
    passes = count_backward_passes(monkeypatch)
    stage = len(cells) // 2
    encoder.cam(slices(size, 2), [(0, stage)], "layercam")
    within = encoder.model.get_submodule(stage_modules(encoder.model)[stage - 1][1])
    last = list(within.parameters())[-1]
    assert leaves(passes[-1]) == {id(last)}
    # Nothing is left behind that would make the next plain forward record a graph.
    assert not any(weight.requires_grad for weight in encoder.model.parameters())
    assert all(weight.grad is None for weight in encoder.model.parameters())


def leaves(result: torch.Tensor) -> set[int]:
    """Identities of the tensors at the far ends of a result's graph."""
    found, queue, seen = set(), [result.grad_fn], set()
    while queue:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        queue += [following for following, _ in node.next_functions]
    return found


def test_the_users_model_and_slices_stay_as_they_are() -> None:
    model = random_network("resnet10t")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = slices(32)
    classifier(model).cam(batch, [(0, 2)], "layercam")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())
    assert torch.equal(batch, slices(32))
    assert not batch.requires_grad


def test_a_batch_gives_what_its_slices_give_alone() -> None:
    encoder = classifier(random_network("resnet10t"))
    batch = slices(32)
    logits, by_key = encoder.cam(batch, [(0, 2)], "layercam")
    maps = by_key[0, 2]
    for i in range(3):
        alone, by_key = encoder.cam(batch[i : i + 1], [(0, 2)], "layercam")
        own = by_key[0, 2]
        # Convolutions of one and of three slices add in another order: float32.
        assert relative(alone, logits[i : i + 1]) < 1e-5
        assert relative(own, maps[i : i + 1]) < 1e-4


# -------------------- precision


def test_bfloat16_is_close_to_float32_and_its_logits_are_not_rounded() -> None:
    model = random_network("resnet10t", classes=2, size=64)
    exact, reduced = classifier(model, classes=2), classifier(model, classes=2, precision=torch.bfloat16)
    batch = slices(64)
    logits = reduced.logits(batch)
    assert logits.dtype == torch.float32
    # bfloat16 rounds to 2^-9 = 0.2 %, in each of ten layers; the logit adds 512 terms whose errors average out.
    features = model.forward_head(model.forward_features(batch[:, None]), pre_logits=True)  # type: ignore[operator]
    terms = (features[:, None] * model.fc.weight).abs().sum(2)  # type: ignore[union-attr, operator]
    assert ((logits - exact.logits(batch)).abs() < 0.002 * terms).all()
    # The pool and the last layer run in float32, so that the second derivative sees no steps.
    assert not torch.equal(logits, logits.bfloat16().float())
    for stage in range(1, 5):
        maps = reduced.cam(batch, [(0, stage)], "layercam")[1][0, stage]
        assert maps.dtype == torch.float32
        # Forward and backward through ten layers and ReLUs that fall the other way: measured 4.5 % at stage 1.
        assert relative(maps, exact.cam(batch, [(0, stage)], "layercam")[1][0, stage]) < 0.08


# -------------------- what cannot be done is said


@pytest.mark.parametrize("kind", ["layercam", "gradcam"])
def test_cells_after_the_last_block_of_a_class_token_transformer(kind: CamKind) -> None:
    encoder = classifier(random_network("vit_tiny_patch16_224", size=32))
    with pytest.raises(TonnoError, match=r"`stage` 12: .* does not depend .* choose a `stage` from 1 to 11"):
        encoder.cam(slices(32), [(0, 12)], kind)
    encoder.cam(slices(32), [(0, 11)], kind)


def test_the_stages_that_give_maps() -> None:
    assert classifier(random_network("resnet10t")).stages_with_maps(0, 32) == (1, 2, 3, 4)
    transformer = classifier(random_network("vit_tiny_patch16_224", size=32))
    assert transformer.stages_with_maps(0, 32) == tuple(range(1, 12))


def test_an_untrained_head_of_zeros_is_named() -> None:
    model = random_network("resnet10t")
    nn.init.zeros_(model.fc.weight)  # type: ignore[arg-type, union-attr]
    with pytest.raises(TonnoError, match="`stage` 1: the logit of class 'a' does not depend"):
        classifier(model).cam(slices(32), [(0, 1)], "layercam")


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_logits_that_are_not_numbers(precision: torch.dtype) -> None:
    model = random_network("resnet10t")
    # 1e5 is a number in float32 but beyond float16's 65504; the square of 1e30 is beyond float32 too.
    nn.init.constant_(model.conv1[0].weight, 1e5 if precision == torch.float16 else 1e30)  # type: ignore[index, arg-type, union-attr]
    logits = classifier(model, precision=precision).logits(
        slices(32, scale=1e30 if precision == torch.float32 else 1.0)
    )
    with pytest.raises(TonnoError, match="not finite numbers; try `precision` float32"):
        check_finite(logits)


def test_an_unknown_encoder_is_named_with_its_neighbours() -> None:
    with pytest.raises(TonnoError, match=r"'resnet10x' is not a timm model; did you mean resnet10t"):
        create_model("resnet10x", channels=1, classes=1, norm="batch", slice_size=32)
    with pytest.raises(TonnoError, match=r"'quux' is not a timm model \(timm.list_models"):
        create_model("quux", channels=1, classes=1, norm="batch", slice_size=32)


def test_slices_too_small_for_a_model() -> None:
    model = random_network("inception_v3")  # its unpadded convolutions need 75 pixels
    with pytest.raises(TonnoError, match=r"encoder inception_v3 cannot take slices of 32 x 32 pixels"):
        try_slice(classifier(model), 32, "inception_v3")


def test_a_hub_that_does_not_answer_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(TonnoError, match=r"`weights` imagenet: .*pretrained=True.*give `weights` FILE$"):
        create_model("resnet10t", channels=1, classes=1, norm="batch", slice_size=32, imagenet=True)
    assert time.monotonic() - begun < 10  # the client's own attempts take 55 s
    assert not constants.HF_HUB_OFFLINE


def test_weights_that_were_fetched_before_need_no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = timm.create_model("resnet10t").state_dict()
    kept = tmp_path / "models--timm--resnet10t.c3_in1k"
    (kept / "snapshots" / "0123abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123abc")
    save_file(weights, kept / "snapshots" / "0123abc" / "model.safetensors")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    model = create_model("resnet10t", channels=1, classes=1, norm="batch", slice_size=32, imagenet=True)
    assert time.monotonic() - begun < 10  # see above
    found = model.state_dict()
    assert torch.equal(found["layer1.0.conv1.weight"], weights["layer1.0.conv1.weight"])
    torch.testing.assert_close(found["conv1.0.weight"], weights["conv1.0.weight"].sum(1, keepdim=True))


def test_weights_that_no_hub_gives(monkeypatch: pytest.MonkeyPatch, connections: list[str]) -> None:
    def no_network(*args: object, **options: object) -> None:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr(classifier_module.timm, "create_model", no_network)
    with pytest.raises(TonnoError, match=r"`weights` imagenet: .*\(no route to host\).*give `weights` FILE$"):
        create_model("resnet10t", channels=1, classes=1, norm="batch", slice_size=32, imagenet=True)
    connections.clear()  # the hub is asked where the weights are
