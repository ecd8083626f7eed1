"""One of two time points: its findings, their voxels in the world, and what of the world it has seen. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from slicer.i18n import tr as _

from tonno_core.output import Json
from ToNNOSlicerLib.logic.errors import ToNNOUserError
from ToNNOSlicerLib.logic.findings import Finding, partsOf
from ToNNOSlicerLib.logic.geometry import ijkToNode, nodeToWorld
from ToNNOSlicerLib.logic.heatmap import inputOf
from ToNNOSlicerLib.logic.labelmap import SAME_PLACE_MM, onGrid
from ToNNOSlicerLib.logic.limits import FEWER, MOST_LISTED
from ToNNOSlicerLib.logic.pieces import NOTHING, Pieces
from ToNNOSlicerLib.logic.results import Result
from ToNNOSlicerLib.logic.summary import counted

# Tolerance in a box's coordinates, so that voxels on its very face belong to it.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class TimePoint:
    """The findings of a scan and where they lie.

    Attributes:
        findings: The findings.
        voxels: 3 x N, (i, j, k) of the findings' voxels, by k, then j, then i.
        owner: N, the finding of each voxel by its place in `findings`.
        size: The grid's, (i, j, k).
        ijkToRAS: 4 x 4, from the grid to the world.
        scale: By how much a transform above the scan enlarges it; 1 for a rigid transform.
        rasToBox: 4 x 4, to the coordinates of the region in which alone findings were looked for (|x|, |y|, |z| <= 1);
            None: the whole scan.
        axialRAS: 3, the normal of the planes in which diameters were measured.
    """

    findings: tuple[Finding, ...]
    voxels: np.ndarray
    owner: np.ndarray
    size: tuple[int, int, int]
    ijkToRAS: np.ndarray
    scale: float = 1.0
    rasToBox: np.ndarray | None = None
    axialRAS: np.ndarray = field(default_factory=lambda: np.array([0.0, 0.0, 1.0]))

    @cached_property
    def pointsRAS(self) -> np.ndarray:
        """Return the centers of the voxels in the world, 3 x N."""
        return self.ijkToRAS[:3, :3] @ self.voxels + self.ijkToRAS[:3, 3:]

    @cached_property
    def counts(self) -> np.ndarray:
        """Return how many voxels each finding has."""
        return np.bincount(self.owner, minlength=len(self.findings))

    @cached_property
    def rims(self) -> np.ndarray:
        """Return how many voxels of each finding have a face to the outside."""
        inner = np.ones(self.owner.size, dtype=bool)
        for step in _strides(self.size):
            inner &= _lookUp(self._keys, self._keys + step) >= 0
            inner &= _lookUp(self._keys, self._keys - step) >= 0
        return np.bincount(self.owner[~inner], minlength=len(self.findings))

    @cached_property
    def centroidsRAS(self) -> np.ndarray:
        """Return the mean of each finding's voxels in the world, 3 x findings."""
        sums = [np.bincount(self.owner, axis, minlength=len(self.findings)) for axis in self.pointsRAS]
        return np.stack(sums) / np.maximum(self.counts, 1)

    @property
    def voxelMm3(self) -> float:
        """Return the volume of a voxel of the scan itself, without the scale of a transform."""
        return float(abs(np.linalg.det(self.ijkToRAS[:3, :3]))) / self.scale**3

    @property
    def largestSpacingMm(self) -> float:
        """Return the largest spacing of the grid in the world."""
        return float(np.linalg.norm(self.ijkToRAS[:3, :3], axis=0).max())

    def ownersAt(self, pointsRAS: np.ndarray) -> np.ndarray:
        """Find which finding holds each point.

        Args:
            pointsRAS: 3 x M, in the world.

        Returns:
            M, places in `findings`; -1 where no finding's voxel holds the point.
        """
        ijk, inside = self._nearest(pointsRAS)
        at = _lookUp(self._keys, _keys(ijk, self.size))
        return np.where(inside & (at >= 0), np.append(self.owner, -1)[at], -1)

    def covers(self, pointsRAS: np.ndarray) -> np.ndarray:
        """Return whether findings were looked for at each point.

        Args:
            pointsRAS: 3 x M, in the world.

        Returns:
            Bool, M.
        """
        _ijk, inside = self._nearest(pointsRAS)
        if self.rasToBox is not None:
            box = self.rasToBox[:3, :3] @ pointsRAS + self.rasToBox[:3, 3:]
            inside &= (np.abs(box) <= 1 + _ROUNDING).all(axis=0)
        return inside

    def _nearest(self, pointsRAS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rasToIJK = np.linalg.inv(self.ijkToRAS)
        # A hair above one half, so that a point between two voxels belongs to the same one in either grid.
        ijk = np.floor(rasToIJK[:3, :3] @ pointsRAS + rasToIJK[:3, 3:] + (0.5 + _ROUNDING)).astype(np.int64)
        return ijk, ((ijk >= 0) & (ijk < np.array(self.size)[:, np.newaxis])).all(axis=0)

    @cached_property
    def _keys(self) -> np.ndarray:
        return _keys(self.voxels, self.size)


def timePoint(listed: Sequence[Finding], mask: np.ndarray, ijkToRAS: np.ndarray) -> TimePoint:
    """Collect the voxels of findings from the mask whose 26-connected components they are, each by its peak's voxel.

    Args:
        listed: The findings; other components of the mask are left out.
        mask: Z Y X.
        ijkToRAS: 4 x 4, from the mask's voxels to the frame of the findings.

    Returns:
        The time point.

    Raises:
        ToNNOUserError: If a finding is not in the mask, or the mask has more components than a person compares.
    """
    runs = partsOf(mask)
    if runs is None or runs.count > MOST_LISTED:
        raise ToNNOUserError(_("A segment has too many parts to compare them."), FEWER)
    pieces = Pieces(runs.first, runs.last, runs.component + 1, mask.shape[::-1], ijkToRAS)
    owner = np.full(runs.count, -1)
    for number, finding in enumerate(listed):
        label = pieces.labelOf(finding.peakRAS, 0.0)
        if label == NOTHING:
            raise ToNNOUserError(
                _("A finding is no longer in the segment."), _("Look at the table again: it is updated.")
            )
        owner[label - 1] = number
    owner = owner[runs.component]
    kept = owner >= 0
    voxels = np.stack(np.unravel_index(runs.voxels(kept), mask.shape)[::-1])
    return TimePoint(tuple(listed), voxels, np.repeat(owner[kept], runs.length[kept]), mask.shape[::-1], ijkToRAS)


def timePointOf(result: Result) -> TimePoint:
    """Return the time point of a result, where the scan lies in the scene now. Rejected findings are left out.

    The scan lies under the transforms above it, also if they were put there after the run and not above its results.

    Args:
        result: A result that has a segment.

    Returns:
        The time point in the world.

    Raises:
        ToNNOUserError: If the scan lies under a warping transform, which changes what is compared, or the segment has
            more components than a person compares.
    """
    heatmapNode = result.heatmapNode
    try:
        heatmapToWorld, scanToWorld = nodeToWorld(heatmapNode), nodeToWorld(scanOf(heatmapNode))
        nodeToWorld(result.segmentationNode)
    except ValueError:
        raise ToNNOUserError(
            _("{name} is under a warping transform, which changes the sizes of findings.").format(
                name=scanOf(heatmapNode).GetName()
            ),
            _("Register the two scans by a rigid transform (or an affine one) and put the volume under that."),
        ) from None
    mask = onGrid(*result.segment, heatmapNode)
    here = timePoint(counted(result.findings), mask, heatmapToWorld @ ijkToNode(heatmapNode))
    ijkToRAS = scanToWorld @ ijkToNode(heatmapNode)
    scale = float(np.cbrt(abs(np.linalg.det(scanToWorld[:3, :3]))))
    axial = np.linalg.inv(scanToWorld @ np.linalg.inv(heatmapToWorld))[2, :3]  # planes turn by the inverse, transposed
    axial /= np.linalg.norm(axial)
    return replace(here, ijkToRAS=ijkToRAS, scale=scale, rasToBox=_rasToBox(result.record, ijkToRAS), axialRAS=axial)


def scanOf(heatmapNode):
    """Return the node whose transforms say where a scan lies.

    Args:
        heatmapNode: The heatmap.

    Returns:
        The image that the heatmap explains; the heatmap itself where the image is gone or has another grid now.
    """
    scan = inputOf(heatmapNode)
    same = scan is not None and np.allclose(ijkToNode(scan), ijkToNode(heatmapNode), atol=SAME_PLACE_MM)
    return scan if same else heatmapNode


def _rasToBox(record: Json, ijkToRAS: np.ndarray) -> np.ndarray | None:
    """Return the region of a run, which the record holds as the engine's report does, moved with the scan since."""
    region = record.get("region")
    if not region:
        return None
    moved = ijkToRAS @ np.linalg.inv(np.array(record["ijkToRAS"]))
    if np.linalg.det(moved[:3, :3]) < 0:  # a file gave the voxels back in another order: where it lies is not known
        return None
    return np.linalg.inv(moved @ np.array(region["box_to_ras"]))


def _strides(size) -> np.ndarray:
    """Return what a step along i, j and k adds to a voxel's key; a border of empty voxels keeps rows apart."""
    return np.array([1, size[0] + 2, (size[0] + 2) * (size[1] + 2)])


def _keys(ijk: np.ndarray, size) -> np.ndarray:
    """Number the voxels (3 x N), rising by k, then j, then i."""
    return _strides(size) @ (ijk + 1)


def _lookUp(keys: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """Find where each sought key stands among the sorted keys; -1 where it does not."""
    if not keys.size:
        return np.full(sought.shape, -1)
    at = np.minimum(np.searchsorted(keys, sought), keys.size - 1)
    return np.where(keys[at] == sought, at, -1)
