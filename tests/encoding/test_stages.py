"""Maps of every stage against plain hooks in float64: of ten networks, and by `make sweep` of one of every module."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from tests.hooks import exact_network, stages_by_hooks
from tests.reference import gradcam_plus_plus
from tonno_core.bundle.decide import standard_stage
from tonno_core.encoding.cam import activation_map
from tonno_core.encoding.classifier import Classifier, stage_modules, try_slice
from tonno_core.encoding.normalization import fold_batch_norm
from tonno_core.errors import TonnoError
from tonno_core.settings import CamKind

# The network, and which of its stages give maps.
NETWORKS = {
    "test_resnet": (1, 2, 3, 4),
    "test_mambaout": (1, 2, 3, 4),  # B h w C; its first stage has as many channels as cells along a side
    "test_vit": (1, 2, 3, 4, 5),  # after the last block only the class token counts
    "densenet121": (1, 2, 3, 4),  # norms and activations in place before each convolution
    "ghostnet_050": (1, 2, 3, 4),  # timm's first feature is the stem's convolution, before its norm
    "hiera_tiny_224": (1, 2, 3, 4),  # tokens in an order of its own; stops at the last stage asked for by default
    "hrnet_w18_small": (1, 2, 3, 4),  # names that no module has
    "coat_tiny": (1,),  # the parallel branches' images do not reach the logit
    "xception41p": (1, 2, 3, 4, 5),  # stages between a convolution and the next norm
    "legacy_xception": (1, 2, 3, 4),  # timm computes the activations of its stages anew, beside the path
}
SLOW = ("coat_tiny", "hiera_tiny_224", "legacy_xception", "xception41p")
KINDS: tuple[CamKind, ...] = ("layercam", "gradcam")
# More weights than this take more memory in float64 than a test should.
LARGEST = 150_000_000


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in NETWORKS])
def test_maps_of_every_stage_are_those_of_hooks(name: str) -> None:
    assert check_against_hooks(exact_network(name, 64), 1, 64) == NETWORKS[name]


def check_against_hooks(model: nn.Module, channels: int, size: int) -> tuple[int, ...]:
    """Compare logits and maps of all stages; return those that give maps.

    There are two slices: of one alone, torch 2.14 gets EfficientFormer's gradients through batch norm wrong in the
    hooks' memory format (not in channels last).
    """
    slices = torch.randn(2, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inputs = slices[:, None].repeat(1, channels, 1, 1)
    encoder = Classifier(model, ("a", "b"), channels=channels)
    usable = encoder.stages_with_maps(1, size)
    # Float64 keeps 1e-16 and gives 1e-14 here. A few networks compute their attention in float32: 1e-7.
    with torch.no_grad():
        assert relative(encoder.logits(slices), model(inputs.clone())) < 1e-6
    features = [feature for feature, _ in stage_modules(model)]
    for stage, (activation, gradient) in enumerate(stages_by_hooks(model, inputs, features, 1), start=1):
        assert bool(gradient.any()) == (stage in usable), f"stage {stage}"
        for kind in KINDS if stage in usable else ():
            maps = encoder.cam(slices, [(1, stage)], kind)[1][1, stage]
            assert relative(maps, activation_map(activation, gradient, kind)) < 1e-6, f"stage {stage}, {kind}"
        if stage in usable:
            maps = encoder.cam(slices, [(1, stage)], "gradcam++")[1][1, stage]
            pairs = zip(activation.numpy(), gradient.numpy(), strict=True)
            expected = torch.from_numpy(np.array([gradcam_plus_plus(*pair) for pair in pairs]))
            assert relative(maps, expected) < 1e-6, f"stage {stage}, gradcam++"
    assert standard_stage(encoder, 1, size) in usable
    return usable


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    if torch.equal(found, expected):  # LayerCAM of some random networks is zero everywhere
        return 0.0
    return float((found - expected).norm() / expected.norm())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of networks that nobody here chose
@pytest.mark.parametrize("module", timm.list_modules() if "TONNO_SWEEP" in os.environ else [])  # by `make sweep`
def test_maps_of_a_network_of_every_module_are_those_of_hooks(module: str) -> None:
    name = smallest(module)
    config: Any = timm.get_pretrained_cfg(name)
    own_channels, _, own_size = config.input_size
    refusals = []
    for channels, size in [(1, 64), (1, 96), (1, 128), (1, 192), (1, own_size), (own_channels, own_size)]:
        try:
            model = exact_network(name, size, channels=channels)
            # In float32, as slices are.
            try_slice(Classifier(copy.deepcopy(model).float(), ("a", "b"), channels=channels), size, name)
        except TonnoError as error:
            refusals.append(str(error))
            continue
        check_against_hooks(model, channels, size)
        return
    pytest.fail("\n".join(refusals))


def smallest(module: str) -> str:
    """The network with the fewest weights of those that a module of timm makes."""
    weights = {}
    for name in timm.list_models(module=module):
        with torch.device("meta"):
            model = timm.create_model(name, num_classes=2)
        weights[name] = sum(weight.numel() for weight in model.parameters())
    name = min(weights, key=lambda name: weights[name])
    if weights[name] > LARGEST:
        pytest.skip(f"{name}, the smallest, has {weights[name]:,} weights")
    return name


# -------------------- what comes before a map is made


@pytest.mark.parametrize(
    ("name", "first", "stages"),
    [
        ("ghostnet_050", "blocks.1", 4),  # timm's first feature is conv_stem
        ("dpn48b", "features.conv2_3", 4),  # ... features.conv1_1
        ("legacy_seresnet18", "layer1", 4),  # ... layer0
        ("inception_v3", "Mixed_5d", 3),  # ... Conv2d_2b_3x3 and Conv2d_4a_3x3
        ("dla46x_c", "level2", 4),  # ... level0 and level1, a convolution each
        ("tf_efficientnetv2_b0", "blocks.0", 5),  # a block of one convolution after the stem
        ("xception41p", "blocks.0.stack.conv2", 5),
        ("vgg11", "features.4", 5),  # an activation and then pools: only the first is the stem's
    ],
)
def test_the_stem_is_never_a_stage(name: str, first: str, stages: int) -> None:
    with torch.device("meta"):
        modules = stage_modules(timm.create_model(name))
    assert (modules[0][1], len(modules)) == (first, stages)


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("xception41p", 24),  # of 28 that follow a convolution, four across a stage
        ("ese_vovnet19b_slim_dw", 22),  # all; its forward pass slices a sequence of layers
    ],
)
def test_norms_are_folded_but_across_a_stage(name: str, folded: int) -> None:
    with torch.device("meta"):
        assert fold_batch_norm(timm.create_model(name).eval()) == folded


@pytest.mark.filterwarnings("ignore:CSATv2 is designed")
def test_a_network_that_takes_three_channels_only_says_so_and_not_another_size() -> None:
    # Its first layer turns colors into a cosine transform, whatever `in_chans` is.
    with pytest.raises(TonnoError, match=r"it takes 3 channels only: choose `channels` 3$"):
        try_slice(Classifier(exact_network("csatv2", 64), ("a", "b"), channels=1), 64, "csatv2")
