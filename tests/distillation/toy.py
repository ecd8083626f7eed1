"""Tiny distillations: 8^3 voxels, a network of two levels, and a teacher that knows or that was never trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.networks import write_random_bundle
from tests.training.toy import SPACING_MM
from tonno_core.bundle.file import Bundle, load_bundle
from tonno_core.cohort.manifest import Manifest, read_manifest
from tonno_core.distillation.distill import Segmenter, distill
from tonno_core.distillation.pseudo_mask import BACKGROUND, FINDING, UNKNOWN
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.teacher import Numbered
from tonno_core.distributed import ALONE
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.training.run_folder import RunFolder

SETTINGS = DistillationSettings(
    planes={"slices": 6, "directions": 4}, spacing_mm=(2 * SPACING_MM,) * 3, filters=8, blocks=(1, 1), steps=5,
    epochs=2, volumes_per_batch=2, device="cpu", precision="float32",
)  # fmt: skip


def untrained(folder: Path, classes: tuple[str, ...] = ("finding",)) -> Bundle:
    """A classifier of random weights, whose heatmaps show something somewhere."""
    return load_bundle(write_random_bundle(folder / "classifier", classes=classes))


def known(numbered: Numbered, network: SegmenterNetwork) -> torch.Tensor:
    """The levels of a teacher that knows where the lesions of the toy set are, but not quite how large."""
    number, case = numbered
    z, y, x = np.mgrid[-4:4, -4:4, -4:4] * 2.0 + 1.0
    rng = np.random.default_rng(number)
    rng.normal(size=(16, 16, 16))  # of the head
    cz, cy, cx = rng.uniform(-2, 2, 3)
    distance = (x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2
    levels = np.select([distance < 12, distance < 25], [FINDING, UNKNOWN], BACKGROUND).astype(np.uint8)
    blank = np.full_like(levels, BACKGROUND)
    return torch.as_tensor(np.stack([levels if label else blank for label in case.labels]))


def open_run(manifest: Manifest, run: Path, settings: DistillationSettings) -> RunFolder:
    folder = RunFolder(run, settings, manifest)
    folder.open()
    return folder


def distill_toy(manifest_path: Path, run: Path, bundle: Bundle, **changes: Any) -> Segmenter:
    """Distill by the toy settings with some changed, from a teacher that knows; goes on if the run has a checkpoint."""
    manifest = read_manifest(manifest_path)
    label = changes.pop("label", known)
    settings = replace(SETTINGS, classes=manifest.classes, **changes)
    folder = open_run(manifest, run, settings)
    return distill(manifest, bundle, settings, folder, ALONE, label=label, progress=False)
