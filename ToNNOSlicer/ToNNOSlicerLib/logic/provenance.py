"""How a segment came about, as tags of the segment: they are saved with the scene and go into the files.

Texts in tags are English in every language of the application: files are read elsewhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from vtk import reference

from tonno_core import __version__
from ToNNOSlicerLib.logic.heatmap import inputOf, madeBy, modelThreshold, recordOf

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
    """The tags (TAGS) of a segment that holds heatmap >= threshold, as it is written.

    AUTOMATIC at the model's own threshold; any other was chosen by a person.
    """
    record = recordOf(heatmapNode)
    model = modelThreshold(heatmapNode)
    isModels = model is not None and math.isclose(threshold, model, rel_tol=_SAME_THRESHOLD)
    name = f"ToNNO {__version__} {record['method']} {_modelName(record)}"
    return {
        ALGORITHM_TYPE: AUTOMATIC if isModels else SEMIAUTOMATIC,
        ALGORITHM_NAME: plain(name)[:LONG_STRING].strip(),
        RESULT: plain(_result(heatmapNode, record, threshold)),
    }


def editedProvenance(tags: Mapping[str, str]) -> dict[str, str]:
    """The same tags after a person has changed the voxels."""
    result = tags.get(RESULT, "")
    result = result if _EDITED in result else ", ".join(filter(None, (result, _EDITED)))
    return {**tags, ALGORITHM_TYPE: SEMIAUTOMATIC, RESULT: result}


def tagOf(segment, name: str) -> str:
    """A tag's value, or an empty text."""
    value = reference("")
    return str(value) if segment.GetTag(name, value) else ""


def statement(segmentationNode) -> str:
    """Of which result the segments are, each said once; the node's name where nobody wrote that down."""
    segmentation = segmentationNode.GetSegmentation()
    said = (tagOf(segmentation.GetSegment(n), RESULT) for n in segmentation.GetSegmentIDs())
    return "; ".join(filter(None, dict.fromkeys(said))) or plain(segmentationNode.GetName())


def inAscii(text: str, length: int) -> str:
    """For a header that knows no other letters and has an end."""
    return text.encode("ascii", "replace").decode("ascii")[:length]


def plain(text: str) -> str:
    """A text without what ends a value in DICOM (backslash), in a segment's tags (bar), or a line."""
    return re.sub(r"[\\|\s]+", " ", text).strip()


def _result(heatmapNode, record: dict, threshold: float) -> str:
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


def _modelName(record: dict) -> str:
    return (record.get("model") or {}).get("name") or ""
