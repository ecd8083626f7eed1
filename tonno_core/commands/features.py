"""`tonno features`: a classifier's dense features of a scan."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import tonno_core
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.ready import load_model, prepare_model
from tonno_core.cohort.find import is_cohort
from tonno_core.commands.options import as_options
from tonno_core.commands.request import Compute, model_identity
from tonno_core.distributed import world_size
from tonno_core.errors import TonnoError
from tonno_core.output import Json, check_output, output_folder
from tonno_core.pictures.features import write_colors
from tonno_core.progress import progress_bar as plain_bar
from tonno_core.reconstruction.features import (
    DenseFeatures,
    PrincipalComponents,
    feature_encoder,
    principal_components,
    reconstruct_features,
)
from tonno_core.reporting import Reporter, progress_bar, progress_of
from tonno_core.settings import SEGMENTER
from tonno_core.volume.channels import check_channels, write_channels
from tonno_core.volume.io import read_volume
from tonno_core.volume.volume import FloatArray, Volume

IMAGE_NAME, REPORT_NAME, PICTURE_NAME = "features.nii.gz", "features.json", "features.png"
# Components that a picture shows as colors.
_COLORS = 3


@dataclass(frozen=True)
class FeatureOptions:
    """What the command line says beside the planes.

    Attributes:
        model: A bundle's folder.
        preset: A name from `PRESETS`.
        components: Principal components to write in the features' place; None for all features.
        smooth_mm: Standard deviation of a Gaussian on every volume; None for the standard one.
        replace_nonfinite: Replace voxels that are no numbers by the lowest.
    """

    model: str
    preset: str | None = None
    components: int | None = None
    smooth_mm: float | None = None
    replace_nonfinite: bool = False


def write_features(
    scan: Path,
    output: Path,
    options: FeatureOptions,
    planes: Json,
    compute: Compute,
    *,
    overwrite: bool = False,
) -> str:
    """Write ``features.nii.gz``, ``features.json`` and ``features.png``: all of them or none.

    Args:
        scan: A file, or a folder of DICOM files.
        output: The folder.
        options: Of the command line.
        planes: Settings that were asked for, by their names in files; None for what was not.
        compute: Where.
        overwrite: Replace files that are there.

    Returns:
        What was written, in words.

    Raises:
        TonnoError: An option is wrong, the scan cannot be read, or the files not be written.
    """
    check_output(output, overwrite=overwrite)
    if world_size() > 1:
        raise TonnoError("features are made by one process, and torchrun started several; start one, or one per scan")
    if is_cohort([scan]):
        raise TonnoError(f"{scan}: is a list of scans or holds several; expected one scan: give each by itself")
    loaded = load_model(options.model)
    if not isinstance(loaded, Bundle):
        raise TonnoError(f"`model` {loaded}: has no feature vector, expected the folder of a classifier")
    if loaded.spec.kind == SEGMENTER:
        raise TonnoError(f"`model` {options.model}: is a segmenter, expected a classifier of slices")
    settings = loaded.spec.choices.settings({"methods": ("tonno",), **planes}, options.preset)
    model = prepare_model(loaded, settings, compute.device, compute.precision)
    available = len(feature_encoder(model).classes)
    count = options.components or available
    if count > available:
        raise TonnoError(f"`components` {count}: {loaded.spec.encoder} has {available} features; give no more")
    volume = read_volume(scan, replace_nonfinite=options.replace_nonfinite, intensity=loaded.spec.intensity)
    if settings.frame == "normalized":  # whose nodes lie along the scan's axes
        check_channels(output / IMAGE_NAME, volume.ijk_to_ras, count)
    start = time.perf_counter()
    with progress_bar() as bar:
        reporter = Reporter(progress=progress_of(bar))
        features = reconstruct_features(volume, model, settings, reporter, smooth_mm=options.smooth_mm)
    with output_folder(output, overwrite=overwrite) as folder:
        samples = np.empty((features.count, len(features.sampled())), dtype=np.float32)
        if options.components is None:
            _write(folder / IMAGE_NAME, _each(features, samples), features.count, features)
            found = principal_components(samples, min(_COLORS, features.count))
        else:
            for _ in _each(features, samples):
                pass
            found = principal_components(samples, max(count, min(_COLORS, features.count)))
            some = (features.combined(weights) for weights in found.weights[:count])
            _write(folder / IMAGE_NAME, some, count, features)
        shown = [features.combined(weights) for weights in found.weights[:_COLORS]]
        _draw(folder / PICTURE_NAME, volume, features, shown, found)
        report = _report(loaded, volume, features, found, options, time.perf_counter() - start)
        (folder / REPORT_NAME).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    lines = [_summary(features, found, options, time.perf_counter() - start)]
    return "\n".join([*lines, *(as_options(f"warning: {warning}") for warning in features.warnings)])


def _each(features: DenseFeatures, samples: FloatArray) -> Iterator[FloatArray]:
    """Reconstruct feature after feature, and keep some nodes of each."""
    sampled = features.sampled()
    for index in plain_bar(range(features.count), desc="features", unit="volume", leave=False):
        volume = features.volume(index)
        samples[index] = volume.reshape(-1)[sampled]
        yield volume


def _write(path: Path, channels: Iterator[FloatArray], count: int, features: DenseFeatures) -> None:
    write_channels(path, channels, count, features.grid.shape, features.ijk_to_ras)


def _draw(
    path: Path, volume: Volume, features: DenseFeatures, shown: list[FloatArray], found: PrincipalComponents
) -> None:
    """Draw the picture; a component that there is not is black."""
    black = np.zeros(features.grid.shape, dtype=np.float32)
    shares = ", ".join(f"{100 * share:.1f} %" for share in found.shares[:_COLORS])
    write_colors(
        path,
        volume,
        [*shown, *[black] * (_COLORS - len(shown))],
        features.foreground,
        features.ijk_to_ras,
        title=f"Principal components of {features.count} features as red, green and blue",
        subtitle=f"their shares of the variance over the foreground: {shares}. Not for diagnosis.",
    )


def _report(
    model: Bundle,
    volume: Volume,
    features: DenseFeatures,
    found: PrincipalComponents,
    options: FeatureOptions,
    seconds: float,
) -> Json:
    """Gather everything needed to understand and repeat a run; no name of file or patient."""
    run = features.run
    kept = options.components or 0
    return {
        "tonno": tonno_core.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": str(run.device),
        "precision": str(run.precision).removeprefix("torch."),
        "model": model_identity(model),
        "intensity": run.intensity,
        "settings": run.asked.record(),
        "filter": features.variant.filter,
        "smooth_mm": features.smooth_mm,
        "slice_size": run.pixels,
        "volume": {"size_ijk": volume.size_ijk, "ijk_to_ras": volume.ijk_to_ras.tolist()},
        "nodes": {"size_ijk": list(features.grid.shape[::-1]), "ijk_to_ras": features.ijk_to_ras.tolist()},
        "features": features.count,
        "written": "principal components" if kept else "features",
        "components": {
            "shares": found.shares.tolist(),
            **({"weights": found.weights[:kept].tolist()} if kept else {}),
        },
        "slices": {"total": features.slices_total, "blank_and_skipped": features.slices_blank},
        "seconds": round(seconds, 3),
        "warnings": list(features.warnings),
    }


def _summary(features: DenseFeatures, found: PrincipalComponents, options: FeatureOptions, seconds: float) -> str:
    nodes = " x ".join(str(n) for n in features.grid.shape[::-1])
    what = f"{options.components} principal components of " if options.components else ""
    shares = ", ".join(f"{100 * share:.1f} %" for share in found.shares[:_COLORS])
    where = f"at {nodes} nodes, smoothed by {features.smooth_mm:.3g} mm"
    return (
        f"{what}{features.count} features {where}; the first components' shares of their variance: {shares}\n"
        f"{len(features.plan.directions)} directions, {features.slices_total} slices in {seconds:.1f} s on "
        f"{features.run.device}"
    )
