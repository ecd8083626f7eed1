"""How smooth a surface may be: Slicer's default makes findings of a few voxels vanish from 3D views and STL files.

Smoothing shrinks thin things. How thin a finding is: 6 x voxels / faces that look outward; n for a cube of n voxels.
docs/interchange.md has what each setting keeps of which shape.
"""

from __future__ import annotations

import math

import numpy as np

SMOOTHING = "Smoothing factor"  # Slicer's name of the conversion's parameter
SLICERS_DEFAULT = 0.5
# Least thickness, and the strongest smoothing that costs whatever is as thick at most a twentieth of its volume more
# than no smoothing does, or leaves it 90 % (122 shapes were tried, from a voxel to a ball of 2,109).
_LADDER = ((6.5, SLICERS_DEFAULT), (5.0, 0.4), (3.8, 0.3), (2.1, 0.2), (0.0, 0.0))


def smoothingFor(thickness: float) -> float:
    """Slicer's smoothing factor for findings that are no thinner than this, in voxels."""
    return next(factor for least, factor in _LADDER if thickness >= least)


def thinnest(mask: np.ndarray) -> float:
    """The thickness, in voxels, of the thinnest component (26 neighbors) of a mask (Z Y X); infinite for an empty one.

    It takes about as long as the table of findings.
    """
    from tonno_core.segmentation.binarize import connected

    mask = mask.astype(bool)
    voxels, component, count = connected(mask)
    if not count:
        return math.inf
    faces = np.bincount(component, weights=_outwardFaces(mask).reshape(-1)[voxels], minlength=count)
    return float((6 * np.bincount(component, minlength=count) / faces).min())


def volumeMm3(surface) -> float:
    """What a closed surface (vtkPolyData, mm) encloses, by the divergence theorem; negative where its faces look in."""
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


def _outwardFaces(mask: np.ndarray) -> np.ndarray:
    """For each voxel (bool Z Y X), how many of its six neighbors are outside of the mask."""
    padded = np.pad(mask, 1)
    faces = np.zeros(mask.shape, dtype=np.uint8)
    for axis in range(3):
        for shift in (slice(None, -2), slice(2, None)):
            neighbor = [slice(1, -1)] * 3
            neighbor[axis] = shift
            faces += ~padded[tuple(neighbor)]
    return faces
