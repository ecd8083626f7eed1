"""A real experiment in small: brains with and without lesions, and the start that another library saved."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from tests.networks import efficientnet_as_lukemelas, random_network
from tonno_core.bundle.file import load_bundle
from tonno_core.commands import train as command
from tonno_core.commands.train import Destination, train_bundle
from tonno_core.demo.phantom import write_phantoms
from tonno_core.training.settings import complete_settings


def test_phantoms_and_an_efficientnet_of_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "calibrate_bundle", lambda bundle, *rest: bundle.spec)
    manifest = write_phantoms(tmp_path / "heads", count=8, seed=1, spacing_mm=8.0, validation=0.5)
    start = random_network("efficientnet_b0", channels=3, classes=1000)
    torch.save(efficientnet_as_lukemelas(start), tmp_path / "adv-efficientnet-b0.pth")
    settings = complete_settings(
        encoder="efficientnet_b0", weights=str(tmp_path / "adv-efficientnet-b0.pth"), freeze=1, ema=0.5, slice_size=64,
        steps=4, epochs=2, volumes_per_batch=2, slices_per_volume=4, device="cpu", precision="float32",
    )  # fmt: skip
    summary = train_bundle(manifest, Destination(tmp_path / "model", half=True), settings, progress=False)
    assert "validation on random slices: slice AUC 0." in summary
    bundle = load_bundle(tmp_path / "model")
    assert (bundle.spec.norm, bundle.spec.classes) == ("frozen-batch", ("finding",))
    assert bundle.spec.training["settings"]["weights"] == "adv-efficientnet-b0.pth"
    assert bundle.spec.training["settings"]["stage_decay"] == 0.7
    before = start.state_dict()
    # Four steps move little of what learns; the stem and the norms move by float16's rounding alone.
    stem = before["conv_stem.weight"].sum(dim=1, keepdim=True)
    assert torch.equal(bundle.weights["conv_stem.weight"], stem.half().float())
    assert torch.equal(bundle.weights["bn2.running_var"], before["bn2.running_var"])
    moved = (bundle.weights["conv_head.weight"] - before["conv_head.weight"]).abs().max()
    assert 1e-4 < moved < 1e-2
    assert bundle.weights["classifier.weight"].abs().max() < 0.1  # it started at a standard deviation of 0.01
    with (tmp_path / "model-run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2
    assert max(losses) < 2.0
