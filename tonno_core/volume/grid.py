"""From voxel indices to the coordinates of ``torch.nn.functional.grid_sample``, and resampling between grids.

The only place that knows grid_sample's conventions: coordinates (x, y, z) address the axes (X, Y, Z) of
a ``Z Y X`` array, and with ``align_corners=True`` the centres of the first and last voxel are -1 and 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from tonno_core.volume.volume import Matrix

Array = npt.NDArray[np.float64]

# Coordinates of one slab in memory: 4 M points are 48 MB of float32.
SLAB_POINTS = 4_000_000


def ijk_to_grid(size_ijk: tuple[int, int, int]) -> Matrix:
    """Return the affine from voxel indices to grid_sample coordinates: ``2 i / (n - 1) - 1`` on each axis.

    Args:
        size_ijk: numbers of voxels along i, j, k.

    Returns:
        4 x 4, from (i, j, k, 1).

    Raises:
        ValueError: an axis of one voxel has no extent.
    """
    size = np.asarray(size_ijk, dtype=np.float64)
    if (size < 2).any():
        raise ValueError(f"a grid needs at least 2 voxels along each axis, not {size_ijk}")
    matrix = np.diag(np.append(2.0 / (size - 1.0), 1.0))
    matrix[:3, 3] = -1.0
    return matrix


def grid_to_ijk(size_ijk: tuple[int, int, int]) -> Matrix:
    """Return the inverse of `ijk_to_grid`.

    Args:
        size_ijk: numbers of voxels along i, j, k.

    Returns:
        4 x 4, from grid_sample coordinates (x, y, z, 1) to voxel indices.
    """
    return np.asarray(np.linalg.inv(ijk_to_grid(size_ijk)), dtype=np.float64)


def slabs(shape_zyx: tuple[int, int, int], points_each: int = SLAB_POINTS) -> Iterator[slice]:
    """Cut a grid into ranges of Z planes.

    Args:
        shape_zyx: Z Y X.
        points_each: about the most voxels in a range, which holds one plane at least.

    Yields:
        The ranges in order.
    """
    z, y, x = shape_zyx
    height = max(1, points_each // (y * x))
    for start in range(0, z, height):
        yield slice(start, min(start + height, z))


def voxel_coordinates(ijk_to_target: Matrix, shape_zyx: tuple[int, int, int]) -> Iterator[tuple[slice, list[Array]]]:
    """Compute the coordinates of a grid's voxels, a slab of Z planes at a time.

    In float64 those of a large scan would take gigabytes at once.

    Args:
        ijk_to_target: 4 x 4, from voxel indices to the coordinates.
        shape_zyx: Z Y X.

    Yields:
        Each slab, and three coordinates of its voxels, which broadcast to ``Z Y X``: between parallel axes each varies
        along one alone.
    """
    _, y, x = shape_zyx
    j, i = np.arange(y, dtype=np.float64)[:, None], np.arange(x, dtype=np.float64)
    for slab in slabs(shape_zyx):
        k = np.arange(slab.start, slab.stop, dtype=np.float64)[:, None, None]
        yield slab, [_coordinate(row, (k, j, i)) for row in ijk_to_target[:3]]


def _coordinate(row: Array, kji: tuple[Array, Array, Array]) -> Array:
    """Compute a coordinate of voxels, without the axes along which it does not vary."""
    terms = [step * index for step, index in zip(row[2::-1], kji, strict=True) if step]
    return np.asarray(sum(terms, start=np.zeros((1, 1, 1))) + row[3])


def affine_slab(ijk_to_target: Matrix, shape_zyx: tuple[int, int, int], slab: slice) -> Matrix:
    """Rewrite an affine of voxel indices for `affine_points` over some Z planes of a grid.

    Args:
        ijk_to_target: 4 x 4, or a stack of them.
        shape_zyx: Z Y X of the grid.
        slab: range of its Z planes.

    Returns:
        4 x 4, or a stack, from the slab's own [-1, 1]^3 (corner voxels at -1 and 1) to the target.
    """
    _, y, x = shape_zyx
    return np.asarray(ijk_to_target @ _unit_to_ijk((slab, slice(0, y), slice(0, x))), dtype=np.float64)


def _unit_to_ijk(block: tuple[slice, ...]) -> Matrix:
    """Return the affine from a block's [-1, 1]^3 to voxel indices. A single voxel along an axis is at 0 there."""
    first = np.array([part.start for part in block[::-1]], dtype=np.float64)
    last = np.array([part.stop - 1 for part in block[::-1]], dtype=np.float64)
    half = (last - first) / 2.0
    matrix = np.diag(np.append(np.where(half == 0.0, 1.0, half), 1.0))
    matrix[:3, 3] = (first + last) / 2.0
    return matrix


def affine_points(theta: torch.Tensor, shape_zyx: tuple[int, int, int]) -> torch.Tensor:
    """Evaluate B affine maps on the unit grid of an array. An axis of one sample sits at 0, in the middle of the range.

    Args:
        theta: ``B 4 4`` (or ``B 3 4``), from (x, y, z, 1) in [-1, 1]^3 to any three coordinates.
        shape_zyx: Z Y X of the array.

    Returns:
        ``B Z Y X 3``.
    """
    # The sum of three vectors: a third of the time of torch's affine_grid, which multiplies matrices.
    z, y, x = (unit_range(n, theta)[:, None] for n in shape_zyx)
    along_x, along_y, along_z, origin = theta[:, None, :3].unbind(dim=3)
    in_plane = (y * along_y)[:, :, None] + (x * along_x)[:, None]
    return (z * along_z + origin)[:, :, None, None] + in_plane[:, None]


def unit_range(count: int, like: torch.Tensor) -> torch.Tensor:
    """Space samples evenly from -1 to 1; a single one is at 0.

    Args:
        count: number of samples.
        like: a tensor of the same type on the same device.

    Returns:
        The samples, ``count`` of them.
    """
    if count == 1:
        return torch.zeros(1, dtype=like.dtype, device=like.device)
    return torch.linspace(-1.0, 1.0, count, dtype=like.dtype, device=like.device)


def resample(
    array: torch.Tensor, ijk_to_source: Matrix, shape_zyx: tuple[int, int, int], padding: str = "zeros"
) -> torch.Tensor:
    """Interpolate an image trilinearly at the voxels of another grid.

    Slab by slab, so that the coordinates of a large target never lie in memory at once.

    Args:
        array: ``C Z Y X`` of the source.
        ijk_to_source: 4 x 4, from the target's voxel indices to the source's.
        shape_zyx: Z Y X of the target.
        padding: grid_sample's mode beyond the source.

    Returns:
        ``C Z Y X`` of the target.
    """
    axes = parallel_axes(ijk_to_source)
    if axes is not None and padding == "zeros":
        matrices = linear_weights(ijk_to_source, array.shape[1:], shape_zyx, axes)
        return multiply_axes(
            array, [torch.as_tensor(each, dtype=array.dtype).to(array.device) for each in matrices], axes
        )
    _, z, y, x = array.shape
    ijk_to_unit = ijk_to_grid((x, y, z)) @ ijk_to_source
    parts = []
    for slab in slabs(shape_zyx):
        matrix = affine_slab(ijk_to_unit, shape_zyx, slab)
        theta = torch.as_tensor(matrix, dtype=array.dtype, device=array.device)[None]
        points = affine_points(theta, (slab.stop - slab.start, shape_zyx[1], shape_zyx[2]))
        parts.append(F.grid_sample(array[None], points, padding_mode=padding, align_corners=True)[0])
    return torch.cat(parts, dim=1)


def parallel_axes(ijk_to_source: Matrix) -> tuple[int, int, int] | None:
    """Find the target's axis along each axis of the source.

    Args:
        ijk_to_source: 4 x 4, from the target's voxel indices to the source's.

    Returns:
        By the source's i, j, k the number of the target's; None where the grids are oblique.
    """
    steps = np.abs(ijk_to_source[:3, :3])
    axes = steps.argmax(axis=1)
    # A rotation that moves no voxel of a thousand by more than a millionth of a step.
    oblique = np.delete(steps.ravel(), np.arange(3) * 3 + axes).max() > 1e-9 * steps.max()
    return None if oblique or len(set(axes.tolist())) < 3 else (int(axes[0]), int(axes[1]), int(axes[2]))


def linear_weights(
    ijk_to_source: Matrix, source_zyx: Sequence[int], target_zyx: Sequence[int], axes: tuple[int, int, int]
) -> list[Array]:
    """Compute what each sample of a source counts, by linear interpolation between grids with parallel axes.

    Args:
        ijk_to_source: 4 x 4, from the target's voxel indices to the source's.
        source_zyx: Z Y X of the source.
        target_zyx: Z Y X of the target.
        axes: from `parallel_axes`.

    Returns:
        By the source's i, j, k: voxels of the target's axis x samples of the source's. Zero beyond one step outside.
    """
    matrices = []
    for source, target in enumerate(axes):
        at = ijk_to_source[source, target] * np.arange(target_zyx[2 - target]) + ijk_to_source[source, 3]
        matrices.append(np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(source_zyx[2 - source]))))
    return matrices


def multiply_axes(
    array: torch.Tensor, matrices: Sequence[torch.Tensor], axes: tuple[int, int, int] = (0, 1, 2)
) -> torch.Tensor:
    """Multiply an image along each axis in turn; between parallel grids eight times as fast as at every point.

    Args:
        array: ``C Z Y X``.
        matrices: by the array's i, j, k: outputs x samples.
        axes: by the array's i, j, k the number of the result's axis.

    Returns:
        ``C Z Y X`` of the result.
    """
    values = array
    for source in (2, 1, 0):  # the last and largest product is along the rows in memory
        dimension = 3 - source
        values = (values.movedim(dimension, -1) @ matrices[source].T).movedim(-1, dimension)
    # Now the dimensions are along the array's axes, with the result's counts.
    return values.permute(0, *(3 - axes.index(2 - dimension) for dimension in range(3))).contiguous()
