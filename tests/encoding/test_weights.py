"""Weight files: what is read is what was there, nothing in them runs, and what does not fit is named."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import tarfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from tests.hooks import stir
from tests.networks import efficientnet_as_lukemelas, random_network
from tonno_core.encoding.classifier import create_model
from tonno_core.encoding.weights import (
    load_exactly,
    load_pretrained,
    named_as,
    read_checkpoint,
    read_weights,
    weights_for,
)
from tonno_core.errors import TonnoError

TENSORS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1.0, -1.0])}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def refused(path: Path) -> str:
    """Return the message with which a file is refused, after its name."""
    with pytest.raises(TonnoError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    # No advice to run what is in a file, as torch's own with False.
    assert "weights_only" not in message.replace("weights_only=True", "")
    return message.removeprefix(f"{path}: ")


# -------------------- reading


def test_safetensors(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert same(read_weights(tmp_path / "a.safetensors"), TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {"model": tensors, "optimizer": {"lr": 0.1}},
        lambda tensors: {**tensors, "epoch": 3},
        lambda tensors: {"net": tensors, "epoch": 3},
        lambda tensors: {"run": {"model_state_dict": tensors, "loss": torch.tensor(0.3)}, "best": torch.tensor(0.9)},
        lambda tensors: {"weights": tensors, "optimizer_state": {"state": {"a": {"exp_avg": torch.ones(2)}}}},
        lambda tensors: {"state_dict": tensors, "args": argparse.Namespace(lr=0.1, out=Path("runs"))},
        lambda tensors: {"state_dict": tensors, "auc": np.float64(0.9), "n": np.int64(3), "curve": np.ones(3)},
    ],
    ids=[
        "plain",
        "state_dict",
        "model",
        "with a number",
        "any key",
        "two deep",
        "beside an optimizer",
        "options",
        "numpy's numbers",
    ],
)
def test_torch_files_as_trainers_write_them(
    wrap: Callable[[dict[str, torch.Tensor]], Any], zipped: bool, tmp_path: Path
) -> None:
    torch.save(wrap(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert same(read_weights(tmp_path / "a.pth"), TENSORS)


@pytest.mark.parametrize(
    ("keys", "taken", "said"),
    [
        (
            ("state_dict", "state_dict_ema"),
            "state_dict_ema",
            "those under 'state_dict_ema', a moving average (EMA), not",
        ),
        (("model", "model_ema"), "model_ema", "not those under 'model'"),
        (("state_dict", "model", "net"), "state_dict", "those under 'state_dict', not those under 'model', 'net'"),
        (("model", "ema"), "model", "those under 'model', not those under 'ema'"),
    ],
)
def test_weights_beside_others_are_those_that_timm_takes(
    keys: tuple[str, ...], taken: str, said: str, tmp_path: Path
) -> None:
    torch.save({key: {"a": torch.full((2,), float(n))} for n, key in enumerate(keys)}, tmp_path / "a.pth")
    found, notes = read_checkpoint(tmp_path / "a.pth")
    assert same(found, timm.models.load_state_dict(str(tmp_path / "a.pth")))
    assert found["a"][0] == keys.index(taken)
    assert said in "; ".join(notes)


def test_several_dictionaries_of_unknown_keys_are_a_question_with_a_line_that_answers_it(tmp_path: Path) -> None:
    torch.save({"generator": TENSORS, "critic": {"net": {"a": torch.ones(1)}}}, tmp_path / "a.pth")
    message = refused(tmp_path / "a.pth")
    assert "several dictionaries of tensors (generator, critic.net)" in message
    names = {"torch": torch, "FILE": tmp_path / "a.pth", "OTHER": tmp_path / "b.pth"}
    eval(message.partition("save it: ")[2], names)
    assert same(read_weights(tmp_path / "b.pth"), TENSORS)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("beside", "kind"),
    [
        (datetime(2020, 1, 1), "datetime.datetime"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.array([{}], dtype=object), "ObjectDType"),
    ],
    ids=["a date", "a module", "objects of numpy"],
)
def test_an_object_beside_the_tensors_is_named_and_is_no_damage(
    beside: object, kind: str, zipped: bool, tmp_path: Path
) -> None:
    torch.save({"state_dict": TENSORS, "x": beside}, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    message = refused(tmp_path / "a.pth")
    assert kind in message
    assert "damaged" not in message and "weights_only=False" not in message
    assert "save_file(model.state_dict()" in message


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"mkdir {self.proof}",)


@pytest.mark.parametrize("container", ["zip", "legacy", "pickle", "pickle protocol 2", "named safetensors"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(container: str, tmp_path: Path) -> None:
    proof, path = tmp_path / "it-ran", tmp_path / "a.pth"
    content = {"layer.weight": torch.ones(1), "layer.bias": Malicious(proof)}
    if "pickle" in container:
        path.write_bytes(pickle.dumps(content, protocol=2 if "2" in container else None))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container != "legacy")
    if container == "named safetensors":
        path = path.rename(tmp_path / "a.safetensors")
        assert "not a readable safetensors file" in refused(path)
    else:
        message = refused(path)
        assert "could run code when loaded" in message
        assert "save model.state_dict() again, best as .safetensors" in message
    assert not proof.exists()
    if container != "named safetensors":  # the trap works: plain pickle would have walked into it
        torch.load(path, weights_only=False) if "pickle" not in container else pickle.loads(path.read_bytes())
        assert proof.exists()


def test_a_whole_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "a.pth")
    assert "save model.state_dict() again" in refused(tmp_path / "a.pth")


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_a_torchscript_archive_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "a.pt")
    assert "a TorchScript archive or torch's old .tar, which run code when loaded; save" in refused(tmp_path / "a.pt")


def test_a_tar_of_an_old_torch_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            content = pickle.dumps({})
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert "torch's old .tar, which run code when loaded; save model.state_dict()" in refused(tmp_path / "a.tar")


def test_files_without_weights(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "absent.pth")
    assert "no such file" in refused(tmp_path)  # a folder
    (tmp_path / "empty.pth").touch()
    assert "not a readable weights file (EOFError)" in refused(tmp_path / "empty.pth")
    (tmp_path / "empty.safetensors").touch()
    assert "not a readable safetensors file" in refused(tmp_path / "empty.safetensors")
    (tmp_path / "text.pth").write_text("hello\n")
    refused(tmp_path / "text.pth")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    assert "holds a list, expected a dictionary of tensors by name" in refused(tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    assert refused(tmp_path / "none.pth").endswith("it holds epoch (int)")


@pytest.mark.parametrize("name", ["a.safetensors", "a.pth"])
def test_truncated_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path)
    whole = path.read_bytes()
    for length in (1, 8, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(path)


def test_damaged_bytes_never_end_in_a_traceback(tmp_path: Path) -> None:
    path, chance = tmp_path / "a.pth", random.Random(0)
    torch.save(TENSORS, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except TonnoError as error:
            assert str(error).startswith(f"{path}: ")
            assert "\n" not in str(error)


# -------------------- into a model


def test_weights_arrive_in_the_model() -> None:
    source, target = random_network("resnet10t", seed=0), random_network("resnet10t", seed=1)
    load_exactly(target, source.state_dict(), "w.pth")
    assert same(target.state_dict(), source.state_dict())


def test_counters_of_batches_may_be_absent() -> None:
    model = random_network("resnet10t")
    weights = {name: tensor for name, tensor in model.state_dict().items() if "num_batches" not in name}
    load_exactly(random_network("resnet10t", seed=1), weights, "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "net.encoder."])
def test_a_prefix_that_all_names_share_is_taken_off(prefix: str, suffix: str, tmp_path: Path) -> None:
    source, target = random_network("resnet10t"), random_network("resnet10t", seed=1)
    weights = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save({"weights": weights}, path)
    found, said = weights_for(target, path)
    load_exactly(target, found, "w")
    assert same(target.state_dict(), source.state_dict())
    assert f"without the prefix '{prefix}'" in said


def test_what_stands_beside_a_prefix_is_left_aside_and_said() -> None:
    state = random_network("resnet10t").state_dict()
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": tensor for name, tensor in state.items()}}
    found, said = named_as(random_network("resnet10t", seed=1), averaged, "w.pth")
    assert same(found, state)
    assert said == ("without the prefix 'module.', without n_averaged",)


def test_two_networks_in_one_file_are_a_question() -> None:
    state = random_network("resnet10t").state_dict()
    both = {f"{who}.{name}": tensor for who in ("student", "teacher") for name, tensor in state.items()}
    with pytest.raises(TonnoError, match=r"^w.pth: holds the weights twice, as student\.\.\.\. and as teacher\."):
        named_as(random_network("resnet10t"), both, "w.pth")


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("resnet18", "resnet18"), ("densenet121", "densenet121"), ("efficientnet_b0", "efficientnet_b0")],
)
def test_torchvision_s_weights_give_torchvision_s_logits(theirs: str, ours: str, tmp_path: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    source = getattr(torchvision.models, theirs)(num_classes=2)
    stir(source)
    source.double().eval()
    torch.save(source.state_dict(), tmp_path / "w.pth")
    model = create_model(ours, channels=3, classes=2, norm="batch", slice_size=64).double().eval()
    weights, said = weights_for(model, tmp_path / "w.pth")
    load_exactly(model, weights, "w.pth")
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), source(images), rtol=1e-10, atol=1e-10)  # float64 keeps 1e-16
    assert bool(said) == (theirs == "efficientnet_b0")  # whose names differ


def mismatch(model: nn.Module, weights: dict[str, torch.Tensor]) -> str:
    with pytest.raises(TonnoError) as caught:
        load_exactly(model, weights, "w.pth")
    assert str(caught.value).startswith("w.pth: ")
    return str(caught.value)


def test_weights_of_another_model_name_the_first_tensor() -> None:
    model = random_network("resnet10t")
    message = mismatch(model, random_network("convnext_atto").state_dict())
    assert "weights are of another model" in message
    assert "missing (first bn1.bias)" in message
    assert "unknown (first head.fc.bias)" in message
    weights = model.state_dict()
    del weights["conv1.0.weight"]
    assert "1 tensors missing (first conv1.0.weight), 0 unknown" in mismatch(model, weights)
    weights = {**model.state_dict(), "extra": torch.ones(1)}
    assert "0 tensors missing, 1 unknown (first extra)" in mismatch(model, weights)


@pytest.mark.parametrize(
    ("options", "tensor", "found", "expected"),
    [
        ({"classes": 2}, "fc.weight", r"\(2, 512\)", r"\(1, 512\)"),
        ({"channels": 3}, "conv1.0.weight", r"\(24, 3, 3, 3\)", r"\(24, 1, 3, 3\)"),
    ],
    ids=["classes", "channels"],
)
def test_other_classes_or_channels_name_the_tensor_and_both_shapes(
    options: dict[str, int], tensor: str, found: str, expected: str
) -> None:
    model = random_network("resnet10t")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TonnoError, match=rf"{tensor} has shape {found}, this encoder expects {expected}; check"):
        load_exactly(model, random_network("resnet10t", **options).state_dict(), "w.pth")  # type: ignore[arg-type]
    assert same(model.state_dict(), before)  # not even those tensors that fit were taken


# -------------------- to start training from


def test_three_channels_become_one_by_their_sum_and_the_head_starts_anew() -> None:
    source = random_network("resnet10t", channels=3, classes=1000)
    target = random_network("resnet10t", channels=1, classes=1, seed=1)
    head = target.fc.weight.clone()  # type: ignore[union-attr, operator]
    assert load_pretrained(target, source.state_dict(), channels=1, source="w.pth")  # the head is new
    # A grey slice in all three channels gives the same sums: the first features agree.
    slices = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.forward_features(slices.expand(-1, 3, -1, -1))  # type: ignore[operator]
        found = target.forward_features(slices)  # type: ignore[operator]
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))  # float32
    assert torch.equal(target.fc.weight, head)  # type: ignore[arg-type, union-attr]


def test_three_channels_become_two() -> None:
    source, target = random_network("resnet10t", channels=3), random_network("resnet10t", channels=2, seed=1)
    load_pretrained(target, source.state_dict(), channels=2, source="w.pth")
    first = source.state_dict()["conv1.0.weight"]
    assert torch.allclose(target.state_dict()["conv1.0.weight"], first[:, :2] * 1.5)  # the same total weight


def test_the_same_head_is_taken_over() -> None:
    source, target = random_network("resnet10t"), random_network("resnet10t", seed=1)
    assert not load_pretrained(target, source.state_dict(), channels=1, source="w.pth")  # no part of the head is new
    assert same(target.state_dict(), source.state_dict())


def test_another_encoder_is_no_start() -> None:
    with pytest.raises(TonnoError, match=r"^w.pth: weights are of another model"):
        load_pretrained(
            random_network("resnet10t"), random_network("convnext_atto").state_dict(), channels=1, source="w.pth"
        )


@pytest.mark.parametrize("counters", [True, False], ids=["", "without counters"])
def test_names_of_another_library_stand_for_the_same_tensors_in_the_same_order(counters: bool) -> None:
    source = random_network("efficientnet_b0", channels=3, classes=1000)
    theirs = efficientnet_as_lukemelas(source)
    assert theirs.keys().isdisjoint(source.state_dict())
    assert {"_blocks.0._project_conv.weight", "_blocks.15._se_expand.bias", "_fc.weight"} < theirs.keys()
    given = {name: tensor for name, tensor in theirs.items() if counters or not name.endswith("num_batches_tracked")}
    target = random_network("efficientnet_b0", seed=1)
    given, said = named_as(target, given, "w.pth")
    assert "named as in another library" in said[0]
    assert load_pretrained(target, given, channels=1, source="w.pth")
    found = target.state_dict()
    for name, tensor in source.state_dict().items():
        if name == "conv_stem.weight":
            assert torch.allclose(found[name], tensor.sum(dim=1, keepdim=True))
        elif not name.startswith("classifier"):
            assert torch.equal(found[name], tensor) or name.endswith("num_batches_tracked"), name


def test_tensors_in_another_order_are_not_taken_for_others() -> None:
    theirs = efficientnet_as_lukemelas(random_network("efficientnet_b0"))
    for order in (reversed(list(theirs)), sorted(theirs)):
        with pytest.raises(TonnoError, match=r"^w.pth: weights are of another model"):
            start_from({name: theirs[name] for name in order})
    larger = efficientnet_as_lukemelas(random_network("efficientnet_b1"))
    with pytest.raises(TonnoError, match=r"^w.pth: weights are of another model"):
        start_from(larger)


def start_from(weights: dict[str, torch.Tensor]) -> None:
    model = random_network("efficientnet_b0", seed=1)
    load_pretrained(model, named_as(model, weights, "w.pth")[0], channels=1, source="w.pth")


@pytest.mark.parametrize(
    ("name", "resized"),
    [
        ("vit_tiny_patch16_224", "pos_embed"),
        pytest.param(
            "swin_tiny_patch4_window7_224",
            "relative_position_bias_table",
            marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore")],  # timm's interpolation warns
        ),
    ],
)
def test_a_transformer_starts_from_weights_of_another_image_size_as_in_timm(
    name: str, resized: str, tmp_path: Path
) -> None:
    arguments = {"depth": 2} if name.startswith("vit") else {"window_size": 4}
    torch.manual_seed(0)
    original = timm.create_model(name, **({"depth": 2} if name.startswith("vit") else {}))
    torch.save(original.state_dict(), tmp_path / "w.pth")
    model = create_model(name, channels=1, classes=1, norm="batch", slice_size=64, arguments=arguments)
    weights, _ = weights_for(model, tmp_path / "w.pth")
    assert load_pretrained(model, weights, channels=1, source="w.pth")
    overlay = {"file": str(tmp_path / "w.pth")}
    expected = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay=overlay, img_size=64, in_chans=1, num_classes=1, **arguments
    ).state_dict()
    found = model.state_dict()
    assert any(name.endswith(resized) and found[name].shape != original.state_dict()[name].shape for name in found)
    for key in found.keys() - {key for key in found if key.startswith("head")}:
        torch.testing.assert_close(found[key], expected[key], msg=key)
