"""One case: its heatmaps by all rows in one reconstruction, measured against the label and the mask."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from tonno_core.bundle.decide import Run
from tonno_core.bundle.ready import ReadyModel
from tonno_core.cohort.mask import Values, finding_in, several_values, values_in
from tonno_core.errors import TonnoError
from tonno_core.evaluation.record import CaseRecord, Finding, Overlap, measure
from tonno_core.evaluation.rows import Row
from tonno_core.pictures.tile import Tile, make_tile
from tonno_core.progress import progress_bar, say_once
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.reconstruction.run import ReadyScan, get_ready
from tonno_core.reporting import Reporter
from tonno_core.segmentation.binarize import otsu_threshold, reaches
from tonno_core.segmentation.metrics import Components
from tonno_core.segmentation.threshold import parts_of, threshold_warning
from tonno_core.settings import SEGMENTER
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.header import same_grid
from tonno_core.volume.io import read_mask, read_volume
from tonno_core.volume.volume import Volume

BoolArray = npt.NDArray[np.bool_]
# Threads in which heatmaps are measured: NumPy's steps on whole volumes leave the interpreter to each other.
_WORKERS = 8
# Of all heatmaps that are measured at once; what that takes is a few times as much.
_BYTES = 1 << 28


@dataclass(frozen=True)
class Task:
    """A volume to evaluate.

    Attributes:
        name: Of the case.
        volume: File.
        label: 0 or 1 of the class.
        mask: File, None where none is given.
        patient: Identifier from the manifest.
        values: Which values of the mask mean the finding, see `cohort.mask`.
    """

    name: str
    volume: Path
    label: int
    mask: Path | None
    patient: str
    values: Values = None


@dataclass(frozen=True)
class Setup:
    """What all cases share.

    Attributes:
        model: On its device.
        run: Makes each heatmap once: several rows may stand for the same.
        rows: By name.
        shown: Names of the rows on the contact sheet; the first decides on the plane.
        min_volume_mm3: Smallest component that is kept; None for each row's own.
        fingerprint: Of the evaluation.
        segmenters: By name of their row, models that are compared with the first, and their runs.
        min_peak: What the highest value of a component reaches that is kept, -inf for all; None for each row's own.
    """

    model: ReadyModel
    run: Run
    rows: Mapping[str, Row]
    shown: tuple[str, ...]
    min_volume_mm3: float | None
    fingerprint: str
    segmenters: Mapping[str, tuple[ReadyModel, Run]] = field(default_factory=dict)
    min_peak: float | None = None


@dataclass(frozen=True)
class ReadCase:
    """What is read of a case.

    Attributes:
        scan: The volume, ready.
        truth: From `read_truth`.
        others: The same volume, ready for each of the segmenters.
    """

    scan: ReadyScan
    truth: BoolArray | None
    others: tuple[ReadyScan, ...] = ()


def read_case(task: Task, setup: Setup) -> ReadCase:
    """Read a case, and find what is found before any plane is looked at.

    Args:
        task: The volume.
        setup: What all cases share.

    Returns:
        The volume and its mask.

    Raises:
        TonnoError: A file cannot be read, or the mask is on another grid than its volume.
    """
    volume = read_volume(task.volume, intensity=setup.run.intensity)
    truth = read_truth(task, volume)
    others = tuple(get_ready(volume, run) for _, run in setup.segmenters.values())
    return ReadCase(get_ready(volume, setup.run), truth, others)


def evaluate_case(
    task: Task, setup: Setup, case: ReadCase, progress: Callable[[int, int], None] | None = None
) -> tuple[CaseRecord, Tile]:
    """Evaluate a case.

    Args:
        task: The volume.
        setup: What all cases share.
        case: What was read of it.
        progress: Called with (slices done, slices in all).

    Returns:
        The case's record, and its line of the contact sheet.
    """
    start = time.perf_counter()
    volume, truth = case.scan.volume, case.truth
    judge = _Judge(volume, truth, setup, case.scan.prepared.foreground)
    reporter = Reporter(progress=progress, say=say_once) if progress else None
    workers = max(1, min(_WORKERS, torch.get_num_threads(), _BYTES // volume.array.nbytes))
    with ThreadPoolExecutor(workers) as pool:
        judged: list[Future[None]] = []

        def receive(name: str, heatmap: Volume, inside: BoolArray) -> None:
            judged.append(pool.submit(judge.receive, name, heatmap, inside))
            if len(judged) > workers:
                judged[-1 - workers].result()

        result = execute(volume, setup.model.encoder, setup.run, reporter, receive=receive)
        for model, run in setup.segmenters.values():
            execute(volume, model.encoder, run, receive=receive)
        for each in judged:
            each.result()
    seconds = time.perf_counter() - start
    heatmaps = {name: judge.heatmaps[name] for name in setup.shown}
    masks = {name: judge.masks[name] for name in setup.shown}
    odds = [name for name in setup.shown if setup.rows[name].variant.method == SEGMENTER]
    tile = make_tile(volume, heatmaps, masks, truth, judge.foreground, odds=odds)
    doubts = (judge.doubts[name] for name in setup.rows if name in judge.doubts)
    warnings = (*_contradictions(task, truth), *result.warnings, *doubts)
    return _record(task, setup, judge, result, warnings, seconds), tile


def _record(
    task: Task, setup: Setup, judge: _Judge, result: Reconstruction, warnings: tuple[str, ...], seconds: float
) -> CaseRecord:
    truth = judge.truth
    return CaseRecord(
        case=task.name,
        fingerprint=setup.fingerprint,
        patient=task.patient,
        label=task.label,
        score=result.score if np.isfinite(result.score) else None,
        truth_ml=None if truth is None else judge.millilitres(truth),
        truth_components=None if truth is None else int(truth.sizes.size),
        seconds=round(seconds, 2),
        device=result.device,
        precision=result.precision,
        warnings=warnings,
        rows={name: judge.findings[name] for name in setup.rows},
    )


def read_truth(task: Task, volume: Volume) -> BoolArray | None:
    """Read a case's mask.

    Args:
        task: The volume.
        volume: As it was read.

    Returns:
        The voxels of the finding, bool Z Y X; empty without a mask where the label is 0, None where it is 1.

    Raises:
        TonnoError: The mask cannot be read, is on another grid, or has several values and none is stated.
    """
    if task.mask is None:
        return None if task.label else np.zeros(volume.array.shape, dtype=np.bool_)
    mask = read_mask(task.mask)
    if not same_grid(volume, mask):
        raise TonnoError(
            f"{task.mask}: lies on another grid ({_grid(mask)}) than its volume {task.volume} ({_grid(volume)}); "
            "masks are never resampled here: resample it to the volume's grid"
        )
    return finding_in(mask.array, task.values, task.mask)


def check_masks(tasks: Sequence[Task], *, progress: bool) -> str:
    """Look at masks before hours of work: which of their values mean the finding is for the manifest to say.

    Args:
        tasks: The volumes. A mask that cannot be read is left for its case to fail.
        progress: Whether to show a bar, where it takes long.

    Returns:
        A line where the masks have one value each, but not the same; else "".

    Raises:
        TonnoError: A mask has several values and none is stated.
    """
    several: list[tuple[Path, dict[int, int]]] = []
    first: dict[int, Path] = {}
    unstated = [task.mask for task in tasks if task.mask is not None and task.values is None]
    for mask in progress_bar(unstated, desc="looking at masks", unit="mask", disable=not progress, delay=1):
        with suppress(TonnoError):
            counts = values_in(read_mask(mask).array)
            several += [(mask, counts)] if len(counts) > 1 else []
            first |= {value: mask for value in counts if value not in first}
    if several:
        mask, counts = several[0]
        more = f" (so do {len(several) - 1} more)" if len(several) > 1 else ""
        raise TonnoError(f"{mask}{more}: {several_values(counts)}")
    listed = " and ".join(f"{value} in {mask.name}" for value, mask in first.items())
    return f"masks hold one value each, but not the same: {listed}; all mean the finding" if len(first) > 1 else ""


class _Judge:
    """Receives heatmaps, also in several threads, measures them, and keeps those that are shown."""

    def __init__(
        self, volume: Volume, truth: BoolArray | None, setup: Setup, foreground: BoolArray | None = None
    ) -> None:
        self.foreground = foreground_mask(volume) if foreground is None else foreground
        self.truth = None if truth is None else Components(truth)
        self.findings: dict[str, Finding] = {}
        self.heatmaps: dict[str, npt.NDArray[np.float32]] = {}
        self.masks: dict[str, BoolArray] = {}
        self.doubts: dict[str, str] = {}
        self._setup, self._voxel_mm3 = setup, volume.voxel_mm3

    def receive(self, name: str, heatmap: Volume, inside: BoolArray) -> None:
        made = self._setup.rows[name]
        for other, row in self._setup.rows.items():
            if (row.variant, row.model) == (made.variant, made.model):
                self._judge(other, row, heatmap, inside)

    def millilitres(self, mask: Components) -> float:
        return float(mask.count * self._voxel_mm3 / 1000)

    def _judge(self, name: str, row: Row, heatmap: Volume, inside: BoolArray) -> None:
        threshold, source = _threshold(row, heatmap, inside)
        overlap: Overlap | None = None
        odds = row.variant.method == SEGMENTER
        parts = parts_of(row, self._setup.min_volume_mm3, self._setup.min_peak)
        counted = partial(parts.counted, heatmap=heatmap.array, voxel_mm3=self._voxel_mm3)
        if self.truth is None:
            segmented = Components(reaches(heatmap.array, threshold), counted)
        else:
            segmented, overlap = measure(heatmap.array, self.truth, threshold, counted=counted, odds=odds)
        if row.best and (doubt := threshold_warning(name, segmented.mask, inside, threshold, odds=odds)):
            self.doubts[name] = doubt
        looked_at = self.foreground & inside
        peak = float(heatmap.array[looked_at if looked_at.any() else inside].max())
        self.findings[name] = Finding(
            threshold=threshold,
            threshold_source=source,
            peak=peak,
            called=None if row.threshold is None else segmented.sizes.size > 0 if odds else peak >= threshold,
            volume_ml=self.millilitres(segmented),
            components=int(segmented.sizes.size),
            overlap=overlap,
        )
        if name in self._setup.shown:
            self.heatmaps[name], self.masks[name] = heatmap.array, segmented.mask


def _threshold(row: Row, heatmap: Volume, inside: BoolArray) -> tuple[float, str]:
    shown = heatmap.array[inside]
    if row.above_half_peak is not None:
        return float(shown.max()) / 2.0 + row.above_half_peak, row.source
    if row.threshold is not None:
        return row.threshold, row.source
    if shown.min() == shown.max():
        return float(np.nextafter(shown.max(), np.float32(np.inf))), "none: the heatmap is constant"
    return otsu_threshold(heatmap, inside), row.source


def _contradictions(task: Task, truth: BoolArray | None) -> tuple[str, ...]:
    if truth is None or bool(task.label) == bool(truth.any()):
        return ()
    return ("label 1, but its mask is empty",) if task.label else ("label 0, but its mask is not empty",)


def _grid(volume: Volume) -> str:
    """Size, spacing and place of a grid, to tell two apart."""
    size = " x ".join(str(n) for n in volume.size_ijk)
    spacing = " x ".join(f"{mm:.4g}" for mm in volume.spacing_mm)
    origin = ", ".join(f"{mm:.2f}" for mm in volume.ijk_to_ras[:3, 3])
    return f"{size} voxels of {spacing} mm from ({origin})"
