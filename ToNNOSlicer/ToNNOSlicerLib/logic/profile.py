"""The classifier's answers to the planes along a direction: why something is shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer.util

from ToNNOSlicerLib.logic.geometry import ijkToWorld
from ToNNOSlicerLib.logic.heatmap import Record, recordOf

# Among this many profiles of a region of interest at least two differ in length; three of a cube may be alike.
_MANY = 8


@dataclass(frozen=True)
class Profile:
    """The classifier's answers to parallel planes.

    Attributes:
        normalRAS: Unit normal of the planes, 3.
        positionsMm: Signed distances of the planes from the world's origin along it, N, rising.
        logits: The answers, N.
        angleDeg: Angle between this normal and the one that was asked for, 0 to 90.
        currentMm: Where the plane that was asked for lies, or None.
    """

    normalRAS: np.ndarray
    positionsMm: np.ndarray
    logits: np.ndarray
    angleDeg: float
    currentMm: float | None = None


def profileAlong(heatmapNode, normalRAS, pointRAS=None) -> Profile | None:
    """Return the profile that was kept nearest to a normal, turned to point the same way.

    The profile follows the heatmap where that was moved by a transform since.

    Args:
        heatmapNode: The heatmap.
        normalRAS: 3 numbers, any length.
        pointRAS: A point of the current plane, or None.

    Returns:
        The profile; None where none was kept.
    """
    direction = np.asarray(normalRAS, dtype=np.float64) / np.linalg.norm(normalRAS)
    kept = _profilesOf(heatmapNode, recordOf(heatmapNode))
    if not kept:
        return None
    normal, positions, logits = max(kept, key=lambda profile: abs(profile[0] @ direction))
    if normal @ direction < 0:
        normal, positions = -normal, -positions
    order = np.argsort(positions, kind="stable")
    angle = float(np.degrees(np.arccos(np.clip(normal @ direction, -1, 1))))
    current = None if pointRAS is None else float(normal @ np.asarray(pointRAS, dtype=np.float64))
    return Profile(normal, positions[order], logits[order], angle, current)


def profileFor(heatmapNode, sliceNode) -> Profile | None:
    """Return the profile along the normal of a slice view, with the view's plane as the current position.

    Args:
        heatmapNode: The heatmap.
        sliceNode: The view's vtkMRMLSliceNode.

    Returns:
        The profile; None where none was kept.
    """
    sliceToRAS = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    return profileAlong(heatmapNode, sliceToRAS[:3, 2], sliceToRAS[:3, 3])


def ballCenter(heatmapNode) -> np.ndarray | None:
    """Return the center of the ball that the planes cover.

    All profiles of a whole run go from one side of the ball to the other, so that the planes midway meet in its center.
    Those of a region of interest cover the region alone: they are of different lengths.

    Args:
        heatmapNode: The heatmap.

    Returns:
        RAS mm in the world, 3; None where it is not known.
    """
    record = recordOf(heatmapNode)
    kept = _profilesOf(heatmapNode, record)
    if len(kept) < _MANY or record.get("zoom") or len({positions.size for _normal, positions, _logits in kept}) > 1:
        return None
    normals = np.array([normal for normal, _positions, _logits in kept])
    middles = [(positions.min() + positions.max()) / 2 for _normal, positions, _logits in kept]
    center, _residuals, rank, _singular = np.linalg.lstsq(normals, middles, rcond=None)
    return center if rank == 3 else None


def _profilesOf(heatmapNode, record: Record) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return normal, positions and logits of the profiles that were kept, where the heatmap is now."""
    if not record.get("profiles"):
        return []
    motion = _motion(heatmapNode, np.array(record["ijkToRAS"]))
    return [_moved(profile, motion) for profile in record["profiles"]]


def _motion(heatmapNode, ijkToRAS: np.ndarray) -> np.ndarray:
    """Return what a transform has done to the heatmap since the run: from the world then to the world now."""
    motion = ijkToWorld(heatmapNode) @ np.linalg.inv(ijkToRAS)
    if np.linalg.det(motion) > 0:
        return motion
    # No transform mirrors a patient: Slicer's reader has reversed k, as it does with left-handed grids.
    reversedK = np.diag([1.0, 1.0, -1.0, 1.0])
    reversedK[2, 3] = heatmapNode.GetImageData().GetDimensions()[2] - 1
    return ijkToWorld(heatmapNode) @ reversedK @ np.linalg.inv(ijkToRAS)


def _moved(profile: Record, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move a profile's planes n . x = d by x -> matrix x; returns normal, positions and logits."""
    inverse = np.linalg.inv(matrix)
    normal = inverse[:3, :3].T @ np.asarray(profile["normal_ras"], dtype=np.float64)
    positions = np.asarray(profile["positions_mm"], dtype=np.float64) - inverse[:3, 3] @ profile["normal_ras"]
    length = np.linalg.norm(normal)
    return normal / length, positions / length, np.asarray(profile["logits"], dtype=np.float64)
