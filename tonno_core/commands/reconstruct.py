"""`tonno reconstruct`: files in, files out."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tonno_core
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import ReadyModel, prepare_model
from tonno_core.commands.options import as_options
from tonno_core.commands.recipe import Recipe, make_recipe, model_identity
from tonno_core.commands.watch import Watch
from tonno_core.control import Control
from tonno_core.distributed import ALONE, Processes, processes, world_size
from tonno_core.errors import TonnoError
from tonno_core.output import check_output, output_folder
from tonno_core.pictures.drawing import Scene
from tonno_core.pictures.overview import write_overview
from tonno_core.reconstruction import Reconstruction, reconstruct
from tonno_core.segmentation.binarize import Component, binarize, components
from tonno_core.segmentation.threshold import find_threshold
from tonno_core.volume.io import check_writable, read_volume, write_volume
from tonno_core.volume.volume import Volume


@dataclass(frozen=True)
class Segmentation:
    """A binarised heatmap. source: how the threshold was found. mask: uint8 Z Y X."""

    threshold: float
    source: str
    mask: np.ndarray
    components: list[Component]


def reconstruct_files(
    volume_path: Path,
    *,
    output: Path,
    device: str = "auto",
    precision: str = "auto",
    compiled: bool = False,
    overwrite: bool = False,
    **choices: Any,
) -> str:
    """Reconstruct a volume's heatmaps into a folder and return the table of what was found.

    compiled: see `prepare_model`; choices: see `make_recipe`; the files: `reconstruct_into`. Under torchrun all
    processes call this and share the directions; the first one writes, the others return "".
    """
    check_output(output, overwrite=overwrite)
    recipe = make_recipe(**choices)
    if recipe.stop_when is not None and world_size() > 1:
        raise TonnoError("`stop_when` looks into the run, which several processes share; leave it out, or start one")
    with processes(device) as group:
        ready = prepare_model(recipe.model, recipe.settings, str(group.device), precision, compiled=compiled)
        with progress_bar(disable=not group.first) as bar:
            return reconstruct_into(
                output, volume_path, ready, recipe, progress=progress_of(bar), overwrite=overwrite, group=group
            )


def reconstruct_into(
    output: Path,
    volume_path: Path,
    ready: ReadyModel,
    recipe: Recipe,
    *,
    progress: Callable[[int, int], None],
    overwrite: bool = False,
    group: Processes = ALONE,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write ``heatmap-METHOD``, ``segmentation-METHOD``, ``report.json`` and ``overview.png``: all of them or none.

    extra: for the report. Returns the table of what was found, "" in all processes but the first.
    """
    volume = read_volume(volume_path, replace_nonfinite=recipe.replace_nonfinite)
    check_writable(volume.ijk_to_ras, output / f"heatmap.{recipe.file_format}")
    watch = None if recipe.stop_when is None else Watch(ready, recipe)
    result = reconstruct(
        volume,
        ready,
        recipe.settings,
        region=recipe.region,
        zoom=recipe.zoom,
        control=Control(progress=progress) if watch is None else watch.control(progress),
        processes=group,
    )
    if not group.first:
        return ""
    result = dataclasses.replace(result, warnings=tuple(map(as_options, result.warnings)))
    segmentations = {
        method: segment(result, method, recipe.model, recipe.threshold, recipe.min_volume_mm3, recipe.zoom)
        for method in result.heatmaps
    }
    with output_folder(output, overwrite=overwrite) as folder:
        write_images(folder, result, segmentations, recipe.file_format)
        more = {"region": recipe.region_record(), "processes": group.world, **(extra or {})}
        if watch is not None:
            more["stop_when"] = {"asked": recipe.stop_when, **watch.record(result)}
        write_report(folder / "report.json", volume, recipe.model, result, segmentations, more)
        best = next(iter(result.heatmaps))
        unit = "intensity" if isinstance(recipe.model, str) else "logit"
        write_overview(
            folder / "overview.png",
            Scene(volume, result.heatmaps[best], segmentations[best].mask, unit=unit),
            profiles=result.profiles,
            title=f"{best}: {result.class_name}",
            subtitle=f"threshold {segmentations[best].threshold:.4g} ({segmentations[best].source})",
        )
    table = summary(result, segmentations)
    return table if watch is None else f"{table}\n{watch.summary(result)}"


def write_images(
    folder: Path, result: Reconstruction, segmentations: Mapping[str, Segmentation], file_format: str
) -> None:
    """``heatmap-METHOD`` (float32) and ``segmentation-METHOD`` (uint8) of each method."""
    for method, heatmap in result.heatmaps.items():
        write_volume(heatmap, folder / f"heatmap-{method}.{file_format}")
        mask = heatmap.with_array(segmentations[method].mask)
        write_volume(mask, folder / f"segmentation-{method}.{file_format}", dtype="uint8")


def progress_bar(*, disable: bool = False) -> tqdm[Any]:
    """A bar that appears with the first slices: what is wrong before them is said in the only line."""
    return tqdm(desc="reconstructing", unit="slice", unit_scale=True, delay=0.01, disable=disable)


def progress_of(bar: tqdm[Any]) -> Any:
    """A callback (done, total) that drives a progress bar."""

    def advanced(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advanced


def segment(
    result: Reconstruction, method: str, model: Bundle | str, threshold: str, min_volume_mm3: float, zoom: bool = False
) -> Segmentation:
    """Binarise one heatmap. ``auto`` is the model's own threshold for the method, Otsu's where it has none.

    zoom: whether all planes were put into a region, at another scale than the calibration's.
    """
    heatmap = result.heatmaps[method]
    known = None
    if not isinstance(model, str):
        known = model.spec.threshold_for(result.variants[method], result.backprojected, zoom=zoom)
    value, source = find_threshold(heatmap, result.inside, threshold, known)
    mask = binarize(heatmap, value, min_volume_mm3=min_volume_mm3)
    return Segmentation(value, source, mask, components(mask, heatmap))


def write_report(
    path: Path,
    volume: Volume,
    model: Bundle | str,
    result: Reconstruction,
    segmentations: Mapping[str, Segmentation],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """``report.json``: everything needed to understand and repeat a run; no name of file or patient."""
    report = {
        "tonno": tonno_core.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": result.device,
        "precision": result.precision,
        "layout": result.layout,
        "threads": torch.get_num_threads(),
        "model": model_identity(model),
        "class": result.class_name,
        "settings": dataclasses.asdict(result.settings),
        "slice_size": result.slice_size,
        "volume": {"size_ijk": volume.size_ijk, "ijk_to_ras": volume.ijk_to_ras.tolist()},
        "frame_to_ras": result.frame_to_ras.tolist(),
        "slices": {"total": result.slices_total, "blank_and_skipped": result.slices_blank},
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "score": _number(result.score),
        "explained_by_tonno": None if result.explained is None else _number(result.explained),
        "warnings": list(result.warnings),
        "profiles": [
            {"axis": p.axis, "offsets_mm": p.offsets_mm.tolist(), "logits": p.logits.tolist()} for p in result.profiles
        ],
        "methods": {
            method: {
                "settings": result.variants[method].choices(),
                "threshold": one.threshold,
                "threshold_source": one.source,
                "volume_mm3": float(one.mask.sum() * volume.voxel_mm3),
                "peak": float(result.heatmaps[method].array.max()),
                "components": [dataclasses.asdict(component) for component in one.components],
            }
            for method, one in segmentations.items()
        },
        **(extra or {}),
    }
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def summary(result: Reconstruction, segmentations: Mapping[str, Segmentation]) -> str:
    """A table of what was found, for the terminal."""
    from tabulate import tabulate

    rows = [
        [
            method,
            f"{one.threshold:.4g} ({one.source})",
            len(one.components),
            f"{one.mask.sum() * result.heatmaps[method].voxel_mm3 / 1000:.2f}",
            f"{result.heatmaps[method].array.max():.4g}",
        ]
        for method, one in segmentations.items()
    ]
    table = tabulate(rows, headers=["method", "threshold", "components", "volume ml", "peak"], disable_numparse=True)
    lines = [table, *(f"warning: {warning}" for warning in result.warnings)]
    skipped = f"{100 * result.slices_blank / max(1, result.slices_total):.0f} % blank and skipped"
    lines.append(f"{result.slices_total} slices ({skipped}) in {result.seconds['total']:.1f} s on {result.device}")
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
