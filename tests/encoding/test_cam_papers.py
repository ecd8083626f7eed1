"""GradCAM++ and ScoreCAM against their papers in float64, at every stage of networks of convolutions and of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.hooks import exact_network, stages_by_hooks, stir
from tests.reference import Array, gradcam_plus_plus, score_cam
from tonno_core.encoding.cam import activation_map, channel_masks
from tonno_core.encoding.classifier import Classifier, stage_modules
from tonno_core.encoding.encoder import PixelSum
from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind

# The network, and the stages that are compared: all that give maps.
NETWORKS = {
    "test_resnet": (1, 2, 3, 4),
    "test_efficientnet": (1, 2, 3, 4, 5),  # activations of both signs, depthwise
    "test_convnext": (1, 2, 3, 4),  # layer norm, GELU
    "test_vit": (1, 2, 3, 4, 5),  # tokens; the last block's do not reach the class token
    "swin": (1, 2, 3, 4),  # windows of tokens, B h w C
}
SIZE = 48
KINDS: tuple[CamKind, ...] = ("gradcam++", "scorecam")


def network(name: str) -> nn.Module:
    if name != "swin":
        return exact_network(name, SIZE)
    torch.manual_seed(0)
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", in_chans=1, num_classes=2, img_size=SIZE, embed_dim=16, depths=(1, 1, 1, 1),
        num_heads=(1, 2, 4, 8), window_size=1,
    )  # fmt: skip
    stir(model)
    exact: nn.Module = model.double().eval()
    return exact


def blobs(count: int = 1) -> torch.Tensor:
    """Slices that show something: noise of some pixels' width, and a border of nothing."""
    noise = torch.randn(count, 1, 10, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    slices = nn.functional.interpolate(noise, (SIZE, SIZE), mode="bicubic")[:, 0]
    slices[:, :3] = 0.0
    return slices


def relative(found: torch.Tensor, expected: torch.Tensor | Array) -> float:
    expected = torch.as_tensor(expected)
    if float(expected.abs().max()) < 1e-12:  # of maps with a single cell, which masks nothing
        return float(found.abs().max())
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NETWORKS)
def test_both_are_what_their_papers_say_at_every_stage(name: str) -> None:
    model, slices = network(name), blobs()
    inputs, exact = slices[:, None], Classifier(model, ("a", "b"), channels=1)
    single = Classifier(model.float(), ("a", "b"), channels=1)
    model.double()
    assert exact.stages_with_maps(1, SIZE) == NETWORKS[name]

    features = [feature for feature, _ in stage_modules(model)]
    by_class = [list(stages_by_hooks(model, inputs, features, index)) for index in (0, 1)]
    known: dict[bytes, Array] = {}

    @torch.no_grad()
    def scores(images: Array) -> Array:
        key = images.tobytes()
        if key not in known:  # the same masks for both classes
            known[key] = model(torch.from_numpy(images)).numpy()
        return known[key]

    shown = 0
    for stage in NETWORKS[name]:
        asked = [(0, stage), (1, stage)]
        found = {kind: exact.cam(slices, asked, kind) for kind in KINDS}
        # ScoreCAM in float32 of token networks alone: tests/test_reconstruction.py has convolutions.
        rounded = KINDS if name in ("test_vit", "swin") else KINDS[:1]
        again = {kind: single.cam(slices.float(), asked, kind)[1] for kind in rounded}
        for index in (0, 1):
            activation, gradient = by_class[index][stage - 1]
            a, g = activation.numpy(), gradient.numpy()
            expected: dict[CamKind, Array] = {
                "gradcam++": gradcam_plus_plus(a[0], g[0])[None],
                "scorecam": score_cam(inputs.numpy()[0], a[0], lambda images, index=index: scores(images)[:, index])[
                    None
                ],
            }
            for kind, maps in expected.items():
                logits, by_key = found[kind]
                np.testing.assert_allclose(logits.numpy(), scores(inputs.numpy()), rtol=1e-6, atol=1e-9)
                # Float64 keeps 1e-16; networks that compute attention in float32, 1e-7.
                assert relative(by_key[index, stage], maps) < 1e-6, (index, stage, kind)
                # The bar is 1e-3. Float32 keeps 1e-7, through tens of layers 1e-5; ScoreCAM's weights are differences.
                if kind in again:
                    assert relative(again[kind][index, stage].double(), maps) < 3e-4, (index, stage, kind)
                shown += bool(maps.max() > 1e-12)
    # Where all that there is speaks against a class, which random networks may say, a map is empty.
    assert shown >= 2 * len(NETWORKS[name])


# --- GradCAM++


def test_the_weights_of_gradcam_plus_plus_are_those_of_its_definition() -> None:
    """alpha of the paper's eq. 10 by autograd: second and third derivatives of Y = exp(S), cell by cell."""
    model: Any = exact_network("resnet10t", SIZE)
    image = blobs(1)[:, None]
    with torch.no_grad():
        a = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(image))))))

    def score(cell: torch.Tensor, where: tuple[int, int, int]) -> torch.Tensor:
        changed = a.clone()
        changed[0, where[0], where[1], where[2]] = cell
        return model.fc(model.layer4(model.layer3(changed)).mean(dim=(2, 3)))[0, 1].exp()  # type: ignore[no-any-return]

    alone = a.clone().requires_grad_(True)
    logit = model.fc(model.layer4(model.layer3(alone)).mean(dim=(2, 3)))[0, 1]
    (gradient,) = torch.autograd.grad(logit, alone)
    channel, weight = int((gradient.clamp_min(0) * a).sum(dim=(2, 3)).argmax()), 0.0
    for row, column in np.ndindex(*a.shape[2:]):
        cell = a[0, channel, row, column].clone().requires_grad_(True)
        value = score(cell, (channel, row, column))
        (first,) = torch.autograd.grad(value, cell, create_graph=True)
        (second,) = torch.autograd.grad(first, cell, create_graph=True)
        (third,) = torch.autograd.grad(second, cell)
        alpha = second / (2 * second + a[0, channel].sum() * third)
        weight += float((alpha * first.clamp_min(0) / value).detach())
    found = activation_map(a[:, [channel]], gradient[:, [channel]], "gradcam++")
    assert weight > 0
    # Float64 through three derivatives; a ReLU network is linear around a point.
    torch.testing.assert_close(found[0], weight * a[0, channel], rtol=1e-8, atol=1e-12)


def test_gradcam_plus_plus_by_hand() -> None:
    activation = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
    gradient = torch.tensor([[[[0.5, -1.0]], [[0.0, 0.25]]]])
    # Channel 1: 0.5 / (2 + 4 * 0.5) = 1/8; channel 2: 0.25 / (2 + 2 * 0.25) = 1/10.
    expected = torch.tensor([[[1 / 8 + 2 / 10, 3 / 8]]])
    torch.testing.assert_close(activation_map(activation, gradient, "gradcam++"), expected)
    torch.testing.assert_close(activation_map(activation, gradient[:1], "gradcam++"), expected)


def test_gradcam_plus_plus_stays_finite_where_activations_are_negative() -> None:
    """The paper's denominator, 2 + g sum A, would be zero for an activation without a ReLU before it."""
    activation, gradient = torch.tensor([[[[-4.0, 0.0]]]]), torch.tensor([[[[0.5, 0.0]]]])
    assert activation_map(activation, gradient, "gradcam++").tolist() == [[[0.0, 0.0]]]
    assert activation_map(-activation, gradient, "gradcam++").tolist() == [[[0.5, 0.0]]]


# --- ScoreCAM


def test_masks_are_enlarged_and_span_zero_to_one() -> None:
    masks = channel_masks(torch.tensor([[[1.0, 3.0], [1.0, 3.0]]]), 4, torch.float32)
    torch.testing.assert_close(masks, torch.tensor([[0.0, 0.25, 0.75, 1.0]] * 4)[None])


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-30])
def test_a_channel_without_a_place_masks_everything(value: float) -> None:
    assert not channel_masks(torch.full((1, 3, 3), value), 8, torch.float32).any()
    wobbling = torch.full((1, 3, 3), 3.0) * (1 + 1e-8 * torch.rand(1, 3, 3))  # what rounding leaves of a constant
    assert not channel_masks(wobbling, 8, torch.float32).any()


def test_how_many_go_through_the_network_together_changes_nothing() -> None:
    encoder, slices = Classifier(network("test_resnet"), ("a", "b"), channels=1), blobs(3)
    asked = [(0, 1), (1, 1), (1, 2)]
    logits, expected = encoder.cam(slices, asked, "scorecam")
    seen: list[int] = []
    body = encoder.model.forward_features
    encoder.model.forward_features = lambda x: (seen.append(len(x)), body(x))[1]
    for at_once in (7, 50, 1000):
        seen.clear()
        again, found = encoder.cam(slices, asked, "scorecam", at_once)
        torch.testing.assert_close(again, logits)
        assert max(seen) <= at_once
        # All stages and classes from the passes that were foretold: the first is not of `forward_features` alone.
        assert sum(seen) == 1 + len(slices) * (encoder.passes({1, 2}, SIZE) - 1)
        for key, maps in expected.items():
            torch.testing.assert_close(found[key], maps, rtol=1e-9, atol=1e-12)  # sums in another order, in float64


def test_a_stage_without_maps_is_refused() -> None:
    with pytest.raises(TonnoError, match="`stage` 6: the logit of class 'b' does not depend"):
        Classifier(network("test_vit"), ("a", "b"), channels=1).cam(blobs(1), [(1, 6)], "scorecam")


def test_passes_are_one_and_the_channels() -> None:
    encoder = Classifier(network("resnet10t"), ("a", "b"), channels=1)
    assert [encoder.passes({stage}, SIZE) for stage in (1, 2, 3, 4)] == [65, 129, 257, 513]
    assert encoder.passes({2, 3}, SIZE) == 385
    assert PixelSum().passes({1, 2}, SIZE) == 1


# --- other people's


def test_score_cam_before_its_softmax_is_that_of_torch_cam() -> None:
    """torch-cam's weights are a softmax over the scores, which their logarithm undoes up to a constant.

    It scales channels before it enlarges them, we after that, as the paper: the same where the enlarged ones hold the
    cells' own values, which 3 cells to 9 pixels do.
    """
    torchcam = pytest.importorskip("torchcam.methods", reason="torch-cam needs Python 3.11")

    model = network("resnet10t").float()
    inputs = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    extractor = torchcam.ScoreCAM(model, ["layer1"])
    with torch.no_grad():
        model(inputs)
        activation = extractor.hook_a[0].clone()
        scores = extractor._get_weights(1)[0][0].log()
    extractor.remove_hooks()
    assert activation.shape == (1, 64, 3, 3)
    with torch.no_grad():
        masks = channel_masks(activation[0], 9, torch.float32)
        ours = (model(inputs * masks[:, None]) - model(torch.zeros_like(inputs)))[:, 1]
    # Float32 through a network and a logarithm of 1/64.
    torch.testing.assert_close(ours - ours.mean(), scores - scores.mean(), rtol=1e-3, atol=1e-5)
    expected = (ours[:, None, None] * activation[0]).sum(0).clamp_min(0)
    found = Classifier(model, ("a", "b"), channels=1).cam(inputs[:, 0], [(1, 1)], "scorecam")[1][1, 1]
    assert relative(found[0], expected) < 1e-4  # float32, folded norms
