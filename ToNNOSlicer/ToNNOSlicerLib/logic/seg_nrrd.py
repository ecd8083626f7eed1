"""Slicer's segmentation file, read back after it was written; without SimpleITK, whose import takes a while."""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.notes import lossNotes

_TYPES = {"unsigned char": "u1", "short": "i2", "unsigned short": "u2", "int": "i4", "unsigned int": "u4"}


def writeSegNrrd(segmentationNode, path: Path) -> list[str]:
    """Write all segments by a new storage node: the segmentation's, which knows where the scene is saved, stays.

    The file is read back: on a full disk it may be cut off although the writer reports success (and Slicer's reader
    ends the application over such a file); segments on different grids are resampled to a common one.

    Args:
        segmentationNode: The segmentation.
        path: The file.

    Returns:
        What to know about the file, in sentences.

    Raises:
        OSError: If the file is not whole.
    """
    storage = slicer.vtkMRMLSegmentationStorageNode()
    storage.SetFileName(str(path))
    storage.SetUseCompression(1)
    held = _heldMm3(path) if storage.WriteData(segmentationNode) and path.exists() else None
    if held is None:
        raise OSError(None, _("what was written cannot be read again; the disk may be full"))
    return lossNotes(segmentationNode, held)


def _heldMm3(path: Path) -> dict[str, float] | None:
    """Read the volume of each segment, by its ID, from a .seg.nrrd file of Slicer; None where the file is cut off."""
    header, _blank, body = path.read_bytes().partition(b"\n\n")
    fields = dict(re.findall(r"^([^#:\n]+):=? ?(.*)$", header.decode(errors="replace"), re.MULTILINE))
    try:
        voxels = gzip.decompress(body) if fields["encoding"] == "gzip" else body
        size = [int(n) for n in fields["sizes"].split()]
        order = "<" if fields.get("endian", "little") == "little" else ">"
        kind = np.dtype(_TYPES[fields["type"]]).newbyteorder(order)
        layers = np.frombuffer(voxels, kind).reshape(size[::-1])
    except (KeyError, ValueError, EOFError, gzip.BadGzipFile, zlib.error):
        return None
    layers = layers.reshape(*size[:-4:-1], -1)  # Z Y X layers: segments that overlap lie in different layers
    axes = re.findall(r"\(([^)]+)\)", fields["space directions"])
    voxelMm3 = float(abs(np.linalg.det([[float(n) for n in axis.split(",")] for axis in axes])))
    held = {}
    for n in range(sum(name.endswith("_LabelValue") for name in fields)):
        value, layer = (int(fields[f"Segment{n}_{name}"]) for name in ("LabelValue", "Layer"))
        held[fields[f"Segment{n}_ID"]] = int(np.count_nonzero(layers[..., layer] == value)) * voxelMm3
    return held
