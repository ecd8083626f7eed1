"""Tags of a segment that tell how it came about: they are saved with the scene and go into the files.

Texts in tags are English in every language of the application: files are read elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vtk import reference

from tonno_core import __version__
from tonno_core.bundle.terminology import terminology_of
from tonno_core.errors import TonnoError
from ToNNOSlicerLib.logic.heatmap import Record, calibrationOf, inputOf, madeBy, recordOf
from ToNNOSlicerLib.logic.labelmap import TERMINOLOGY, terminologyEntry

# Slicer's own exporter of DICOM SEG reads these two; without them it writes MANUAL.
ALGORITHM_TYPE, ALGORITHM_NAME = "DICOM.SegmentAlgorithmType", "DICOM.SegmentAlgorithmName"
RESULT = "ToNNO.Result"  # volume, class, method, model and threshold, in one line
TAGS = (ALGORITHM_TYPE, ALGORITHM_NAME, RESULT)
# DICOM PS3.3, C.8.20.2.3: a calculated segment, one calculated with user assistance, one entered by a user.
AUTOMATIC, SEMIAUTOMATIC, MANUAL = "AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"
LONG_STRING = 64  # characters of DICOM's value representation LO
_EDITED = "edited by hand"
# A slider keeps three decimals of the model's threshold; nobody means another one so near to it.
_SAME_THRESHOLD = 5e-3


def provenanceOf(heatmapNode, threshold: float) -> dict[str, str]:
    """Return the tags of a segment that holds heatmap >= threshold, as it is written.

    Args:
        heatmapNode: The heatmap.
        threshold: In the heatmap's units. The model's own makes the segment AUTOMATIC; a person chose any other.

    Returns:
        Values by the names TAGS.
    """
    record = recordOf(heatmapNode)
    model = calibrationOf(record).get("threshold")
    isModels = model is not None and math.isclose(threshold, model, rel_tol=_SAME_THRESHOLD)
    name = f"ToNNO {__version__} {record['method']} {_modelName(record)}"
    return {
        ALGORITHM_TYPE: AUTOMATIC if isModels else SEMIAUTOMATIC,
        ALGORITHM_NAME: plain(name)[:LONG_STRING].strip(),
        RESULT: plain(_result(heatmapNode, record, threshold)),
    }


def terminologyOf(record: Record) -> str:
    """Return the codes that a model has for the class of a heatmap, as a segment's tag spells them.

    Args:
        record: The heatmap's.

    Returns:
        The entry; that of a mass where the model has none, or none that can be read.
    """
    about = (record.get("model") or {}).get("about") or {}
    try:
        return terminologyEntry(terminology_of(about, record["className"] or None))
    except TonnoError:
        return TERMINOLOGY


def editedProvenance(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags after a person has changed the voxels.

    Args:
        tags: The tags before.

    Returns:
        All tags.
    """
    result = tags.get(RESULT, "")
    result = result if _EDITED in result else ", ".join(filter(None, (result, _EDITED)))
    return {**tags, ALGORITHM_TYPE: SEMIAUTOMATIC, RESULT: result}


def tagOf(segment, name: str) -> str:
    """Read a tag.

    Args:
        segment: The vtkSegment.
        name: The tag's name.

    Returns:
        Its value, or "".
    """
    value = reference("")
    return str(value) if segment.GetTag(name, value) else ""


def statement(segmentationNode) -> str:
    """Say of which results the segments are, each once.

    Args:
        segmentationNode: Holds the segments.

    Returns:
        One line; the node's name where nobody wrote that down.
    """
    segmentation = segmentationNode.GetSegmentation()
    said = (tagOf(segmentation.GetSegment(n), RESULT) for n in segmentation.GetSegmentIDs())
    return "; ".join(filter(None, dict.fromkeys(said))) or plain(segmentationNode.GetName())


def inAscii(text: str, length: int) -> str:
    """Fit a text into a header that takes ASCII alone, up to a length.

    Args:
        text: Any text.
        length: Most characters.

    Returns:
        The text, with "?" for other letters.
    """
    return text.encode("ascii", "replace").decode("ascii")[:length]


def plain(text: str) -> str:
    """Replace what ends a value in DICOM (backslash), in a segment's tags (bar), or a line.

    Args:
        text: Any text.

    Returns:
        The text with spaces in their place.
    """
    return re.sub(r"[\\|\s]+", " ", text).strip()


def _result(heatmapNode, record: Record, threshold: float) -> str:
    """Say in one line which result a segment is of."""
    volumeNode = inputOf(heatmapNode)
    parts = [
        volumeNode.GetName() if volumeNode is not None else heatmapNode.GetName(),
        record["className"] or "finding",
        madeBy(record),
        f"model {_modelName(record)}" if _modelName(record) else "",
        f"threshold {threshold:.4g}",
        f"stopped after {record.get('directions')} directions" if record.get("stopped") else "",
    ]
    return ", ".join(filter(None, parts))


def _modelName(record: Record) -> str:
    """Return the model's name, or ""."""
    return (record.get("model") or {}).get("name") or ""
