"""Networks whose convolutions are fused with what follows them answer as they did before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from tests.device import cudnn_on_a_cpu
from tests.networks import random_network, write_random_bundle
from tonno_core import ReconstructionSettings, load_bundle
from tonno_core.bundle.ready import prepare_model
from tonno_core.encoding import classifier as classifiers
from tonno_core.encoding.classifier import _WORTH_COMPILING, Classifier
from tonno_core.encoding.fusion import (
    Activation,
    FusedConv2d,
    Library,
    convolutions,
    describe_to_compiler,
    fuse,
    library_for,
    overflow_shown,
)

CPU, FLOAT = torch.device("cpu"), torch.float32
# Of the 120 million weights of VGG's head, which is not fused, 2 million do.
ARGUMENTS = {"vgg11_bn": {"mlp_ratio": 1 / 64}}


@pytest.fixture
def cudnn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """A CPU that has cuDNN's operations, in any precision."""
    monkeypatch.setattr(classifiers, "library_for", lambda *_: "cudnn")
    with cudnn_on_a_cpu() as shapes:
        yield shapes


def fused_layers(model: nn.Module) -> list[FusedConv2d]:
    return [layer for layer in model.modules() if isinstance(layer, FusedConv2d)]


def fitted(name: str, size: int = 64, *, double: bool = False, precision: torch.dtype = FLOAT) -> Classifier:
    network = random_network(name, size=size, arguments=ARGUMENTS.get(name))
    encoder = Classifier(network.double() if double else network, ("finding",), channels=1, precision=precision)
    encoder.fit(size)
    return encoder


def check_answers(encoder: Classifier, name: str, size: int, tolerance: float) -> None:
    """Logits and LayerCAM of every stage, against the unfolded network in float64."""
    network = random_network(name, size=size, arguments=ARGUMENTS.get(name))
    plain = Classifier(network.double(), ("finding",), channels=1, fold=False)
    stages = plain.stages_with_maps(0, size)
    assert encoder.stages_with_maps(0, size) == stages
    slices = torch.randn(3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    asked = [(0, stage) for stage in stages]
    expected, maps = plain.cam(slices, asked, "layercam")
    dtype = next(encoder.model.parameters()).dtype
    logits, found = encoder.cam(slices.to(dtype), asked, "layercam")
    torch.testing.assert_close(logits.double(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(encoder.logits(slices.to(dtype)).double(), expected, rtol=tolerance, atol=tolerance)
    for key in asked:
        assert (found[key].double() - maps[key]).norm() <= tolerance * maps[key].norm()


FAMILIES = {  # how many convolutions become cuDNN's operations
    "resnet10t": 11, "resnet26": 25, "regnetx_002": 27, "regnety_002": 40, "vgg11_bn": 8, "tf_efficientnet_lite0": 17,
    "mobilenetv3_small_050": 11, "convnext_atto": 0, "densenet121": 59, "repvgg_a0": 5,
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_networks_of_many_families_answer_as_before(name: str, cudnn: list[tuple[int, ...]]) -> None:
    encoder = fitted(name, double=True)
    check_answers(encoder, name, 64, 1e-9)  # float64, through 120 layers
    assert sum(each.activation != "none" for each in fused_layers(encoder.model)) == FAMILIES[name]
    assert bool(cudnn) == bool(FAMILIES[name])


def test_a_residual_is_added_by_the_same_operation(cudnn: list[tuple[int, ...]]) -> None:
    encoder = fitted("resnet10t")
    cudnn.clear()
    with torch.autograd.profiler.profile() as profile:
        encoder.logits(torch.randn(2, 64, 64))
    calls = {event.key: event.count for event in profile.key_averages()}
    # A stem of three convolutions, four blocks of two, and a convolution in three of their four shortcuts.
    assert (calls["aten::cudnn_convolution_relu"], calls["aten::cudnn_convolution_add_relu"]) == (7, 4)
    assert len(cudnn) == 11


@pytest.mark.parametrize("name", ["resnet10t", "regnetx_002", "tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_the_operations_of_onednn(name: str) -> None:
    if library_for(CPU, FLOAT) != "onednn":
        pytest.skip("this torch was built without oneDNN")
    encoder = fitted(name)
    assert fused_layers(encoder.model)
    check_answers(encoder, name, 64, 1e-3)  # float32; a ReLU's gradient may go on or off


@pytest.mark.parametrize("name", ["resnet10t", "tf_efficientnet_lite0"])
def test_weights_of_the_body_are_kept_in_its_precision_and_those_of_the_head_are_not(
    name: str, cudnn: list[tuple[int, ...]]
) -> None:
    encoder = fitted(name, precision=torch.bfloat16)
    of_body = [each.conv.weight.dtype for each in fused_layers(encoder.model)]
    assert len(of_body) == sum(isinstance(layer, nn.Conv2d) for layer in encoder.model.modules())
    assert set(of_body) == {torch.bfloat16}
    assert {weight.dtype for weight in encoder.model.get_classifier().parameters()} == {FLOAT}
    logits, maps = encoder.cam(torch.randn(2, 64, 64), [(0, 2), (0, encoder.stages)], "layercam")
    assert {logits.dtype, *(each.dtype for each in maps.values())} == {FLOAT}


def test_a_network_stays_as_it_was_where_the_rewritten_one_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = random_network("resnet10t", size=64)
    for spoiled in (lambda y: 1.05 * y, lambda y: y.fail()):
        encoder = Classifier(before, ("finding",), channels=1)
        encoder.fit_memory_format(64)
        slices = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(1))
        expected, original = encoder.logits(slices), encoder.model
        with monkeypatch.context() as patch:
            run = FusedConv2d.run
            patch.setattr(FusedConv2d, "run", lambda *given, run=run, spoiled=spoiled: spoiled(run(*given)))
            encoder.fit(64)
        assert encoder.model is original
        torch.testing.assert_close(encoder.logits(slices), expected, rtol=1e-5, atol=1e-5)  # float32, parts of a batch


def test_a_layer_for_which_cudnn_has_no_operation_stays_as_it_was(
    cudnn: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FusedConv2d.run

    def lacking(layer: FusedConv2d, x: torch.Tensor, residual: torch.Tensor | None) -> torch.Tensor:
        if layer.activation != "none" and (residual is None) == (layer.conv.in_channels == 64):
            raise RuntimeError("unable to find an engine to execute this computation")
        return run(layer, x, residual)

    monkeypatch.setattr(FusedConv2d, "run", lacking)
    encoder = fitted("resnet10t", double=True)
    # Those of 64 channels have it with a residual only, the others without one only. A block adds its shortcut's
    # convolution to the other, or the other to it.
    by_channels = Counter(each.conv.in_channels for each in fused_layers(encoder.model) if each.activation != "none")
    assert by_channels == {1: 1, 24: 1, 32: 1, 64: 2, 128: 1, 256: 1}
    check_answers(encoder, "resnet10t", 64, 1e-9)  # float64


class Shared(nn.Module):
    """One activation is called twice; one convolution's output is a feature stage, and another's used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.last = nn.ReLU(), nn.ReLU()
        self.conv1, self.conv2, self.conv3, self.conv4 = (nn.Conv2d(1, 1, 3, padding=1) for _ in range(4))

    def forward_intermediates(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x = self.act(self.conv2(self.act(self.conv1(x))))
        stage = self.conv3(x)
        y = self.conv4(self.last(stage))
        return F.relu(y) + y, [stage]

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean((2, 3))


def test_what_is_read_elsewhere_is_not_fused() -> None:
    model, x = Shared().eval().requires_grad_(False), torch.randn(1, 1, 8, 8)
    shapes = convolutions(model, lambda: model.forward_intermediates(x))
    assert list(shapes) == ["conv1", "conv2", "conv3", "conv4"]
    assert fuse(model, shapes, "cudnn", FLOAT) is model  # nothing to do
    kept = fuse(model, shapes, "cudnn", torch.bfloat16)
    assert [layer.activation for layer in fused_layers(kept)] == ["none"] * 4
    assert all(weight.dtype == FLOAT for weight in model.parameters())


# -------------------- one operation


@pytest.mark.parametrize("library", ["torch", "cudnn", "onednn"])
@pytest.mark.parametrize(
    ("size", "kernel", "stride", "dilation"), [*product((15, 16), (3, 5, 6), (1, 2, 3), (1,)), (16, 3, 2, 2)]
)
@torch.no_grad()
def test_static_padding_gives_the_same_bits(
    library: Library, size: int, kernel: int, stride: int, dilation: int
) -> None:
    if library == "onednn" and library_for(CPU, FLOAT) != "onednn":
        pytest.skip("this torch was built without oneDNN")
    # Small integers: sums are exact, in whatever order.
    conv = Conv2dSame(2, 3, kernel, stride=stride, dilation=dilation).requires_grad_(False)
    for weight in conv.parameters():
        weight.random_(-4, 5)
    x = torch.empty(2, 2, size, size).random_(-9, 10).contiguous(memory_format=torch.channels_last)
    layer = FusedConv2d(conv, "none", library, x.shape, FLOAT)
    assert torch.equal(layer(x), conv(x))
    other = x[..., 1:, 2:]
    assert torch.equal(layer(other), conv(other))


@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
@pytest.mark.parametrize("residual", [False, True])
def test_gradients_are_those_of_the_steps_one_by_one(activation: Activation, residual: bool) -> None:
    if residual and activation == "none":
        pytest.skip("cuDNN has no such operation")
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3, stride=2, padding=1).double().requires_grad_(False)
    x, z = torch.randn(2, 3, 9, 9).double(), 4 * torch.randn(2, 4, 5, 5).double()
    layer, found, expected = FusedConv2d(conv, activation, "cudnn", x.shape, torch.float64), [], []
    steps = {"none": nn.Identity(), "relu": nn.ReLU(), "relu6": nn.ReLU6()}[activation]
    with cudnn_on_a_cpu():
        for gradients, run in (
            (found, lambda a, b: layer(a, b if residual else None)),
            (expected, lambda a, b: steps(conv(a) + b if residual else conv(a))),
        ):
            a, b = x.clone().requires_grad_(), z.clone().requires_grad_()
            y = run(a, b)
            gradients += [y, *torch.autograd.grad(y.sin().sum(), [a, b] if residual else [a])]
    for each, other in zip(found, expected, strict=True):
        torch.testing.assert_close(each, other)


def test_an_activation_that_is_not_fused_may_change_the_output_in_place() -> None:
    conv = nn.Conv2d(1, 2, 3).requires_grad_(False)
    x = torch.randn(1, 1, 5, 5, requires_grad=True)
    found = torch.autograd.grad(F.silu(FusedConv2d(conv, "none", "cudnn", x.shape, FLOAT)(x), inplace=True).sum(), x)
    expected = torch.autograd.grad(F.silu(conv(x)).sum(), x)
    torch.testing.assert_close(found, expected)


# -------------------- batches in parts


def test_a_cpu_classifies_as_many_slices_at_once_as_stay_in_its_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fitted("resnet10t")
    slices = torch.randn(7, 64, 64, generator=torch.Generator().manual_seed(1))
    expected, maps = encoder.cam(slices, [(0, 2)], "layercam")
    # 24 MB over 64 channels of 32 x 32 numbers of 4 bytes.
    assert encoder._at_once == 96
    monkeypatch.setattr(encoder, "_at_once", 3)
    batches: list[int] = []
    forward = encoder.model.forward_features
    monkeypatch.setattr(encoder.model, "forward_features", lambda x: batches.append(len(x)) or forward(x))
    torch.testing.assert_close(encoder.logits(slices), expected, rtol=1e-4, atol=1e-5)  # float32
    assert batches == [3, 3, 1]
    logits, found = encoder.cam(slices, [(0, 2)], "layercam")
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[0, 2], maps[0, 2], rtol=1e-3, atol=1e-3 * float(maps[0, 2].max()))


def test_compiling_pays_from_millions_of_slices_on(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fitted("resnet10t")
    assert not encoder.compiling_pays(10**9)  # on a CPU
    monkeypatch.setattr(encoder, "device", torch.device("cuda"))
    monkeypatch.setattr(classifiers, "find_spec", lambda name: name)
    # 2.4 million numbers for slices of 224 px, and their squared ratio for others.
    least = _WORTH_COMPILING / (2.4e6 * (64 / 224) ** 2)
    assert not encoder.compiling_pays(round(0.9 * least))
    assert encoder.compiling_pays(round(1.1 * least))
    monkeypatch.setattr(classifiers, "find_spec", lambda name: None)
    assert not encoder.compiling_pays(10**9)


@pytest.mark.parametrize(("methods", "runs", "times"), [("tonno", 1, 0), ("tonno", 9, 1), ("matched-cam", 9, 0)])
def test_an_encoder_is_compiled_where_the_expected_run_is_long(
    methods: str, runs: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    compiled: list[int] = []
    monkeypatch.setattr(Classifier, "compiling_pays", lambda _, slices: asked.append(slices) or slices > 300)
    monkeypatch.setattr(Classifier, "compile", lambda _, size: compiled.append(size))
    bundle = load_bundle(write_random_bundle(tmp_path / "model"))
    settings = ReconstructionSettings(methods=(methods,), directions=6, slices=12, slice_size=32)
    prepare_model(bundle, settings, "cpu", compiled="auto", runs=runs)
    assert len(compiled) == times
    assert asked == ([runs * 6 * 14] if methods == "tonno" else [])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", [FLOAT, torch.float16])
@pytest.mark.parametrize("name", ["resnet10t", "resnet26", "regnetx_002", "vgg11_bn", "tf_efficientnet_lite0"])
def test_on_a_gpu(name: str, precision: torch.dtype) -> None:
    network = random_network(name, size=64)
    plain = Classifier(network, ("finding",), channels=1, device="cuda")
    encoder = Classifier(network, ("finding",), channels=1, device="cuda", precision=precision)
    encoder.fit(64)
    assert any(each.activation != "none" for each in fused_layers(encoder.model))
    slices = torch.randn(64, 64, 64, generator=torch.Generator().manual_seed(1)).cuda()
    last = (0, encoder.stages)
    (logits, maps), (expected, others) = (each.cam(slices, [last], "layercam") for each in (encoder, plain))
    # Half has 11 bits, and so has float32 in a GPU's convolutions (TF32); through up to 50 layers of a random network.
    for found, true in ((logits, expected), (maps[last], others[last])):
        assert torch.corrcoef(torch.stack([found.flatten(), true.flatten()]))[0, 1] >= 0.99


def test_an_activation_that_half_cannot_hold_makes_the_logits_nan() -> None:
    """cuDNN's ReLU makes 0 of NaN, so that infinity minus infinity, two convolutions on, would be a number."""
    with cudnn_on_a_cpu(), torch.no_grad():
        conv = torch.nn.Conv2d(1, 1, 1)
        conv.weight.fill_(3e4)
        layer = FusedConv2d(conv, "relu", "cudnn", (1, 1, 4, 4), torch.float16)
        for size, finite in ((1.0, True), (3.0, False)):  # half holds 65,504
            with overflow_shown(looked_for=True) as shown:
                layer(torch.full((2, 1, 4, 4), size))
                assert shown(torch.ones(2, 1)).isfinite().all() == finite
            with overflow_shown(looked_for=False) as shown:
                layer(torch.full((2, 1, 4, 4), size))
                assert torch.equal(shown(torch.ones(2, 1)), torch.ones(2, 1))


def test_the_compiler_is_told_the_shapes_of_fused_operations() -> None:
    describe_to_compiler()
    x, weight = torch.empty(5, 3, 9, 9, device="meta"), torch.empty(4, 3, 3, 3, device="meta")
    how = ([2, 2], [1, 1], [1, 1], 1)
    z = torch.ops.aten.cudnn_convolution_relu(x, weight, None, *how)
    assert z.shape == (5, 4, 5, 5)
    assert torch.ops.aten.cudnn_convolution_add_relu(x, weight, z, 1.0, None, *how).shape == z.shape


def test_an_operation_of_wrong_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = ((2, 1, 6, 6), (2, 1, 6, 6))
    with cudnn_on_a_cpu():
        layer = FusedConv2d(torch.nn.Conv2d(1, 1, 3, padding=1), "relu", "cudnn", shapes[0], torch.float32)
        assert layer.works(shapes, residual=False)
        assert layer.works(shapes, residual=True)
        run = layer.run
        monkeypatch.setattr(layer, "run", lambda x, residual: run(x, residual) * torch.nan)
        assert not layer.works(shapes, residual=True)


def test_one_batch_in_eight_is_looked_at_for_overflow_whether_maps_are_asked_for_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = Classifier(random_network("resnet10t", size=32), ("finding",), channels=1)
    looked: list[bool] = []

    def shown(*, looked_for: bool) -> object:
        looked.append(looked_for)
        return overflow_shown(looked_for=looked_for)

    monkeypatch.setattr(classifiers, "overflow_shown", shown)
    for number in range(10):
        if number % 2:
            encoder.logits(torch.zeros(1, 32, 32))
        else:
            encoder.cam(torch.zeros(1, 32, 32), [(0, encoder.stages)], "layercam")
    assert [number for number, each in enumerate(looked) if each] == [0, 8]
