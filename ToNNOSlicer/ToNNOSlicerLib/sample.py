"""A sample that needs no download: a brain-like phantom with bright lesions, drawn by this code alone.

It is a cartoon (folded grey matter around white matter, ventricles, bright vessels, noise), made so that the
shipped model, which was trained on real anatomy, meets the scales and contrasts that it knows. It is nobody's image.
"""

from __future__ import annotations

import numpy as np

SPACING_MM = 2.0
SHAPE = (80, 98, 78)  # Z Y X: 160 x 196 x 156 mm
# Centre (RAS mm), semi-axes (mm) and brightness relative to white matter of each lesion. The heatmap is to show these.
LESIONS = (
    ((28.0, 24.0, 14.0), (9.0, 8.0, 8.5), 1.38),
    ((-34.0, -30.0, 22.0), (8.0, 7.0, 7.5), 1.35),
    ((24.0, -44.0, -8.0), (7.5, 7.5, 8.0), 1.40),
)
_HEAD_MM = (66.0, 84.0, 66.0)
_SEED = 4


def makeSample() -> tuple[np.ndarray, np.ndarray]:
    """Draw the sample: the same voxels each time, in about half a second, by numpy alone.

    Returns:
        The image (Z Y X float32, white matter about 1, background 0) and its 4 x 4 IJK-to-RAS matrix.
    """
    rng = np.random.default_rng(_SEED)
    axes = _axes()
    x, y, z = axes[2], axes[1][:, None], axes[0][:, None, None]
    radius = np.sqrt((x / _HEAD_MM[0]) ** 2 + (y / _HEAD_MM[1]) ** 2 + (z / _HEAD_MM[2]) ** 2)
    # Depth under the surface in mm (smallest semi-axis), and the folds: fluid enters where the noise is high.
    depth = (1 - radius) * min(_HEAD_MM) + 2.0 * _smoothNoise(rng, axes, 14.0)
    folds = _smoothNoise(rng, axes, 6.5)
    sulcus = np.abs(folds) * 9.0 - 2.0 + np.maximum(depth - 7.0, 0) * 0.9
    below = np.minimum(depth, sulcus)
    head = depth > 0
    tissue = np.interp(below, (-1.0, 1.0, 3.5, 6.5), (0.30, 0.72, 0.78, 1.0))
    tissue = _ventricles(tissue, x, y, z)
    tissue *= 1 + 0.025 * _smoothNoise(rng, axes, 3.0)
    tissue = _vessels(rng, axes, tissue, head)
    for centre, radii, brightness in LESIONS:
        distance = np.sqrt(sum(((p - c) / r) ** 2 for p, c, r in zip((x, y, z), centre, radii, strict=True)))
        border = 1 + 0.08 * _smoothNoise(rng, axes, 5.0)
        share = np.clip((border - distance) * min(radii) / SPACING_MM + 0.5, 0, 1)
        tissue = tissue + share * (brightness - tissue)
    image = tissue * np.exp(0.06 * _smoothNoise(rng, axes, 45.0))
    image += 0.03 * rng.standard_normal(SHAPE)
    return np.where(head, np.maximum(image, 1e-3), 0).astype(np.float32), _ijkToRAS()


def _axes() -> list[np.ndarray]:
    """Return the voxels' coordinates in mm along Z, Y and X."""
    return [(np.arange(count) - (count - 1) / 2) * SPACING_MM for count in SHAPE]


def _ijkToRAS() -> np.ndarray:
    matrix = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    matrix[:3, 3] = [-(count - 1) / 2 * SPACING_MM for count in reversed(SHAPE)]
    return matrix


def _smoothNoise(rng: np.random.Generator, axes: list[np.ndarray], scaleMm: float) -> np.ndarray:
    """Z Y X: white noise on coarse knots, blurred by a Gaussian of std `scaleMm`; mean 0, std 1."""
    kernels = []
    for axis in axes:
        knots = np.arange(axis[0] - 3 * scaleMm, axis[-1] + 3 * scaleMm, scaleMm)
        kernel = np.exp(-0.5 * ((axis[:, None] - knots) / scaleMm) ** 2)
        kernels.append(kernel / np.linalg.norm(kernel, axis=1, keepdims=True))
    noise = rng.standard_normal([kernel.shape[1] for kernel in kernels])
    for kernel in kernels:  # each turn contracts the first axis and appends the fine one: Z Y X after three
        noise = np.tensordot(noise, kernel, axes=(0, 1))
    return noise


def _ventricles(tissue: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Two curved horns of fluid beside the midline, and the fissure between the hemispheres."""
    bend = 0.006 * y**2
    distance = np.sqrt(((np.abs(x) - 9 - bend) / 6.0) ** 2 + (y / 34.0) ** 2 + ((z - 8 + 0.5 * bend) / 8.0) ** 2)
    tissue = tissue + np.clip((1 - distance) * 3 + 0.5, 0, 1) * (0.28 - tissue)
    high = z > 26 - 0.004 * y**2
    fissure = np.clip((2.2 - np.abs(x)) / SPACING_MM + 0.5, 0, 1) * high
    return tissue + fissure * (0.32 - tissue)


def _vessels(rng: np.random.Generator, axes: list[np.ndarray], tissue: np.ndarray, head: np.ndarray) -> np.ndarray:
    """Thin bright curved tubes: what is bright is not yet a lesion."""
    tissue = tissue.copy()
    inside = np.argwhere(head)
    for _ in range(10):
        start = inside[rng.integers(len(inside))]
        headings = rng.standard_normal(3) + np.cumsum(0.15 * rng.standard_normal((90, 3)), axis=0)
        steps = 0.5 * headings / np.linalg.norm(headings, axis=1, keepdims=True)
        course = (start + np.cumsum(steps, axis=0) / SPACING_MM).round().astype(int)
        course = course[np.all((course >= 0) & (course < SHAPE), axis=1)]
        k, j, i = np.unique(course, axis=0).T
        tissue[k, j, i] = np.maximum(tissue[k, j, i], 1.25)
    return tissue
