"""The longest diameter of each finding in an axial plane, with its perpendicular: measured, and drawn as lines.

As in RECIST: over all axial planes of the patient (S is constant) the longest line between two points of the outline,
and in that plane the longest line across it at a right angle. The outline is the convex one: where a finding is bent,
a line may leave it. It passes half a voxel beyond the centers of the outermost voxels along the grid's axes, midway
between inside and outside, where the outline is drawn: a row of n voxels is n voxels long. Of all lines the longest is
taken, so what was cut into voxels comes out too long rather than too short, by half a voxel or so.

A grid that is oblique in the patient is cut by planes as far apart as its layers are along S. In each column of voxels
along the axis that is nearest to S, a plane shows the voxel in which it lies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from slicer.i18n import tr as _

from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.labelmap import GREEN
from ToNNOSlicerLib.logic.limits import FEWER, MOST_DRAWN
from ToNNOSlicerLib.logic.pieces import Pieces
from ToNNOSlicerLib.logic.scene import removeNode

ROLE = "ToNNO.diameter"  # the references from a heatmap to its lines
_PALE = (0.75, 1.0, 0.88)  # color of the perpendicular
# Lines that differ by less are equally long. Then the line nearest to the finding's center counts.
_SAME_MM = 1e-6


@dataclass(frozen=True)
class _Axes:
    """The place of a grid in the patient.

    Attributes:
        ijkToRAS: 4 x 4, RAS mm.
        across: The two grid axes that are nearest to an axial plane.
        along: The third, nearest to S.
        slopes: 2, by how many steps along that axis S rises with a step along each of the other two.
        steps: 2 x 2, R and A of a step along each of the two within an axial plane, mm.
    """

    ijkToRAS: np.ndarray
    across: tuple[int, int]
    along: int
    slopes: np.ndarray
    steps: np.ndarray

    def rise(self, ijk: np.ndarray) -> np.ndarray:
        """Return how much higher voxels (3 x N) lie than those of the same layer of the grid at its origin."""
        return self.slopes @ ijk[list(self.across)]

    def lines(self, layer: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Return the ends (N x 2 x 3, RAS mm) of lines (N x 2 x 2, mm from the layer's origin) in axial layers (N)."""
        origins = self.ijkToRAS[:3, 3] + layer[:, np.newaxis] * self.ijkToRAS[:3, self.along]
        ends = np.repeat(origins[:, np.newaxis], 2, axis=1)
        ends[:, :, :2] += xy
        return ends


@dataclass(frozen=True)
class _Outlines:
    """Convex outlines of each piece's cut by each axial layer: corner by corner, one outline after the other.

    Attributes:
        piece: N, each corner's piece.
        layer: N, its axial layer.
        xy: N x 2, its place in the layer, mm.
        start: N, the number of the first corner of its outline.
        size: N, how many corners that outline has.
    """

    piece: np.ndarray
    layer: np.ndarray
    xy: np.ndarray
    start: np.ndarray
    size: np.ndarray

    def others(self, step: int) -> np.ndarray:
        """Return for each corner the number of the corner that is `step` corners farther around its outline."""
        return self.start + (np.arange(self.start.size) - self.start + step) % self.size

    def of(self, corners: np.ndarray) -> _Outlines:
        """Return the outlines to which some corners (one of each outline) belong, in the same order."""
        size = self.size[corners]
        start = np.cumsum(size) - size
        every = np.arange(size.sum()) + np.repeat(self.start[corners] - start, size)
        return _Outlines(
            self.piece[every], self.layer[every], self.xy[every], np.repeat(start, size), np.repeat(size, size)
        )


def measure(pieces: Pieces, ijkToRAS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Measure the longest axial diameters of the pieces 1 ... n of a mask, and the longest perpendiculars to them.

    Args:
        pieces: The pieces of the mask.
        ijkToRAS: 4 x 4, from the pieces' voxels to the patient.

    Returns:
        The two ends (n x 2 x 3, RAS mm) of each piece's longest diameter, and of its perpendicular.
    """
    if not pieces.label.size:
        return np.zeros((0, 2, 3)), np.zeros((0, 2, 3))
    axes = _axesOf(ijkToRAS)
    piece, ijk = _ends(pieces, axes)
    across, layer = ijk[list(axes.across)], ijk[axes.along] + np.rint(axes.rise(ijk)).astype(np.intp)
    outlines = _outlinesOf(piece, layer, across, axes.steps)
    corner, other = _longest(outlines, np.bincount(piece, layer) / np.bincount(piece))
    longest = np.stack((outlines.xy[corner], outlines.xy[other]), axis=1)
    perpendicular = _perpendicular(outlines.of(corner), longest)
    layers = outlines.layer[corner]
    return axes.lines(layers, longest), axes.lines(layers, perpendicular)


def _axesOf(ijkToRAS: np.ndarray) -> _Axes:
    linear = ijkToRAS[:3, :3]
    along = int(np.argmax(np.abs(linear[2]) / np.linalg.norm(linear, axis=0)))
    across = tuple(axis for axis in range(3) if axis != along)
    slopes = linear[2, list(across)] / linear[2, along]
    steps = linear[:2, list(across)] - np.outer(linear[:2, along], slopes)
    return _Axes(ijkToRAS, across, along, slopes, steps.T)


def _ends(pieces: Pieces, axes: _Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return voxels (3 x N) among which are the ends of all rows of each layer, and their pieces 0 ... n-1 (N).

    A run of voxels along i lies in one layer, but where the grid is oblique in several, one after the other.
    """
    start, length = pieces.start, pieces.last - pieces.first
    runs = np.arange(length.size)
    if axes.along == 0:  # each voxel of a run lies in a layer of its own
        run = np.repeat(runs, length + 1)
        offset = np.arange(run.size) - np.repeat(np.cumsum(length + 1) - length - 1, length + 1)
    else:
        change, before = _changes(axes.rise(start), axes.slopes[0], length)
        run = np.concatenate((runs, runs, change, change))
        offset = np.concatenate((0 * length, length, before, before + 1))
    ijk = start[:, run]
    ijk[0] += offset
    return pieces.label[run] - 1, ijk


def _changes(low: np.ndarray, slope: float, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find where runs go from one layer to the next: which run, and how many steps along it the last voxel before lies.

    low: how high each run starts, in layers. slope: what it rises by with each step. length: its steps.
    """
    rises = np.rint(low + slope * length) - np.rint(low)
    change = np.repeat(np.arange(low.size), np.abs(rises).astype(np.intp))
    number = np.arange(change.size) - np.searchsorted(change, change)
    layer = np.rint(low[change]) + np.sign(slope) * number
    before = np.floor((layer + np.sign(slope) / 2 - low[change]) / (slope or 1.0))
    # What lies on the edge itself is rounded one way or the other.
    before += np.rint(low[change] + slope * (before + 1)) == layer
    before -= np.rint(low[change] + slope * before) != layer
    return change, before.astype(np.intp)


def _outlinesOf(piece: np.ndarray, layer: np.ndarray, ab: np.ndarray, steps: np.ndarray) -> _Outlines:
    """Draw outlines around voxels; ab: 2 x N, their places on an axial layer's own grid, whose axes are `steps`."""
    lowest, layers = layer.min(), int(np.ptp(layer)) + 1
    cut, b, (left, right) = _lowest(piece * layers + layer - lowest, ab[1], np.stack((ab[0], -ab[0])))
    leftCut, leftRow, left = _side(cut, b, left)
    rightCut, rightRow, right = _side(cut, b, right)
    # Around each outline: up along its left side, down along its right one.
    cut, row = np.concatenate((leftCut, rightCut)), np.concatenate((leftRow, rightRow))
    order = np.lexsort((np.concatenate((leftRow, 2 * row.max() + 1 - rightRow)), cut))
    xy = np.stack((np.concatenate((left, -right)), row), axis=1)[order] / 2 @ steps
    cut = cut[order]
    start = np.searchsorted(cut, cut)
    size = np.searchsorted(cut, cut, side="right") - start
    return _Outlines(cut // layers, cut % layers + lowest, xy, start, size)


def _side(cut: np.ndarray, b: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a side of the outlines around rows of voxels: the cut, the row and the place of each corner, in half voxels.

    a: the outermost voxel of each row b. Half a voxel beyond it the row ends, and half a voxel above and below it, too.
    """
    rows, places = np.concatenate((2 * b, 2 * b - 1, 2 * b + 1)), np.concatenate((2 * a - 1, 2 * a, 2 * a))
    cut, row, (place,) = _lowest(np.tile(cut, 3), rows, places[np.newaxis])
    kept = _corners(cut, row, place)
    return cut[kept], row[kept], place[kept]


def _lowest(first: np.ndarray, second: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the different pairs of two keys (N each), sorted, and the lowest of each pair's values (V x N)."""
    low, span = second.min(), int(np.ptp(second)) + 1
    both = first * span + second - low
    order = np.argsort(both, kind="stable")
    both = both[order]
    starts = np.flatnonzero(np.diff(both, prepend=both[0] - 1))
    pairs = both[starts]
    return pairs // span, pairs % span + low, np.minimum.reduceat(values[:, order], starts, axis=1)


def _corners(cut: np.ndarray, b: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Find which points of each cut's left side (b rises; a: how far to the right) are corners of its convex outline.

    A point on or to the right of the line between its two neighbors is none, whichever of the others are still there.
    """
    kept = np.arange(cut.size)
    while True:
        low, point, high = kept[:-2], kept[1:-1], kept[2:]
        bulge = (b[point] - b[low]) * (a[high] - a[low]) - (a[point] - a[low]) * (b[high] - b[low])
        flat = (cut[low] == cut[high]) & (bulge <= 0)
        if not flat.any():
            return kept
        kept = np.delete(kept, 1 + np.flatnonzero(flat))


def _longest(outlines: _Outlines, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find each piece's two corners that are farthest apart; of equal lines the one nearest to its middle layer."""
    length, partner = np.zeros(outlines.start.size), np.arange(outlines.start.size)
    for step in range(1, int(outlines.size.max()) // 2 + 1):
        other = outlines.others(step)
        apart = np.linalg.norm(outlines.xy - outlines.xy[other], axis=1)
        longer = apart > length
        length[longer], partner[longer] = apart[longer], other[longer]
    best = _best(outlines.piece, length, np.abs(outlines.layer - middle[outlines.piece]))
    return best, partner[best]


def _perpendicular(outlines: _Outlines, longest: np.ndarray) -> np.ndarray:
    """Find the longest line (n x 2 x 2, mm) at a right angle to each outline's longest line (n x 2 x 2).

    Its length changes linearly between corners, so that the longest passes through one.
    """
    first, step = longest[:, 0], longest[:, 1] - longest[:, 0]
    along = step / np.linalg.norm(step, axis=1, keepdims=True)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1)
    from_first = outlines.xy - first[outlines.piece]
    u, v = (np.einsum("na,na->n", from_first, axis[outlines.piece]) for axis in (along, across))
    low, high = v.copy(), v.copy()
    tiny = 1e-9 * np.ptp(u)
    for n in range(int(outlines.size.max())):
        start, end = outlines.others(n), outlines.others(n + 1)
        run = u[end] - u[start]
        crosses = (n < outlines.size) & (np.abs(run) > tiny)
        share = (u - u[start]) / np.where(crosses, run, 1.0)
        crosses &= (share > -1e-9) & (share < 1 + 1e-9)
        there = v[start] + np.clip(share, 0, 1) * (v[end] - v[start])
        np.minimum(low, there, out=low, where=crosses)
        np.maximum(high, there, out=high, where=crosses)
    half = np.linalg.norm(step, axis=1) / 2
    best = _best(outlines.piece, high - low, np.abs(u - half[outlines.piece]))
    base = first + u[best, np.newaxis] * along
    return np.stack([base + end[best, np.newaxis] * across for end in (low, high)], axis=1)


def _best(piece: np.ndarray, length: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Return the index of each piece's greatest length; of equal lengths that with the least distance."""
    order = np.lexsort((distance, -np.round(length / _SAME_MM), piece))
    new = np.ones(piece.size, dtype=bool)
    new[1:] = np.diff(piece[order]) != 0
    return order[new]


def draw(scene, heatmapNode, findings: Iterable) -> list:
    """Draw the two diameters of each finding as markups lines, in place of those that the heatmap has.

    The lines are locked, lie under the heatmap's transform and are saved with the scene; `remove` takes them away, and
    whoever removes the heatmap calls it.

    Args:
        scene: The vtkMRMLScene.
        heatmapNode: The heatmap.
        findings: The findings to draw.

    Returns:
        The vtkMRMLMarkupsLineNodes, two for each finding: the longest diameter, its perpendicular.

    Raises:
        ToNNOUserError: If the findings are more than MOST_DRAWN.
    """
    findings = list(findings)
    remove(scene, heatmapNode)
    if len(findings) > MOST_DRAWN:
        raise ToNNOUserError(
            _("The diameters of {number} findings would cover the image.").format(number=len(findings)),
            FEWER,
        )
    lines = []
    for finding in findings:
        for ends, kind, color in (
            (finding.longestRAS, "longest", GREEN),
            (finding.perpendicularRAS, "perpendicular", _PALE),
        ):
            lines.append(_line(scene, heatmapNode, f"Finding {finding.label} {kind}", ends, color))
    return lines


def remove(scene, heatmapNode) -> None:
    """Remove the lines that were drawn for a heatmap.

    Args:
        scene: The vtkMRMLScene.
        heatmapNode: The heatmap; it need not have any.
    """
    lines = _linesOf(heatmapNode)
    heatmapNode.RemoveNodeReferenceIDs(ROLE)
    for line in lines:
        if scene.IsNodePresent(line):
            removeNode(line)  # the views draw the line for as long as its display node is in the scene


def showOnly(heatmapNodes: Iterable, heatmapNode) -> None:
    """Show the lines of a heatmap and hide those of the others.

    Args:
        heatmapNodes: All heatmaps.
        heatmapNode: The heatmap whose lines are shown; None: none.
    """
    for node in heatmapNodes:
        for line in _linesOf(node):
            if line.GetDisplayNode() is not None:
                line.GetDisplayNode().SetVisibility(node is heatmapNode)


def isDrawn(heatmapNode) -> bool:
    """Return whether a heatmap has lines in the scene.

    Args:
        heatmapNode: The heatmap.

    Returns:
        Whether it has any.
    """
    return bool(_linesOf(heatmapNode))


def _linesOf(heatmapNode) -> list:
    nodes = (heatmapNode.GetNthNodeReference(ROLE, n) for n in range(heatmapNode.GetNumberOfNodeReferences(ROLE)))
    return [node for node in nodes if node is not None]


def _line(scene, heatmapNode, name: str, ends, color):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetAndObserveTransformNodeID(heatmapNode.GetTransformNodeID())
    for point in ends:
        node.AddControlPointWorld(*point)
    node.SetLocked(True)
    display = node.GetDisplayNode()
    display.SetColor(*color)
    display.SetSelectedColor(*color)
    display.SetGlyphScale(1.0)
    display.SetLineThickness(1.0)  # of the ends' size: a thinner line is lost on the heatmap
    display.SetPointLabelsVisibility(False)
    display.SetPropertiesLabelVisibility(False)  # the table has the lengths, and a label would cover the finding
    heatmapNode.AddNodeReferenceID(ROLE, node.GetID())
    return node
