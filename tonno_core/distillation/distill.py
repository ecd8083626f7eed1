"""Train a segmenter from labels: heatmaps, pseudo-masks, rounds of training, threshold."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from tonno_core.bundle.calibration import threshold_key
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.kind import HEATMAPS
from tonno_core.cohort.manifest import Manifest
from tonno_core.distillation.loop import Before, Lessons, SegmenterLogits, Trainer, Work, before_of, network_precision
from tonno_core.distillation.patches import PseudoMask, empty_mask, finding_weight, pseudo_mask
from tonno_core.distillation.pseudo_mask import BACKGROUND, UNKNOWN, is_trusted, levels_by_answer, levels_by_heatmaps
from tonno_core.distillation.settings import DistillationSettings
from tonno_core.distillation.teacher import Numbered, Teacher, load_heatmaps, record_of, show_volumes
from tonno_core.distillation.threshold import Answered, answered, threshold_record
from tonno_core.distillation.validation import answer
from tonno_core.distillation.volumes import WorkingPreparation, WorkingVolume, choose_network
from tonno_core.distributed import Processes
from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.progress import progress_bar
from tonno_core.segmenter.network import SegmenterNetwork
from tonno_core.segmenter.with_monai import build_network
from tonno_core.settings import SEGMENTER
from tonno_core.training.cache import VolumeCache
from tonno_core.training.descent import Weights
from tonno_core.training.run_folder import RunFolder
from tonno_core.training.steps import TrainingInterrupted
from tonno_core.training.tensor_file import TensorFiles

# From a volume's place in the manifest, its labels and the network, levels K Z Y X of its working grid.
Label = Callable[[Numbered, SegmenterNetwork], torch.Tensor]


@dataclass(frozen=True)
class Segmenter:
    """What a model of the kind ``segmenter`` is made of.

    Attributes:
        network: Its description.
        weights: Its tensors by name.
        thresholds: Records for the model's description.
        training: How the weights came about.
    """

    network: SegmenterNetwork
    weights: Weights
    thresholds: dict[str, Json]
    training: Json


def distill(
    manifest: Manifest,
    bundle: Bundle,
    settings: DistillationSettings,
    folder: RunFolder,
    group: Processes,
    *,
    label: Label | None = None,
    progress: bool = True,
) -> Segmenter:
    """Train on the volumes of split ``train``; those of ``val`` measure, and give the threshold. No mask is opened.

    Args:
        manifest: Volumes, labels of the settings' classes, and splits.
        bundle: The classifier that teaches.
        settings: How to train.
        folder: The open folder of the run; if it holds a checkpoint, training goes on from there.
        group: The processes that share the work.
        label: Gives levels in place of the classifier's heatmaps; for experiments.
        progress: Show bars, in the first process alone.

    Returns:
        The segmenter.

    Raises:
        TonnoError: If a volume cannot be read, or the loss is not a number.
        TrainingInterrupted: On Ctrl-C, or another signal that asks for an end.
    """
    started = time.monotonic()
    before = before_of(folder)
    # A run that goes on may have begun on another device, by whose memory its windows were chosen.
    network = before.network or choose_network(
        manifest.split("train"), settings, bundle.spec.pixel_mm, group.device.type
    )
    work = Work(settings, network, bundle.spec.intensity, folder, group, progress and group.first)
    cases = [(number, case) for number, case in enumerate(manifest.cases) if case.split in ("train", "val")]
    cache = VolumeCache(folder.cache, WorkingPreparation(network, work.intensity))
    volumes = cache.load_all(cases, group, progress=work.progress)
    folder.check_scans([(case.volume, cache.scan(number)) for number, case in cases], group)
    label = label or _taught(cases, volumes, bundle, work)
    prepared = time.monotonic()
    while True:
        of_round = label if before.round == 1 else _answered(before, volumes, work)
        masks = _pseudo_masks(cases, volumes, of_round, before, work)
        lessons = {split: _lessons(split, cases, volumes, masks) for split in ("train", "val")}
        if settings.finding_weight is None:
            weight = finding_weight(lessons["train"].masks, network.window_zyx)
            work = replace(work, settings=replace(settings, finding_weight=weight))
        trainer = Trainer(work, lessons, before)
        trainer.run()
        if before.round == settings.rounds:
            break
        weights = {name: tensor.detach().cpu().clone() for name, tensor in trainer.descent.weights().items()}
        before = Before(before.round + 1, tuple(trainer.course.history), weights)
    thresholds = _thresholds(cases, volumes, masks, trainer, work)
    last = trainer.course.history[-1]
    record: Json = {
        "taught_by": HEATMAPS,
        "teacher": record_of(bundle, settings),
        "settings": work.settings.record(),
        "shown": _shown(masks, cases, settings.classes),
        "volumes": {split: manifest.counts(split) for split in ("train", "val")},
        "images": cache.images(cases, min(network.spacing_mm)),
        "processes": group.world,
        "threads": torch.get_num_threads(),
        "precision": str(network_precision(settings, network, group.device)).removeprefix("torch."),
        "seconds": round(time.monotonic() - started, 1),
        "seconds_before_steps": round(prepared - started, 1),
        "seconds_in_steps": round(sum(epoch.seconds for epoch in trainer.course.history), 1),
        "final_loss": round(last.loss, 4),
    }
    if last.validation_loss is not None:
        record["validation"] = {"agreement": last.agreement, "volume_auc": last.volume_auc}
    return Segmenter(network, trainer.descent.weights(), thresholds, record)


@contextmanager
def interruptible(folder: RunFolder) -> Iterator[None]:
    """Say how to go on where Ctrl-C, or another signal, ends what is done before or after the steps.

    Args:
        folder: Of the run.

    Yields:
        Nothing.

    Raises:
        TrainingInterrupted: In place of KeyboardInterrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        resume = " with `resume`" if folder.checkpoint.exists() else ""
        raise TrainingInterrupted(
            f"interrupted; {folder.path} holds what is done, the same command{resume} goes on"
        ) from None


def _taught(cases: Sequence[Numbered], volumes: dict[int, WorkingVolume], bundle: Bundle, work: Work) -> Label:
    """Have the classifier look at the volumes, and return what its heatmaps say."""
    settings, files = work.settings, TensorFiles(work.folder.path / "teacher")
    teacher = Teacher(bundle, settings, str(work.group.device))
    show_volumes(teacher, work.network, cases, files, work.group, progress=work.progress)
    work.group.wait()

    def label(numbered: Numbered, network: SegmenterNetwork) -> torch.Tensor:
        number, case = numbered
        levels: list[torch.Tensor | None] = []
        for name, present in zip(settings.classes, case.labels, strict=True):
            levels.append(None)
            if present:
                maps = load_heatmaps(files, number, name)
                units = maps.peaks if settings.unit == "peak" else [each or 0.0 for each in maps.thresholds]
                found = levels_by_heatmaps(maps.maps, units, volumes[number].array, maps.foreground, settings)
                trusted = is_trusted(maps.peaks, maps.thresholds, settings.trust)
                levels[-1] = found if trusted else torch.full_like(found, UNKNOWN)
        return _stacked(levels)

    return label


def _answered(before: Before, volumes: dict[int, WorkingVolume], work: Work) -> Label:
    """Return what the network of the round before says."""
    settings, device = work.settings, work.group.device
    channels = len(next(iter(volumes.values())).array)
    model = build_network(work.network, len(settings.classes), channels)
    model.load_state_dict(before.weights)
    network = SegmenterLogits(model.to(device), network_precision(settings, work.network, device)).eval()

    def label(numbered: Numbered, described: SegmenterNetwork) -> torch.Tensor:
        number, case = numbered
        logits = answer(network, volumes[number], described.window_zyx, device).cpu()
        return _stacked([
            levels_by_answer(each, settings) if present else None
            for each, present in zip(logits, case.labels, strict=True)
        ])  # fmt: skip

    return label


def _stacked(levels: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Stack the levels of the classes; one that a volume has not is background everywhere."""
    like = next(each for each in levels if each is not None)
    return torch.stack([torch.full_like(like, BACKGROUND) if each is None else each for each in levels])


def _pseudo_masks(
    cases: Sequence[Numbered], volumes: dict[int, WorkingVolume], label: Label, before: Before, work: Work
) -> dict[int, PseudoMask]:
    """Map the pseudo-masks by the volumes' places, after the processes have made them together."""
    settings, group = work.settings, work.group
    files = TensorFiles(work.folder.cache / f"levels-{before.round}")
    positive = [(number, case) for number, case in cases if any(case.labels)]
    name = "pseudo-masks" if before.round == 1 else f"pseudo-masks, round {before.round}"
    for numbered in progress_bar(
        positive[group.rank :: group.world], desc=name, unit="volume", disable=not work.progress
    ):
        number, _ = numbered
        rng = np.random.default_rng((settings.seed, before.round, number))
        made = pseudo_mask(label(numbered, work.network), rng)
        files.save(number, "", {"levels": made.levels, "centres": list(made.centres)})
    group.wait()
    masks = {number: empty_mask(volume.shape, len(settings.classes)) for number, volume in volumes.items()}
    for number, _ in positive:
        content = files.load(number)
        masks[number] = PseudoMask(content["levels"], tuple(centre.clone() for centre in content["centres"]))
    learned = [number for number, case in cases if case.split == "train"]
    for index, finding in enumerate(settings.classes):
        if not any(len(masks[number].centres[index]) for number in learned):
            told = f"no {finding} in any volume of split train that has label 1 of it"
            if before.round == 1:
                below, remedy = ", or stay below the model's thresholds", "`trust` 0 takes them as they are"
                if settings.trust == 0:
                    below, remedy = "", "Learn from another `method`, or of more `slices` and `directions`"
                raise TonnoError(
                    f"the heatmaps show {told}{below}; look at some by `tonno reconstruct`: has the model learned "
                    f"anything? {remedy} (with `overwrite`, which keeps the heatmaps that are the same)"
                )
            raise TonnoError(f"round {before.round - 1} found {told}; give more `steps`, or fewer `rounds`")
    return masks


def _shown(masks: dict[int, PseudoMask], cases: Sequence[Numbered], classes: Sequence[str]) -> dict[str, int]:
    """Count by class the volumes of split ``train`` whose pseudo-masks show where the finding is."""
    learned = [number for number, case in cases if case.split == "train"]
    return {name: sum(len(masks[number].centres[k]) > 0 for number in learned) for k, name in enumerate(classes)}


def _lessons(
    split: str, cases: Sequence[Numbered], volumes: dict[int, WorkingVolume], masks: dict[int, PseudoMask]
) -> Lessons:
    """Select what belongs to a split."""
    numbers = [number for number, case in cases if case.split == split]
    return Lessons([volumes[number] for number in numbers], [masks[number] for number in numbers])


def _thresholds(
    cases: Sequence[Numbered],
    volumes: dict[int, WorkingVolume],
    masks: dict[int, PseudoMask],
    trainer: Trainer,
    work: Work,
) -> dict[str, Json]:
    """Find a threshold for each class from the volumes of split ``val``, and which parts count, also from ``train``."""
    settings, group, network = work.settings, work.group, trainer.trained
    r, a, s = work.network.spacing_mm
    val = [(number, case) for number, case in cases if case.split == "val"]
    # Without any of ``val`` nothing is known of volumes that it has not learned.
    measured = [*val, *((number, case) for number, case in cases if case.split == "train")] if val else []
    own: list[list[Answered]] = []
    for number, case in progress_bar(
        measured[group.rank :: group.world], desc="calibrating", unit="volume", disable=not (work.progress and measured)
    ):
        logits = answer(network, volumes[number], work.network.window_zyx, group.device).cpu().numpy()
        levels = masks[number].levels.numpy()
        own.append([
            answered(*each, r * a * s) for each in zip(logits, levels, case.labels, strict=True)
        ])  # fmt: skip
    answers = group.gather(own)
    return {
        threshold_key(SEGMENTER, name, settings.classes): threshold_record(
            [each[index] for each in answers[: len(val)]], [each[index] for each in answers[len(val) :]]
        )
        for index, name in enumerate(settings.classes)
    }
