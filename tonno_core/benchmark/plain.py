"""ToNNO on one page: from a volume and a 2D classifier to a 3D heatmap, in plain PyTorch.

A classifier tells for every slice, by its logit, how strongly it shows the finding. Suppose that this logit is the mean
of an unknown density over the slice. The slices of all directions n at all offsets s then give the density's plane
integrals R f(n, s), its Radon transform. Inverting that gives the density, which is the heatmap (J. Radon, 1917):

    f(x) = -1 / (8 pi^2)  *  integral over all unit vectors n of  d^2/ds^2 R f(n, s) at s = x . n

`tonno` is this formula read from right to left: cut the slices of a direction, classify them, take the second
derivative along the direction, and spread it back over the planes. No mask is needed.

Nothing here is made fast. `tonno bench --compare` times the engine against it, and `tests/benchmark/test_plain.py`
compares it with a reference in float64 that shares no code with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Slices that the classifier gets at once.
BATCH = 128


@dataclass(frozen=True)
class Scan:
    """A volume and its place in the frame, the coordinates [-1, 1]^3 in which planes are laid.

    Attributes:
        voxels: Intensities less ``fill``: Z Y X.
        fill: Intensity of the space around the volume.
        frame_to_ijk: 4 x 4, float64: from the frame to voxel indices (i, j, k) along X, Y, Z.
    """

    voxels: torch.Tensor
    fill: float
    frame_to_ijk: torch.Tensor


@torch.no_grad()
def tonno(
    scan: Scan,
    classify: Callable[[torch.Tensor], torch.Tensor],
    normals: torch.Tensor,
    points: torch.Tensor,
    *,
    slices: int,
    pixels: int,
) -> torch.Tensor:
    """Compute the ToNNO heatmap at some points.

    Args:
        scan: What is looked at; its voxels' type and device are those of the whole computation.
        classify: The 2D classifier: slices N S S to their logits N.
        normals: Directions, L 3, float64: unit vectors spread evenly over half a sphere, or all of it.
        points: Where to compute, P 3 in the frame, of the voxels' type.
        slices: Number M of slices along each direction, the first at s = -1 and the last at s = 1.
        pixels: Number S of pixels along the side of a slice.

    Returns:
        Heatmap at the points: P, in logits per unit volume of the frame.
    """
    heatmap = torch.zeros_like(points[:, 0])
    step = 2.0 / (slices - 1)
    for normal in normals:
        images = cut_slices(scan, normal, slices, pixels)
        logits = torch.cat([classify(batch) for batch in torch.split(images, BATCH)])
        curvature = torch.diff(logits, n=2) / step**2
        heatmap += interpolate(curvature, points @ normal.to(points))
    # The mean over a slice times its area is the plane integral. Its pixels' centres run from -1 to 1, its edges lie
    # half a pixel beyond.
    area = (2.0 * pixels / (pixels - 1)) ** 2
    # The unit sphere's area, 4 pi, times the mean over the directions is the integral over them.
    return -4.0 * math.pi / (8.0 * math.pi**2) * area * heatmap / len(normals)


def cut_slices(scan: Scan, normal: torch.Tensor, slices: int, pixels: int) -> torch.Tensor:
    """Cut the slices of one direction, and one more beyond each end for the second difference.

    Args:
        scan: What is cut.
        normal: Unit vector n across the planes: 3.
        slices: M.
        pixels: S.

    Returns:
        Intensities: M + 2, S (along v), S (along u).
    """
    side = torch.linspace(-1.0, 1.0, pixels, dtype=torch.float64)
    offsets = torch.arange(-1, slices + 1, dtype=torch.float64) * (2.0 / (slices - 1)) - 1.0
    u, v, n, side, offsets = (values.to(scan.voxels) for values in (*plane_axes(normal), normal, side, offsets))
    points = offsets[:, None, None, None] * n + side[:, None, None] * v + side[:, None] * u  # T V U 3
    # `grid_sample` addresses the centres of the first and last voxel of an axis by -1 and 1.
    last = torch.tensor(scan.voxels.shape[::-1], dtype=torch.float64) - 1.0
    frame_to_grid = scan.frame_to_ijk[:3] * (2.0 / last)[:, None]
    matrix, origin = frame_to_grid[:, :3].to(points), (frame_to_grid[:, 3] - 1.0).to(points)
    grid = points @ matrix.T + origin
    return F.grid_sample(scan.voxels[None, None], grid[None], align_corners=True)[0, 0] + scan.fill


def plane_axes(normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose the axes of a plane: u = n x h (normalized) and v = n x u.

    The helper h is (1, 0, 0), or (0, 1, 0) for a normal close to that. The paper leaves this choice open.

    Args:
        normal: Unit vector n: 3.

    Returns:
        Unit vectors u and v.
    """
    helper = torch.eye(3).to(normal)[0 if abs(normal[0]) < 0.9 else 1]
    u = F.normalize(torch.linalg.cross(normal, helper), dim=0)
    return u, torch.linalg.cross(normal, u)


def interpolate(profile: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    """Interpolate a profile over [-1, 1] linearly; it is zero beyond.

    Args:
        profile: Values at M even steps from -1 to 1.
        offsets: Where to interpolate: P.

    Returns:
        Interpolated values: P.
    """
    grid = torch.stack([offsets, torch.zeros_like(offsets)], dim=-1)[None, None]
    values = F.grid_sample(profile[None, None, None], grid, align_corners=True, padding_mode="border")[0, 0, 0]
    return values * (offsets.abs() <= 1.0 + 1e-5)  # rounding must not lose points at the very ends
