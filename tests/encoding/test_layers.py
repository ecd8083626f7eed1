"""Any module as an encoder: maps by hooks equal those of timm's stages, and what cannot be a classifier is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tonno_core as tonno
from tests.hooks import exact_network, stir
from tests.networks import write_random_bundle
from tests.training.toy import toy_scan
from tonno_core.bundle.ready import prepare_module
from tonno_core.encoding.cam import activation_map
from tonno_core.encoding.classifier import Classifier, stage_modules
from tonno_core.encoding.layers import LayeredModel
from tonno_core.errors import TonnoError, TonnoWarning
from tonno_core.settings import CamKind

KINDS: tuple[CamKind, ...] = ("layercam", "gradcam")


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def slices(size: int = 64) -> torch.Tensor:
    return torch.randn(2, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(
    "name",
    ["test_resnet", "test_convnext", "test_efficientnet", pytest.param("densenet121", marks=pytest.mark.slow)],
)
def test_maps_of_named_layers_are_those_of_timm_s_stages(name: str) -> None:
    model = exact_network(name, 64)
    stages = stage_modules(model)
    timm_s = Classifier(model, ("a", "b"), channels=1)
    ours = Classifier(
        LayeredModel(model, [layer for _, layer in stages], channels=1, slice_size=64), ("a", "b"), channels=1
    )
    assert ours.stages_with_maps(1, 64) == timm_s.stages_with_maps(1, 64)
    asked = [(index, stage) for index in (0, 1) for stage in range(1, len(stages) + 1)]
    for kind in KINDS:
        logits, maps = ours.cam(slices(), asked, kind)
        expected_logits, expected = timm_s.cam(slices(), asked, kind)
        assert relative(logits, expected_logits) < 1e-6  # float64 keeps 1e-16 and gives 1e-14 here
        for key in asked:
            assert relative(maps[key], expected[key]) < 1e-6, key
    assert torch.equal(ours.logits(slices()), ours.cam(slices(), [(0, 1)], "layercam")[0])


FOREIGN = {
    "torchvision resnet18": ("layer1", "layer4"),
    "torchvision densenet121": ("features.denseblock1", "features.denseblock4"),
    "torchvision efficientnet_b0": ("features.3", "features.7"),
    "monai DenseNet121": ("features.denseblock1", "features.denseblock4"),
    "monai SEResNet50": ("layer1", "layer4"),
}


def foreign(name: str) -> tuple[nn.Module, int]:
    """A network of another library in float64 with random weights, and its input channels."""
    library, _, kind = name.partition(" ")
    torch.manual_seed(0)
    if library == "torchvision":
        model, channels = getattr(pytest.importorskip("torchvision").models, kind)(num_classes=2), 3
    else:
        options: dict[str, Any] = {"spatial_dims": 2, "in_channels": 1}
        options |= {"num_classes": 2} if kind == "SEResNet50" else {"out_channels": 2}
        model, channels = getattr(pytest.importorskip("monai.networks.nets"), kind)(**options), 1
    stir(model)
    return model.double().eval(), channels


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("resnet18" not in name)) for name in FOREIGN]
)
def test_maps_of_other_libraries_networks_are_those_of_autograd(name: str) -> None:
    model, channels = foreign(name)
    layers = FOREIGN[name]
    encoder = Classifier(LayeredModel(model, layers, channels=channels, slice_size=64), ("a", "b"), channels=channels)
    inputs = slices()[:, None].repeat(1, channels, 1, 1)
    outputs: dict[str, torch.Tensor] = {}

    def keep(layer: str, output: torch.Tensor) -> torch.Tensor:
        outputs[layer] = output
        return output.clone()

    for layer in layers:
        model.get_submodule(layer).register_forward_hook(lambda *call, layer=layer: keep(layer, call[-1]))
    logits = model(inputs.requires_grad_(True))
    gradients = torch.autograd.grad(logits[:, 1].sum(), [outputs[layer] for layer in layers])
    assert relative(encoder.logits(slices()), logits.detach()) < 1e-6
    for stage, (layer, gradient) in enumerate(zip(layers, gradients, strict=True), start=1):
        for kind in KINDS:
            found = encoder.cam(slices(), [(1, stage)], kind)[1][1, stage]
            assert relative(found, activation_map(outputs[layer].detach(), gradient, kind)) < 1e-6, (layer, kind)


class Changing(nn.Module):
    """Changes in place what its layer put out."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.shared = nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True)
        self.last = nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.shared(self.convolution(images).mul_(2)).mean((2, 3))))  # type: ignore[no-any-return]


def test_a_layer_is_what_it_put_out_not_what_later_layers_make_of_it_in_place() -> None:
    torch.manual_seed(0)
    model = Changing().double()
    layered = LayeredModel(model, ["convolution"], channels=1, slice_size=16)
    encoder = Classifier(layered, ("a",), channels=1)
    activation = model.convolution(slices(16)[:, None])
    assert torch.equal(layered.forward_intermediates(slices(16)[:, None], [0])[1][0], activation)
    gradient = 2 * (activation > 0) * model.last.weight[0, :, None, None] / 14**2
    found = encoder.cam(slices(16), [(0, 1)], "layercam")[1][0, 1]
    torch.testing.assert_close(found, activation_map(activation.detach(), gradient.detach(), "layercam"))
    assert model.training


def test_a_module_in_training_is_looked_at_as_in_evaluation_and_stays_as_it_is() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(392, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    layered, images = LayeredModel(module, ["1"], channels=1, slice_size=16), slices(16)[:, None].float()
    assert module.training and all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert torch.equal(layered(images), module.eval()(images))


class Tokens(nn.Module):
    """Has a layer that puts out tokens, ``B N C``."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.block, self.last = nn.Conv2d(1, 4, 4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.block(self.patches(images).flatten(2).mT).mean(1))  # type: ignore[no-any-return]


def test_a_layer_of_tokens_is_no_layer_of_maps() -> None:
    with pytest.raises(TonnoError, match=r"`layers` block: puts out a tensor of shape \(1, 16, 4\), expected B x ch"):
        LayeredModel(Tokens(), ["patches", "block"], channels=1, slice_size=16)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "expected one or more"),
        (("convolution", "convolution"), "'convolution,convolution': expected one or more different names"),
        (("convolutoin",), "`layers` convolutoin: the classifier has no such layer; it has convolution"),
        (("shared",), "`layers` shared: is called 2 times for a slice, expected once"),
        (("last",), r"`layers` last: puts out a tensor of shape \(1, 1\), expected B x channels x height x width"),
    ],
)
def test_what_is_no_layer_of_maps_is_named(layers: tuple[str, ...], message: str) -> None:
    with pytest.raises(TonnoError, match=message):
        LayeredModel(Changing(), layers, channels=1, slice_size=16)


def test_what_is_no_classifier_is_said() -> None:
    with pytest.raises(TonnoError, match=r"puts out a tensor of shape \(1, 4, 14, 14\), expected logits"):
        LayeredModel(nn.Sequential(nn.Conv2d(1, 4, 3)), ["0"], channels=1, slice_size=16)
    with pytest.raises(TonnoError, match="cannot take 3 channels of 16 x 16 pixels"):
        LayeredModel(Changing(), ["convolution"], channels=3, slice_size=16)
    with pytest.raises(TonnoError, match="`classes` 'a,b': the classifier has 1 outputs"):
        prepare_module(Changing(), ["convolution"], 16, device="cpu", classes=("a", "b"))


def test_a_module_is_reconstructed_like_the_bundle_of_the_same_network(tmp_path: Path) -> None:
    write_random_bundle(tmp_path / "model")
    bundle = tonno.load_bundle(tmp_path / "model")
    module = exact_network("resnet10t", bundle.spec.slice_size).float()  # of two outputs
    module.fc = nn.Linear(512, 1)
    module.load_state_dict(bundle.weights)
    settings = tonno.ReconstructionSettings(slices=12, directions=16, slice_size=32, methods=("tonno", "matched-cam"))
    scan, layers = toy_scan(0, 1), [layer for _, layer in stage_modules(module)]
    expected = tonno.reconstruct(scan, bundle, settings, device="cpu", precision="float32")
    assert (bundle.spec.intensity, bundle.spec.pixel_mm) == ("none", None)
    with pytest.warns(TonnoWarning, match=r"layers layer1, .*32 x 32, no scale.*the scan's own.*prepare_module takes"):
        found = tonno.reconstruct(scan, module, settings, layers=layers[::-1], device="cpu")  # in any order
    for method, heatmap in expected.heatmaps.items():
        # Float32 with and without folded norms gives 1e-3: at some cells of blank background a ReLU's input is 0 but
        # for rounding, and its gradient 0 or 1.
        difference = np.linalg.norm(found.heatmaps[method].array - heatmap.array)
        assert difference < 0.01 * np.linalg.norm(heatmap.array), method


def test_layers_are_for_modules_alone(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match="`layers`: are for a module alone"):
        tonno.reconstruct(toy_scan(0, 1), "pixel-sum", layers=["layer1"], device="cpu")
