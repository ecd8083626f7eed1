"""Training of a slice classifier from volume-level labels: BCE of random oblique slices (paper, section 3)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tonno_core.encoding.bundle import BundleSpec
from tonno_core.encoding.classifier import create_model, place
from tonno_core.encoding.device import choose_device, choose_precision
from tonno_core.encoding.normalization import NormKind, freeze_batch_norm, to_group_norm
from tonno_core.encoding.weights import load_pretrained, read_weights
from tonno_core.errors import TonnoError
from tonno_core.evaluation.metrics import auc
from tonno_core.slicing.preparation import prepare_volume
from tonno_core.training.augmentation import Augmentation
from tonno_core.training.dataset import SliceSampler, TrainingVolume
from tonno_core.training.manifest import Case
from tonno_core.volume.foreground import foreground_ball
from tonno_core.volume.io import read_volume


@dataclass(frozen=True)
class TrainingSettings:
    """How a classifier is trained. steps: batches of volumes_per_batch x slices_per_volume slices."""

    encoder: str = "resnet10t"
    channels: int = 1
    class_name: str = "finding"
    norm: NormKind = "batch"
    weights: str = "none"
    slice_size: int = 96
    pixel_mm: float | None = None
    intensity: str = "zscore"
    frame: str = "physical"
    steps: int = 2000
    volumes_per_batch: int = 8
    slices_per_volume: int = 8
    learning_rate: float = 1e-3
    warmup: float = 0.05
    weight_decay: float = 0.0
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class TrainedModel:
    """Weights with the description that a bundle needs."""

    spec: BundleSpec
    weights: dict[str, torch.Tensor]


def train(cases: list[Case], settings: TrainingSettings, *, progress: bool = True) -> TrainedModel:
    """Train on the cases of split ``train``; those of ``val`` only measure.

    Same seed, device and thread count: same weights. Masks are never opened. Raises TonnoError for
    unreadable volumes or a loss that is not a number.
    """
    started = time.monotonic()
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    model = _initial_model(settings)
    place(model, device)
    pixel_mm = settings.pixel_mm or _pixel_mm(cases, settings, progress)
    train_set = load_split(cases, "train", settings, pixel_mm, rng, progress)
    val_set = load_split(cases, "val", settings, pixel_mm, rng, progress)
    record = _fit(model, train_set, val_set, settings, rng, device, precision, progress)
    spec = BundleSpec(
        encoder=settings.encoder,
        channels=settings.channels,
        classes=(settings.class_name,),
        norm=settings.norm,
        slice_size=settings.slice_size,
        pixel_mm=pixel_mm if settings.frame == "physical" else None,
        intensity=settings.intensity,
        frame=settings.frame,
        training={
            "settings": asdict(settings),
            "volumes": {split: _counts(cases, split) for split in ("train", "val")},
            "threads": torch.get_num_threads(),
            "seconds": round(time.monotonic() - started, 1),
            **record,
        },
    )
    return TrainedModel(spec, model.state_dict())


def load_split(
    cases: list[Case],
    split: str,
    settings: TrainingSettings,
    pixel_mm: float | None,
    rng: np.random.Generator,
    progress: bool,
) -> list[TrainingVolume]:
    """Read, prepare and cache the volumes of one split."""
    chosen = [case for case in cases if case.split == split]
    volumes = []
    for case in tqdm(chosen, desc=f"reading {split}", unit="volume", disable=not progress):
        volume = read_volume(case.volume)
        with _naming(case.volume):
            prepared = prepare_volume(
                volume,
                frame=settings.frame,
                intensity=settings.intensity,
                slice_size=settings.slice_size,
                pixel_mm=pixel_mm,
            )
            volumes.append(TrainingVolume.from_prepared(prepared, case.label, rng))
    return volumes


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with its content."""
    try:
        yield
    except TonnoError as error:
        raise TonnoError(f"{path}: {error}") from error


def _pixel_mm(cases: list[Case], settings: TrainingSettings, progress: bool) -> float | None:
    """The pixel at which the window holds the foreground of 95 % of the training volumes."""
    if settings.frame == "normalized":
        return None
    radii = []
    chosen = [case for case in cases if case.split == "train"]
    for case in tqdm(chosen, desc="measuring", unit="volume", disable=not progress):
        volume = read_volume(case.volume)
        with _naming(case.volume):
            radii.append(foreground_ball(volume)[1])
    return round(2.0 * float(np.quantile(radii, 0.95)) / (settings.slice_size - 1), 3)


def _initial_model(settings: TrainingSettings) -> Any:
    """Random weights, timm's ImageNet weights, or those of a file; group norm keeps all but the statistics."""
    pretrained = settings.weights != "none"
    model = create_model(
        settings.encoder,
        channels=settings.channels,
        classes=1,
        norm="batch" if pretrained else settings.norm,
        slice_size=settings.slice_size,
        imagenet=settings.weights == "imagenet",
    )
    if settings.weights not in ("none", "imagenet"):
        path = Path(settings.weights)
        load_pretrained(model, read_weights(path), channels=settings.channels, source=f"--weights {path}")
    if pretrained and settings.norm == "group":
        to_group_norm(model)
    return model


def _fit(
    model: Any,
    train_set: list[TrainingVolume],
    val_set: list[TrainingVolume],
    settings: TrainingSettings,
    rng: np.random.Generator,
    device: torch.device,
    precision: torch.dtype,
    progress: bool,
) -> dict[str, Any]:
    """Adam with linear warm-up and a cosine to zero. Returns the record of losses and validation AUC."""
    sampler = SliceSampler(train_set, settings.slice_size, Augmentation())
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    losses: list[float] = []
    bar = tqdm(range(settings.steps), desc="training", unit="batch", disable=not progress)
    for step in bar:
        model.train()
        if settings.norm == "frozen-batch":
            freeze_batch_norm(model)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * schedule(step, settings.steps, settings.warmup)
        slices, labels = sampler.draw(rng, settings.volumes_per_batch, settings.slices_per_volume, device)
        loss = F.binary_cross_entropy_with_logits(_logits(model, slices, settings, precision), labels)
        if not torch.isfinite(loss):
            raise TonnoError(f"the loss is {loss.item()} at step {step}; lower --learning-rate, or check the volumes")
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0:
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")
    tail = losses[-max(1, len(losses) // 20) :]
    record: dict[str, Any] = {"final_loss": round(float(np.mean(tail)), 4)}
    if {volume.label for volume in val_set} == {0, 1}:
        record["validation"] = validate(model, val_set, settings, device, precision)
    return record


def schedule(step: int, steps: int, warmup: float) -> float:
    """The learning rate's factor: linear from 0 over the first ``warmup`` share, then half a cosine to 0."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1.0 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


@torch.no_grad()
def validate(
    model: Any,
    volumes: list[TrainingVolume],
    settings: TrainingSettings,
    device: torch.device,
    precision: torch.dtype,
    slices_each: int = 64,
) -> dict[str, float]:
    """AUC of single slices, and of volumes by the mean of their highest tenth of logits. Fixed seed."""
    model.eval()
    rng = np.random.default_rng(settings.seed + 1)
    logits = []
    for volume in volumes:
        sampler = SliceSampler([volume], settings.slice_size, None)
        slices, _ = sampler.draw(rng, 1, slices_each, device)
        logits.append(_logits(model, slices, settings, precision).float().cpu().numpy())
    labels = np.array([volume.label for volume in volumes])
    top = [float(np.sort(one)[-max(1, slices_each // 10) :].mean()) for one in logits]
    return {
        "slice_auc": round(auc(np.concatenate(logits), labels.repeat(slices_each)), 4),
        "volume_auc": round(auc(np.array(top), labels), 4),
    }


def _logits(
    model: Any, slices: torch.Tensor, settings: TrainingSettings, precision: torch.dtype
) -> torch.Tensor:
    """Body at ``precision`` under autocast, head in float32. ``B V U`` to ``B``."""
    x = slices[:, None].expand(-1, settings.channels, -1, -1).contiguous(memory_format=torch.channels_last)
    # Training in float16 would need loss scaling; bfloat16 has float32's range.
    reduced = torch.bfloat16 if precision == torch.float16 else precision
    with torch.autocast(slices.device.type, dtype=reduced, enabled=reduced != torch.float32):
        features = model.forward_features(x)
    logits: torch.Tensor = model.forward_head(features.float())
    return logits[:, 0]


def _counts(cases: Iterable[Case], split: str) -> dict[str, int]:
    labels = [case.label for case in cases if case.split == split]
    return {"positive": labels.count(1), "negative": labels.count(0)}
