"""A folder that a colleague can read: pictures, the table of findings, the files, and how they were made."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.export import exportFindings, exportHeatmap, exportSegmentation
from ToNNOSlicerLib.logic.findings import Finding, findings
from ToNNOSlicerLib.logic.geometry import volumeOf
from ToNNOSlicerLib.logic.heatmap import inputOf, methodName, recordOf
from ToNNOSlicerLib.logic.labelmap import onGrid
from ToNNOSlicerLib.logic.profile import profileAlong
from ToNNOSlicerLib.logic.segmentation import thresholdOf

LARGEST_NUMBER_OF_PICTURES = 5
_NOTE = "Research use only. This is not a medical device and must not be used for diagnosis."


def exportReport(folder, heatmapNode, segmentationNode, segmentId: str) -> None:
    """Write the folder, whole or not at all; files of the same names in it are replaced.

    overview.png (planes through the first finding), finding-2.png and so on, findings.csv, heatmap.nii.gz,
    segmentation.seg.nrrd, report.json. Raises ToNNOUserError where the input volume is gone or nothing can be written.
    """
    from tonno_core.errors import TonnoError
    from tonno_core.output import output_folder

    volumeNode = inputOf(heatmapNode)
    if volumeNode is None:
        raise ToNNOUserError(
            _("The volume that {name} explains is no longer in the scene.").format(name=heatmapNode.GetName()),
            _("Load it and reconstruct again."),
        )
    listed = findings(segmentationNode, segmentId, heatmapNode)
    try:
        with output_folder(Path(folder), overwrite=True) as place:
            _writePictures(place, volumeNode, heatmapNode, segmentationNode, segmentId, listed)
            exportFindings(listed, place / "findings.csv")
            exportHeatmap(heatmapNode, place / "heatmap.nii.gz")
            if listed:
                exportSegmentation(segmentationNode, place / "segmentation.seg.nrrd")
            facts = _facts(volumeNode, heatmapNode, segmentationNode, segmentId, listed)
            (place / "report.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False), encoding="utf-8")
    except TonnoError as error:
        raise ToNNOUserError(
            _("The report cannot be written: {reason}.").format(reason=str(error).rstrip(".")),
            _("Check the folder and the space on the disk, or choose another place."),
        ) from error


def _writePictures(place, volumeNode, heatmapNode, segmentationNode, segmentId: str, listed: list[Finding]) -> None:
    from tonno_core.evaluation.overview import write_overview

    image, heatmap = volumeOf(volumeNode), volumeOf(heatmapNode)
    mask = onGrid(segmentationNode, segmentId, heatmapNode)
    record = recordOf(heatmapNode)
    for finding in listed[:LARGEST_NUMBER_OF_PICTURES] or (None,):
        first = finding is None or finding.label == 1
        write_overview(
            place / ("overview.png" if first else f"finding-{finding.label}.png"),
            image,
            heatmap,
            mask,
            profiles=_profiles(heatmapNode),
            title=f"{volumeNode.GetName()}: {record['className']}",
            subtitle=_subtitle(heatmapNode, segmentationNode, segmentId, listed, finding),
            centre_ras=None if finding is None else finding.peakRAS,
        )


def _profiles(heatmapNode) -> list:
    """Those along the patient's axes, where they were kept."""
    from tonno_core.evaluation.profile import Profile

    found = {axis: profileAlong(heatmapNode, normal) for axis, normal in zip("RAS", np.eye(3), strict=True)}
    return [Profile(axis, p.positionsMm, p.logits) for axis, p in found.items() if p is not None and p.angleDeg < 1]


def _subtitle(heatmapNode, segmentationNode, segmentId: str, listed: list[Finding], finding: Finding | None) -> str:
    method = methodName(recordOf(heatmapNode)["method"])
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
