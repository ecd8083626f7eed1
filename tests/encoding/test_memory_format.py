"""The choice of a memory format, and what formats and precisions do to a heatmap."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.analytic import correlation
from tests.encoding.test_program import export
from tests.networks import random_network
from tonno_core import Bundle, ReconstructionSettings, TonnoError, Volume, load_bundle, reconstruct
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.commands.demo import MODEL, SMALLEST_MM3
from tonno_core.demo.phantom import make_phantom
from tonno_core.encoding.classifier import Classifier, create_model, place
from tonno_core.encoding.layers import LayeredModel
from tonno_core.encoding.normalization import NormKind
from tonno_core.encoding.program import Program, read_program
from tonno_core.segmentation.binarize import binarize, components


@pytest.fixture
def encoder() -> Classifier:
    return Classifier(random_network("resnet10t"), ("finding",), channels=1)


@pytest.mark.parametrize("size", [96, 128])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_group_norm_of_small_slices_in_bfloat16_is_contiguous(
    norm: NormKind, precision: torch.dtype, size: int
) -> None:
    network = create_model("resnet10t", channels=1, classes=1, norm=norm, slice_size=size)
    encoder = Classifier(network, ("finding",), channels=1, precision=precision)
    encoder.fit_memory_format(size)
    contiguous = norm == "group" and precision == torch.bfloat16 and size == 96
    assert encoder.layout == ("contiguous" if contiguous else "channels last")
    kernels = [weight for weight in encoder.model.parameters() if weight.ndim == 4 and min(weight.shape[1:]) > 1]
    assert all(weight.is_contiguous() == contiguous for weight in kernels)


@pytest.mark.parametrize(("size", "layout"), [(160, "contiguous"), (192, "channels last")])
def test_networks_of_depthwise_convolutions_are_contiguous_up_to_larger_slices(size: int, layout: str) -> None:
    network = create_model("tf_efficientnet_lite0", channels=1, classes=1, norm="group", slice_size=size)
    encoder = Classifier(network, ("finding",), channels=1, precision=torch.bfloat16)
    encoder.fit_memory_format(size)
    assert encoder.layout == layout


def test_kernels_of_three_dimensions_are_left_as_they_are() -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3))
    place(network, torch.device("cpu"))
    assert network[0].weight.is_contiguous()


def test_outputs_do_not_depend_on_the_memory_format(encoder: Classifier) -> None:
    slices = torch.randn(5, 32, 32, generator=torch.Generator().manual_seed(0))
    expected, maps = encoder.cam(slices, [(0, 2), (0, 3)], "layercam")
    encoder.set_memory_format(torch.contiguous_format)
    logits, others = encoder.cam(slices, [(0, 2), (0, 3)], "layercam")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)  # float32, another order of the sums
    for key, other in maps.items():
        torch.testing.assert_close(others[key], other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("kind", ["timm", "program"])
@pytest.mark.filterwarnings("ignore")  # of torch.export, about itself
def test_group_norm_of_blank_slices_is_exact_at_each_stage(kind: str, tmp_path: Path) -> None:
    network = random_network("resnet10t", norm="group", size=160)
    for layer in network.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            torch.nn.init.normal_(layer.bias, std=0.3)  # at 0, blank slices stay 0
    slices = torch.zeros(3, 160, 160)
    slices[1, 70:90, 60:80] = 1.0
    slices[2] = torch.randn(160, 160, generator=torch.Generator().manual_seed(0))
    names = ("layer1", "layer2", "layer3", "layer4")
    if kind == "timm":
        encoder = Classifier(network, ("finding",), channels=1)
    else:
        text, tensors = read_program(export(network, tmp_path / "m.pt2", size=160), names)
        encoder = Classifier(
            LayeredModel(Program(text, tensors), names, channels=1, slice_size=160), ("a",), channels=1
        )
    encoder.fit(160)
    assert encoder.layout == "channels last"
    exact = Classifier(network.double(), ("finding",), channels=1, fold=False)
    asked = [(0, stage) for stage in (1, 2, 3, 4)]
    logits, maps = encoder.cam(slices, asked, "layercam")
    expected, others = exact.cam(slices.double(), asked, "layercam")
    # float32 through a dozen layers, 1e-6 to 1e-5; torch's own group norm for channels last leaves up to 2e-2.
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    for key, other in others.items():
        # The gradient of a ReLU may go on or off where its input is 0, of few cells.
        assert (maps[key] - other).norm() < 1e-3 * other.norm()


def test_a_compiler_that_is_absent(encoder: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise RuntimeError("no compiler\nand more")

    slices = torch.zeros(1, 32, 32)
    expected = encoder.logits(slices)
    monkeypatch.setattr(torch, "compile", lambda function: refuses)
    with pytest.raises(TonnoError, match=r"`compiled`: torch.compile does not work .* \(no compiler\); leave it out"):
        encoder.compile(32)
    assert torch.equal(encoder.logits(slices), expected)


# --- what each step does to the demo's heatmaps


@pytest.fixture(scope="module")
def head() -> Volume:
    return make_phantom(seed=2026, lesions=3).image


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(MODEL)


def settings_of(bundle: Bundle) -> ReconstructionSettings:
    return ReconstructionSettings(methods=("matched-cam", "tonno"), directions=24, slices=64)


@pytest.fixture(scope="module")
def unfolded(head: Volume, bundle: Bundle) -> dict[str, Volume]:
    """The network as it was trained: no norm folded, float32, contiguous."""
    ready = prepare_model(bundle, settings_of(bundle), "cpu", "float32")
    network = random_network("resnet10t", size=96)
    network.load_state_dict(bundle.weights, strict=False)
    plain = Classifier(network, bundle.spec.classes, channels=1, fold=False)
    plain.set_memory_format(torch.contiguous_format)
    return reconstruct(head, replace(ready, encoder=plain), settings_of(bundle)).heatmaps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "memory_format"),
    [("float32", torch.contiguous_format), ("float32", torch.channels_last), ("bfloat16", torch.channels_last)],
)
def test_folding_memory_format_and_precision_keep_the_demos_heatmaps(
    head: Volume, bundle: Bundle, unfolded: dict[str, Volume], precision: str, memory_format: torch.memory_format
) -> None:
    ready: ReadyModel = prepare_model(bundle, settings_of(bundle), "cpu", precision)
    assert isinstance(ready.encoder, Classifier)
    ready.encoder.set_memory_format(memory_format)
    result = reconstruct(head, ready, settings_of(bundle))
    for method, heatmap in result.heatmaps.items():
        # The bar of the project; measured 0.99998 in bfloat16, 1 - 1e-9 in float32.
        assert correlation(heatmap.array[result.inside], unfolded[method].array[result.inside]) >= 0.9999
    threshold = bundle.spec.thresholds["matched-cam"]["threshold"]
    lesions, expected = (
        components(binarize(heatmap, threshold, min_volume_mm3=SMALLEST_MM3), heatmap)
        for heatmap in (result.heatmaps["matched-cam"], unfolded["matched-cam"])
    )
    assert len(lesions) == len(expected) > 0
    for lesion, other in zip(lesions, expected, strict=True):
        assert lesion.volume_mm3 == pytest.approx(other.volume_mm3, rel=0.02)
        np.testing.assert_allclose(lesion.centroid_ras, other.centroid_ras, atol=0.5)  # a quarter of a voxel
