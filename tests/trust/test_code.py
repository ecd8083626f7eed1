"""SECURITY.md: files never run code. Weights and programs: tests/encoding/test_weights.py, test_program.py."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tonno_core
from tests.distillation import toy as distilled
from tests.encoding.test_sources import published
from tests.encoding.test_weights import Malicious
from tests.training.toy import run_folder, train_toy, write_toy_set
from tonno_core.bundle.own import OwnClassifier, make_bundle
from tonno_core.cohort.manifest import read_manifest
from tonno_core.encoding.sources import read_source
from tonno_core.errors import TonnoError
from tonno_core.pictures.tile import load_tile
from tonno_core.training.settings import complete_settings
from tonno_core.training.tensor_file import TensorFiles
from tonno_core.worker.files import read_array

ENGINE = Path(tonno_core.__file__).parent
MODULE = ENGINE.parent / "ToNNOSlicer"
SOURCES = [*ENGINE.rglob("*.py"), MODULE / "ToNNOSlicer.py", *(MODULE / "ToNNOSlicerLib").rglob("*.py")]
# What unpickles, compiles or fetches code, in any spelling.
FORBIDDEN = {
    "eval", "exec", "pickle.load", "pickle.loads", "torch.jit.load", "torch.export.load", "torch.hub.load",
    "torch.package.PackageImporter", "timm.models.load_checkpoint", "yaml.load", "os.system", "os.popen", "joblib.load",
    "pd.read_pickle", "shelve.open", "marshal.loads", "runpy.run_path", "importlib.util.spec_from_file_location",
}  # fmt: skip


def calls(file: Path) -> list[tuple[str, dict[str, Any]]]:
    """Each call of a source file by its dotted name, with its keywords."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {each.arg: getattr(each.value, "value", None) for each in node.keywords if each.arg}
            found.append((ast.unparse(node.func), keywords))
    return found


def test_the_sources_load_nothing_that_could_run() -> None:
    loads = 0
    for file in SOURCES:
        for name, keywords in calls(file):
            assert name not in FORBIDDEN, f"{file}: {name}"
            assert keywords.get("shell") is not True, f"{file}: {name} through a shell"
            assert keywords.get("allow_pickle") in (None, False), f"{file}: {name} reads objects"
            assert keywords.get("trust_remote_code") is None, f"{file}: {name}"
            if name == "torch.load":
                loads += 1
                assert keywords.get("weights_only") is True, f"{file}: torch.load of anything"
    assert loads >= 3  # it looks where they are


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The folder that any code of a file would make."""
    return tmp_path / "it-ran"


def test_the_checkpoint_of_a_training_is_no_way_in(tmp_path: Path, proof: Path) -> None:
    manifest = write_toy_set(tmp_path / "toy")
    folder = run_folder(manifest, tmp_path / "run")
    state = {"model": {"w": torch.ones(1)}, "step": 1, "run": folder._description}
    torch.save({**state, "rng": Malicious(proof)}, folder.checkpoint)
    with pytest.raises(TonnoError, match=r"checkpoint\.pt: damaged or not a file of tensors"):
        train_toy(manifest, tmp_path / "run")
    assert not proof.exists()


def test_the_checkpoint_of_a_distillation_is_no_way_in(tmp_path: Path, proof: Path) -> None:
    path = write_toy_set(tmp_path / "toy")
    manifest = read_manifest(path)
    settings = dataclasses.replace(distilled.SETTINGS, classes=manifest.classes)
    folder = distilled.open_run(manifest, tmp_path / "run", settings)
    torch.save({"network": {}, "run": folder._description, "rng": Malicious(proof)}, folder.checkpoint)
    with pytest.raises(TonnoError, match=r"checkpoint\.pt: damaged or not a file of tensors"):
        distilled.distill_toy(path, tmp_path / "run", distilled.untrained(tmp_path))
    assert not proof.exists()


def test_a_prepared_volume_is_no_way_in(tmp_path: Path, proof: Path) -> None:
    files = TensorFiles(tmp_path)
    torch.save({"key": "k", "voxels": torch.ones(2), "more": Malicious(proof)}, files.path(0))
    assert not files.is_current(0, "k")  # it is made anew
    with pytest.raises(TonnoError, match="damaged or not a file of tensors"):
        files.load(0)
    assert not proof.exists()


def test_arrays_of_objects_are_no_way_in(tmp_path: Path, proof: Path) -> None:
    trap = np.array([Malicious(proof)], dtype=object)
    np.save(tmp_path / "a.npy", trap)
    np.savez(tmp_path / "a.npz", names=trap)
    (tmp_path / "b.npy").write_bytes((tmp_path / "a.npz").read_bytes())
    for name in ("a.npy", "b.npy"):
        with pytest.raises(ValueError, match=r"Python objects|no file of numbers|magic string"):
            read_array(tmp_path / name)
    with pytest.raises(TonnoError, match="not readable as a case's planes"):
        load_tile(tmp_path / "a.npz")
    assert not proof.exists()


def test_a_published_model_is_no_way_in(tmp_path: Path, proof: Path) -> None:
    published(tmp_path / "published")
    (tmp_path / "published" / "model.safetensors").unlink()
    torch.save({"fc.weight": torch.ones(1), "x": Malicious(proof)}, tmp_path / "published" / "pytorch_model.bin")
    with pytest.raises(TonnoError, match="could run code when loaded"):
        make_bundle(OwnClassifier(f"local-dir:{tmp_path / 'published'}"), tmp_path / "model")
    assert not proof.exists() and not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "arguments", [{"checkpoint_path": "trap.pth"}, {"pretrained": True}, {"pretrained_cfg": {"file": "trap.pth"}}]
)
def test_a_published_model_cannot_name_other_files(tmp_path: Path, arguments: dict[str, Any]) -> None:
    published(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_args": arguments}))
    for ask in (read_source, lambda encoder: complete_settings(encoder=encoder)):
        with pytest.raises(TonnoError, match=rf"the argument '{next(iter(arguments))}' cannot be chosen"):
            ask(f"local-dir:{tmp_path}")
