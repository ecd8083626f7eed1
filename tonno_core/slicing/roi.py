"""Regions that a person gives: two corners, or the file of a box drawn in 3D Slicer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tonno_core.errors import TonnoError
from tonno_core.output import Json
from tonno_core.slicing.region import Region

_EXPECTED = "two opposite corners in RAS mm as -10,20,5:30,60,45, or a Markups ROI of 3D Slicer (.mrk.json)"

# By how much axes may be off length 1 and right angles: what a program that writes three digits rounds away. Of axes
# that are slanted more, 3D Slicer draws a box of right angles, which is not the one in the file.
_SLANT = 2e-3


def read_region(text: str) -> Region:
    """Read a region.

    Args:
        text: ``R,A,S:R,A,S``, two opposite corners in mm, or the name of a ``.mrk.json``.

    Returns:
        The region.

    Raises:
        TonnoError: it is anything else, or the box is empty.
    """
    if text.lower().endswith(".json"):
        return _read_markups(Path(text))
    try:
        corners = np.array([[float(number) for number in corner.split(",")] for corner in text.split(":")])
    except ValueError:  # no number, or corners of different lengths
        corners = np.zeros(0)
    if corners.shape != (2, 3):
        raise TonnoError(f"`region` {text!r}: expected {_EXPECTED}")
    return _region(f"`region` {text}", corners.mean(axis=0), np.eye(3), np.abs(np.diff(corners, axis=0)[0]))


def _read_markups(path: Path) -> Region:
    """Read the only box of a Markups file with its orientation. Points are LPS unless the file says otherwise."""
    if not path.is_file():
        raise TonnoError(f"`region` {path}: no such file, expected {_EXPECTED}")
    try:
        boxes = [mark for mark in json.loads(path.read_text(encoding="utf-8"))["markups"] if mark.get("type") == "ROI"]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TonnoError(f"`region` {path}: not readable as markups of 3D Slicer ({error!r})") from error
    if len(boxes) != 1:
        raise TonnoError(f"`region` {path}: holds {len(boxes)} ROIs, expected one; save each to a file of its own")
    box: Json = boxes[0]
    for name, expected in (("roiType", ("Box", "BoundingBox")), ("coordinateUnits", ("mm",)), ("insideOut", (False,))):
        if box.get(name, expected[0]) not in expected:
            raise TonnoError(f"`region` {path}: its {name} is {box[name]!r}, expected {expected[0]!r}")
    points: list[Json] = box.get("controlPoints", [])
    centre = box.get("center", points[0].get("position") if points else None)
    try:
        middle, size = (np.array(values, dtype=np.float64).reshape(3) for values in (centre, box.get("size")))
        axes = np.array(box.get("orientation", np.eye(3)), dtype=np.float64).reshape(3, 3)  # in columns
        flip = {"LPS": [-1.0, -1.0, 1.0], "RAS": [1.0, 1.0, 1.0]}[box.get("coordinateSystem", "LPS")]
    except (ValueError, TypeError, KeyError) as error:
        raise TonnoError(
            f"`region` {path}: expected a center and size of 3 numbers, an orientation of 9, and coordinateSystem LPS "
            "or RAS; draw the box again and save it"
        ) from error
    with np.errstate(over="ignore", invalid="ignore"):  # of huge numbers, which are none of an axis of length 1
        products = axes.T @ axes
    if not np.allclose(products, np.eye(3), rtol=0.0, atol=_SLANT):
        raise TonnoError(
            f"`region` {path}: its orientation is slanted or scaled, expected axes of length 1 at right angles, as 3D "
            "Slicer writes them; draw the box again and save it"
        )
    return _region(f"`region` {path}", middle * flip, np.diag(flip) @ axes, size)


def _region(
    where: str, centre: npt.NDArray[np.float64], axes: npt.NDArray[np.float64], size: npt.NDArray[np.float64]
) -> Region:
    """Make a region and check it. centre: RAS mm. axes: the box's own, in columns. size: mm along each."""
    numbers = np.concatenate([centre, size, axes.ravel()])
    if not np.isfinite(numbers).all() or not (size > 0).all():
        raise TonnoError(f"{where}: the box has no extent, expected one of more than 0 mm along each axis")
    matrix = np.eye(4)
    matrix[:3, :3] = axes * (size / 2.0)
    matrix[:3, 3] = centre
    return Region(matrix)
