"""Small heads with blobs of known load, on which a regressor learns within a minute."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.analytic import Array, grid_around, voxel_centres
from tonno_core.volume.io import write_volume
from tonno_core.volume.volume import Volume

SIDE_MM, VOXELS, HEAD_MM = 4.0, 32, 56.0
MOST = 5
_APART_MM = 22.0


def make_head(seed: int) -> tuple[Volume, Array, Array]:
    """A noisy ball with none to five Gaussian blobs; where these are (N 3, RAS mm), and the load of each in ml."""
    rng = np.random.default_rng(seed)
    grid = grid_around((0, 0, 0), (VOXELS,) * 3, (SIDE_MM,) * 3)
    points = voxel_centres((VOXELS,) * 3, grid)
    inside = np.linalg.norm(points, axis=-1) < HEAD_MM * rng.uniform(0.94, 1.06)
    array = 100 * inside * (1 + 0.08 * rng.standard_normal(inside.shape))
    centres: list[Array] = []
    loads = []
    count = rng.integers(MOST + 1)
    while len(centres) < count:
        centre = rng.uniform(-HEAD_MM, HEAD_MM, 3)
        if np.linalg.norm(centre) > HEAD_MM - 18 or any(np.linalg.norm(centre - c) < _APART_MM for c in centres):
            continue
        sigma, height = rng.uniform(4.0, 6.5), rng.uniform(0.5, 2.0)
        array += 100 * height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * sigma**2)) * inside
        centres.append(centre)
        loads.append(height * (2 * np.pi) ** 1.5 * sigma**3 / 1000)
    return Volume(array.astype(np.float32), grid), np.array(centres).reshape(-1, 3), np.array(loads)


def write_heads(folder: Path, *, train: int, val: int, test: int, seed: int = 0) -> Path:
    """A manifest with column ``load``, and ``test.csv`` of those of split test; head N has seed ``seed`` + N."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["train"] * train + ["val"] * val + ["test"] * test
    lines = []
    for number, split in enumerate(splits):
        volume, _, loads = make_head(seed + number)
        write_volume(volume, folder / f"{number}.nii.gz")
        lines.append(f"{number}.nii.gz,{loads.sum():.6f},{split}")
    for name, some in (("manifest", lines), ("test", lines[-test:])):
        (folder / f"{name}.csv").write_text("\n".join(["volume,load,split", *some]) + "\n")
    return folder / "manifest.csv"


def amounts_by_blob(heatmap: Volume, centres: Array, per_mm3: float) -> Array:
    """What a regressor's heatmap says of each blob: all that is within 16 mm of it and nearer to it than to another."""
    points = voxel_centres(heatmap.array.shape, heatmap.ijk_to_ras)  # type: ignore[arg-type]
    far = np.linalg.norm(points[..., None, :] - centres, axis=-1)
    where = np.where(far.min(axis=-1) <= 16.0, far.argmin(axis=-1), -1)
    sums = [heatmap.array[where == number].sum(dtype=np.float64) for number in range(len(centres))]
    return np.array(sums) * heatmap.voxel_mm3 * per_mm3
