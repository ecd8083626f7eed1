"""Exported programs: logits and maps are the module's, nothing in a file runs, and what does not fit is named."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.encoding.test_layers import FOREIGN, foreign, relative, slices
from tests.encoding.test_weights import Malicious
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.own import OwnClassifier, assumptions, make_bundle
from tonno_core.encoding.classifier import Classifier
from tonno_core.encoding.layers import LayeredModel
from tonno_core.encoding.program import Program, read_program
from tonno_core.errors import TonnoError


def export(model: nn.Module, path: Path, channels: int = 1, size: int = 64, *, batch: int | None = None) -> Path:
    """Save a module as people do, for any number of images."""
    example = torch.zeros(batch or 2, channels, size, size, dtype=next(model.parameters()).dtype)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(model, (example,), dynamic_shapes=shapes), path)
    return path


@pytest.mark.filterwarnings("ignore")  # of torch.export, about itself
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * ("resnet18" not in name)) for name in FOREIGN]
)
def test_a_program_gives_the_logits_and_maps_of_the_module(name: str, tmp_path: Path) -> None:
    model, channels = foreign(name)
    text, tensors = read_program(export(model, tmp_path / "m.pt2", channels), FOREIGN[name])
    assert str(Path(__file__).parents[2]) not in text  # nor where anything lay
    ours, theirs = (
        Classifier(LayeredModel(body, FOREIGN[name], channels=channels, slice_size=64), ("a", "b"), channels=channels)
        for body in (Program(text, tensors), model)
    )
    asked = [(index, stage) for index in (0, 1) for stage in (1, 2)]
    logits, maps = ours.cam(slices(), asked, "layercam")
    expected_logits, expected = theirs.cam(slices(), asked, "layercam")
    assert relative(logits, expected_logits) < 1e-6  # float64 keeps 1e-16 and gives 1e-14 here
    for key in asked:
        assert relative(maps[key], expected[key]) < 1e-6


class Small(nn.Module):
    """A network with an activation in place after its layer, sizes that it computes, and a constant."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.shared, self.last = nn.ReLU(), nn.Linear(4, classes)
        self.scale = torch.tensor([0.5, 1.0, 1.5, 2.0])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.shared(self.shared(self.body(images).relu_()))
        left, right = features.reshape(features.shape[0], 4, -1).split(2, dim=1)
        return self.last(torch.cat([left, right], 1).mean(2) * self.scale)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    model = Small().eval()
    return model, export(model, tmp_path_factory.mktemp("program") / "small.pt2", size=32)


def test_a_bundle_of_a_program_answers_as_the_module(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    model, path = small
    make_bundle(
        OwnClassifier(str(path), classes=("normal", "lesion"), activation="softmax", layers=("body",)), tmp_path / "b"
    )
    bundle = load_bundle(tmp_path / "b")
    assert {each.name for each in (tmp_path / "b").iterdir()} == {"model.json", "model.safetensors"}
    assert (bundle.spec.encoder, bundle.spec.slice_size, bundle.spec.layers) == ("small.pt2", 32, ("body",))
    said = dict(assumptions(bundle.spec))
    assert (said["stages"], said["pixels"][:7], said["weights"]) == ("layers body", "32 x 32", "of the program")
    encoder = bundle.classifier()
    images = torch.rand(5, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = model(images[:, None])
    torch.testing.assert_close(encoder.logits(images), outputs - outputs.flip(1), rtol=1e-5, atol=1e-6)  # float32
    assert encoder.cam(images, [(1, 1)], "layercam")[1][1, 1].shape == (5, 32, 32)
    with pytest.raises(TonnoError, match="`slice_size` 64: the program was exported for slices of 32 pixels"):
        bundle.classifier(slice_size=64)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ()}, "`layers`: missing; small.pt2 has no stages"),
        ({"layers": ("bdoy",)}, "`layers` bdoy: the program has no such layer; it has body, body.0"),
        ({"layers": ("shared",)}, "`layers` shared: is called several times"),
        ({"layers": ("last",)}, r"`layers` last: puts out a tensor of shape \(1, 2\)"),
        ({"classes": ("a",)}, "the classifier has 2 outputs"),
        ({"slice_size": 48}, "`slice_size` 48: the program was exported for slices of 32"),
        ({"weights": "w.pth"}, "`weights` w.pth: small.pt2 brings its own"),
        ({"encoder": "absent.pt2"}, "absent.pt2: no such file"),
        ({"encoder": "resnet10t", "weights": "none", "slice_size": 32}, "`layers`: are for an exported program"),
        ({"encoder": "resnet10t", "layers": ()}, "`weights`: missing; only an exported program"),
    ],
)
def test_what_does_not_fit_a_program_is_named(
    changes: dict[str, Any], message: str, small: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"encoder": str(small[1]), "classes": ("a", "b"), "layers": ("body",), **changes}
    with pytest.raises(TonnoError, match=message):
        make_bundle(OwnClassifier(**given), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_programs_of_one_batch_or_in_training_are_refused_with_the_line_that_helps(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"exported for 2 images .*dynamic_shapes="):
        read_program(export(Small().eval(), tmp_path / "a.pt2", batch=2), ["body"])
    with pytest.raises(TonnoError, match=r"export model.eval\(\)"):
        read_program(export(Small().train(), tmp_path / "b.pt2"), ["body"])


class Ignoring(nn.Module):
    """Changes its output in place and does not look at what that returns."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        output = images * 2
        output.relu_()
        return output


def test_a_layer_that_changes_its_output_in_place_is_what_it_put_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), Ignoring(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    program = Program(*read_program(export(model, tmp_path / "a.pt2"), ["1"]))
    images = torch.randn(2, 1, 64, 64)
    _, (found,) = LayeredModel(program, ["1"], channels=1, slice_size=64).forward_intermediates(images, [0])
    torch.testing.assert_close(found, model[:2](images))
    assert found.min() == 0


def changed(path: Path, output: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """Copy an archive with one of its parts changed."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(output, "w") as target:
        for each in source.namelist():
            content = source.read(each)
            target.writestr(each, change(content) if each.endswith(name) else content)
    return output


def test_nothing_in_a_program_runs(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    proof = tmp_path / "it-ran"
    trap = io.BytesIO()
    torch.save({"a": Malicious(proof)}, trap)
    # The example's inputs, which torch unpickles, are not looked at.
    path = changed(small[1], tmp_path / "a.pt2", "sample_inputs/model.pt", lambda _: trap.getvalue())
    assert read_program(path, ["body"])[0]
    # A weight that is said to be a pickle.
    config = lambda content: content.replace(b'"use_pickle": false', b'"use_pickle": true')  # noqa: E731
    path = changed(small[1], tmp_path / "b.pt2", "model_weights_config.json", config)
    path = changed(path, tmp_path / "c.pt2", "weights/weight_0", lambda _: pickle.dumps(Malicious(proof)))
    with pytest.raises(TonnoError, match=r"c\.pt2: not a readable exported program"):
        read_program(path, ["body"])
    assert not proof.exists()


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("os.system", [{"name": "", "arg": {"as_string": "ls"}, "kind": 1}], "calls os.system, expected operators of"),
        ("torch.ops.aten.__init__.__globals__", [], "calls torch.ops.aten.__init__.__globals__"),
        ("torch.ops.aten.from_file.default", [{"name": "filename", "arg": {"as_string": "/etc/passwd"}, "kind": 1}],
         "calls torch.ops.aten.from_file"),
        ("torch.ops.other.op.default", [], "calls torch.ops.other.op.default, expected operators of torch"),
        ("torch.ops.aten.relu.default", [{"name": "self", "arg": {"as_operator": "x"}, "kind": 1}], "kind that is not"),
    ],
)  # fmt: skip
def test_only_torch_s_own_operators_are_called(
    target: str, arguments: list[Any], message: str, small: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    def change(content: bytes) -> bytes:
        program = json.loads(content)
        node = program["graph_module"]["graph"]["nodes"][0]
        node["target"], node["inputs"] = target, arguments
        return json.dumps(program).encode()

    path = changed(small[1], tmp_path / "a.pt2", "models/model.json", change)
    with pytest.raises(TonnoError, match=message):
        read_program(path, ["body"])
    # Nor where somebody changed the bundle.
    text, tensors = read_program(small[1], ["body"])
    program = json.loads(text)
    program["calls"][0] |= {"operator": target, "arguments": [["a", "x"]]}
    with pytest.raises(TonnoError, match=r"calls|expected"):
        Program(json.dumps(program), tensors)


def test_damaged_and_other_archives_are_no_programs(small: tuple[nn.Module, Path], tmp_path: Path) -> None:
    whole, path = small[1].read_bytes(), tmp_path / "a.pt2"
    for content in (b"", b"hello", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(TonnoError, match=r"a\.pt2: not a readable exported program"):
            read_program(path, ["body"])
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.8")
    with pytest.raises(TonnoError, match="a compiled one could run code and is refused; export and save it anew"):
        read_program(path, ["body"])
