"""Feature vectors: what the last layer of a network weighs, by any road through it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.hooks import exact_network
from tests.networks import random_network
from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.features import FeatureEncoder
from tonno_core.encoding.layers import LayeredModel
from tonno_core.errors import TonnoError


def slices(size: int) -> torch.Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_the_last_layer_makes_the_logits_of_the_features(name: str) -> None:
    size = 64 if name != "test_vit" else 32
    try:
        model = exact_network(name, size)
    except TonnoError:
        pytest.skip(f"this timm has no {name}")
    encoder = Classifier(model, ("a", "b"), channels=1)
    last = encoder.model.get_classifier()
    assert isinstance(last, nn.Linear)
    # The same sums in float64, in another order at most.
    torch.testing.assert_close(last(encoder.features(slices(size))), encoder.logits(slices(size)))


def test_features_of_a_batch_are_those_of_its_slices() -> None:
    encoder = Classifier(random_network("resnet10t"), ("a",), channels=1)
    together = encoder.features(slices(32).float())
    alone = torch.cat([encoder.features(each[None].float()) for each in slices(32)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)  # float32 through tens of layers
    assert together.shape == (3, 512)


def test_features_of_named_layers_are_the_means_of_the_last() -> None:
    body = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 2),
    ).double()  # fmt: skip
    encoder = Classifier(LayeredModel(body, ["3", "1"], channels=1, slice_size=16), ("a", "b"), channels=1)
    found = encoder.features(slices(16))
    torch.testing.assert_close(found, body[:6](slices(16)[:, None]))
    torch.testing.assert_close(body[6](found), encoder.logits(slices(16)))


class _Direct(nn.Module):
    """A timm model whose head is of another make."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = random_network("resnet10t"), kind
        self.feature_info = self.inner.feature_info

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.inner.forward_features(images)  # type: ignore[operator]
        return features

    def forward_intermediates(self, *arguments: object, **options: object) -> object:
        return self.inner.forward_intermediates(*arguments, **options)  # type: ignore[operator]

    def forward_head(self, features: torch.Tensor, **options: object) -> torch.Tensor:
        if self.kind == "logits alone" and options:
            raise TypeError("forward_head() got an unexpected keyword argument 'pre_logits'")
        return features


@pytest.mark.parametrize("kind", ["logits alone", "a map"])
def test_a_network_without_a_feature_vector_is_refused(kind: str) -> None:
    encoder = Classifier(_Direct(kind), ("a",), channels=1)
    with pytest.raises(TonnoError, match="no pooled feature vector before its last layer; choose another"):
        encoder.features(torch.zeros(1, 32, 32))


def test_features_take_the_place_of_logits() -> None:
    classifier = Classifier(random_network("resnet10t"), ("a",), channels=1)
    encoder = FeatureEncoder(classifier, 32)
    assert encoder.classes[:2] == ("feature 0", "feature 1") and len(encoder.classes) == 512
    given = slices(32).float()
    torch.testing.assert_close(encoder.logits(given), classifier.features(given), rtol=0, atol=0)
    assert encoder.stages_with_maps(0, 32) == ()
    with pytest.raises(TonnoError, match="no pooled feature vector"):
        encoder.cam(given, [(0, 1)], "layercam")


def test_features_that_are_not_numbers() -> None:
    model = random_network("resnet10t")
    with torch.no_grad():
        model.layer4[0].conv2.weight.fill_(float("nan"))
    with pytest.raises(TonnoError, match="not finite numbers"):
        FeatureEncoder(Classifier(model, ("a",), channels=1), 32)
