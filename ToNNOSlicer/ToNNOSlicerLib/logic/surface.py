"""Smoothing of surfaces: Slicer's default makes findings of a few voxels vanish from 3D views and STL files.

Smoothing shrinks thin things. The thickness of a finding is 6 x voxels / faces that look outward: n for a cube of n^3
voxels. docs/interchange.md has what each setting keeps of which shape.
"""

from __future__ import annotations

import math

import numpy as np

from tonno_core.segmentation.connected import outer_faces, runs_of

SMOOTHING = "Smoothing factor"  # Slicer's name of the conversion's parameter
SLICERS_DEFAULT = 0.5
# Least thickness, and the strongest smoothing that leaves whatever is as thick 95 % of what no smoothing leaves it, or
# 90 % of its voxels' volume: of 374 shapes, from a voxel to a ball of 2,109.
_LADDER = ((6.5, SLICERS_DEFAULT), (5.0, 0.4), (3.8, 0.3), (2.4, 0.2), (2.0, 0.1), (0.0, 0.0))


def smoothingFor(thickness: float) -> float:
    """Choose Slicer's smoothing factor.

    Args:
        thickness: Of the thinnest finding, in voxels.

    Returns:
        The factor, 0 (none) to SLICERS_DEFAULT.
    """
    return next(factor for least, factor in _LADDER if thickness >= least)


def thinnest(mask: np.ndarray) -> float:
    """Measure the thickness of a mask's thinnest component (26 neighbors).

    Args:
        mask: Bool or 0 and 1, Z Y X.

    Returns:
        The thickness in voxels; infinite for an empty mask.
    """
    runs = runs_of(np.asarray(mask, dtype=np.bool_))
    return float((6 * runs.sizes / outer_faces(runs)).min()) if runs.count else math.inf


def volumeMm3(surface) -> float:
    """Measure the volume inside a closed surface, by the divergence theorem.

    Args:
        surface: vtkPolyData, in mm.

    Returns:
        mm3; negative where the faces look inward.
    """
    from vtk import vtkTriangleFilter
    from vtk.util.numpy_support import vtk_to_numpy

    triangles = vtkTriangleFilter()
    triangles.SetInputData(surface)
    triangles.Update()
    surface = triangles.GetOutput()
    if not surface.GetNumberOfPolys():
        return 0.0
    points = vtk_to_numpy(surface.GetPoints().GetData()).astype(np.float64)
    points -= points.mean(axis=0)  # far from the origin, the differences of large numbers would be left
    a, b, c = (points[corner] for corner in vtk_to_numpy(surface.GetPolys().GetConnectivityArray()).reshape(-1, 3).T)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
