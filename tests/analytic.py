"""Objects whose values, plane integrals and blurred slices are known in closed form, and grids to sample them on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from tonno_core.volume.volume import Volume

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blobs:
    """A sum of isotropic Gaussians: centres N 3, standard deviations N, heights N."""

    centres: Array
    sigmas: Array
    heights: Array

    def at(self, points: Array) -> Array:
        """Values at points ... 3."""
        total = np.zeros(points.shape[:-1])
        for centre, sigma, height in zip(self.centres, self.sigmas, self.heights, strict=True):
            total += height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * sigma**2))
        return total

    def plane_integrals(self, normals: Array, offsets: Array) -> Array:
        """L T: integrals over the planes x . n = s. A Gaussian's is 2 pi sigma^2 times its own profile."""
        total = np.zeros((len(normals), len(offsets)))
        for centre, sigma, height in zip(self.centres, self.sigmas, self.heights, strict=True):
            distance = offsets - (normals @ centre)[:, None]
            total += height * 2 * np.pi * sigma**2 * np.exp(-(distance**2) / (2 * sigma**2))
        return total

    def blurred_in_plane(self, points: Array, normal: Array, blur: float) -> Array:
        """Values at points ... 3 after a 2D Gaussian of std ``blur`` in the planes across ``normal``."""
        total = np.zeros(points.shape[:-1])
        for centre, sigma, height in zip(self.centres, self.sigmas, self.heights, strict=True):
            along = (points - centre) @ normal
            across = ((points - centre) ** 2).sum(-1) - along**2
            wide = sigma**2 + blur**2
            total += height * sigma**2 / wide * np.exp(-(along**2) / (2 * sigma**2) - across / (2 * wide))
        return total

    def on_grid(self, shape: tuple[int, int, int], ijk_to_ras: Array) -> Volume:
        """The object sampled at the voxel centres of a Z Y X grid."""
        return Volume(self.at(voxel_centres(shape, ijk_to_ras)).astype(np.float32), ijk_to_ras)


def make_blobs(
    seed: int, count: int, *, reach: float, sigmas: tuple[float, float], centre: Array | None = None
) -> Blobs:
    """Random blobs whose centres lie within ``reach`` of a centre along each axis."""
    rng = np.random.default_rng(seed)
    middle = np.zeros(3) if centre is None else centre
    return Blobs(
        middle + rng.uniform(-reach, reach, (count, 3)), rng.uniform(*sigmas, count), rng.uniform(0.5, 1.0, count)
    )


def voxel_centres(shape: tuple[int, int, int], ijk_to_ras: Array) -> Array:
    """Z Y X 3: where the voxels of a grid lie."""
    k, j, i = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return np.stack([i, j, k], axis=-1) @ ijk_to_ras[:3, :3].T + ijk_to_ras[:3, 3]


def grid_around(
    centre_ras: npt.ArrayLike,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    *,
    turn_degrees: tuple[float, float, float] = (0.0, 0.0, 0.0),
    left_handed: bool = False,
) -> Array:
    """ijk_to_ras of a grid whose middle is ``centre_ras``; spacing along i, j, k; turned, mirrored along i."""
    rotation = Rotation.from_euler("xyz", turn_degrees, degrees=True).as_matrix()
    matrix = np.eye(4)
    matrix[:3, :3] = rotation @ np.diag(spacing_mm) @ np.diag([-1.0 if left_handed else 1.0, 1.0, 1.0])
    middle = (np.array(shape[::-1]) - 1) / 2
    matrix[:3, 3] = np.asarray(centre_ras) - matrix[:3, :3] @ middle
    return matrix


def correlation(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Pearson's, over all elements."""
    return float(np.corrcoef(np.ravel(one).astype(float), np.ravel(other).astype(float))[0, 1])


def slope(of: npt.ArrayLike, on: npt.ArrayLike) -> float:
    """Of the straight line that fits ``of`` best as a function of ``on``."""
    return float(np.polyfit(np.ravel(on).astype(float), np.ravel(of).astype(float), 1)[0])
