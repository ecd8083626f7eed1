"""A worklist's case in the scene: opened as a run would have left it, saved with the reader's verdicts, and closed.

Each node of a case carries the case's identity, that is, which file by which run, so that no two are ever mixed.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib import worklist_files
from ToNNOSlicerLib.logic.case_files import (
    Report,
    inside,
    loadVolume,
    readHeatmap,
    readReport,
    resultOf,
    thresholdRecord,
)
from ToNNOSlicerLib.logic.errors import EditedByHandError, ToNNOUserError
from ToNNOSlicerLib.logic.export import exportSegmentation
from ToNNOSlicerLib.logic.geometry import ijkToNode
from ToNNOSlicerLib.logic.heatmap import Heatmap, inputOf, recordOf, showHeatmap, writeRecord
from ToNNOSlicerLib.logic.labelmap import LABELMAP, Crop, cropOf, imageOf, setCrop
from ToNNOSlicerLib.logic.results import heatmapsOf
from ToNNOSlicerLib.logic.scene import nodesByClass, removeNode
from ToNNOSlicerLib.logic.segmentation import (
    SEGMENTATION_ROLE,
    isEditedByHand,
    minPeakOf,
    segmentOf,
    smallestOf,
    thresholdOf,
)
from ToNNOSlicerLib.logic.verdicts import ATTRIBUTE as VERDICTS

CASE = "ToNNO.Case"  # the attribute of a case's nodes
SAVED = "ToNNO.CaseSaved"  # an attribute of its heatmap: what was opened or saved last
_READING = "reading-"


def openCase(logic, case):
    """Put a finished case into the scene, as a run would have left it, with the heatmap of its first method.

    Where a reader has saved the case, it is as it was saved. A case that is open already stays as it is.

    Args:
        logic: The scene's ToNNOLogic.
        case: A `worklist.Case`.

    Returns:
        The heatmap's node.

    Raises:
        ToNNOUserError: If there are no results, the volume's file has changed since they were made, or heatmap and
            volume differ in grid. Nothing is left in the scene then.
    """
    report = readReport(case)
    known = heatmapOf(logic, case)
    if known is not None:
        return known
    nodes: list = []
    try:
        return _open(logic, case, report, nodes)
    except BaseException:
        _remove(logic.scene, nodes)
        raise


def heatmapOf(logic, case):
    """Find the heatmap of a case in the scene.

    Args:
        logic: The scene's ToNNOLogic.
        case: A `worklist.Case`.

    Returns:
        The heatmap's node; None where the case is not open.
    """
    identity = _identityOf(case)
    return next((node for node in heatmapsOf(logic.scene) if identity and node.GetAttribute(CASE) == identity), None)


def save(logic, case, heatmapNode, verdicts: Any = None, findings: Sequence = ()) -> None:
    """Save the reader's segment and verdicts in the case's folder: all of it, or what was saved before stays.

    Args:
        logic: The scene's ToNNOLogic.
        case: A `worklist.Case`.
        heatmapNode: The heatmap that `openCase` gave. Its segment is saved.
        verdicts: Anything that JSON can hold; the verdicts that the heatmap's node keeps are saved beside it.
        findings: The segment's findings, for programs that read the file.

    Raises:
        ToNNOUserError: If the node is not this case's, has no segment, or the files cannot be written.
    """
    report = readReport(case)
    if heatmapNode.GetAttribute(CASE) != report.identity:
        raise ToNNOUserError(
            _("{node} is not the result of {case}.").format(node=heatmapNode.GetName(), case=case.name),
            _("Open the case from the list and save it from there."),
        )
    written = segmentOf(heatmapNode)
    if written is None:
        raise ToNNOUserError(
            _("{node} has no segment to save.").format(node=heatmapNode.GetName()), _("Move the threshold once.")
        )
    crop = cropOf(*written)
    file = f"{_READING}{uuid.uuid4().hex[:12]}.seg.nrrd" if crop is not None and crop.mask.size else None
    content = _reading(report, heatmapNode, written, file, verdicts, findings)
    try:
        if file is not None:
            _writeSegment(written, report.folder / file)
        worklist_files.writeJson(report.folder / worklist_files.VERDICTS, content)
    except BaseException as error:
        if file is not None:
            (report.folder / file).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise ToNNOUserError(
                _("The verdicts cannot be saved: {reason}.").format(reason=error.strerror or error),
                _("Check the folder {folder} and the space on the disk.").format(folder=report.folder),
            ) from error
        raise
    for old in report.folder.glob(f"{_READING}*.seg.nrrd"):
        if old.name != file:
            with suppress(OSError):
                old.unlink()
    _markSaved(logic, heatmapNode)


def readingOf(case) -> Json:
    """Read what a reader has saved of a case.

    Args:
        case: A `worklist.Case`.

    Returns:
        The content of ``verdicts.json``; empty where nothing was saved, or it belongs to other results.
    """
    folder = Path(case.folder or "none")
    content = worklist_files.readJson(folder / worklist_files.VERDICTS)
    report = worklist_files.readJson(folder / worklist_files.REPORT)
    same = all(content.get(key) == report.get(key) for key in ("source", "run"))
    return content if content and same and worklist_files.isRead(folder) else {}


def isUnsaved(logic, case) -> bool:
    """Return whether an open case holds work that is in no file: another segment, other verdicts, another result.

    Args:
        logic: The scene's ToNNOLogic.
        case: A `worklist.Case`.

    Returns:
        Whether it does; False for a case that is not open.
    """
    heatmapNode = heatmapOf(logic, case)
    if heatmapNode is None:
        return False
    if heatmapNode.GetAttribute(SAVED) != _state(logic, heatmapNode):
        return True
    others = [node for node in _heatmapsOf(logic, heatmapNode) if node is not heatmapNode]
    return bool(others) or any(isEditedByHand(*segment) for segment in _otherSegments(logic, heatmapNode))


def closeCase(logic, case, discard: bool = False) -> None:
    """Take a case out of the scene: its volume, all results of that, and nothing else.

    Args:
        logic: The scene's ToNNOLogic.
        case: A `worklist.Case`; one that is not open is no error.
        discard: Whether work that was not saved is given up.

    Raises:
        EditedByHandError: If the case holds work that was not saved, unless `discard`.
    """
    heatmapNode = heatmapOf(logic, case)
    if heatmapNode is None:
        return
    if not discard and isUnsaved(logic, case):
        raise EditedByHandError(
            _("{name} holds work that is not saved.").format(name=case.name), _("Save it, or close it without.")
        )
    heatmaps = _heatmapsOf(logic, heatmapNode)
    segmentations = []
    for node in _segmentationsOf(logic, heatmaps):
        if _isUsedElsewhere(logic, node, heatmaps):
            _removeSegments(logic, node, heatmaps)
        else:
            segmentations.append(node)
    volume = inputOf(heatmapNode)
    _remove(logic.scene, [*segmentations, *heatmaps, *([volume] if volume is not None else [])])


# --- opening


def _open(logic, case, report: Report, nodes: list):
    method = next(iter(report.content["methods"]))
    volume = loadVolume(logic.applicationLogic, case)
    nodes.append(volume)
    array = readHeatmap(report, method, volume)
    heatmap = Heatmap(
        array,
        ijkToNode(volume),
        method,
        report.content["class"],
        thresholdRecord(report, method),
        inside(report, volume),
        resultOf(report, method),
        bool((report.content.get("region") or {}).get("zoom")),
    )
    heatmapNode = showHeatmap(volume, heatmap)
    nodes.insert(0, heatmapNode)
    known = {"quality": report.quality, "region": report.content.get("region")}
    writeRecord(heatmapNode, recordOf(heatmapNode) | {name: value for name, value in known.items() if value})
    reading = readingOf(case)
    if reading.get("method") != method:
        reading = {}
    threshold = reading.get("threshold")
    threshold = report.threshold(method) if threshold is None else float(threshold)
    smallestMm3 = reading.get("smallestMm3", report.smallestMm3)
    minPeak = reading.get("minPeak", report.minPeak(method))
    minPeak = -math.inf if minPeak is None else float(minPeak)
    segmentation, segmentId = logic.segments.write(heatmapNode, threshold, smallestMm3, minPeak=minPeak)
    nodes.insert(0, segmentation)
    for node in (volume, heatmapNode, segmentation):
        node.SetAttribute(CASE, report.identity)
    _restore(report, reading, heatmapNode, segmentation, segmentId)
    _markSaved(logic, heatmapNode)
    return heatmapNode


def _restore(report: Report, reading: Json, heatmapNode, segmentation, segmentId: str) -> None:
    """Put the reader's segment and verdicts in place of the model's."""
    if not reading:
        return
    if reading.get("nodeVerdicts"):
        heatmapNode.SetAttribute(VERDICTS, reading["nodeVerdicts"])
    current = cropOf(segmentation, segmentId)
    if reading["segmentation"] is None:
        saved = Crop(current.mask[:0, :0, :0], current.first, current.gridToNode)
    else:
        saved = _readSegment(report.folder / reading["segmentation"])
    if not saved.has(current.fingerprint):
        setCrop(segmentation, segmentId, saved)


# --- files


def _reading(report: Report, heatmapNode, written: tuple, file: str | None, verdicts, findings) -> Json:
    """Make the content of ``verdicts.json``."""
    record, minPeak = recordOf(heatmapNode), minPeakOf(*written)
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "source": report.content.get("source"),
        "run": report.content.get("run"),
        "method": record["method"],
        "class": record["className"],
        "threshold": thresholdOf(*written),
        "smallestMm3": smallestOf(*written) or 0.0,
        "minPeak": minPeak if minPeak is not None and math.isfinite(minPeak) else None,
        "editedByHand": isEditedByHand(*written),
        "segmentation": file,
        "findings": [_plain(finding) for finding in findings],
        "verdicts": verdicts,
        "nodeVerdicts": heatmapNode.GetAttribute(VERDICTS),
    }


def _plain(finding) -> Json:
    """Return the numbers and words of a finding; its voxels are in the segmentation."""
    known = asdict(finding) if is_dataclass(finding) else dict(finding)
    return {name: value for name, value in known.items() if isinstance(value, (str, int, float, bool, tuple, list))}


def _writeSegment(written: tuple, path: Path) -> None:
    """Write a copy that is not in the scene: the storage node merges layers and resamples to the reference grid."""
    segmentationNode, segmentId = written
    copy = slicer.vtkMRMLSegmentationNode()
    copy.SetName(segmentationNode.GetName())
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    alone = slicer.vtkSegment()
    alone.DeepCopy(segment)
    alone.RemoveAllRepresentations()
    alone.SetLabelValue(1)
    crop = cropOf(*written)
    alone.AddRepresentation(LABELMAP, imageOf(crop))
    copy.GetSegmentation().SetSourceRepresentationName(LABELMAP)
    copy.GetSegmentation().AddSegment(alone, segmentId)
    exportSegmentation(copy, path)


def _readSegment(path: Path) -> Crop:
    scene = slicer.vtkMRMLScene()  # apart from the user's
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    crop = None
    if storage.ReadData(node) and node.GetSegmentation().GetNumberOfSegments():
        crop = cropOf(node, node.GetSegmentation().GetNthSegmentID(0))
    if crop is None:
        raise ToNNOUserError(
            _("{path} cannot be read.").format(path=path),
            _("Remove verdicts.json beside it to see the model's own segment."),
        )
    return crop


# --- what is whose


def _identityOf(case) -> str | None:
    """Identify a case without asking whether its volume's file is still the same: an open case may have lost it."""
    folder = Path(case.folder or "none")
    content = worklist_files.readJson(folder / worklist_files.REPORT)
    return Report(folder, content, {}, {}).identity if content else None


def _state(logic, heatmapNode) -> str:
    """Describe what a reader can change: the result's segment and the verdicts."""
    written = segmentOf(heatmapNode)
    crop = cropOf(*written) if written is not None else None
    return json.dumps([crop.fingerprint if crop is not None else None, heatmapNode.GetAttribute(VERDICTS) or ""])


def _markSaved(logic, heatmapNode) -> None:
    heatmapNode.SetAttribute(SAVED, _state(logic, heatmapNode))


def _heatmapsOf(logic, heatmapNode) -> list:
    """List the heatmaps of the volume of a heatmap, this one among them."""
    volume = inputOf(heatmapNode)
    return [heatmapNode] if volume is None else heatmapsOf(logic.scene, volume)


def _segmentationsOf(logic, heatmaps: list) -> list:
    identities = {node.GetAttribute(CASE) for node in heatmaps} - {None}
    nodes = nodesByClass(logic.scene, "vtkMRMLSegmentationNode")
    written = [node.GetNodeReference(SEGMENTATION_ROLE) for node in heatmaps]
    return [node for node in nodes if node in written or node.GetAttribute(CASE) in identities]


def _isUsedElsewhere(logic, segmentationNode, heatmaps: list) -> bool:
    """Return whether a result of another volume has its segment in the same node."""
    others = (node for node in heatmapsOf(logic.scene) if node not in heatmaps)
    return any(node.GetNodeReference(SEGMENTATION_ROLE) is segmentationNode for node in others)


def _otherSegments(logic, heatmapNode) -> list[tuple]:
    written = segmentOf(heatmapNode)
    nodes = _segmentationsOf(logic, [heatmapNode])
    segments = ((node, segmentId) for node in nodes for segmentId in node.GetSegmentation().GetSegmentIDs())
    return [segment for segment in segments if segment != written]


def _removeSegments(logic, segmentationNode, heatmaps: list) -> None:
    for heatmapNode in heatmaps:
        written = segmentOf(heatmapNode)
        if written is not None and written[0] is segmentationNode:
            segmentationNode.GetSegmentation().RemoveSegment(written[1])


def _remove(scene, nodes: list) -> None:
    """Take nodes out of the scene and the subject hierarchy; what the user has put below them there stays."""
    for node in nodes:
        if node.GetScene() is scene:
            removeNode(node)
