"""timm's sources: a folder as timm saves it becomes a bundle or a start of training, with all that it says."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from torch import nn

from tests.hooks import stir
from tonno_core.bundle.file import load_bundle
from tonno_core.bundle.own import OwnClassifier, make_bundle
from tonno_core.encoding.sources import read_source
from tonno_core.errors import TonnoError
from tonno_core.training.model import initial_model
from tonno_core.training.settings import complete_settings


def published(folder: Path, name: str = "test_resnet", **options: Any) -> nn.Module:
    """Save a classifier as timm publishes one."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=2, **options)
    stir(model)
    labels = {"label_names": ["normal", "lesion"]}
    timm.models.save_for_hf(model, str(folder), model_config=labels, safe_serialization=True)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_resnet", {}, 160),
        ("test_resnet", {"global_pool": "max"}, 160),  # another network than the name alone makes
        ("test_vit", {"img_size": 96}, 96),
    ],
)
def test_a_bundle_of_a_folder_of_timm_answers_as_the_model(
    name: str, options: dict[str, Any], size: int, tmp_path: Path
) -> None:
    model = published(tmp_path / "published", name, **options)
    own = OwnClassifier(f"local-dir:{tmp_path / 'published'}", intensity="window:0:1", mean="timm")
    make_bundle(own, tmp_path / "model")
    spec = load_bundle(tmp_path / "model").spec
    assert (spec.encoder, spec.channels, spec.classes, spec.slice_size) == (name, 3, ("normal", "lesion"), size)
    assert (spec.mean, spec.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # the config's, not those of the name
    images = torch.rand(2, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model((images[:, None].expand(-1, 3, -1, -1) - 0.5) / 0.5)
    found = load_bundle(tmp_path / "model").classifier().logits(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32, folded norms


def test_training_starts_from_a_folder_of_timm(tmp_path: Path) -> None:
    model = published(tmp_path)
    settings = complete_settings(encoder=f"local-dir:{tmp_path}", channels=3, slice_size=32)
    assert (settings.encoder, settings.norm, settings.record()["weights"]) == (
        "test_resnet", "frozen-batch", "model.safetensors",
    )  # fmt: skip
    found = initial_model(settings).state_dict()
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items() if "fc" not in name)


def test_training_refuses_a_network_that_its_name_does_not_make(tmp_path: Path) -> None:
    published(tmp_path, global_pool="max")
    with pytest.raises(TonnoError, match="is no plain test_resnet"):
        complete_settings(encoder=f"local-dir:{tmp_path}")


def test_what_is_no_source_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TonnoError, match=r"the folder has no config.json, as timm saves a model"):
        read_source(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(TonnoError, match=r"its config.json is not timm's"):
        read_source(f"local-dir:{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t"}))
    with pytest.raises(TonnoError, match=r"the folder has no model.safetensors or pytorch_model.bin"):
        read_source(f"local-dir:{tmp_path}")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(TonnoError, match=r"config.json could not be fetched .*give local-dir:PATH$"):
        read_source("hf-hub:nobody/nothing")


def test_what_was_fetched_before_is_taken_from_the_cache_where_the_hub_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "models--somebody--classifier"
    published(kept / "snapshots" / "0123abc")
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0123abc")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.monotonic()
    assert read_source("hf-hub:somebody/classifier") == read_source(f"local-dir:{kept / 'snapshots' / '0123abc'}")
    assert time.monotonic() - begun < 10  # the client's own attempts take half a minute for each file
    assert not constants.HF_HUB_OFFLINE
    with pytest.raises(TonnoError, match=r"config.json could not be fetched"):
        read_source("hf-hub:somebody/classifier@v2")


def test_arguments_of_a_model_file_cannot_make_timm_read_other_files(tmp_path: Path) -> None:
    published(tmp_path / "published", global_pool="max")
    make_bundle(OwnClassifier(f"local-dir:{tmp_path / 'published'}"), tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    data = json.loads(path.read_text())
    assert data["arguments"] == {"global_pool": "max"}
    path.write_text(json.dumps(data | {"arguments": {"checkpoint_path": "/etc/passwd"}}))
    with pytest.raises(TonnoError, match="the argument 'checkpoint_path' cannot be chosen"):
        load_bundle(tmp_path / "model").classifier()
