"""What `tonno reconstruct` writes about all volumes of a cohort: tables of cases and of findings, contact sheets."""

from __future__ import annotations

import csv
import functools
import io
import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tabulate import tabulate

from tonno_core.cohort.cases import Outcome, failed_line, warned_line
from tonno_core.cohort.manifest import Listed
from tonno_core.commands.case_report import CaseReport, OfMethod
from tonno_core.commands.dicom import ENDING, read_frames
from tonno_core.errors import TonnoError
from tonno_core.evaluation.sheet import Entry, short_name, size_text, write_sheets
from tonno_core.output import Json, write_text
from tonno_core.pictures.tile import Tile, load_tile, make_tile, save_tile
from tonno_core.segmentation.threshold import NO_FINDINGS
from tonno_core.settings import SEGMENTER
from tonno_core.volume.foreground import foreground_mask
from tonno_core.volume.intensity import shown_window
from tonno_core.volume.io import WRITABLE, read_heatmap, read_volume
from tonno_core.words import count_of

SUMMARY, FINDINGS, PLANES = "summary.csv", "findings.csv", "planes.npz"
SUMMARY_NAMES = (SUMMARY, FINDINGS, "contact-sheet-*.png")
# Of a method in the summary; beside them stand those of the case.
_OF_A_METHOD = ("threshold", "threshold_source", "components", "volume_mm3", "peak")
_OF_THE_LIST = ("path", "patient", "label", "split")
_POINTS = {"peak_ras": "RAS", "centroid_ras": "RAS", "extent_mm": "IJK"}
_SHOWN_FAILURES = 20


@dataclass(frozen=True)
class Done:
    """A case that is done, or has failed.

    Attributes:
        folder: Of its results.
        listed: Its volume, with what the list says of it.
        report: Its report, None where it failed.
        reason: Why it failed.
    """

    folder: Path
    listed: Listed
    report: CaseReport | None
    reason: str = ""

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.folder.name


def write_planes(folder: Path, volume_path: Path, methods: Sequence[str]) -> Tile:
    """Keep a finished case's line of the contact sheet in its folder.

    Args:
        folder: With the case's heatmaps and segmentations.
        volume_path: The case's volume.
        methods: Of which there are heatmaps; the first decides on the plane.

    Returns:
        The planes.

    Raises:
        TonnoError: A file cannot be read, or the planes not be written.
    """
    volume = read_volume(volume_path, replace_nonfinite=True)
    heatmaps, masks = {}, {}
    for method in methods:
        endings = (*WRITABLE, ENDING)
        ending = next((end for end in endings if (folder / f"heatmap-{method}{end}").is_file()), WRITABLE[0])
        heatmaps[method] = _read(folder / f"heatmap-{method}{ending}").astype(np.float32, copy=False)
        mask = folder / f"segmentation-{method}{ending}"  # none of a regressor whose threshold nobody gave
        masks[method] = _read(mask) != 0 if mask.is_file() else np.zeros(heatmaps[method].shape, bool)
    tile = make_tile(volume, heatmaps, masks, None, foreground_mask(volume), odds=(SEGMENTER,))
    save_tile(folder / PLANES, tile)
    return tile


def _read(path: Path) -> npt.NDArray[np.generic]:
    """Read the voxels of a result."""
    return read_frames(path) if path.suffix == ENDING else read_heatmap(path).array


def write_summary(folder: Path, cases: Sequence[Done]) -> Outcome:
    """Write ``summary.csv``, ``findings.csv`` and contact sheets.

    Args:
        folder: Of the cohort.
        cases: All of them, in the list's order.

    Returns:
        What to print.

    Raises:
        TonnoError: A file cannot be written.
    """
    of_case = ["case", "method", "score", *_OF_A_METHOD, "seconds", "warnings", "failed", *_OF_THE_LIST, "class"]
    write_text(folder / SUMMARY, _csv(of_case, (row for case in cases for row in _rows(case))))
    points = [f"{name}_{axis}" for name, axes in _POINTS.items() for axis in axes.lower()]
    of_finding = ["case", "method", "finding", "voxels", "volume_mm3", "peak", "mean", "threshold", *points]
    write_text(
        folder / FINDINGS, _csv([*of_finding, *_OF_THE_LIST], (row for case in cases for row in _findings(case)))
    )
    _write_sheets(folder, [case for case in cases if case.report is not None])
    failures = {case.name: case.reason for case in cases if case.report is None}
    failed = failed_line(failures, len(cases), SUMMARY) if failures else ""
    done = f"{len(cases) - len(failures)} of {count_of(len(cases), 'case')} in {folder}"
    warned = sum(case.report is not None and bool(case.report.warnings) for case in cases)
    said = warned_line(warned, len(cases), f"column warnings of {SUMMARY}")
    return Outcome("\n".join(filter(None, [_table(cases, failures), said, done])), failed)


# -------------------- tables


def _csv(columns: Sequence[str], rows: Iterable[Json]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    # A folder's name may hold bytes that are no UTF-8.
    return text.getvalue().encode(errors="backslashreplace").decode()


def _of_the_list(case: Done) -> Json:
    listed = case.listed
    return {"path": str(listed.volume), "patient": listed.patient, "label": listed.label, "split": listed.split}


def _rows(case: Done) -> Iterator[Json]:
    """A row for each method of a case, or one that says why it failed."""
    report = case.report
    if report is None:
        yield {"case": case.name, "failed": case.reason, **_of_the_list(case)}
        return
    of_case = {"case": case.name, "score": report.score, "warnings": "; ".join(report.warnings)}
    of_case["class"] = report.class_name
    for name, method in report.methods.items():
        of_method = {key: getattr(method, key) for key in _OF_A_METHOD} | {"components": len(method.components)}
        if not method.segmented:
            of_method |= dict.fromkeys(("threshold", "components", "volume_mm3"))
        yield {**of_case, "method": name, **of_method, "seconds": report.seconds.total, **_of_the_list(case)}


def _findings(case: Done) -> Iterator[Json]:
    """A row for each finding of each method."""
    for name, method in case.report.methods.items() if case.report is not None else ():
        for found in method.components:
            points = {
                f"{point}_{axis}": round(number, 3)
                for point, axes in _POINTS.items()
                for axis, number in zip(axes.lower(), getattr(found, point), strict=True)
            }
            numbers = {key: getattr(found, key) for key in ("voxels", "volume_mm3", "peak", "mean")}
            yield {
                "case": case.name, "method": name, "finding": found.label, **numbers,
                "threshold": method.threshold, **points, **_of_the_list(case),
            }  # fmt: skip


def _table(cases: Sequence[Done], failures: dict[str, str]) -> str:
    """Return a table of what each method found, and of the cases that failed."""
    by_method: dict[str, list[Json]] = {}
    for case in cases:
        for row in _rows(case) if case.report is not None else ():
            by_method.setdefault(row["method"], []).append(row)
    rows = []
    for method, found in by_method.items():
        peak = f"{statistics.median(row['peak'] for row in found):.4g}"
        segmented = [row for row in found if row["threshold_source"] != NO_FINDINGS]
        sizes = ["-", "-"]
        if segmented:
            sizes = [
                sum(row["components"] > 0 for row in segmented),
                f"{statistics.median(row['volume_mm3'] for row in segmented) / 1000:.2f}",
            ]
        rows.append([method, found[0]["class"], len(found), *sizes, peak])  # the class is the same in all
    headers = ["method", "class", "cases", "with components", "median volume ml", "median peak"]
    parts = [tabulate(rows, headers=headers, disable_numparse=True)] if rows else []
    if failures:
        shown = list(failures.items())[:_SHOWN_FAILURES]
        more = [["...", f"{len(failures) - len(shown)} more in {SUMMARY}"]] if len(shown) < len(failures) else []
        parts.append(tabulate([*shown, *more], headers=["failed", "why"], disable_numparse=True))
    return "\n\n".join(parts)


# -------------------- contact sheets


def _write_sheets(folder: Path, cases: Sequence[Done]) -> None:
    """Draw the cases whose planes are there, or can be had: an earlier build kept none, and a volume may be gone."""
    entries = []
    for case in cases:
        with suppress(TonnoError):
            entries.append(_entry(case))
    if not entries:
        return
    report = next(case.report for case in cases if case.report)
    subtitle = f"{report.network}; class {report.class_name}. Colours have one scale for all cases. Not for diagnosis."
    write_sheets(folder, entries, title=count_of(len(entries), "scan"), subtitle=subtitle, truth=False)


def _caption(report: CaseReport, method: OfMethod) -> str:
    """Say what a method found; of a regressor without a threshold what it predicts."""
    if method.volume_mm3 is not None and method.segmented:
        return size_text(method.volume_mm3 / 1000, len(method.components))
    return "" if report.score is None else f"{report.class_name} {report.score:.4g}"


def _entry(case: Done) -> Entry:
    """Say what the sheet says of a case."""
    assert case.report is not None
    methods = case.report.methods
    path = case.folder / PLANES
    tile = load_tile(path) if path.is_file() else write_planes(case.folder, case.listed.volume, list(methods))
    said = [short_name(case.name), case.listed.label and f"label {case.listed.label}", tile.where]
    return Entry(
        heading="   ·   ".join(filter(None, said)),
        thresholds={
            name: method.threshold if method.threshold is not None and method.segmented else math.inf
            for name, method in methods.items()
        },
        captions={name: _caption(case.report, method) for name, method in methods.items()},
        load=functools.partial(load_tile, path),
        window=shown_window(case.report.intensity),
    )
