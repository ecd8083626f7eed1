"""`tonno reconstruct`: files in, files out."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import tonno_core
from tonno_core.bundle.calibration import MIN_PEAK, MIN_VOLUME
from tonno_core.bundle.decide import Run
from tonno_core.bundle.file import Bundle
from tonno_core.bundle.kind import REGRESSOR
from tonno_core.commands import dicom
from tonno_core.commands.early_stopping import EarlyStopping
from tonno_core.commands.options import as_options
from tonno_core.commands.request import Compute, Options, PreparedRun, model_identity, prepare, read_options
from tonno_core.distributed import ALONE, Processes, processes, world_size
from tonno_core.errors import TonnoError
from tonno_core.output import Json, check_output, output_folder
from tonno_core.pictures.drawing import Scene
from tonno_core.pictures.overview import write_overview
from tonno_core.progress import say_once
from tonno_core.reconstruction import Reconstruction, execute
from tonno_core.reconstruction.run import ReadyScan
from tonno_core.reporting import Reporter, progress_bar, progress_of
from tonno_core.segmentation.binarize import peak_of
from tonno_core.segmentation.threshold import NO_FINDINGS, Segmentation, parts_of, segment, unsegmented
from tonno_core.settings import SEGMENTER
from tonno_core.volume.intensity import IMAGE, shown_window
from tonno_core.volume.io import check_writable, read_volume, write_volume
from tonno_core.volume.volume import Volume


@contextmanager
def single_run(
    output: Path, options: Options, compute: Compute, *, overwrite: bool = False
) -> Iterator[tuple[PreparedRun, Callable[[int, int], None], Processes]]:
    """Prepare the run of a single volume for `reconstruct_into`, with a bar.

    Under torchrun all processes call this and share the directions.

    Args:
        output: The folder that will be written.
        options: Of the command line.
        compute: Where.
        overwrite: Replace files that are there.

    Yields:
        The run, what to tell how far it is, and the processes.

    Raises:
        TonnoError: An option is wrong.
    """
    check_output(output, overwrite=overwrite)
    request = read_options(options)
    if options.stop_when is not None and world_size() > 1:
        raise TonnoError("`stop_when` looks into the run, which several processes share; leave it out, or start one")
    with processes(compute.device) as group:
        prepared = prepare(request, dataclasses.replace(compute, device=str(group.device)))
        unit = "slice" if prepared.run.network is None else "window"
        with progress_bar(disable=not group.first, unit=unit) as bar:
            yield prepared, progress_of(bar), group


@dataclass(frozen=True)
class Scan:
    """A volume to reconstruct.

    Attributes:
        path: A file, or a folder of DICOM files.
        ready: What was read of it; None where it is still to be read.
        identity: Further entries of its report.
    """

    path: Path
    ready: ReadyScan | None = None
    identity: Json = field(default_factory=dict)


def reconstruct_into(
    output: Path,
    scan: Scan,
    prepared: PreparedRun,
    *,
    progress: Callable[[int, int], None],
    overwrite: bool = False,
    group: Processes = ALONE,
) -> str:
    """Write ``heatmap-METHOD``, ``segmentation-METHOD``, ``report.json`` and ``overview.png``: all of them or none.

    Args:
        output: The folder.
        scan: The volume.
        prepared: What is made.
        progress: Called with (slices done, slices in all), of a segmenter its windows.
        overwrite: Replace files that are there.
        group: Processes that share the directions.

    Returns:
        The table of what was found, "" in all processes but the first.

    Raises:
        TonnoError: The volume cannot be read, or the files not be written.
    """
    request, run = prepared.request, prepared.run
    options = request.options
    as_dicom = options.file_format == dicom.FORMAT
    if as_dicom:
        dicom.check_places(scan.path, output)
    if scan.ready is None:
        volume = read_volume(scan.path, replace_nonfinite=options.replace_nonfinite, intensity=run.intensity)
    else:
        volume = scan.ready.volume
    source = dicom.check_source(scan.path, volume) if as_dicom else None
    if source is None:
        check_writable(volume.ijk_to_ras, output / f"heatmap.{options.file_format}")
    stopping = None if options.stop_when is None else EarlyStopping(prepared)
    reporter = Reporter(progress=progress) if stopping is None else stopping.reporter(progress)
    if group.first:
        reporter = dataclasses.replace(reporter, say=say_once)
    result = execute(volume, prepared.model.encoder, run, reporter, processes=group)
    if not group.first:
        return ""
    segmentations = segment_all(result, run, options.threshold, options.min_volume_mm3, options.min_peak)
    doubts = [each.warning for each in segmentations.values() if each.warning]
    result = dataclasses.replace(result, warnings=tuple(map(as_options, [*result.warnings, *doubts])))
    with output_folder(output, overwrite=overwrite, last="report.json") as folder:
        if source is None:
            write_images(folder, result, segmentations, options.file_format)
        else:
            said = dicom.statement_of(request.model, result.class_name)
            dicom.write_dicom(folder, result, segmentations, run, source, said)
        more = {"region": request.region_record(), "processes": group.world, **scan.identity}
        if stopping is not None:
            more["stop_when"] = {"asked": options.stop_when, **stopping.record(result)}
        write_report(folder / "report.json", volume, request.model, result, segmentations, more)
        best = next(iter(result.heatmaps))
        odds = result.variants[best].method == SEGMENTER
        unit = "intensity" if isinstance(request.model, str) else result.unit
        subtitle = f"threshold {segmentations[best].threshold:.4g} ({segmentations[best].source})"
        mask = None if segmentations[best].source == NO_FINDINGS else segmentations[best].mask
        if mask is None:
            subtitle = "heatmap alone" if result.prediction is None else f"predicted: {result.prediction.text}"
        window = shown_window(run.intensity)
        write_overview(
            folder / "overview.png",
            Scene(volume, result.heatmaps[best], mask, window=window, unit=unit, odds=odds),
            profiles=result.profiles,
            title=f"{best}: {result.class_name}",
            subtitle=subtitle,
        )
    for method, made in segmentations.items():
        if made.source == NO_FINDINGS:  # what an earlier run left would not be of this heatmap
            (output / f"segmentation-{method}.{options.file_format}").unlink(missing_ok=True)
    table = summary(result, segmentations)
    return table if stopping is None else f"{table}\n{stopping.summary(result)}"


def write_images(
    folder: Path, result: Reconstruction, segmentations: Mapping[str, Segmentation], file_format: str
) -> None:
    """Write ``heatmap-METHOD`` (float32) and ``segmentation-METHOD`` (uint8) of each method, where there are any.

    Args:
        folder: That is there.
        result: With the heatmaps.
        segmentations: By method.
        file_format: ``nii.gz`` or ``nrrd``.
    """
    for method, heatmap in result.heatmaps.items():
        write_volume(heatmap, folder / f"heatmap-{method}.{file_format}")
        if segmentations[method].source == NO_FINDINGS:
            continue
        mask = heatmap.with_array(segmentations[method].mask)
        write_volume(mask, folder / f"segmentation-{method}.{file_format}", dtype="uint8")


def segment_all(
    result: Reconstruction,
    run: Run,
    threshold: str = "auto",
    min_volume_mm3: float | None = None,
    min_peak: float | None = None,
) -> dict[str, Segmentation]:
    """Binarize the heatmaps of a run.

    Args:
        result: With the heatmaps.
        run: That they are from.
        threshold: ``auto`` for the model's own for the method, Otsu's where it has none, and nothing of a regressor;
            ``otsu``; or a number.
        min_volume_mm3: Smallest component that is kept; None for the model's own, or all of them.
        min_peak: What the highest value of a component reaches that is kept; likewise.

    Returns:
        Segmentations by the heatmaps' names.

    Raises:
        TonnoError: A heatmap cannot be split by Otsu's method.
    """
    segmentations = {}
    for name, heatmap in result.heatmaps.items():
        if run.choices.kind == REGRESSOR and threshold == "auto":
            segmentations[name] = unsegmented(heatmap)
            continue
        known = run.threshold(run.targets[0], name, result.ended_at)
        odds = result.variants[name].method == SEGMENTER
        parts = parts_of(known, min_volume_mm3, min_peak)
        made = segment(name, heatmap, result.inside, known, threshold=threshold, parts=parts, odds=odds)
        # What pixel-sum shows are intensities, which may be anything.
        segmentations[name] = dataclasses.replace(made, warning=None) if run.intensity == IMAGE else made
    return segmentations


def write_report(
    path: Path,
    volume: Volume,
    model: Bundle | str,
    result: Reconstruction,
    segmentations: Mapping[str, Segmentation],
    extra: Json | None = None,
) -> None:
    """Write everything needed to understand and repeat a run; no name of file or patient.

    Args:
        path: Of ``report.json``.
        volume: The scan.
        model: That was used.
        result: With the heatmaps.
        segmentations: By method.
        extra: More keys.
    """
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
        "intensity": "none" if isinstance(model, str) else model.spec.intensity,
        "settings": result.settings.record(),
        "slice_size": result.slice_size,
        "volume": {"size_ijk": volume.size_ijk, "ijk_to_ras": volume.ijk_to_ras.tolist()},
        "frame_to_ras": result.frame_to_ras.tolist(),
        "slices": {"total": result.slices_total, "blank_and_skipped": result.slices_blank},
        **({"windows": result.windows} if result.windows else {}),
        **({"network_passes": result.passes} if result.passes else {}),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "score": _number(result.score),
        **({} if result.prediction is None else {"prediction": dataclasses.asdict(result.prediction)}),
        "explained_by_tonno": None if result.explained is None else _number(result.explained),
        "warnings": list(result.warnings),
        "profiles": [
            {"axis": p.axis, "offsets_mm": p.offsets_mm.tolist(), "logits": p.logits.tolist()} for p in result.profiles
        ],
        "methods": {
            method: {
                "settings": result.variants[method].choices(),
                **_segmented(segmentation, volume.voxel_mm3),
                "peak": peak_of(result.heatmaps[method].array),
                "components": [dataclasses.asdict(component) for component in segmentation.components],
            }
            for method, segmentation in segmentations.items()
        },
        **(extra or {}),
    }
    path.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _segmented(made: Segmentation, voxel_mm3: float) -> Json:
    """Return what a report says of a segmentation; where nothing is a finding, a threshold or volume has no meaning."""
    if made.source == NO_FINDINGS:
        return {"threshold_source": made.source}
    return {
        "threshold": made.threshold,
        "threshold_source": made.source,
        **({MIN_VOLUME: made.min_volume_mm3} if made.min_volume_mm3 else {}),
        **({MIN_PEAK: made.min_peak} if made.min_peak > -math.inf else {}),
        "volume_mm3": float(made.mask.sum() * voxel_mm3),
    }


def summary(result: Reconstruction, segmentations: Mapping[str, Segmentation]) -> str:
    """Return a table of what was found.

    Args:
        result: With the heatmaps.
        segmentations: By method.

    Returns:
        Text for the terminal.
    """
    from tabulate import tabulate

    rows = []
    for method, segmentation in segmentations.items():
        heatmap = result.heatmaps[method]
        found = [
            f"{segmentation.threshold:.4g} ({segmentation.source})",
            len(segmentation.components),
            f"{segmentation.mask.sum() * heatmap.voxel_mm3 / 1000:.2f}",
        ]
        if segmentation.source == NO_FINDINGS:  # a volume of 0 would look like a measurement
            found = [NO_FINDINGS, "-", "-"]
        rows.append([method, result.class_name, *found, f"{peak_of(heatmap.array):.4g}"])
    headers = ["method", "class", "threshold", "components", "volume ml", "peak"]
    table = tabulate(rows, headers=headers, disable_numparse=True)
    if result.prediction is not None:
        table += f"\npredicted: {result.prediction.text}"
    lines = [table, *(f"warning: {warning}" for warning in result.warnings)]
    skipped = f" ({100 * result.slices_blank / max(1, result.slices_total):.0f} % blank and skipped)"
    looked_at = result.looked_at + ("" if result.windows else skipped)
    lines.append(f"{looked_at} in {result.seconds['total']:.1f} s on {result.device}")
    return "\n".join(lines)


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
