"""Heatmaps of all methods at all stages, from one reconstruction of a scan: what Fig. 5 measures and Fig. 6 shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tonno_core.bundle.decide import decide, standard_stage
from tonno_core.pictures.cuts import Float, View, sample
from tonno_core.progress import progress_bar
from tonno_core.reconstruction import execute
from tonno_core.reporting import Reporter, progress_of
from tonno_core.reproduction.plane import plane_of
from tonno_core.reproduction.source import Arrays, Scan, Source
from tonno_core.segmentation.binarize import covered
from tonno_core.settings import CAM_METHODS, Variant
from tonno_core.volume.volume import Volume

METHODS = ("slicewise-cam", *CAM_METHODS)
TONNO = "tonno"
# Thresholds at which segmentations are compared with the truth: a sixteenth of an octave apart, so that the best of
# them costs at most a hundredth of Dice.
THRESHOLDS = 2.0 ** (np.arange(-24 * 16, 16 * 16 + 1) / 16.0)


def stages_of(source: Source) -> tuple[int, ...]:
    """List the stages that give maps.

    Args:
        source: With the model.

    Returns:
        Their numbers, the finest first.
    """
    ready, settings = source.ready()
    encoder = ready.classifier()
    return encoder.stages_with_maps(encoder.classes.index(settings.class_name or encoder.classes[0]), ready.slice_size)


def own_stage(source: Source) -> int:
    """Return the stage that the model takes for Matched CAM; the standard where it adds several up.

    Args:
        source: With the model.

    Returns:
        Its number.
    """
    ready, settings = source.ready()
    encoder = ready.classifier()
    chosen = ready.choices.variant("matched-cam", settings).stages
    if len(chosen) == 1:
        return chosen[0]
    return standard_stage(encoder, encoder.classes.index(settings.class_name or encoder.classes[0]), ready.slice_size)


def heatmap_name(method: str, stage: int) -> str:
    """Name a heatmap.

    Args:
        method: One of `METHODS`, or `TONNO`, which has no stage.
        stage: From 1, the finest.

    Returns:
        The name.
    """
    return TONNO if method == TONNO else f"{method}@{stage}"


def look_at(source: Source, scan: Scan, of: str) -> Arrays:
    """Reconstruct a scan by all methods at all stages, as the paper does: without smoothing, by the second difference.

    Args:
        source: With the model; its number of directions and of slices.
        scan: The scan.
        of: Which of how many it is, for the progress.

    Returns:
        By a heatmap's name, what it shows of a plane; with `` counts`` after it how many voxels reach each of
        `THRESHOLDS`, and how many of these are true (2 N). ``image``, ``truth``, ``u`` and ``v`` are the plane's.
    """
    ready, settings = source.ready()
    slices, directions = source.one("slices", settings.slices), source.one("directions", settings.directions)
    settings = replace(settings, slices=slices, directions=directions, cam_directions=None)
    facts = {"scan": scan.record(), "model": source.model_record, "settings": settings.record()}
    stages, own = stages_of(source), own_stage(source)
    first = [heatmap_name("matched-cam", own)]  # which decides on the plane where the truth is not known
    variants = {heatmap_name(method, stage): Variant(method, (stage,)) for method in METHODS for stage in stages}
    variants = {**{name: variants[name] for name in first}, **variants, TONNO: Variant(TONNO)}

    def compute() -> Arrays:
        run = decide(settings, ready, variants=variants, classes=(settings.class_name or ready.choices.classes[0],))
        kept = _Kept(scan)
        with progress_bar(desc=f"{scan.name} ({of})", unit="slice", unit_scale=True) as bar:
            execute(scan.volume, ready.encoder, run, Reporter(progress=progress_of(bar)), receive=kept.receive)
        return kept.arrays

    return source.kept.get("stages", facts, compute)


def dice_curve(counts: npt.NDArray[np.generic], true: int) -> Float:
    """Compute Dice at each threshold.

    Args:
        counts: 2 N, voxels of a segmentation and those of them that are true.
        true: Voxels of the truth.

    Returns:
        N; 0 where nothing is segmented.
    """
    segmented, hit = np.asarray(counts, dtype=np.float64)
    return np.asarray(2.0 * hit / (segmented + true))


def view_of(made: Arrays, edges: tuple[str, str, str, str]) -> View:
    """Return the pixels of the plane that was kept.

    Args:
        made: From `look_at`.
        edges: Letters of the patient's sides.

    Returns:
        The pixels.
    """
    return View(np.asarray(made["u"], dtype=np.float64), np.asarray(made["v"], dtype=np.float64), edges)


class _Kept:
    """Takes heatmaps as they are made, and keeps of each a plane and counts."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._points: Float | None = None
        self.arrays: Arrays = {}

    def receive(self, name: str, heatmap: Volume, inside: npt.NDArray[np.bool_]) -> None:
        if self._points is None:
            self._show(heatmap)
        assert self._points is not None
        plane = sample(heatmap.array, heatmap.ijk_to_ras, self._points)
        self.arrays[name] = plane.astype(np.float32)
        if self._scan.truth is not None:
            shown = covered(heatmap.array)
            counts = [_reaching(heatmap.array[mask]) for mask in (shown, shown & self._scan.truth)]
            self.arrays[f"{name} counts"] = np.stack(counts)

    def _show(self, heatmap: Volume) -> None:
        """Choose the plane, and keep what the scan and the truth show on it."""
        scan = self._scan
        cut = plane_of(scan, heatmap)
        self._points = cut.points_ras
        image = sample(scan.volume.array, scan.volume.ijk_to_ras, self._points)
        self.arrays |= {"u": cut.view.u, "v": cut.view.v, "image": image.astype(np.float32)}
        if scan.truth is not None:
            self.arrays["true voxels"] = np.array(int(scan.truth.sum()))
            share = sample(scan.truth.astype(np.float32), scan.volume.ijk_to_ras, self._points)
            self.arrays["truth"] = share.astype(np.float32)


def _reaching(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Count the values that reach each threshold."""
    return np.asarray(values.size - np.searchsorted(np.sort(values), THRESHOLDS, side="left"), dtype=np.int64)
