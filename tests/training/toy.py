"""Tiny scans on which a classifier learns its finding within seconds, and runs of training on them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tonno_core.cohort.manifest import read_manifest
from tonno_core.distributed import Processes
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.settings import TrainingSettings
from tonno_core.training.train import TrainedModel, train
from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

SPACING_MM = 4.0
# timm's smallest ResNet, on 16 slices of 32 pixels per step.
SETTINGS = TrainingSettings(
    encoder="test_resnet", slice_size=32, steps=6, epochs=3, volumes_per_batch=4, slices_per_volume=4, device="cpu",
    precision="float32",
)  # fmt: skip
OPTIONS = {
    name: getattr(SETTINGS, name)
    for name in ("encoder", "slice_size", "steps", "epochs", "volumes_per_batch", "slices_per_volume", "device",
                 "precision")
}  # fmt: skip


def toy_scan(index: int, label: int) -> Volume:
    """A head of 16^3 voxels: a smooth ball, its noise, and with label 1 a bright lesion over half of its width."""
    rng = np.random.default_rng(index)
    z, y, x = np.mgrid[-8:8, -8:8, -8:8] + 0.5
    head = (x**2 + y**2 + z**2 < 49) * (1.0 + 0.1 * rng.normal(size=x.shape))
    cz, cy, cx = rng.uniform(-2, 2, 3)
    lesion = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 < 16
    array = (100 * (head + 2.0 * label * lesion)).astype(np.float32)
    ijk_to_ras = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    ijk_to_ras[:3, 3] = -7.5 * SPACING_MM
    return Volume(array, ijk_to_ras)


def two_balls() -> Volume:
    """Two balls of 2.5 voxels' radius far from each other, the first twice as bright, on hardly anything."""
    z, y, x = np.mgrid[-8:8, -8:8, -8:8] + 0.5
    first, second = ((x - c) ** 2 + (y - c) ** 2 + (z - c) ** 2 < 6.3 for c in (-4.0, 4.0))
    head = 5.0 * (x**2 + y**2 + z**2 < 60)
    return toy_scan(0, 0).with_array((head + 300.0 * first + 150.0 * second).astype(np.float32))


def write_toy_set(folder: Path, *, train: int = 4, val: int = 2) -> Path:
    """A manifest with half its scans of each label, and masks that no program can read."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["volume", "label", "mask", "patient", "split"])
        writer.writeheader()
        for index in range(train + val):
            label = index % 2
            write_volume(toy_scan(index, label), folder / f"{index}.nii.gz")
            (folder / f"{index}-mask.nii.gz").write_bytes(b"not an image")
            writer.writerow({
                "volume": f"{index}.nii.gz", "label": label, "mask": f"{index}-mask.nii.gz",
                "patient": f"p{index}", "split": "train" if index < train else "val",
            })  # fmt: skip
    return folder / "manifest.csv"


def write_rows(folder: Path, header: str, labels: Sequence[str], *, bright: int | None = 0) -> Path:
    """A manifest with a toy scan for each text of labels; the class in column ``bright`` shows as a lesion."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [header]
    for index, text in enumerate(labels):
        label = 0 if bright is None else int(text.split(",")[bright] == "1")
        write_volume(toy_scan(index, label), folder / f"{index}.nii.gz")
        lines.append(f"{index}.nii.gz,{text}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def run_folder(manifest: Path, path: Path, **changes: Any) -> RunFolder:
    """Opened for the toy settings with some changed."""
    read = read_manifest(manifest)
    folder = RunFolder(path, replace(SETTINGS, **changes), read)
    folder.open()
    return folder


def train_toy(manifest: Path, run: Path, **changes: Any) -> TrainedModel:
    """Train by the toy settings with some changed, alone, on the CPU; goes on if the run has a checkpoint."""
    folder = run_folder(manifest, run, **changes)
    alone = Processes(0, 1, torch.device("cpu"))
    return train(read_manifest(manifest), replace(SETTINGS, **changes), folder, alone, progress=False)


def same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Tell whether all weights are equal to the last bit."""
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def environment(**more: str) -> dict[str, str]:
    """Environment of a separate process: one thread, warnings are errors."""
    root = str(Path(__file__).parent.parent.parent)
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error", **more}
