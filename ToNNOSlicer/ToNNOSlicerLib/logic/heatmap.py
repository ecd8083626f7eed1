"""The heatmap as a scalar volume node, and all that is known about its making, which is saved with the node."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer.util
from slicer.i18n import tr as _

from tonno_core.bundle.calibration import MIN_PEAK
from tonno_core.settings import SEGMENTER
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.geometry import ijkToNode, toVTK, volumeOf, vtkImageOf
from ToNNOSlicerLib.logic.hierarchy import putBeside

RECORD = "ToNNO.Record"  # the attribute that holds the record, as JSON
INPUT_ROLE = "ToNNO.input"  # the reference to the volume that the heatmap explains
HISTOGRAM_BINS = 256
_METHODS = {
    "tonno": "ToNNO",
    "matched-cam": "Matched CAM",
    "averaged-cam": "Averaged CAM",
    "tomographic-cam": "Tomographic CAM",
    SEGMENTER: "Segmenter",
}
# What is kept of the worker's answer.
_KEPT = (
    "score", "explained", "profiles", "model", "warnings", "seconds", "slices", "directions", "planned", "stopped",
    "device", "settings",
)  # fmt: skip
Record = dict[str, Any]  # what a heatmap's node remembers, as JSON


@dataclass(frozen=True)
class Heatmap:
    """A heatmap as a run gives it, before it is a node of the scene.

    Attributes:
        array: Float32 voxels, Z Y X, on the volume's grid.
        ijkToRAS: 4 x 4, from the volume's voxels to the world when the run began.
        method: The engine's name of the method, such as "matched-cam".
        className: The finding's name; "" where the model gives none.
        threshold: The model's record for the method; None: it has none.
        inside: Bool, Z Y X, the voxels that the planes cover. None for a preview, of which no histogram is kept.
        answer: The worker's answer: scores, profiles and the like are kept, and its "histogram" where it has one.
        isZoomed: Whether all planes were put into a region.
        run: What else is to be remembered of the run: quality, key, identifier, time (see `results`).
    """

    array: np.ndarray
    ijkToRAS: np.ndarray
    method: str
    className: str
    threshold: Record | None = None
    inside: np.ndarray | None = None
    answer: Record | None = None
    isZoomed: bool = False
    run: Record | None = None


def methodName(method: str) -> str:
    """Name a method for a reader.

    Args:
        method: The engine's name, such as "matched-cam".

    Returns:
        The name, such as `Matched CAM`; the engine's where there is none.
    """
    return _METHODS.get(method, method)


def madeBy(record: Record) -> str:
    """Name the method for a reader, and say where all planes were put into a region.

    Args:
        record: A heatmap's record.

    Returns:
        Words such as `ToNNO Matched CAM`.
    """
    name = methodName(record["method"])
    name = name if name == "ToNNO" else f"ToNNO {name}"
    return _("{name} finer in region").format(name=name) if record.get("zoom") else name


def showHeatmap(volumeNode, heatmap: Heatmap, heatmapNode=None):
    """Create or update a heatmap's node beside its volume.

    The node lies under the volume's parent transform, so that it goes where the volume goes. Where the volume's grid is
    no longer that of the voxels, `ijkToRAS` places them.

    Args:
        volumeNode: The volume that was reconstructed; it is in the scene.
        heatmap: Voxels, and what the node remembers.
        heatmapNode: Gets the voxels; None: a new node.

    Returns:
        The vtkMRMLScalarVolumeNode.
    """
    scene, array = volumeNode.GetScene(), _finite(heatmap.array)
    isNew = heatmapNode is None
    if isNew:
        heatmapNode = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    record = _recordFor(heatmap, array)
    if isNew or madeBy(recordOf(heatmapNode)) != madeBy(record):
        heatmapNode.SetName(scene.GenerateUniqueName(f"{volumeNode.GetName()} {madeBy(record)}"))
    wasModifying = heatmapNode.StartModify()
    _display(heatmapNode)
    _setVoxels(heatmapNode, array)
    _place(heatmapNode, volumeNode, heatmap.ijkToRAS)
    heatmapNode.SetNodeReferenceID(INPUT_ROLE, volumeNode.GetID())
    writeRecord(heatmapNode, record)
    heatmapNode.EndModify(wasModifying)
    putBeside(heatmapNode, volumeNode)
    return heatmapNode


def _recordFor(heatmap: Heatmap, array: np.ndarray) -> Record:
    """Put together what the node of a heatmap with these voxels remembers."""
    answer = heatmap.answer or {}
    low, high = _range(array)
    record = {
        "method": heatmap.method,
        "className": heatmap.className,
        "threshold": heatmap.threshold,
        "zoom": heatmap.isZoomed,
        **{name: answer[name] for name in _KEPT if name in answer},
        "otsu": (answer.get("heatmaps", {}).get(heatmap.method) or {}).get("otsu"),
        "ijkToRAS": np.asarray(heatmap.ijkToRAS, dtype=np.float64).tolist(),
        "low": low,
        "high": high,
        "limit": max(abs(low), abs(high)),
        **(heatmap.run or {}),
    }
    if heatmap.inside is not None:
        record["histogram"] = answer.get("histogram") or histogramOf(array, heatmap.inside)
    return record


def isHeatmap(node) -> bool:
    """Tell whether a node is a heatmap of this module.

    Args:
        node: Any node, or None.

    Returns:
        True for a volume node that holds a record.
    """
    return node is not None and node.GetAttribute(RECORD) is not None


def recordOf(heatmapNode) -> Record:
    """Read what a heatmap's node remembers of its making.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The record.

    Raises:
        ToNNOUserError: If the node is no heatmap of this module.
    """
    if not isHeatmap(heatmapNode):
        name = heatmapNode.GetName() if heatmapNode is not None else _("Nothing")
        raise ToNNOUserError(
            _("{name} is no heatmap of ToNNO.").format(name=name), _("Click Apply first, or select a heatmap.")
        )
    return json.loads(heatmapNode.GetAttribute(RECORD))


def writeRecord(heatmapNode, record: Record) -> None:
    """Replace what a heatmap's node remembers.

    Args:
        heatmapNode: The heatmap; it need not have a record yet.
        record: The whole record.
    """
    heatmapNode.SetAttribute(RECORD, json.dumps(record))


def calibrationOf(record: Record) -> Record:
    """Return the model's calibration for the method, as a heatmap's record holds it.

    Args:
        record: The heatmap's.

    Returns:
        Such as "threshold", "noise_floor" and "note"; empty where the model has no threshold for the method.
    """
    return record.get("threshold") or {}


def modelsMinPeak(record: Record) -> float:
    """Return what the peak of a part must reach by the model that made a heatmap, or it is no finding.

    Args:
        record: The heatmap's.

    Returns:
        A value in the heatmap's units; -inf where the model says nothing of it.
    """
    known = calibrationOf(record).get(MIN_PEAK)
    return -math.inf if known is None else float(known)


def inputOf(heatmapNode):
    """Return the volume that a heatmap explains.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The vtkMRMLScalarVolumeNode, or None where it is gone.
    """
    return heatmapNode.GetNodeReference(INPUT_ROLE)


def histogram(heatmapNode) -> tuple[np.ndarray, np.ndarray]:
    """Return the histogram of the voxels that the planes cover.

    Args:
        heatmapNode: The heatmap.

    Returns:
        Edges (N + 1, in the heatmap's units) and counts (N).

    Raises:
        ToNNOUserError: If the node is no heatmap.
    """
    kept = recordOf(heatmapNode).get("histogram")
    if kept is None:  # a preview; outside of the planes its voxels are exactly 0
        array = slicer.util.arrayFromVolume(heatmapNode)
        kept = histogramOf(array, array != 0)
    counts = np.array(kept["counts"])
    return np.linspace(kept["low"], kept["high"], counts.size + 1), counts


def histogramOf(array: np.ndarray, inside: np.ndarray) -> Record:
    """Count the voxels that the planes cover, as a record keeps it. A third of a second at 256^3, on any thread.

    Args:
        array: Float32 voxels, Z Y X.
        inside: Bool, Z Y X, the voxels that the planes cover.

    Returns:
        The ends "low" and "high", and "counts" of HISTOGRAM_BINS; no voxel counts as one 0.
    """
    values = array[np.asarray(inside, dtype=bool)]
    if not values.size:
        values = np.zeros(1, dtype=np.float32)
    counts, edges = np.histogram(values, HISTOGRAM_BINS)
    return {"low": float(edges[0]), "high": float(edges[-1]), "counts": counts.tolist()}


def shareAbove(record: Record, threshold: float) -> float:
    """Return how much of what the planes cover reaches a threshold, by the bins of the histogram.

    Args:
        record: The heatmap's record.
        threshold: In the heatmap's units.

    Returns:
        0 to 1; 0 where no histogram is kept.
    """
    kept = record.get("histogram")
    if kept is None:
        return 0.0
    counts = np.array(kept["counts"])
    starts = np.linspace(kept["low"], kept["high"], counts.size + 1)[:-1]
    return float(counts[starts >= threshold].sum() / max(1, counts.sum()))


def otsuThreshold(heatmapNode) -> float:
    """Return Otsu's threshold over the voxels that the planes cover; it is computed once and remembered.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The threshold, in the heatmap's units.

    Raises:
        ToNNOUserError: If the heatmap is constant, or if its threshold splits noise: it is below the noise floor.
    """
    from tonno_core.errors import TonnoError
    from tonno_core.segmentation.binarize import otsu_threshold

    record = recordOf(heatmapNode)
    if record.get("otsu") is None:
        volume = volumeOf(heatmapNode)
        try:
            record["otsu"] = otsu_threshold(volume, volume.array != 0)
        except TonnoError:
            raise ToNNOUserError(
                _("{name} is constant: Otsu's method finds nothing to split.").format(name=heatmapNode.GetName()),
                _("Set the threshold by hand."),
            ) from None
        writeRecord(heatmapNode, record)
    value, floor = float(record["otsu"]), calibrationOf(record).get("noise_floor")
    if floor is not None and value < floor and not record.get("zoom"):
        text = _(
            "Otsu's threshold {value:.3g} is below the noise floor {floor:.3g}: scans without the finding reach it."
        )
        raise ToNNOUserError(
            text.format(value=value, floor=floor), _("Use the model's own threshold, or set one by hand.")
        )
    return value


def _finite(array: np.ndarray) -> np.ndarray:
    """Return float32 voxels in which what is not finite is 0."""
    array = np.ascontiguousarray(array, dtype=np.float32)
    return array if np.isfinite(_range(array)).all() else np.nan_to_num(array, posinf=0.0, neginf=0.0)


def _range(array: np.ndarray) -> tuple[float, float]:
    """Return the lowest and the highest value."""
    return float(array.min()), float(array.max())


def _display(heatmapNode) -> None:
    """Make the display node before there are voxels: later it would search them for a window."""
    if heatmapNode.GetDisplayNode() is None:
        heatmapNode.CreateDefaultDisplayNodes()
    heatmapNode.GetDisplayNode().SetAutoWindowLevel(False)


def _setVoxels(heatmapNode, array: np.ndarray) -> None:
    """Give a node its voxels: in place where it has the size already, which spares the views a new pipeline."""
    image = heatmapNode.GetImageData()
    if image is not None and image.GetDimensions() == array.shape[::-1]:
        slicer.util.arrayFromVolume(heatmapNode)[:] = array
        slicer.util.arrayFromVolumeModified(heatmapNode)
    else:
        heatmapNode.SetAndObserveImageData(vtkImageOf(array))


def _place(heatmapNode, volumeNode, ijkToRAS: np.ndarray) -> None:
    """Put a heatmap where its volume is, or where that was when it has another grid now."""
    image = volumeNode.GetImageData()
    sameGrid = image is not None and image.GetDimensions() == heatmapNode.GetImageData().GetDimensions()
    heatmapNode.SetIJKToRASMatrix(toVTK(ijkToNode(volumeNode) if sameGrid else ijkToRAS))
    heatmapNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID() if sameGrid else None)
