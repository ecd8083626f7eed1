"""Tiny scans on which a classifier learns its finding within seconds."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

SPACING_MM = 4.0


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
