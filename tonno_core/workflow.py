"""`tonno reconstruct`: files in, files out."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import tonno_core
from tonno_core.encoding.bundle import Bundle, load_bundle
from tonno_core.errors import TonnoError
from tonno_core.evaluation.overview import write_overview
from tonno_core.output import check_output, output_folder
from tonno_core.reconstruction import Reconstruction, reconstruct
from tonno_core.segmentation.binarize import Component, binarize, check_options, components, otsu_threshold
from tonno_core.settings import SETTINGS_THAT_MATTER, ReconstructionSettings, Variant, choices_of, combine
from tonno_core.volume.io import check_writable, read_volume, write_volume
from tonno_core.volume.volume import Volume

PIXEL_SUM = "pixel-sum"


@dataclass(frozen=True)
class Segmentation:
    """A binarised heatmap. source: how the threshold was found. mask: uint8 Z Y X."""

    threshold: float
    source: str
    mask: np.ndarray
    components: list[Component]


def load_model(name: str) -> Bundle | str:
    """A bundle by its folder, or ``pixel-sum``."""
    return PIXEL_SUM if name == PIXEL_SUM else load_bundle(name)


def reconstruct_files(
    volume_path: Path,
    *,
    model: str,
    output: Path,
    options: Mapping[str, Any],
    preset: str | None = None,
    threshold: str = "auto",
    min_volume_mm3: float = 0.0,
    device: str = "auto",
    precision: str = "auto",
    file_format: str = "nii.gz",
    replace_nonfinite: bool = False,
    overwrite: bool = False,
) -> str:
    """Reconstruct a volume's heatmaps into a folder and return the table of what was found.

    options: settings that were asked for, by the names of `ReconstructionSettings`. Writes
    ``heatmap-METHOD``, ``segmentation-METHOD``, ``report.json`` and ``overview.png``.
    """
    check_output(output, overwrite=overwrite)
    check_options(parse_threshold(threshold) or 0.0, None, min_volume_mm3)
    loaded = load_model(model)
    defaults: Mapping[str, Any] = {"methods": ("tonno",)} if isinstance(loaded, str) else loaded.spec.defaults
    settings = combine(defaults=defaults, preset=preset, explicit=options)
    volume = read_volume(volume_path, replace_nonfinite=replace_nonfinite)
    check_writable(volume.ijk_to_ras, output / f"heatmap.{file_format}")
    with progress_bar() as bar:
        result = reconstruct(volume, loaded, settings, device=device, precision=precision, progress=progress_of(bar))
    segmentations = {method: segment(result, method, loaded, threshold, min_volume_mm3) for method in result.heatmaps}
    with output_folder(output, overwrite=overwrite) as folder:
        write_images(folder, result, segmentations, file_format)
        write_report(folder / "report.json", volume, loaded, result, segmentations)
        best = next(iter(result.heatmaps))
        write_overview(
            folder / "overview.png",
            volume,
            result.heatmaps[best],
            segmentations[best].mask,
            profiles=result.profiles,
            title=f"{best}: {result.class_name}",
            subtitle=f"threshold {segmentations[best].threshold:.4g} ({segmentations[best].source})",
            unit="intensity" if isinstance(loaded, str) else "logit",
        )
    return summary(result, segmentations)


def write_images(
    folder: Path, result: Reconstruction, segmentations: Mapping[str, Segmentation], file_format: str
) -> None:
    """``heatmap-METHOD`` (float32) and ``segmentation-METHOD`` (uint8) of each method."""
    for method, heatmap in result.heatmaps.items():
        write_volume(heatmap, folder / f"heatmap-{method}.{file_format}")
        mask = heatmap.with_array(segmentations[method].mask)
        write_volume(mask, folder / f"segmentation-{method}.{file_format}", dtype="uint8")


def progress_bar() -> tqdm[Any]:
    """A bar that appears with the first slices: what is wrong before them is said in the only line."""
    return tqdm(desc="reconstructing", unit="slice", unit_scale=True, delay=0.01)


def progress_of(bar: tqdm[Any]) -> Any:
    """A callback (done, total) that drives a progress bar."""

    def advanced(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return advanced


def parse_threshold(text: str) -> float | None:
    """A number, or None for ``auto`` and ``otsu``."""
    if text in ("auto", "otsu"):
        return None
    try:
        value = float(text)
    except ValueError:
        raise TonnoError(f"--threshold '{text}': expected auto, otsu or a number") from None
    if not np.isfinite(value):
        raise TonnoError(f"--threshold {text}: expected auto, otsu or a finite number")
    return value


def segment(
    result: Reconstruction, method: str, model: Bundle | str, threshold: str, min_volume_mm3: float
) -> Segmentation:
    """Binarise one heatmap. ``auto`` is the model's own threshold for the method, Otsu's where it has none."""
    heatmap = result.heatmaps[method]
    value, source = parse_threshold(threshold), "given"
    made = result.variants[method]
    record = None if isinstance(model, str) else model.spec.record_of(made, result.class_name)
    if value is None and threshold == "auto" and record is not None:
        value, source = float(record["threshold"]), "the model's own"
        changed = calibrated_otherwise(record, result.settings, made)
        if changed:
            source += f", calibrated at other {', '.join(changed)}"
    if value is None:
        source = "otsu" if threshold == "otsu" else "otsu, as the model brings none for this method"
        shown = heatmap.array[result.inside]
        if shown.min() == shown.max():  # nothing to split must not cost the other methods their results
            value, source = float(np.nextafter(shown.max(), np.float32(np.inf))), "none: the heatmap is constant"
        else:
            value = otsu_threshold(heatmap, result.inside)
    mask = binarize(heatmap, value, min_volume_mm3=min_volume_mm3)
    return Segmentation(value, source, mask, components(mask, heatmap))


def calibrated_otherwise(record: Mapping[str, Any], settings: ReconstructionSettings, made: Variant) -> list[str]:
    """Names of the settings that move a method's noise floor and differ from those of its calibration."""
    then = record.get("settings", {})
    own = choices_of(made.method)
    now = {name: getattr(made if name in own else settings, name) for name in SETTINGS_THAT_MATTER[made.method]}
    return [name for name, value in now.items() if name in then and then[name] != value]


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
        "threads": torch.get_num_threads(),
        "model": PIXEL_SUM
        if isinstance(model, str)
        else {"encoder": model.spec.encoder, "sha256": model.spec.sha256, "about": model.spec.about},
        "class": result.class_name,
        "settings": dataclasses.asdict(result.settings),
        "slice_size": result.slice_size,
        "volume": {"size_ijk": volume.size_ijk, "ijk_to_ras": volume.ijk_to_ras.tolist()},
        "frame_to_ras": result.frame_to_ras.tolist(),
        "slices": {"total": result.slices_total, "blank_and_skipped": result.slices_blank},
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "score": _number(result.score),
        "explained_by_tonno": result.explained,
        "warnings": list(result.warnings),
        "profiles": [
            {"axis": p.axis, "offsets_mm": p.offsets_mm.tolist(), "logits": p.logits.tolist()} for p in result.profiles
        ],
        "methods": {
            method: {
                "settings": {name: getattr(result.variants[method], name) for name in choices_of(method)},
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
