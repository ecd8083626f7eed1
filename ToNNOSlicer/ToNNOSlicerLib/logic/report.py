"""A folder that a colleague can read: pictures, the table of findings, the files, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.export import SlowWriter, cannotWrite, exportFindings, exportSegmentation, writeHere
from ToNNOSlicerLib.logic.findings import Finding, findings
from ToNNOSlicerLib.logic.geometry import ijkToNode, volumeOf
from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, recordOf
from ToNNOSlicerLib.logic.labelmap import onGrid
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.segmentation import thresholdOf
from ToNNOSlicerLib.slow_files import Picture, SlowFiles

LARGEST_NUMBER_OF_PICTURES = 5
_NOTE = "Research use only. This is not a medical device and must not be used for diagnosis."


def reportSteps(folder, heatmapNode, segmentationNode, segmentId: str, write: SlowWriter) -> Iterator[float]:
    """Write the folder, whole or not at all, a little at each step; files of the same names in it are replaced.

    overview.png (planes through the first finding), finding-2.png and so on, findings.csv, heatmap.nrrd,
    segmentation.seg.nrrd, report.json. Yields the share that is done, 0 to 1; who closes the iterator before its end
    has cancelled, and nothing is left. After the first steps no node is read any more. write: who writes what takes
    long. Raises ToNNOUserError where the input volume is gone or nothing can be written.
    """
    from tonno_core.errors import TonnoError
    from tonno_core.output import output_folder

    volumeNode = inputOf(heatmapNode)
    if volumeNode is None:
        raise ToNNOUserError(
            _("The volume that {name} explains is no longer in the scene.").format(name=heatmapNode.GetName()),
            _("Load it and reconstruct again."),
        )
    try:
        with output_folder(Path(folder), overwrite=True) as place:
            yield 0.0
            listed = findings(segmentationNode, segmentId, heatmapNode)
            yield 0.0
            if listed:
                exportSegmentation(segmentationNode, place / "segmentation.seg.nrrd")
                yield 0.0
            exportFindings(listed, place / "findings.csv")
            facts = _facts(volumeNode, heatmapNode, segmentationNode, segmentId, listed)
            (place / "report.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
            slow = _slowFiles(volumeNode, heatmapNode, segmentationNode, segmentId, listed)
            yield 0.0
            yield from write(slow, place)
    except TonnoError as error:
        raise ToNNOUserError(*cannotWrite(error)) from error


def exportReport(folder, heatmapNode, segmentationNode, segmentId: str) -> None:
    """The same at once."""
    for _share in reportSteps(folder, heatmapNode, segmentationNode, segmentId, writeHere):
        pass


def _slowFiles(volumeNode, heatmapNode, segmentationNode, segmentId: str, listed: list[Finding]) -> SlowFiles:
    """Copies, since nodes may change meanwhile."""
    image, heatmap = volumeOf(volumeNode), volumeOf(heatmapNode)
    return SlowFiles(
        heatmap=heatmap.array.copy(),
        heatmapToFile=ijkToNode(heatmapNode),
        heatmapFile="heatmap.nrrd",
        pictures=_pictures(volumeNode, heatmapNode, segmentationNode, segmentId, listed),
        heatmapToWorld=heatmap.ijk_to_ras,
        image=image.array.copy(),
        imageToWorld=image.ijk_to_ras,
        mask=onGrid(segmentationNode, segmentId, heatmapNode),
        profiles=tuple(_profiles(heatmapNode)),
    )


def _pictures(volumeNode, heatmapNode, segmentationNode, segmentId: str, listed: list[Finding]) -> tuple[Picture, ...]:
    title = f"{volumeNode.GetName()}: {recordOf(heatmapNode)['className']}"
    pictures = []
    for finding in listed[:LARGEST_NUMBER_OF_PICTURES] or (None,):
        first = finding is None or finding.label == 1
        file = "overview.png" if first else f"finding-{finding.label}.png"
        subtitle = _subtitle(heatmapNode, segmentationNode, segmentId, listed, finding)
        pictures.append(Picture(file, title, subtitle, None if finding is None else finding.peakRAS))
    return tuple(pictures)


def _profiles(heatmapNode) -> list:
    """Those along the patient's axes, where they were kept."""
    from tonno_core.evaluation.profile import Profile

    found = {axis: profileAlong(heatmapNode, normal) for axis, normal in zip("RAS", np.eye(3), strict=True)}
    return [Profile(axis, p.positionsMm, p.logits) for axis, p in found.items() if p is not None and p.angleDeg < 1]


def _subtitle(heatmapNode, segmentationNode, segmentId: str, listed: list[Finding], finding: Finding | None) -> str:
    method = madeBy(recordOf(heatmapNode))
    threshold = thresholdOf(segmentationNode, segmentId)
    text = method if threshold is None else _("{method}, threshold {value:.4g}").format(method=method, value=threshold)
    if finding is None:
        return _("{text}; no finding").format(text=text)
    return _("{text}; finding {label} of {number}: {volume:.0f} mm3, peak {peak:.4g}").format(
        text=text, label=finding.label, number=len(listed), volume=finding.volumeMm3, peak=finding.peak
    )


def _facts(volumeNode, heatmapNode, segmentationNode, segmentId: str, listed: list[Finding]) -> dict:
    record = recordOf(heatmapNode)
    kept = {name: value for name, value in record.items() if name not in ("profiles", "histogram", "limit", "ijkToRAS")}
    return {
        "note": _NOTE,
        "volume": volumeNode.GetName(),
        "segmentation_threshold": thresholdOf(segmentationNode, segmentId),
        "findings": len(listed),
        "findings_mm3": sum(finding.volumeMm3 for finding in listed),
        "reconstruction": kept,
    }
