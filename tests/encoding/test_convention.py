"""What a classifier expects of its input, and what its outputs mean: against PyTorch's softmax and plain arithmetic."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.networks import random_network
from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.convention import Convention, parse_statistics, timm_statistics
from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind
from tonno_core.training.settings import TrainingSettings
from tonno_core.volume.intensity import normalise, parse_intensity

SLICES = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))


def softmax_classifier(model: torch.nn.Module, classes: int) -> Classifier:
    return Classifier(
        model, tuple("abcdefgh"[:classes]), channels=1, convention=Convention(activation="softmax"), fold=False
    )


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_softmax_head_gives_the_log_odds_of_its_probabilities(classes: int) -> None:
    outputs = 3 * torch.randn(7, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    odds = torch.logit(outputs.softmax(1))
    convention = Convention(activation="softmax")
    # float64 keeps 1e-16; 1 - p of a probability near 1 loses three digits or four.
    torch.testing.assert_close(convention.logits(outputs), odds, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(convention.logits(outputs + 100), odds, rtol=1e-11, atol=1e-11)
    # Without 1 - p nothing is lost where p is 1 in float64.
    assert convention.logits(torch.tensor([[800.0, *[0.0] * (classes - 1)]]))[0, 0] == pytest.approx(
        800 - np.log(classes - 1)
    )
    assert Convention().logits(outputs) is outputs
    sums = torch.allclose(convention.logits(outputs + outputs.flip(0)), odds + odds.flip(0), rtol=1e-9, atol=1e-9)
    assert convention.linear(classes) == sums == (classes == 2) and Convention().linear(classes)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["layercam", "gradcam"])
def test_heads_of_one_softmax_have_the_same_logits_and_maps(classes: int, kind: CamKind) -> None:
    """What is added to all outputs alike changes no probability, and no map either."""
    model = random_network("resnet10t", classes=classes, size=64)
    other = copy.deepcopy(model)
    shared = torch.randn(other.fc.in_features, generator=torch.Generator().manual_seed(2))  # type: ignore[union-attr,arg-type]
    with torch.no_grad():
        other.fc.weight += shared  # type: ignore[union-attr,operator]
        other.fc.bias += 2.0  # type: ignore[union-attr,operator]
    asked = [(classes - 1, stage) for stage in (1, 2, 3, 4)]
    logits, maps = softmax_classifier(model, classes).cam(SLICES, asked, kind)
    again, others = softmax_classifier(other, classes).cam(SLICES, asked, kind)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)  # differences of float32 outputs of up to 20
    for key in asked:
        scale = float(maps[key].abs().max())
        torch.testing.assert_close(others[key] / scale, maps[key] / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 4])
def test_maps_of_a_softmax_head_are_those_of_its_log_odds(classes: int) -> None:
    """GradCAM of the last stage from hooks and PyTorch's softmax, in float64."""
    model = random_network("resnet10t", classes=classes, size=64)
    encoder = softmax_classifier(model, classes)
    exact, kept = copy.deepcopy(model).double(), []
    exact.layer4.register_forward_hook(lambda _module, _inputs, output: kept.append(output))  # type: ignore[union-attr,operator]
    for index in range(classes):
        logits, maps = encoder.cam(SLICES, [(index, 4)], "gradcam")
        odds = torch.logit(exact(SLICES.double()[:, None]).softmax(1))[:, index]
        (gradient,) = torch.autograd.grad(odds.sum(), kept[-1])
        expected = (gradient.mean((2, 3), keepdim=True) * kept[-1]).sum(1).detach()
        # float32 through ten layers keeps 1e-5 of the largest value.
        torch.testing.assert_close(logits[:, index].double(), odds.detach(), rtol=1e-4, atol=1e-4)
        scale = float(expected.abs().max())
        torch.testing.assert_close(maps[index, 4].double() / scale, expected / scale, rtol=0, atol=1e-4)


def test_the_input_is_made_as_the_classifier_was_fed() -> None:
    """Three windows, bytes, mean and standard deviation: as a picture of three colours is made and normalized."""
    spec = "window:0:80,-20:180,-800:2000"
    hounsfield = np.random.default_rng(0).uniform(-1000, 2200, (2, 8, 8)).astype(np.float32)
    mean, std = (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)
    convention = Convention(3, parse_intensity(spec).windows, 255, mean, std)
    scaled, fill = normalise(hounsfield, np.ones(hounsfield.shape, bool), spec)
    found = convention.input(torch.as_tensor(scaled))
    for channel, (low, high) in enumerate([(0, 80), (-20, 180), (-800, 2000)]):
        picture = 255.0 * np.clip((hounsfield.astype(np.float64) - low) / (high - low), 0, 1)
        expected = (picture - mean[channel]) / std[channel]
        # float32's 6e-8 of the range of 2800 HU is 2e-6 of a window of 80, and 255 / 58 times that of the input.
        np.testing.assert_allclose(found[:, channel], expected, rtol=0, atol=2e-5)
    assert fill == 0.0
    assert Convention(3).input(torch.ones(1, 4, 4)).shape == (1, 3, 4, 4)


def test_timm_s_statistics_are_the_model_s_own() -> None:
    assert timm_statistics("vit_tiny_patch16_224", 3) == ((0.5,) * 3, (0.5,) * 3)
    assert timm_statistics("resnet18", 3)[0] == (0.485, 0.456, 0.406)
    assert timm_statistics("resnet18", 1) == ((0.449,), (0.226,))  # timm adds the kernels up: the average of three


def test_statistics_are_a_number_or_one_for_each_channel() -> None:
    assert parse_statistics("mean", "-2.5", 3) == (-2.5,) * 3
    assert parse_statistics("std", "1, 2,3", 3) == (1, 2, 3)
    assert parse_statistics("std", None, 3) == ()
    for name, text in (("std", "0"), ("std", "-1"), ("mean", "1,2"), ("mean", "nan"), ("mean", "a"), ("mean", "")):
        with pytest.raises(TonnoError, match=f"`{name}` '{text}': expected timm, a number"):
            parse_statistics(name, text, 3)


def test_training_from_imagenet_s_weights_shows_windows_as_those_were_trained() -> None:
    settings = TrainingSettings(encoder="resnet18", channels=3, weights="imagenet", intensity="window:0:80")
    assert settings.convention.mean == (0.485, 0.456, 0.406)
    assert settings.convention.std == (0.229, 0.224, 0.225)
    for change in ({"weights": "none"}, {"intensity": "zscore"}):  # whose mean and deviation are 0 and 1 already
        assert replace(settings, **change).convention == Convention(3)  # type: ignore[arg-type]
    with pytest.raises(TonnoError, match=r"`intensity` is window:0:80,0:90, expected one window, or 3, as .* slash"):
        replace(settings, intensity="window:0:80,0:90").check()
